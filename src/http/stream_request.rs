//! Parses and admits stream requests, the same way for every kind of stream.

use std::fmt::Display;

use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::HeaderMap;
use serde::Deserialize;
use uuid::Uuid;

use super::problems::RefusedRequest;
use super::state::HubState;
use crate::delivery::{ConnectRequest, ResumeFrom};
use crate::domain::{ClientId, LogId, NotificationId, Principal, Seq, StartTime, TokenOrigin};
use crate::metrics;
use crate::wire::history::seq;
use crate::wire::problem::{FieldError, Problem};
use crate::wire::type_filter::{TYPES_RULE, TypeFilter};

/// The query of a stream. Other parameters are ignored, because old clients send some of their own.
#[derive(Debug, Deserialize)]
pub struct StreamQuery {
    pub token: Option<String>,
    pub ticket: Option<String>,
    client_id: Option<String>,
    since: Option<String>,
    log_id: Option<String>,
    last_id: Option<String>,
    ack: Option<String>,
    frames: Option<String>,
    types: Option<String>,
    inbox: Option<String>,
    /// The last event of a client that cannot set a header. Two spellings are in use.
    last_event_id: Option<String>,
    #[serde(rename = "lastEventId")]
    last_event_id_too: Option<String>,
}

/// What counts as an acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckMode {
    /// Pongs and ack frames.
    Pong,
    /// Ack frames only.
    Client,
}

/// How frames become messages of a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageLayout {
    /// One frame in each message.
    Single,
    /// What waits goes out together, one frame in each line.
    Lines,
}

/// A stream request without its user, who is named by the token.
#[derive(Debug)]
pub struct StreamRequest {
    client: ClientId,
    since: ResumeFrom,
    log_id: Option<LogId>,
    last_id: Option<NotificationId>,
    types: Option<TypeFilter>,
    has_inbox: bool,
    pub ack_mode: AckMode,
    pub message_layout: MessageLayout,
    /// Whether the stream has the position of a device.
    is_of_device: bool,
    /// The client named the last event that it received, which acknowledges it.
    pub names_last: bool,
}

impl StreamRequest {
    /// Requests the notifications after a position. The stream acknowledges nothing for any device.
    pub fn after(position: Seq, log_id: Option<LogId>, types: Option<TypeFilter>, has_inbox: bool) -> Self {
        let client = ClientId::default_device();
        let since = ResumeFrom::Seq(position);
        Self {
            client,
            since,
            log_id,
            last_id: None,
            types,
            has_inbox,
            ack_mode: AckMode::Client,
            message_layout: MessageLayout::Single,
            is_of_device: false,
            names_last: false,
        }
    }

    pub fn of(self, who: Principal, origin: TokenOrigin, transport: &'static str) -> ConnectRequest {
        let Self { client, since, log_id, last_id, types, has_inbox, is_of_device, .. } = self;
        ConnectRequest { who, origin, client, transport, since, log_id, last_id, types, has_inbox, is_of_device }
    }
}

/// Checks the origin of a page.
///
/// # Errors
/// 403 for a page of another origin.
pub fn check_origin(hub: &HubState, headers: &HeaderMap) -> Result<(), RefusedRequest> {
    if hub.origins.allow(headers) {
        return Ok(());
    }
    hub.origins.log_refused(headers);
    metrics::SIGN_INS_REFUSED.add("foreign_origin", 1);
    let detail = "pages of this origin may not connect; RECADO_ALLOWED_ORIGINS lists those that may";
    Err(Problem::new(403, "foreign_origin", detail).into())
}

/// Counts one request of a user.
///
/// # Errors
/// 429 for a user over the rate.
pub fn check_user_rate(hub: &HubState, who: &Principal) -> Result<(), RefusedRequest> {
    if hub.user_rates.allow(who.user.as_str()) {
        return Ok(());
    }
    let detail = "this user exceeds the request rate RECADO_USER_RATE; a stream delivers new notifications without requests";
    Err(Problem::new(429, "rate_limited", detail).retry_after(1).into())
}

/// Checks whether this hub can open one more stream.
///
/// # Errors
/// 503 while it cannot.
pub fn check_room(hub: &HubState) -> Result<(), RefusedRequest> {
    if hub.health.is_stopping() {
        return Err(Problem::new(503, "draining", "this hub is stopping; connect again to reach another one").retry_after(1).into());
    }
    if !hub.health.log_is_read() {
        return Err(Problem::new(503, "unavailable", "the log cannot be read at the moment; connect again later").retry_after(2).into());
    }
    if hub.delivery.registry.count() >= hub.max_connections {
        return Err(Problem::new(503, "full", "this hub has reached its limit of connections; connect again later").retry_after(5).into());
    }
    Ok(())
}

