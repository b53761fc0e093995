//! Collects the results of a bench's tasks.

use recado::cli::error::CliFailure;
use tokio::task::JoinSet;

/// Collects the results of all tasks, or returns the first failure and aborts the others.
pub async fn joined<T: 'static>(mut tasks: JoinSet<Result<T, CliFailure>>) -> Result<Vec<T>, CliFailure> {
    let mut results = Vec::with_capacity(tasks.len());
    while let Some(joined) = tasks.join_next().await {
        results.push(joined.map_err(|error| CliFailure::other(error.to_string()))??);
    }
    Ok(results)
}
