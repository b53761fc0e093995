//! Tests that rows are only written past tasks that wait.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};

use super::*;
use crate::delivery::event::SharedNotification;
use crate::domain::Audience;

/// A socket with room for a number of frames. The frame after them is taken in part, and then none.
#[derive(Debug, Default)]
struct TestSocket {
    room: AtomicUsize,
    frames: Mutex<Vec<String>>,
}

impl TestSocket {
    fn with_room(room: usize) -> Arc<Self> {
        Arc::new(Self { room: AtomicUsize::new(room), frames: Mutex::default() })
    }

    /// The numbers and the `prev` of the frames.
    fn sent(&self) -> Vec<(i64, i64)> {
        let number = |frame: &str, name: &str| -> i64 {
            let after = frame.split_once(&format!("\"{name}\":")).unwrap().1;
            after[..after.find(|c: char| !c.is_ascii_digit()).unwrap()].parse().unwrap()
        };
        self.frames.lock().unwrap().iter().map(|frame| (number(frame, "seq"), number(frame, "prev"))).collect()
    }
}

impl LiveSocket for TestSocket {
    fn write_now(&self, frame: &[u8]) -> DirectWrite {
        let outcome = match self.room.load(Ordering::Relaxed) {
            0 => return DirectWrite::Refused,
            1 => DirectWrite::Part,
            _ => DirectWrite::Whole,
        };
        self.room.fetch_sub(1, Ordering::Relaxed);
        self.frames.lock().unwrap().push(String::from_utf8_lossy(frame).into_owned());
        outcome
    }
}

fn row(seq: i64) -> Arc<SharedNotification> {
    SharedNotification::empty(Seq::from_db(seq), Audience::Everyone)
}

/// A queue whose task has sent everything up to 3 and waits.
fn parked(socket: &Arc<TestSocket>) -> SendQueue {
    let queue = SendQueue::default();
    queue.write_into(socket.clone());
    queue.begin_poll();
    assert!(queue.poll_filled(Seq::from_db(3), &Context::from_waker(Waker::noop())).is_pending());
    queue.end_poll(PingPlan::NotNeeded);
    queue
}

fn write(queue: &SendQueue) -> Vec<i64> {
    let mut told = Vec::new();
    queue.write_directly(&mut FrameBuffer::default(), |seq| told.push(seq.get()));
    told
}

#[test]
fn rows_are_written_past_a_parked_task_and_numbered_on() {
    let socket = TestSocket::with_room(9);
    let queue = parked(&socket);
    assert!(queue.push(&row(5), true), "the first row lists the connection");
    assert!(!queue.push(&row(6), true), "it is listed");
    assert_eq!(write(&queue), [5, 6]);
    assert_eq!(socket.sent(), [(5, 3), (6, 5)]);
    assert!(queue.push(&row(9), true), "it is not listed any more");
    assert_eq!(write(&queue), [9]);
    assert_eq!(socket.sent()[2], (9, 6));
    assert_eq!(queue.written_past().delivered, Seq::from_db(9));
    assert!(queue.is_clear());
}

#[test]
fn nothing_is_written_past_a_task_that_runs() {
    let socket = TestSocket::with_room(9);
    let queue = parked(&socket);
    assert!(queue.push(&row(5), true));
    queue.begin_poll();
    assert!(write(&queue).is_empty() && socket.sent().is_empty());
    assert!(queue.look().events, "the task writes it");
    assert!(!queue.push(&row(6), true), "the task is woken for it");
}

#[test]
fn a_task_that_waits_for_something_else_is_not_parked() {
    let socket = TestSocket::with_room(9);
    let queue = SendQueue::default();
    queue.write_into(socket);
    queue.begin_poll();
    queue.end_poll(PingPlan::NotNeeded);
    assert!(!queue.push(&row(5), true));
}

#[test]
fn a_row_that_came_while_the_poll_ended_is_left_to_the_task() {
    let socket = TestSocket::with_room(9);
    let queue = SendQueue::default();
    queue.write_into(socket.clone());
    queue.begin_poll();
    assert!(queue.poll_filled(Seq::from_db(3), &Context::from_waker(Waker::noop())).is_pending());
    assert!(!queue.push(&row(4), true));
    queue.end_poll(PingPlan::NotNeeded);
    assert!(!queue.push(&row(5), true));
    assert!(write(&queue).is_empty() && socket.sent().is_empty());
}

