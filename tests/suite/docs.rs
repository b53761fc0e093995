//! Tests that the documentation is true: printed output is compared, shell and SQL blocks are run.
//!
//! A block fenced as `sh` or `sql` is run, in the page's order, in an empty folder, with `recado` on the path, a hub of
//! the page's own running, and the settings that reach it (`DATABASE_URL`, `RECADO_URL`, `RECADO_JWT_SECRET`). It must
//! exit with 0. The lines before it may hold `<!-- expect: TEXT -->`, which must be in its output, and `<!-- not run:
//! REASON -->`. A block of nothing but `cargo` lines is not run, because that would be a test within a test, but each
//! line must be a command that exists. Other fences are pictures, and must name their language. A picture after
//! `<!-- from: FILE -->` must be the marked part of that file, which a test of its own runs.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use crate::support::{SECRET, TestDb, TestHub};

/// Longest time of one block.
const BLOCK_LIMIT: Duration = Duration::from_secs(60);
/// Fences that are checked but not run.
const PICTURES: [&str; 15] =
    ["text", "json", "js", "ts", "tsx", "html", "rust", "toml", "yaml", "nginx", "mermaid", "http", "python", "go", "java"];

const RECADO: &str = env!("CARGO_BIN_EXE_recado");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(page: &Path) -> String {
    std::fs::read_to_string(page).unwrap_or_else(|error| panic!("{}: {error}", page.display()))
}

fn pages() -> Vec<PathBuf> {
    let mut pages: Vec<PathBuf> = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"].map(|name| root().join(name)).into();
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
struct DocBlock {
    /// Line on which its fence opens.
    line: usize,
    language: String,
    text: String,
    expected: Vec<String>,
    not_run: bool,
    /// The file that it is quoted from.
    source: Option<String>,
}

fn blocks(page: &str) -> Vec<DocBlock> {
    let mut found = Vec::new();
    let mut next = DocBlock::default();
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
        } else if let Some(file) = remark("from:") {
            next.source = Some(file.to_owned());
        } else if remark("not run:").is_some_and(|reason| !reason.is_empty()) {
            next.not_run = true;
        } else if !line.is_empty() {
            // The remark belonged to something else.
            next = DocBlock::default();
        }
    }
    found
}

/// Folder in which the blocks of one page run.
struct DocFolder {
    folder: tempfile::TempDir,
    db: TestDb,
    hub: TestHub,
}

