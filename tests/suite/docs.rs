//! Promise: the pages are true. What the program can print is compared, and what a reader would paste is run.
//!
//! A block fenced as `sh` or `sql` is run, in the page's order, in an empty folder, with `recado` on the path, a hub of the
//! page's own running, and the settings that reach it (`DATABASE_URL`, `RECADO_URL`, `RECADO_JWT_SECRET`). It must end with 0.
//! In the lines before it may stand `<!-- expect: TEXT -->`, which must be in its output, and `<!-- not run: REASON -->`.
//! A block of nothing but `cargo` lines is not run, which would be a test within a test, but each line must be a command
//! that exists. Other fences are pictures, and must say of what.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use crate::support::{Hub, SECRET, TestDb};

/// Longest time of one block.
const BLOCK_LIMIT: Duration = Duration::from_secs(60);
/// Fences that are looked at and not run.
const PICTURES: [&str; 10] = ["text", "json", "js", "html", "rust", "toml", "yaml", "nginx", "mermaid", "http"];

const RECADO: &str = env!("CARGO_BIN_EXE_recado");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(page: &Path) -> String {
    std::fs::read_to_string(page).unwrap_or_else(|error| panic!("{}: {error}", page.display()))
}

fn pages() -> Vec<PathBuf> {
    let mut pages = vec![root().join("README.md"), root().join("CONTRIBUTING.md"), root().join("CHANGELOG.md")];
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.extension() {
                _ if path.is_dir() => folders.push(path),
                Some(extension) if extension == "md" => pages.push(path),
                _ => {}
            }
        }
    }
    pages.sort();
    pages
}

/// A fenced block of a page.
#[derive(Debug, Default, PartialEq)]
struct Block {
    /// Where its fence opens.
    line: usize,
    language: String,
    text: String,
    expected: Vec<String>,
    not_run: bool,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut next = Block::default();
    let mut lines = page.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let line = line.trim_start();
        let remark = |name: &str| line.strip_prefix("<!--")?.trim_start().strip_prefix(name)?.strip_suffix("-->").map(str::trim);
        if let Some(language) = line.strip_prefix("```") {
            next.line = at + 1;
            language.trim().clone_into(&mut next.language);
            for (_, line) in lines.by_ref().take_while(|(_, line)| line.trim() != "```") {
                next.text.push_str(line);
                next.text.push('\n');
            }
            found.push(std::mem::take(&mut next));
        } else if let Some(text) = remark("expect:") {
            next.expected.push(text.to_owned());
        } else if remark("not run:").is_some_and(|reason| !reason.is_empty()) {
            next.not_run = true;
        } else if !line.is_empty() {
            // The remark belonged to something else.
            next = Block::default();
        }
    }
    found
}

/// Where the blocks of one page run.
struct Place {
    folder: tempfile::TempDir,
    db: TestDb,
    hub: Hub,
}

impl Place {
    async fn make() -> Self {
        let db = TestDb::bare().await;
        let hub = Hub::on(&db).start().await;
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("bin")).unwrap();
        std::fs::create_dir_all(folder.path().join("empty")).unwrap();
        std::os::unix::fs::symlink(RECADO, folder.path().join("bin/recado")).unwrap();
        Self { folder, db, hub }
    }

    async fn run(&self, block: &Block) -> Result<(), String> {
        let path = format!("{}:{}", self.folder.path().join("bin").display(), std::env::var("PATH").unwrap());
        let mut command = match block.language.as_str() {
            "sql" => {
                let mut psql = Command::new(psql());
                psql.args(["-X", "-v", "ON_ERROR_STOP=1", "-d", &self.db.url(), "-c", &block.text]);
                psql
            }
            _ => {
                let mut bash = Command::new("bash");
                bash.args(["-euo", "pipefail", "-c", &block.text]);
                bash
            }
        };
        command.current_dir(self.folder.path().join("empty")).env_clear().env("PATH", path).env("HOME", self.folder.path());
        command.env("DATABASE_URL", self.db.url()).env("RECADO_URL", format!("http://{}", self.hub.address));
        command.env("RECADO_JWT_SECRET", SECRET).env("RECADO_FETCH_POSTGRES", "off").env("RECADO_ALLOW_UNSAFE_DURABILITY", "on");
        // A group of its own: what it leaves running ends with it.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
        let child = command.spawn().map_err(|error| format!("cannot be run: {error}"))?;
        let group = format!("-{}", child.id().unwrap());
        let ended = timeout(BLOCK_LIMIT, child.wait_with_output()).await;
        let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status().await;
        judge(&ended.map_err(|_| format!("did not end within {BLOCK_LIMIT:?}"))?.unwrap(), &block.expected)
    }
}

fn judge(output: &Output, expected: &[String]) -> Result<(), String> {
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        return Err(format!("ended with {}:\n{said}", output.status));
    }
    match expected.iter().find(|text| !said.contains(*text)) {
        Some(text) => Err(format!("{text:?} was to be printed, not:\n{said}")),
        None => Ok(()),
    }
}

