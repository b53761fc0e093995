//! Reads the past from hot standbys of the primary, where they have it.
//!
//! A page of the log names the number up to which it must be complete. A standby may answer if it holds everything that
//! the primary held when the page was requested, as far as the page could show it. So each page begins with a question
//! to the primary (`primary_facts`): the log id, the floor, the number of erasures, and the id of the row at the
//! page's last number. The standby is asked the same on the connection that then reads the page (`requirement`).
//!
//! - The same id at the same number, in a log with the same `log_id`, is the same row. Numbers are dense and in commit
//!   order, so the standby holds every lower row as well, and each membership change among them.
//! - A floor and a count of erasures that are not lower: the standby has replayed what retention and erasures removed.
//! - Replay never goes back. So what the first statement found holds for the second one on the same connection.
//!
//! So a page costs the primary one row of `recado.meta` and one look at the primary key, in a statement that waiting
//! pages share.
//!
//! If the standby lacks something, the page waits some milliseconds for it (`server::CATCH_UP`). Then another standby
//! is asked, then the primary. An error of a standby is never an error of the page.
//!
//! Each standby is watched by a task of its own ([`standby_watch`]), which says whether it is *in use*: it answers,
//! replays, and is a standby of this log. One that is left ends the pages that are waiting for it at once.

mod choice;
mod primary_facts;
mod requirement;
mod server;
mod watch;

pub use self::choice::{STANDBYS_MAX, Standbys};
pub(super) use self::server::PastRead;
pub use self::server::StandbyState;
pub use self::watch::{look_at_standbys, standby_watch};
