//! Checks every answer and every frame that a test gets against the hub's own documents.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use boon::{Compiler, SchemaIndex, Schemas};
use serde_json::Value;

const ROOT: &str = "http://hub/openapi.json";
const FRAMES_ROOT: &str = "http://hub/asyncapi.json";

/// Statuses that may be sent before a route is known. A route that exists answers another method with 405.
const OF_ANY_ROUTE: [u16; 5] = [400, 404, 405, 414, 431];

/// The document of the requests that the hub serves.
pub fn document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(|| serde_json::from_str(include_str!(concat!(env!("OUT_DIR"), "/openapi.json"))).unwrap())
}

/// The document of the streams that the hub serves.
pub fn frames_document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(|| serde_json::from_str(include_str!(concat!(env!("OUT_DIR"), "/asyncapi.json"))).unwrap())
}

/// The document of the requests, changed so that an unnamed field is an error. Clients must tolerate new fields; the
/// hub must name them.
fn strict() -> &'static Value {
    static STRICT: OnceLock<Value> = OnceLock::new();
    STRICT.get_or_init(|| {
        let mut strict = document().clone();
        close(&mut strict["components"]["schemas"]);
        strict
    })
}

fn close(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            if members.contains_key("properties") && members.get("type") == Some(&Value::from("object")) {
                members.entry("additionalProperties").or_insert(Value::Bool(false));
            }
            members.values_mut().for_each(close);
        }
        Value::Array(list) => list.iter_mut().for_each(close),
        _ => {}
    }
}

/// Checks a frame of a stream against the schema of its type in the hub's AsyncAPI document. A type that the document
/// does not name is one of a notification.
pub fn frame_matches(frame: &Value) -> Result<(), String> {
    static FRAMES: OnceLock<FrameSchemas> = OnceLock::new();
    let FrameSchemas { schemas, of_type } = FRAMES.get_or_init(FrameSchemas::compile);
    let kind = frame["type"].as_str().ok_or("a frame without a type")?;
    let schema = of_type.get(kind).or_else(|| of_type.get("notification")).ok_or("no schema")?;
    schemas.validate(frame, *schema).map_err(|error| format!("{frame} is no {kind} of /asyncapi.json: {error:#}"))
}

/// The schema of each frame that a hub sends, by the frame's type.
struct FrameSchemas {
    schemas: Schemas,
    of_type: HashMap<String, SchemaIndex>,
}

impl FrameSchemas {
    fn compile() -> Self {
        let mut document = frames_document().clone();
        close(&mut document["components"]["schemas"]);
        let (mut compiler, mut schemas) = (compiler(FRAMES_ROOT, &document), Schemas::new());
        let sent = document["operations"]["sendFrame"]["messages"].as_array().unwrap().iter();
        let names = sent.map(|message| message["$ref"].as_str().unwrap().rsplit('/').next().unwrap());
        let of_type = names.map(|name| {
            let message = &document["components"]["messages"][name];
            let at = message["payload"]["$ref"].as_str().unwrap();
            (message["name"].as_str().unwrap().to_owned(), compiler.compile(&format!("{FRAMES_ROOT}{at}"), &mut schemas).unwrap())
        });
        let of_type = of_type.collect();
        Self { schemas, of_type }
    }
}

/// Panics unless the document allows this answer.
pub fn matches_document(method: &str, target: &str, status: u16, media: Option<&str>, body: &str) {
    if let Err(difference) = check(method, target, status, media, body) {
        panic!("{method} {} is answered with {status} {}: {difference}\n{body}", path(target), media.unwrap_or("nothing"));
    }
}

/// The path of the document that this path is one of; itself if there is none.
fn template(path: &str) -> &str {
    let fits = |template: &str| {
        let (parts, given) = (template.split('/'), path.split('/'));
        parts.clone().count() == given.clone().count()
            && parts.zip(given).all(|(part, given)| part == given || part.starts_with('{') && !given.is_empty())
    };
    let templates = strict()["paths"].as_object().unwrap().keys();
    if strict()["paths"][path].is_null() { templates.map(String::as_str).find(|one| fits(one)).unwrap_or(path) } else { path }
}

