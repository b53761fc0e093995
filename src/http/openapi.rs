//! Serves `GET /openapi.json`: the OpenAPI 3.1 document of every route.
//!
//! The document is written by hand, in the same folder. It cannot drift: a test below compares it with the served
//! routes, and the test suite checks every response against it, field by field.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

/// The document.
pub const DOCUMENT: &str = include_str!("openapi.json");

pub async fn openapi() -> Response {
    let media = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    ([media, (header::CACHE_CONTROL, HeaderValue::from_static("no-cache"))], DOCUMENT).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::http::router::{ListenerSide, routes};

    #[test]
    fn the_document_names_the_routes_that_are_served_and_no_other() {
        let document: Value = serde_json::from_str(DOCUMENT).unwrap();
        let paths = document["paths"].as_object().unwrap().iter();
        let documented: BTreeSet<(String, String)> = paths
            .flat_map(|(path, methods)| methods.as_object().unwrap().keys().map(|method| (path.clone(), method.to_uppercase())))
            .collect();
        let served: BTreeSet<(String, String)> =
            routes(ListenerSide::Whole).served.iter().map(|(path, method)| (path.to_string(), method.to_string())).collect();
        assert_eq!(documented, served, "on the left src/http/openapi.json, on the right src/http/router.rs");
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    }
}
