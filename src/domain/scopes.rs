//! Defines the scopes of a service key, and judges posts and membership changes by them.
//!
//! A scope names what a key may do. A key without scopes may do everything that its role allows. Each kind of scope
//! is judged alone, and a post needs all of them, so one more kind never allows more. The exception is `broadcast`,
//! which is a right of its own: a notification to everyone is in no account and names no user.

use std::collections::HashSet;
use std::net::IpAddr;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{AccountId, Audience, Network, UserId};

#[cfg(test)]
mod tests;

/// Maximum entries of each list. The lists are stored with the key and compared in memory.
pub const SCOPE_ENTRIES_MAX: usize = 1000;

/// The scopes as they are stored. A list that is `None` does not limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Scopes {
    /// Types that may be posted. A `*` at the end stands for any rest.
    pub types: Option<Vec<String>>,
    /// Accounts that each post must be within.
    pub accounts: Option<Vec<String>>,
    /// Users that each post must name, and no others.
    pub users: Option<Vec<String>>,
    /// Whether posts to everyone are allowed.
    pub broadcast: bool,
    /// Whether memberships may be changed and listed.
    pub members: bool,
    /// Whether the routes that read are allowed; they need the role of admins as well.
    pub read: bool,
    /// Posts per second.
    pub rate: Option<u32>,
    pub expires_at: Option<DateTime<Utc>>,
    /// Networks of the clients that may use the key.
    pub networks: Option<Vec<String>>,
    /// Consumers that may be used and created. A `*` at the end stands for any rest. This right is only ever given by
    /// name: a consumer reads what was posted to others.
    pub consumers: Vec<String>,
}

impl Scopes {
    /// No limit of any kind, and no consumer.
    pub const fn everything() -> Self {
        let (broadcast, members, read) = (true, true, true);
        let (types, accounts, users, networks) = (None, None, None, None);
        Self { types, accounts, users, broadcast, members, read, rate: None, expires_at: None, networks, consumers: Vec::new() }
    }
}

/// Scopes in the form in which they are compared with each request. Made once for each look-up of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScopeJudge {
    types: Option<TypeMatcher>,
    accounts: Option<HashSet<Box<str>>>,
    users: Option<HashSet<Box<str>>>,
    broadcast: bool,
    members: bool,
    read: bool,
    rate: Option<u32>,
    expires_at: Option<DateTime<Utc>>,
    networks: Option<Vec<Network>>,
    consumers: TypeMatcher,
}

