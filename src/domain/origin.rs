//! Names the writer of a commit to the log.

use std::fmt;

use super::InstanceId;

/// The writer of a commit, as the hint of `recado.append` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitOrigin {
    /// The appender of an instance.
    Appender(InstanceId),
    /// An outbox relay, under an id of its own.
    OutboxRelay(InstanceId),
    /// The messages of providers that an instance received.
    Providers(InstanceId),
    /// The changes of inboxes that were asked of an instance.
    Inboxes(InstanceId),
    /// A writer that this version does not know.
    Other,
}

impl CommitOrigin {
    /// Reads the text of a hint. Any database client may send one.
    pub fn parse(text: &str) -> Self {
        let (id, kind) = text.split_once('/').map_or((text, None), |(id, kind)| (id, Some(kind)));
        match (id.parse().map(InstanceId), kind) {
            (Ok(id), None) => Self::Appender(id),
            (Ok(id), Some("outbox")) => Self::OutboxRelay(id),
            (Ok(id), Some("upstream")) => Self::Providers(id),
            (Ok(id), Some("inbox")) => Self::Inboxes(id),
            _ => Self::Other,
        }
    }
}

impl fmt::Display for CommitOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Appender(id) => write!(f, "{id}"),
            Self::OutboxRelay(id) => write!(f, "{id}/outbox"),
            Self::Providers(id) => write!(f, "{id}/upstream"),
            Self::Inboxes(id) => write!(f, "{id}/inbox"),
            Self::Other => f.write_str("other"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let id = InstanceId::new();
        let written = [CommitOrigin::Appender(id), CommitOrigin::OutboxRelay(id), CommitOrigin::Providers(id), CommitOrigin::Inboxes(id)];
        for origin in written.into_iter().chain([CommitOrigin::Other]) {
            assert_eq!(CommitOrigin::parse(&origin.to_string()), origin);
        }
        for text in ["", "psql", "1/outbox", &format!("{id}/batch"), &format!("{id}/")] {
            assert_eq!(CommitOrigin::parse(text), CommitOrigin::Other, "{text:?}");
        }
    }
}