#[test]
fn a_wait_over_several_polls_does_not_go_back() {
    let socket = TestSocket::with_room(9);
    let queue = parked(&socket);
    assert!(queue.push(&row(5), true));
    assert_eq!(write(&queue), [5]);
    // The same wait is polled again, for another reason.
    queue.begin_poll();
    assert!(queue.poll_filled(Seq::from_db(3), &Context::from_waker(Waker::noop())).is_pending());
    queue.end_poll(PingPlan::NotNeeded);
    assert!(queue.push(&row(6), true));
    assert_eq!(write(&queue), [6]);
    assert_eq!(socket.sent(), [(5, 3), (6, 5)]);
}

#[test]
fn a_full_socket_is_left_to_the_task() {
    let socket = TestSocket::with_room(2);
    let queue = parked(&socket);
    for seq in 5..9 {
        let _ = queue.push(&row(seq), true);
    }
    write(&queue);
    assert_eq!(socket.sent(), [(5, 3), (6, 5)], "the second one in part");
    assert_eq!(queue.written_past().delivered, Seq::from_db(6));
    assert!(queue.take_unflushed());
    assert_eq!(queue.pop().unwrap().seq, Seq::from_db(7));
    assert!(!queue.push(&row(9), true), "the task is not parked");
}

#[test]
fn what_is_not_a_row_goes_first_and_through_the_task() {
    let socket = TestSocket::with_room(9);
    let queue = parked(&socket);
    queue.probe();
    assert!(!queue.push(&row(5), true));
    let queue = parked(&socket);
    assert!(queue.push(&row(5), true));
    queue.probe();
    assert!(write(&queue).is_empty() && socket.sent().is_empty());
}

/// A queue whose task has sent everything up to 3, waits, and pings for what it sends.
fn parked_and_pinging(socket: &Arc<TestSocket>, ping_plan: PingPlan) -> SendQueue {
    let queue = SendQueue::default();
    queue.write_into(socket.clone());
    queue.will_ask();
    queue.begin_poll();
    assert!(queue.poll_filled(Seq::from_db(3), &Context::from_waker(Waker::noop())).is_pending());
    queue.end_poll(ping_plan);
    queue
}

#[test]
fn a_row_for_one_leaves_together_with_its_ping() {
    let socket = TestSocket::with_room(9);
    let queue = parked_and_pinging(&socket, due());
    assert!(queue.push(&row(5), false));
    assert!(!queue.push(&row(6), false));
    assert_eq!(write(&queue), [5, 6]);
    assert_eq!(socket.sent(), [(5, 3), (6, 5)]);
    let ends_with_ping = |at: usize| socket.frames.lock().unwrap()[at].ends_with("\u{fffd}\u{1}6");
    assert!(!ends_with_ping(0) && ends_with_ping(1), "the last one has the ping");
    // The pong makes the task ping for what is sent until then.
    assert!(queue.push(&row(7), false));
    assert_eq!(write(&queue), [7]);
    assert!(socket.frames.lock().unwrap()[2].ends_with('}'));
    assert_eq!(queue.written_past().pinged.unwrap().0, Seq::from_db(6));
}

#[test]
fn a_row_whose_ping_is_not_due_yet_goes_through_the_task() {
    let socket = TestSocket::with_room(9);
    let later = Instant::now() + std::time::Duration::from_secs(60);
    let queue = parked_and_pinging(&socket, PingPlan::Due { from: later, above: Seq::ZERO });
    assert!(!queue.push(&row(5), false), "the task plans the ping");
    let queue = parked_and_pinging(&socket, PingPlan::Due { from: later, above: Seq::ZERO });
    assert!(queue.push(&row(5), true), "the ping of a broadcast comes later");
    let queue = parked(&socket);
    assert!(queue.push(&row(5), false), "this client acknowledges by itself");
}

