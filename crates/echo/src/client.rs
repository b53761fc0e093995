//! Runs the test server's cases through the WebSocket client that provider sessions use.
//!
//! Each case is one connection of [`Dialer`], read and written as a provider session does.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use recado::domain::{ProviderName, Term, UserId};
use recado::outgoing::ClockReading;
use recado::providers::mailbox::Mailbox;
use recado::providers::socket_reader::{ProviderFrame, read};
use recado::providers::socket_writer::{WriteOutcome, hang_up, write};
use recado::providers::{Dialer, Provider, ProviderSocket, Secret, file};
use recado::store::providers::Lease;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::EchoError;

/// Cases that run at once. Some wait for a second on purpose.
const AT_ONCE: usize = 4;
/// Time limit of one case; the longest take a few seconds.
const CASE_LIMIT: Duration = Duration::from_secs(60);
const AGENT: &str = "recado";

/// Address of the test server, and the agent name that this client reports under.
struct Cases {
    dialer: Dialer,
    address: String,
    most: usize,
    user: UserId,
    mailbox: Arc<Mailbox>,
}

pub async fn run(address: &str, most: usize) -> Result<(), EchoError> {
    let user = UserId::parse(AGENT)?;
    let lease = Lease { provider: ProviderName::parse("cases")?, user: user.clone(), term: Term::from_db(1) };
    let mailbox = Arc::new(Mailbox::new(lease, ClockReading::now().plus(Duration::from_secs(24 * 3600))));
    // Room for one message and its header, in addition to what the library has queued.
    let dialer = Dialer::new()?.fenced_by(&mailbox).with_write_buffer(2 * most);
    let cases = Cases { dialer, address: address.to_owned(), most, user, mailbox };
    let count = cases.count().await?;
    let all = stream::iter((1..=count).map(|case| cases.one(case)));
    all.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    // This request makes the server write its report and end.
    let (socket, _) = cases.open(&format!("updateReports?agent={AGENT}"), "").await?;
    cases.converse(socket).await?;
    println!("ran {count} cases");
    Ok(())
}

impl Cases {
    /// Opens a socket with the settings of a provider file; returns the provider as well.
    async fn open(&self, path: &str, session: &str) -> Result<(Box<ProviderSocket>, Arc<Provider>), EchoError> {
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
        // The limits of a provider file do not allow the message sizes that the cases send.
        let mut provider = Provider::clone(provider);
        provider.socket.max_message = self.most;
        let session = Secret::new(session);
        let socket = self.dialer.socket(&provider, &self.user, &session).await.map_err(|error| format!("{path}: {error:?}"))?;
        Ok((Box::new(socket), Arc::new(provider)))
    }

    async fn count(&self) -> Result<u32, EchoError> {
        let (mut socket, _) = self.open("getCaseCount", "").await?;
        let ProviderFrame::Text(count) = timeout(CASE_LIMIT, read(&mut socket)).await? else {
            return Err("the test server sent no case count".into());
        };
        self.converse(socket).await?;
        Ok(count.parse()?)
    }

    async fn one(&self, case: u32) -> Result<(), EchoError> {
        let (socket, _) = self.open(&format!("runCase?case={{session}}&agent={AGENT}"), &case.to_string()).await?;
        self.converse(socket).await
    }

    /// Echoes every message until either side closes the connection.
    async fn converse(&self, mut socket: Box<ProviderSocket>) -> Result<(), EchoError> {
        let ended = async {
            loop {
                let said = match read(&mut socket).await {
                    ProviderFrame::Text(text) => Message::Text(text),
                    ProviderFrame::Binary(bytes) => Message::Binary(bytes),
                    ProviderFrame::Control => continue,
                    ProviderFrame::Closed(_) => return CloseCode::Normal,
                    ProviderFrame::Broken { answer, .. } => return answer,
                };
                if write(&mut socket, said, &self.mailbox).await != WriteOutcome::All {
                    return CloseCode::Normal;
                }
            }
        };
        let code = timeout(CASE_LIMIT, ended).await?;
        hang_up(socket, code, &self.mailbox).await;
        Ok(())
    }
}
