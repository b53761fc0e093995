//! Hands the states, results and end of a provider session to the session writer.

use std::time::Duration;

use super::ProviderSession;
use crate::domain::CommandId;
use crate::providers::pending_writes::Settlement;
use crate::providers::session_machine::{CommandResult, HeldState, ReleaseCause, SessionInput};
use crate::providers::session_writer::not_sent;
use crate::store::providers::commands::MarkedSent;
use crate::store::providers::{CheckpointChange, UpstreamState};

/// A refused session is not retried earlier than this, however often its user reloads the page.
const AFTER_REFUSAL: Duration = Duration::from_secs(60);

impl ProviderSession {
    pub(super) fn settle(&self, id: CommandId, outcome: CommandResult) {
        let (outcome, detail) = match outcome {
            CommandResult::Sent => (MarkedSent::Sent, None),
            CommandResult::Rejected => (MarkedSent::Failed, Some("not_connected")),
            CommandResult::Failed => (MarkedSent::Failed, Some("not_written")),
            CommandResult::Unknown => (MarkedSent::Unknown, Some("partly_written")),
        };
        self.shared.pending_writes.settle(&self.mailbox, Settlement { id, outcome, detail });
    }

    pub(super) fn note_state(&mut self, state: HeldState, failures: u32, why: Option<String>, next_try: Option<Duration>) {
        let texts = &self.provider.texts;
        let (state, message) = match state {
            HeldState::SigningIn => (UpstreamState::SigningIn, None),
            HeldState::Connecting => (UpstreamState::Connecting, None),
            HeldState::Live => (UpstreamState::Live, Some(texts.connected.clone())),
            HeldState::BackingOff => (UpstreamState::BackingOff, Some(texts.disconnected.clone())),
        };
        tracing::debug!(session = ?self.mailbox.lease, state = state.as_str(), failures, why, "provider session changed state");
        let error = why.map(|why| texts.error_for(&why));
        let next_try_in = next_try.unwrap_or_default();
        self.change(CheckpointChange { attempts: failures, next_try_in, message, error, ..CheckpointChange::to(state) });
    }

    fn change(&mut self, mut change: CheckpointChange) {
        if std::mem::take(&mut self.secret_is_new) {
            let lease = &self.mailbox.lease;
            let seal = |secret| self.shared.cipher.seal(&lease.provider, &lease.user, secret);
            // A session id that cannot be sealed is not kept: the next owner signs in.
            change.secret = Some(self.secret.as_ref().and_then(|secret| seal(secret).ok()));
        }
        self.shared.pending_writes.change(&self.mailbox, change);
    }

    /// Ends the session. The socket is closed by now. Messages that were read from it must be in the log before the
    /// lease is given back.
    pub(super) async fn end(&mut self, ending: ReleaseCause) {
        tracing::info!(session = ?self.mailbox.lease, ?ending, "provider session released");
        for command in self.mailbox.close() {
            self.shared.pending_writes.settle(&self.mailbox, not_sent(&command));
        }
        if ending == ReleaseCause::LeaseLost {
            // A known outcome of a write stays true, even if the next owner has called it unknown.
            for input in std::mem::take(&mut self.next) {
                if let SessionInput::Written(id, outcome) = input {
                    self.settle(CommandId(id), outcome);
                }
            }
            self.shared.session_store.remove(&self.mailbox.lease);
        }
        self.until_appended().await;
        let ended = |state| CheckpointChange { message: Some(self.provider.texts.disconnected.clone()), ..CheckpointChange::to(state) };
        let error = |why: String| Some(self.provider.texts.error_for(&why));
        let change = match ending {
            ReleaseCause::LeaseLost | ReleaseCause::HandedOver => None,
            ReleaseCause::Waiting { after, early, why } => {
                let (attempts, error) = (self.machine.failures(), why.and_then(&error));
                let ended = ended(UpstreamState::BackingOff);
                Some(CheckpointChange { attempts, next_try_in: after, early_try_in: Some(early), error, ..ended })
            }
            ReleaseCause::Refused { why } => {
                Some(CheckpointChange { next_try_in: AFTER_REFUSAL, error: error(why), ..ended(UpstreamState::Refused) })
            }
            ReleaseCause::Idle => Some(ended(UpstreamState::Idle)),
            ReleaseCause::Released => Some(ended(UpstreamState::Released)),
        };
        if let Some(change) = change {
            self.change(change);
        }
        // The row may still have the lease if only our own clock ended it; releasing it spares the others the wait.
        self.shared.pending_writes.release(&self.mailbox);
    }
}
