//! Encodes a record as NDJSON or CSV (RFC 4180), and reads its position back.

use chrono::{DateTime, SecondsFormat, Utc};
use clap::ValueEnum;
use serde_json::Value;
use uuid::Uuid;

use crate::domain::{LogId, NotificationId, Seq};
use crate::store::export::ExportRecord;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// One JSON object per line
    Ndjson,
    /// RFC 4180, with a header
    Csv,
}

/// How the cells of CSV are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CsvCells {
    AsTheyAre,
    /// Marks cells as text that a spreadsheet would run as a formula.
    ForSpreadsheets,
}

/// The fields of both formats, in this order.
const NAMES: [&str; 15] = [
    "log_id",
    "seq",
    "id",
    "created_at",
    "type",
    "title",
    "message",
    "data",
    "address",
    "user_id",
    "account_id",
    "user_ids",
    "expires_at",
    "replay",
    "source",
];

/// The position of a record: its log, its number, its notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportPosition {
    pub log_id: LogId,
    pub seq: Seq,
    pub id: NotificationId,
}

impl ExportFormat {
    /// The first bytes of a file.
    pub fn head(self) -> String {
        match self {
            Self::Ndjson => String::new(),
            Self::Csv => NAMES.join(",") + "\r\n",
        }
    }

    pub fn write(self, record: &ExportRecord, log_id: LogId, cells: CsvCells, out: &mut String) {
        match self {
            Self::Ndjson => write_line(record, log_id, out),
            Self::Csv => write_csv(record, log_id, cells, out),
        }
    }

    /// Reads the position of a whole record; `None` if an export did not write it.
    pub fn place(self, record: &str) -> Option<ExportPosition> {
        let [log_id, seq, id] = match self {
            Self::Ndjson => {
                let line: Value = serde_json::from_str(record).ok()?;
                [line["log_id"].as_str()?.to_owned(), line["seq"].to_string(), line["id"].as_str()?.to_owned()]
            }
            Self::Csv => {
                // The first three fields are never quoted.
                let mut fields = record.splitn(4, ',').map(str::to_owned);
                [fields.next()?, fields.next()?, fields.next()?]
            }
        };
        Some(ExportPosition {
            log_id: LogId(Uuid::parse_str(&log_id).ok()?),
            seq: Seq::new(seq.parse().ok()?)?,
            id: NotificationId(Uuid::parse_str(&id).ok()?),
        })
    }
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

fn write_line(record: &ExportRecord, log_id: LogId, out: &mut String) {
    let text = |text: &Option<String>| text.as_deref().map_or(Value::Null, Value::from).to_string();
    let values = [
        Value::from(log_id.to_string()).to_string(),
        record.seq.to_string(),
        Value::from(record.id.to_string()).to_string(),
        Value::from(time(record.created_at)).to_string(),
        Value::from(record.kind.as_str()).to_string(),
        Value::from(record.title.as_str()).to_string(),
        Value::from(record.message.as_str()).to_string(),
        // As posted, but on one line: a JSON string has no bare line break, so these are between tokens.
        record.data.as_ref().map_or("null".to_owned(), |data| data.replace(['\n', '\r'], " ")),
        Value::from(record.address.as_str()).to_string(),
        text(&record.user_id),
        text(&record.account_id),
        record.user_ids.as_ref().map_or(Value::Null, |users| Value::from(users.clone())).to_string(),
        record.expires_at.map_or(Value::Null, |at| Value::from(time(at))).to_string(),
        record.replay.to_string(),
        Value::from(record.source.as_str()).to_string(),
    ];
    for (at, (name, value)) in NAMES.iter().zip(values).enumerate() {
        out.push_str(if at == 0 { "{\"" } else { ",\"" });
        out.push_str(name);
        out.push_str("\":");
        out.push_str(&value);
    }
    out.push_str("}\n");
}

fn write_csv(record: &ExportRecord, log_id: LogId, cells: CsvCells, out: &mut String) {
    let users = record.user_ids.as_ref().map(|users| Value::from(users.clone()).to_string());
    let values = [
        Some(log_id.to_string()),
        Some(record.seq.to_string()),
        Some(record.id.to_string()),
        Some(time(record.created_at)),
        Some(record.kind.clone()),
        Some(record.title.clone()),
        Some(record.message.clone()),
        record.data.clone(),
        Some(record.address.clone()),
        record.user_id.clone(),
        record.account_id.clone(),
        users,
        record.expires_at.map(time),
        Some(record.replay.to_string()),
        Some(record.source.clone()),
    ];
    for (at, value) in values.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        match value {
            Some(value) if cells == CsvCells::ForSpreadsheets && may_be_formula(value) => push_field(&format!("'{value}"), out),
            Some(value) => push_field(value, out),
            None => {}
        }
    }
    out.push_str("\r\n");
}

