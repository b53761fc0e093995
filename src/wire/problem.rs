//! Defines the answer to a refused request: RFC 9457 problem details.

use serde::{Deserialize, Serialize};

use crate::domain::{LogId, Seq};

/// One error in a body: its position (RFC 6901 pointer) and the rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldError {
    pub pointer: String,
    pub detail: String,
}

impl FieldError {
    pub fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), detail: detail.into() }
    }
}

/// A refusal. `code` is the stable word that programs compare. `detail` says in a sentence what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub status: u16,
    pub code: &'static str,
    pub detail: String,
    pub errors: Vec<FieldError>,
    /// Seconds until a retry makes sense; sent as `Retry-After`.
    pub retry_after: Option<u32>,
    /// First and last number of the log, for a position that is not in it.
    pub bounds: Option<Bounds>,
}

/// The range of numbers that the log holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Bounds {
    pub head: Seq,
    pub earliest: Seq,
    pub log_id: LogId,
}

impl Problem {
    pub fn new(status: u16, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), errors: Vec::new(), retry_after: None, bounds: None }
    }

    #[must_use]
    pub fn with_errors(mut self, errors: Vec<FieldError>) -> Self {
        self.errors = errors;
        self
    }

    /// Turns the refusal of one item into a refusal of the body around it.
    #[must_use]
    pub fn within(mut self, pointer: &str) -> Self {
        if self.errors.is_empty() {
            self.errors.push(FieldError::new("", self.detail.clone()));
        }
        for error in &mut self.errors {
            error.pointer.insert_str(0, pointer);
        }
        self
    }

    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    #[must_use]
    pub fn with_bounds(mut self, bounds: Bounds) -> Self {
        self.bounds = Some(bounds);
        self
    }

    /// Encodes the body. `type` is a stable name, not a link that someone has to keep alive.
    pub fn body(&self, request_id: &str) -> String {
        #[derive(Serialize)]
        struct ProblemBody<'a> {
            r#type: String,
            title: &'static str,
            status: u16,
            code: &'static str,
            detail: &'a str,
            #[serde(skip_serializing_if = "<[FieldError]>::is_empty")]
            errors: &'a [FieldError],
            #[serde(flatten)]
            bounds: Option<Bounds>,
            request_id: &'a str,
        }
        let body = ProblemBody {
            r#type: format!("/problems/{}", self.code),
            title: title(self.status),
            status: self.status,
            code: self.code,
            detail: &self.detail,
            errors: &self.errors,
            bounds: self.bounds,
            request_id,
        };
        serde_json::to_string(&body).unwrap_or_else(|_| format!("{{\"status\":{},\"code\":\"{}\"}}", self.status, self.code))
    }

    /// Encodes the last line of an NDJSON answer: the problem, and the number of the request's line that caused it.
    pub fn of_line(&self, line: u64, request_id: &str) -> String {
        let body = self.body(request_id);
        format!("{{\"error\":{},\"line\":{line}}}}}\n", body.strip_suffix('}').unwrap_or(&body))
    }
}

fn title(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        413 => "Content Too Large",
        414 => "URI Too Long",
        421 => "Misdirected Request",
        415 => "Unsupported Media Type",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "Internal Server Error",
    }
}
/// Reads a body of JSON. `form` says what the body must be.
///
/// # Errors
/// 400 for malformed JSON, 422 with `form` for any other JSON.
pub fn read_body<'a, T: Deserialize<'a>>(body: &'a [u8], form: &str) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| {
        if error.is_data() {
            Problem::new(422, "invalid_field", form)
        } else {
            Problem::new(400, "malformed_json", format!("the body is not JSON: line {}, column {}", error.line(), error.column()))
        }
    })
}
