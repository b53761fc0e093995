//! Holds a hub at a step of its work, to do something to it just there.

use std::fs;

use recado::points;

use super::{HubBuilder, PATIENCE, eventually};

/// Steps that are set for the hubs that were started with this.
pub struct Points(tempfile::TempDir);

impl Points {
    pub fn new() -> Self {
        Self(tempfile::Builder::new().prefix("recado-points").tempdir().unwrap())
    }

    /// A hub that can be held.
    pub fn of(&self, hub: HubBuilder) -> HubBuilder {
        hub.with(points::VARIABLE, self.0.path().to_str().unwrap())
    }

    /// The first that comes to this step from now on is held there.
    pub fn hold(&self, step: &str) {
        self.set(step, "hold");
    }

    /// The first that comes to this step from now on panics.
    pub fn panic_at(&self, step: &str) {
        self.set(step, "panic");
    }

    fn set(&self, step: &str, what: &str) {
        // In one step: the hub must not find it half written.
        let draft = self.0.path().join("draft");
        fs::write(&draft, what).unwrap();
        fs::rename(draft, self.0.path().join(step)).unwrap();
    }

    /// Until somebody is there.
    pub async fn reached(&self, step: &str) {
        let file = self.0.path().join(format!("{step}.reached"));
        eventually(step, PATIENCE, async || file.exists().then_some(())).await;
    }
}