fn path(target: &str) -> &str {
    target.split(['?', '#']).next().unwrap_or_default()
}

/// The path under which the document describes an answer. Old routes answer with several media types, each of which the
/// document describes at a route of its own.
fn documented_at<'a>(path: &'a str, media: Option<&str>) -> &'a str {
    match (path, media) {
        ("/api/internal/notify/batch", Some("application/x-ndjson")) => "/api/internal/notify/ndjson",
        ("/api/notifications", Some("application/x-ndjson")) => "/api/notifications/ndjson",
        _ => path,
    }
}

fn check(method: &str, target: &str, status: u16, media: Option<&str>, body: &str) -> Result<(), String> {
    let method = method.to_lowercase();
    if method == "options" {
        return Ok(());
    }
    let documented = template(documented_at(path(target), media));
    let operation = &strict()["paths"][documented][&method];
    if operation.is_null() {
        return if OF_ANY_ROUTE.contains(&status) {
            matches_schema("/components/schemas/Problem", body)
        } else {
            Err("no such route".into())
        };
    }
    let at = format!("/paths/{}/{method}/responses/{status}", documented.replace('/', "~1"));
    let Some(response) = strict().pointer(&at) else { return Err("the status is not documented".into()) };
    let (at, response) = match response["$ref"].as_str() {
        Some(to) => (to[1..].to_owned(), strict().pointer(&to[1..]).ok_or("a reference to nothing")?),
        None => (at, response),
    };
    let Some(content) = response["content"].as_object() else {
        return if body.is_empty() { Ok(()) } else { Err("a body is not documented".into()) };
    };
    let media = media.and_then(|media| media.split(';').next()).unwrap_or_default();
    if !content.contains_key(media) {
        return Err(format!("the type is not documented, but {:?} are", content.keys()));
    }
    if media.ends_with("json") && !media.contains("ndjson") {
        matches_schema(&format!("{at}/content/{}/schema", media.replace('/', "~1")), body)?;
    }
    if media == "application/problem+json" {
        let problem: Value = serde_json::from_str(body).map_err(|error| error.to_string())?;
        if problem["status"] != status {
            return Err("the body says another status".into());
        }
    }
    Ok(())
}

/// Checks JSON text against the schema at a pointer of the document.
pub fn matches_schema(at: &str, body: &str) -> Result<(), String> {
    let value: Value = serde_json::from_str(body).map_err(|error| error.to_string())?;
    fits(at, &value)
}

/// Checks a value against the schema at a pointer of the document. Each schema is compiled once: that takes longer than
/// a whole request.
pub fn fits(at: &str, value: &Value) -> Result<(), String> {
    type CompiledSchema = Arc<(Schemas, SchemaIndex)>;
    static COMPILED: OnceLock<Mutex<HashMap<String, CompiledSchema>>> = OnceLock::new();
    let compiled = COMPILED.get_or_init(Mutex::default);
    let known = compiled.lock().unwrap().get(at).cloned();
    let schema = match known {
        Some(schema) => schema,
        None => {
            let schema = Arc::new(compile(at)?);
            compiled.lock().unwrap().insert(at.to_owned(), Arc::clone(&schema));
            schema
        }
    };
    schema.0.validate(value, schema.1).map_err(|error| format!("{error:#}"))
}

fn compile(at: &str) -> Result<(Schemas, SchemaIndex), String> {
    let (mut compiler, mut schemas) = (compiler(ROOT, strict()), Schemas::new());
    let schema = compiler.compile(&format!("{ROOT}#{at}"), &mut schemas).map_err(|error| format!("{at}: {error}"))?;
    Ok((schemas, schema))
}

/// A compiler of the schemas in a document.
fn compiler(root: &str, document: &Value) -> Compiler {
    let mut compiler = Compiler::new();
    compiler.enable_format_assertions();
    compiler.add_resource(root, document.clone()).unwrap();
    compiler
}
