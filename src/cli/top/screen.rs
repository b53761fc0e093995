//! Draws on the terminal and reads its keys. Restores the terminal however the command ends.
//!
//! It uses no terminal library: `rustix` switches to raw mode, and escape sequences draw all lines from the top each
//! time.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::termios::{self, OptionalActions, Termios};

use super::view::{Ask, ScreenLine};
use crate::cli::error::CliFailure;

/// The other screen, no cursor, no line wrapping; and back.
const BEGIN: &str = "\u{1b}[?1049h\u{1b}[?25l\u{1b}[?7l";
const END: &str = "\u{1b}[?7h\u{1b}[?25h\u{1b}[?1049l";
/// How often the keys are read. Short enough to feel immediate.
const LOOK_EVERY: Duration = Duration::from_millis(40);
/// Rows that a page key scrolls.
const PAGE: isize = 20;

/// The terminal while the command draws on it.
pub struct Screen {
    /// The terminal, opened once more: without blocking, and so that the shell's own side stays as it is.
    terminal: OwnedFd,
    before: Termios,
}

/// The size in characters.
#[derive(Debug, Clone, Copy)]
pub struct ScreenSize {
    pub width: usize,
    pub height: usize,
}

impl Screen {
    /// Takes over the terminal of stdin and stdout.
    ///
    /// # Errors
    /// When the terminal cannot be opened or changed.
    pub fn open() -> Result<Self, CliFailure> {
        let failed = |what: &str, error: io::Error| CliFailure::other(format!("the terminal cannot be {what}: {error}"));
        let name = termios::ttyname(io::stdin(), Vec::new()).map_err(|error| failed("found", error.into()))?;
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let terminal = rustix::fs::open(name.as_c_str(), flags, Mode::empty()).map_err(|error| failed("opened", error.into()))?;
        let before = termios::tcgetattr(&terminal).map_err(|error| failed("read", error.into()))?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(&terminal, OptionalActions::Now, &raw).map_err(|error| failed("changed", error.into()))?;
        // From here on dropping it restores the terminal.
        let screen = Self { terminal, before };
        write(BEGIN)?;
        Ok(screen)
    }

    pub fn size(&self) -> ScreenSize {
        let size = termios::tcgetwinsize(&self.terminal).ok().filter(|size| size.ws_col > 0 && size.ws_row > 0);
        size.map_or(ScreenSize { width: 80, height: 24 }, |size| ScreenSize { width: size.ws_col.into(), height: size.ws_row.into() })
    }

    /// Draws the lines, which must be escaped, from the top.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn draw(&self, lines: &[ScreenLine]) -> Result<(), CliFailure> {
        let ScreenSize { width, height } = self.size();
        let mut text = String::from("\u{1b}[H");
        for (at, line) in lines.iter().take(height).enumerate() {
            if at > 0 {
                text.push_str("\r\n");
            }
            let cut: String = line.text.chars().take(width).collect();
            if line.is_head {
                text.push_str(&format!("\u{1b}[7m{cut:width$}\u{1b}[0m\u{1b}[K"));
            } else {
                text.push_str(&format!("{cut}\u{1b}[K"));
            }
        }
        text.push_str("\u{1b}[J");
        write(&text)
    }

    /// The next key that asks for something. A closed terminal asks to quit. Safe to drop and call again.
    ///
    /// It looks again and again: not every system can wait for a terminal as for a socket.
    pub async fn ask(&self) -> Ask {
        loop {
            let mut bytes = [0; 64];
            match rustix::io::read(&self.terminal, &mut bytes) {
                Ok(0) => return Ask::Quit,
                Ok(count) => {
                    if let Some(ask) = meaning(bytes.get(..count).unwrap_or_default()) {
                        return ask;
                    }
                }
                Err(Errno::AGAIN | Errno::INTR) => tokio::time::sleep(LOOK_EVERY).await,
                Err(_) => return Ask::Quit,
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = write(END);
        let _ = termios::tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}

fn write(text: &str) -> Result<(), CliFailure> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| CliFailure::other(format!("stdout: {error}")))
}

/// What a key asks for. Control-C and Control-D arrive as bytes in raw mode.
fn meaning(bytes: &[u8]) -> Option<Ask> {
    Some(match bytes {
        [b'q' | b'Q' | 3 | 4, ..] => Ask::Quit,
        b"\x1b[C" | b"\x1bOC" | b">" | b"l" | b"\t" => Ask::Sort { back: false },
        b"\x1b[D" | b"\x1bOD" | b"<" | b"h" | b"\x1b[Z" => Ask::Sort { back: true },
        b"r" => Ask::Reverse,
        b"\x1b[A" | b"\x1bOA" | b"k" => Ask::Scroll(-1),
        b"\x1b[B" | b"\x1bOB" | b"j" => Ask::Scroll(1),
        b"\x1b[5~" => Ask::Scroll(-PAGE),
        b"\x1b[6~" | b" " => Ask::Scroll(PAGE),
        b"\x1b[H" | b"g" => Ask::Scroll(isize::MIN),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_a_meaning() {
        for (bytes, ask) in [
            (&b"q"[..], Some(Ask::Quit)),
            (b"\x03", Some(Ask::Quit)),
            (b"\x1b[C", Some(Ask::Sort { back: false })),
            (b"<", Some(Ask::Sort { back: true })),
            (b"r", Some(Ask::Reverse)),
            (b"\x1b[B", Some(Ask::Scroll(1))),
            (b"\x1b[5~", Some(Ask::Scroll(-PAGE))),
            (b"\x1b", None),
            (b"x", None),
            (b"", None),
        ] {
            assert_eq!(meaning(bytes), ask, "{bytes:?}");
        }
    }
}
