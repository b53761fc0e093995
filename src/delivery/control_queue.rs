//! Queues control frames for one connection: provider status changes and command results.
//!
//! Control frames have no sequence number, and no position depends on them. A lost frame is replaced when the client
//! reconnects.

use std::collections::{BTreeMap, VecDeque};

use crate::domain::ProviderName;
use crate::store::providers::CommandOutcome;
use crate::store::providers::SessionView;
use crate::wire::server_frame::ServerFrame;

/// Most results that wait for one connection; a client sends about sixty commands a minute. When full, the oldest is
/// dropped.
const MOST_RESULTS: usize = 128;

/// A frame that is ready to be written. `name` is its event name on an SSE stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlFrame {
    pub name: &'static str,
    pub text: String,
}

/// Holds at most two status frames per provider and `MOST_RESULTS` results, so its size is bounded.
#[derive(Debug, Default)]
pub struct ControlQueue {
    shown: BTreeMap<ProviderName, LastShown>,
    waiting: VecDeque<(ControlSlot, ControlFrame)>,
}

/// The status and error that this connection has, or will have once the queue is written.
#[derive(Debug, Default, PartialEq, Eq)]
struct LastShown {
    status: Option<(&'static str, String)>,
    error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum ControlSlot {
    Status(ProviderName),
    Trouble(ProviderName),
    Result,
}

impl ControlQueue {
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub fn take(&mut self) -> Option<ControlFrame> {
        let (_, frame) = self.waiting.pop_front()?;
        if self.waiting.is_empty() {
            self.waiting = VecDeque::new();
        }
        Some(frame)
    }

    /// Queues the status of a provider session if the connection does not have it yet. An outdated frame that still
    /// waits is removed. `name_it` is set if there are several providers; the frame then names its provider.
    pub fn show(&mut self, view: &SessionView, name_it: bool) {
        let shown = self.shown.entry(view.provider.clone()).or_default();
        let status = view.status.map(|status| (status.as_str(), view.message.clone()));
        let provider = name_it.then(|| view.provider.as_str());
        let mut frames = Vec::new();
        if status != shown.status {
            let frame = status.as_ref().map(|(status, message)| ServerFrame::Status { status, message, provider }.encode());
            frames.push((ControlSlot::Status(view.provider.clone()), frame.map(|text| ControlFrame { name: "status", text })));
            shown.status = status.clone();
        }
        if view.error != shown.error {
            let frame = view.error.as_ref().map(|message| ServerFrame::Trouble { message, provider }.encode());
            // An `EventSource` would take an event named `error` for a broken stream.
            frames.push((ControlSlot::Trouble(view.provider.clone()), frame.map(|text| ControlFrame { name: "upstream_error", text })));
            shown.error.clone_from(&view.error);
        }
        for (slot, frame) in frames {
            self.waiting.retain(|(waiting, _)| *waiting != slot);
            self.waiting.extend(frame.map(|frame| (slot, frame)));
        }
    }

    /// Queues the outcome of a command.
    pub fn result(&mut self, outcome: &CommandOutcome) {
        let text =
            ServerFrame::CommandResult { id: outcome.tag.as_str(), status: outcome.state.as_str(), detail: outcome.detail.as_deref() }
                .encode();
        if self.waiting.iter().filter(|(slot, _)| *slot == ControlSlot::Result).count() >= MOST_RESULTS
            && let Some(oldest) = self.waiting.iter().position(|(slot, _)| *slot == ControlSlot::Result)
        {
            self.waiting.remove(oldest);
        }
        self.waiting.push_back((ControlSlot::Result, ControlFrame { name: "command_result", text }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{CommandId, CommandState, CommandTag, UserId};
    use crate::store::providers::sessions::ProviderStatusWord;

    fn view(provider: &str, status: Option<ProviderStatusWord>, message: &str, error: Option<&str>) -> SessionView {
        SessionView {
            provider: ProviderName::parse(provider).unwrap(),
            user: UserId::parse("ann").unwrap(),
            is_live: false,
            status,
            message: message.to_owned(),
            error: error.map(str::to_owned),
            version: 1,
        }
    }

    fn all(queue: &mut ControlQueue) -> Vec<String> {
        std::iter::from_fn(|| queue.take()).map(|frame| frame.text).collect()
    }

    #[test]
    fn a_status_is_told_once_and_only_the_newest_waits() {
        let mut queue = ControlQueue::default();
        queue.show(&view("p", None, "", None), false);
        assert!(queue.is_empty(), "nothing is known yet");
        queue.show(&view("p", Some(ProviderStatusWord::Connected), "up", None), false);
        queue.show(&view("p", Some(ProviderStatusWord::Connected), "up", None), false);
        queue.show(&view("p", Some(ProviderStatusWord::Disconnected), "down", Some("why")), false);
        queue.show(&view("q", Some(ProviderStatusWord::Connected), "up", None), true);
        assert_eq!(
            all(&mut queue),
            [
                r#"{"type":"status","status":"disconnected","message":"down"}"#,
                r#"{"type":"error","message":"why"}"#,
                r#"{"type":"status","status":"connected","message":"up","provider":"q"}"#,
            ]
        );
        queue.show(&view("p", Some(ProviderStatusWord::Disconnected), "down", Some("why")), false);
        assert!(queue.is_empty(), "told before");
        queue.show(&view("p", Some(ProviderStatusWord::Connected), "up", None), false);
        assert_eq!(all(&mut queue), [r#"{"type":"status","status":"connected","message":"up"}"#]);
    }

    #[test]
    fn results_are_bounded_and_crowd_out_no_status() {
        let mut queue = ControlQueue::default();
        queue.show(&view("p", Some(ProviderStatusWord::Connected), "up", None), false);
        for n in 0..MOST_RESULTS + 5 {
            let tag = CommandTag::parse(&format!("b-{n}")).unwrap();
            queue.result(&CommandOutcome { id: CommandId::new(), tag, state: CommandState::Sent, detail: None });
        }
        let told = all(&mut queue);
        assert_eq!(told.len(), MOST_RESULTS + 1);
        assert!(told[0].contains("status"));
        assert_eq!(told[1], r#"{"type":"command_result","id":"b-5","status":"sent"}"#);
    }
}
