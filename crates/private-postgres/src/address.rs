//! Builds the URL of a running server.

use super::folders::Folders;
use super::pidfile::PidFile;
use std::path::PathBuf;

/// The name of the superuser, and of the database that every cluster has.
pub(super) const NAME: &str = "recado";

/// Only a part of the socket's name: the server does not listen on TCP.
pub(super) const PORT: u16 = 5432;

/// The socket of a running server.
#[derive(Debug, Clone)]
pub(super) struct ServerAddress {
    pub(super) socket_dir: PathBuf,
    pub(super) port: u16,
}

impl ServerAddress {
    /// Takes the address from the server's pid file.
    pub(super) fn of(file: PidFile, folders: &Folders) -> Self {
        Self { socket_dir: file.socket_dir.unwrap_or_else(|| folders.run.clone()), port: file.port.unwrap_or(PORT) }
    }

    /// Makes a URL for sqlx and psql. Port and TLS mode are explicit, so that PGPORT and PGSSLMODE change nothing.
    pub(super) fn url(&self, database: &str) -> String {
        let host = percent_encoded(&self.socket_dir.to_string_lossy());
        let database = percent_encoded(database);
        let port = self.port;
        format!("postgres:///{database}?host={host}&port={port}&user={NAME}&sslmode=disable")
    }
}

fn percent_encoded(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_carries_any_folder() {
        let address = ServerAddress { socket_dir: PathBuf::from("/tmp/with space/ü&x=y"), port: PORT };
        assert_eq!(
            address.url(NAME),
            "postgres:///recado?host=%2Ftmp%2Fwith%20space%2F%C3%BC%26x%3Dy&port=5432&user=recado&sslmode=disable"
        );
    }
}
