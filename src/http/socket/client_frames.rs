//! Handles what a WebSocket's client sends: acknowledgements, pings, newer tokens, commands.

use std::sync::Arc;

use axum::extract::ws::Message;
use chrono::{DateTime, Utc};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{WebSocketTask, rate_limited};
use crate::domain::CommandTag;
use crate::http::access_watch::take_token;
use crate::http::stream::TokenClock;
use crate::http::websocket_io::CloseCause;
use crate::identity::TokenError;
use crate::metrics;
use crate::providers::command_intake::CommandReceipt;
use crate::wire::client_frame::{self, ClientFrame};
use crate::wire::close::CloseCode;
use crate::wire::server_frame::ServerFrame;

/// Number of refused frames that ends a connection.
const REFUSED_MAX: u32 = 60;

impl WebSocketTask {
    pub(super) async fn hear(&mut self, said: Result<Message, CloseCause>) -> Result<(), CloseCause> {
        let said = said?;
        // Every frame counts, even one that costs next to nothing: there may be a million a second.
        let pause = self.hub.budgets.frames.pace(self.subscription.connection().who.user.as_str());
        self.deaf_until = pause.map(|pause| Instant::now() + pause);
        match said {
            Message::Binary(_) => Err(CloseCode::Binary.into()),
            Message::Pong(payload) => {
                self.pong(&payload);
                Ok(())
            }
            Message::Ping(_) => {
                self.count_message()?;
                self.frames.flush().await
            }
            Message::Text(text) => {
                self.subscription.connection().touch();
                self.hear_text(&text).await
            }
            Message::Close(_) => Err(CloseCause::ByClient),
        }
    }

    async fn hear_text(&mut self, text: &str) -> Result<(), CloseCause> {
        let intake = self.hub.command_intake.clone();
        let frame = client_frame::parse(text, |kind| intake.as_ref().is_some_and(|intake| intake.takes(kind)));
        // Acknowledgements are as many as notifications, so they count as frames only.
        if !matches!(frame, Ok(ClientFrame::Ack(_))) {
            self.count_message()?;
        }
        match frame {
            Ok(ClientFrame::Ack(seq)) => match self.subscription.ack(seq) {
                Ok(()) => Ok(()),
                Err(ahead) => {
                    self.refuse("ack_ahead", &format!("the highest number sent on this connection is {}", ahead.delivered), text).await
                }
            },
            Ok(ClientFrame::Ping { id }) => {
                self.say(&ServerFrame::Pong { timestamp: Utc::now().timestamp_millis(), id: id.as_deref() }).await
            }
            Ok(ClientFrame::Auth { token }) => self.renew(&token, text).await,
            Ok(ClientFrame::Command { kind, tag, payload }) => self.command(kind, tag, payload),
            Err(error) => self.refuse(error.code, &error.message, text).await,
        }
    }

    /// Queues a command. Its result arrives through the control queue; meanwhile the stream goes on.
    fn command(&mut self, kind: String, tag: Option<CommandTag>, payload: Option<String>) -> Result<(), CloseCause> {
        let Some(intake) = self.hub.command_intake.clone() else { return Ok(()) };
        let connection = Arc::clone(self.subscription.connection());
        if !self.hub.budgets.commands.allow(connection.who.user.as_str()) {
            return Err(rate_limited());
        }
        self.intake.get_or_insert_default().take(intake, connection, kind, tag, payload);
        Ok(())
    }

    /// Handles the outcome of storing a command.
    pub(super) async fn on_receipt(&mut self, receipt: CommandReceipt) -> Result<(), CloseCause> {
        match receipt {
            CommandReceipt::Noted | CommandReceipt::Unknown => Ok(()),
            CommandReceipt::OtherCommand(tag) => {
                let id = serde_json::value::to_raw_value(tag.as_str()).ok();
                let message = "another command has this id; this one was not sent. Use a new id";
                self.refuse_frame("command_id_conflict", message, id.as_deref()).await
            }
        }
    }

    /// Accepts a newer token of the same user.
    async fn renew(&mut self, token: &str, text: &str) -> Result<(), CloseCause> {
        let connection = Arc::clone(self.subscription.connection());
        match self.hub.auth.tokens.verify(token).await {
            Ok(claims) if claims.who.user != connection.who.user || claims.role.is_some() => {
                metrics::SIGN_INS_REFUSED.add("identity_changed", 1);
                Err(CloseCode::IdentityChanged.into())
            }
            // The notifications of this connection were chosen by the old accounts.
            Ok(claims) if claims.who.accounts != connection.who.accounts => Err(CloseCode::TokenExpired.into()),
            Ok(claims) => {
                take_token(&self.hub.delivery.registry, self.hub.auth.tokens.revocations(), &connection, claims.origin);
                self.renewed(claims.expires_at).await
            }
            Err(error) => {
                metrics::SIGN_INS_REFUSED.add(error.reason(), 1);
                // If nothing is known against the token, the client may send it again.
                let code = if error == TokenError::Unavailable { "unavailable" } else { "bad_token" };
                self.refuse(code, &error.to_string(), text).await
            }
        }
    }

    /// Goes on with the end of a newer token.
    pub(super) async fn renewed(&mut self, expires_at: DateTime<Utc>) -> Result<(), CloseCause> {
        self.token = TokenClock::until(expires_at);
        self.say(&ServerFrame::AuthOk { expires_at }).await
    }

    /// Refuses a frame; `text` is the frame.
    async fn refuse(&mut self, code: &str, message: &str, text: &str) -> Result<(), CloseCause> {
        self.refuse_frame(code, message, client_frame::frame_id(text).as_deref()).await
    }

    async fn refuse_frame(&mut self, code: &str, message: &str, id: Option<&RawValue>) -> Result<(), CloseCause> {
        self.refused += 1;
        if self.refused >= REFUSED_MAX {
            return Err(CloseCode::ProtocolError.into());
        }
        self.say(&ServerFrame::Error { code, message, id }).await
    }

    fn count_message(&mut self) -> Result<(), CloseCause> {
        let user = self.subscription.connection().who.user.as_str();
        if self.messages.take() && self.hub.budgets.messages.allow(user) {
            return Ok(());
        }
        Err(rate_limited())
    }
}
