//! Hashes a notification as a program sees it that has parsed `data`.
//!
//! Such a program cannot tell `1e2` from `100`; `crates/torture/sdk/report.mjs` makes the same hash.

use recado_torture_check::fact;
use serde_json::Value;

/// The hash of a row, its data given as JSON text.
pub fn hash(title: &str, message: &str, data: &str) -> String {
    fact::hash(&[title, message, &canonical(&serde_json::from_str(data).unwrap_or_default())])
}

/// JSON with sorted keys and with numbers as JavaScript writes them.
fn canonical(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_unstable_by_key(|(name, _)| *name);
            let members = members.into_iter().map(|(name, value)| format!("{}:{}", Value::from(name.as_str()), canonical(value)));
            format!("{{{}}}", members.collect::<Vec<_>>().join(","))
        }
        // A whole number has no point and, below 1e21, no exponent.
        Value::Number(number) => match number.as_f64() {
            Some(0.0) => "0".to_owned(),
            Some(number) => format!("{number}"),
            None => number.to_string(),
        },
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_as_a_script_writes_it() {
        let text = r#"{ "n" : 3.0, "big":1e2,"a":[-0.0,0.25,null,true],"text":"\u00e9\n\u0001" }"#;
        let value = serde_json::from_str(text).unwrap();
        assert_eq!(canonical(&value), "{\"a\":[0,0.25,null,true],\"big\":100,\"n\":3,\"text\":\"é\\n\\u0001\"}");
        assert_eq!(hash("t", "m", text), hash("t", "m", r#"{"a":[0,2.5e-1,null,true],"big":100,"n":3,"text":"é\n\u0001"}"#));
    }
}
