//! One of the targets of `recado_fuzz`, the one that FUZZ_TARGET names, for libFuzzer.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();

fn named() -> fn(&[u8]) {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    match recado_fuzz::TARGETS.iter().find(|(known, _)| *known == name) {
        Some((_, target)) => *target,
        None => {
            let all: Vec<&str> = recado_fuzz::TARGETS.iter().map(|(known, _)| *known).collect();
            eprintln!("FUZZ_TARGET is {name:?}; it must be one of {}", all.join(" "));
            std::process::exit(2);
        }
    }
}

fuzz_target!(
    init: {
        TARGET.get_or_init(named);
    },
    |input: &[u8]| (TARGET.get_or_init(named))(input)
);
