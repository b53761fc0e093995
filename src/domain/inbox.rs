//! Defines inboxes: what a user may change, and the counts.

use serde::Serialize;

use super::{AccountId, Notification, Seq, UserId};

/// The type of the row that changes which items are read, archived and seen. Posts cannot have it.
pub const INBOX_TYPE: &str = "inbox";
/// The type of the row that changes which types are muted. Posts cannot have it.
pub const PREFERENCES_TYPE: &str = "preferences";
/// The type of the row that says that retention or erasure took items away. Posts cannot have it.
pub const RECOUNT_TYPE: &str = "recado_recount";

/// A count of this or more is told as this. `recado.inbox_counts` stops there.
pub const COUNT_MAX: u32 = 1000;
/// Most numbers of one change.
pub const CHANGE_SEQS_MAX: usize = 1000;
/// Most entries of a list of muted types.
pub const MUTED_MAX: usize = 100;

/// What a change does to single items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemOp {
    Read,
    Unread,
    Archive,
    Unarchive,
}

/// What a change does to all items up to a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpToOp {
    Read,
    Archive,
    Seen,
}

/// A change that a user asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InboxChange {
    Items {
        op: ItemOp,
        seqs: Vec<Seq>,
    },
    UpTo {
        op: UpToOp,
        up_to: Seq,
    },
    /// The whole set of muted types.
    Mute(Vec<MutePattern>),
}

impl ItemOp {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Unread => "unread",
            Self::Archive => "archive",
            Self::Unarchive => "unarchive",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Read, Self::Unread, Self::Archive, Self::Unarchive].into_iter().find(|op| op.as_str() == text)
    }
}

impl UpToOp {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Archive => "archive",
            Self::Seen => "seen",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Read, Self::Archive, Self::Seen].into_iter().find(|op| op.as_str() == text)
    }
}

/// A type, or the beginning of types with a `*` after it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MutePattern(String);

impl MutePattern {
    /// `None` unless it is a type, or a beginning of types and one `*`.
    pub fn parse(text: &str) -> Option<Self> {
        let start = text.strip_suffix('*').unwrap_or(text);
        let is_start = text.len() > start.len();
        let is_type = |text: &str| {
            text.len() <= 64
                && text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
                && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-'))
        };
        (is_type(start) || is_start && start.is_empty()).then(|| Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn covers(&self, kind: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(start) => kind.starts_with(start),
            None => self.0 == kind,
        }
    }

    /// Whether some type is covered by both.
    pub fn meets(&self, other: &Self) -> bool {
        match (self.0.strip_suffix('*'), other.0.strip_suffix('*')) {
            (Some(one), Some(two)) => one.starts_with(two) || two.starts_with(one),
            (_, Some(_)) => other.covers(&self.0),
            (_, None) => self.covers(&other.0),
        }
    }
}

/// A change with the user who asks for it.
#[derive(Debug, Clone)]
pub struct AskedChange {
    pub user: UserId,
    pub accounts: Vec<AccountId>,
    pub change: InboxChange,
}

/// The outcome of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// The number of the change's row; `None` when nothing changed.
    Done(Option<Seq>),
    /// Nothing was changed: these numbers, by their places, are no items of the user.
    NoItems(Vec<usize>),
    /// Nothing was changed: the number is above the head of the log.
    BeyondHead,
    /// Nothing was changed: too many items would be read or archived one by one.
    Full,
}

/// Counts of an inbox, for one principal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct InboxCounts {
    /// Items that are neither read nor archived, up to [`COUNT_MAX`].
    pub unread: u32,
    /// Items above the seen watermark that are not archived, up to [`COUNT_MAX`].
    pub unseen: u32,
    /// They hold at this number of the log.
    pub as_of: Seq,
}

/// What the database tells of an inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboxState {
    pub counts: InboxCounts,
    /// The lowest number that was counted; `None` if nothing was.
    pub oldest: Option<Seq>,
    pub muted: Vec<MutePattern>,
}

impl InboxState {
    /// Whether notifications of this type are muted.
    pub fn mutes(&self, kind: &str) -> bool {
        self.muted.iter().any(|pattern| pattern.covers(kind))
    }

    /// Counts an item that follows in the log.
    pub fn add(&mut self, seq: Seq) {
        let InboxCounts { unread, unseen, as_of } = &mut self.counts;
        *unread = (*unread + 1).min(COUNT_MAX);
        *unseen = (*unseen + 1).min(COUNT_MAX);
        *as_of = seq;
        self.oldest.get_or_insert(seq);
    }
}