impl DocFolder {
    async fn make() -> Self {
        let db = TestDb::bare().await;
        let hub = TestHub::on(&db).start().await;
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("bin")).unwrap();
        std::fs::create_dir_all(folder.path().join("empty")).unwrap();
        std::os::unix::fs::symlink(RECADO, folder.path().join("bin/recado")).unwrap();
        Self { folder, db, hub }
    }

    async fn run(&self, block: &DocBlock) -> Result<(), String> {
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
        // A process group of its own: processes that it leaves running end with it.
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

/// Checks a block of cargo lines: each must be a cargo command, and a command of ours after `--`. None for other
/// blocks.
async fn check_cargo(block: &DocBlock) -> Option<Result<(), String>> {
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
    let words: Vec<&str> = words.collect();
    if let Some(package) = words.iter().position(|word| *word == "-p").and_then(|at| words.get(at + 1)) {
        // The tests of that crate check the arguments.
        return if has_crate(package) { Ok(()) } else { Err(format!("crates/ has no package {package:?}")) };
    }
    // Arguments are parsed up to --help, which then only prints.
    let ours = Command::new(RECADO).args(words.iter().skip_while(|word| **word != "--").skip(1)).arg("--help").output().await.unwrap();
    judge(&ours, &[])
}

fn has_crate(package: &str) -> bool {
    let crates = std::fs::read_dir(root().join("crates")).unwrap().map(|folder| folder.unwrap().path().join("Cargo.toml"));
    crates.into_iter().any(|manifest| read(&manifest).contains(&format!("\nname = \"{package}\"\n")))
}

/// Problems of a page, one a line.
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
                        place = Some(DocFolder::make().await);
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
#[ignore = "slow"]
async fn every_block_that_a_reader_would_paste_works() {
    let mut wrong = Vec::new();
    for page in pages() {
        let name = page.strip_prefix(root()).unwrap().display().to_string();
        wrong.extend(problems(&name, &read(&page)).await);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
#[ignore = "slow"]
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
        ("```sh\ncargo run -p nonsense\n```", "no package"),
        ("```\nls\n```", "fenced as \"\""),
        ("```bash\nls\n```", "fenced as \"bash\""),
        ("<!-- expect: x -->\n```text\nx\n```", "fenced as \"text\""),
    ] {
        let found = problems("page", page).await;
        assert!(found.len() == 1 && found[0].contains(expected), "{page}\n{found:?}");
    }
    let good = "<!-- expect: {\"status\" -->\n\n  ```sh\n  recado config > all; grep -q PORT all\n  echo '{\"status\"'\n  ```\n\
                <!-- expect: 42 -->\n```sql\nSELECT 40 + 2;\n```\n<!-- not run: there is no such program here -->\n```sh\nfly deploy\n```\n\
                ```sh\ncargo run --release -- serve --port 0   # any\ncargo run -p recado-bench -- publish\n```\n```text\nready\n```";
    assert_eq!(problems("page", good).await, Vec::<String>::new());
}

#[test]
fn the_page_of_settings_is_what_the_program_prints() {
    let printed = std::process::Command::new(RECADO).args(["config", "--markdown"]).output().unwrap();
    let page = read(&root().join("docs/reference/settings.md"));
    let advice = "docs/reference/settings.md is out of date: cargo run -- config --markdown > docs/reference/settings.md";
    assert!(page == String::from_utf8(printed.stdout).unwrap(), "{advice}");
}

/// A link to another page or to a file must lead to something that exists.
/// Names that begin as settings do, and who reads or sets them.
const NO_SETTINGS: [&str; 3] = [
    "RECADO_ADMIN_DIR", // a build from source reads the console's files there
    "RECADO_CONSUMER",  // `recado consume` sets it for the program that it starts
    "RECADO_PORT",      // Kubernetes sets it for a service named recado
];

/// What went wrong: the runbook named `RECADO_RETENTION`. No setting has this name.
#[test]
fn every_setting_that_a_page_or_a_deployment_file_names_exists() {
    let settings = read(&root().join("docs/reference/settings.md"));
    let mut files = pages();
    let mut folders = vec![root().join("deploy")];
    while let Some(folder) = folders.pop() {
        let (inner, found): (Vec<PathBuf>, Vec<PathBuf>) =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).partition(|path| path.is_dir());
        folders.extend(inner);
        files.extend(found);
    }
    files.extend(["docker-compose.yml", "fly.toml", "Dockerfile"].map(|name| root().join(name)));
    let exists = |name: &str| NO_SETTINGS.contains(&name) || settings.contains(&format!("\n| `{name}` "));
    let mut unknown = Vec::new();
    for file in files {
        let text = read(&file);
        let words = text.split(|letter: char| !letter.is_ascii_uppercase() && !letter.is_ascii_digit() && letter != '_');
        // `RECADO_RETENTION_…` and `recado.RECADO_X` have other ends; a name of ours ends in a letter.
        for name in words.filter(|word| word.starts_with("RECADO_") && word.len() > 7 && !word.ends_with('_')) {
            if !exists(name) && !name.strip_suffix("_FILE").is_some_and(exists) {
                unknown.push(format!("{}: {name}", file.display()));
            }
        }
    }
    assert_eq!(unknown, Vec::<String>::new());
}

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