/// A scope that a request lacks. It holds what the request names, and nothing of what the key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissingScope<'a> {
    Type(&'a str),
    Account(&'a AccountId),
    /// The key is limited to accounts, and the request names none.
    AnyAccount,
    User(&'a UserId),
    /// As [`MissingScope::User`], for the first such user of a list.
    UserOfList(&'a UserId),
    /// The key is limited to users, and the request names none.
    AnyUser,
    Broadcast,
    Members,
    Read,
    Admin,
    Consumer(&'a str),
}

impl ScopeJudge {
    /// `None` for scopes that limit nothing and name no consumer.
    pub fn new(scopes: &Scopes) -> Option<Self> {
        if *scopes == Scopes::everything() {
            return None;
        }
        let set = |list: &Vec<String>| list.iter().map(|entry| entry.as_str().into()).collect();
        Some(Self {
            types: scopes.types.as_deref().map(TypeMatcher::new),
            accounts: scopes.accounts.as_ref().map(set),
            users: scopes.users.as_ref().map(set),
            broadcast: scopes.broadcast,
            members: scopes.members,
            read: scopes.read,
            rate: scopes.rate,
            expires_at: scopes.expires_at,
            // A network that cannot be parsed holds no address. The database accepts none.
            networks: scopes.networks.as_ref().map(|list| list.iter().filter_map(|text| Network::parse(text).ok()).collect()),
            consumers: TypeMatcher::new(&scopes.consumers),
        })
    }

    /// The scopes that a post lacks. Empty, and without an allocation, for a post that is allowed.
    pub fn of_post<'a>(&self, kind: &'a str, audience: &'a Audience) -> Vec<MissingScope<'a>> {
        let mut missing = Vec::new();
        if self.types.as_ref().is_some_and(|types| !types.matches(kind)) {
            missing.push(MissingScope::Type(kind));
        }
        match audience {
            Audience::Everyone => missing.extend((!self.broadcast).then_some(MissingScope::Broadcast)),
            Audience::Account(account) => missing.extend(self.of_account(Some(account)).into_iter().chain(self.of_no_user())),
            Audience::User { user, account } => {
                missing.extend(self.of_account(account.as_ref()));
                missing.extend((!self.has_user(user)).then_some(MissingScope::User(user)));
            }
            Audience::Users { users, account } => {
                missing.extend(self.of_account(account.as_ref()));
                missing.extend(users.iter().find(|user| !self.has_user(user)).map(MissingScope::UserOfList));
            }
        }
        missing
    }

    /// The scopes that a change of a user's membership lacks. `user` is `None` for the list of an account's members.
    pub fn of_member<'a>(&self, account: &'a AccountId, user: Option<&'a UserId>) -> Vec<MissingScope<'a>> {
        let mut missing = Vec::new();
        missing.extend((!self.members).then_some(MissingScope::Members));
        missing.extend(self.of_account(Some(account)));
        match user {
            Some(user) => missing.extend((!self.has_user(user)).then_some(MissingScope::User(user))),
            None => missing.extend(self.of_no_user()),
        }
        missing
    }

    /// Whether the key names this consumer.
    pub fn may_consume(&self, name: &str) -> bool {
        self.consumers.matches(name)
    }

    /// Whether the conditions of a consumer matter: see [`ScopeJudge::of_consumer`].
    pub fn limits_consumers(&self) -> bool {
        self.accounts.is_some() || self.users.is_some()
    }

    /// The scopes that a consumer with these conditions lacks. A key that may only post within accounts, or only to
    /// users, receives no other rows either.
    pub fn of_consumer<'a>(&self, account: Option<&'a AccountId>, user: Option<&'a UserId>) -> Vec<MissingScope<'a>> {
        let of_user = match user {
            Some(user) => (!self.has_user(user)).then_some(MissingScope::User(user)),
            None => self.of_no_user(),
        };
        self.of_account(account).into_iter().chain(of_user).collect()
    }

    /// Whether the routes that read are allowed.
    pub fn may_read(&self) -> bool {
        self.read
    }

    /// Whether the routes that administer are allowed: only for a key that no scope narrows.
    pub fn may_administer(&self) -> bool {
        self.broadcast && self.members && self.read && self.types.is_none() && self.accounts.is_none() && self.users.is_none()
    }

    /// Posts per second.
    pub fn rate(&self) -> Option<u32> {
        self.rate
    }

    /// When the key expired, if it has expired. Reads the clock only for a key that expires at all.
    pub fn expired(&self, now: impl FnOnce() -> DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.expires_at.filter(|at| *at <= now())
    }

    /// Whether the key may be used from an address. `None`: the address is not known.
    pub fn admits(&self, address: impl FnOnce() -> Option<IpAddr>) -> bool {
        let Some(networks) = &self.networks else { return true };
        address().is_some_and(|address| networks.iter().any(|network| network.contains(address)))
    }

    fn of_account<'a>(&self, account: Option<&'a AccountId>) -> Option<MissingScope<'a>> {
        let accounts = self.accounts.as_ref()?;
        match account {
            None => Some(MissingScope::AnyAccount),
            Some(account) => (!accounts.contains(account.as_str())).then_some(MissingScope::Account(account)),
        }
    }

    fn of_no_user<'a>(&self) -> Option<MissingScope<'a>> {
        self.users.is_some().then_some(MissingScope::AnyUser)
    }

    fn has_user(&self, user: &UserId) -> bool {
        self.users.as_ref().is_none_or(|users| users.contains(user.as_str()))
    }
}

/// Matches types, or names of consumers, against exact names and prefixes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct TypeMatcher {
    exact: HashSet<Box<str>>,
    /// Sorted, and none begins with another one.
    prefixes: Vec<Box<str>>,
}

impl TypeMatcher {
    fn new(patterns: &[String]) -> Self {
        let exact = patterns.iter().filter(|pattern| !pattern.ends_with('*')).map(|pattern| pattern.as_str().into()).collect();
        let mut prefixes: Vec<Box<str>> = patterns.iter().filter_map(|pattern| pattern.strip_suffix('*')).map(Into::into).collect();
        prefixes.sort_unstable();
        prefixes.dedup_by(|next, kept| next.starts_with(&**kept));
        Self { exact, prefixes }
    }

    fn matches(&self, kind: &str) -> bool {
        // A prefix of the type sorts before the type or is equal to it. Any other prefix in between would begin with
        // it, and none does, so only the last one can match.
        let above = self.prefixes.partition_point(|prefix| **prefix <= *kind);
        self.prefixes[..above].last().is_some_and(|prefix| kind.starts_with(&**prefix)) || self.exact.contains(kind)
    }
}
