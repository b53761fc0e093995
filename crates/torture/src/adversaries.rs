//! Attacks running hubs: anonymous floods, endless replays, held locks, erasures.
//!
//! Each attack is bounded in count and time. Other clients must not be affected, so rule C15 holds during attacks.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::join_all;
use rand::Rng;
use rand::rngs::StdRng;
use recado_testkit::ws::WsRequest;
use recado_torture_check::fact::RunFact;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;

use crate::book::Recorder;
use crate::cast;
use crate::hubs::TortureHub;
use crate::{RunError, secrets, witness};

/// The address of the anonymous flood. Clients connect from another address, as on a network.
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);
/// Idle connections that the anonymous client tries to hold at each hub: more than the hub accepts.
const IDLE_CONNECTIONS: usize = 1100;
/// Connections opened before the client checks again which ones the hub has closed.
const LOOK: usize = 50;
/// Concurrent requests of the anonymous client.
const REQUESTS: usize = 8;
/// Least time between two requests on one of those connections.
const REQUEST_PAUSE: Duration = Duration::from_millis(5);
/// Streams of the greedy user.
const REPLAYS: usize = 8;
/// Pages of the history that the greedy user requests at once: with other faults, and in a run without them.
const PAGES: (usize, usize) = (200, 600);
/// Pause after a page that was refused or failed.
const REFUSED_PAUSE: Duration = Duration::from_secs(3);
/// Sequence numbers that one strike erases.
const NUMBERS: usize = 6;
/// Distance from the head for half of these numbers: hubs still have such rows in memory.
const NEAR: i64 = 40;
/// How long a failed erasure is repeated.
const ERASE_LIMIT: Duration = Duration::from_secs(25);
/// Longest duration of one step of an attack; a longer step is abandoned.
const STEP_LIMIT: Duration = Duration::from_secs(2);

/// Holds idle connections to all hubs and sends anonymous requests from one address. Returns how many connections were
/// opened and requests sent.
pub async fn stranger_flood(hubs: &[TortureHub], length: Duration) -> Option<String> {
    let end = Instant::now() + length;
    let (opened, asked) = (AtomicU64::new(0), AtomicU64::new(0));
    let addresses = hubs.iter().filter_map(TortureHub::address);
    join_all(addresses.map(async |address| {
        let questions = (0..REQUESTS).map(|_| ask_until(address, end, &asked));
        tokio::join!(hold_until(address, end, &opened), join_all(questions));
    }))
    .await;
    let (opened, asked) = (opened.load(Ordering::SeqCst), asked.load(Ordering::SeqCst));
    (opened > 0 || asked > 0).then(|| format!("{opened} idle connections were opened and {asked} anonymous requests were sent"))
}

/// Replaces each connection that the hub closes.
async fn hold_until(address: SocketAddr, end: Instant, opened: &AtomicU64) {
    let mut idle: Vec<TcpStream> = Vec::new();
    while Instant::now() < end {
        for _ in idle.len()..IDLE_CONNECTIONS.min(idle.len() + LOOK) {
            if let Ok(Ok(stream)) = timeout(STEP_LIMIT, dial(address)).await {
                opened.fetch_add(1, Ordering::SeqCst);
                idle.push(stream);
            }
        }
        sleep(REQUEST_PAUSE).await;
        let is_open = |stream: &TcpStream| stream.try_read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        idle.retain(is_open);
    }
}

async fn dial(address: SocketAddr) -> Result<TcpStream, RunError> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((STRANGER, 0)))?;
    Ok(socket.connect(address).await?)
}

async fn ask_until(address: SocketAddr, end: Instant, asked: &AtomicU64) {
    while Instant::now() < end {
        let question = async {
            let mut stream = dial(address).await?;
            stream.write_all(b"GET /api/notifications HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").await?;
            asked.fetch_add(1, Ordering::SeqCst);
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            Ok::<(), RunError>(())
        };
        // A refusal is the expected answer to a flood.
        let _ = timeout(STEP_LIMIT, question).await;
        sleep(REQUEST_PAUSE).await;
    }
}

/// Replays the whole log over several streams of one user, repeatedly, and reads the user's history at the same time.
/// Returns how many frames and pages that user received.
pub async fn greedy_user(hub: &TortureHub, length: Duration, is_alone: bool) -> Result<Option<String>, RunError> {
    // A client of its own, so that its connections end with it.
    let http = reqwest::Client::builder().build()?;
    let token = secrets::token("greedy", Some(&cast::account(0)), None)?;
    let Some(address) = hub.address() else { return Ok(None) };
    let end = Instant::now() + length;
    let given = AtomicU64::new(0);
    let (asked, pages) = (AtomicU64::new(0), AtomicU64::new(0));
    let replays = join_all((0..REPLAYS).map(|number| replay_until(address, number, &token, end, &given)));
    let reading =
        join_all((0..if is_alone { PAGES.1 } else { PAGES.0 }).map(|_| read_until(address, &http, &token, end, (&asked, &pages))));
    tokio::join!(replays, reading);
    let (given, asked, pages) = (given.load(Ordering::SeqCst), asked.load(Ordering::SeqCst), pages.load(Ordering::SeqCst));
    Ok((asked > 0).then(|| format!("{given} frames and {pages} of {asked} pages were delivered to the greedy user")))
}

