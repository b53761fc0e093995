//! Holds the users whose older tokens are refused.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use chrono::{DateTime, Utc};

use super::claims::{Claims, TokenError};
use crate::domain::{TokenOrigin, UserId};

/// Whose tokens are refused, and from before which time. One for all tasks of a hub; cheap to clone. A user has about
/// 100 bytes of memory here.
#[derive(Debug, Clone, Default)]
pub struct Revocations(Arc<RwLock<HashMap<UserId, DateTime<Utc>>>>);

impl Revocations {
    /// Whether tokens of this origin are refused for this user. A token that does not say when it was issued is refused
    /// as soon as the user has a revocation.
    pub fn refuse(&self, user: &UserId, origin: TokenOrigin) -> bool {
        let revoked = self.0.read().unwrap_or_else(PoisonError::into_inner);
        // Most hubs have none, and every check of a token comes by here.
        if revoked.is_empty() {
            return false;
        }
        let not_before = revoked.get(user);
        not_before.is_some_and(|not_before| origin.issued_at.is_none_or(|issued_at| issued_at < *not_before))
    }

    /// # Errors
    /// [`TokenError::Revoked`].
    pub(super) fn check(&self, claims: Claims) -> Result<Claims, TokenError> {
        if self.refuse(&claims.who.user, claims.origin) { Err(TokenError::Revoked) } else { Ok(claims) }
    }

    pub fn revoke(&self, user: UserId, not_before: DateTime<Utc>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(user, not_before);
    }

    pub fn lift(&self, user: &UserId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(user);
    }

    /// Replaces all of them by what was read from the database.
    pub fn replace(&self, all: impl IntoIterator<Item = (UserId, DateTime<Utc>)>) {
        let all = all.into_iter().collect();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = all;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_refused_if_it_was_issued_before_or_does_not_say_when() {
        let (ann, bob) = (UserId::parse("ann").unwrap(), UserId::parse("bob").unwrap());
        let at = |seconds: i64| DateTime::from_timestamp(1_790_000_000 + seconds, 0);
        let of = |issued_at| TokenOrigin { issued_at, ..TokenOrigin::default() };
        let revocations = Revocations::default();
        assert!(!revocations.refuse(&ann, of(None)));
        revocations.revoke(ann.clone(), at(0).unwrap());
        let refused: Vec<bool> = [None, at(-1), at(0), at(1)].into_iter().map(|at| revocations.refuse(&ann, of(at))).collect();
        assert_eq!(refused, [true, true, false, false]);
        assert!(!revocations.refuse(&bob, of(None)));
        revocations.replace([(bob.clone(), at(0).unwrap())]);
        assert!(revocations.refuse(&bob, of(None)) && !revocations.refuse(&ann, of(None)));
        revocations.lift(&bob);
        assert!(!revocations.refuse(&bob, of(None)));
    }
}
