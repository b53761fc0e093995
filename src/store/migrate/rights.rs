//! Checks the owners of the schemas and the rights of the database user in them.
//!
//! The check precedes every call into the schemas: the owner of a function, or of a schema that can hold functions,
//! decides how the hub's own rights are used.

use sqlx::PgConnection;

use super::super::StoreError;
use super::super::time_limit::{ASK_LIMIT, limited};

/// Most objects that one finding names.
const SHOWN: i64 = 5;

/// The migration that creates the schema `recado_views`.
const VIEWS_COME_WITH: i32 = 6;
/// The migration that makes the schema of tenants.
const TENANTS_COME_WITH: i32 = 22;

/// The rights of the database user.
pub(super) struct Rights {
    user: String,
    database: String,
    pub(super) schema_exists: bool,
    views_exist: bool,
    tenants_exist: bool,
    may_use_schema: bool,
    pub(super) may_change_schema: bool,
    may_create_schemas: bool,
    hub_role: Option<String>,
}

/// Returns a line for each untrusted role that owns an object of the schemas or may create objects in them. Trusted are
/// superusers, the database's owner, this user, and the roles that it is a member of. A superuser counts as a member of
/// no role here.
pub(super) async fn strangers(connection: &mut PgConnection) -> Result<Vec<String>, StoreError> {
    let rows = sqlx::query_as!(
        Stranger,
        r#"
        WITH me AS (SELECT oid, rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user),
        spaces AS (SELECT * FROM pg_catalog.pg_namespace WHERE nspname IN ('recado', 'recado_views', 'recado_tenant')),
        trusted AS (
            SELECT r.oid
              FROM pg_catalog.pg_roles r, me
             WHERE r.rolsuper
                OR r.oid = me.oid
                OR r.rolname = 'pg_database_owner'
                OR r.oid = (SELECT datdba FROM pg_catalog.pg_database WHERE datname = current_database())
                OR (NOT me.rolsuper AND pg_has_role(me.oid, r.oid, 'MEMBER'))),
        objects (what, owner) AS (
            SELECT format('schema %I', nspname), nspowner FROM spaces
            UNION ALL
            SELECT format('function %I.%I(%s)', s.nspname, p.proname, pg_get_function_identity_arguments(p.oid)), p.proowner
              FROM pg_catalog.pg_proc p JOIN spaces s ON s.oid = p.pronamespace
            UNION ALL
            SELECT format('table %I.%I', s.nspname, c.relname), c.relowner FROM pg_catalog.pg_class c JOIN spaces s ON s.oid = c.relnamespace
             WHERE c.relkind NOT IN ('i', 'I')
            UNION ALL
            SELECT format('type %I.%I', s.nspname, t.typname), t.typowner FROM pg_catalog.pg_type t JOIN spaces s ON s.oid = t.typnamespace
             WHERE t.typrelid = 0 AND t.typelem = 0
            UNION ALL
            SELECT format('right to create in schema %I', s.nspname), a.grantee
              FROM spaces s, aclexplode(s.nspacl) a WHERE a.privilege_type = 'CREATE')
        SELECT coalesce(pg_get_userbyid(nullif(o.owner, 0))::text, 'PUBLIC') AS "owner!", current_user::text AS "user!", count(*) AS "count!",
               string_agg(o.what, ', ' ORDER BY o.what) FILTER (WHERE o.nth <= $1) AS "what!", bool_or(o.what LIKE 'right%') AS "may_create!"
          FROM (SELECT *, row_number() OVER (PARTITION BY owner ORDER BY what) AS nth FROM objects) o
         WHERE o.owner NOT IN (SELECT oid FROM trusted)
         GROUP BY o.owner
         ORDER BY 1"#,
        SHOWN,
    )
    .fetch_all(connection);
    let rows = limited(ASK_LIMIT, rows).await?;
    Ok(rows.into_iter().map(Stranger::line).collect())
}

