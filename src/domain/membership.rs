//! Defines changes of account membership, and intervals of a user in an account.

use super::{AccountId, Notification, Seq, UserId};

/// The type of the row that changes a membership. Posts cannot have it.
pub const MEMBER_TYPE: &str = "recado_member";

/// What a change does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberOp {
    Add,
    Remove,
}

impl MemberOp {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Remove => "remove",
        }
    }
}

/// A change of one user's membership in one account. It is a row of the log, addressed to [`UserId::none`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberChange {
    pub op: MemberOp,
    pub user: UserId,
    pub account: AccountId,
}

/// An interval of a user's membership: rows above `since` and below `until` are the user's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberInterval {
    pub account: AccountId,
    /// The number of the change that added the user.
    pub since: Seq,
    /// The number of the change that removed the user; `None` while the user is a member.
    pub until: Option<Seq>,
}

impl MemberInterval {
    /// Whether the user is a member after the row with this number.
    pub fn is_open_after(&self, seq: Seq) -> bool {
        self.since <= seq && self.until.is_none_or(|until| until > seq)
    }

    /// Whether a row of the account with this number is the user's.
    pub fn has(&self, seq: Seq) -> bool {
        self.since < seq && self.until.is_none_or(|until| until > seq)
    }
}

impl Notification {
    /// Whether this row is a membership change. No client receives it.
    pub fn is_member_change(&self) -> bool {
        self.kind == MEMBER_TYPE && self.audience.is_for_no_user()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_has_the_rows_between_its_two_changes() {
        let seq = Seq::from_db;
        let closed = MemberInterval { account: AccountId::parse("7").unwrap(), since: seq(3), until: Some(seq(6)) };
        let has: Vec<i64> = (1..9).filter(|n| closed.has(seq(*n))).collect();
        let open_after: Vec<i64> = (1..9).filter(|n| closed.is_open_after(seq(*n))).collect();
        assert_eq!((has, open_after), (vec![4, 5], vec![3, 4, 5]));
        let open = MemberInterval { until: None, ..closed };
        assert!(open.has(seq(100)) && open.is_open_after(seq(3)) && !open.has(seq(3)));
    }
}
