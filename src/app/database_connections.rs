//! Counts the database connections that a hub opens.

use crate::config::Config;
use crate::webhooks;

/// Connections that store commands.
pub(super) const COMMAND_CONNECTIONS: u32 = 2;
/// Connections for key look-ups: one task does them.
pub(super) const KEY_CONNECTIONS: u32 = 1;
/// Connections for tickets: the sender of a ticket is not known before its look-up.
pub(super) const TICKET_CONNECTIONS: u32 = 2;
/// Connections for consumers, so that they take none from users.
pub(super) const CONSUMER_CONNECTIONS: u32 = 4;

/// Connections of every hub, besides `RECADO_READ_CONNECTIONS`: the name in `pg_stat_activity` after `recado `, and the
/// most that a hub opens.
const OF_EVERY_HUB: [(&str, u32); 16] = [
    ("appender", 1),
    ("inbox writer", 1),
    ("tailer", 1),
    ("outbox relay", 1),
    ("ack flusher", 1),
    ("entries", 1),
    ("maintenance", 1),
    ("audit", 1),
    ("access", 1),
    ("webhook supervisor", 1),
    ("listener", 1),
    // For the length of a round.
    ("retention", 1),
    ("keys", KEY_CONNECTIONS),
    ("tickets", TICKET_CONNECTIONS),
    ("consumers", CONSUMER_CONNECTIONS),
    ("webhooks", webhooks::CONNECTIONS),
];
/// More connections of a hub with a provider file.
const OF_PROVIDERS: [(&str, u32); 5] =
    [("upstream supervisor", 1), ("message appender", 1), ("provider status", 1), ("session writer", 1), ("commands", COMMAND_CONNECTIONS)];

fn sum(connections: &[(&str, u32)]) -> u32 {
    connections.iter().map(|(_, count)| count).sum()
}

/// The most connections to the primary that a hub with these settings opens.
pub fn database_connections(config: &Config) -> u32 {
    let of_providers = if config.upstream_file.is_some() { sum(&OF_PROVIDERS) } else { 0 };
    sum(&OF_EVERY_HUB) + config.read_connections + of_providers
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// Names of connections in the source, without `cli/`: its commands end.
    fn named(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("src/cli") {
                named(&path, found);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let code = text.split("mod tests {").next().unwrap_or_default();
                for opening in ["DedicatedConnection::new(", ".reader(", ".connect(\"", "opened = applying("] {
                    let calls = code.split(opening).skip(1).filter_map(|rest| rest.split(';').next());
                    let opens_at_name = opening.ends_with('"');
                    let names = calls.filter_map(|call| if opens_at_name { call.split('"').next() } else { call.split('"').nth(1) });
                    found.extend(names.map(str::to_owned));
                }
            }
        }
    }

    /// What went wrong: three pages and `recado doctor` each had a number of their own, and all were too low.
    #[test]
    fn every_connection_of_a_hub_is_counted_and_the_guide_has_the_sums() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut found = BTreeSet::new();
        named(&root.join("src"), &mut found);
        // The pool for resuming clients is a setting. `start`, `migrate` and `doctor` are closed before a hub serves.
        for other in ["reader", "start", "migrate", "doctor"] {
            found.remove(other);
        }
        let counted: BTreeSet<String> = OF_EVERY_HUB.iter().chain(&OF_PROVIDERS).map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(found, counted, "on the left the source, on the right the table");

        let (every, providers) = (sum(&OF_EVERY_HUB), sum(&OF_PROVIDERS));
        let guide = std::fs::read_to_string(root.join("docs/guides/operate.md")).unwrap();
        for row in [
            format!("| for itself | {} |", every - CONSUMER_CONNECTIONS - webhooks::CONNECTIONS),
            format!("| for [consumers](consumers.md) | {CONSUMER_CONNECTIONS} |"),
            format!("| for [webhooks](webhooks.md) | {} |", webhooks::CONNECTIONS),
            format!("| with a provider file | {providers} more |"),
            format!("| in all, by default | {}, {} with a provider file |", every + 8, every + 8 + providers),
        ] {
            assert!(guide.contains(&row), "docs/guides/operate.md lacks: {row}");
        }
        let pooler = std::fs::read_to_string(root.join("docs/guides/proxies.md")).unwrap();
        let line =
            format!("; A hub opens up to {} connections, {} with a provider file, and keeps them.", every + 8, every + 8 + providers);
        assert!(pooler.contains(&line), "docs/guides/proxies.md lacks: {line}");
    }
}
