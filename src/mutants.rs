//! Faults put in on purpose, one a hub, to test that the torture run catches them. Only with the feature `mutants`.

use std::sync::OnceLock;

/// Names the fault. A hub that was built without the feature does not know the variable.
pub const VARIABLE: &str = "TORTURE_MUTANT";

/// Whether this hub is to have the fault.
pub fn is(name: &str) -> bool {
    static CHOSEN: OnceLock<Option<String>> = OnceLock::new();
    #[expect(clippy::disallowed_methods, reason = "no setting: it must not exist in a hub that serves anybody")]
    let chosen = CHOSEN.get_or_init(|| std::env::var(VARIABLE).ok());
    chosen.as_deref() == Some(name)
}
