//! Runs a real browser: headless Chromium, in a profile of its own, limited to this machine.
//!
//! The test reads what a page has collected through the browser's debugging socket, so that the page needs no code for
//! the test.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::eventually;

/// A browser takes seconds to start, and many on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(90);

/// A browser with one page. Dropping it ends it.
pub struct Browser {
    child: Child,
    _profile: tempfile::TempDir,
    pages: tokio::task::JoinHandle<()>,
    debugger: WebSocketStream<MaybeTlsStream<TcpStream>>,
    asked: u64,
}

impl Browser {
    /// Opens this page; `None` where no browser is installed.
    pub async fn open(html: &str) -> Option<Self> {
        let Some(program) = installed() else {
            eprintln!("SKIPPED: no chromium is installed here; what a real browser does is not tried");
            return None;
        };
        let (address, pages) = serve(html.to_owned()).await;
        let profile = tempfile::tempdir().unwrap();
        let child = Command::new(program)
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions"])
            // Nothing leaves the machine: no updates, no lists, no names but this machine's own.
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server"])
            .arg("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
            .args(["--remote-debugging-port=0", "--remote-debugging-address=127.0.0.1"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(format!("http://{address}/"))
            .env("HOME", profile.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the browser runs");
        let port_file = profile.path().join("DevToolsActivePort");
        let target = eventually("the browser shows the page", START_LIMIT, async || {
            let port: u16 = std::fs::read_to_string(&port_file).ok()?.lines().next()?.parse().ok()?;
            let list: Value = reqwest::get(format!("http://127.0.0.1:{port}/json/list")).await.ok()?.json().await.ok()?;
            let page = list.as_array()?.iter().find(|target| target["url"].as_str().is_some_and(|url| url.contains(&address)))?;
            Some(page["webSocketDebuggerUrl"].as_str()?.to_owned())
        })
        .await;
        let (debugger, _) = connect_async(target).await.expect("the browser's debugging socket opens");
        Some(Self { child, _profile: profile, pages, debugger, asked: 0 })
    }

    /// The value of an expression in the page.
    pub async fn value(&mut self, expression: &str) -> Value {
        self.asked += 1;
        let ask = json!({ "id": self.asked, "method": "Runtime.evaluate", "params": { "expression": expression, "returnByValue": true } });
        self.debugger.send(Message::text(ask.to_string())).await.expect("the browser listens");
        loop {
            let message = timeout(START_LIMIT, self.debugger.next()).await.expect("the browser answers in time");
            let Some(Ok(message)) = message else { panic!("the browser is gone: {message:?}") };
            let Message::Text(text) = message else { continue };
            let answer: Value = serde_json::from_str(&text).unwrap();
            if answer["id"] == self.asked {
                return answer["result"]["result"]["value"].clone();
            }
        }
    }

    /// The numbers that the page has collected, once there are so many.
    pub async fn collected(&mut self, count: usize) -> Vec<i64> {
        let mut got = Vec::new();
        let end = tokio::time::Instant::now() + START_LIMIT;
        while got.len() < count {
            assert!(tokio::time::Instant::now() < end, "the page has {got:?}, and {count} were to come");
            let numbers = self.value("got").await;
            got = numbers.as_array().map(|all| all.iter().map(|n| n.as_i64().unwrap()).collect()).unwrap_or_default();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        got
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.pages.abort();
        // Its helper processes end when it is gone. The profile is removed after that.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn installed() -> Option<&'static str> {
    let names = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
    names.into_iter().find(|name| std::path::Path::new(name).exists())
}

/// Serves one page to every request; its address is the page's origin.
async fn serve(html: String) -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/html; charset=utf-8\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{html}",
        html.len()
    );
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    (address, task)
}
