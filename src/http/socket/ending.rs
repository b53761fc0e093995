//! Ends a connection: its session first, then its commands and the socket.

use axum::extract::ws::Message;

use super::WebSocketTask;
use crate::http::command_queue::CommandQueue;
use crate::http::websocket_io::CloseCause;
use crate::wire::close::CloseCode;
use crate::wire::server_frame::ServerFrame;

impl WebSocketTask {
    /// Ends the session, and closes the connection.
    pub(super) async fn finish(mut self, cause: CloseCause) {
        // The hub ends the connection: the client was there until now, so the last pong counts.
        if matches!(&cause, CloseCause::Close { close, .. } if !matches!(close, CloseCode::NoPong | CloseCode::SlowConsumer)) {
            self.settle();
        }
        let why = match &cause {
            CloseCause::Close { close, .. } => close.reason(),
            CloseCause::ByClient => "closed_by_client",
            CloseCause::Lost => "lost",
        };
        let session = self.subscription.connection().session;
        tracing::debug!(%session, why, "connection ended");
        // The session ends before the goodbye: a client that reconnects at once finds its acknowledgements recorded. It
        // also ends before its commands are stored, which may take seconds. Until then, a client that returns would
        // count as a second one of its device.
        self.subscription.end(why);
        match cause {
            // The hub ends the connection: its client knows the fate of its commands before it comes back.
            CloseCause::Close { close, after_ms } => {
                store_rest(self.intake).await;
                let goodbye = after_ms.map(|after_ms| Message::Text(ServerFrame::goodbye(close, after_ms).encode().into()));
                self.frames.finish(cause, goodbye).await;
            }
            // A browser waits for the answer to its close.
            CloseCause::ByClient | CloseCause::Lost => {
                self.frames.finish(cause, None).await;
                store_rest(self.intake).await;
            }
        }
    }
}

/// Stores the commands that a connection has left.
async fn store_rest(intake: Option<Box<CommandQueue>>) {
    if let Some(intake) = intake {
        intake.finish().await;
    }
}
