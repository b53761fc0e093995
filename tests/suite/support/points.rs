//! Holds a hub at a step of its work, so that a test can act.

use std::fs;

use recado::failpoints;

use super::{HubBuilder, PATIENCE, eventually};

/// Steps that are set for the hubs that were started with this.
pub struct Points(tempfile::TempDir);

impl Points {
    pub fn new() -> Self {
        Self(tempfile::Builder::new().prefix("recado-points").tempdir().unwrap())
    }

    /// A hub that can be held.
    pub fn of(&self, hub: HubBuilder) -> HubBuilder {
        hub.with(failpoints::VARIABLE, self.0.path().to_str().unwrap())
    }

    /// Holds the first task that comes to this step from now on.
    pub fn hold(&self, step: &str) {
        self.set(step, "hold");
    }

    /// Makes the first task that comes to this step from now on panic.
    pub fn panic_at(&self, step: &str) {
        self.set(step, "panic");
    }

    fn set(&self, step: &str, what: &str) {
        // Renamed in one step: the hub must not find it half written.
        let draft = self.0.path().join("draft");
        fs::write(&draft, what).unwrap();
        fs::rename(draft, self.0.path().join(step)).unwrap();
    }

    /// Lets the task that is held there go on.
    pub fn release(&self, step: &str) {
        fs::remove_file(self.0.path().join(format!("{step}.reached"))).unwrap();
    }

    /// Waits until a task is held there.
    pub async fn reached(&self, step: &str) {
        let file = self.0.path().join(format!("{step}.reached"));
        eventually(step, PATIENCE, async || file.exists().then_some(())).await;
    }
}
