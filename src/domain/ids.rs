//! Defines identifiers that are checked once at the edge and then carried as types.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};
use uuid::{Builder, Uuid};

/// Longest user or account id, in bytes.
const ID_MAX_BYTES: usize = 128;
/// Longest client id, in bytes.
const CLIENT_ID_MAX_BYTES: usize = 64;

/// Why a text is not a valid identifier. Names the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("must be 1 to {max} characters of A-Z a-z 0-9 {signs}")]
    Alphabet { max: usize, signs: &'static str },
    /// Erased notifications and membership changes are addressed to it.
    #[error("must not be - alone: it stands for no user")]
    NoUser,
}

/// The signs of ids that clients and programs choose.
const SIGNS: &str = ". _ : -";
/// The signs of ids that an identity provider chooses, such as `auth0|507f1f77` or an e-mail address. No `/`, which
/// separates the parts of a topic, and no `*`, which is the topic of everyone. No quote, comma, brace or backslash,
/// which have a meaning in lists.
const PROVIDER_SIGNS: &str = ". _ : - | @ + = ~";
/// The user id of rows that are addressed to no user.
const NO_USER: &str = "-";

fn check(text: &str, max: usize, signs: &'static str) -> Result<Arc<str>, IdError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || (b != b' ' && signs.as_bytes().contains(&b));
    if text.is_empty() || text.len() > max || !text.bytes().all(allowed) {
        return Err(IdError::Alphabet { max, signs });
    }
    Ok(Arc::from(text))
}

fn check_user(text: &str, max: usize, signs: &'static str) -> Result<Arc<str>, IdError> {
    if text == NO_USER { Err(IdError::NoUser) } else { check(text, max, signs) }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $max:expr, $signs:expr) => {
        text_id!($(#[$doc])* $name, $max, $signs, check);
    };
    ($(#[$doc:meta])* $name:ident, $max:expr, $signs:expr, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// # Errors
            /// When the text is empty, too long, or contains a character that ids of this kind do not have. `-` alone
            /// is no user id.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                $check(text, $max, $signs).map(Self)
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
    };
}

text_id!(
    /// A user, from the token's `sub`. 1 to 128 characters.
    UserId,
    ID_MAX_BYTES,
    PROVIDER_SIGNS,
    check_user
);
text_id!(
    /// An account (tenant, shop, team) that users belong to. 1 to 128 characters.
    AccountId,
    ID_MAX_BYTES,
    PROVIDER_SIGNS
);
text_id!(
    /// A device or browser profile of a user, with its own position in the log. 1 to 64 characters.
    ClientId,
    CLIENT_ID_MAX_BYTES,
    SIGNS
);

text_id!(
    /// A client's own id for a command, by which a repetition is recognised. 1 to 64 characters.
    CommandTag,
    CLIENT_ID_MAX_BYTES,
    SIGNS
);

impl UserId {
    /// The addressee of rows that no user receives. No token and no post can name it.
    pub fn none() -> Self {
        Self(Arc::from(NO_USER))
    }

    /// Parses an id of a stored row, which may be [`UserId::none`].
    ///
    /// # Errors
    /// As [`UserId::parse`].
    pub fn parse_stored(text: &str) -> Result<Self, IdError> {
        if text == NO_USER { Ok(Self::none()) } else { Self::parse(text) }
    }
}

impl ClientId {
    /// The device of a client that names none.
    pub fn default_device() -> Self {
        Self(Arc::from("default"))
    }
}

/// Creates a UUID of version 7 (RFC 9562); such ids sort roughly by time. The random part comes from the thread's
/// generator, because the library would ask the kernel for each id.
pub fn id_by_time() -> Uuid {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Builder::from_unix_timestamp_millis(u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX), &rand::random()).into_uuid()
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $make:path) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            pub fn new() -> Self {
                Self($make())
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

uuid_id!(
    /// The public id of a notification.
    NotificationId,
    id_by_time
);
uuid_id!(
    /// One connection of one client.
    SessionId,
    id_by_time
);
uuid_id!(
    /// One command of a user to a provider.
    CommandId,
    id_by_time
);
uuid_id!(
    /// One hub process, from its start to its end.
    InstanceId,
    Uuid::new_v4
);
uuid_id!(
    /// The identity of one log; a restored database gets a new one.
    LogId,
    Uuid::new_v4
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_version_7_names_its_millisecond_and_no_other() {
        let before = chrono::Utc::now().timestamp_millis();
        let ids: std::collections::HashSet<Uuid> = (0..1000).map(|_| NotificationId::new().0).collect();
        assert_eq!(ids.len(), 1000);
        for id in ids {
            let (seconds, nanos) = id.get_timestamp().unwrap().to_unix();
            let at = i64::try_from(seconds).unwrap() * 1000 + i64::from(nanos / 1_000_000);
            assert!(id.get_version_num() == 7 && (before..=chrono::Utc::now().timestamp_millis()).contains(&at), "{id}");
        }
    }

    #[test]
    fn an_id_holds_only_its_alphabet() {
        for good in ["42", "a", "A.b_c:d-e", "auth0|507f1f77", "ann+test@example.com", "YWJj=", &"x".repeat(128)] {
            assert!(UserId::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a/b", "é", "a\n", "*", "%", "'", "\0", "\u{202e}", "\"", "\\", ",", "{", "a|b ", &"x".repeat(129)] {
            assert!(UserId::parse(bad).is_err(), "{bad:?}");
        }
        assert!(ClientId::parse("a|b").is_err());
        assert_eq!((UserId::parse("-"), AccountId::parse("-").is_ok(), ClientId::parse("-").is_ok()), (Err(IdError::NoUser), true, true));
        assert_eq!(UserId::parse_stored("-"), Ok(UserId::none()));
        assert!(UserId::parse_stored("a/").is_err() && UserId::parse("--").is_ok());
        assert!(ClientId::parse(&"x".repeat(64)).is_ok());
        assert!(ClientId::parse(&"x".repeat(65)).is_err());
    }
}
