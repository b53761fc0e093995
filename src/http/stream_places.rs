//! Counts long requests of admins, and refuses more than there are places.
//!
//! There are places for all admins together, and fewer for one key or subject.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::problems::RefusedRequest;
use crate::wire::problem::Problem;

/// When a client that found no place may try again.
const RETRY_S: u32 = 5;

/// The places for one kind of stream.
#[derive(Debug)]
pub struct StreamPlaces {
    /// What the streams do, for the text of a refusal: "follow the log".
    verb: &'static str,
    all: usize,
    /// Below `all`, so that no key and no subject takes every place.
    of_one: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// By the names of the audit. A name without a stream has no entry.
    of: HashMap<String, usize>,
}

/// A place. Dropping it frees the place.
#[derive(Debug)]
pub struct StreamPlace {
    places: Arc<StreamPlaces>,
    who: String,
}

impl StreamPlaces {
    pub fn new(verb: &'static str, all: usize, of_one: usize) -> Arc<Self> {
        Arc::new(Self { verb, all, of_one, taken: Mutex::default() })
    }

    /// Held briefly, never across an await.
    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for a key or subject, as the audit names it.
    ///
    /// # Errors
    /// 429 if it has its most places, 503 if there is none at all.
    pub fn take(self: &Arc<Self>, who: String) -> Result<StreamPlace, RefusedRequest> {
        let Self { verb, all, of_one, .. } = &**self;
        let mut taken = self.taken();
        if taken.of.get(&who).is_some_and(|count| count >= of_one) {
            let detail = format!(
                "{of_one} requests of {who} {verb} on this hub already; end one, such as a page of the console, or use another key"
            );
            return Err(Problem::new(429, "too_many_connections", detail).retry_after(RETRY_S).into());
        }
        if taken.all >= *all {
            let detail = format!("{all} requests {verb} on this hub already; end one, or ask again later");
            return Err(Problem::new(503, "full", detail).retry_after(RETRY_S).into());
        }
        taken.all += 1;
        *taken.of.entry(who.clone()).or_default() += 1;
        drop(taken);
        Ok(StreamPlace { places: Arc::clone(self), who })
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.all -= 1;
        if let Some(count) = taken.of.get_mut(&self.who) {
            *count -= 1;
            if *count == 0 {
                taken.of.remove(&self.who);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_leaves_places_to_others_and_a_freed_place_counts() {
        let places = StreamPlaces::new("wait", 3, 2);
        let take = |who: &str| places.take(who.to_owned()).map_err(|RefusedRequest(problem)| (problem.status, problem.code));
        let (first, second) = (take("key:a").unwrap(), take("key:a").unwrap());
        assert_eq!(take("key:a").unwrap_err(), (429, "too_many_connections"));
        let third = take("token:a").unwrap();
        assert_eq!(take("key:b").unwrap_err(), (503, "full"));
        assert_eq!(take("key:a").unwrap_err().0, 429, "its own streams are what it can close");
        drop(first);
        assert!(take("key:b").is_ok());
        drop((second, third));
        let taken = places.taken();
        assert_eq!((taken.all, taken.of.len()), (0, 0));
    }
}
