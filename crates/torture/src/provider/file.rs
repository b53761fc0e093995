//! Builds the provider file of one hub's process.
//!
//! Every text that the hub sends up carries its process and the time.

use super::{CREDENTIAL_VARIABLE, NAME, TITLE};

/// For the hub that started as this process, and connects through the proxy on this port.
pub fn text(port: u16, process: usize) -> String {
    format!(
        r#"[[provider]]
name = "{NAME}"
hosts = ["127.0.0.1:{port}"]
insecure = true

[provider.sign_in]
url = "http://127.0.0.1:{port}/sign-in"
headers = {{ x-credential = "{{env:{CREDENTIAL_VARIABLE}}}" }}
body = '{{"user_id":"{{user_id}}","process":"{process}","at":"{{timestamp}}"}}'
success = "/success"
session = "/data/jsessionId"
deadline = "2s"

[provider.socket]
url = "ws://127.0.0.1:{port}/socket?JSESSIONID={{session}}&process={process}&at={{timestamp}}"
connect_deadline = "2s"

[provider.keepalive]
text = '{{"method":"protocol/v1/ping","at":"{{timestamp}}"}}'
interval = "1s"
deadline = "2s"
answers = ['"pong"']

[provider.messages]
type = "game-data"
title = "{TITLE}"
data = "json"

[provider.commands]
types = ["bet"]
frame = '{{"command":{{payload}},"at":"{{timestamp}}"}}'

[provider.backoff]
first = "100ms"
most = "1s"
tries = 1000
reset_after = "1s"
"#
    )
}
