//! C1 to C3 and C5: the log holds what was posted, once each, densely numbered, in the order of the answers.

use super::Findings;
use super::index::Index;

pub fn check(index: &Index<'_>, found: &mut Findings<'_>) {
    dense(index, found);
    once(index, found);
    answers(index, found);
    real_time(index, found);
}

/// C1: the numbers are floor+1 to head, each once.
fn dense(index: &Index<'_>, found: &mut Findings<'_>) {
    let Some((_, floor, head)) = index.log else { return };
    let mut last = floor;
    for row in &index.rows {
        if row.seq == last {
            found.add("C1", None, format!("number {} stands twice in the log", row.seq));
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

/// C2: a definite yes is one row, only definite noes are none, anything else is one at most; no row without a wish.
fn once(index: &Index<'_>, found: &mut Findings<'_>) {
    let mut counts: std::collections::BTreeMap<&str, Vec<i64>> = std::collections::BTreeMap::new();
    for row in &index.rows {
        counts.entry(row.title).or_default().push(row.seq);
    }
    for (title, seqs) in &counts {
        match index.wishes.get(title) {
            None => found.add("C2", None, format!("nobody asked for {title}, and it is number {}", seqs[0])),
            Some(wish) if wish.attempts == 0 => found.add("C2", None, format!("{title} was never posted, and it is number {}", seqs[0])),
            Some(wish) if seqs.len() > 1 => found.add("C2", wish.first_invoked, format!("{title} is in the log as {seqs:?}")),
            Some(wish) if wish.fails == wish.attempts => {
                found.add("C2", wish.first_invoked, format!("{title} was refused, and it is number {}", seqs[0]));
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
            found.add("C2", Some(*t), format!("{title} was answered with {seq} ({id}) and is lost; at {seq} stands {now}"));
        }
        if let Some((id, t)) = wish.kept {
            found.add("C2", Some(t), format!("{title} ({id}) was committed by its producer and is lost"));
        }
    }
}

/// C3: number and id of every yes are the row's.
fn answers(index: &Index<'_>, found: &mut Findings<'_>) {
    for row in &index.rows {
        if let Some((id, t)) = index.wishes.get(row.title).and_then(|wish| wish.kept)
            && row.id != id
        {
            found.add("C3", Some(t), format!("{} was committed as {id}, and is {} ({})", row.title, row.seq, row.id));
        }
    }
    for (title, wish) in &index.wishes {
        for (seq, id, t) in &wish.oks {
            match index.row(*seq) {
                Some(row) if row.title == *title && row.id == *id => {}
                Some(row) => {
                    found.add("C3", Some(*t), format!("{title} was answered with {seq} ({id}), where {} ({}) stands", row.title, row.id));
                }
                None => found.add("C3", Some(*t), format!("{title} was answered with {seq} ({id}), where nothing stands")),
            }
        }
    }
}

/// C5: what was answered before another was asked for has the lower number. Walking down by number, with the earliest
/// answer of all that have a higher one: nothing with a lower number may have been asked for after it.
fn real_time(index: &Index<'_>, found: &mut Findings<'_>) {
    let mut earliest: Option<(u64, i64)> = None;
    for row in index.rows.iter().rev() {
        let Some(wish) = index.wishes.get(row.title) else { continue };
        if let (Some(invoked), Some((ended, seq))) = (wish.first_invoked, earliest)
            && invoked > ended
        {
            let what = format!("{} ({}) was asked for after {seq} had been answered, and has a lower number", row.seq, row.title);
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
