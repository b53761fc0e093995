//! Serves `GET /api/admin/keys`: the service keys, live ones first.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};

use crate::http::problems::RefusedRequest;
use crate::http::query::no_store;
use crate::http::state::HubState;
use crate::store::keys::{self, ListedKey};
use crate::wire::console::keys::{KeyTimes, KeysBody, ShownKey};

pub async fn list(State(hub): State<Arc<HubState>>, headers: HeaderMap) -> Result<Response, RefusedRequest> {
    hub.auth.reader(&headers).await?;
    let keys = keys::list_all(&hub.reader).await?.into_iter().map(shown).collect();
    Ok((no_store(), Json(KeysBody { keys })).into_response())
}

fn shown(key: ListedKey) -> ShownKey {
    let ListedKey { name, role, created_at, revoked_at, scopes, last_used_at } = key;
    ShownKey::of(name, role, scopes, KeyTimes { created_at, last_used_at, revoked_at })
}
