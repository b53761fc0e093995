//! What waits for one connection beside its notifications: how its user's upstream sessions stand, and what became of
//! its commands. No number orders these frames, and no place depends on one: a lost one is made good when the client
//! comes back.

use std::collections::{BTreeMap, VecDeque};

use crate::domain::ProviderName;
use crate::store::upstream::CommandOutcome;
use crate::store::upstream::SessionView;
use crate::wire::server::ServerFrame;

/// Most results that wait for one connection; a client gives about sixty commands a minute. Full: the oldest goes.
const MOST_RESULTS: usize = 128;

/// A frame that is ready to go. `name` is that of its event, for a stream of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub name: &'static str,
    pub text: String,
}

/// Two a provider and some results: bounded, whatever happens.
#[derive(Debug, Default)]
pub struct Notices {
    shown: BTreeMap<ProviderName, Shown>,
    waiting: VecDeque<(Slot, Notice)>,
}

/// What this connection knows, or will when what waits is sent.
#[derive(Debug, Default, PartialEq, Eq)]
struct Shown {
    status: Option<(&'static str, String)>,
    error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Slot {
    Status(ProviderName),
    Trouble(ProviderName),
    Result,
}

impl Notices {
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub fn take(&mut self) -> Option<Notice> {
        let (_, notice) = self.waiting.pop_front()?;
        if self.waiting.is_empty() {
            self.waiting = VecDeque::new();
        }
        Some(notice)
    }

    /// Shows how a session stands, where the connection does not know it yet. What waits and is not true any more is not sent.
    /// `name_it`: there are several providers, and the frame says which it is about.
    pub fn show(&mut self, view: &SessionView, name_it: bool) {
        let shown = self.shown.entry(view.provider.clone()).or_default();
        let status = view.status.map(|status| (status.as_str(), view.message.clone()));
        let provider = name_it.then(|| view.provider.as_str());
        let mut frames = Vec::new();
        if status != shown.status {
            let frame = status.as_ref().map(|(status, message)| ServerFrame::Status { status, message, provider }.encode());
            frames.push((Slot::Status(view.provider.clone()), frame.map(|text| Notice { name: "status", text })));
            shown.status = status.clone();
        }
        if view.error != shown.error {
            let frame = view.error.as_ref().map(|message| ServerFrame::Trouble { message, provider }.encode());
            // An event of the name `error` would be taken for a broken stream by an EventSource.
            frames.push((Slot::Trouble(view.provider.clone()), frame.map(|text| Notice { name: "upstream_error", text })));
            shown.error.clone_from(&view.error);
        }
        for (slot, notice) in frames {
            self.waiting.retain(|(waiting, _)| *waiting != slot);
            self.waiting.extend(notice.map(|notice| (slot, notice)));
        }
    }

    /// Tells what became of a command.
    pub fn result(&mut self, outcome: &CommandOutcome) {
        let text =
            ServerFrame::CommandResult { id: outcome.tag.as_str(), status: outcome.state.as_str(), detail: outcome.detail.as_deref() }
                .encode();
        if self.waiting.iter().filter(|(slot, _)| *slot == Slot::Result).count() >= MOST_RESULTS
            && let Some(oldest) = self.waiting.iter().position(|(slot, _)| *slot == Slot::Result)
        {
            self.waiting.remove(oldest);
        }
        self.waiting.push_back((Slot::Result, Notice { name: "command_result", text }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{CommandId, CommandState, CommandTag, UserId};
    use crate::store::upstream::sessions::Status;

    fn view(provider: &str, status: Option<Status>, message: &str, error: Option<&str>) -> SessionView {
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

    fn all(notices: &mut Notices) -> Vec<String> {
        std::iter::from_fn(|| notices.take()).map(|notice| notice.text).collect()
    }

    #[test]
    fn a_status_is_told_once_and_only_the_newest_waits() {
        let mut notices = Notices::default();
        notices.show(&view("p", None, "", None), false);
        assert!(notices.is_empty(), "nothing is known yet");
        notices.show(&view("p", Some(Status::Connected), "up", None), false);
        notices.show(&view("p", Some(Status::Connected), "up", None), false);
        notices.show(&view("p", Some(Status::Disconnected), "down", Some("why")), false);
        notices.show(&view("q", Some(Status::Connected), "up", None), true);
        assert_eq!(
            all(&mut notices),
            [
                r#"{"type":"status","status":"disconnected","message":"down"}"#,
                r#"{"type":"error","message":"why"}"#,
                r#"{"type":"status","status":"connected","message":"up","provider":"q"}"#,
            ]
        );
        notices.show(&view("p", Some(Status::Disconnected), "down", Some("why")), false);
        assert!(notices.is_empty(), "told before");
        notices.show(&view("p", Some(Status::Connected), "up", None), false);
        assert_eq!(all(&mut notices), [r#"{"type":"status","status":"connected","message":"up"}"#]);
    }

    #[test]
    fn results_are_bounded_and_crowd_out_no_status() {
        let mut notices = Notices::default();
        notices.show(&view("p", Some(Status::Connected), "up", None), false);
        for n in 0..MOST_RESULTS + 5 {
            let tag = CommandTag::parse(&format!("b-{n}")).unwrap();
            notices.result(&CommandOutcome { id: CommandId::new(), tag, state: CommandState::Sent, detail: None });
        }
        let told = all(&mut notices);
        assert_eq!(told.len(), MOST_RESULTS + 1);
        assert!(told[0].contains("status"));
        assert_eq!(told[1], r#"{"type":"command_result","id":"b-5","status":"sent"}"#);
    }
}
