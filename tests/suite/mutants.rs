//! Tests that the torture run's deliberate faults are in no normally built hub.

/// Same name as in `src/mutants.rs`.
pub const VARIABLE: &str = "TORTURE_MUTANT";

#[test]
fn a_default_build_knows_no_mutants() {
    let source = include_str!("../../src/mutants.rs");
    assert!(source.contains(&format!("\"{VARIABLE}\"")), "the variable was renamed");
    let program = std::fs::read(env!("CARGO_BIN_EXE_recado")).unwrap();
    let is_there = program.windows(VARIABLE.len()).any(|bytes| bytes == VARIABLE.as_bytes());
    assert_eq!(is_there, cfg!(feature = "mutants"), "{VARIABLE} in the program");
}
