//! Promise: a hub from before migration 11 serves on the present schema together with newer ones.
//!
//! `old_hub.ndjson` holds every checked statement of that hub: its role, the number of its parameters, and the types of
//! its columns. Do not change the file: a change of the schema must keep the old statements working.

use serde::Deserialize;
use sqlx::{AssertSqlSafe, Column, Executor, PgConnection, SqlSafeStr, Statement, TypeInfo};

use super::support::TestDb;

#[derive(Deserialize)]
struct Old {
    /// `hub` runs under `recado_hub`, `owner` as the user of the connection.
    r#as: String,
    parameters: usize,
    types: Vec<String>,
    sql: String,
}

/// Parses, plans and explains a statement: the server checks names, types and rights, and executes nothing.
async fn accepted(sql: &mut PgConnection, old: &Old) -> Result<(), String> {
    let prepared = (&mut *sql).prepare(AssertSqlSafe(old.sql.clone()).into_sql_str()).await.map_err(|error| error.to_string())?;
    let types: Vec<String> = prepared.columns().iter().map(|column| column.type_info().name().to_uppercase()).collect();
    if types != old.types {
        return Err(format!("its columns are {types:?} and were {:?}", old.types));
    }
    let nothing = if old.parameters == 0 { String::new() } else { format!("({})", vec!["NULL"; old.parameters].join(", ")) };
    for step in [format!("PREPARE old AS {}", old.sql), format!("EXPLAIN EXECUTE old{nothing}"), "DEALLOCATE old".to_owned()] {
        sqlx::raw_sql(AssertSqlSafe(step)).execute(&mut *sql).await.map_err(|error| error.to_string())?;
    }
    Ok(())
}

#[tokio::test]
async fn every_statement_of_an_old_hub_is_still_accepted() {
    let db = TestDb::new().await;
    let (mut hub, mut owner) = (db.connect().await, db.connect().await);
    sqlx::raw_sql("SET ROLE recado_hub").execute(&mut hub).await.unwrap();
    let list = include_str!("old_hub.ndjson");
    let mut refused = Vec::new();
    for line in list.lines() {
        let old: Old = serde_json::from_str(line).unwrap();
        let sql = if old.r#as == "hub" { &mut hub } else { &mut owner };
        if let Err(error) = accepted(sql, &old).await {
            sqlx::raw_sql("DEALLOCATE ALL").execute(&mut *sql).await.unwrap();
            refused.push(format!("{error}: {}", old.sql));
        }
    }
    assert!(refused.is_empty(), "{} of {} are refused:\n{}", refused.len(), list.lines().count(), refused.join("\n"));
    assert_eq!(list.lines().count(), 86);
}