/// An inbox as an administrator sees it.
#[derive(Debug, Serialize)]
pub struct InboxFacts {
    /// Over all accounts that the user came with.
    #[serde(flatten)]
    pub counts: InboxCounts,
    pub seen_seq: Seq,
    pub read_seq: Seq,
    pub archived_seq: Seq,
    /// Items whose state is not that of the watermarks.
    pub marked: i64,
    pub muted: Vec<String>,
    pub since: Vec<InboxSince>,
}

/// From which number on the items of everyone (`*`) or of an account (`a/ACCOUNT`) count.
#[derive(Debug, Serialize)]
pub struct InboxSince {
    pub topic: String,
    pub seq: Seq,
}

/// What a row of the type [`RECOUNT_TYPE`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recount {
    /// The row's number.
    pub seq: Seq,
    /// Rows up to here are gone.
    pub floor: Seq,
    /// Rows above it may be gone as well.
    pub erased: bool,
    /// The state of an inbox may be gone: what is read, muted, and from where on it counts.
    pub inboxes: bool,
}

/// What the rows of the type [`RECOUNT_TYPE`] have said so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RecountMark {
    /// The highest floor, and the row that told it.
    floor: Seq,
    floor_seq: Seq,
    /// The last row that told an erasure.
    erased_seq: Seq,
    /// The last row that told that the state of an inbox is gone.
    pub inboxes_seq: Seq,
}

impl RecountMark {
    /// Adds what the next such row says.
    pub fn add(&mut self, recount: Recount) {
        if recount.floor > self.floor {
            (self.floor, self.floor_seq) = (recount.floor, recount.seq);
        }
        if recount.erased {
            self.erased_seq = recount.seq;
        }
        if recount.inboxes {
            self.inboxes_seq = recount.seq;
        }
    }

    /// Whether these counts may be too high since.
    pub fn concerns(&self, state: &InboxState) -> bool {
        let as_of = state.counts.as_of;
        state.oldest.is_some_and(|oldest| self.erased_seq > as_of || self.floor_seq > as_of && oldest <= self.floor)
    }
}

impl Notification {
    /// Whether this row changes an inbox. Only connections with an inbox receive it.
    pub fn is_inbox_change(&self) -> bool {
        is_inbox_type(&self.kind)
    }

    /// Whether this row says that items are gone. No client receives it.
    pub fn is_recount(&self) -> bool {
        self.kind == RECOUNT_TYPE && self.audience.is_for_no_user()
    }
}

/// Whether rows of this type change an inbox.
pub fn is_inbox_type(kind: &str) -> bool {
    matches!(kind, INBOX_TYPE | PREFERENCES_TYPE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_a_type_or_a_beginning_of_types() {
        for text in ["order_created", "product_*", "*", "a.b-c*", "7"] {
            assert!(MutePattern::parse(text).is_some(), "{text}");
        }
        for text in ["", "**", "a*b", "A", "-a", "a b", "ä", &"a".repeat(65)] {
            assert!(MutePattern::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn two_patterns_meet_where_one_type_is_in_both() {
        let pattern = |text: &str| MutePattern::parse(text).unwrap();
        for (one, two, meets) in [
            ("security_*", "security_alert", true),
            ("sec*", "security_*", true),
            ("*", "security_alert", true),
            ("security_alert", "security_alert", true),
            ("security_alerts", "security_alert", false),
            ("order_*", "security_*", false),
        ] {
            assert_eq!(pattern(one).meets(&pattern(two)), meets, "{one} {two}");
            assert_eq!(pattern(two).meets(&pattern(one)), meets, "{two} {one}");
        }
    }

    #[test]
    fn a_recount_concerns_counts_of_what_is_gone() {
        let seq = Seq::from_db;
        let counts = InboxCounts { unread: 2, unseen: 0, as_of: seq(20) };
        let state = InboxState { counts, oldest: Some(seq(10)), muted: Vec::new() };
        let mark = |rows: &[(i64, i64, bool)]| {
            let mut mark = RecountMark::default();
            rows.iter()
                .for_each(|(at, floor, erased)| mark.add(Recount { seq: seq(*at), floor: seq(*floor), erased: *erased, inboxes: false }));
            mark
        };
        assert!(mark(&[(21, 10, false)]).concerns(&state) && mark(&[(21, 0, true)]).concerns(&state));
        assert!(mark(&[(21, 10, false), (22, 10, false)]).concerns(&state) && mark(&[(21, 0, true), (22, 9, false)]).concerns(&state));
        assert!(!mark(&[(21, 9, false)]).concerns(&state) && !mark(&[(20, 10, true)]).concerns(&state));
        assert!(!mark(&[(21, 10, true)]).concerns(&InboxState { oldest: None, ..state }));
    }
}
