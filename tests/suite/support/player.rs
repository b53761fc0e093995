//! Runs a device that sends commands, reconnects to any hub, and tracks each result.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use recado_torture_check::upstream_history::{CommandTold, DeviceStream};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::{Addresses, ClientSawFrame, TestClient};

/// Phases of the players.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PlayPhase {
    /// Send commands, and change the hub every few seconds.
    Play,
    /// Send no new ones; repeat those without a known result.
    AskAgain,
    /// Read up to this number of the log, and end.
    Finish(i64),
}

/// Everything that a player has seen.
pub struct Played {
    pub stream: DeviceStream,
    pub given: BTreeSet<String>,
    pub told: Vec<CommandTold>,
}

pub struct Player {
    user: String,
    device: String,
    addresses: Addresses,
    phase: watch::Receiver<PlayPhase>,
    random: StdRng,
    log_id: Option<String>,
    place: i64,
    untold: BTreeSet<String>,
    next: u32,
    played: Played,
}

impl Player {
    pub fn new(user: &str, device: &str, addresses: &Addresses, phase: watch::Receiver<PlayPhase>, seed: u64) -> Self {
        let stream = DeviceStream { user: user.to_owned(), device: device.to_owned(), from: 0, got: Vec::new() };
        Self {
            user: user.to_owned(),
            device: device.to_owned(),
            addresses: addresses.clone(),
            phase,
            random: StdRng::seed_from_u64(seed),
            log_id: None,
            place: 0,
            untold: BTreeSet::new(),
            next: 0,
            played: Played { stream, given: BTreeSet::new(), told: Vec::new() },
        }
    }

    /// `open` counts the commands without a known result.
    pub async fn play(mut self, open: watch::Sender<usize>) -> Played {
        loop {
            let Some(client) = self.connect().await else {
                sleep(Duration::from_millis(100)).await;
                continue;
            };
            self.over(client, &open).await;
            if self.is_done() {
                return self.played;
            }
        }
    }

    fn is_done(&self) -> bool {
        matches!(*self.phase.borrow(), PlayPhase::Finish(last) if self.place >= last && self.untold.is_empty())
    }

    async fn connect(&mut self) -> Option<TestClient> {
        let address = self.addresses.pick(self.random.random_range(0..1000))?;
        let mut asked = TestClient::of(&self.user).device(&self.device).query("ack", "client").since(self.place);
        if let Some(log_id) = &self.log_id {
            asked = asked.query("log_id", log_id);
        }
        // A frozen hub accepts the connection and sends nothing.
        let client = timeout(Duration::from_secs(3), asked.try_connect(&address)).await.ok()?.ok()?;
        assert!(["ok", "live"].contains(&client.resume_status()), "{}", client.hello);
        self.log_id = Some(client.log_id().to_owned());
        Some(client)
    }

    async fn over(&mut self, mut client: TestClient, open: &watch::Sender<usize>) {
        let leaves = Instant::now() + Duration::from_millis(self.random.random_range(1500..7000));
        let mut speaks = Instant::now();
        loop {
            let phase = *self.phase.borrow();
            if self.is_done() || (phase == PlayPhase::Play && Instant::now() >= leaves) {
                return;
            }
            if Instant::now() >= speaks {
                match phase {
                    PlayPhase::Play => {
                        let id = format!("{}-{}-{}", self.user, self.device, self.next);
                        self.next += 1;
                        self.played.given.insert(id.clone());
                        self.untold.insert(id.clone());
                        say(&client, &id);
                        speaks = Instant::now() + Duration::from_millis(self.random.random_range(300..900));
                    }
                    PlayPhase::AskAgain | PlayPhase::Finish(_) => {
                        for id in self.untold.iter().take(6) {
                            say(&client, id);
                        }
                        speaks = Instant::now() + Duration::from_secs(3);
                    }
                }
            }
            let wait = speaks.saturating_duration_since(Instant::now()).min(Duration::from_millis(200));
            let frame = client.try_next(wait).await;
            self.place = self.place.max(client.given);
            match frame {
                Some(ClientSawFrame::Notification(notification)) => self.played.stream.got.push(notification.seq),
                // A command that may not be stored counts as unreported: repeating it gives the answer.
                Some(ClientSawFrame::Other(value)) if value["type"] == "command_result" && value["detail"] != "not_stored_for_sure" => {
                    let id = value["id"].as_str().unwrap().to_owned();
                    self.untold.remove(&id);
                    self.played.told.push(CommandTold { id, status: value["status"].as_str().unwrap().to_owned() });
                }
                Some(ClientSawFrame::Other(value)) if value["type"] == "error" => {
                    assert!(value["code"].is_null() || value["code"] == "rate_limited", "{value}");
                }
                Some(ClientSawFrame::Ended(_)) => return,
                _ => {}
            }
            open.send_replace(self.untold.len());
        }
    }
}

fn say(client: &TestClient, id: &str) {
    client.try_say(&json!({"type": "bet", "id": id, "payload": id}).to_string());
}
