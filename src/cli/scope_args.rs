//! Reads the options that limit a service key or a login that posts in SQL.

use chrono::{DateTime, Datelike, SecondsFormat, Utc};
use clap::Args;

use super::error::CliFailure;
use crate::config::parse_duration;
use crate::domain::scopes::SCOPE_ENTRIES_MAX;
use crate::domain::{AccountId, ConsumerName, Network, Scopes, UserId};
use crate::wire::{TYPE_RULE, is_type};

/// Highest rate of a key, in posts per second. Above what one hub appends, so it is a typing error.
const RATE_MAX: i64 = 1_000_000;

/// The help of commands that take scopes.
pub const SCOPES_HELP: &str = "Without an option of scopes nothing is limited. With --type, --account or --user, the rights to broadcast, \
to change members and to read are given only by --broadcast, --members and --read. A post needs all that is named: with --account 7 each post \
must be within account 7, and with --user 42 it must name user 42 and no other.";

/// The scopes of posts, for keys and for logins.
#[derive(Debug, Args)]
pub struct PostScopeArgs {
    /// A type that may be posted; order_* stands for every type that begins with order_. May be given several times
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',', value_parser = type_pattern)]
    types: Vec<String>,
    /// An account that posts must be within; may be given several times
    #[arg(long = "account", value_name = "ID", value_delimiter = ',', value_parser = |text: &str| AccountId::parse(text).map(|id| id.to_string()))]
    accounts: Vec<String>,
    /// A user that posts may name; may be given several times
    #[arg(long = "user", value_name = "ID", value_delimiter = ',', value_parser = |text: &str| UserId::parse(text).map(|id| id.to_string()))]
    users: Vec<String>,
    /// Allow posts to everyone
    #[arg(long, conflicts_with = "no_broadcast")]
    broadcast: bool,
    /// Forbid posts to everyone
    #[arg(long)]
    no_broadcast: bool,
    /// Allow changes and lists of members
    #[arg(long, conflicts_with = "no_members")]
    members: bool,
    /// Forbid changes and lists of members
    #[arg(long)]
    no_members: bool,
    /// When it expires: a time from now such as 90d or 12h, or a moment such as 2027-01-31T00:00:00Z
    #[arg(long, value_name = "TIME", value_parser = expiry)]
    expires: Option<DateTime<Utc>>,
}

/// The scopes that only a key has.
#[derive(Debug, Args)]
pub struct KeyScopeArgs {
    #[command(flatten)]
    post: PostScopeArgs,
    /// Allow the routes that read, such as /stats; they need --role admin as well
    #[arg(long, conflicts_with = "no_read")]
    read: bool,
    /// Forbid the routes that read
    #[arg(long)]
    no_read: bool,
    /// Posts per second on each hub
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..=RATE_MAX))]
    rate: Option<i64>,
    /// An address or network that the key may be used from, such as 10.0.0.0/8. May be given several times
    #[arg(long = "from", value_name = "NETWORK", value_delimiter = ',', value_parser = |text: &str| Network::parse(text).map(|n| n.to_string()))]
    networks: Vec<String>,
    /// A consumer that the key may use and create; billing* stands for every name that begins with billing. May be
    /// given several times. With --type none the key can do nothing else
    #[arg(long = "consume", value_name = "NAME", value_delimiter = ',', value_parser = consumer_pattern)]
    consumers: Vec<String>,
}

impl PostScopeArgs {
    /// Whether changes of members were asked for.
    pub fn wants_members(&self) -> bool {
        self.members
    }

    /// The scopes. `None` if no option was given.
    pub fn scopes(&self) -> Result<Option<Scopes>, CliFailure> {
        let lists = [("--type", &self.types), ("--account", &self.accounts), ("--user", &self.users)];
        let is_narrow = lists.iter().any(|(_, list)| !list.is_empty());
        let [types, accounts, users] = lists.map(|(option, list)| stored(option, list));
        let scopes = Scopes {
            types: types?,
            accounts: accounts?,
            users: users?,
            broadcast: right(self.broadcast, self.no_broadcast, is_narrow),
            members: right(self.members, self.no_members, is_narrow),
            expires_at: self.expires,
            ..Scopes::everything()
        };
        let is_given = is_narrow || self.broadcast || self.no_broadcast || self.members || self.no_members || self.expires.is_some();
        Ok(is_given.then_some(scopes))
    }
}

