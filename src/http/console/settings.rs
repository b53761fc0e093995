//! Serves `GET /api/admin/settings`: every setting of this hub with its value, without secrets.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};

use crate::http::problems::RefusedRequest;
use crate::http::query::no_store;
use crate::http::state::HubState;
use crate::wire::console::settings::SettingsBody;

pub async fn list(State(hub): State<Arc<HubState>>, headers: HeaderMap) -> Result<Response, RefusedRequest> {
    hub.auth.reader(&headers).await?;
    let body = SettingsBody { settings: &hub.console.settings, playground: hub.console.plays(&headers) };
    Ok((no_store(), Json(body)).into_response())
}
