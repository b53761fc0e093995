//! Posts over one kept connection with hand-written HTTP/1.1, so that the client costs little.

use std::net::SocketAddr;
use std::time::Duration;

use recado::cli::error::CliFailure;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest wait for an answer; the hub promises one within five seconds.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// One connection.
pub struct PostClient {
    stream: TcpStream,
    head: String,
    out: Vec<u8>,
    input: Vec<u8>,
}

impl PostClient {
    pub async fn connect(address: SocketAddr, token: &str) -> Result<Self, CliFailure> {
        Self::connect_for(address, token, "/api/internal/notify").await
    }

    /// Connects a client that posts to this path.
    pub async fn connect_for(address: SocketAddr, token: &str, path: &str) -> Result<Self, CliFailure> {
        let stream = TcpStream::connect(address).await.map_err(|error| broken(&error))?;
        stream.set_nodelay(true).map_err(|error| broken(&error))?;
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n");
        Ok(Self { stream, head, out: Vec::with_capacity(2048), input: Vec::with_capacity(2048) })
    }

    /// Posts a notification and waits until it is committed.
    ///
    /// # Errors
    /// Fails when the connection breaks, or the hub answers anything but 201.
    pub async fn post(&mut self, body: &str, key: Option<&str>) -> Result<(), CliFailure> {
        self.out.clear();
        self.out.extend_from_slice(self.head.as_bytes());
        if let Some(key) = key {
            self.out.extend_from_slice(format!("Idempotency-Key: {key}\r\n").as_bytes());
        }
        self.out.extend_from_slice(format!("Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
        match timeout(ANSWER_LIMIT, self.exchange()).await {
            Ok(Ok(201)) => Ok(()),
            Ok(Ok(status)) => Err(CliFailure::other(format!("the hub answered {status}: {}", String::from_utf8_lossy(&self.input)))),
            Ok(Err(error)) => Err(broken(&error)),
            Err(_) => Err(CliFailure::unavailable("the hub did not answer a post within 10 s")),
        }
    }

    async fn exchange(&mut self) -> std::io::Result<u16> {
        self.stream.write_all(&self.out).await?;
        self.input.clear();
        loop {
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            if let Some((status, length)) = answer(&self.input)
                && self.input.len() >= length
            {
                return Ok(status);
            }
        }
    }
}

fn broken(error: &std::io::Error) -> CliFailure {
    CliFailure::unavailable(format!("a posting connection broke: {error}"))
}

/// Status and total length of an answer whose head is complete. The hub's answers always carry Content-Length.
fn answer(input: &[u8]) -> Option<(u16, usize)> {
    let end = input.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&input[..end]).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok()).flatten()
    })?;
    Some((status, end + 4 + length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_where_it_says() {
        let whole = b"HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(answer(whole), Some((201, whole.len())));
        assert_eq!(answer(&whole[..whole.len() - 2]), Some((201, whole.len())));
        assert_eq!(answer(&whole[..40]), None);
    }
}
