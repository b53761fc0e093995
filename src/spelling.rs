//! What somebody probably meant to write.

/// The known word that a mistyped one is nearest to, where one is near enough to be meant.
pub fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let (distance, near) = known.into_iter().map(|word| (distance(written, word), word)).min()?;
    (distance <= 1 + written.len() / 4).then_some(near)
}

/// Levenshtein's edit distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_near_word_is_proposed() {
        assert_eq!(nearest("intervall", ["interval", "text"]), Some("interval"));
        assert_eq!(nearest("colour", ["interval", "text"]), None);
        assert_eq!(nearest("x", []), None);
    }
}
