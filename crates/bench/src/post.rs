//! Builds what the benches post: realistic notifications, as an HTTP body and as a row.

use rand::random_range;
use recado::cli::error::CliFailure;
use recado::domain::{AccountId, Audience, BodyHash, IdempotencyKey, NewNotification, NotificationId, UserId};

/// The service that the bench posts as. It identifies a log that only the bench has used.
pub const SOURCE: &str = "recado-bench";

/// The n-th notification of a run. Its body has `size` bytes, or as many as its fields need.
#[derive(Debug, Clone, Copy)]
pub struct Post {
    pub n: usize,
    pub size: usize,
}

impl Post {
    /// The data of a row. The other fields of a body take about 150 bytes.
    pub fn data(self) -> String {
        self.filled(self.size.saturating_sub(150))
    }

    fn filled(self, filler: usize) -> String {
        format!("{{\"bench_n\":{},\"order_id\":\"{}\",\"filler\":\"{:x<filler$}\"}}", self.n, 1000 + self.n, "")
    }

    /// The body that a service posts. `audience` holds the audience fields as JSON without the braces.
    pub fn body(self, audience: &str) -> String {
        let before = format!("{{\"type\":\"order_created\",\"title\":\"New order\",\"message\":\"Order #{}\",\"data\":", 1000 + self.n);
        let rest = before.len() + self.filled(0).len() + ",}".len() + audience.len();
        format!("{before}{},{audience}}}", self.filled(self.size.saturating_sub(rest)))
    }

    /// The row that the hub would append.
    pub fn row(self, audience: Audience, key: Option<String>) -> NewNotification {
        NewNotification {
            id: NotificationId::new(),
            kind: "order_created".to_owned(),
            title: "New order".to_owned(),
            message: format!("Order #{}", 1000 + self.n),
            data: Some(self.data()),
            audience,
            ttl_seconds: None,
            replay: true,
            inbox: true,
            source: SOURCE.to_owned(),
            key: key.map(|key| IdempotencyKey::new(SOURCE, &key)),
            body_hash: BodyHash(0),
        }
    }
}

/// Users of a bench, from `bench-0` on.
pub fn user(n: usize) -> Result<UserId, CliFailure> {
    UserId::parse(&format!("bench-{n}")).map_err(|error| CliFailure::other(error.to_string()))
}

/// Audiences of a busy shop: 80 % one user, 10 % five users, 10 % an account, and one in ten thousand everyone.
#[derive(Debug, Clone, Copy)]
pub struct Mixture {
    pub users: usize,
    pub accounts: usize,
}

impl Mixture {
    pub fn next(self) -> Result<Audience, CliFailure> {
        let any_user = || user(random_range(0..self.users.max(1)));
        Ok(match random_range(0..10_000) {
            0 => Audience::Everyone,
            1..1000 => {
                let mut users = (0..5).map(|_| any_user()).collect::<Result<Vec<_>, _>>()?;
                users.sort_unstable();
                users.dedup();
                Audience::Users { users, account: None }
            }
            1000..2000 => {
                let account = AccountId::parse(&format!("account-{}", random_range(0..self.accounts.max(1))));
                Audience::Account(account.map_err(|error| CliFailure::other(error.to_string()))?)
            }
            _ => Audience::User { user: any_user()?, account: None },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_json_of_the_size_that_was_asked_for() {
        for (n, size) in [(7, 300), (123_456, 295)] {
            let body = Post { n, size }.body("\"user_id\":\"bench-1\"");
            let json: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!((json["data"]["bench_n"].as_u64(), body.len()), (Some(n as u64), size));
        }
    }
}
