//! Where an export goes: stdout, or a file that a later run can go on with.
//!
//! A page is written in one piece, and a killed run leaves a file whose end may be half a record. Every record ends in a
//! line break that is in no record (of CSV: outside quotes), so the last whole one is found by reading the file once; what
//! follows is cut off, and the run goes on after the number that this record names.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::super::error::Failure;
use super::shape::{Place, Shape};

/// A longer record is none of ours.
const RECORD_MAX: u64 = 64 << 20;

#[derive(Debug)]
pub enum Target {
    Stdout,
    File(File),
}

impl Target {
    /// A new file, or with `resume` one that may be there. Returns the place of its last whole record.
    ///
    /// # Errors
    /// When the file cannot be had, another export writes it, or it is none of this shape.
    pub fn open(path: &Path, shape: Shape, resume: bool) -> Result<(Self, Option<Place>), Failure> {
        let failed = |error: io::Error| Failure::other(format!("{}: {error}", path.display()));
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        if resume {
            options.create(true).truncate(false)
        } else {
            options.create_new(true)
        };
        let mut file = options.open(path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                Failure::other(format!("{} is there already; --resume goes on with it, or remove it first", path.display()))
            }
            _ => failed(error),
        })?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Failure::other(format!("{}: another export is writing it", path.display()))),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let found = last_record(&mut file, shape).map_err(failed)?;
        let strange = || Failure::settings(format!("{} was not written by recado export in this format", path.display()));
        let (end, place) = match found {
            None if may_be_half_a_start(&mut file, shape).map_err(failed)? => (0, None),
            Some(Found { end, text, is_head: true }) if text == shape.head() => (end, None),
            Some(Found { end, text, is_head: false }) => (end, Some(shape.place(&text).ok_or_else(strange)?)),
            _ => return Err(strange()),
        };
        file.set_len(end).map_err(failed)?;
        file.seek(SeekFrom::Start(end)).map_err(failed)?;
        let mut target = Self::File(file);
        if end == 0 {
            target.write(shape.head().as_bytes())?;
        }
        Ok((target, place))
    }

    /// # Errors
    /// When it cannot be written. Code 0 when whoever reads stdout has gone away, such as `head`.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = match self {
            Self::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(bytes).and_then(|()| out.flush())
            }
            Self::File(file) => file.write_all(bytes),
        };
        written
            .map_err(|error| Failure { message: format!("writing: {error}"), code: i32::from(error.kind() != io::ErrorKind::BrokenPipe) })
    }

    /// Until it is on the disk.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn finish(self) -> Result<(), Failure> {
        match self {
            Self::Stdout => Ok(()),
            Self::File(file) => file.sync_all().map_err(|error| Failure::other(format!("writing: {error}"))),
        }
    }
}

/// The last whole record of a file.
#[derive(Debug, PartialEq)]
struct Found {
    /// The first byte after it.
    end: u64,
    text: String,
    is_head: bool,
}

/// Reads the file once, in pieces.
fn last_record(file: &mut File, shape: Shape) -> io::Result<Option<Found>> {
    let (mut begin, mut at, mut quoted) = (0, 0, false);
    let mut last = None;
    let mut piece = vec![0; 1 << 16];
    file.seek(SeekFrom::Start(0))?;
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            break;
        }
        for byte in &piece[..read] {
            at += 1;
            match byte {
                b'"' if shape == Shape::Csv => quoted = !quoted,
                b'\n' if !quoted => {
                    last = Some((begin, at));
                    begin = at;
                }
                _ => {}
            }
        }
    }
    let Some((begin, end)) = last else { return Ok(None) };
    if end - begin > RECORD_MAX {
        return Ok(Some(Found { end, text: String::new(), is_head: false }));
    }
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(begin))?;
    Read::take(&mut *file, end - begin).read_to_end(&mut bytes)?;
    let text = String::from_utf8(bytes).unwrap_or_default();
    Ok(Some(Found { end, text, is_head: begin == 0 && shape == Shape::Csv }))
}

/// Whether a file without a whole record is what a killed run left of its first bytes, and no stranger's.
fn may_be_half_a_start(file: &mut File, shape: Shape) -> io::Result<bool> {
    let start = match shape {
        Shape::Csv => shape.head(),
        Shape::Ndjson => "{\"log_id\":\"".to_owned(),
    };
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    Read::take(&mut *file, start.len() as u64).read_to_end(&mut bytes)?;
    Ok(start.as_bytes().starts_with(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reopened(shape: Shape, text: &str) -> Result<(Option<Place>, String), Failure> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, text).unwrap();
        let (_, place) = Target::open(&path, shape, true)?;
        Ok((place, std::fs::read_to_string(&path).unwrap()))
    }

    const ID: &str = "0198b8c4-0000-7000-8000-000000000000";

    #[test]
    fn a_file_that_was_cut_anywhere_is_cut_after_its_last_whole_record() {
        for (shape, first, second) in [
            (
                Shape::Ndjson,
                format!("{{\"log_id\":\"{ID}\",\"seq\":1,\"id\":\"{ID}\"}}\n"),
                format!("{{\"log_id\":\"{ID}\",\"seq\":2,\"id\":\"{ID}\"}}\n"),
            ),
            (Shape::Csv, format!("{ID},1,{ID},t\r\n"), format!("{ID},2,{ID},\"a\r\n{ID},9,{ID}\"\",\r\n\"\r\n")),
        ] {
            let head = shape.head();
            let whole = format!("{head}{first}{second}");
            for cut in 0..=whole.len() {
                let (place, left) = reopened(shape, &whole[..cut]).unwrap_or_else(|failure| panic!("{cut}: {failure:?}"));
                let seq = place.map(|place| place.seq.get());
                if cut == whole.len() {
                    assert_eq!((seq, left), (Some(2), whole.clone()));
                } else if cut >= head.len() + first.len() {
                    assert_eq!((seq, left), (Some(1), format!("{head}{first}")));
                } else {
                    assert_eq!((seq, left), (None, head.clone()));
                }
            }
        }
    }

    #[test]
    fn a_strangers_file_is_left_alone() {
        for (shape, text) in [
            (Shape::Ndjson, "dear diary"),
            (Shape::Ndjson, "dear\ndiary\n"),
            (Shape::Csv, "a,b\r\n1,2\r\n"),
            (Shape::Csv, "a,b\r\n"),
            (Shape::Csv, "{\n"),
        ] {
            assert_eq!(reopened(shape, text).unwrap_err().code, 78, "{text:?}");
        }
    }
}
