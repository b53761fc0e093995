//! Tests that bad input is refused with a reason and changes nothing.
//!
//! Nothing is appended, and well-behaved clients are served as before.

mod body;
mod probe;
mod requests;
mod secrets;
mod slow;
mod sockets;
mod tokens;
