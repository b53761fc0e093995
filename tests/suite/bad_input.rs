//! Promise: whatever comes to the door, the answer is a refusal that says what was wrong, nothing is appended, and
//! whoever behaves is served as before.

mod body;
mod probe;
mod requests;
mod secrets;
mod slow;
mod sockets;
mod tokens;
