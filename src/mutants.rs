//! Injects one fault into a hub, to test that the torture run catches it.
//!
//! Only compiled with the feature `mutants`.

use std::sync::OnceLock;

/// The variable that names the fault. A hub that was built without the feature does not know it.
pub const VARIABLE: &str = "TORTURE_MUTANT";

/// Whether this hub has the fault.
pub fn is(name: &str) -> bool {
    static CHOSEN: OnceLock<Option<String>> = OnceLock::new();
    #[expect(clippy::disallowed_methods, reason = "a test switch, not a setting: it must not exist in a released hub")]
    let chosen = CHOSEN.get_or_init(|| std::env::var(VARIABLE).ok());
    chosen.as_deref() == Some(name)
}
