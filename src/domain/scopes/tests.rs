//! Tests the judge of scopes: the table of the guide, and agreement with a naive model.

use proptest::prelude::*;

use super::*;

fn list(entries: &[&str]) -> Option<Vec<String>> {
    Some(entries.iter().map(|entry| (*entry).to_owned()).collect())
}

fn narrow() -> Scopes {
    Scopes { broadcast: false, members: false, read: false, ..Scopes::everything() }
}

fn user(id: &str) -> UserId {
    UserId::parse(id).unwrap()
}

fn account(id: &str) -> AccountId {
    AccountId::parse(id).unwrap()
}

fn to_user(id: &str, within: Option<&str>) -> Audience {
    Audience::User { user: user(id), account: within.map(account) }
}

fn missing(scopes: &Scopes, kind: &str, audience: &Audience) -> Vec<String> {
    let judge = ScopeJudge::new(scopes).expect("it limits");
    judge.of_post(kind, audience).iter().map(|missing| format!("{missing:?}")).collect()
}

#[test]
fn a_key_without_scopes_has_no_judge() {
    assert_eq!(ScopeJudge::new(&Scopes::everything()), None);
    assert!(ScopeJudge::new(&Scopes { broadcast: false, ..Scopes::everything() }).is_some());
    assert!(ScopeJudge::new(&Scopes { rate: Some(5), ..Scopes::everything() }).is_some_and(|judge| judge.may_administer()));
}

#[test]
fn a_pattern_matches_its_prefix_and_an_exact_type_only_itself() {
    let matcher = TypeMatcher::new(&list(&["order_*", "order_created_*", "stock_alert", "a.*", "or*"]).unwrap());
    for (kind, expected) in [
        ("order_created", true),
        ("order_", true),
        ("order", true),
        ("or", true),
        ("o", false),
        ("stock_alert", true),
        ("stock_alert_2", false),
        ("stock_aler", false),
        ("a.b", true),
        ("a", false),
        ("ab", false),
        ("zebra", false),
    ] {
        assert_eq!(matcher.matches(kind), expected, "{kind}");
    }
    assert_eq!(matcher.prefixes.len(), 2, "a prefix that another one covers is dropped");
}

#[test]
fn each_audience_needs_its_scopes() {
    let of_account = Scopes { accounts: list(&["7"]), ..narrow() };
    let of_user = Scopes { users: list(&["42"]), ..narrow() };
    let of_both = Scopes { accounts: list(&["7"]), users: list(&["42"]), broadcast: true, ..narrow() };
    let several = Audience::Users { users: vec![user("42"), user("43")], account: Some(account("7")) };
    for (scopes, audience, expected) in [
        (&of_account, Audience::Everyone, vec!["Broadcast"]),
        (&of_account, Audience::Account(account("7")), vec![]),
        (&of_account, Audience::Account(account("8")), vec!["Account(\"8\")"]),
        (&of_account, to_user("42", None), vec!["AnyAccount"]),
        (&of_account, to_user("42", Some("7")), vec![]),
        (&of_account, several.clone(), vec![]),
        (&of_user, Audience::Everyone, vec!["Broadcast"]),
        (&of_user, Audience::Account(account("7")), vec!["AnyUser"]),
        (&of_user, to_user("42", None), vec![]),
        (&of_user, to_user("42", Some("7")), vec![]),
        (&of_user, to_user("43", None), vec!["User(\"43\")"]),
        (&of_user, several.clone(), vec!["UserOfList(\"43\")"]),
        (&of_both, Audience::Everyone, vec![]),
        (&of_both, Audience::Account(account("7")), vec!["AnyUser"]),
        (&of_both, Audience::Account(account("8")), vec!["Account(\"8\")", "AnyUser"]),
        (&of_both, to_user("42", Some("7")), vec![]),
        (&of_both, to_user("43", Some("8")), vec!["Account(\"8\")", "User(\"43\")"]),
    ] {
        assert_eq!(missing(scopes, "t", &audience), expected, "{scopes:?} {audience:?}");
    }
    let typed = Scopes { types: list(&["order_*"]), ..narrow() };
    assert_eq!(missing(&typed, "cart_updated", &Audience::Everyone), ["Type(\"cart_updated\")", "Broadcast"]);
    assert!(missing(&typed, "order_created", &to_user("42", None)).is_empty());
}

#[test]
fn members_need_their_scope_and_those_of_account_and_user() {
    let judge = |scopes: &Scopes| ScopeJudge::new(scopes).unwrap();
    let (seven, eight, ann) = (account("7"), account("8"), user("ann"));
    let limited = judge(&Scopes { accounts: list(&["7"]), ..narrow() });
    assert_eq!(limited.of_member(&seven, Some(&ann)), [MissingScope::Members]);
    let allowed = judge(&Scopes { accounts: list(&["7"]), users: list(&["ann"]), members: true, ..narrow() });
    assert_eq!(allowed.of_member(&seven, Some(&ann)), []);
    assert_eq!(allowed.of_member(&eight, Some(&ann)), [MissingScope::Account(&eight)]);
    assert_eq!(allowed.of_member(&seven, None), [MissingScope::AnyUser]);
    let typed = judge(&Scopes { types: list(&["x"]), members: true, ..narrow() });
    assert_eq!(typed.of_member(&seven, Some(&ann)), [], "a membership change has no type that a service chooses");
}

