//! Bytes that come in pieces, cut into lines.

use bytes::{Buf, Bytes, BytesMut};

/// A line, and its number from 1 up.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    pub number: u64,
    pub bytes: Bytes,
}

/// What was given and is not taken yet.
#[derive(Debug)]
pub struct Lines {
    waiting: BytesMut,
    /// No line ends in so many of the bytes that wait; they are not searched again.
    searched: usize,
    taken: u64,
    most: usize,
}

/// A line is longer than it may be.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLong {
    pub number: u64,
}

impl Lines {
    /// A line may have `most` bytes, its end not counted.
    pub fn new(most: usize) -> Self {
        Self { waiting: BytesMut::new(), searched: 0, taken: 0, most }
    }

    pub fn give(&mut self, bytes: &[u8]) {
        self.waiting.extend_from_slice(bytes);
    }

    /// The number of the line that comes next.
    pub fn next_number(&self) -> u64 {
        self.taken + 1
    }

    /// The next line that has its end, without it.
    ///
    /// # Errors
    /// When it is, or will be, too long.
    pub fn take(&mut self) -> Result<Option<Line>, TooLong> {
        let found = self.waiting[self.searched..].iter().position(|byte| *byte == b'\n');
        let Some(length) = found.map(|at| at + self.searched) else {
            self.searched = self.waiting.len();
            return if self.searched > self.most { Err(TooLong { number: self.next_number() }) } else { Ok(None) };
        };
        if length > self.most {
            return Err(TooLong { number: self.next_number() });
        }
        let bytes = self.waiting.split_to(length).freeze();
        self.waiting.advance(1);
        self.searched = 0;
        Ok(Some(self.line(bytes)))
    }

    /// What is left when nothing more comes: a last line without its end.
    pub fn last(&mut self) -> Option<Line> {
        self.searched = 0;
        let bytes = self.waiting.split().freeze();
        (!bytes.is_empty()).then(|| self.line(bytes))
    }

    fn line(&mut self, bytes: Bytes) -> Line {
        self.taken += 1;
        Line { number: self.taken, bytes }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(pieces: &[&[u8]], most: usize) -> Result<Vec<String>, TooLong> {
        let mut lines = Lines::new(most);
        let mut all = Vec::new();
        for piece in pieces {
            lines.give(piece);
            while let Some(line) = lines.take()? {
                all.push(line);
            }
        }
        all.extend(lines.last());
        assert!(all.iter().enumerate().all(|(at, line)| line.number == at as u64 + 1));
        Ok(all.into_iter().map(|line| String::from_utf8_lossy(&line.bytes).into_owned()).collect())
    }

    #[test]
    fn a_line_may_be_as_long_as_it_may_be() {
        assert_eq!(cut(&[b"abc\n", b"abc"], 3).unwrap(), ["abc", "abc"]);
        assert_eq!(cut(&[b"a\nabcd\n"], 3), Err(TooLong { number: 2 }));
        assert_eq!(cut(&[b"a\nab", b"cd"], 3), Err(TooLong { number: 2 }), "before its end is there");
        assert_eq!(cut(&[b"\n\na\n"], 3).unwrap(), ["", "", "a"]);
        assert!(cut(&[], 3).unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn where_the_pieces_are_cut_makes_no_difference(text in "[ab\n]{0,60}", cuts in proptest::collection::vec(0usize..60, 0..6)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|at| at.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &text.as_bytes()[pair[0]..pair[1]]).collect();
            let expected: Vec<String> = text.lines().map(str::to_owned).collect();
            prop_assert_eq!(cut(&pieces, 100).unwrap(), expected);
        }
    }
}
