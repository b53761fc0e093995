//! Splits a list of database URLs.

/// Splits a list of URLs at white space, and at commas that a URL follows: a comma inside a URL separates hosts.
pub(super) fn split_list(urls: &str) -> Vec<&str> {
    let mut list = Vec::new();
    for word in urls.split_whitespace() {
        let mut rest = word;
        let ends = |rest: &str| rest.match_indices(',').map(|(at, _)| at).find(|at| is_url(&rest[at + 1..]) || at + 1 == rest.len());
        while let Some(at) = ends(rest) {
            list.push(&rest[..at]);
            rest = &rest[at + 1..];
        }
        list.push(rest);
    }
    list.retain(|url| !url.is_empty());
    list
}

fn is_url(text: &str) -> bool {
    text.starts_with("postgres://") || text.starts_with("postgresql://")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_ends_a_url_only_where_the_next_one_begins() {
        for (list, urls) in [
            ("postgres://a/x", &["postgres://a/x"][..]),
            ("postgres://a/x,postgresql://b/y", &["postgres://a/x", "postgresql://b/y"]),
            (" postgres://a/x \n postgres://b/y,\n", &["postgres://a/x", "postgres://b/y"]),
            ("postgres://a,b/x,postgres://c/y", &["postgres://a,b/x", "postgres://c/y"]),
            ("postgres://a/x, postgres://b/y", &["postgres://a/x", "postgres://b/y"]),
            (" , ", &[]),
        ] {
            assert_eq!(split_list(list), urls, "{list:?}");
        }
    }
}