pub fn psql() -> PathBuf {
    let on_path = std::env::split_paths(&std::env::var_os("PATH").unwrap()).map(|folder| folder.join("psql")).find(|psql| psql.is_file());
    let installed = || {
        let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
        versions.flatten().map(|version| version.path().join("bin/psql")).find(|psql| psql.is_file())
    };
    on_path.or_else(installed).expect("psql is installed with PostgreSQL's programs")
}

/// Whether all lines are cargo's; each must then be one of its commands, and what follows `--` a command of ours.
async fn check_cargo(block: &Block) -> Option<Result<(), String>> {
    let lines: Vec<&str> = block.text.lines().map(|line| line.split('#').next().unwrap().trim()).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() || !lines.iter().all(|line| line.starts_with("cargo ")) {
        return None;
    }
    for line in lines {
        if let Err(problem) = check_cargo_line(line).await {
            return Some(Err(format!("{line}: {problem}")));
        }
    }
    Some(Ok(()))
}

async fn check_cargo_line(line: &str) -> Result<(), String> {
    let mut words = line.split_whitespace().skip(1);
    let subcommand = words.next().unwrap_or_default();
    let known = Command::new(env!("CARGO")).arg("--list").output().await.unwrap();
    let known = String::from_utf8_lossy(&known.stdout).into_owned();
    if !known.lines().any(|listed| listed.split_whitespace().next() == Some(subcommand)) {
        return Err(format!("cargo has no command {subcommand:?}"));
    }
    if subcommand != "run" {
        return Ok(());
    }
    // Read up to --help, which then only prints.
    let ours = Command::new(RECADO).args(words.skip_while(|word| *word != "--").skip(1)).arg("--help").output().await.unwrap();
    judge(&ours, &[])
}

/// What is wrong with a page, a line each.
async fn problems(name: &str, page: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let mut place = None;
    for block in blocks(page) {
        let outcome = match block.language.as_str() {
            _ if block.not_run => Ok(()),
            "sh" | "sql" => match check_cargo(&block).await {
                Some(outcome) => outcome,
                None => {
                    if place.is_none() {
                        place = Some(Place::make().await);
                    }
                    place.as_ref().unwrap().run(&block).await
                }
            },
            picture if PICTURES.contains(&picture) && block.expected.is_empty() => Ok(()),
            other => Err(format!("fenced as {other:?}: say sh or sql to have it run, or one of {PICTURES:?}")),
        };
        problems.extend(outcome.err().map(|problem| format!("{name}:{}: {problem}", block.line)));
    }
    problems
}

#[tokio::test]
async fn every_block_that_a_reader_would_paste_works() {
    let mut wrong = Vec::new();
    for page in pages() {
        let name = page.strip_prefix(root()).unwrap().display().to_string();
        wrong.extend(problems(&name, &read(&page)).await);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn a_block_that_does_not_work_is_found() {
    for (page, expected) in [
        ("```sh\nfalse\necho on\n```", "ended with"),
        ("```sh\nrecado nonsense\n```", "unrecognized subcommand"),
        ("```sh\nrecado stats | head -1 > /dev/null; exit 7\n```", "exit status: 7"),
        ("```sql\nSELECT 1/0;\n```", "division by zero"),
        ("<!-- expect: 3 -->\n```sh\necho $((1 + 1))\n```", "\"3\" was to be printed"),
        ("```sh\ncargo nonsense\n```", "cargo has no command"),
        ("```sh\ncargo run -- nonsense\n```", "unrecognized subcommand"),
        ("```sh\ncargo run -- serve --prot 80\n```", "--prot"),
        ("```\nls\n```", "fenced as \"\""),
        ("```bash\nls\n```", "fenced as \"bash\""),
        ("<!-- expect: x -->\n```text\nx\n```", "fenced as \"text\""),
    ] {
        let found = problems("page", page).await;
        assert!(found.len() == 1 && found[0].contains(expected), "{page}\n{found:?}");
    }
    let good = "<!-- expect: {\"status\" -->\n\n  ```sh\n  recado config > all; grep -q PORT all\n  echo '{\"status\"'\n  ```\n\
                <!-- expect: 42 -->\n```sql\nSELECT 40 + 2;\n```\n<!-- not run: there is no such program here -->\n```sh\nfly deploy\n```\n\
                ```sh\ncargo run --release -- serve --port 0   # any\n```\n```text\nready\n```";
    assert_eq!(problems("page", good).await, Vec::<String>::new());
}

#[test]
fn the_page_of_settings_is_what_the_program_prints() {
    let printed = std::process::Command::new(RECADO).args(["config", "--markdown"]).output().unwrap();
    let page = read(&root().join("docs/settings.md"));
    let advice = "docs/settings.md is out of date: cargo run -- config --markdown > docs/settings.md";
    assert!(page == String::from_utf8(printed.stdout).unwrap(), "{advice}");
}

/// A link to another page, or to a file, leads somewhere.
#[test]
fn every_link_within_the_project_leads_somewhere() {
    let mut broken = Vec::new();
    for page in pages() {
        let text = read(&page);
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap();
            if !path.is_empty() && !path.contains("://") && !page.parent().unwrap().join(path).exists() {
                broken.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
