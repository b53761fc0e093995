//! What strangers feed to the hub, one target a parser: each says more than "it does not panic".
//!
//! A target takes any bytes and asserts. What is taken says back what it said, keeps every limit, and is passed on byte for
//! byte where that is promised; what is refused has a code that is known and an answer that is JSON and not long. Two
//! things run them: `tools/fuzz` with libFuzzer, which looks for new inputs, and the test below with the inputs that are
//! kept in `fuzz/corpus/TARGET/`. Only in tests and with the feature `fuzz`.

mod asked;
mod credentials;
mod posted;
mod provider;
mod said;
mod settings;

use serde_json::Value;

use crate::wire::problem::Problem;

/// A parser under test, and what it is called in `fuzz/corpus/`.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: [Target; 18] = [
    ("notify", posted::notify),
    ("batch", posted::batch),
    ("ndjson", posted::ndjson),
    ("cloud_event", posted::cloud_event),
    ("cloud_event_headers", posted::cloud_event_headers),
    ("client_frame", said::client_frame),
    ("stream_query", asked::stream_query),
    ("history_query", asked::history_query),
    ("ack_body", asked::ack_body),
    ("token", credentials::token),
    ("ticket", credentials::ticket),
    ("request_headers", credentials::request_headers),
    ("provider_file", provider::file),
    ("provider_url", provider::url),
    ("provider_message", provider::message),
    ("sign_in_answer", provider::sign_in_answer),
    ("settings", settings::settings),
    ("setting_values", settings::values),
];

/// Most broken rules that one answer lists.
const ERRORS_MAX: usize = 100;
/// Longest answer to a refused request, in bytes: no multiple of what was sent.
const ANSWER_MAX: usize = 64 << 10;

/// A refusal says one of these codes, in an answer that programs can read.
fn refused(problem: &Problem, codes: &[(u16, &str)]) {
    assert!(codes.contains(&(problem.status, problem.code)), "{problem:?}");
    assert!(!problem.detail.is_empty(), "{problem:?}");
    assert!(problem.errors.len() <= ERRORS_MAX, "{} broken rules are listed", problem.errors.len());
    for error in &problem.errors {
        assert!(error.pointer.is_empty() || error.pointer.starts_with('/'), "{error:?}");
        assert!(!error.detail.is_empty(), "{error:?}");
    }
    let body = problem.body("r");
    assert!(body.len() <= ANSWER_MAX, "an answer of {} bytes", body.len());
    let read: Value = serde_json::from_str(&body).expect("an answer is JSON");
    assert_eq!(read["code"], problem.code);
    let line: Value = serde_json::from_str(&problem.of_line(1, "r")).expect("a line of an answer is JSON");
    assert_eq!(line["error"]["code"], problem.code);
}

/// The first line, and what comes after it.
fn head(text: &str) -> (&str, &str) {
    text.split_once('\n').unwrap_or((text, ""))
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    /// Longest input that is kept: what a person can read.
    const KEPT_MAX: u64 = 8 << 10;

    fn inside(folder: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    }

    #[test]
    fn what_is_kept_of_earlier_runs_holds() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        for (name, target) in TARGETS {
            let kept = inside(&corpus.join(name));
            assert!(kept.len() >= 3, "{name} has {} inputs", kept.len());
            for path in kept {
                let input = std::fs::read(&path).unwrap();
                assert!(input.len() as u64 <= KEPT_MAX, "{} is too long to be kept", path.display());
                // Its name, where the target's own words do not say which input it was.
                eprintln!("{}", path.display());
                target(&input);
            }
        }
        let folders = inside(&corpus);
        assert_eq!(folders.len(), TARGETS.len(), "each folder of {} is a target's: {folders:?}", corpus.display());
    }

    #[test]
    fn what_is_short_and_simple_holds() {
        for (_, target) in TARGETS {
            target(b"");
            (0..=u8::MAX).for_each(|byte| target(&[byte]));
            for piece in ["\n", "\0", "\"", "{", "[", "{}", "[]", "null", "=", "%", "\u{feff}", "\r\n\r\n"] {
                (1..4).for_each(|times| target(piece.repeat(times).as_bytes()));
            }
        }
    }
}
