//! Defines tenants, users and devices, and draws the notifications to post.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use recado_torture_check::fact::{FactAudience, hash};

pub const TENANTS: usize = 6;
pub const USERS: usize = 4;

pub fn account(tenant: usize) -> String {
    format!("acct-{tenant}")
}

/// Number of tenants that have one more user, who is erased repeatedly during the run.
pub const ERASED: usize = 3;

/// The erased user of a tenant, who gets the notifications of the account and some of its own.
pub fn erased_user(tenant: usize) -> String {
    format!("u{tenant}-e")
}

pub fn user(tenant: usize, user: usize) -> String {
    format!("u{tenant}-{user}")
}

/// The account of a user, by the user's name.
pub fn account_of(user: &str) -> String {
    let tenant = user.trim_start_matches('u').split('-').next().unwrap_or_default();
    format!("acct-{tenant}")
}

/// The format of a post.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PostForm {
    Plain,
    /// A CloudEvent as one JSON text.
    Event,
    /// A CloudEvent in headers, its data as the body.
    EventInHeaders,
}

/// A notification to post, as JSON fields and as a history describes it.
pub struct PostWish {
    pub form: PostForm,
    pub title: String,
    pub audience: FactAudience,
    pub hash: String,
    pub replay: bool,
    /// Names and JSON texts, sent unchanged.
    pub fields: Vec<(&'static str, String)>,
    pub key: Option<String>,
    pub is_valid: bool,
}

impl PostWish {
    pub fn json(&self) -> String {
        let fields: Vec<String> = self.fields.iter().map(|(name, json)| format!("\"{name}\":{json}")).collect();
        format!("{{{}}}", fields.join(","))
    }

    /// The attributes of a CloudEvent without its data, each as JSON text. `None` without a key: it would have no id.
    pub fn attributes(&self) -> Option<Vec<(&'static str, String)>> {
        let mut attributes = vec![("specversion", quoted("1.0")), ("source", quoted("/torture")), ("id", quoted(self.key.as_ref()?))];
        for (name, json) in &self.fields {
            let (name, json) = match *name {
                "title" => ("subject", json.clone()),
                "user_id" => ("userid", json.clone()),
                "account_id" => ("accountid", json.clone()),
                "user_ids" => {
                    let users: Vec<String> = serde_json::from_str(json).ok()?;
                    ("userids", quoted(&users.join(",")))
                }
                "data" | "idempotency_key" => continue,
                "message" if json == "\"\"" => continue,
                same => (same, json.clone()),
            };
            attributes.push((name, json));
        }
        Some(attributes)
    }

    pub fn data(&self) -> &str {
        self.fields.iter().find(|(name, _)| *name == "data").map_or("null", |(_, json)| json)
    }

    /// The CloudEvent as one JSON text, or `None` if it has no key.
    pub fn event(&self) -> Option<String> {
        let attributes: Vec<String> = self.attributes()?.iter().map(|(name, json)| format!("\"{name}\":{json}")).collect();
        Some(format!("{{{},\"data\":{}}}", attributes.join(","), self.data()))
    }

    fn set(&mut self, name: &'static str, json: String) {
        self.fields.retain(|(known, _)| *known != name);
        self.fields.push((name, json));
    }

    pub fn with_key_field(mut self) -> Self {
        if let Some(key) = self.key.clone() {
            self.set("idempotency_key", quoted(&key));
        }
        self
    }

