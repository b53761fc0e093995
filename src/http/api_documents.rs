//! Serves `/openapi.json`, which describes every route, and `/asyncapi.json`, which describes every frame.
//!
//! Both documents are written by hand, in `api/`, and the build script bundles their files. They cannot drift: a test
//! below compares the routes with the served ones, and the test suite checks every response and every frame, field by
//! field.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

/// The OpenAPI 3.1 document of the requests.
const OPENAPI: &str = include_str!(concat!(env!("OUT_DIR"), "/openapi.json"));
/// The AsyncAPI 3.1 document of the streams.
const ASYNCAPI: &str = include_str!(concat!(env!("OUT_DIR"), "/asyncapi.json"));

pub async fn openapi() -> Response {
    document(OPENAPI)
}

pub async fn asyncapi() -> Response {
    document(ASYNCAPI)
}

fn document(text: &'static str) -> Response {
    let media = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    ([media, (header::CACHE_CONTROL, HeaderValue::from_static("no-cache"))], text).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::http::listener_side::ListenerSide;
    use crate::http::router::routes;

    #[test]
    fn the_document_names_the_routes_that_are_served_and_no_other() {
        let document: Value = serde_json::from_str(OPENAPI).unwrap();
        let paths = document["paths"].as_object().unwrap().iter();
        let documented: BTreeSet<(String, String)> = paths
            .flat_map(|(path, methods)| methods.as_object().unwrap().keys().map(|method| (path.clone(), method.to_uppercase())))
            .collect();
        let served: BTreeSet<(String, String)> =
            routes(ListenerSide::Whole).served.iter().map(|(path, method)| (path.to_string(), method.to_string())).collect();
        assert_eq!(documented, served, "on the left api/openapi/openapi.json, on the right src/http/router.rs");
        let frames: Value = serde_json::from_str(ASYNCAPI).unwrap();
        for document in [document, frames] {
            assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
        }
    }
}