#[test]
fn a_row_whose_task_runs_before_it_is_written_asks_for_no_ping_past_it() {
    let socket = TestSocket::with_room(9);
    let queue = parked_and_pinging(&socket, due());
    assert!(queue.push(&row(5), false));
    queue.begin_poll();
    assert!(write(&queue).is_empty());
    assert_eq!(queue.pop().unwrap().seq, Seq::from_db(5));
    assert!(queue.poll_filled(Seq::from_db(5), &Context::from_waker(Waker::noop())).is_pending());
    queue.end_poll(due());
    assert!(queue.push(&row(6), true));
    write(&queue);
    assert!(socket.frames.lock().unwrap()[0].ends_with('}') && queue.written_past().pinged.is_none());
}

#[test]
fn without_a_socket_and_after_it_is_left_the_task_writes() {
    let socket = TestSocket::with_room(9);
    let queue = parked(&socket);
    assert!(queue.push(&row(5), true));
    queue.leave_socket();
    assert!(write(&queue).is_empty() && socket.sent().is_empty());
    assert_eq!(Arc::strong_count(&socket), 1);
    assert!(!queue.push(&row(6), true));
}

/// As [`parked_and_pinging`], after a broadcast with the number 5 that was written.
fn parked_after_a_broadcast(socket: &Arc<TestSocket>, ping_plan: PingPlan) -> SendQueue {
    let queue = parked_and_pinging(socket, ping_plan);
    assert!(queue.push(&row(5), true));
    assert_eq!(write(&queue), [5]);
    queue
}

fn due() -> PingPlan {
    PingPlan::Due { from: Instant::now(), above: Seq::ZERO }
}

fn ask(queue: &SendQueue, acked: i64) {
    queue.ask(&mut FrameBuffer::default(), Seq::from_db(acked));
}

#[test]
fn a_broadcast_is_pinged_for_once_past_a_parked_task() {
    let socket = TestSocket::with_room(9);
    let queue = parked_after_a_broadcast(&socket, due());
    ask(&queue, 3);
    assert_eq!(socket.frames.lock().unwrap()[1], "\u{fffd}\u{1}5", "the first byte is not text");
    assert!(queue.look().is_empty(), "the task is not woken");
    ask(&queue, 3);
    assert_eq!(socket.frames.lock().unwrap().len(), 2);
    assert_eq!(queue.written_past().pinged.unwrap().0, Seq::from_db(5));
    assert_eq!(queue.written_past().pinged, None, "it is taken over once");
    // The pong makes the task ping again for what comes meanwhile.
    assert!(queue.push(&row(6), true));
    assert_eq!(write(&queue), [6]);
    ask(&queue, 3);
    assert!(queue.look().is_empty());
    assert_eq!(socket.frames.lock().unwrap().len(), 3);
}

#[test]
fn a_task_that_has_sent_a_ping_just_now_sends_the_next_one_itself() {
    let socket = TestSocket::with_room(9);
    let later = Instant::now() + std::time::Duration::from_secs(60);
    let queue = parked_after_a_broadcast(&socket, PingPlan::Due { from: later, above: Seq::ZERO });
    ask(&queue, 3);
    assert!(queue.look().ask && queue.written_past().pinged.is_none());
    assert_eq!(socket.frames.lock().unwrap().len(), 1);
}

#[test]
fn what_is_acknowledged_needs_no_ping() {
    for (acked, above) in [(5, 0), (3, 5)] {
        let socket = TestSocket::with_room(9);
        let queue = parked_after_a_broadcast(&socket, PingPlan::Due { from: Instant::now(), above: Seq::from_db(above) });
        ask(&queue, acked);
        assert!(queue.look().is_empty() && queue.written_past().pinged.is_none());
        assert_eq!(socket.frames.lock().unwrap().len(), 1);
    }
}

#[test]
fn a_ping_that_a_full_socket_refuses_or_takes_in_part_is_left_to_the_task() {
    let socket = TestSocket::with_room(2);
    let queue = parked_after_a_broadcast(&socket, due());
    ask(&queue, 3);
    assert!(queue.look().unflushed && !queue.look().ask);
    assert_eq!(queue.written_past().pinged.unwrap().0, Seq::from_db(5));
    let socket = TestSocket::with_room(2);
    let queue = parked_after_a_broadcast(&socket, due());
    socket.room.store(0, Ordering::Relaxed);
    ask(&queue, 3);
    assert!(queue.look().ask && queue.written_past().pinged.is_none());
}
