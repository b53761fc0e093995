//! Makes the spans of a hub: their names, kinds, links and attributes.
//!
//! ```text
//! POST /api/internal/notify     the caller's `traceparent` is its parent
//!   └─ append                   one commit; links to each request in it
//!   └─ publish notifications    one batch of the tailer, on each hub; links to the requests of its rows
//!   └─ ack notifications        from the post to its first acknowledgement, on the hub that took the post
//! ```
//!
//! A commit or a batch belongs to several requests. It is a child of the first sampled one, so that it is recorded
//! whenever one of its requests is, and it links to all of them. A request that is not sampled leaves no mark.
//!
//! While no collector is configured, nothing is allocated and nothing is read: each function looks at one static.
//! No attribute holds a user, an account, a title, data or a token. The names follow OpenTelemetry's conventions.

use std::borrow::Cow;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{Link, Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, TraceFlags, TraceState};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{SdkTracer, Span};
use tokio::task::futures::TaskLocalFuture;

use crate::domain::TraceContext;

/// Methods that may become an attribute; a client can send any other text as one.
const METHODS: [&str; 9] = ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];

static TRACER: OnceLock<SdkTracer> = OnceLock::new();

tokio::task_local! {
    /// The sampled span of the request that this task serves.
    static REQUEST: Option<TraceContext>;
}

/// Makes spans with this tracer from now on. The first tracer of a process stays.
pub(super) fn record_with(tracer: SdkTracer) {
    let _ = TRACER.set(tracer);
}

/// Whether spans are made.
pub fn are_on() -> bool {
    TRACER.get().is_some()
}

/// What is known of a request before its handler runs.
#[derive(Debug)]
pub struct RequestHead<'a> {
    pub method: &'a str,
    /// The pattern of the path; `None` if no route matches.
    pub route: Option<&'a str>,
    pub id: &'a str,
    pub parent: Option<TraceContext>,
    /// The header `tracestate`, which belongs to `parent`.
    pub state: Option<&'a str>,
}

/// The span of a request until its response has a head. It ends when it is dropped, if the client leaves before.
#[derive(Debug)]
pub struct RequestSpan(Span);

impl RequestSpan {
    /// `None` while no spans are made.
    pub fn begin(head: &RequestHead<'_>) -> Option<Self> {
        let tracer = TRACER.get()?;
        let method = METHODS.into_iter().find(|known| *known == head.method);
        let name = method.unwrap_or("HTTP");
        let (name, route) = match head.route {
            Some(route) => (Cow::Owned(format!("{name} {route}")), Some(KeyValue::new("http.route", route.to_owned()))),
            None => (Cow::Borrowed(name), None),
        };
        let attributes =
            [KeyValue::new("http.request.method", method.unwrap_or("_OTHER")), KeyValue::new("request_id", head.id.to_owned())];
        let span = SpanBuilder::from_name(name).with_kind(SpanKind::Server).with_attributes(attributes.into_iter().chain(route));
        let parent = head.parent.map_or_else(Context::new, |parent| {
            let state = head.state.and_then(|state| state.parse().ok()).unwrap_or_default();
            Context::new().with_remote_span_context(span_context(parent, true, state))
        });
        Some(Self(span.start_with_context(tracer, &parent)))
    }

    /// Names the span, if it is sampled.
    pub fn context(&self) -> Option<TraceContext> {
        let context = self.0.span_context();
        let (trace_id, span_id) = (u128::from_be_bytes(context.trace_id().to_bytes()), u64::from_be_bytes(context.span_id().to_bytes()));
        context.is_sampled().then_some(TraceContext { trace_id, span_id, is_sampled: true })
    }

    /// `code` is that of the problem body, if the request was refused.
    pub fn end(mut self, status: u16, code: Option<&'static str>) {
        self.0.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
        if let Some(code) = code {
            self.0.set_attribute(KeyValue::new("error.type", code));
        }
        // A refusal (4xx) is no error of the server.
        if status >= 500 {
            self.0.set_status(Status::error(code.unwrap_or_default()));
        }
        self.0.end();
    }
}

/// Runs a handler. [`request`] returns the context meanwhile.
pub fn within<F: Future>(context: Option<TraceContext>, handler: F) -> TaskLocalFuture<Option<TraceContext>, F> {
    REQUEST.scope(context, handler)
}

