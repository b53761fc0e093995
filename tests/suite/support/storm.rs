//! Runs a seeded storm of faults over hubs, one database, one provider and players.
//!
//! Each hub has a proxy on each side.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use recado_torture_check::upstream_history::{ClaimedTerm, CommandRow, Link, ProviderHeard, ProviderRow, SignedIn, UpstreamHistory};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::player::{PlayPhase, Played, Player};
use super::provider::{Behaviour, FakeProvider, ProviderFile, is_ping};
use super::{Addresses, Cut, PATIENCE, ProxyFlow, TestDb, TestHub, TestProxy, eventually};

/// Longer than the lease of three seconds.
const FROZEN: std::ops::Range<u64> = 4000..6000;
const CUT_OFF: std::ops::Range<u64> = 1500..6000;

/// Faults that the storm can choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StormFault {
    Kill,
    Freeze,
    Restart,
    DatabaseHole,
    DatabaseTakesNoQuestions,
    DatabaseGivesNoAnswers,
    DatabaseReset,
    ProviderHole,
    ProviderGivesNoAnswers,
    ProviderReset,
    ProviderFlaps,
    SessionsExpire,
    SocketsClose,
}

pub const FAULTS: [StormFault; 13] = [
    StormFault::Kill,
    StormFault::Freeze,
    StormFault::Restart,
    StormFault::DatabaseHole,
    StormFault::DatabaseTakesNoQuestions,
    StormFault::DatabaseGivesNoAnswers,
    StormFault::DatabaseReset,
    StormFault::ProviderHole,
    StormFault::ProviderGivesNoAnswers,
    StormFault::ProviderReset,
    StormFault::ProviderFlaps,
    StormFault::SessionsExpire,
    StormFault::SocketsClose,
];

/// A hub with its proxies and its present fault.
struct Station {
    hub: TestHub,
    database: TestProxy,
    provider: TestProxy,
    _file: ProviderFile,
    /// The present fault, and until when it lasts.
    fault: Option<(StormFault, Instant)>,
}

pub struct ChaosStorm {
    db: TestDb,
    provider: std::sync::Arc<FakeProvider>,
    stations: Vec<Station>,
    /// Hubs asked to stop, and the proxies of those that are gone, whose last bytes may still be on the way.
    leaving: Vec<Station>,
    gone: Vec<(TestProxy, TestProxy)>,
    addresses: Addresses,
    users: Vec<String>,
    phase: watch::Sender<PlayPhase>,
    players: Vec<(watch::Receiver<usize>, JoinHandle<Played>)>,
    speaking: JoinHandle<()>,
    random: StdRng,
    calm_at: Option<Instant>,
    /// Provider proxy's port, and the instance's id → process.
    by_port: BTreeMap<u16, usize>,
    by_instance: BTreeMap<String, usize>,
    started: usize,
    pub counts: BTreeMap<StormFault, usize>,
}

impl ChaosStorm {
    pub async fn over(hubs: usize, users: usize, devices: usize, seed: u64) -> Self {
        let db = TestDb::new().await;
        // The sessions' rows do not keep their history; this table does.
        db.run(
            "CREATE TABLE public.claim (user_id text, term bigint, owner uuid, at timestamptz, old_lease_until timestamptz);
             GRANT ALL ON public.claim TO PUBLIC;
             CREATE FUNCTION public.note_claim() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
             BEGIN
                 INSERT INTO public.claim VALUES (new.user_id, new.term, new.owner, clock_timestamp(), old.lease_until);
                 RETURN new;
             END $$;
             CREATE TRIGGER note_claim AFTER UPDATE ON recado.upstream_session FOR EACH ROW
                 WHEN (new.term <> old.term) EXECUTE FUNCTION public.note_claim();",
        )
        .await;
        let provider = std::sync::Arc::new(FakeProvider::start().await);
        let speaker = std::sync::Arc::clone(&provider);
        let speaking = tokio::spawn(async move {
            loop {
                sleep(Duration::from_millis(300)).await;
                speaker.say_next_everywhere();
            }
        });
        let (phase, _) = watch::channel(PlayPhase::Play);
        let mut storm = Self {
            db,
            provider,
            stations: Vec::new(),
            leaving: Vec::new(),
            gone: Vec::new(),
            addresses: Addresses::default(),
            users: (0..users).map(|n| format!("u{n}")).collect(),
            phase,
            players: Vec::new(),
            speaking,
            random: StdRng::seed_from_u64(seed),
            calm_at: None,
            by_port: BTreeMap::new(),
            by_instance: BTreeMap::new(),
            started: 0,
            counts: BTreeMap::new(),
        };
        for _ in 0..hubs {
            storm.start_one().await;
        }
        for user in storm.users.clone() {
            for device in 0..devices {
                let seed = storm.random.random();
                let player = Player::new(&user, &format!("d{device}"), &storm.addresses, storm.phase.subscribe(), seed);
                let (open_in, open) = watch::channel(0);
                storm.players.push((open, tokio::spawn(player.play(open_in))));
            }
        }
        storm
    }

