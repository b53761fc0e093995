//! Holds a hub at named steps, or makes it panic there, for tests.
//!
//! Only compiled with the feature `failpoints`, which the tests' build has and no other. The usual crate for this,
//! `fail`, blocks the thread that reaches the step; but a thread of the runtime also runs other tasks. So the step
//! waits asynchronously, and the rest of the hub continues.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

/// The variable that names a folder. A hub that was built without the feature does not know it.
pub const VARIABLE: &str = "TEST_POINTS_FOLDER";

/// Interval between two checks whether a held task may continue.
const LOOK: Duration = Duration::from_millis(10);

/// A named step of the hub's work. A test arms it with a file of its name in the folder. The first task that reaches
/// the step renames the file, which tells the test; then it waits until the renamed file is gone, or panics if the file
/// says so.
pub async fn at(step: &str) {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    #[expect(clippy::disallowed_methods, reason = "a test switch, not a setting: it must not exist in a released hub")]
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
