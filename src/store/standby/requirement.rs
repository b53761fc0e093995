//! Compares what a standby has replayed with what a page needs.

use sqlx::PgConnection;

use crate::domain::{LogId, NotificationId, Seq};

/// What the primary held when a page was requested. A standby that holds it as well may read the page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Requirement {
    pub log_id: LogId,
    pub floor: Seq,
    /// How many transactions have erased something (`recado.meta.erasures`).
    pub erasures: i64,
    /// The last number of the page, and the id of its row.
    pub upto: Seq,
    pub id: NotificationId,
}

/// What a server has replayed, as far as a page needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Replayed {
    pub is_standby: bool,
    pub log_id: LogId,
    pub floor: Seq,
    pub erasures: i64,
    /// The id of the row at the page's last number, if the server has that row.
    pub id: Option<NotificationId>,
}

/// The result of the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fitness {
    /// It has everything.
    Fit,
    /// Something is missing, which it may replay later.
    Behind,
    /// It will never have it: the reason.
    Foreign(&'static str),
}

/// The server was promoted, or is no standby at all.
pub(super) const NO_STANDBY: &str = "the server takes writes: it was promoted, or it is not a standby";
/// Its rows are not those of the primary.
pub(super) const OTHER_ROWS: &str = "the server has other rows than the primary at the same numbers: it follows another server or timeline";

impl Replayed {
    /// Asks the server of this connection.
    pub async fn ask(connection: &mut PgConnection, upto: Seq) -> Result<Self, sqlx::Error> {
        let row = sqlx::query!(
            r#"SELECT pg_is_in_recovery() AS "is_standby!", m.log_id, m.floor_seq, m.erasures,
                      (SELECT l.id FROM recado.log l WHERE l.seq = $1) AS id
                 FROM recado.meta m"#,
            upto.get(),
        )
        .fetch_one(connection)
        .await?;
        Ok(Self {
            is_standby: row.is_standby,
            log_id: LogId(row.log_id),
            floor: Seq::from_db(row.floor_seq),
            erasures: row.erasures,
            id: row.id.map(NotificationId),
        })
    }

    pub fn compared_with(&self, required: &Requirement) -> Fitness {
        if !self.is_standby {
            return Fitness::Foreign(NO_STANDBY);
        }
        // A log that was given a new id a moment ago has it on the standby later.
        if self.log_id != required.log_id || self.floor < required.floor || self.erasures < required.erasures {
            return Fitness::Behind;
        }
        match self.id {
            Some(id) if id == required.id => Fitness::Fit,
            Some(_) => Fitness::Foreign(OTHER_ROWS),
            // Not replayed yet, or dropped by retention since the primary was asked.
            None => Fitness::Behind,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standby_is_fit_only_with_everything_that_the_primary_had() {
        let (log_id, id) = (LogId::new(), NotificationId::new());
        let required = Requirement { log_id, floor: Seq::from_db(5), erasures: 3, upto: Seq::from_db(9), id };
        let same = Replayed { is_standby: true, log_id, floor: Seq::from_db(5), erasures: 3, id: Some(id) };
        let newer = Replayed { floor: Seq::from_db(8), erasures: 4, ..same.clone() };
        for (replayed, expected) in [
            (same.clone(), Fitness::Fit),
            (newer, Fitness::Fit),
            (Replayed { id: None, ..same.clone() }, Fitness::Behind),
            (Replayed { floor: Seq::from_db(4), ..same.clone() }, Fitness::Behind),
            (Replayed { erasures: 2, ..same.clone() }, Fitness::Behind),
            (Replayed { log_id: LogId::new(), ..same.clone() }, Fitness::Behind),
            (Replayed { id: Some(NotificationId::new()), ..same.clone() }, Fitness::Foreign(OTHER_ROWS)),
            (Replayed { is_standby: false, ..same }, Fitness::Foreign(NO_STANDBY)),
        ] {
            assert_eq!(replayed.compared_with(&required), expected, "{replayed:?}");
        }
    }
}
