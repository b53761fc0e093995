//! What a client asks for when it connects, and whether it may come at all: the same for every kind of stream.

use std::fmt::Display;

use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::HeaderMap;
use serde::Deserialize;
use uuid::Uuid;

use super::hub::Hub;
use super::problems::Refused;
use crate::delivery::{Opening, Since};
use crate::domain::{ClientId, LogId, NotificationId, Principal, Seq};
use crate::wire::history::seq;
use crate::wire::problem::{FieldError, Problem};

/// The query of a stream. What is not named here is ignored: old clients send things of their own.
#[derive(Debug, Deserialize)]
pub struct Ask {
    pub token: Option<String>,
    pub ticket: Option<String>,
    client_id: Option<String>,
    since: Option<String>,
    log_id: Option<String>,
    last_id: Option<String>,
    ack: Option<String>,
    /// Where a client that can set no header names its last event; two spellings are in use.
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

/// What is asked for, but for whom: that is the token's to say.
#[derive(Debug)]
pub struct Wish {
    client: ClientId,
    since: Since,
    log_id: Option<LogId>,
    last_id: Option<NotificationId>,
    pub ack_mode: AckMode,
}

impl Wish {
    /// To be given what follows a place; confirms nothing for any device.
    pub fn after(place: Seq, log_id: Option<LogId>) -> Self {
        let client = ClientId::default_device();
        Self { client, since: Since::Seq(place), log_id, last_id: None, ack_mode: AckMode::Client }
    }

    pub fn of(self, who: Principal, transport: &'static str) -> Opening {
        let Self { client, since, log_id, last_id, ack_mode: _ } = self;
        Opening { who, client, transport, since, log_id, last_id }
    }
}

/// # Errors
/// 403 for a page of another origin.
pub fn check_origin(hub: &Hub, headers: &HeaderMap) -> Result<(), Refused> {
    if hub.origins.allow(headers) {
        return Ok(());
    }
    let detail = "pages of this origin may not connect; RECADO_ALLOWED_ORIGINS lists those that may";
    Err(Problem::new(403, "foreign_origin", detail).into())
}

/// # Errors
/// 429 for a user who asks more often than one may.
pub fn check_user_rate(hub: &Hub, who: &Principal) -> Result<(), Refused> {
    if hub.user_rates.allow(who.user.as_str()) {
        return Ok(());
    }
    let detail = "this user asks more often than RECADO_USER_RATE allows; a stream tells what is new without being asked";
    Err(Problem::new(429, "rate_limited", detail).retry_after(1).into())
}

/// # Errors
/// 503 while this hub can take no stream.
pub fn check_room(hub: &Hub) -> Result<(), Refused> {
    if hub.health.is_stopping() {
        return Err(Problem::new(503, "draining", "this hub stops; another one will take the connection").retry_after(1).into());
    }
    if !hub.health.log_is_read() {
        return Err(Problem::new(503, "unavailable", "the log cannot be read at the moment; connect again later").retry_after(2).into());
    }
    if hub.delivery.registry.count() >= hub.max_connections {
        return Err(Problem::new(503, "full", "this hub has as many connections as it may have").retry_after(5).into());
    }
    Ok(())
}

impl Ask {
    /// # Errors
    /// 400 for a query that is none.
    pub fn read(query: Result<Query<Self>, QueryRejection>) -> Result<Self, Refused> {
        let Query(ask) =
            query.map_err(|_| Problem::new(400, "bad_query", "the query is not a list of names and values, each name once"))?;
        Ok(ask)
    }

    /// What the query asks for.
    ///
    /// # Errors
    /// 400 with every rule that it breaks.
    pub fn wish(&self) -> Result<Wish, Refused> {
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
            None | Some("ack") => Since::Ack,
            Some("live") => Since::Live,
            Some("earliest") => Since::Earliest,
            Some(number) => seq(number).map(Since::Seq).unwrap_or_else(|| {
                wrong("since", &"must be ack, live, earliest, or a sequence number");
                Since::Ack
            }),
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
        if !errors.is_empty() {
            return Err(Problem::new(400, "bad_query", "the query breaks the rules listed in errors").with_errors(errors).into());
        }
        Ok(Wish { client, since, log_id, last_id, ack_mode })
    }

    /// What the query and the last event that the client names ask for together, and that event's number. The header is
    /// the newer word: an `EventSource` sends it whenever it comes back, to the address that it was made with.
    ///
    /// # Errors
    /// As [`Ask::wish`], and for a last event that is no number.
    pub fn wish_after_event(&self, headers: &HeaderMap) -> Result<(Wish, Option<Seq>), Refused> {
        let mut wish = self.wish()?;
        let in_header = headers.get("last-event-id").map(|value| value.to_str().unwrap_or("?")).filter(|text| !text.is_empty());
        let in_query = self.last_event_id.as_deref().or(self.last_event_id_too.as_deref()).filter(|text| !text.is_empty());
        let Some(named) = in_header.or(in_query) else { return Ok((wish, None)) };
        let Some(last) = seq(named) else {
            let wrong = FieldError::new("/last_event_id", "must be a sequence number: the id of an event of this stream");
            return Err(Problem::new(400, "bad_query", "the query breaks the rules listed in errors").with_errors(vec![wrong]).into());
        };
        if in_header.is_some() {
            // It names the notification at the place that the address began with, not at this one.
            wish.last_id = None;
        }
        wish.since = Since::Seq(last);
        Ok((wish, Some(last)))
    }
}
