//! Plays an OpenTelemetry collector: takes traces over HTTP and keeps the spans.

use std::sync::{Arc, Mutex};

use axum::http::{HeaderMap, Request, Response, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::span::{Link, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode as SpanStatus;
use prost::Message;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::{HubBuilder, PATIENCE, eventually};

/// A span as the collector got it.
#[derive(Debug, Clone)]
pub struct GotSpan {
    pub name: String,
    pub kind: SpanKind,
    pub trace: String,
    pub id: String,
    /// Empty for the first span of a trace.
    pub parent: String,
    pub is_error: bool,
    /// Trace and span of each link.
    pub links: Vec<(String, String)>,
    /// Nanoseconds.
    pub times: (u64, u64),
    attributes: Vec<KeyValue>,
    resource: Vec<KeyValue>,
}

impl GotSpan {
    /// The text of an attribute.
    pub fn text(&self, name: &str) -> Option<String> {
        text(&self.attributes, name)
    }

    pub fn of_resource(&self, name: &str) -> Option<String> {
        text(&self.resource, name)
    }

    /// Everything that was sent, for a search.
    pub fn whole(&self) -> String {
        format!("{self:?}")
    }
}

fn text(attributes: &[KeyValue], name: &str) -> Option<String> {
    match attributes.iter().find(|attribute| attribute.key == name)?.value.clone()?.value? {
        Value::StringValue(text) => Some(text),
        Value::IntValue(number) => Some(number.to_string()),
        other => panic!("{name} is {other:?}"),
    }
}

#[derive(Default)]
struct Got {
    spans: Vec<GotSpan>,
    /// Of each export.
    headers: Vec<HeaderMap>,
    refuses: Option<StatusCode>,
}

/// Listens on loopback until it is dropped.
pub struct Collector {
    pub url: String,
    got: Arc<Mutex<Got>>,
    task: JoinHandle<()>,
}

impl Collector {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let got: Arc<Mutex<Got>> = Arc::default();
        let kept = Arc::clone(&got);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let got = Arc::clone(&kept);
                let service = service_fn(move |request| take(Arc::clone(&got), request));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { url, got, task }
    }

    /// Sets up a hub to send its spans here at once.
    pub fn of(&self, hub: HubBuilder) -> HubBuilder {
        hub.with("OTEL_EXPORTER_OTLP_ENDPOINT", &self.url).with("OTEL_BSP_SCHEDULE_DELAY", "50")
    }

    /// Answers each export with this status.
    pub fn refuse_with(&self, status: u16) {
        self.got.lock().unwrap().refuses = Some(StatusCode::from_u16(status).unwrap());
    }

    /// Takes exports again.
    pub fn take_again(&self) {
        self.got.lock().unwrap().refuses = None;
    }

    pub fn spans(&self) -> Vec<GotSpan> {
        self.got.lock().unwrap().spans.clone()
    }

    pub fn headers(&self) -> Vec<HeaderMap> {
        self.got.lock().unwrap().headers.clone()
    }

    /// Waits for the first span that fits.
    pub async fn span(&self, what: &str, fits: impl Fn(&GotSpan) -> bool) -> GotSpan {
        eventually(what, PATIENCE, async || self.spans().into_iter().find(&fits)).await
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn take(got: Arc<Mutex<Got>>, request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, hyper::Error> {
    let (head, body) = request.into_parts();
    assert_eq!((head.method.as_str(), head.uri.path()), ("POST", "/v1/traces"));
    let body = body.collect().await?.to_bytes();
    let request = ExportTraceServiceRequest::decode(body).expect("the body is a request of OTLP");
    let mut answer = Response::new(Empty::new());
    *answer.status_mut() = got.lock().unwrap().take(head.headers, request);
    Ok(answer)
}

impl Got {
    fn take(&mut self, headers: HeaderMap, request: ExportTraceServiceRequest) -> StatusCode {
        self.headers.push(headers);
        if let Some(status) = self.refuses {
            return status;
        }
        for of_resource in request.resource_spans {
            let resource = of_resource.resource.unwrap_or_default().attributes;
            for span in of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                self.spans.push(GotSpan {
                    kind: span.kind(),
                    name: span.name,
                    trace: hex(&span.trace_id),
                    id: hex(&span.span_id),
                    parent: hex(&span.parent_span_id),
                    is_error: span.status.is_some_and(|status| status.code() == SpanStatus::Error),
                    links: span.links.iter().map(|Link { trace_id, span_id, .. }| (hex(trace_id), hex(span_id))).collect(),
                    times: (span.start_time_unix_nano, span.end_time_unix_nano),
                    attributes: span.attributes,
                    resource: resource.clone(),
                });
            }
        }
        StatusCode::OK
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
