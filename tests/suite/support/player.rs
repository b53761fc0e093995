//! A device that gives commands, comes back to any hub, and wants to know what became of each.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::upstream_history::{Stream, Told};
use super::{Addresses, Client, Frame};

/// What players do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Give commands, and change the hub every few seconds.
    Play,
    /// Give no new ones; repeat those of which nothing is known.
    AskAgain,
    /// Read up to this number of the log, and go home.
    Finish(i64),
}

/// What a player has seen.
pub struct Played {
    pub stream: Stream,
    pub given: BTreeSet<String>,
    pub told: Vec<Told>,
}

pub struct Player {
    user: String,
    device: String,
    addresses: Addresses,
    phase: watch::Receiver<Phase>,
    random: StdRng,
    log_id: Option<String>,
    place: i64,
    untold: BTreeSet<String>,
    next: u32,
    played: Played,
}

impl Player {
    pub fn new(user: &str, device: &str, addresses: &Addresses, phase: watch::Receiver<Phase>, seed: u64) -> Self {
        let stream = Stream { user: user.to_owned(), device: device.to_owned(), from: 0, got: Vec::new() };
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

    /// `open` counts the commands of which nothing is known yet.
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
        matches!(*self.phase.borrow(), Phase::Finish(last) if self.place >= last && self.untold.is_empty())
    }

    async fn connect(&mut self) -> Option<Client> {
        let address = self.addresses.pick(self.random.random_range(0..1000))?;
        let mut asked = Client::of(&self.user).device(&self.device).query("ack", "client").since(self.place);
        if let Some(log_id) = &self.log_id {
            asked = asked.query("log_id", log_id);
        }
        // A frozen hub takes the connection and says nothing.
        let client = timeout(Duration::from_secs(3), asked.try_connect(&address)).await.ok()?.ok()?;
        assert!(["ok", "live"].contains(&client.resume_status()), "{}", client.hello);
        self.log_id = Some(client.log_id().to_owned());
        Some(client)
    }

    async fn over(&mut self, mut client: Client, open: &watch::Sender<usize>) {
        let leaves = Instant::now() + Duration::from_millis(self.random.random_range(1500..7000));
        let mut speaks = Instant::now();
        loop {
            let phase = *self.phase.borrow();
            if self.is_done() || (phase == Phase::Play && Instant::now() >= leaves) {
                return;
            }
            if Instant::now() >= speaks {
                match phase {
                    Phase::Play => {
                        let id = format!("{}-{}-{}", self.user, self.device, self.next);
                        self.next += 1;
                        self.played.given.insert(id.clone());
                        self.untold.insert(id.clone());
                        say(&client, &id);
                        speaks = Instant::now() + Duration::from_millis(self.random.random_range(300..900));
                    }
                    Phase::AskAgain | Phase::Finish(_) => {
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
                Some(Frame::Notification(notification)) => self.played.stream.got.push(notification.seq),
                // One that is not stored for sure is as good as untold: whoever repeats the command will know.
                Some(Frame::Other(value)) if value["type"] == "command_result" && value["detail"] != "not_stored_for_sure" => {
                    let id = value["id"].as_str().unwrap().to_owned();
                    self.untold.remove(&id);
                    self.played.told.push(Told { id, status: value["status"].as_str().unwrap().to_owned() });
                }
                Some(Frame::Other(value)) if value["type"] == "error" => {
                    assert!(value["code"].is_null() || value["code"] == "rate_limited", "{value}");
                }
                Some(Frame::Ended(_)) => return,
                _ => {}
            }
            open.send_replace(self.untold.len());
        }
    }
}

fn say(client: &Client, id: &str) {
    client.try_say(&json!({"type": "bet", "id": id, "payload": id}).to_string());
}
