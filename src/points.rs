//! Steps at which a test can hold a hub, to kill it there, or make it panic. Only with the feature `points`, which the
//! tests' build has and no other.
//!
//! The usual crate for this, `fail`, blocks the thread that comes to the step; here a thread has other tasks than the one
//! that is to be held. So the step waits as a task does, and the rest of the hub goes on.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

/// Names a folder. A hub that was built without the feature does not know the variable.
pub const VARIABLE: &str = "TEST_POINTS_FOLDER";

/// Between two looks whether a held task may go on.
const LOOK: Duration = Duration::from_millis(10);

/// A step of the hub's work. A test sets it by a file of its name in the folder. Whoever comes there first takes the
/// file, by giving it another name, so that the test knows; and is held until that is gone, or panics if the file says so.
pub async fn at(step: &str) {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    #[expect(clippy::disallowed_methods, reason = "no setting: it must not exist in a hub that serves anybody")]
    let folder = FOLDER.get_or_init(|| std::env::var_os(VARIABLE).map(PathBuf::from));
    let Some(folder) = folder else { return };
    let reached = folder.join(format!("{step}.reached"));
    if std::fs::rename(folder.join(step), &reached).is_err() {
        return;
    }
    let told = std::fs::read_to_string(&reached).unwrap_or_default();
    assert!(told != "panic", "told to panic at {step}");
    while reached.exists() {
        tokio::time::sleep(LOOK).await;
    }
}
