//! Holds the fuzz targets: one for each parser of untrusted input.
//!
//! A target accepts any bytes and asserts more than the absence of panics. Accepted input gives the same value when
//! it is written and read again, keeps every limit, and is passed on byte for byte where that is promised. Refused
//! input gets a known code and a short answer that is valid JSON.
//!
//! `tools/fuzz` runs the targets with libFuzzer, which searches for new inputs. The test below runs them with the
//! inputs in `corpus/TARGET/`.

mod client_frames;
mod credentials;
mod posts;
mod provider;
mod requests;
mod settings;

use serde_json::Value;

use recado::wire::problem::Problem;

/// The name of a target in `corpus/`, and the target.
pub type FuzzTarget = (&'static str, fn(&[u8]));

pub const TARGETS: [FuzzTarget; 19] = [
    ("notify", posts::notify),
    ("batch", posts::batch),
    ("ndjson", posts::ndjson),
    ("cloud_event", posts::cloud_event),
    ("cloud_event_headers", posts::cloud_event_headers),
    ("client_frame", client_frames::client_frame),
    ("stream_query", requests::stream_query),
    ("history_query", requests::history_query),
    ("ack_body", requests::ack_body),
    ("trace_parent", requests::trace_parent),
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

/// Maximum number of broken rules that one answer lists.
const ERRORS_MAX: usize = 100;
/// Maximum length of the answer to a refused request, in bytes. It must not be a multiple of the request.
const ANSWER_MAX: usize = 64 << 10;

/// Asserts that a refusal has one of these codes, and an answer that programs can parse.
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

/// Splits off the first line.
fn head(text: &str) -> (&str, &str) {
    text.split_once('\n').unwrap_or((text, ""))
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    /// Maximum length of a kept input: short enough for a person to read.
    const KEPT_MAX: u64 = 8 << 10;

    fn inside(folder: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    }

    #[test]
    fn what_is_kept_of_earlier_runs_holds() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
        for (name, target) in TARGETS {
            let kept = inside(&corpus.join(name));
            assert!(kept.len() >= 3, "{name} has {} inputs", kept.len());
            for path in kept {
                let input = std::fs::read(&path).unwrap();
                assert!(input.len() as u64 <= KEPT_MAX, "{} is too long to be kept", path.display());
                // Printed because the target's own message does not name the input.
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
