//! Suggests the known word that a mistyped word is probably meant to be.

/// The known word that is nearest to a mistyped one by Levenshtein's distance, if it is near enough.
pub fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let most = 1 + written.len() / 4;
    // Length alone excludes most words; a name of kilobytes is near to none.
    let known = known.into_iter().filter(|word| word.len().abs_diff(written.len()) <= most);
    let (distance, near) = known.map(|word| (strsim::levenshtein(written, word), word)).min()?;
    (distance <= most).then_some(near)
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
