//! Serves `GET /api/admin/analysts`: the logins that read the views in SQL.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};

use crate::http::problems::RefusedRequest;
use crate::http::query::no_store;
use crate::http::state::HubState;
use crate::store::analysts::{self, Analyst};
use crate::wire::console::analysts::{AnalystsBody, ShownAnalyst};

pub async fn list(State(hub): State<Arc<HubState>>, headers: HeaderMap) -> Result<Response, RefusedRequest> {
    hub.auth.reader(&headers).await?;
    let analysts = analysts::list_all(&hub.reader).await?.into_iter().map(shown).collect();
    Ok((no_store(), Json(AnalystsBody { analysts })).into_response())
}

fn shown(analyst: Analyst) -> ShownAnalyst {
    let Analyst { name, connections, made_here, accounts } = analyst;
    ShownAnalyst { name, accounts, connections, made_here }
}
