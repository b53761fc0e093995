//! Reads the user that a path names.
//!
//! Browsers and HTTP libraries remove `.` and `..` from paths, and both are ids that an identity provider may choose.
//! So a path may have `-`, which is no user id, in the place of the user, and the query names the user.

use super::problems::RefusedRequest;
use super::query::{QueryPairs, pairs};
use crate::domain::{ProviderName, UserId};
use crate::wire::problem::{FieldError, Problem};

/// Stands for the user of the query.
const IN_QUERY: &str = "-";

/// Reads the user of a path in which the segment is called `name`. Returns the other parameters of the query as well.
///
/// # Errors
/// A query that is no list of names and values, or a text that is no user id.
pub fn named_user(name: &str, segment: &str, query: QueryPairs) -> Result<(UserId, Vec<(String, String)>), RefusedRequest> {
    let (user, pairs) = user_of(name, segment, query)?;
    match user {
        Ok(user) => Ok((user, pairs)),
        Err(error) => Err(refused(vec![error])),
    }
}

/// As [`named_user`], of a path that names a provider as well. Reports what is wrong with both.
///
/// # Errors
/// As [`named_user`], and a text that is no provider's name.
pub fn named_provider_and_user(provider: &str, segment: &str, query: QueryPairs) -> Result<(ProviderName, UserId), RefusedRequest> {
    let (user, _) = user_of("user", segment, query)?;
    let provider = ProviderName::parse(provider).map_err(|error| FieldError::new("/provider", error.to_string()));
    match (provider, user) {
        (Ok(provider), Ok(user)) => Ok((provider, user)),
        (provider, user) => Err(refused(provider.err().into_iter().chain(user.err()).collect())),
    }
}

fn refused(errors: Vec<FieldError>) -> RefusedRequest {
    Problem::new(422, "invalid_field", "the address breaks the rules listed in errors").with_errors(errors).into()
}

type NamedUser = (Result<UserId, FieldError>, Vec<(String, String)>);

fn user_of(name: &str, segment: &str, query: QueryPairs) -> Result<NamedUser, RefusedRequest> {
    let mut pairs = pairs(query)?;
    let user = if segment == IN_QUERY {
        match pairs.iter().position(|(name, _)| name == "user") {
            Some(at) => UserId::parse(&pairs.remove(at).1).map_err(|error| FieldError::new("/user", error.to_string())),
            None => Err(FieldError::new("/user", "is required where the path has - in the place of the user")),
        }
    } else {
        UserId::parse(segment).map_err(|error| FieldError::new(format!("/{name}"), error.to_string()))
    };
    Ok((user, pairs))
}
