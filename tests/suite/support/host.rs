//! Checks what a test needs of the machine.
//!
//! Where the machine lacks it the test is skipped with a message, and counted.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// One line for each row of the fault matrix: `run ROW` or `skipped ROW: why`. `.ci/run` sums it up at its end.
const BOOK: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/fault-matrix");

/// Returns what this row needs; `None`, with a message and a record, when the machine lacks it.
pub fn given<T>(row: &str, had: Result<T, String>) -> Option<T> {
    match had {
        Ok(had) => {
            enter(&format!("run {row}"));
            Some(had)
        }
        Err(why) => {
            let why = why.split_whitespace().collect::<Vec<_>>().join(" ");
            eprintln!("SKIPPED: {row}: {why}");
            enter(&format!("skipped {row}: {why}"));
            None
        }
    }
}

fn enter(line: &str) {
    let book = OpenOptions::new().create(true).append(true).open(BOOK);
    // A whole line in one write, so that two tests do not mix their lines.
    let _ = book.and_then(|mut book| book.write_all(format!("{line}\n").as_bytes()));
}

/// # Errors
/// Fails where the tests do not run as root.
pub fn root() -> Result<(), String> {
    match said(Command::new("id").arg("-u"))?.trim() {
        "0" => Ok(()),
        _ => Err("needs root".to_owned()),
    }
}

/// # Errors
/// Names the first program that is not installed.
pub fn programs(names: &[&str]) -> Result<(), String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).collect();
    match names.iter().find(|name| !folders.iter().any(|folder| folder.join(name).is_file())) {
        Some(missing) => Err(format!("{missing} is not installed")),
        None => Ok(()),
    }
}

/// Returns the command's output.
///
/// # Errors
/// Holds the error output when the command did not succeed.
pub fn said(command: &mut Command) -> Result<String, String> {
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    if status.success() {
        return Ok(String::from_utf8_lossy(&stdout).into_owned());
    }
    Err(format!("{:?}: {status}: {}", command.get_program(), String::from_utf8_lossy(&stderr).trim()))
}
