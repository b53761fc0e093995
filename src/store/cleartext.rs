//! Detects a server that asks for the password in clear text without TLS.
//!
//! The client library would send the password. So before the first connection, and when the URL in its file has
//! changed, the hub opens a connection itself and stops at the server's authentication request.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::address::DatabaseAddress;

/// Longest wait for one server.
const LIMIT: Duration = Duration::from_secs(2);
/// `AuthenticationCleartextPassword` (PostgreSQL documentation, message formats).
const CLEARTEXT: u32 = 3;

/// The authentication that the servers of an address request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// One server requests the password in clear text.
    Cleartext,
    /// No server does, or the connection is protected: it uses TLS, or the server is on this machine.
    Nothing,
    /// No server could be reached.
    Unknown,
}

/// Checks the servers that are on another machine and are reached without TLS.
pub(super) async fn asked_at(address: &DatabaseAddress) -> Asked {
    let (mut open, mut reached) = (0, 0);
    for options in address.hosts.iter().filter(|options| DatabaseAddress::is_open_to_listeners(options)) {
        open += 1;
        match tokio::time::timeout(LIMIT, question(options)).await {
            Ok(Ok(CLEARTEXT)) => return Asked::Cleartext,
            Ok(Ok(_)) => reached += 1,
            Ok(Err(_)) | Err(_) => {}
        }
    }
    if open > 0 && reached == 0 { Asked::Unknown } else { Asked::Nothing }
}

async fn question(options: &PgConnectOptions) -> std::io::Result<u32> {
    let mut stream = TcpStream::connect((options.get_host(), options.get_port())).await?;
    let user = options.get_username();
    let mut body = 196_608_u32.to_be_bytes().to_vec();
    for text in ["user", user, "database", options.get_database().unwrap_or(user)] {
        body.extend(text.as_bytes());
        body.push(0);
    }
    body.push(0);
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    stream.write_all(&[&length.to_be_bytes()[..], &body].concat()).await?;
    let mut head = [0; 9];
    stream.read_exact(&mut head).await?;
    // 'R', the message length, and the authentication method.
    let kind = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    Ok(if head[0] == b'R' { kind } else { 0 })
}
