//! What somebody probably meant to write.

/// The known word that a mistyped one is nearest to, where one is near enough to be meant.
pub fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let most = 1 + written.len() / 4;
    // The lengths alone tell of most words that they are too far; a name of kilobytes is near to none.
    let known = known.into_iter().filter(|word| word.len().abs_diff(written.len()) <= most);
    let (distance, near) = known.map(|word| (distance(written, word), word)).min()?;
    (distance <= most).then_some(near)
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
