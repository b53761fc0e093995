//! Reads the user that a path names.
//!
//! Browsers and HTTP libraries remove `.` and `..` from paths, and both are ids that an identity provider may choose.
//! So a path may have `-`, which is no user id, in the place of the user, and the query names the user.

use super::problems::RefusedRequest;
use super::query::{QueryPairs, pairs};
use crate::domain::UserId;
use crate::wire::problem::{FieldError, Problem};

/// Stands for the user of the query.
const IN_QUERY: &str = "-";

/// Reads the user of a path in which the segment is called `name`. Returns the other parameters of the query as well.
///
/// # Errors
/// A query that is no list of names and values, or a text that is no user id.
pub fn named_user(name: &str, segment: &str, query: QueryPairs) -> Result<(UserId, Vec<(String, String)>), RefusedRequest> {
    let mut pairs = pairs(query)?;
    let user = if segment == IN_QUERY {
        match pairs.iter().position(|(name, _)| name == "user") {
            Some(at) => UserId::parse(&pairs.remove(at).1).map_err(|error| FieldError::new("/user", error.to_string())),
            None => Err(FieldError::new("/user", "is required where the path has - in the place of the user")),
        }
    } else {
        UserId::parse(segment).map_err(|error| FieldError::new(format!("/{name}"), error.to_string()))
    };
    match user {
        Ok(user) => Ok((user, pairs)),
        Err(error) => {
            Err(Problem::new(422, "invalid_field", "the address breaks the rules listed in errors").with_errors(vec![error]).into())
        }
    }
}
