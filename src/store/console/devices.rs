//! Counts what a user's devices have not acknowledged, and moves a device's position forward.

use crate::domain::audit::Actor;
use crate::domain::device_lag::Unacked;
use crate::domain::{ClientId, LogId, Principal, Seq, UserId};
use crate::store::StoreError;
use crate::store::database::Reader;
use crate::store::time_limit::{ASK_LIMIT, limited};

/// The newest numbers that a user receives.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct NewestNumbers {
    /// Newest first. Without those that have expired.
    numbers: Vec<Seq>,
    /// Older ones were not read.
    is_cut: bool,
}

impl NewestNumbers {
    /// Counts the numbers above a position.
    pub fn above(&self, acked: Seq) -> Unacked {
        let count = self.numbers.iter().take_while(|seq| **seq > acked).count();
        Unacked { count, more: self.is_cut && count == self.numbers.len() }
    }
}

/// Reads the newest numbers of `who` above `after` and up to `upto`, at most `most`. They are those of rows that a
/// resuming device is sent; a device with an inbox is sent its changes as well.
///
/// As in [`crate::store::read::page`], each topic is walked through its index, here backwards, and the walk ends at
/// `most`.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn newest_numbers(reader: &Reader, who: &Principal, after: Seq, upto: Seq, most: i64) -> Result<NewestNumbers, StoreError> {
    let mut checkout = reader.checkout().await?;
    let rows = sqlx::query!(
        r#"SELECT k.seq AS "seq!", coalesce(l.expires_at <= statement_timestamp(), false)
                  OR l.type = ANY ('{inbox,preferences}') AS "is_left_out!"
             FROM (SELECT s.seq
                     FROM (SELECT u.topic, $2 AS low, 9223372036854775807 AS high
                             FROM unnest($1::text[]) AS u (topic)
                            UNION ALL
                           SELECT x.topic, greatest(i.since_seq, $2), coalesce(i.until_seq, 9223372036854775807)
                             FROM recado.member i
                            CROSS JOIN LATERAL (VALUES ('a/' || i.account_id), ('u/' || i.user_id || '/' || i.account_id)) x (topic)
                            WHERE $4 AND i.user_id = $5 AND (i.until_seq IS NULL OR i.until_seq > $2 + 1) AND x.topic <> ALL ($1)) t
                    CROSS JOIN LATERAL (
                          (SELECT a.seq
                             FROM recado.log a
                            WHERE a.topic = t.topic AND a.replay AND a.topic <> 'l' AND a.seq > $2 AND a.seq <= $6
                              AND a.seq > t.low AND a.seq < t.high
                            ORDER BY a.seq DESC
                            LIMIT $3)
                          UNION ALL
                          (SELECT b.seq
                             FROM recado.log_member b
                            WHERE b.topic = t.topic AND b.seq > $2 AND b.seq <= $6 AND b.seq > t.low AND b.seq < t.high
                            ORDER BY b.seq DESC
                            LIMIT $3)) s
                    ORDER BY s.seq DESC
                    LIMIT $3) k
            CROSS JOIN LATERAL (SELECT x.expires_at, x.type FROM recado.log x WHERE x.seq = k.seq LIMIT 1) l
            ORDER BY k.seq DESC"#,
        &who.topics(),
        after.get(),
        most,
        reader.reads_members(),
        who.user.as_str(),
        upto.get(),
    )
    .fetch_all(checkout.connection());
    let rows = limited(ASK_LIMIT * 3, rows).await?;
    checkout.done();
    let is_cut = i64::try_from(rows.len()).is_ok_and(|read| read >= most);
    Ok(NewestNumbers { numbers: rows.into_iter().filter(|row| !row.is_left_out).map(|row| Seq::from_db(row.seq)).collect(), is_cut })
}

/// What became of a position that an admin sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckOutcome {
    /// The device's position is this one now.
    Moved(Seq),
    /// It was at or above the number already.
    Stays(Seq),
    UnknownDevice,
}

/// Moves the position of a device forward, with its row in the audit.
///
/// # Errors
/// When the database is unavailable or slow. The call can be repeated.
pub async fn ack(
    reader: &Reader,
    user: &UserId,
    client: &ClientId,
    log_id: LogId,
    seq: Seq,
    actor: &Actor,
) -> Result<AckOutcome, StoreError> {
    let mut checkout = reader.checkout().await?;
    let row = sqlx::query!(
        r#"SELECT acked, moved AS "moved!" FROM recado.ack_device($1, $2, $3, $4, $5, $6, $7)"#,
        user.as_str(),
        client.as_str(),
        log_id.0,
        seq.get(),
        actor.who,
        actor.via.as_str(),
        actor.address,
    )
    .fetch_one(checkout.connection());
    let row = limited(ASK_LIMIT, row).await?;
    checkout.done();
    Ok(match (row.acked, row.moved) {
        (None, _) => AckOutcome::UnknownDevice,
        (Some(acked), true) => AckOutcome::Moved(Seq::from_db(acked)),
        (Some(acked), false) => AckOutcome::Stays(Seq::from_db(acked)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_above_a_position_are_counted_up_to_what_was_read() {
        let of = |numbers: &[i64], is_cut| NewestNumbers { numbers: numbers.iter().map(|n| Seq::from_db(*n)).collect(), is_cut };
        let above = |newest: &NewestNumbers, acked| {
            let Unacked { count, more } = newest.above(Seq::from_db(acked));
            (count, more)
        };
        let all = of(&[9, 7, 4], false);
        assert_eq!((above(&all, 9), above(&all, 5), above(&all, 0)), ((0, false), (2, false), (3, false)));
        let cut = of(&[9, 7, 4], true);
        assert_eq!((above(&cut, 4), above(&cut, 3)), ((2, false), (3, true)));
        assert_eq!(above(&of(&[], true), 0), (0, true));
    }
}
