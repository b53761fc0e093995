//! Encodes membership changes as data of log rows, and reads requests about members.

use serde::{Deserialize, Serialize};

use super::problem::{FieldError, Problem};
use crate::domain::audit::Actor;
use crate::domain::{AccountId, MemberChange, MemberOp, UserId};

/// Most members of one page.
pub const PAGE_MAX: i64 = 1000;
const PAGE_DEFAULT: i64 = 100;

#[derive(Serialize, Deserialize)]
struct ChangeData<'a> {
    op: &'a str,
    user_id: &'a str,
    account_id: &'a str,
}

/// The data of a change's row.
pub fn encode(change: &MemberChange) -> String {
    let data = ChangeData { op: change.op.as_str(), user_id: change.user.as_str(), account_id: change.account.as_str() };
    serde_json::to_string(&data).expect("three strings are always JSON")
}

/// The data of a change's row that names the actor. A trigger of the log records the act by it.
pub fn encode_by(change: &MemberChange, actor: &Actor) -> String {
    #[derive(Serialize)]
    struct ChangeBy<'a> {
        op: &'a str,
        user_id: &'a str,
        account_id: &'a str,
        by: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        from: Option<&'a str>,
    }
    let MemberChange { op, user, account } = change;
    let (by, from) = (actor.who.as_str(), actor.address.as_deref());
    let data = ChangeBy { op: op.as_str(), user_id: user.as_str(), account_id: account.as_str(), by, from };
    serde_json::to_string(&data).expect("five strings are always JSON")
}

/// Reads the data of a change's row; `None` if it is not a change. The trigger `log_changes_members` ignores such a row
/// too.
pub fn parse(data: &str) -> Option<MemberChange> {
    // No id needs an escape, so each can be borrowed.
    let data: ChangeData<'_> = serde_json::from_str(data).ok()?;
    let op = [MemberOp::Add, MemberOp::Remove].into_iter().find(|op| op.as_str() == data.op)?;
    Some(MemberChange { op, user: UserId::parse(data.user_id).ok()?, account: AccountId::parse(data.account_id).ok()? })
}

/// Reads the ids of a path.
///
/// # Errors
/// 422 with every broken rule.
pub fn ids(account: &str, user: Option<&str>) -> Result<(AccountId, Option<UserId>), Problem> {
    let mut errors = Vec::new();
    let account = AccountId::parse(account).map_err(|error| errors.push(FieldError::new("/account", error.to_string())));
    let user = user.map(UserId::parse).transpose().map_err(|error| errors.push(FieldError::new("/user", error.to_string())));
    match (account, user) {
        (Ok(account), Ok(user)) => Ok((account, user)),
        _ => Err(Problem::new(422, "invalid_field", "the path breaks the rules listed in errors").with_errors(errors)),
    }
}

/// The query of a list in the order of user ids: members, or revocations.
#[derive(Debug, PartialEq, Eq)]
pub struct UserPageQuery {
    /// The page begins after this user.
    pub after: Option<UserId>,
    pub limit: i64,
}

impl UserPageQuery {
    /// # Errors
    /// 422 with every broken rule.
    pub fn parse(pairs: &[(String, String)]) -> Result<Self, Problem> {
        let (mut after, mut limit, mut errors) = (None, None, Vec::new());
        for (name, value) in pairs {
            match name.as_str() {
                "after" if after.is_none() => match UserId::parse(value) {
                    Ok(user) => after = Some(user),
                    Err(error) => errors.push(FieldError::new("/after", error.to_string())),
                },
                "limit" if limit.is_none() => match value.parse().ok().filter(|limit| (1..=PAGE_MAX).contains(limit)) {
                    Some(number) => limit = Some(number),
                    None => errors.push(FieldError::new("/limit", format!("must be a number from 1 to {PAGE_MAX}"))),
                },
                "after" | "limit" => errors.push(FieldError::new(format!("/{name}"), "duplicate parameter")),
                _ => errors.push(FieldError::new("", "the parameters are after and limit")),
            }
        }
        if !errors.is_empty() {
            return Err(Problem::new(422, "invalid_field", "the query breaks the rules listed in errors").with_errors(errors));
        }
        Ok(Self { after, limit: limit.unwrap_or(PAGE_DEFAULT) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::audit::Via;

    #[test]
    fn a_change_is_read_as_it_was_written_and_nothing_else_is_a_change() {
        let change = MemberChange { op: MemberOp::Remove, user: UserId::parse("4:2").unwrap(), account: AccountId::parse("a-b").unwrap() };
        assert_eq!(encode(&change), r#"{"op":"remove","user_id":"4:2","account_id":"a-b"}"#);
        assert_eq!(parse(&encode(&change)), Some(change.clone()));
        let actor = Actor { who: "key:shop".into(), via: Via::Rest, address: Some("192.0.2.1".into()) };
        let by = encode_by(&change, &actor);
        assert_eq!(by, r#"{"op":"remove","user_id":"4:2","account_id":"a-b","by":"key:shop","from":"192.0.2.1"}"#);
        assert_eq!(parse(&by), Some(change), "hubs without the audit read it as well");
        for other in [
            "7",
            "{}",
            r#"{"op":"join","user_id":"1","account_id":"2"}"#,
            r#"{"op":"add","user_id":"-","account_id":"2"}"#,
            r#"{"op":"add","user_id":"1"}"#,
            r#"{"op":"add","user_id":1,"account_id":"2"}"#,
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn the_query_of_a_list_is_strict() {
        let parse = |pairs: &[(&str, &str)]| {
            let pairs: Vec<_> = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            UserPageQuery::parse(&pairs).map_err(|problem| problem.errors.into_iter().map(|e| e.pointer).collect::<Vec<_>>())
        };
        assert_eq!(parse(&[]).unwrap(), UserPageQuery { after: None, limit: 100 });
        assert_eq!(parse(&[("limit", "5"), ("after", "ann")]).unwrap().after.unwrap().as_str(), "ann");
        assert_eq!(parse(&[("limit", "0"), ("after", "-"), ("x", "")]).unwrap_err(), ["/limit", "/after", ""]);
        assert_eq!(parse(&[("limit", "1"), ("limit", "1001")]).unwrap_err(), ["/limit"]);
        assert_eq!(ids("a b", Some("-")).unwrap_err().errors.len(), 2);
    }
}