/// The part of a program between the comments `docs: begin` and `docs: end`, without its common indentation.
fn marked_part(program: &str) -> Option<String> {
    let lines = program.lines().skip_while(|line| !line.trim_end().ends_with(" docs: begin")).skip(1);
    let lines: Vec<&str> = lines.take_while(|line| !line.trim_end().ends_with(" docs: end")).collect();
    without_indentation(&lines)
}

/// These lines without their common indentation. `None`: there is no text.
fn without_indentation(lines: &[&str]) -> Option<String> {
    let indentation = lines.iter().filter(|line| !line.trim().is_empty()).map(|line| line.len() - line.trim_start().len()).min()?;
    let lines: Vec<&str> = lines.iter().map(|line| line.get(indentation..).unwrap_or_default()).collect();
    Some(format!("{}\n", lines.join("\n").trim_end()))
}

/// Whether these lines follow each other in the program.
fn has_lines(program: &str, text: &str) -> bool {
    let lines: Vec<&str> = program.lines().collect();
    lines.windows(text.lines().count().max(1)).any(|window| without_indentation(window).is_some_and(|part| part == text))
}

/// Problems of the blocks that a page quotes from files below a folder, one a line.
fn quote_problems(name: &str, page: &str, folder: &Path) -> Vec<String> {
    let mut problems = Vec::new();
    for block in blocks(page) {
        let Some(source) = &block.source else { continue };
        let program = std::fs::read_to_string(folder.join(source)).unwrap_or_default();
        match marked_part(&program) {
            Some(part) if part == block.text => {}
            Some(part) => problems.push(format!("{name}:{}: {source} has:\n{part}", block.line)),
            // A page may quote several parts of a file that marks none.
            None if has_lines(&program, &block.text) => {}
            None => problems.push(format!("{name}:{}: {source} does not have these lines", block.line)),
        }
    }
    problems
}