    async fn start_one(&mut self) {
        let database = TestProxy::before(&self.db.url()).await;
        let provider = TestProxy::before_address(&self.provider.address).await;
        let toml = self
            .provider
            .toml("tries = 1000\nreset_after = \"1s\"")
            .replace(&self.provider.address, &format!("127.0.0.1:{}", provider.port));
        // Every text carries the time of its writing.
        let toml = toml.replace("\"action\":\"authenticate\"", "\"at\":\"{timestamp}\"");
        let toml = toml.replace("JSESSIONID={session}", "JSESSIONID={session}&at={timestamp}");
        let toml = toml.replace("types = [\"bet\"]", "types = [\"bet\"]\nframe = '{\"command\":{payload},\"at\":\"{timestamp}\"}'");
        let file = ProviderFile::of(&toml);
        let key = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
        let hub = TestHub::on(&self.db)
            .with("DATABASE_URL", &self.db.url_at(database.port))
            .with("RECADO_UPSTREAM_FILE", file.path())
            .with("RECADO_UPSTREAM_KEY", key)
            .with("RECADO_UPSTREAM_LEASE", "3s")
            .with("RECADO_UPSTREAM_STARTS", "200")
            .with("RECADO_DRAIN_WINDOW", "500ms")
            // Heartbeats tell clients without rows how far the log is.
            .with("WS_HEARTBEAT_INTERVAL", "1s")
            .start()
            .await;
        let number = self.started;
        self.started += 1;
        self.by_port.insert(provider.port, number);
        let instance = eventually("the hub has entered itself", PATIENCE, async || {
            let sql = "SELECT instance_id::text FROM recado.instance WHERE address = $1 ORDER BY started_at DESC LIMIT 1";
            sqlx::query_scalar::<_, String>(sql).bind(&hub.address).fetch_optional(&mut self.db.connect().await).await.unwrap()
        });
        let instance = instance.await;
        self.by_instance.insert(instance, number);
        self.stations.push(Station { hub, database, provider, _file: file, fault: None });
        self.addresses.set(self.stations.iter().map(|station| &station.hub));
    }

    /// Causes faults, one after the other and some at the same time, from a shuffled deck that holds each kind. Goes on
    /// until there were so many take-overs, but for three times the length at most.
    pub async fn rage(&mut self, length: Duration, take_overs: usize) {
        self.everyone_is_connected(PATIENCE).await;
        let (end, latest) = (Instant::now() + length, Instant::now() + length * 3);
        let mut deck: Vec<StormFault> = Vec::new();
        while Instant::now() < end || Instant::now() < latest && self.take_overs().await < take_overs {
            self.mend_what_is_due().await;
            let free: Vec<usize> = (0..self.stations.len()).filter(|at| self.stations[*at].fault.is_none()).collect();
            if !free.is_empty() {
                if deck.is_empty() {
                    deck = FAULTS.to_vec();
                    deck.shuffle(&mut self.random);
                }
                let at = free[self.random.random_range(0..free.len())];
                if let Some(fault) = deck.pop() {
                    self.strike(fault, at).await;
                    *self.counts.entry(fault).or_default() += 1;
                }
            }
            sleep(Duration::from_millis(self.random.random_range(200..1200))).await;
        }
    }

