//! Reads the body of `POST /api/admin/sign-in`.

use serde::Deserialize;

use crate::wire::problem::{Problem, read_body};

/// The token of a link that signs in to the console.
#[derive(Debug, PartialEq, Eq)]
pub struct SignInBody {
    pub link: String,
}

impl SignInBody {
    /// Reads `{"link":"rcl_…"}`.
    ///
    /// # Errors
    /// 400 for malformed JSON, 422 for another body.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            link: String,
        }
        let Fields { link } = read_body(body, r#"the body is {"link":"rcl_…"} and nothing else"#)?;
        Ok(Self { link })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_has_a_link_and_nothing_else() {
        assert_eq!(SignInBody::parse(br#"{"link":"rcl_1"}"#).unwrap().link, "rcl_1");
        for (text, status) in [("", 400), ("{}", 422), (r#"{"link":7}"#, 422), (r#"{"link":"a","ttl_seconds":60}"#, 422)] {
            assert_eq!(SignInBody::parse(text.as_bytes()).unwrap_err().status, status, "{text}");
        }
    }
}