impl KeyScopeArgs {
    /// The scopes. `None` if no option was given.
    pub fn scopes(&self) -> Result<Option<Scopes>, CliFailure> {
        let of_posts = self.post.scopes()?;
        let networks = stored("--from", &self.networks)?;
        let consumers = stored("--consume", &self.consumers)?.unwrap_or_default();
        if of_posts.is_none() && !self.read && !self.no_read && self.rate.is_none() && networks.is_none() && consumers.is_empty() {
            return Ok(None);
        }
        let base = of_posts.unwrap_or_else(Scopes::everything);
        let is_narrow = base.types.is_some() || base.accounts.is_some() || base.users.is_some();
        if self.read && !is_narrow {
            return Err(CliFailure::other(
                "--read limits nothing by itself: such a key may do everything. Add --type, --account or --user (--type none for a key that only reads), or leave it out",
            ));
        }
        let rate = self.rate.and_then(|rate| u32::try_from(rate).ok());
        Ok(Some(Scopes { read: right(self.read, self.no_read, is_narrow), rate, networks, consumers, ..base }))
    }

    /// Whether the routes that read were asked for.
    pub fn wants_read(&self) -> bool {
        self.read
    }
}

/// A right that is named counts; otherwise a key with a list of types, accounts or users does not have it.
fn right(is_given: bool, is_denied: bool, is_narrow: bool) -> bool {
    is_given || !is_denied && !is_narrow
}

fn stored(option: &str, list: &[String]) -> Result<Option<Vec<String>>, CliFailure> {
    let mut list = list.to_vec();
    list.sort_unstable();
    list.dedup();
    if list.len() > SCOPE_ENTRIES_MAX {
        return Err(CliFailure::other(format!("{option} may be given at most {SCOPE_ENTRIES_MAX} times")));
    }
    Ok((!list.is_empty()).then_some(list))
}

fn type_pattern(text: &str) -> Result<String, String> {
    let is_good = match text.strip_suffix('*') {
        // Any one character completes a prefix that is allowed.
        Some(prefix) => is_type(&format!("{prefix}x")),
        None => is_type(text),
    };
    match is_good {
        _ if text == "*" => Err("* alone limits nothing; leave --type out".to_owned()),
        true => Ok(text.to_owned()),
        false => Err(format!("{TYPE_RULE}; a * may end it, such as order_*")),
    }
}

fn consumer_pattern(text: &str) -> Result<String, String> {
    // Any one character completes a prefix that is allowed. `*` alone is every consumer.
    let name = text.strip_suffix('*').map_or_else(|| text.to_owned(), |prefix| format!("{prefix}x"));
    match ConsumerName::parse(&name) {
        Ok(_) => Ok(text.to_owned()),
        Err(rule) => Err(format!("{rule}; a * may end it, such as billing*")),
    }
}

fn expiry(text: &str) -> Result<DateTime<Utc>, String> {
    let moment = match DateTime::parse_from_rfc3339(text) {
        Ok(moment) => Some(moment.to_utc()),
        Err(_) => parse_duration(text).and_then(|time| Utc::now().checked_add_signed(chrono::Duration::from_std(time).ok()?)),
    };
    let moment = moment.ok_or("must be a time from now such as 90d or 12h, or a moment such as 2027-01-31T00:00:00Z")?;
    // RFC 3339 has four digits for a year.
    if moment <= Utc::now() || moment.year() > 9999 {
        return Err("must be in the future, and before the year 10000".to_owned());
    }
    Ok(moment)
}

/// Scopes as one line for people, such as `type:order_* account:7`.
pub struct ScopeWords<'a> {
    pub types: Option<&'a [String]>,
    pub accounts: Option<&'a [String]>,
    pub users: Option<&'a [String]>,
    /// The rights with their names.
    pub rights: &'a [(&'static str, bool)],
    pub rate: Option<u32>,
    pub networks: Option<&'a [String]>,
    pub consumers: &'a [String],
}

/// Entries of a list that the line shows.
const SHOWN: usize = 5;

impl ScopeWords<'_> {
    pub fn line(&self) -> String {
        let mut words = Vec::new();
        let lists = [("type", self.types), ("account", self.accounts), ("user", self.users)];
        for (name, list) in lists.into_iter().filter_map(|(name, list)| Some((name, list?))) {
            words.extend(list.iter().take(SHOWN).map(|entry| format!("{name}:{entry}")));
            if list.len() > SHOWN {
                words.push(format!("and {} more", list.len() - SHOWN));
            }
        }
        let is_narrow = !words.is_empty();
        // A line names what is unusual: rights of a narrow key, and rights that another key lacks.
        let unusual = self.rights.iter().filter(|(_, has)| *has == is_narrow);
        words.extend(unusual.map(|(name, has)| if *has { (*name).to_owned() } else { format!("no {name}") }));
        words.extend(self.rate.map(|rate| format!("{rate}/s")));
        words.extend(self.networks.into_iter().flatten().map(|network| format!("from {network}")));
        if words.is_empty() {
            words.push("everything".to_owned());
        }
        // A right that no other key has.
        words.extend(self.consumers.iter().take(SHOWN).map(|name| format!("consumer:{name}")));
        if self.consumers.len() > SHOWN {
            words.push(format!("and {} more consumers", self.consumers.len() - SHOWN));
        }
        words.join(" ")
    }
}

