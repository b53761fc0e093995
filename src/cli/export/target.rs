//! Writes an export to stdout, or to a file that a later run can continue.
//!
//! A page is written in one piece, and a killed run leaves a file whose end may be half a record. Every record ends
//! in a line break that occurs in no record (in CSV: outside quotes), so the last whole record is found by reading
//! the file once. The bytes after it are cut off, and the run resumes after the number of this record.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::super::error::CliFailure;
use super::super::output;
use super::shape::{ExportFormat, ExportPosition};

/// Maximum length of a record. An export writes no longer one.
const RECORD_MAX: u64 = 64 << 20;

#[derive(Debug)]
pub enum ExportTarget {
    Stdout,
    File(File),
}

impl ExportTarget {
    /// Opens a new file, or with `resume` an existing one. Returns the position of its last whole record.
    ///
    /// # Errors
    /// When the file cannot be opened, another export is writing it, or an export in this format did not write it.
    pub fn open(path: &Path, shape: ExportFormat, resume: bool) -> Result<(Self, Option<ExportPosition>), CliFailure> {
        let failed = |error: io::Error| CliFailure::other(format!("{}: {error}", path.display()));
        let mut options = OpenOptions::new();
        // Readable by its owner only: it contains users' notifications.
        options.read(true).write(true).mode(0o600);
        if resume {
            options.create(true).truncate(false)
        } else {
            options.create_new(true)
        };
        let mut file = options.open(path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                CliFailure::other(format!("{} exists already; continue it with --resume, or remove it first", path.display()))
            }
            _ => failed(error),
        })?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(CliFailure::other(format!("{}: another export is writing it", path.display()))),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let found = last_record(&mut file, shape).map_err(failed)?;
        let strange = || CliFailure::settings(format!("{} was not written by recado export in this format", path.display()));
        let (end, place) = match found {
            None if may_be_half_a_start(&mut file, shape).map_err(failed)? => (0, None),
            Some(LastRecord { end, text, is_head: true }) if text == shape.head() => (end, None),
            Some(LastRecord { end, text, is_head: false }) => (end, Some(shape.place(&text).ok_or_else(strange)?)),
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

    /// Writes bytes.
    ///
    /// # Errors
    /// When the target cannot be written. The exit code is 0 if the reader of stdout has gone, such as `head`.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), CliFailure> {
        let written = match self {
            Self::Stdout => output::bytes(bytes),
            Self::File(file) => file.write_all(bytes),
        };
        written.map_err(|error| CliFailure {
            message: format!("write failed: {error}"),
            code: i32::from(error.kind() != io::ErrorKind::BrokenPipe),
        })
    }

    /// Flushes the file to the disk.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn finish(self) -> Result<(), CliFailure> {
        match self {
            Self::Stdout => Ok(()),
            Self::File(file) => file.sync_all().map_err(|error| CliFailure::other(format!("sync failed: {error}"))),
        }
    }
}

/// The last whole record of a file.
#[derive(Debug, PartialEq)]
struct LastRecord {
    /// The offset of the first byte after the record.
    end: u64,
    text: String,
    is_head: bool,
}

/// Finds the last whole record in one pass over the file.
fn last_record(file: &mut File, shape: ExportFormat) -> io::Result<Option<LastRecord>> {
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
                b'"' if shape == ExportFormat::Csv => quoted = !quoted,
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
        return Ok(Some(LastRecord { end, text: String::new(), is_head: false }));
    }
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(begin))?;
    Read::take(&mut *file, end - begin).read_to_end(&mut bytes)?;
    let text = String::from_utf8(bytes).unwrap_or_default();
    Ok(Some(LastRecord { end, text, is_head: begin == 0 && shape == ExportFormat::Csv }))
}

/// Whether a file without a whole record may be the first bytes of a killed export, not a foreign file.
fn may_be_half_a_start(file: &mut File, shape: ExportFormat) -> io::Result<bool> {
    let start = match shape {
        ExportFormat::Csv => shape.head(),
        ExportFormat::Ndjson => "{\"log_id\":\"".to_owned(),
    };
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    Read::take(&mut *file, start.len() as u64).read_to_end(&mut bytes)?;
    Ok(start.as_bytes().starts_with(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reopened(shape: ExportFormat, text: &str) -> Result<(Option<ExportPosition>, String), CliFailure> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, text).unwrap();
        let (_, place) = ExportTarget::open(&path, shape, true)?;
        Ok((place, std::fs::read_to_string(&path).unwrap()))
    }

    const ID: &str = "0198b8c4-0000-7000-8000-000000000000";

    #[test]
    fn a_file_that_was_cut_anywhere_is_cut_after_its_last_whole_record() {
        for (shape, first, second) in [
            (
                ExportFormat::Ndjson,
                format!("{{\"log_id\":\"{ID}\",\"seq\":1,\"id\":\"{ID}\"}}\n"),
                format!("{{\"log_id\":\"{ID}\",\"seq\":2,\"id\":\"{ID}\"}}\n"),
            ),
            (ExportFormat::Csv, format!("{ID},1,{ID},t\r\n"), format!("{ID},2,{ID},\"a\r\n{ID},9,{ID}\"\",\r\n\"\r\n")),
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
            (ExportFormat::Ndjson, "dear diary"),
            (ExportFormat::Ndjson, "dear\ndiary\n"),
            (ExportFormat::Csv, "a,b\r\n1,2\r\n"),
            (ExportFormat::Csv, "a,b\r\n"),
            (ExportFormat::Csv, "{\n"),
        ] {
            assert_eq!(reopened(shape, text).unwrap_err().code, 78, "{text:?}");
        }
    }
}
