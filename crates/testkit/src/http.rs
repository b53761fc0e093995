//! Reads and answers single HTTP requests as bytes, also wrongly.

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Longest request that is read.
const REQUEST_MAX_BYTES: usize = 64 << 10;

/// The head and the body of the next request; `None` when the connection ends before, or the request is too long.
pub async fn request(stream: &mut TcpStream) -> Option<(String, String)> {
    let (mut bytes, mut piece) = (Vec::new(), [0; 2048]);
    let mut wanted = None;
    loop {
        let read = stream.read(&mut piece).await.ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&piece[..read]);
        if wanted.is_none()
            && let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n")
        {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let length: usize = header(&head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            wanted = Some((head, end + 4, length));
        }
        match &mut wanted {
            Some((head, begin, length)) if bytes.len() >= *begin + *length => {
                return Some((std::mem::take(head), String::from_utf8_lossy(&bytes[*begin..]).into_owned()));
            }
            _ if bytes.len() > REQUEST_MAX_BYTES => return None,
            _ => {}
        }
    }
}

/// The first value of a header.
pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

/// A whole answer, after which the connection ends. `headers` are lines with their ends.
pub fn answer(status: u16, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status} Scripted\r\n{headers}Content-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

/// The accept key for a WebSocket handshake; `None` for any other request.
pub fn accept_key(head: &str) -> Option<String> {
    Some(derive_accept_key(header(head, "sec-websocket-key")?.as_bytes()))
}

/// The answer to a WebSocket handshake.
pub fn switching(accept_key: &str) -> String {
    format!("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept_key}\r\n\r\n")
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    async fn read(pieces: &[&[u8]]) -> Option<(String, String)> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let write = async move {
            for piece in pieces {
                let _ = client.write_all(piece).await;
            }
            let _ = client.shutdown().await;
            client
        };
        tokio::join!(request(&mut server), write).0
    }

    #[tokio::test]
    async fn a_request_is_read_to_the_end_of_its_body() {
        let (head, body) = read(&[b"POST /a HTTP/1.1\r\ncontent-", b"Length: 4\r\n\r\nab", b"cd"]).await.unwrap();
        assert_eq!((header(&head, "Content-Length"), body.as_str()), (Some("4"), "abcd"));
        assert_eq!(read(&[b"GET / HTTP/1.1\r\n\r\n"]).await.unwrap(), ("GET / HTTP/1.1".to_owned(), String::new()));
        assert_eq!(read(&[b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nab"]).await, None, "the body is cut short");
        assert_eq!(read(&[b"GET / HTTP/1.1\r\n", &vec![b'a'; REQUEST_MAX_BYTES + 1]]).await, None, "the head is too long");
    }

    #[test]
    fn a_handshake_is_answered_with_its_key() {
        // The example of RFC 6455, section 1.3.
        let head = "GET /chat HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
        assert_eq!(accept_key(head).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(accept_key("GET / HTTP/1.1"), None);
    }
}