    async fn strike(&mut self, fault: StormFault, at: usize) {
        let mut some = self.users.clone();
        some.shuffle(&mut self.random);
        some.truncate(self.users.len() / 4);
        let station = &mut self.stations[at];
        let cut_off = Instant::now() + Duration::from_millis(self.random.random_range(CUT_OFF));
        match fault {
            StormFault::Kill => {
                let station = self.stations.remove(at);
                self.addresses.set(self.stations.iter().map(|station| &station.hub));
                station.hub.kill().await;
                self.gone.push((station.database, station.provider));
                self.start_one().await;
            }
            StormFault::Restart => {
                let station = self.stations.remove(at);
                station.hub.signal("-TERM").await;
                self.addresses.set(self.stations.iter().map(|station| &station.hub));
                self.leaving.push(station);
                self.start_one().await;
            }
            StormFault::Freeze => {
                station.hub.signal("-STOP").await;
                station.fault = Some((fault, Instant::now() + Duration::from_millis(self.random.random_range(FROZEN))));
            }
            StormFault::DatabaseHole => {
                station.database.set(ProxyFlow::Hole);
                station.fault = Some((fault, cut_off));
            }
            StormFault::DatabaseTakesNoQuestions => {
                station.database.set(ProxyFlow::NoQuestions);
                station.fault = Some((fault, cut_off));
            }
            StormFault::DatabaseGivesNoAnswers => {
                station.database.set(ProxyFlow::NoAnswers);
                station.fault = Some((fault, cut_off));
            }
            StormFault::DatabaseReset => station.database.cut(Cut::Rst),
            StormFault::ProviderHole => {
                station.provider.set(ProxyFlow::Hole);
                station.fault = Some((fault, cut_off));
            }
            StormFault::ProviderGivesNoAnswers => {
                station.provider.set(ProxyFlow::NoAnswers);
                station.fault = Some((fault, cut_off));
            }
            StormFault::ProviderReset => station.provider.cut(Cut::Rst),
            StormFault::ProviderFlaps => {
                let after = Duration::from_millis(self.random.random_range(0..300));
                self.provider.sockets(Behaviour::default().flapping(after, 1011));
                some.iter().for_each(|user| self.provider.cut(user));
                self.calm_at = Some(Instant::now() + Duration::from_millis(800));
            }
            StormFault::SessionsExpire => some.iter().for_each(|user| {
                self.provider.expire(user);
                self.provider.cut(user);
            }),
            StormFault::SocketsClose => {
                let code = if self.random.random() { 4401 } else { 1001 };
                some.iter().for_each(|user| self.provider.close(user, code));
            }
        }
    }

    async fn mend_what_is_due(&mut self) {
        let now = Instant::now();
        if self.calm_at.take_if(|at| *at <= now).is_some() {
            self.provider.sockets(Behaviour::default());
        }
        for station in &mut self.stations {
            let Some((fault, _)) = station.fault.take_if(|(_, until)| *until <= now) else { continue };
            match fault {
                StormFault::Freeze => station.hub.signal("-CONT").await,
                StormFault::ProviderHole | StormFault::ProviderGivesNoAnswers => {
                    // Swallowed bytes stay swallowed: late bytes of a hole would look like writes of an owner that lost
                    // its lease.
                    station.provider.cut(Cut::Rst);
                    station.provider.set(ProxyFlow::Pass);
                }
                _ => {
                    // Answers that come late, or never.
                    if self.random.random() {
                        station.database.cut(Cut::Rst);
                    }
                    station.database.set(ProxyFlow::Pass);
                }
            }
        }
    }

    async fn everyone_is_connected(&self, limit: Duration) {
        let users = &self.users;
        self.provider
            .until_within(limit, "each user has one socket", |record| users.iter().all(|user| record.open_of(user) == 1).then_some(()))
            .await;
    }

    /// Ends all faults, and waits until everything is healed: each user connected, each command settled and reported,
    /// each message in the log and read.
    pub async fn heal(&mut self, limit: Duration) {
        let end = Instant::now() + limit;
        for station in &mut self.stations {
            station.fault = station.fault.map(|(fault, _)| (fault, Instant::now()));
        }
        self.calm_at = self.calm_at.map(|_| Instant::now());
        self.mend_what_is_due().await;
        for station in &mut self.leaving {
            assert!(station.hub.ended(PATIENCE).await.success(), "a hub that was asked to stop did so");
        }
        self.phase.send_replace(PlayPhase::AskAgain);
        self.everyone_is_connected(end.saturating_duration_since(Instant::now())).await;
        eventually("every command is settled and told", end.saturating_duration_since(Instant::now()), async || {
            let unsettled = "SELECT count(*) FROM recado.upstream_command WHERE settled_at IS NULL";
            let told = self.players.iter().all(|(open, player)| *open.borrow() == 0 || player.is_finished());
            (told && self.db.number(unsettled).await == 0).then_some(())
        })
        .await;
        self.speaking.abort();
        eventually("what open sockets said is in the log", end.saturating_duration_since(Instant::now()), async || {
            let said: u64 = self.provider.record().connections.iter().filter(|link| link.is_open()).map(|link| link.numbered).sum();
            let open: Vec<String> = self
                .provider
                .record()
                .connections
                .iter()
                .enumerate()
                .filter(|(_, link)| link.is_open())
                .map(|(n, _)| n.to_string())
                .collect();
            let sql = format!(
                "SELECT count(*) FROM recado.log WHERE source = 'upstream/fake' AND ((data #>> '{{}}')::json ->> 'c')::int IN ({})",
                open.join(",")
            );
            (self.db.number(&sql).await.unsigned_abs() >= said).then_some(())
        })
        .await;
    }

