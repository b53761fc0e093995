//! Checks the fault matrix: each fault, what must hold, and the tests that show it.
//!
//! The table cannot name a test that does not exist.

mod rows;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use rows::{MatrixRow, ROWS};

const PAGE: &str = "docs/internals/faults.md";

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every test of this program, as `file::name`.
fn known() -> BTreeSet<String> {
    let said = Command::new(std::env::current_exe().unwrap()).args(["--list", "--format", "terse"]).output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    said.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

fn missing<'a>(rows: &'a [MatrixRow], known: &BTreeSet<String>) -> Vec<&'a str> {
    let named = rows.iter().flat_map(|row| row.tests.iter().copied());
    named.filter(|test| !known.contains(*test)).collect()
}

fn page() -> String {
    let mut page = String::from(
        "# Fault matrix\n\n\
         Lists each fault, what must hold then, and the tests that show it.\n\n\
         The tests are those of `tests/suite/`. The table is written in `tests/suite/matrix/rows.rs`; a test compares it with\n\
         this page, and checks that each named test exists. A test that needs more of the machine than it has (root, a loop\n\
         device, a network namespace) is skipped and says so. After `cargo test`, `tools/faults` counts the rows that were\n\
         tried, and those that were not, with the reason. If a test has to kill a hub at an exact step, the hub is held there\n\
         (`src/failpoints.rs`); only hubs of the tests can be held. [The torture run](torture.md) mixes most of these faults\n\
         under load.\n\n\
         | row | fault | what must hold | shown by |\n| --- | --- | --- | --- |\n",
    );
    for row in ROWS {
        let mut shown: Vec<String> = row.tests.iter().map(|test| format!("`{test}`")).collect();
        shown.extend(row.note.map(str::to_owned));
        page += &format!("| {} | {} | {} | {} |\n", row.number, row.fault, row.holds, shown.join("<br>"));
    }
    page
}

#[test]
fn each_row_names_tests_that_are_there_or_says_why_it_has_none() {
    let known = known();
    assert!(known.contains("matrix::each_row_names_tests_that_are_there_or_says_why_it_has_none"), "{known:?}");
    assert_eq!(missing(ROWS, &known), [""; 0], "no such tests");
    for row in ROWS {
        assert!(!row.tests.is_empty() || row.note.is_some(), "{}: no test and no reason", row.number);
    }
    let numbers: BTreeSet<&str> = ROWS.iter().map(|row| row.number).collect();
    assert_eq!(numbers.len(), ROWS.len(), "none twice");
    // Checks that the check can fail.
    let wrong = [MatrixRow { number: "F00", fault: "", holds: "", tests: &["points::no_such_test"], note: None }];
    assert_eq!(missing(&wrong, &known), ["points::no_such_test"]);
}

#[test]
fn the_page_of_faults_is_the_table() {
    let right = Path::new(env!("CARGO_TARGET_TMPDIR")).join("faults.md");
    std::fs::write(&right, page()).unwrap();
    let is = std::fs::read_to_string(project().join(PAGE)).unwrap_or_default();
    assert!(is == page(), "{PAGE} is not the table: copy {} over it", right.display());
}

fn counted(book: Option<&str>) -> (bool, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("book");
    if let Some(book) = book {
        std::fs::write(&file, book).unwrap();
    }
    let said = Command::new(project().join("tools/faults")).arg(&file).output().unwrap();
    (said.status.success(), String::from_utf8(said.stdout).unwrap())
}

/// Prints the matrix for CI.
#[test]
fn the_rows_that_were_not_tried_are_counted_with_their_reasons() {
    let without = ROWS.iter().filter(|row| row.tests.is_empty()).count();
    let (well, said) = counted(None);
    assert!(well && said.starts_with(&format!("fault matrix: run {}, skipped {without}\n", ROWS.len() - without)), "{said}");
    let (well, said) = counted(Some("run F16 ext4\nskipped F16 xfs: mkfs.xfs is not installed\nskipped F43: needs root\nrun F44\n"));
    assert!(well && said.starts_with(&format!("fault matrix: run {}, skipped {}\n", ROWS.len() - without - 2, without + 2)), "{said}");
    assert!(said.contains("\n  F16 xfs: mkfs.xfs is not installed\n  F43: needs root\n"), "{said}");
    let (well, _) = counted(Some("skipped F99: there is no such row\n"));
    assert!(!well, "a line without a row is an error");
}