impl StreamQuery {
    /// Reads the query.
    ///
    /// # Errors
    /// 400 for a malformed query.
    pub fn read(query: Result<Query<Self>, QueryRejection>) -> Result<Self, RefusedRequest> {
        let Query(mut ask) =
            query.map_err(|_| Problem::new(400, "bad_query", "the query is not a list of names and values, each name once"))?;
        // A page without a value writes `client_id=`.
        let Self { token, ticket, client_id, since, log_id, last_id, ack, frames, types, inbox, last_event_id, last_event_id_too } =
            &mut ask;
        for value in [token, ticket, client_id, since, log_id, last_id, ack, frames, types, inbox, last_event_id, last_event_id_too] {
            value.take_if(|text| text.is_empty());
        }
        Ok(ask)
    }

    /// The stream request of the query.
    ///
    /// # Errors
    /// 400 with every rule that the query breaks.
    pub fn wish(&self) -> Result<StreamRequest, RefusedRequest> {
        let mut errors = Vec::new();
        let mut wrong = |name: &str, detail: &dyn Display| errors.push(FieldError::new(format!("/{name}"), detail.to_string()));
        let client = match self.client_id.as_deref().map(ClientId::parse) {
            None => ClientId::default_device(),
            Some(Ok(client)) => client,
            Some(Err(error)) => {
                wrong("client_id", &error);
                ClientId::default_device()
            }
        };
        let since = match self.since.as_deref() {
            None | Some("ack") => ResumeFrom::Ack,
            Some("live") => ResumeFrom::Live,
            Some("earliest") => ResumeFrom::Earliest,
            Some(text) => {
                let start = seq(text).map(ResumeFrom::Seq).or_else(|| StartTime::parse(text).map(ResumeFrom::Time));
                start.unwrap_or_else(|| {
                    wrong("since", &"must be ack, live, earliest, a sequence number, or a time such as 10m or 2026-11-21T16:39:58Z");
                    ResumeFrom::Ack
                })
            }
        };
        let mut uuid = |name: &str, text: Option<&str>| {
            let parsed = text.map(Uuid::parse_str).transpose();
            parsed.unwrap_or_else(|_| {
                wrong(name, &"must be a UUID");
                None
            })
        };
        let log_id = uuid("log_id", self.log_id.as_deref()).map(LogId);
        let last_id = uuid("last_id", self.last_id.as_deref()).map(NotificationId);
        let ack_mode = match self.ack.as_deref() {
            None | Some("pong") => AckMode::Pong,
            Some("client") => AckMode::Client,
            Some(_) => {
                wrong("ack", &"must be pong or client");
                AckMode::Pong
            }
        };
        let message_layout = match self.frames.as_deref() {
            None => MessageLayout::Single,
            Some("lines") => MessageLayout::Lines,
            Some(_) => {
                wrong("frames", &"must be lines, or absent");
                MessageLayout::Single
            }
        };
        let types = self.types.as_deref().and_then(|types| {
            let filter = TypeFilter::parse(types);
            if filter.is_none() {
                wrong("types", &TYPES_RULE);
            }
            filter
        });
        let has_inbox = match self.inbox.as_deref() {
            None | Some("0") => false,
            Some("1") if types.is_some() => {
                wrong("inbox", &"cannot be combined with types: the counts are of all types. Mute types instead");
                true
            }
            Some("1") => true,
            Some(_) => {
                wrong("inbox", &"must be 1 or 0");
                false
            }
        };
        if !errors.is_empty() {
            return Err(Problem::new(400, "bad_query", "the query breaks the rules listed in errors").with_errors(errors).into());
        }
        Ok(StreamRequest {
            client,
            since,
            log_id,
            last_id,
            types,
            has_inbox,
            ack_mode,
            message_layout,
            is_of_device: true,
            names_last: false,
        })
    }

    /// The stream request of the query and of the last event that the client names. Of several positions the highest
    /// counts: an `EventSource` reconnects to its original address, with its newer position in the header, and one of
    /// its replacement libraries adds that position to the query.
    ///
    /// # Errors
    /// As [`StreamQuery::wish`], and for a last event that is not a number.
    pub fn wish_after_event(&self, headers: &HeaderMap) -> Result<StreamRequest, RefusedRequest> {
        let mut wish = self.wish()?;
        let position = |text: Option<&str>| match text.filter(|text| !text.is_empty()) {
            None => Ok(None),
            Some(text) => seq(text).map(Some).ok_or_else(|| {
                let wrong = FieldError::new("/last_event_id", "must be a sequence number: the id of an event of this stream");
                Problem::new(400, "bad_query", "the query breaks the rules listed in errors").with_errors(vec![wrong])
            }),
        };
        let in_header = position(headers.get("last-event-id").map(|value| value.to_str().unwrap_or("?")))?;
        let in_query = position(self.last_event_id.as_deref())?.max(position(self.last_event_id_too.as_deref())?);
        let Some(last) = in_header.max(in_query) else { return Ok(wish) };
        if let ResumeFrom::Seq(since) = wish.since
            && since > last
        {
            // The stream begins after `since`, which acknowledges nothing.
            return Ok(wish);
        }
        if in_query.is_none_or(|in_query| in_query < last) {
            // `last_id` names the notification at the position in the address, not at this newer one.
            wish.last_id = None;
        }
        wish.since = ResumeFrom::Seq(last);
        wish.names_last = true;
        Ok(wish)
    }
}
