//! The client: each case is a connection of [`Dialer`]'s, read and written as a session does.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use recado::domain::{ProviderName, Term, UserId};
use recado::store::upstream::Lease;
use recado::upstream::clock::Moment;
use recado::upstream::mailbox::Mailbox;
use recado::upstream::read::{Heard, read};
use recado::upstream::write::{Wrote, hang_up, write};
use recado::upstream::{Dialer, Provider, Secret, Socket, file};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::Trouble;

/// Cases at once. Some wait for a second on purpose.
const AT_ONCE: usize = 4;
/// For one case; the longest take a few seconds.
const CASE_LIMIT: Duration = Duration::from_secs(60);
const AGENT: &str = "recado";

/// A test server's address, and who we are to it.
struct Cases {
    dialer: Dialer,
    address: String,
    most: usize,
    user: UserId,
    mailbox: Arc<Mailbox>,
}

pub async fn run(address: &str, most: usize) -> Result<(), Trouble> {
    let user = UserId::parse(AGENT)?;
    let lease = Lease { provider: ProviderName::parse("cases")?, user: user.clone(), term: Term::from_db(1) };
    let mailbox = Arc::new(Mailbox::new(lease, Moment::now().plus(Duration::from_secs(24 * 3600))));
    // A message and its head; besides what the library has queued.
    let dialer = Dialer::new()?.fenced_by(&mailbox).with_write_buffer(2 * most);
    let cases = Cases { dialer, address: address.to_owned(), most, user, mailbox };
    let count = cases.count().await?;
    let all = stream::iter((1..=count).map(|case| cases.one(case)));
    all.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    // The server writes down what it has seen, and ends.
    let (socket, _) = cases.open(&format!("updateReports?agent={AGENT}"), "").await?;
    cases.converse(socket).await?;
    println!("{count} cases gone through");
    Ok(())
}

impl Cases {
    /// A socket as a provider's file describes it, and the first thing that is heard.
    async fn open(&self, path: &str, session: &str) -> Result<(Box<Socket>, Arc<Provider>), Trouble> {
        let file = format!(
            r#"
            [[provider]]
            name = "cases"
            hosts = ["{address}"]
            insecure = true
            sign_in = {{ url = "http://{address}/", session = "/id" }}
            socket = {{ url = "ws://{address}/{path}" }}
            messages = {{ type = "cases" }}
            "#,
            address = self.address
        );
        let providers = file::parse(&file, &|_| Ok(None))?;
        let provider = providers.get("cases").ok_or("the file has no provider")?;
        // A file may not ask for as much as the cases send.
        let mut provider = Provider::clone(provider);
        provider.socket.max_message = self.most;
        let session = Secret::new(session);
        let socket = self.dialer.socket(&provider, &self.user, &session).await.map_err(|error| format!("{path}: {error:?}"))?;
        Ok((Box::new(socket), Arc::new(provider)))
    }

    async fn count(&self) -> Result<u32, Trouble> {
        let (mut socket, _) = self.open("getCaseCount", "").await?;
        let Heard::Text(count) = timeout(CASE_LIMIT, read(&mut socket)).await? else { return Err("no count of the cases came".into()) };
        self.converse(socket).await?;
        Ok(count.parse()?)
    }

    async fn one(&self, case: u32) -> Result<(), Trouble> {
        let (socket, _) = self.open(&format!("runCase?case={{session}}&agent={AGENT}"), &case.to_string()).await?;
        self.converse(socket).await
    }

    /// Says back what is heard, until either side ends it.
    async fn converse(&self, mut socket: Box<Socket>) -> Result<(), Trouble> {
        let ended = async {
            loop {
                let said = match read(&mut socket).await {
                    Heard::Text(text) => Message::Text(text),
                    Heard::Binary(bytes) => Message::Binary(bytes),
                    Heard::Control => continue,
                    Heard::Closed(_) => return CloseCode::Normal,
                    Heard::Broken { answer, .. } => return answer,
                };
                if write(&mut socket, said, &self.mailbox).await != Wrote::All {
                    return CloseCode::Normal;
                }
            }
        };
        let code = timeout(CASE_LIMIT, ended).await?;
        hang_up(socket, code, &self.mailbox).await;
        Ok(())
    }
}
