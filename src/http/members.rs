//! Serves `/api/internal/accounts/{account}/members`: adds, removes and lists the members of an account.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::time::Instant;

use super::auth::actor;
use super::notify::check_rate;
use super::problems::RefusedRequest;
use super::query::{QueryPairs, cut_page, no_store, pairs};
use super::scopes::check_member;
use super::state::HubState;
use crate::domain::audit::Actor;
use crate::domain::{Audience, BodyHash, MEMBER_TYPE, MemberChange, MemberOp, NewNotification, NotificationId, ServiceCaller};
use crate::log::appender::DEADLINE;
use crate::store::members::{self, Member};
use crate::wire::member::{self, UserPageQuery};
use crate::wire::server_frame::timestamp;

pub async fn add_member(
    State(hub): State<Arc<HubState>>,
    path: Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, RefusedRequest> {
    change(&hub, path, &headers, MemberOp::Add).await
}

pub async fn remove_member(
    State(hub): State<Arc<HubState>>,
    path: Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, RefusedRequest> {
    change(&hub, path, &headers, MemberOp::Remove).await
}

/// Appends the change and answers with its number. A repeat appends another row, which has no effect.
async fn change(
    hub: &HubState,
    Path((account, user)): Path<(String, String)>,
    headers: &HeaderMap,
    op: MemberOp,
) -> Result<Response, RefusedRequest> {
    let deadline = Instant::now() + DEADLINE;
    let caller = hub.auth.caller(headers).await?;
    check_rate(hub, &caller)?;
    let (account, user) = member::ids(&account, Some(&user))?;
    let Some(user) = user else { unreachable!("the path names a user") };
    check_member(&caller, &account, Some(&user))?;
    let change = MemberChange { op, user, account };
    let receipt = hub.appender.append(row(&change, &caller, &actor(headers, &caller)), deadline).await?;
    let answer = json!({
        "success": true,
        "seq": receipt.seq,
        "created_at": timestamp(receipt.created_at),
        "account_id": change.account,
        "user_id": change.user,
        "member": op == MemberOp::Add,
    });
    Ok((no_store(), Json(answer)).into_response())
}

/// The row of a change. It is never replayed, and addressed to no user: only hubs read it.
fn row(change: &MemberChange, caller: &ServiceCaller, actor: &Actor) -> NewNotification {
    NewNotification {
        id: NotificationId::new(),
        kind: MEMBER_TYPE.to_owned(),
        title: String::new(),
        message: String::new(),
        data: Some(member::encode_by(change, actor)),
        audience: Audience::no_user(),
        ttl_seconds: None,
        replay: false,
        inbox: false,
        source: caller.name.clone(),
        key: None,
        body_hash: BodyHash(0),
    }
}

pub async fn list_members(
    State(hub): State<Arc<HubState>>,
    Path(account): Path<String>,
    headers: HeaderMap,
    query: QueryPairs,
) -> Result<Response, RefusedRequest> {
    let caller = hub.auth.caller(&headers).await?;
    check_rate(&hub, &caller)?;
    let (account, _) = member::ids(&account, None)?;
    check_member(&caller, &account, None)?;
    let UserPageQuery { after, limit } = UserPageQuery::parse(&pairs(query)?)?;
    let mut found = members::of_account(&hub.reader, &account, after.as_ref(), limit + 1).await?;
    let next = cut_page(&mut found, limit, |member| member.user.clone());
    let listed = |member: &Member| json!({ "user_id": member.user, "since_seq": member.since, "since": member.since_at.map(timestamp) });
    let answer = json!({ "account_id": account, "members": found.iter().map(listed).collect::<Vec<_>>(), "next": next });
    Ok((no_store(), Json(answer)).into_response())
}
