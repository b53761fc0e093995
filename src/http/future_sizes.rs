//! Limits the size of the futures of connections and requests, in bytes.
//!
//! A future has room for the largest future that it may ever await. One large `await` deep below costs memory on
//! every connection.

use std::mem::size_of;

/// The size of the future that a function of two arguments returns.
fn two<'a, A: 'a, B: 'a, F: Future>(_: impl Fn(&'a A, &'a B) -> F) -> usize {
    size_of::<F>()
}

fn three<A, B, C, F: Future>(_: impl Fn(A, B, C) -> F) -> usize {
    size_of::<F>()
}

fn five<A, B, C, D, E, F: Future>(_: impl Fn(A, B, C, D, E) -> F) -> usize {
    size_of::<F>()
}

#[test]
fn an_idle_connection_holds_little() {
    let size = three(super::socket::serve);
    assert!(size <= 6 << 10, "a WebSocket's task holds {size} bytes; box what it rarely waits for");
}

#[test]
fn a_request_is_moved_with_little() {
    let sizes = [
        ("a post", three(super::notify::notify)),
        ("a handshake", five(super::upgrade::ws)),
        ("a key that is looked up", two(super::auth::Auth::caller)),
    ];
    for (what, size) in sizes {
        assert!(size <= 4 << 10, "the future of {what} has {size} bytes; box what it rarely waits for");
    }
}