async fn read_until(address: SocketAddr, http: &reqwest::Client, token: &str, end: Instant, (asked, pages): (&AtomicU64, &AtomicU64)) {
    while Instant::now() < end {
        asked.fetch_add(1, Ordering::SeqCst);
        let request = http.get(format!("http://{address}/api/notifications?after=0&limit=500")).bearer_auth(token);
        let answer = timeout(end.saturating_duration_since(Instant::now()), async {
            let response = request.send().await?;
            let is_given = response.status().is_success();
            response.bytes().await.map(|_| is_given)
        });
        if let Ok(Ok(true)) = answer.await {
            pages.fetch_add(1, Ordering::SeqCst);
        } else {
            sleep(REFUSED_PAUSE.min(end.saturating_duration_since(Instant::now()))).await;
        }
    }
}

async fn replay_until(address: SocketAddr, number: usize, token: &str, end: Instant, given: &AtomicU64) {
    while Instant::now() < end {
        // The hub may refuse a replay, or slow it down.
        let _ = timeout(end.saturating_duration_since(Instant::now()), replay(address, number, token, given)).await;
        sleep(REQUEST_PAUSE).await;
    }
}

async fn replay(address: SocketAddr, number: usize, token: &str, given: &AtomicU64) -> Result<(), RunError> {
    let request = WsRequest::to(&format!("/ws?client_id=greedy-{number}&ack=client&since=earliest")).bearer(token);
    let mut socket = request.open(address).await?;
    while let Some(message) = socket.next().await {
        if let Message::Text(text) = message? {
            given.fetch_add(1, Ordering::SeqCst);
            if text.contains("\"caught_up\"") {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Takes every advisory lock that could be derived from the schema, with a login without rights. Returns how many it
/// holds.
pub async fn locks_held(url: &str, length: Duration) -> Result<Option<String>, RunError> {
    let Ok(mut stranger) = witness::Stranger::open(url).await else { return Ok(None) };
    let held = timeout(STEP_LIMIT, stranger.take_locks()).await;
    sleep(length).await;
    // Closing the connection releases the locks.
    drop(stranger);
    Ok(held.ok().and_then(Result::ok).map(|count| format!("{count} advisory locks were held by a login without rights")))
}

/// Erases some single numbers and one whole user, one after the other. Returns what was erased.
pub async fn erase_some(url: &str, book: &Recorder, random: &mut StdRng, length: Duration) -> Result<Option<String>, RunError> {
    let pause = length / u32::try_from(NUMBERS + 1)?;
    let user = cast::erased_user(random.random_range(0..cast::ERASED));
    let at = random.random_range(0..NUMBERS);
    let (mut numbers, mut is_user_erased) = (0, false);
    for step in 0..NUMBERS {
        if step == at {
            is_user_erased = erase_one(url, book, Some(&user), random).await;
        }
        numbers += u32::from(erase_one(url, book, None, random).await);
        sleep(pause).await;
    }
    Ok((numbers > 0 && is_user_erased).then(|| format!("{numbers} notifications were erased, and all of user {user}")))
}

/// Repeats an erasure until the database has done it: a repeat completes an interrupted erasure. Erases a number if no
/// user is given. Returns whether it is done.
async fn erase_one(url: &str, book: &Recorder, user: Option<&str>, random: &mut StdRng) -> bool {
    let end = Instant::now() + ERASE_LIMIT;
    let mut seq = None;
    let mut has_begun = false;
    while Instant::now() < end {
        let tried = async {
            let head = witness::head(url).await?;
            let seq = user.is_none().then(|| *seq.get_or_insert_with(|| number_of(head, random)));
            if !std::mem::replace(&mut has_begun, true) {
                book.note(RunFact::EraseBegin { user: user.map(str::to_owned), seq });
            }
            witness::erasing::erase(url, user, seq).await?;
            book.note(RunFact::EraseDone { user: user.map(str::to_owned), seq, head });
            Ok::<(), RunError>(())
        };
        if let Ok(Ok(())) = timeout(STEP_LIMIT * 3, tried).await {
            return true;
        }
        sleep(Duration::from_millis(200)).await;
    }
    false
}

/// Draws a number near the head, which hubs still have in memory, or any number.
fn number_of(head: i64, random: &mut StdRng) -> i64 {
    let lowest = if random.random_bool(0.5) { head - NEAR } else { 1 };
    random.random_range(lowest.max(1)..=head.max(1))
}