    /// The same address and key under another title: another body.
    pub fn other_body(&self) -> Self {
        let title = format!("{}-other", self.title);
        let mut fields = self.fields.clone();
        fields.retain(|(name, _)| *name != "title");
        fields.push(("title", quoted(&title)));
        Self {
            hash: "refused".to_owned(),
            title,
            fields,
            audience: self.audience.clone(),
            key: self.key.clone(),
            replay: self.replay,
            form: self.form,
            is_valid: false,
        }
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Draws wishes for one writer.
pub fn wish(random: &mut StdRng, writer: usize, n: u64) -> PostWish {
    let tenant = random.random_range(0..TENANTS);
    let title = format!("w{writer}-{n}");
    let message = ["", "hello", "zwei Zeilen\nund \"Zitate\"", "\u{1F4EC} at the door \\ here"].choose(random).copied().unwrap_or_default();
    let mut taint = account(tenant);
    let mut addresses: Vec<(&'static str, String)> = Vec::new();
    let one = || user(tenant, 0);
    let audience = match random.random_range(0..100) {
        0..4 if tenant < ERASED => {
            let user = erased_user(tenant);
            addresses.push(("user_id", quoted(&user)));
            FactAudience::Users(vec![user])
        }
        0..40 => {
            let user = user(tenant, random.random_range(0..USERS));
            addresses.push(("user_id", quoted(&user)));
            FactAudience::Users(vec![user])
        }
        40..50 => {
            // Narrowed to sessions in the account; the users belong to it.
            let user = user(tenant, random.random_range(0..USERS));
            addresses.extend([("user_id", quoted(&user)), ("account_id", quoted(&taint))]);
            FactAudience::Users(vec![user])
        }
        50..60 => {
            let mut users: Vec<String> = (1..USERS).filter(|_| random.random_bool(0.5)).map(|n| user(tenant, n)).collect();
            users.push(one());
            users.extend((tenant < ERASED && random.random_bool(0.5)).then(|| erased_user(tenant)));
            addresses.push(("user_ids", serde_json::Value::from(users.clone()).to_string()));
            FactAudience::Users(users)
        }
        60..90 => {
            addresses.push(("account_id", quoted(&taint)));
            FactAudience::Account(taint.clone())
        }
        _ => {
            taint = "*".to_owned();
            addresses.push(("broadcast", "true".to_owned()));
            FactAudience::Everyone
        }
    };
    let size = if random.random_bool(0.05) { random.random_range(2_000..12_000) } else { random.random_range(0..300) };
    let blob: String = (0..size).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect();
    // Deliberately unusual formatting: the hub must return it byte for byte.
    let data = format!("{{ \"taint\":{},\"n\" : {n}.0, \"big\":1e2,\"blob\":\"{blob}\"}}", quoted(&taint));
    let mut fields = vec![("type", quoted("torture")), ("title", quoted(&title)), ("message", quoted(message)), ("data", data.clone())];
    fields.extend(addresses);
    let mut replay = true;
    match random.random_range(0..100) {
        0 | 1 => {
            fields.push(("replay", "false".to_owned()));
            replay = false;
        }
        2 | 3 => {
            fields.push(("ttl", "1".to_owned()));
            replay = false;
        }
        4..8 => fields.push(("ttl", "86400".to_owned())),
        _ => {}
    }
    // The same keys for every writer: keys of two services must not collide.
    let key = random.random_bool(0.9).then(|| format!("key-{n}"));
    let form = match random.random_range(0..10) {
        0 if key.is_some() => PostForm::Event,
        1 if key.is_some() => PostForm::EventInHeaders,
        _ => PostForm::Plain,
    };
    PostWish { form, hash: hash(&[&title, message, &data]), title, audience, replay, fields, key, is_valid: true }
}

/// Breaks a rule of the contract.
pub fn spoil(random: &mut StdRng, mut wish: PostWish) -> PostWish {
    match random.random_range(0..6) {
        0 => wish.set("type", quoted("heartbeat")),
        1 => wish.set("type", quoted("No Type")),
        2 => wish.fields.retain(|(name, _)| *name != "message"),
        3 => wish.fields.retain(|(name, _)| !matches!(*name, "user_id" | "user_ids" | "account_id" | "broadcast")),
        4 => wish.set("data", "{\"a\":1,\"a\":2}".to_owned()),
        _ => wish.set("data", "\"\\u0000\"".to_owned()),
    }
    wish.hash = "refused".to_owned();
    (wish.form, wish.is_valid) = (PostForm::Plain, false);
    wish
}