/// Whether a spreadsheet may read a cell as a formula, judged by its first character, also in full width. Some
/// spreadsheets skip line ends and tabs before they look.
fn may_be_formula(value: &str) -> bool {
    value.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠'])
}

/// NULL is an empty field, and an empty text is `""`, as PostgreSQL's COPY reads them.
fn push_field(value: &str, out: &mut String) {
    if !value.is_empty() && !value.contains(['"', ',', '\r', '\n']) {
        return out.push_str(value);
    }
    out.push('"');
    out.push_str(&value.replace('"', "\"\""));
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> ExportRecord {
        ExportRecord {
            seq: 7,
            id: Uuid::nil(),
            created_at: DateTime::UNIX_EPOCH,
            kind: "order_created".to_owned(),
            title: "a \"b\", c".to_owned(),
            message: "two\nlines".to_owned(),
            data: Some("{\"n\":\n 1.0}".to_owned()),
            address: "l".to_owned(),
            user_id: None,
            account_id: Some(String::new()),
            user_ids: Some(vec!["ann".to_owned(), "bob".to_owned()]),
            expires_at: None,
            replay: true,
            source: "shop".to_owned(),
        }
    }

    fn written(shape: ExportFormat) -> String {
        let mut out = String::new();
        shape.write(&record(), LogId(Uuid::nil()), CsvCells::AsTheyAre, &mut out);
        out
    }

    #[test]
    fn a_cell_that_may_be_a_formula_is_marked_as_text_when_it_is_asked_for() {
        for title in ["=HYPERLINK(\"http://evil\")", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1"] {
            let record = ExportRecord { title: title.to_owned(), data: Some("-1".to_owned()), ..record() };
            let (mut safe, mut plain) = (String::new(), String::new());
            ExportFormat::Csv.write(&record, LogId(Uuid::nil()), CsvCells::ForSpreadsheets, &mut safe);
            ExportFormat::Csv.write(&record, LogId(Uuid::nil()), CsvCells::AsTheyAre, &mut plain);
            let marked = format!("'{}", title.replace('"', "\"\""));
            assert!(safe.contains(&marked) && safe.contains(",'-1,") && !plain.contains(&marked), "{safe}");
            assert_eq!(ExportFormat::Csv.place(&safe), ExportFormat::Csv.place(&plain), "a later run goes on with it");
        }
        let (mut safe, mut plain) = (String::new(), String::new());
        ExportFormat::Csv.write(&record(), LogId(Uuid::nil()), CsvCells::ForSpreadsheets, &mut safe);
        ExportFormat::Csv.write(&record(), LogId(Uuid::nil()), CsvCells::AsTheyAre, &mut plain);
        assert_eq!(safe, plain, "other cells are as they are");
    }

    #[test]
    fn a_record_is_one_line_of_json_with_the_data_as_it_was() {
        let line = written(ExportFormat::Ndjson);
        assert!(line.ends_with("}\n") && line.matches('\n').count() == 1, "{line}");
        assert!(line.contains("\"data\":{\"n\":  1.0},"), "{line}");
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&value["message"], &value["user_id"]), (&"two\nlines".into(), &Value::Null));
    }

    #[test]
    fn a_record_of_csv_is_quoted_where_it_has_to_be() {
        let nil = "00000000-0000-0000-0000-000000000000";
        let expected = format!(
            "{nil},7,{nil},1970-01-01T00:00:00.000000Z,order_created,\"a \"\"b\"\", c\",\"two\nlines\",\"{{\"\"n\"\":\n 1.0}}\",l,,\"\",\
             \"[\"\"ann\"\",\"\"bob\"\"]\",,true,shop\r\n"
        );
        assert_eq!(written(ExportFormat::Csv), expected);
    }

    #[test]
    fn a_record_says_where_it_stood() {
        let place = ExportPosition { log_id: LogId(Uuid::nil()), seq: Seq::from_db(7), id: NotificationId(Uuid::nil()) };
        for shape in [ExportFormat::Ndjson, ExportFormat::Csv] {
            assert_eq!(shape.place(&written(shape)), Some(place));
            assert_eq!(shape.place("a,b,c,d"), None);
        }
    }
}