#[test]
fn a_block_that_is_quoted_from_a_program_is_what_the_program_has() {
    let mut wrong = Vec::new();
    for page in pages() {
        let name = page.strip_prefix(root()).unwrap().display().to_string();
        wrong.extend(quote_problems(&name, &read(&page), root()));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Checks that the check can fail.
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.go"), "package a\n\n\t// docs: begin\n\tif x {\n\t\ty()\n\n\t}\n\t// docs: end\n").unwrap();
    std::fs::write(folder.path().join("b.py"), "# docs: begun\nx\n").unwrap();
    for (page, expected) in [
        ("<!-- from: a.go -->\n```go\nif x {\n\ty()\n\n}\n```", None),
        ("<!-- from: a.go -->\n```go\nif x {\n\tz()\n\n}\n```", Some("a.go has:\nif x {")),
        ("<!-- from: b.py -->\n```python\nx\n```", None),
        ("<!-- from: b.py -->\n```python\ny\n```", Some("b.py does not have")),
        ("<!-- from: c.py -->\n```python\nx\n```", Some("c.py does not have")),
    ] {
        let found = quote_problems("page", page, folder.path());
        assert!(found.len() == usize::from(expected.is_some()) && found.iter().all(|found| found.contains(expected.unwrap())), "{found:?}");
    }
}

/// Names and versions of the packages that a `package.json` pins.
fn npm_libraries(folder: &Path) -> Vec<(String, String)> {
    let npm: serde_json::Value = serde_json::from_str(&read(&folder.join("package.json"))).unwrap();
    let pinned = npm["dependencies"].as_object().unwrap().iter();
    pinned.map(|(name, version)| (name.clone(), version.as_str().unwrap().to_owned())).collect()
}

/// Names and versions of the libraries of a test of clients, as its lists of packages pin them.
fn tested_libraries(test: &str) -> Vec<(String, String)> {
    let folder = root().join("clients").join(test);
    let npm = npm_libraries(&folder).into_iter();
    let pip = read(&folder.join("python/requirements.txt"));
    let pip = pip.lines().map(|line| line.split_once("==").expect("exact versions"));
    let go = read(&folder.join("go/go.mod"));
    let go = go.lines().filter_map(|line| line.strip_prefix("require ")?.split_once(" v"));
    let pom = std::fs::read_to_string(folder.join("java/pom.xml")).unwrap_or_default();
    let element = |text: &str, name: &str| Some(text.split_once(&format!("<{name}>"))?.1.split_once('<')?.0.to_owned());
    let maven = pom.split("<dependency>").skip(1).filter_map(|text| Some((element(text, "artifactId")?, element(text, "version")?)));
    npm.chain(pip.chain(go).map(|(name, version)| (name.to_owned(), version.to_owned()))).chain(maven).collect()
}

#[test]
fn pages_that_name_libraries_name_the_tested_versions() {
    for (test, page, at_least) in [("interop", "other-clients.md", 13), ("tokens", "identity-services.md", 7)] {
        let text = read(&root().join("docs/guides").join(page));
        let libraries = tested_libraries(test);
        assert!(libraries.len() >= at_least, "{libraries:?}");
        let missing = libraries.iter().filter(|(name, version)| !text.contains(&format!("`{name}` {version}")));
        assert_eq!(missing.collect::<Vec<_>>(), Vec::<&(String, String)>::new(), "missing in docs/guides/{page}");
    }
    // The SDKs are those of the pages, their types, and what compiles and runs them.
    let page = read(&root().join("docs/guides/identity-frontend.md"));
    let sdks: Vec<(String, String)> = npm_libraries(&root().join("clients/sign-in"));
    let sdks = sdks.iter().filter(|(name, _)| !name.starts_with("@types/") && !name.starts_with("react") && name != "typescript");
    let missing: Vec<_> = sdks.filter(|(name, version)| !page.contains(&format!("`{name}` {version}"))).collect();
    assert_eq!(missing, Vec::<&(String, String)>::new(), "missing in docs/guides/identity-frontend.md");
}

#[test]
fn the_reasons_for_a_refused_token_are_texts_of_the_hub() {
    let page = read(&root().join("docs/guides/identity-frontend.md"));
    let (_, section) = page.split_once("\n## If the hub refuses the token\n").expect("the section");
    let reasons: Vec<&str> = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).skip(1).collect();
    assert!(reasons.len() > 6, "{reasons:?}");
    let files = std::fs::read_dir(root().join("src/identity")).unwrap().map(|file| file.unwrap().path());
    // The folders hold tests.
    let sources: String = files.filter(|path| path.is_file()).map(|path| read(&path)).collect();
    let unknown: Vec<_> = reasons.iter().filter(|reason| !sources.contains(**reason)).collect();
    assert_eq!(unknown, Vec::<&&str>::new(), "docs/guides/identity-frontend.md: the hub says none of these");
}

/// Names of counters and times in a text.
fn metrics_in(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| word.starts_with("recado_") && (word.ends_with("_total") || word.ends_with("_seconds")))
}

#[test]
fn metrics_that_pages_name_exist() {
    let known = read(&root().join("docs/reference/metrics.md"));
    let known: Vec<&str> = metrics_in(&known).collect();
    let mut unknown = Vec::new();
    // The changelog names old ones.
    for page in pages().iter().filter(|page| !page.ends_with("CHANGELOG.md")) {
        let text = read(page);
        unknown.extend(metrics_in(&text).filter(|name| !known.contains(name)).map(|name| format!("{}: {name}", page.display())));
    }
    assert_eq!(unknown, Vec::<String>::new(), "not in docs/reference/metrics.md");
}

/// Longest line of prose, in characters. Tables, code, headings and links of a line of their own may be longer.
const PROSE_COLUMNS: usize = 120;
/// Most words of the sentence that says what a page is for.
const OPENING_WORDS: usize = 15;

