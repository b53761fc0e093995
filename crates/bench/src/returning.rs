//! Connects a client that comes back after a storm, and checks what it receives.

use std::net::SocketAddr;
use std::time::Duration;

use recado::backoff::Backoff;
use recado::cli::error::CliFailure;
use tokio::time::Instant;

use super::ws_client::{Next, WsClient};

/// How long `recado listen` waits between two tries.
const WAIT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// The n-th of several clients. Of the appended rows it missed its own n-th and then every row that many clients
/// further.
pub struct Returning {
    pub address: SocketAddr,
    pub token: String,
    pub device: String,
    pub n: usize,
    pub clients: usize,
    pub missed: usize,
}

/// A client that is live again and has received everything.
pub struct Back {
    pub socket: WsClient,
    pub took: Duration,
    pub retries: u32,
    /// Bytes of its longest notification.
    pub frame_bytes: usize,
}

/// What the client has received, over all its connections.
#[derive(Default)]
struct Got {
    marks: Vec<usize>,
    frame_bytes: usize,
}

impl Returning {
    /// Tries until the hub accepts it, as a real client does, then reads until it is live and has what it missed.
    ///
    /// # Errors
    /// Fails when it received a notification that was not its own, twice on one connection, or out of order.
    pub async fn come(self) -> Result<Back, CliFailure> {
        let start = Instant::now();
        let mut backoff = Backoff::new(WAIT.0, WAIT.1);
        let mut got = Got::default();
        let mut retries = 0;
        loop {
            let broken = match self.connection(&mut got).await {
                Ok(socket) => return Ok(Back { socket, took: start.elapsed(), retries, frame_bytes: got.frame_bytes }),
                Err(failure) if failure.code == CliFailure::unavailable("").code => failure,
                Err(failure) => return Err(failure),
            };
            retries += 1;
            if retries == 1 && self.n == 0 {
                eprintln!("the first client tries again: {}", broken.message);
            }
            tokio::time::sleep(backoff.failed()).await;
        }
    }

    async fn connection(&self, got: &mut Got) -> Result<WsClient, CliFailure> {
        let (mut socket, _) = WsClient::connect(self.address, &self.token, &format!("client_id={}", self.device)).await?;
        let mut here = Vec::new();
        let mut is_live = false;
        while !(is_live && got.marks.len() >= self.missed) {
            match socket.next().await? {
                Next::CaughtUp => is_live = true,
                Next::Marked { n, bytes } => {
                    self.is_next(&here, n)?;
                    here.push(n);
                    got.frame_bytes = got.frame_bytes.max(bytes);
                    // An earlier connection did not acknowledge what it received, so the hub may deliver that again.
                    if !got.marks.contains(&n) {
                        got.marks.push(n);
                    }
                }
                Next::Other => {}
            }
        }
        self.is_whole(&got.marks)?;
        Ok(socket)
    }

    /// Checks that the marks on one connection are its own and rising.
    fn is_next(&self, here: &[usize], n: usize) -> Result<(), CliFailure> {
        if n % self.clients != self.n || n / self.clients >= self.missed {
            return Err(CliFailure::other(format!("client {} received number {n}, which is not addressed to it", self.n)));
        }
        match here.last() {
            Some(last) if *last >= n => Err(CliFailure::other(format!("client {} received number {n} after {last}", self.n))),
            _ => Ok(()),
        }
    }

    fn is_whole(&self, marks: &[usize]) -> Result<(), CliFailure> {
        let mut sorted = marks.to_vec();
        sorted.sort_unstable();
        match (0..self.missed).map(|turn| self.n + turn * self.clients).find(|n| sorted.binary_search(n).is_err()) {
            Some(n) => Err(CliFailure::other(format!("client {} did not receive number {n}", self.n))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_foreign_or_twice_is_noticed() {
        let address = "127.0.0.1:1".parse().unwrap();
        let one = Returning { address, token: String::new(), device: String::new(), n: 2, clients: 10, missed: 3 };
        assert!(one.is_whole(&[2, 12, 22]).is_ok() && one.is_whole(&[12, 2, 22]).is_ok());
        assert!(one.is_whole(&[2, 22, 22]).is_err(), "one is missing");
        assert!(one.is_next(&[2], 12).is_ok());
        for (here, n, why) in [(&[2, 12][..], 12, "twice"), (&[22], 12, "back"), (&[], 3, "another's"), (&[], 32, "too far")] {
            assert!(one.is_next(here, n).is_err(), "{why}");
        }
    }
}