    /// How often a session has moved from one hub to another so far.
    async fn take_overs(&self) -> usize {
        let moved = "SELECT count(*) FROM (SELECT owner, lag(owner) OVER (PARTITION BY user_id ORDER BY at) AS before FROM public.claim) c
                      WHERE owner <> before";
        usize::try_from(self.db.number(moved).await).unwrap()
    }

    /// Everything that was observed. Ends the players.
    pub async fn history(mut self) -> UpstreamHistory {
        let mut history = UpstreamHistory::default();
        let head = self.db.number("SELECT coalesce(max(seq), 0) FROM recado.log WHERE source = 'upstream/fake'").await;
        self.phase.send_replace(PlayPhase::Finish(head));
        for (_, player) in self.players.drain(..) {
            let played =
                tokio::time::timeout(PATIENCE * 2, player).await.expect("a player has everything").expect("no stream broke the contract");
            history.streams.push(played.stream);
            history.given.extend(played.given);
            history.told.extend(played.told);
        }
        self.from_the_database(&mut history).await;
        self.from_the_provider(&mut history);
        history
    }

    async fn from_the_database(&self, history: &mut UpstreamHistory) {
        type Row = (String, String, String, Option<i64>, Option<i64>);
        let mut connection = self.db.connect().await;
        let ms = |column: &str| format!("floor(extract(epoch FROM {column}) * 1000)::bigint");
        let sql = format!("SELECT user_id, term, owner::text, {}, {} FROM public.claim ORDER BY at", ms("at"), ms("old_lease_until"));
        let claims: Vec<(String, i64, String, i64, Option<i64>)> =
            sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_all(&mut connection).await.unwrap();
        history.terms.extend(claims.into_iter().map(|(user, term, owner, at, old_lease_until)| {
            let hub = *self.by_instance.get(&owner).expect("a hub of ours");
            ClaimedTerm { user, term, hub, at, old_lease_until }
        }));
        let sql = format!("SELECT user_id, id, state, term, {} FROM recado.upstream_command", ms("settled_at"));
        let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_all(&mut connection).await.unwrap();
        history.commands.extend(rows.into_iter().map(|(user, id, state, term, settled)| CommandRow { user, id, state, term, settled }));
        let sql = "SELECT seq, user_id, type, data #>> '{}' FROM recado.log WHERE source = 'upstream/fake' ORDER BY seq";
        let rows: Vec<(i64, String, String, String)> = sqlx::query_as(sql).fetch_all(&mut connection).await.unwrap();
        history.log.extend(rows.into_iter().map(|(seq, user, kind, text)| {
            if kind == "upstream_gap" {
                return ProviderRow { seq, user, said: None };
            }
            let said: Value = serde_json::from_str(&text).unwrap();
            let link = usize::try_from(said["c"].as_u64().unwrap()).unwrap();
            ProviderRow { seq, user, said: Some((link, said["n"].as_u64().unwrap())) }
        }));
    }

    fn from_the_provider(&self, history: &mut UpstreamHistory) {
        let record = self.provider.record();
        let begun = self.provider.begun_at().duration_since(UNIX_EPOCH).unwrap();
        let ms = |at: Duration| i64::try_from((begun + at).as_millis()).unwrap();
        let hub = |port: u16| *self.by_port.get(&port).expect("through a proxy of ours");
        for asked in &record.sign_ins {
            let heard = ProviderHeard { at: ms(asked.at), stamp: stamp_of(&asked.body, "\"at\":\""), command: None };
            history.sign_ins.push(SignedIn { user: asked.user.clone(), hub: hub(asked.port()), asked: heard });
        }
        for (number, link) in record.connections.iter().enumerate() {
            let heard = |(at, text): &(Duration, String)| {
                if is_ping(text) {
                    return ProviderHeard { at: ms(*at), stamp: stamp_of(text, "\"time\":\""), command: None };
                }
                let said: Value = serde_json::from_str(text).unwrap();
                let command = said["command"].as_str().expect("a command").to_owned();
                ProviderHeard { at: ms(*at), stamp: stamp_of(text, "\"at\":\""), command: Some(command) }
            };
            history.links.push(Link {
                number,
                user: link.user.clone(),
                hub: hub(link.port()),
                asked: ProviderHeard { at: ms(link.at), stamp: stamp_of(&link.head, "&at="), command: None },
                opened: link.opened.is_some(),
                closed: link.closed.as_ref().map(|(at, _)| ms(*at)),
                heard: link.heard.iter().map(heard).collect(),
                numbered: link.numbered,
            });
        }
    }
}

fn stamp_of(text: &str, before: &str) -> i64 {
    let digits = text.split_once(before).map(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).next().unwrap());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("no stamp in {text}"))
}

impl Drop for ChaosStorm {
    fn drop(&mut self) {
        self.speaking.abort();
        self.players.iter().for_each(|(_, player)| player.abort());
    }
}