#[test]
fn a_consumer_needs_its_name_and_the_limits_of_the_key() {
    let judge = |scopes: &Scopes| ScopeJudge::new(scopes).unwrap();
    let (seven, eight, ann) = (account("7"), account("8"), user("ann"));
    let free = judge(&Scopes { consumers: vec!["billing".to_owned(), "mail*".to_owned()], ..Scopes::everything() });
    for (name, expected) in [("billing", true), ("billing2", false), ("mail", true), ("mailer", true), ("other", false)] {
        assert_eq!(free.may_consume(name), expected, "{name}");
    }
    assert!(free.may_administer() && !free.limits_consumers() && free.of_consumer(None, None).is_empty());
    assert!(!judge(&Scopes { rate: Some(1), ..Scopes::everything() }).may_consume("billing"), "no key has it by default");
    let limited = judge(&Scopes { accounts: list(&["7"]), users: list(&["ann"]), ..narrow() });
    assert_eq!(limited.of_consumer(Some(&seven), Some(&ann)), []);
    assert_eq!(limited.of_consumer(Some(&eight), None), [MissingScope::Account(&eight), MissingScope::AnyUser]);
    assert_eq!(limited.of_consumer(None, Some(&ann)), [MissingScope::AnyAccount]);
}

#[test]
fn a_key_ends_at_its_time_and_is_used_from_its_networks_alone() {
    let at = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
    let judge =
        ScopeJudge::new(&Scopes { expires_at: Some(at), networks: list(&["10.0.0.0/8", "broken"]), ..Scopes::everything() }).unwrap();
    assert_eq!(judge.expired(|| at - chrono::Duration::seconds(1)), None);
    assert_eq!(judge.expired(|| at), Some(at));
    assert!(judge.admits(|| "10.1.2.3".parse().ok()) && !judge.admits(|| "192.0.2.1".parse().ok()) && !judge.admits(|| None));
    let free = ScopeJudge::new(&Scopes { rate: Some(1), ..Scopes::everything() }).unwrap();
    assert!(free.admits(|| unreachable!("no address is needed")) && free.expired(|| unreachable!("no clock is read")).is_none());
}

/// Whether a post is allowed, written as the guide says it and not as the judge does it.
fn allowed(scopes: &Scopes, kind: &str, audience: &Audience) -> bool {
    let pattern = |pattern: &String| match pattern.strip_suffix('*') {
        Some(prefix) => kind.starts_with(prefix),
        None => pattern == kind,
    };
    if scopes.types.as_ref().is_some_and(|types| !types.iter().any(pattern)) {
        return false;
    }
    let (named, within) = match audience {
        Audience::Everyone => return scopes.broadcast,
        Audience::Account(account) => (Vec::new(), Some(account)),
        Audience::User { user, account } => (vec![user.clone()], account.as_ref()),
        Audience::Users { users, account } => (users.clone(), account.as_ref()),
    };
    let in_account = scopes.accounts.as_ref().is_none_or(|list| within.is_some_and(|account| list.contains(&account.to_string())));
    let to_users = scopes.users.as_ref().is_none_or(|list| !named.is_empty() && named.iter().all(|user| list.contains(&user.to_string())));
    in_account && to_users
}

fn entries(alphabet: &'static str) -> impl Strategy<Value = Option<Vec<String>>> {
    prop::option::of(prop::collection::vec(alphabet, 1..5))
}

fn audiences() -> impl Strategy<Value = Audience> {
    let a_user = || "[ab]{1,2}".prop_map(|id| user(&id));
    let an_account = || "[ab]{1,2}".prop_map(|id| account(&id));
    prop_oneof![
        Just(Audience::Everyone),
        an_account().prop_map(Audience::Account),
        (a_user(), prop::option::of(an_account())).prop_map(|(user, account)| Audience::User { user, account }),
        (prop::collection::vec(a_user(), 1..4), prop::option::of(an_account()))
            .prop_map(|(users, account)| Audience::Users { users, account }),
    ]
}

fn scopes() -> impl Strategy<Value = Scopes> {
    (entries("[ab]{1,3}\\*?"), entries("[ab]{1,2}"), entries("[ab]{1,2}"), any::<bool>())
        .prop_map(|(types, accounts, users, broadcast)| Scopes { types, accounts, users, broadcast, ..Scopes::everything() })
}

proptest! {
    #[test]
    fn the_judge_agrees_with_a_naive_model(scopes in scopes(), kind in "[ab]{1,4}", audience in audiences()) {
        let judged = ScopeJudge::new(&scopes).is_none_or(|judge| judge.of_post(&kind, &audience).is_empty());
        prop_assert_eq!(judged, allowed(&scopes, &kind, &audience));
    }

    /// A further list never allows more.
    #[test]
    fn one_more_list_never_allows_more(scopes in scopes(), more in entries("[ab]{1,2}"), kind in "[ab]{1,4}", audience in audiences()) {
        let may = |scopes: &Scopes| ScopeJudge::new(scopes).is_none_or(|judge| judge.of_post(&kind, &audience).is_empty());
        let without = Scopes { users: None, ..scopes.clone() };
        let narrower = may(&Scopes { users: more, ..scopes });
        prop_assert!(may(&without) || !narrower);
    }
}