/// The sampled span of the request that the running task serves, if there is one.
pub fn request() -> Option<TraceContext> {
    REQUEST.try_with(|context| *context).ok().flatten()
}

/// Records a commit that took this long and ends now. Does nothing if no sampled request is in it.
pub fn appended(requests: &[TraceContext], took: Duration, rows: usize, bytes: usize) {
    let Some((tracer, first)) = TRACER.get().zip(requests.first()) else { return };
    let end = SystemTime::now();
    let attributes = [KeyValue::new("recado.rows", count(rows)), KeyValue::new("recado.bytes", count(bytes))];
    let span = SpanBuilder::from_name("append").with_kind(SpanKind::Internal).with_start_time(end - took);
    let span = span.with_attributes(attributes).with_links(links(requests, false));
    let parent = Context::new().with_remote_span_context(span_context(*first, false, TraceState::default()));
    span.start_with_context(tracer, &parent).end_with_timestamp(end);
}

/// A batch that the tailer is dispatching.
#[derive(Debug)]
pub struct PublishSpan {
    begun: SystemTime,
    requests: Vec<TraceContext>,
}

impl PublishSpan {
    /// Begins with the contexts that the rows were stored with. `None` if there is none, or no spans are made.
    pub fn begin(rows: impl Iterator<Item = Option<TraceContext>>) -> Option<Self> {
        TRACER.get()?;
        let mut requests: Vec<TraceContext> = Vec::new();
        // The rows of one request follow each other.
        rows.flatten().for_each(|row| requests.extend((requests.last() != Some(&row)).then_some(row)));
        (!requests.is_empty()).then(|| Self { begun: SystemTime::now(), requests })
    }

    /// Ends it after rows with these numbers were handed to their connections.
    pub fn end(self, first: i64, last: i64) {
        let Some((tracer, parent)) = TRACER.get().zip(self.requests.first()) else { return };
        let attributes = [
            KeyValue::new("messaging.system", "recado"),
            KeyValue::new("messaging.operation.name", "publish"),
            KeyValue::new("messaging.operation.type", "send"),
            KeyValue::new("messaging.destination.name", "notifications"),
            KeyValue::new("messaging.batch.message_count", last - first + 1),
            KeyValue::new("recado.first_seq", first),
            KeyValue::new("recado.last_seq", last),
        ];
        let span = SpanBuilder::from_name("publish notifications").with_kind(SpanKind::Producer).with_start_time(self.begun);
        let span = span.with_attributes(attributes).with_links(links(&self.requests, true));
        let parent = Context::new().with_remote_span_context(span_context(*parent, true, TraceState::default()));
        span.start_with_context(tracer, &parent).end();
    }
}

/// Records the first acknowledgement of a post of this hub, `since` the post. Does nothing if the post has no trace.
pub fn acked(post: Option<TraceContext>, since: Duration, seq: i64) {
    let Some((tracer, post)) = TRACER.get().zip(post) else { return };
    let end = SystemTime::now();
    let attributes = [
        KeyValue::new("messaging.system", "recado"),
        KeyValue::new("messaging.operation.name", "ack"),
        KeyValue::new("messaging.operation.type", "settle"),
        KeyValue::new("messaging.destination.name", "notifications"),
        KeyValue::new("recado.seq", seq),
    ];
    let span = SpanBuilder::from_name("ack notifications").with_kind(SpanKind::Internal).with_start_time(end - since);
    let parent = Context::new().with_remote_span_context(span_context(post, false, TraceState::default()));
    span.with_attributes(attributes).start_with_context(tracer, &parent).end_with_timestamp(end);
}

/// `is_remote`: another process may have made the span.
fn links(requests: &[TraceContext], is_remote: bool) -> Vec<Link> {
    requests.iter().map(|request| Link::with_context(span_context(*request, is_remote, TraceState::default()))).collect()
}

fn span_context(context: TraceContext, is_remote: bool, state: TraceState) -> SpanContext {
    let flags = TraceFlags::default().with_sampled(context.is_sampled);
    SpanContext::new(context.trace_id.into(), context.span_id.into(), flags, is_remote, state)
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
