//! Serves `GET /api/admin/sessions`: the open sessions of all instances, filtered and sorted.
//!
//! The console polls it, so the answer is made without a text of its own for each session: rows borrow from the
//! registry and from the columns that were read, and are written straight into the body.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use chrono::Utc;

use crate::delivery::Connection;
use crate::domain::{AccountId, FilteredSession, Seq, SessionFilter, UserId};
use crate::http::problems::RefusedRequest;
use crate::http::query::{QueryPairs, no_store, pairs};
use crate::http::state::HubState;
use crate::store::console::sessions::{self, InstanceSessions};
use crate::store::providers::admin;
use crate::wire::console::sessions::{Accounts, SessionRow, SessionsHead, SessionsQuery, body};
use crate::wire::server_frame::timestamp;

/// Most sessions of other instances that are read: some 15 MB. `total` counts no more of them.
const ELSEWHERE_MAX: i64 = 100_000;

pub async fn list(State(hub): State<Arc<HubState>>, headers: HeaderMap, query: QueryPairs) -> Result<Response, RefusedRequest> {
    hub.auth.reader(&headers).await?;
    let query = SessionsQuery::parse(&pairs(query)?)?;
    let _turn = hub.console_reads.acquire().await;
    let live = match hub.command_intake {
        Some(_) => admin::live_users(&hub.reader).await?.into_iter().collect(),
        None => HashSet::new(),
    };
    let elsewhere = sessions::open_elsewhere(&hub.reader, hub.instance, ELSEWHERE_MAX).await?;
    // After the reads, so that this instance's sessions are as of now.
    let head = hub.delivery.registry.position().dispatched;
    let here = own_sessions(&hub);
    let answer = SessionList { hub: &hub, head, here: &here, elsewhere: &elsewhere, live: &live }.answer(&query);
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], no_store(), answer).into_response())
}

/// A session of this instance.
struct OwnSession {
    connection: Arc<Connection>,
    /// `None`: those of the token are all.
    accounts: Option<Vec<AccountId>>,
}

/// A connection that has not begun has no position yet, and would look like the slowest.
fn own_sessions(hub: &HubState) -> Vec<OwnSession> {
    let mut sessions = Vec::with_capacity(hub.delivery.registry.count());
    hub.delivery.registry.each(|connection| {
        if connection.has_begun() {
            sessions.push(OwnSession { connection: Arc::clone(connection), accounts: None });
        }
    });
    // Not under the registry's lock.
    for session in &mut sessions {
        session.accounts = session.connection.follows_members().then(|| session.connection.accounts());
    }
    sessions
}

/// The sessions that an answer is made of.
struct SessionList<'a> {
    hub: &'a HubState,
    head: Seq,
    here: &'a [OwnSession],
    elsewhere: &'a [InstanceSessions],
    live: &'a HashSet<UserId>,
}

impl<'a> SessionList<'a> {
    fn answer(&self, query: &SessionsQuery) -> Vec<u8> {
        let mut instances = vec![self.hub.instance.0];
        let mut rows: Vec<SessionRow<'a>> = self.here.iter().filter_map(|session| self.own_row(session, &query.filter)).collect();
        let mut total = self.here.len();
        for of_one in self.elsewhere {
            let at = instances.len();
            instances.push(of_one.instance);
            rows.extend(of_one.rows().inspect(|_| total += 1).filter_map(|session| self.stored_row(session, of_one, at, &query.filter)));
        }
        let matching = rows.len();
        query.sort.first(&mut rows, query.limit);
        let head = SessionsHead { as_of: timestamp(Utc::now()), head: self.head, total, matching, instances };
        body(&head, &rows)
    }

    fn own_row(&self, session: &'a OwnSession, filter: &SessionFilter) -> Option<SessionRow<'a>> {
        let connection = &session.connection;
        let (user, client, transport, acked) =
            (connection.who.user.as_str(), connection.client.as_str(), connection.transport, connection.acked());
        let accounts = session.accounts.as_deref().unwrap_or(&connection.who.accounts);
        let filtered = FilteredSession { user, client, instance: self.hub.instance.0, transport, acked };
        filter.matches(filtered, self.head, |account| accounts.contains(account)).then(|| SessionRow {
            session: connection.session.0,
            user,
            accounts: Accounts::Ids(accounts),
            client,
            instance: 0,
            transport,
            connected_at: connection.connected_at.timestamp_millis(),
            last_activity_at: (connection.connected_at + connection.last_activity()).timestamp_millis(),
            sent: connection.delivered(),
            acked,
            upstream: self.live.contains(user),
            types: connection.types.as_ref().map(|types| Cow::Owned(types.to_string())),
            playground: connection.origin().is_playground,
        })
    }

    fn stored_row(
        &self,
        session: sessions::ListedSession<'a>,
        of_one: &InstanceSessions,
        instance: usize,
        filter: &SessionFilter,
    ) -> Option<SessionRow<'a>> {
        let accounts = Accounts::Joined(session.accounts);
        let filtered = FilteredSession {
            user: session.user,
            client: session.client,
            instance: of_one.instance,
            transport: session.transport,
            acked: session.acked,
        };
        filter.matches(filtered, self.head, |account| accounts.has(account)).then_some(SessionRow {
            session: session.session,
            user: session.user,
            accounts,
            client: session.client,
            instance,
            transport: session.transport,
            connected_at: session.connected_at.timestamp_millis(),
            last_activity_at: session.last_activity_at.timestamp_millis(),
            sent: session.sent,
            acked: session.acked,
            upstream: self.live.contains(session.user),
            types: (!session.types.is_empty()).then_some(Cow::Borrowed(session.types)),
            playground: session.is_playground,
        })
    }
}
