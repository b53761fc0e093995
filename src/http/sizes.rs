//! What a connection holds while it waits, and what a request is moved about with, in bytes. A future holds room for the
//! largest that it may ever wait for; one `await` of something large, deep below, and every connection pays for it.

use std::mem::size_of;

/// How large the future of such a function is.
fn two<'a, A: 'a, B: 'a, F: Future>(_: impl Fn(&'a A, &'a B) -> F) -> usize {
    size_of::<F>()
}

fn three<A, B, C, F: Future>(_: impl Fn(A, B, C) -> F) -> usize {
    size_of::<F>()
}

fn four<A, B, C, D, F: Future>(_: impl Fn(A, B, C, D) -> F) -> usize {
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
        ("a handshake", four(super::upgrade::ws)),
        ("a key that is looked up", two(super::auth::Auth::caller)),
    ];
    for (what, size) in sizes {
        assert!(size <= 4 << 10, "the future of {what} has {size} bytes; box what it rarely waits for");
    }
}
