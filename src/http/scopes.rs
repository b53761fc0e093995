//! Refuses requests that the scopes of their service key do not allow.

use axum::http::HeaderMap;
use chrono::Utc;

use super::connection_slots::client_address;
use super::problems::RefusedRequest;
use crate::domain::{AccountId, ConsumerName, MissingScope, Role, ScopeJudge, ServiceCaller, UserId};
use crate::store::consumers::ConsumerAudience;
use crate::wire::notify::NotifyBody;
use crate::wire::problem::Problem;
use crate::wire::scopes::{PostWords, errors, refusal};

const NOT_APPENDED: &str = "nothing was appended";
const NOT_DONE: &str = "nothing was done";

/// Checks when and from where a key is used.
///
/// # Errors
/// 401 for a key that has expired, 403 for an address outside the networks of the key.
pub fn admit(scopes: &ScopeJudge, headers: &HeaderMap) -> Result<(), RefusedRequest> {
    if let Some(at) = scopes.expired(Utc::now) {
        let at = at.format("%Y-%m-%dT%H:%M:%SZ");
        let detail = format!("the service key expired at {at}; an administrator renews it with recado key limit, or creates another");
        return Err(Problem::new(401, "unauthorized", detail).into());
    }
    if !scopes.admits(|| client_address(headers)) {
        let from = client_address(headers).map_or_else(|| "an unknown address".to_owned(), |address| address.to_string());
        return Err(Problem::new(403, "forbidden", format!("this service key may not be used from {from}")).into());
    }
    Ok(())
}

/// Checks one post.
///
/// # Errors
/// 403 with each scope that the post needs and the key lacks.
pub fn check_post(caller: &ServiceCaller, body: &NotifyBody, words: PostWords) -> Result<(), Problem> {
    let Some(scopes) = &caller.scopes else { return Ok(()) };
    let missing = scopes.of_post(&body.kind, &body.audience);
    refuse(&missing, words, NOT_APPENDED)
}

/// Checks the items of a batch. `root` points to their list.
///
/// # Errors
/// 403 for the whole batch, with a pointer to each item that needs a scope which the key lacks.
pub fn check_items(caller: &ServiceCaller, items: &[NotifyBody], words: PostWords, root: &str) -> Result<(), Problem> {
    let Some(scopes) = &caller.scopes else { return Ok(()) };
    let mut found = Vec::new();
    for (at, item) in items.iter().enumerate() {
        let missing = scopes.of_post(&item.kind, &item.audience);
        if !missing.is_empty() {
            found.extend(errors(&missing, words, &format!("{root}/{at}")));
        }
    }
    if found.is_empty() { Ok(()) } else { Err(refusal(found, NOT_APPENDED)) }
}

/// Checks a change of a membership, or with `user` as `None` the list of an account's members.
///
/// # Errors
/// 403 with each scope that the key lacks.
pub fn check_member(caller: &ServiceCaller, account: &AccountId, user: Option<&UserId>) -> Result<(), Problem> {
    let Some(scopes) = &caller.scopes else { return Ok(()) };
    refuse(&scopes.of_member(account, user), PostWords::Path, NOT_DONE)
}

/// Checks whether a caller may use a consumer: with a key that names it, or as an admin without limits, who may read
/// the whole log anyway.
///
/// # Errors
/// 403 with the scope.
pub fn check_consumer(caller: &ServiceCaller, name: &ConsumerName) -> Result<(), Problem> {
    let may = match &caller.scopes {
        Some(scopes) => scopes.may_consume(name.as_str()) || caller.role == Role::Admin && scopes.may_administer(),
        None => caller.role == Role::Admin,
    };
    let missing = [MissingScope::Consumer(name.as_str())];
    refuse(if may { &[] } else { &missing }, PostWords::Consumer, NOT_DONE)
}

/// Checks the conditions of a consumer, for a key that is limited to accounts or users.
///
/// # Errors
/// 403 with each scope that the key lacks.
pub fn check_consumer_audience(caller: &ServiceCaller, audience: &ConsumerAudience) -> Result<(), Problem> {
    let Some(scopes) = &caller.scopes else { return Ok(()) };
    let ConsumerAudience { user, account } = audience;
    refuse(&scopes.of_consumer(account.as_ref(), user.as_ref()), PostWords::Consumer, NOT_DONE)
}

/// Checks a request for a route that reads.
///
/// # Errors
/// 403 for a key without the scope.
pub fn check_read(caller: &ServiceCaller) -> Result<(), Problem> {
    let may = caller.scopes.as_ref().is_none_or(|scopes| scopes.may_read());
    refuse(if may { &[] } else { &[MissingScope::Read] }, PostWords::Path, NOT_DONE)
}

/// Checks a request for a route that administers.
///
/// # Errors
/// 403 for a key with any limit on what it may do.
pub fn check_admin(caller: &ServiceCaller) -> Result<(), Problem> {
    let may = caller.scopes.as_ref().is_none_or(|scopes| scopes.may_administer());
    refuse(if may { &[] } else { &[MissingScope::Admin] }, PostWords::Path, NOT_DONE)
}

fn refuse(missing: &[MissingScope<'_>], words: PostWords, done: &str) -> Result<(), Problem> {
    if missing.is_empty() { Ok(()) } else { Err(refusal(errors(missing, words, ""), done)) }
}