/// When something expires, for people.
pub fn expires(at: Option<DateTime<Utc>>) -> String {
    at.map_or_else(|| "never".to_owned(), |at| at.to_rfc3339_opts(SecondsFormat::Secs, true))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        scopes: KeyScopeArgs,
    }

    fn scopes(line: &str) -> Result<Option<Scopes>, String> {
        let command = Command::try_parse_from(std::iter::once("x").chain(line.split_whitespace())).map_err(|error| error.to_string())?;
        command.scopes.scopes().map_err(|failure| failure.message)
    }

    fn rights(line: &str) -> (bool, bool, bool) {
        let scopes = scopes(line).unwrap().unwrap();
        (scopes.broadcast, scopes.members, scopes.read)
    }

    #[test]
    fn a_narrow_key_has_only_the_rights_that_are_named() {
        assert_eq!(scopes(""), Ok(None));
        assert_eq!(rights("--account 7"), (false, false, false));
        assert_eq!(rights("--type order_* --broadcast --read"), (true, false, true));
        assert_eq!(rights("--user 42 --members"), (false, true, false));
        assert_eq!(rights("--no-broadcast"), (false, true, true));
        assert_eq!(rights("--rate 5"), (true, true, true));
        assert_eq!(rights("--no-read --from 10.0.0.0/8"), (true, true, false));
        let all = scopes("--type b,a --type a --account 7 --account 8 --from 10.0.0.0/8,::1 --rate 9").unwrap().unwrap();
        assert_eq!(all.types.unwrap(), ["a", "b"]);
        assert_eq!(all.accounts.unwrap(), ["7", "8"]);
        assert_eq!(all.networks.unwrap(), ["10.0.0.0/8", "::1/128"]);
        assert_eq!((all.rate, all.users, all.expires_at), (Some(9), None, None));
        let consumer = scopes("--type none --consume billing,a* --consume *").unwrap().unwrap();
        assert_eq!((consumer.consumers, consumer.broadcast), (vec!["*".to_owned(), "a*".to_owned(), "billing".to_owned()], false));
        assert!(all.consumers.is_empty());
    }

    #[test]
    fn bad_input_is_refused_with_what_to_write() {
        for (line, expected) in [
            ("--type *", "leave --type out"),
            ("--type A", "such as order_*"),
            ("--type a**", "such as order_*"),
            ("--type a*b", "such as order_*"),
            ("--account a/b", "must be 1 to 128 characters"),
            ("--user=-", "stands for no user"),
            ("--rate 0", "1..=1000000"),
            ("--from 10.0.0.1/8", "write 10.0.0.0/8"),
            ("--from everywhere", "such as 192.0.2.7"),
            ("--expires soon", "such as 90d"),
            ("--expires 0d", "in the future"),
            ("--expires 2001-01-01T00:00:00Z", "in the future"),
            ("--expires 9999999d", "before the year 10000"),
            ("--consume .", "such as billing*"),
            ("--consume a**", "such as billing*"),
            ("--broadcast --no-broadcast", "cannot be used with"),
            ("--read --no-read", "cannot be used with"),
        ] {
            let said = scopes(line).expect_err(line);
            assert!(said.contains(expected), "{line}: {said}");
        }
        let many: Vec<String> = (0..=SCOPE_ENTRIES_MAX).map(|n| n.to_string()).collect();
        assert!(scopes(&format!("--account {}", many.join(","))).unwrap_err().contains("at most 1000"));
    }

    #[test]
    fn an_expiry_is_a_time_from_now_or_a_moment() {
        let at = |text: &str| expiry(text).unwrap();
        assert!((at("90d") - Utc::now()).num_days() >= 89);
        assert_eq!(at("2999-01-31T01:00:00+01:00").to_rfc3339(), "2999-01-31T00:00:00+00:00");
    }

    #[test]
    fn a_line_names_what_is_unusual() {
        let seven = ["7".to_owned()];
        let many: Vec<String> = (0..8).map(|n| n.to_string()).collect();
        let none =
            ScopeWords { types: None, accounts: None, users: None, rights: &[("read", true)], rate: None, networks: None, consumers: &[] };
        assert_eq!(none.line(), "everything");
        assert_eq!(ScopeWords { consumers: &seven, ..none }.line(), "everything consumer:7");
        assert_eq!(ScopeWords { rights: &[("broadcast", false), ("read", true)], rate: Some(5), ..none }.line(), "no broadcast 5/s");
        let narrow = ScopeWords { accounts: Some(&seven), users: Some(&many), rights: &[("broadcast", false), ("read", true)], ..none };
        assert_eq!(narrow.line(), "account:7 user:0 user:1 user:2 user:3 user:4 and 3 more read");
    }
}
