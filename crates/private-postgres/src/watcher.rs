//! Starts the shell that ends a test cluster after the run.

use super::error::ServerError;
use super::folders::Folders;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// `$1`: the run's parent; `$2`: the cluster's folder.
///
/// It runs as the user of the run, who may see the parent. It ends the server by a signal rather than by pg_ctl, which
/// refuses root. SIGQUIT is the "immediate" shutdown. The name of the process is checked, because its number may have
/// been reused. The brackets and `&` leave it without a parent that would have to wait for it.
const SCRIPT: &str = r#"(
while kill -0 "$1" 2>/dev/null; do sleep 0.3; done
pid=
[ -r "$2/data/postmaster.pid" ] && read -r pid < "$2/data/postmaster.pid"
case $pid in ''|*[!0-9]*) ;; *)
    name=$(cat "/proc/$pid/comm" 2>/dev/null || ps -o comm= -p "$pid" 2>/dev/null)
    case $name in *postgres*) kill -QUIT "$pid" ;; esac
    n=0
    while kill -0 "$pid" 2>/dev/null && [ $n -lt 100 ]; do sleep 0.1; n=$((n+1)); done ;;
esac
rm -rf -- "$2" || { sleep 1; rm -rf -- "$2"; }
) &"#;

/// Leaves a watcher behind, with its own process group and none of our files. So a runner that kills the test's group
/// does not end it, and a runner that looks for leaked handles does not report it.
pub(super) fn watch(parent_pid: u32, folders: &Folders) -> Result<(), ServerError> {
    let shell = Path::new("/bin/sh");
    let mut command = Command::new(shell);
    command
        .args(["-c", SCRIPT, "recado-test-watcher"])
        .arg(parent_pid.to_string())
        .arg(&folders.state)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    // The outer shell starts the inner one and ends at once.
    let status = command.status().map_err(ServerError::io("run", shell))?;
    match status.success() {
        true => Ok(()),
        false => Err(ServerError::Failed { program: "the watching shell", output: status.to_string(), log: "not looked at".to_owned() }),
    }
}
