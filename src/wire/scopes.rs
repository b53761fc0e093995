//! Writes the refusal of a request that lacks a scope.
//!
//! It names the scope and what in the request needs it. It says nothing of what the key, or another key, may do.

use super::notify::ERRORS_MAX;
use super::problem::{FieldError, Problem};
use crate::domain::MissingScope;

/// How the body names the fields of a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PostWords {
    Notification,
    CloudEvent,
    /// The path of a route of members.
    Path,
    /// The conditions of a consumer.
    Consumer,
}

/// The errors of one item, at `pointer` in the body.
pub fn errors(missing: &[MissingScope<'_>], words: PostWords, pointer: &str) -> Vec<FieldError> {
    missing
        .iter()
        .map(|missing| FieldError::new(format!("{pointer}{}", field(missing, words)), format!("needs the scope {}", scope(missing))))
        .collect()
}

/// The refusal of a request. `done` says what did not happen, such as "nothing was appended".
pub fn refusal(mut errors: Vec<FieldError>, done: &str) -> Problem {
    errors.truncate(ERRORS_MAX);
    let detail = match errors.as_slice() {
        [one] => format!("this request {}, which the key lacks; {done}", one.detail),
        _ => format!("this request needs scopes that the key lacks, listed in errors; {done}"),
    };
    Problem::new(403, "scope_missing", detail).with_errors(errors)
}

fn scope(missing: &MissingScope<'_>) -> String {
    match missing {
        MissingScope::Type(kind) => format!("type:{kind}"),
        MissingScope::Account(account) => format!("account:{account}"),
        MissingScope::AnyAccount => "account:* (it names no account)".to_owned(),
        MissingScope::User(user) | MissingScope::UserOfList(user) => format!("user:{user}"),
        MissingScope::AnyUser => "user:* (it names no user)".to_owned(),
        MissingScope::Broadcast => "broadcast".to_owned(),
        MissingScope::Members => "members".to_owned(),
        MissingScope::Read => "read".to_owned(),
        MissingScope::Admin => "admin (a key without limits)".to_owned(),
        MissingScope::Consumer(name) => format!("consumer:{name}"),
    }
}

fn field(missing: &MissingScope<'_>, words: PostWords) -> &'static str {
    let [account, user, users] = match words {
        PostWords::Notification => ["/account_id", "/user_id", "/user_ids"],
        PostWords::CloudEvent => ["/accountid", "/userid", "/userids"],
        PostWords::Path => ["/account", "/user", "/user"],
        PostWords::Consumer => ["/account_id", "/user_id", "/user_id"],
    };
    match missing {
        MissingScope::Type(_) => "/type",
        MissingScope::Account(_) | MissingScope::AnyAccount => account,
        MissingScope::User(_) | MissingScope::AnyUser => user,
        MissingScope::UserOfList(_) => users,
        MissingScope::Broadcast => "/broadcast",
        MissingScope::Consumer(_) => "/name",
        MissingScope::Members | MissingScope::Read | MissingScope::Admin => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{AccountId, UserId};

    #[test]
    fn a_refusal_names_the_scope_and_the_field_in_the_words_of_the_body() {
        let (account, user) = (AccountId::parse("7").unwrap(), UserId::parse("42").unwrap());
        let missing = [MissingScope::Type("order_created"), MissingScope::Account(&account), MissingScope::UserOfList(&user)];
        let pointers = |words, at| errors(&missing, words, at).into_iter().map(|e| e.pointer).collect::<Vec<_>>();
        assert_eq!(pointers(PostWords::Notification, "/items/3"), ["/items/3/type", "/items/3/account_id", "/items/3/user_ids"]);
        assert_eq!(pointers(PostWords::CloudEvent, ""), ["/type", "/accountid", "/userids"]);
        let one = refusal(errors(&missing[..1], PostWords::Notification, ""), "nothing was appended");
        assert_eq!((one.status, one.code), (403, "scope_missing"));
        assert_eq!(one.detail, "this request needs the scope type:order_created, which the key lacks; nothing was appended");
        let several = refusal(errors(&missing, PostWords::Notification, ""), "nothing was appended");
        assert_eq!((several.errors.len(), several.errors[1].detail.as_str()), (3, "needs the scope account:7"));
    }
}
