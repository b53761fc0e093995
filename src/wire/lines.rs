//! Splits a stream of bytes into lines.

use bytes::{Bytes, BytesMut};
use tokio_util::codec::{AnyDelimiterCodec, Decoder};

/// A line and its number, counted from 1.
#[derive(Debug, PartialEq, Eq)]
pub struct NumberedLine {
    pub number: u64,
    pub bytes: Bytes,
}

/// Buffers bytes until they form a line.
///
/// `LinesCodec` would refuse a line that is not UTF-8, and remove a carriage return. The reader of a line does both.
#[derive(Debug)]
pub struct LineSplitter {
    waiting: BytesMut,
    codec: AnyDelimiterCodec,
    taken: u64,
}

/// A line exceeds the maximum length.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLong {
    pub number: u64,
}

impl LineSplitter {
    /// `most` is the maximum length of a line in bytes, without its line feed.
    pub fn new(most: usize) -> Self {
        let codec = AnyDelimiterCodec::new_with_max_length(b"\n".to_vec(), Vec::new(), most);
        Self { waiting: BytesMut::new(), codec, taken: 0 }
    }

    pub fn give(&mut self, bytes: &[u8]) {
        self.waiting.extend_from_slice(bytes);
    }

    /// The number of the next line.
    pub fn next_number(&self) -> u64 {
        self.taken + 1
    }

    /// Takes the next complete line, without its line feed. At the end of the stream (`is_over`), the rest is a line,
    /// too.
    ///
    /// # Errors
    /// When the line exceeds the maximum length, complete or not.
    pub fn take(&mut self, is_over: bool) -> Result<Option<NumberedLine>, TooLong> {
        let line = if is_over { self.codec.decode_eof(&mut self.waiting) } else { self.codec.decode(&mut self.waiting) };
        // The codec reads from memory and fails for no other reason.
        let line = line.map_err(|_| TooLong { number: self.next_number() })?;
        self.taken += u64::from(line.is_some());
        Ok(line.map(|bytes| NumberedLine { number: self.taken, bytes }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(pieces: &[&[u8]], most: usize) -> Result<Vec<String>, TooLong> {
        let mut lines = LineSplitter::new(most);
        let mut all = Vec::new();
        for piece in pieces {
            lines.give(piece);
            while let Some(line) = lines.take(false)? {
                all.push(line);
            }
        }
        while let Some(line) = lines.take(true)? {
            all.push(line);
        }
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
