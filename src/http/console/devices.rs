//! Serves `GET /api/admin/devices`: the devices of all users, connected and away, with the reason why each lags.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};

use crate::http::auth::actor;
use crate::http::problems::RefusedRequest;
use crate::http::query::{QueryPairs, no_store, pairs};
use crate::http::state::HubState;
use crate::store::console::device_list::{self, DeviceList};
use crate::wire::console::devices::{DevicesBody, DevicesQuery};
use crate::wire::server_frame::timestamp;

/// Most requests that list, or wait to list, all devices on one instance. Each waits for those before it.
pub const DEVICE_LISTS_MAX: usize = 8;
/// Most of one key or subject: a page that is open twice.
pub const DEVICE_LISTS_OF_ONE: usize = 2;

pub async fn list(State(hub): State<Arc<HubState>>, headers: HeaderMap, query: QueryPairs) -> Result<Response, RefusedRequest> {
    let caller = hub.auth.reader(&headers).await?;
    let DevicesQuery { filter, sort, limit } = DevicesQuery::parse(&pairs(query)?)?;
    // The devices of one user are found by their key.
    let _scan = match filter.user {
        None => {
            let place = hub.device_lists.take(actor(&headers, &caller).who)?;
            Some((place, hub.device_scans.take().await))
        }
        Some(_) => None,
    };
    let _turn = hub.console_reads.acquire().await;
    let DeviceList { log, now, devices, more } = device_list::list(&hub.reader, &filter, sort, limit).await?;
    let body = DevicesBody::new(timestamp(now), log.head, now, &devices, more);
    Ok((no_store(), Json(body)).into_response())
}
