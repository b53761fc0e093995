//! Gives up root's rights before the process starts a second thread: the kernel keeps rights for each thread.

/// Whether this build can give up root's rights on this operating system.
pub const CAN_BE_GIVEN_UP: bool = cfg!(target_os = "linux");

/// Whether this process has root's rights.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The effective user id of this process.
pub fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[cfg(target_os = "linux")]
pub use linux::become_user;

#[cfg(target_os = "linux")]
mod linux {
    use std::io;
    use std::time::{Duration, Instant};

    use rustix::process::{Gid, Uid};
    use rustix::thread::{
        CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
    };

    /// Longest wait for other threads to end.
    const ALONE_LIMIT: Duration = Duration::from_secs(5);

    /// Becomes another user permanently: no group but `groups`, no capability, and no set-user-ID program can restore
    /// rights.
    ///
    /// # Errors
    /// When another thread runs, because it would keep root's rights, and when the system refuses.
    pub fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
        until_alone()?;
        let groups: Vec<Gid> = groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        // The order matters: a process that is no longer root may change neither its groups nor its group.
        set_thread_groups(&groups)?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
        let none = CapabilitySet::empty();
        set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
        set_no_new_privs(true)?;
        if super::is_root() || set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).is_ok() {
            return Err(io::Error::other("the system lets this process become root again"));
        }
        Ok(())
    }

    /// Waits until this is the only thread: a thread that has read a program's output may still be ending.
    fn until_alone() -> io::Result<()> {
        let began = Instant::now();
        loop {
            let threads = std::fs::read_dir("/proc/self/task")?.count();
            if threads == 1 {
                return Ok(());
            }
            if began.elapsed() > ALONE_LIMIT {
                return Err(io::Error::other(format!("{threads} threads run, and each would keep root's rights")));
            }
            #[expect(clippy::disallowed_methods, reason = "there is no runtime yet")]
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Fails on systems other than Linux.
///
/// # Errors
/// Always: see [`CAN_BE_GIVEN_UP`].
#[cfg(not(target_os = "linux"))]
pub fn become_user(_: u32, _: u32, _: &[u32]) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}