struct Stranger {
    owner: String,
    user: String,
    count: i64,
    what: String,
    may_create: bool,
}

impl Stranger {
    fn line(self) -> String {
        let Self { owner, user, count, what, may_create } = self;
        let more = if count > SHOWN { format!(" and {} more", count - SHOWN) } else { String::new() };
        let fix = if may_create {
            format!("REVOKE CREATE ON SCHEMA recado FROM {owner}")
        } else {
            format!("DROP SCHEMA recado CASCADE where it holds nothing of yours, else REASSIGN OWNED BY {owner} TO {user}")
        };
        format!(
            "role {owner} has {what}{more}: it could make the hub run any code with the hub's rights. \
             Inspect these objects, then, as an administrator: {fix}"
        )
    }
}

pub(super) async fn of(connection: &mut PgConnection) -> Result<Rights, StoreError> {
    let rights = sqlx::query_as!(
        Rights,
        r#"WITH spaces AS (SELECT to_regnamespace('recado') AS recado, to_regnamespace('recado_views') AS views)
           SELECT current_user::text AS "user!", current_database()::text AS "database!",
                  s.recado IS NOT NULL AS "schema_exists!", s.views IS NOT NULL AS "views_exist!",
                  to_regnamespace('recado_tenant') IS NOT NULL AS "tenants_exist!",
                  coalesce(has_schema_privilege(s.recado, 'USAGE'), true) AS "may_use_schema!",
                  coalesce(has_schema_privilege(s.recado, 'CREATE'), has_database_privilege(current_database(), 'CREATE')) AS "may_change_schema!",
                  has_database_privilege(current_database(), 'CREATE') AS "may_create_schemas!",
                  -- Those who may append, from the catalog: this user may not be let into the schema yet.
                  (SELECT string_agg(DISTINCT r.rolname, ' or ')
                     FROM pg_proc p, aclexplode(p.proacl) a, pg_roles r
                    WHERE p.pronamespace = s.recado AND p.proname = 'append' AND a.grantee <> p.proowner AND r.oid = a.grantee) AS hub_role
             FROM spaces s"#
    )
    .fetch_one(connection);
    limited(ASK_LIMIT, rights).await
}

impl Rights {
    /// Checks the rights to read the applied migrations. An error names the missing right.
    pub(super) fn may_look(&self) -> Result<(), String> {
        let Self { user, database, hub_role, .. } = self;
        if self.may_use_schema {
            return Ok(());
        }
        let fix = hub_role.as_ref().map_or_else(
            || format!("run recado migrate as the owner of the schema, or: GRANT USAGE ON SCHEMA recado TO {user}"),
            |role| format!("as an administrator: GRANT {role} TO {user}"),
        );
        Err(format!("user {user} may not use the schema recado of database {database}: {fix}"))
    }

    /// Checks the rights to apply these migrations. An error names the missing right.
    pub(super) fn suffice(&self, last: i32, newest: i32) -> Result<(), String> {
        let Self { user, database, .. } = self;
        let new_schema = !self.schema_exists
            || (last < VIEWS_COME_WITH && !self.views_exist)
            || (last < TENANTS_COME_WITH && newest >= TENANTS_COME_WITH && !self.tenants_exist);
        if new_schema && !self.may_create_schemas {
            return Err(format!(
                "user {user} may not create a schema in database {database}: run recado migrate as the database's owner, \
                 or: GRANT CREATE ON DATABASE {database} TO {user}"
            ));
        }
        if last < VIEWS_COME_WITH && self.views_exist {
            return Err("the schema recado_views exists, but migration 6 makes it: DROP SCHEMA recado_views".to_owned());
        }
        if !self.may_change_schema {
            return Err(format!(
                "user {user} may not change the schema recado of database {database}, which is at version {last} and must be at {newest}: \
                 run recado migrate as the schema's owner"
            ));
        }
        Ok(())
    }
}
