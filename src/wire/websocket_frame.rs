//! Encodes WebSocket frames that are written past the library (RFC 6455 section 5.2).

/// The final frame of a text message.
const FINAL_TEXT: u8 = 0x81;
/// A ping. A control frame is never in parts.
const PING: u8 = 0x89;

/// Replaces `out` by a text message in one frame, as a server sends it: without a mask.
pub fn text(out: &mut Vec<u8>, text: &str) {
    out.clear();
    out.push(FINAL_TEXT);
    match (u8::try_from(text.len()), u16::try_from(text.len())) {
        (Ok(short @ 0..=125), _) => out.push(short),
        (_, Ok(medium)) => {
            out.push(126);
            out.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(text.len() as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(text.as_bytes());
}

/// Appends a ping whose payload is this number in decimal, which is short enough for any control frame.
pub fn push_ping(out: &mut Vec<u8>, number: i64) {
    let payload = number.to_string();
    out.push(PING);
    // At most 20 bytes; a control frame has at most 125.
    out.push(payload.len() as u8);
    out.extend_from_slice(payload.as_bytes());
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    /// The library is the judge, at each length where the encoding changes.
    #[tokio::test]
    async fn the_library_reads_frames_of_every_length() {
        use futures_util::StreamExt;

        let lengths = [0, 1, 125, 126, 127, 65_535, 65_536, 200_000];
        let mut all = Vec::new();
        for length in lengths {
            let mut frame = vec![9];
            text(&mut frame, &"x".repeat(length));
            all.extend(frame);
        }
        let mut reader = WebSocketStream::from_raw_socket(std::io::Cursor::new(all), Role::Client, None).await;
        for length in lengths {
            match reader.next().await {
                Some(Ok(Message::Text(read))) => assert_eq!(read.len(), length),
                other => panic!("{length}: {other:?}"),
            }
        }
    }
    #[tokio::test]
    async fn the_library_reads_a_ping() {
        use futures_util::StreamExt;

        for number in [0, i64::MAX, i64::MIN] {
            let mut frame = Vec::new();
            push_ping(&mut frame, number);
            let mut reader = WebSocketStream::from_raw_socket(std::io::Cursor::new(frame), Role::Client, None).await;
            match reader.next().await {
                Some(Ok(Message::Ping(payload))) => assert_eq!(payload, number.to_string().as_bytes()),
                other => panic!("{other:?}"),
            }
        }
    }
}
