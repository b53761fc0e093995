//! Checks C1 to C3 and C5: the log holds each post once, densely numbered, in the order of the answers.

use super::ViolationList;
use super::index::{Index, IndexedWish};
use crate::fact::FactAudience;

pub fn check(index: &Index<'_>, found: &mut ViolationList<'_>) {
    dense(index, found);
    once(index, found);
    answers(index, found);
    real_time(index, found);
}

/// C1: the numbers are floor+1 to head, each once.
fn dense(index: &Index<'_>, found: &mut ViolationList<'_>) {
    let Some((_, floor, head)) = index.log else { return };
    let mut last = floor;
    for row in &index.rows {
        if row.seq == last {
            found.add("C1", None, format!("number {} is in the log twice", row.seq));
        } else if row.seq != last + 1 {
            let at = index.wishes.get(row.title).and_then(|wish| wish.first_invoked);
            found.add("C1", at, format!("the log goes from {last} to {}: {} numbers are missing", row.seq, row.seq - last - 1));
        }
        last = row.seq;
    }
    if last != head {
        found.add("C1", None, format!("the log says that it ends at {head}, its rows end at {last}"));
    }
}

/// C2: a definite yes has one row, definite noes have none, any other post has at most one; every row has a wish.
fn once(index: &Index<'_>, found: &mut ViolationList<'_>) {
    let mut counts: std::collections::BTreeMap<&str, Vec<i64>> = std::collections::BTreeMap::new();
    for row in &index.rows {
        counts.entry(row.title).or_default().push(row.seq);
    }
    for (title, seqs) in &counts {
        match index.wishes.get(title) {
            None => found.add("C2", None, format!("{title} is number {}, but no writer posted it", seqs[0])),
            Some(wish) if wish.attempts == 0 => found.add("C2", None, format!("{title} is number {}, but it was never sent", seqs[0])),
            Some(wish) if seqs.len() > 1 => found.add("C2", wish.first_invoked, format!("{title} is in the log as {seqs:?}")),
            Some(wish) if wish.fails == wish.attempts => {
                found.add("C2", wish.first_invoked, format!("{title} was refused, but it is number {}", seqs[0]));
            }
            Some(_) => {}
        }
    }
    for (title, wish) in &index.wishes {
        if counts.contains_key(title) {
            continue;
        }
        if let Some((seq, id, t)) = wish.oks.first() {
            let now = index.row(*seq).map_or_else(|| "nothing".to_owned(), |row| format!("{} ({})", row.title, row.id));
            found.add("C2", Some(*t), format!("{title} was answered with {seq} ({id}) and is lost; {seq} is {now}"));
        }
        if let Some((id, t)) = wish.kept
            && !was_erased_in_the_outbox(index, title, wish)
        {
            found.add("C2", Some(t), format!("{title} ({id}) was committed by its producer and is lost"));
        }
    }
}

/// Whether a notification addressed only erased users, and was erased while it waited in the outbox.
fn was_erased_in_the_outbox(index: &Index<'_>, title: &str, wish: &IndexedWish<'_>) -> bool {
    let Some(FactAudience::Users(users)) = wish.audience else { return false };
    let is_erased = |user: &String| index.erasures.iter().any(|erasure| erasure.user == Some(user.as_str()));
    index.unposted.contains(title) && users.iter().all(is_erased)
}

/// C3: number and id of every definite yes equal the row's.
fn answers(index: &Index<'_>, found: &mut ViolationList<'_>) {
    for row in &index.rows {
        if let Some((id, t)) = index.wishes.get(row.title).and_then(|wish| wish.kept)
            && row.id != id
        {
            found.add("C3", Some(t), format!("{} was committed as {id}, but is {} ({})", row.title, row.seq, row.id));
        }
    }
    for (title, wish) in &index.wishes {
        for (seq, id, t) in &wish.oks {
            match index.row(*seq) {
                Some(row) if row.title == *title && row.id == *id => {}
                Some(row) => {
                    found.add(
                        "C3",
                        Some(*t),
                        format!("{title} was answered with {seq} ({id}), but that row is {} ({})", row.title, row.id),
                    );
                }
                None => found.add("C3", Some(*t), format!("{title} was answered with {seq} ({id}), but there is no such row")),
            }
        }
    }
}

/// C5: a post that was answered before another one was sent has the lower number. The walk goes down by number and
/// keeps the earliest answer of all higher numbers: no lower number may have been sent after it.
fn real_time(index: &Index<'_>, found: &mut ViolationList<'_>) {
    let mut earliest: Option<(u64, i64)> = None;
    for row in index.rows.iter().rev() {
        let Some(wish) = index.wishes.get(row.title) else { continue };
        if let (Some(invoked), Some((ended, seq))) = (wish.first_invoked, earliest)
            && invoked > ended
        {
            let what = format!("{} ({}) was sent after {seq} had been answered, but has a lower number", row.seq, row.title);
            found.add("C5", Some(invoked), what);
        }
        let ended = wish.oks.iter().map(|(_, _, t)| *t).min();
        if let Some(ended) = ended
            && earliest.is_none_or(|(before, _)| ended < before)
        {
            earliest = Some((ended, row.seq));
        }
    }
}
