//! A client that comes back after a storm, and looks at what it gets.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::ws_client::{Next, WsClient};
use crate::backoff::Backoff;
use crate::cli::error::Failure;

/// What `recado listen` waits between two tries.
const WAIT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// The n-th of so many clients, who missed every so many-th of what was appended, beginning with its own.
pub struct Returning {
    pub address: SocketAddr,
    pub token: String,
    pub device: String,
    pub n: usize,
    pub clients: usize,
    pub missed: usize,
}

/// It is live, and has all.
pub struct Back {
    pub socket: WsClient,
    pub took: Duration,
    pub retries: u32,
    /// Of its longest notification.
    pub frame_bytes: usize,
}

/// What it has got, over all its connections.
#[derive(Default)]
struct Got {
    marks: Vec<usize>,
    frame_bytes: usize,
}

impl Returning {
    /// Tries until it is in, as a real client does, and reads until it is live and has what it missed.
    ///
    /// # Errors
    /// When it got something that was not its own, twice on one connection, or in another order.
    pub async fn come(self) -> Result<Back, Failure> {
        let start = Instant::now();
        let mut backoff = Backoff::new(WAIT.0, WAIT.1);
        let mut got = Got::default();
        let mut retries = 0;
        loop {
            let broken = match self.connection(&mut got).await {
                Ok(socket) => return Ok(Back { socket, took: start.elapsed(), retries, frame_bytes: got.frame_bytes }),
                Err(failure) if failure.code == Failure::unavailable("").code => failure,
                Err(failure) => return Err(failure),
            };
            retries += 1;
            if retries == 1 && self.n == 0 {
                eprintln!("the first client tries again: {}", broken.message);
            }
            tokio::time::sleep(backoff.failed()).await;
        }
    }

    async fn connection(&self, got: &mut Got) -> Result<WsClient, Failure> {
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
                    // What an earlier connection brought may come again: that one was not acknowledged.
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

    /// On one connection all are its own, and rising.
    fn is_next(&self, here: &[usize], n: usize) -> Result<(), Failure> {
        if n % self.clients != self.n || n / self.clients >= self.missed {
            return Err(Failure::other(format!("client {} was sent number {n}, which is not for it", self.n)));
        }
        match here.last() {
            Some(last) if *last >= n => Err(Failure::other(format!("client {} was sent number {n} after {last}", self.n))),
            _ => Ok(()),
        }
    }

    fn is_whole(&self, marks: &[usize]) -> Result<(), Failure> {
        let mut sorted = marks.to_vec();
        sorted.sort_unstable();
        match (0..self.missed).map(|turn| self.n + turn * self.clients).find(|n| sorted.binary_search(n).is_err()) {
            Some(n) => Err(Failure::other(format!("client {} never got number {n}", self.n))),
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
