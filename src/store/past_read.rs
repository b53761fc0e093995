//! Reads the past from a standby where one has it, else from the primary.

use super::StoreError;
use super::database::Reader;
use super::repeated_read::again_if_lost;
use super::standby::PastRead;
use crate::domain::Seq;
use crate::metrics;

/// Answers a read that must be complete up to `upto`.
///
/// # Errors
/// Those of the primary. A failing standby causes none.
pub(super) async fn past_read<R: PastRead>(reader: &Reader, upto: Seq, what: &R) -> Result<R::Answer, StoreError> {
    if let Some(standbys) = reader.standbys()
        && let Some(answer) = standbys.read(reader.primary(), upto, what).await
    {
        metrics::PAST_READS.add("standby", 1);
        return Ok(answer);
    }
    metrics::PAST_READS.add("primary", 1);
    again_if_lost(reader, || async {
        let mut checkout = reader.checkout().await?;
        let answer = what.read(checkout.connection()).await?;
        checkout.done();
        Ok(answer)
    })
    .await
}
