//! Provides a disk on a loop device that can be filled or lose power.
//!
//! It is mounted in a mount namespace that only the test's own processes are in, so no other process can hold it. When
//! the test ends, however it ends, the namespace goes with its last process, the mount with the namespace, and the loop
//! device with the mount.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use super::host::{programs, root, said};
use super::{PATIENCE, eventually};

/// Drops everything that was not flushed, the journal's too: EXT4_IOC_SHUTDOWN, the same as XFS_IOC_GOINGDOWN, with
/// NOLOGFLUSH.
const CUT: &str = r#"import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack("I", 2))"#;

pub struct Disk {
    folder: tempfile::TempDir,
    /// A process in the namespace, which leaves it when its input ends.
    holder: Child,
    _input: Option<ChildStdin>,
}

impl Disk {
    /// Creates an empty, mounted disk. `kind` is `ext4` or `xfs`.
    ///
    /// # Errors
    /// Names what this machine lacks for it.
    pub fn make(kind: &str, megabytes: u32) -> Result<Self, String> {
        root()?;
        let mkfs = format!("mkfs.{kind}");
        programs(&[&mkfs, "mount", "umount", "losetup", "unshare", "nsenter", "setpriv", "python3"])?;
        let folder = tempfile::Builder::new().prefix("recado-disk").tempdir_in("/tmp").unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(folder.path().join("mnt")).unwrap();
        let image = folder.path().join("image");
        fs::File::create(&image).and_then(|file| file.set_len(u64::from(megabytes) << 20)).unwrap();
        let mut make = Command::new(mkfs);
        // All blocks are available to every user: root reserves none.
        said(make.arg("-q").args(if kind == "ext4" { &["-m", "0"][..] } else { &[] }).arg(&image))?;
        let mut holder = Command::new("unshare");
        holder.args(["--mount", "sh", "-c", "cat >/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut holder = holder.spawn().map_err(|error| error.to_string())?;
        let disk = Self { folder, _input: holder.stdin.take(), holder };
        disk.wait_for_the_namespace()?;
        disk.mount()?;
        Ok(disk)
    }

    fn wait_for_the_namespace(&self) -> Result<(), String> {
        let ours = fs::read_link("/proc/self/ns/mnt").map_err(|error| error.to_string())?;
        for _ in 0..400 {
            if fs::read_link(self.namespace()).is_ok_and(|theirs| theirs != ours) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err("no mount namespace can be had".to_owned())
    }

    fn namespace(&self) -> PathBuf {
        format!("/proc/{}/ns/mnt", self.holder.id()).into()
    }

    /// Where it is mounted, for processes in the namespace.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    /// The output of a program that runs where the disk can be seen.
    ///
    /// # Errors
    /// As [`said`].
    pub fn inside(&self, command: &[&str]) -> Result<String, String> {
        said(Command::new("nsenter").args(self.enter()).args(command))
    }

    /// The arguments for `nsenter`.
    pub fn enter(&self) -> [String; 2] {
        [format!("--mount={}", self.namespace().display()), "--".to_owned()]
    }

    fn mount(&self) -> Result<(), String> {
        let (image, mnt) = (self.folder.path().join("image"), self.path());
        self.inside(&["mount", "-o", "loop", text(&image), text(&mnt)]).map(drop)
    }

    /// Drops everything that was not flushed. Processes that still use the disk find the device broken.
    pub fn cut_the_power(&self) {
        self.inside(&["python3", "-c", CUT, text(&self.path())]).unwrap();
    }

    /// Mounts the disk again as after a restart of the machine: every process that used it is gone.
    pub async fn power_on(&self) {
        // The last files of a killed process are closed a moment after it has gone.
        eventually("no process uses the disk", PATIENCE, async || self.inside(&["umount", text(&self.path())]).ok()).await;
        let image = self.folder.path().join("image");
        let attached = async || said(Command::new("losetup").arg("-j").arg(&image)).unwrap().is_empty().then_some(());
        eventually("the loop device is free", Duration::from_secs(10), attached).await;
        self.mount().unwrap();
    }

    /// Flushes, so that everything written until now survives.
    pub fn flush(&self) {
        self.inside(&["sync", "-f", text(&self.path())]).unwrap();
    }

    /// Writes until nothing more fits.
    pub fn fill(&self) {
        let (filler, mnt) = (self.path().join("filler"), self.path());
        let script = r#"dd if=/dev/zero of="$0" bs=64k oflag=append conv=notrunc 2>/dev/null
            dd if=/dev/zero of="$0" bs=4k oflag=append conv=notrunc 2>/dev/null; sync -f "$1"; stat -f -c %a "$1""#;
        let free = self.inside(&["sh", "-c", script, text(&filler), text(&mnt)]).unwrap();
        assert!(free.trim().parse::<u64>().unwrap() < 16, "blocks are left: {free}");
    }

    pub fn free(&self) {
        self.inside(&["rm", text(&self.path().join("filler"))]).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The test's remaining processes are killed first: a namespace lives as long as they do.
        let namespace = fs::read_link(self.namespace());
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let its = fs::read_link(entry.path().join("ns/mnt"));
            if its.is_ok() && its.ok() == namespace.as_ref().ok().cloned() {
                let _ = Command::new("kill").arg("-9").arg(entry.file_name()).stderr(Stdio::null()).status();
            }
        }
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of our own making")
}