/// Problems with the form of a page, one a line.
fn form_problems(name: &str, page: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let mut prose = Vec::new();
    let mut in_code = false;
    for (at, line) in page.lines().enumerate() {
        let is_fence = line.trim_start().starts_with("```");
        let is_other = ["|", "#", "<", "!["].iter().any(|start| line.trim_start().starts_with(start));
        if !in_code && !is_fence && !is_other {
            prose.push((at + 1, line));
        }
        in_code ^= is_fence;
    }
    for (at, line) in &prose {
        if line.chars().count() > PROSE_COLUMNS && line.contains(' ') {
            problems.push(format!("{name}:{at}: more than {PROSE_COLUMNS} columns; tools/reflow {name} breaks it"));
        }
    }
    let opening: Vec<&str> =
        prose.iter().map(|(_, line)| *line).skip_while(|line| line.is_empty()).take_while(|line| !line.is_empty()).collect();
    let opening = opening.join(" ");
    if !page.starts_with("# ") || opening.split_whitespace().count() > OPENING_WORDS || !opening.ends_with('.') {
        problems
            .push(format!("{name}: after the title stands one sentence of at most {OPENING_WORDS} words that says what the page is for"));
    }
    problems
}

#[test]
fn every_page_opens_with_one_short_sentence_and_keeps_its_lines_short() {
    let mut wrong = Vec::new();
    for page in pages() {
        let name = page.strip_prefix(root()).unwrap().display().to_string();
        wrong.extend(form_problems(&name, &read(&page)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Checks that the check can fail.
    let long = format!("# T\n\nSays it.\n\n{}", "word ".repeat(25));
    for (page, expected) in [
        ("Says it.\n", "after the title"),
        ("# T\n\nNo full stop\n", "after the title"),
        ("# T\n\nOne two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen.\n", "after the title"),
        (long.as_str(), "p:5: more than 120 columns"),
    ] {
        let found = form_problems("p", page);
        assert!(found.len() == 1 && found[0].contains(expected), "{page}\n{found:?}");
    }
    let words = "word ".repeat(25);
    assert_eq!(form_problems("p", &format!("# T\n\nSays it.\n\n| {words} |\n```text\n{words}\n```\n")), Vec::<String>::new());
}

/// The commands and flags that `recado COMMAND --help` lists.
fn help_of(command: &[&str]) -> (Vec<String>, Vec<String>) {
    let said = std::process::Command::new(RECADO).args(command).arg("--help").output().unwrap();
    assert!(said.status.success(), "recado {command:?} --help");
    let said = String::from_utf8(said.stdout).unwrap();
    let listed = said.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let commands = listed.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let commands = commands.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help").map(str::to_owned).collect();
    let words = said
        .lines()
        .filter(|line| line.trim_start().starts_with('-'))
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with("--")));
    let flags = words.map(|word| word.trim_end_matches(',').to_owned()).collect();
    (commands, flags)
}

#[test]
fn the_page_of_the_command_line_names_each_command_and_flag() {
    let page = read(&root().join("docs/reference/cli.md"));
    let (commands, global) = help_of(&[]);
    let mut missing: Vec<String> = global.iter().filter(|flag| !page.contains(&format!("`{flag}`"))).cloned().collect();
    assert!(commands.len() > 15, "{commands:?}");
    for command in &commands {
        let heading = format!("### `recado {command}`\n");
        let Some((_, section)) = page.split_once(&heading) else {
            missing.push(heading);
            continue;
        };
        let section = section.split("\n## ").next().unwrap().split("\n### ").next().unwrap();
        let (subcommands, mut flags) = help_of(&[command]);
        for subcommand in &subcommands {
            if !section.contains(&format!("`recado {command} {subcommand}`")) {
                missing.push(format!("recado {command} {subcommand}"));
            }
            flags.extend(help_of(&[command, subcommand]).1);
        }
        flags.retain(|flag| !global.contains(flag));
        let named = |flag: &String| section.contains(&format!("`{flag}")) || section.contains(&format!(" {flag}"));
        missing.extend(flags.iter().filter(|flag| !named(flag)).map(|flag| format!("recado {command} {flag}")));
    }
    assert_eq!(missing, Vec::<String>::new(), "missing in docs/reference/cli.md");
}
