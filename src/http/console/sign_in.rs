//! Serves `POST /api/admin/sign-in`: exchanges a link for an admin's token, once.
//!
//! The history of a browser keeps a link as it was opened, so the link itself is good for minutes and for this exchange
//! alone. If the hub ends after the database has noted the use and before the answer, the link is lost: the admin
//! makes another one. If the database ends before it has noted the use, no token was handed out, and the link is still
//! good.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use chrono::Utc;

use crate::domain::UserId;
use crate::domain::audit::{Actor, Via};
use crate::http::auth::audited_address;
use crate::http::connection_slots::{SlotClass, vouch};
use crate::http::problems::RefusedRequest;
use crate::http::query::no_store;
use crate::http::request::{BODY_MAX_BYTES, Media, media, whole_body};
use crate::http::state::HubState;
use crate::http::stream_request::check_origin;
use crate::identity::sign_in_link::{CONSOLE_SUBJECT, LINK_LIFE, LinkError};
use crate::metrics::SIGN_INS_REFUSED;
use crate::store::keys;
use crate::store::sign_in_links::{self, LinkUse, UsedLink};
use crate::wire::console::sign_in::SignInBody;
use crate::wire::console::tokens::MintedBody;
use crate::wire::problem::Problem;
use crate::wire::server_frame::timestamp;

pub async fn exchange(State(hub): State<Arc<HubState>>, headers: HeaderMap, body: Body) -> Result<Response, RefusedRequest> {
    hub.console.check_served(&headers)?;
    check_origin(&hub, &headers)?;
    media(&headers, &[Media::Json])?;
    let SignInBody { link: token } = SignInBody::parse(&whole_body(&headers, body, BODY_MAX_BYTES).await?)?;
    let link = hub.console.links.read(&token, Utc::now()).map_err(unreadable)?;
    let admin = UserId::parse(CONSOLE_SUBJECT).map_err(|_| not_made())?;
    // Before the link is used: a token that cannot be made would waste it.
    let minted = hub.console.minter.for_console(admin, link.issued_at, link.session).map_err(|_| not_made())?;
    let actor = Actor { who: format!("token:{CONSOLE_SUBJECT}"), via: Via::Rest, address: audited_address(&headers) };
    let used = UsedLink { hash: &keys::hash(&token), subject: CONSOLE_SUBJECT, issued_at: link.issued_at, expires_at: minted.expires_at };
    match sign_in_links::take(&hub.reader, used, &actor).await? {
        LinkUse::Done => {}
        LinkUse::UsedBefore => return Err(refused("link_used", "this link was used before: it signs in once")),
        LinkUse::Revoked => return Err(refused("token_revoked", "this link was revoked by recado revoke console")),
    }
    vouch(SlotClass::Service);
    tracing::info!(session_s = link.session.as_secs(), "an admin signed in to the console with a link");
    Ok((no_store(), Json(MintedBody { token: minted.token, expires_at: timestamp(minted.expires_at) })).into_response())
}

fn unreadable(error: LinkError) -> RefusedRequest {
    match error {
        LinkError::NotOurs => refused("unauthorized", "this is no link to the console of this hub"),
        LinkError::Expired => {
            let minutes = LINK_LIFE.as_secs() / 60;
            refused("link_expired", &format!("this link has expired: it can be used for {minutes} minutes"))
        }
        LinkError::Early => refused("unauthorized", "this link was made on a machine whose clock is ahead of the hub's; correct the clock"),
    }
}

/// A refused link, with what to do.
fn refused(code: &'static str, why: &str) -> RefusedRequest {
    let reason = match code {
        "link_expired" | "link_used" => code,
        "token_revoked" => "revoked",
        _ => "link_forged",
    };
    SIGN_INS_REFUSED.add(reason, 1);
    Problem::new(401, code, format!("{why}. Run recado admin for a new link")).into()
}

fn not_made() -> Problem {
    Problem::new(500, "internal", "the token could not be made")
}
