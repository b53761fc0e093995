//! Connects two network namespaces with one wire, as if they were two machines.
//!
//! A hub that is started on the near side's thread lives there, and so do the sockets that are opened there. Only the
//! test uses the namespaces: they go with their last process, however the test ends.

use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::{TcpListener, TcpStream};

use super::host::{programs, root, said};

/// From the range that is reserved for examples (RFC 5737), and in the namespaces alone.
pub const NEAR: &str = "192.0.2.1";
pub const FAR: &str = "192.0.2.2";

/// A network namespace, and the process that keeps it until its input ends.
struct Namespace {
    holder: Child,
    _input: Option<ChildStdin>,
}

impl Namespace {
    fn make() -> Result<Self, String> {
        let mut holder = Command::new("unshare");
        holder.args(["--net", "sh", "-c", "ip link set lo up; cat >/dev/null"]);
        let mut holder =
            holder.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().map_err(|error| error.to_string())?;
        let side = Self { _input: holder.stdin.take(), holder };
        let ours = std::fs::read_link("/proc/self/ns/net").map_err(|error| error.to_string())?;
        for _ in 0..400 {
            if std::fs::read_link(side.path()).is_ok_and(|theirs| theirs != ours) {
                return Ok(side);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err("no network namespace can be had".to_owned())
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.holder.id())
    }

    fn run(&self, words: &str) -> Result<String, String> {
        said(Command::new("nsenter").arg(format!("--net={}", self.path())).args(["--", "sh", "-c", words]))
    }

    /// Runs `act` on a thread of its own in the namespace; processes that it starts stay there.
    fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(self.path()).unwrap();
        let thread = move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            act()
        };
        std::thread::scope(|scope| scope.spawn(thread).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// The wire and its two ends.
pub struct Net {
    near: Namespace,
    far: Namespace,
}

impl Net {
    /// # Errors
    /// Names what this machine lacks for it.
    pub fn make() -> Result<Self, String> {
        root()?;
        programs(&["ip", "tc", "nft", "unshare", "nsenter"])?;
        let net = Self { near: Namespace::make()?, far: Namespace::make()? };
        net.near.run(&format!("ip link add wire type veth peer name wire netns {}", net.far.holder.id()))?;
        for (side, address) in [(&net.near, NEAR), (&net.far, FAR)] {
            side.run(&format!("ip link set lo up && ip address add {address}/24 dev wire && ip link set wire up"))?;
            side.run("nft 'add table ip t; add chain ip t c { type filter hook input priority 0; }'")?;
        }
        Ok(net)
    }

    /// Runs the test's story on the near side.
    pub fn near<T: Send, F: Future<Output = T>>(&self, story: impl FnOnce() -> F + Send) -> T {
        let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        self.near.inside(|| runtime().block_on(story()))
    }

    /// A connection from the far side.
    pub fn connect(&self, address: &str) -> TcpStream {
        let address: SocketAddr = address.parse().unwrap();
        let stream = self.far.inside(|| std::net::TcpStream::connect_timeout(&address, super::PATIENCE)).expect("the hub is reached");
        stream.set_nonblocking(true).unwrap();
        TcpStream::from_std(stream).unwrap()
    }

    /// A listener that the near side can connect to.
    pub fn listen(&self) -> TcpListener {
        let listener = self.far.inside(|| std::net::TcpListener::bind((FAR, 0))).unwrap();
        listener.set_nonblocking(true).unwrap();
        TcpListener::from_std(listener).unwrap()
    }

    /// From now on both ends drop what this rule of nftables matches.
    pub fn drop_where(&self, rule: &str) {
        for side in [&self.near, &self.far] {
            side.run(&format!("nft 'add rule ip t c iifname wire {rule} counter drop'")).unwrap();
        }
    }

    /// Makes the kernel repeat a lost packet after a second at most, where it can (`tcp_rto_max_ms`, Linux 6.15). By
    /// default it waits twice as long each time, up to two minutes: six losses in a row cost 25 s.
    pub fn repeat_each_second(&self) {
        const LIMIT: &str = "/proc/sys/net/ipv4/tcp_rto_max_ms";
        for side in [&self.near, &self.far] {
            side.run(&format!("[ ! -e {LIMIT} ] || echo 1000 >{LIMIT}")).unwrap();
        }
    }

    /// How many packets were dropped so far.
    pub fn dropped(&self) -> u64 {
        let counted = |side: &Namespace| -> u64 {
            let rules = side.run("nft list chain ip t c").unwrap();
            let after = |line: &str| line.split("packets ").nth(1)?.split(' ').next()?.parse::<u64>().ok();
            rules.lines().filter_map(after).sum()
        };
        counted(&self.near) + counted(&self.far)
    }

    pub fn heal(&self) {
        for side in [&self.near, &self.far] {
            side.run("nft flush chain ip t c").unwrap();
        }
    }

    /// Limits both directions, by a token bucket.
    pub fn slow_down_to(&self, rate: &str) {
        for side in [&self.near, &self.far] {
            side.run(&format!("tc qdisc replace dev wire root tbf rate {rate} burst 4kb latency 400ms")).unwrap();
        }
    }
}
