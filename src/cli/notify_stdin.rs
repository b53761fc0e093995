//! Runs `recado notify -`: posts the notifications of stdin, one per line.
//!
//! Lines are cut into batches by their count and length alone, and a batch's key is made of the run's key and the
//! batch's number. So the same input with the same `--idempotency-key` makes the same keys, and an interrupted import
//! is simply run again.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};

use super::error::CliFailure;
use super::hub_client::HubClient;
use super::output::{self, Format};
use crate::wire::batch::ITEMS_MAX;

/// Maximum bytes of a batch without its last line. With that line a batch stays far below the hub's limit.
const BATCH_BYTES: usize = 1 << 20;

/// The totals of a run whose receipts are not printed one by one.
#[derive(Debug, Default, Serialize)]
struct PostedTotals {
    posted: u64,
    duplicates: u64,
    last_seq: Option<i64>,
}

/// Posts all lines of stdin.
///
/// # Errors
/// At the first line of malformed JSON, and at the first batch that the hub refuses or does not answer, with the
/// number of the line at fault, if there is one. Earlier batches stay posted.
pub async fn run(client: &HubClient, format: Format, key: &str) -> Result<(), CliFailure> {
    let bar = ProgressBar::new_spinner().with_style(style());
    bar.enable_steady_tick(Duration::from_millis(200));
    let outcome = post_all(client, format, key, &bar).await;
    // The next output must not share a line with the bar.
    bar.finish_and_clear();
    let totals = outcome?;
    if format == Format::Ndjson { Ok(()) } else { output::one(format, &totals) }
}

async fn post_all(client: &HubClient, format: Format, key: &str, bar: &ProgressBar) -> Result<PostedTotals, CliFailure> {
    let mut input = BufReader::new(tokio::io::stdin());
    let mut totals = PostedTotals::default();
    let (mut lines, mut number) = (0, 0);
    loop {
        let batch = LineBatch::read(&mut input, &mut lines).await?;
        if !batch.items.is_empty() {
            let answer = client.insist("/api/internal/notify/batch", &format!("{key}/{number}"), &batch.body()).await?;
            number += 1;
            let receipts = answer.into_success().map_err(|failure| batch.in_lines(failure))?;
            for receipt in receipts["items"].as_array().into_iter().flatten() {
                totals.posted += 1;
                totals.duplicates += u64::from(receipt["duplicate"] == true);
                totals.last_seq = receipt["seq"].as_i64();
                if format == Format::Ndjson {
                    output::line(&receipt.to_string())?;
                }
            }
            bar.set_position(totals.posted);
        }
        match batch.end {
            InputEnd::NotYet => {}
            InputEnd::Eof => return Ok(totals),
            InputEnd::Bad(failure) => return Err(failure),
        }
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {human_pos} posted, {per_sec}").unwrap_or_else(|_| ProgressStyle::default_spinner())
}

enum InputEnd {
    NotYet,
    Eof,
    Bad(CliFailure),
}

struct LineBatch {
    /// Each line with its number.
    items: Vec<(u64, String)>,
    end: InputEnd,
}

impl LineBatch {
    async fn read(input: &mut (impl AsyncBufRead + Unpin), lines: &mut u64) -> Result<Self, CliFailure> {
        let mut batch = Self { items: Vec::new(), end: InputEnd::NotYet };
        let mut bytes = 0;
        while batch.items.len() < ITEMS_MAX && bytes < BATCH_BYTES {
            let mut line = String::new();
            let read =
                input.read_line(&mut line).await.map_err(|error| CliFailure::other(format!("stdin, line {}: {error}", *lines + 1)))?;
            if read == 0 {
                batch.end = InputEnd::Eof;
                break;
            }
            *lines += 1;
            if line.trim().is_empty() {
                continue;
            }
            // A line of malformed JSON would make the whole batch malformed.
            if let Err(error) = serde_json::from_str::<&RawValue>(&line) {
                batch.end = InputEnd::Bad(CliFailure::other(format!(
                    "line {lines} is not JSON (column {}); the lines before it were posted",
                    error.column()
                )));
                break;
            }
            bytes += line.len();
            batch.items.push((*lines, line));
        }
        Ok(batch)
    }

    fn body(&self) -> String {
        let items: Vec<&str> = self.items.iter().map(|(_, line)| line.trim()).collect();
        format!("{{\"items\":[{}]}}", items.join(","))
    }

    /// Replaces item numbers by line numbers: the hub counts the items of a batch, the reader of the message counts
    /// lines.
    fn in_lines(&self, mut failure: CliFailure) -> CliFailure {
        let mut message = String::new();
        for (at, part) in failure.message.split("/items/").enumerate() {
            let digits = part.chars().take_while(char::is_ascii_digit).count();
            let line = part[..digits].parse::<usize>().ok().and_then(|item| self.items.get(item));
            match line {
                Some((line, _)) if at > 0 => message.push_str(&format!("line {line}: {}", part[digits..].trim_start())),
                _ => message.push_str(part),
            }
        }
        failure.message = message;
        failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_same_input_is_cut_the_same() {
        let text: String = (0..2500).map(|n| if n % 7 == 0 { "\n".to_owned() } else { format!("{{\"n\":{n}}}\n") }).collect();
        let (mut input, mut lines, mut sizes) = (text.as_bytes(), 0, Vec::new());
        loop {
            let batch = LineBatch::read(&mut input, &mut lines).await.unwrap();
            sizes.push(batch.items.len());
            if matches!(batch.end, InputEnd::Eof) {
                break;
            }
        }
        assert_eq!((sizes, lines), (vec![1000, 1000, 142], 2500));
    }

    #[tokio::test]
    async fn a_refusal_names_lines() {
        let batch = LineBatch::read(&mut &b"\n1\n\n2\n{\n"[..], &mut 0).await.unwrap();
        assert!(matches!(&batch.end, InputEnd::Bad(failure) if failure.message.starts_with("line 5 is not JSON")));
        assert_eq!(batch.body(), r#"{"items":[1,2]}"#);
        let said = batch.in_lines(CliFailure::other("422 invalid_field: no\n  /items/1/title is required\n  /items/0 must be an object"));
        assert_eq!(said.message, "422 invalid_field: no\n  line 4: /title is required\n  line 2: must be an object");
    }
}
