//! The schema's history.

use rusqlite::Connection;

use super::super::migrate::{MIGRATIONS, Migration, migrate};
use super::*;

/// A database as the first `version` migrations left it.
fn at_version(folder: &TempDir, version: usize) -> Store {
    let path = folder.path().join(format!("{version}.db"));
    let store = Store { connection: Connection::open(path).unwrap() };
    store.connection.pragma_update(None, "foreign_keys", true).unwrap();
    migrate(&store, &MIGRATIONS[..version], noon()).unwrap();
    store
}

fn tables(store: &Store) -> Vec<String> {
    store.column("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name", &[]).unwrap()
}

/// A row in every table of version 1.
const ROWS_OF_VERSION_1: &str = "
  INSERT INTO agent_groups VALUES ('ag-1', 'Andy', 'andy', NULL, '2026-04-08T20:34:09.000Z'),
    ('ag-2', 'Zoe', 'zoe', 'codex', '2026-04-08 20:34:09');
  INSERT INTO messaging_groups VALUES
    ('mg-1', 'telegram', 'telegram:1', NULL, 0, 'strict', NULL, '2026-04-08T20:34:09.000Z');
  INSERT INTO messaging_group_agents VALUES
    ('mga-1', 'mg-1', 'ag-1', 'pattern', '.', 'all', 'drop', 'shared', 0, '2026-04-08T20:34:09.000Z');
  INSERT INTO users VALUES ('telegram:1', 'telegram', NULL, '2026-04-08T20:34:09.000Z');
  INSERT INTO user_roles VALUES ('telegram:1', 'owner', NULL, NULL, '2026-04-08T20:34:09.000Z');
  INSERT INTO agent_group_members VALUES ('telegram:1', 'ag-1', NULL, '2026-04-08T20:34:09.000Z');
  INSERT INTO user_dms VALUES ('telegram:1', 'telegram', 'mg-1', '2026-04-08T20:34:09.000Z');
  INSERT INTO agent_destinations VALUES ('ag-1', 'zoe-dm', 'channel', 'mg-1', '2026-04-08T20:34:09.000Z');
  INSERT INTO sessions VALUES
    ('s1', 'ag-1', 'mg-1', NULL, NULL, 'active', 'stopped', NULL, '2026-04-08T20:34:09.000Z');
  INSERT INTO container_configs (agent_group_id, cli_scope, updated_at)
    VALUES ('ag-1', 'global', '2026-04-08T20:34:09.000Z');
  INSERT INTO pending_questions VALUES
    ('q1', 's1', 'm1', NULL, NULL, NULL, 'Which?', '[]', '2026-04-08T20:34:09.000Z');
  INSERT INTO pending_approvals (approval_id, session_id, request_id, action, payload, created_at)
    VALUES ('a1', 's1', 'r1', 'install_packages', '{}', '2026-04-08T20:34:09.000Z');
  INSERT INTO pending_sender_approvals VALUES
    ('p1', 'mg-1', 'ag-1', 'telegram:2', NULL, '{}', 'telegram:1', '', '[]', '2026-04-08T20:34:09.000Z');
  INSERT INTO pending_channel_approvals VALUES
    ('mg-1', 'ag-1', '{}', 'telegram:1', '', '[]', '2026-04-08T20:34:09.000Z');
  INSERT INTO unregistered_senders VALUES
    ('telegram', 'telegram:2', NULL, NULL, 'no_agent_wired', NULL, NULL, 3,
     '2026-04-08T20:34:09.000Z', '2026-04-08T20:34:09.000Z');";

#[test]
fn the_history_is_recorded_once_and_in_order() {
    let home = Home::empty();
    drop(home.another());
    let names: Vec<String> = home.store.column("SELECT name FROM schema_version ORDER BY version", &[]).unwrap();
    assert_eq!(names, MIGRATIONS.iter().map(|migration| migration.name).collect::<Vec<_>>());
}

#[test]
fn version_1_with_rows_in_every_table_becomes_current() {
    let folder = tempfile::tempdir().unwrap();
    let store = at_version(&folder, 1);
    store.connection.execute_batch(ROWS_OF_VERSION_1).unwrap();
    for table in tables(&store) {
        let rows: Vec<i64> = store.column(&format!("SELECT count(*) FROM {table}"), &[]).unwrap();
        assert!(rows[0] > 0, "{table} has no row to migrate");
    }

    migrate(&store, MIGRATIONS, noon()).unwrap();

    assert_eq!(store.container_config("ag-1").unwrap().cli_scope, CliScope::Global);
    assert_eq!(store.container_config("ag-2").unwrap().cli_scope, CliScope::Group);
    assert_eq!(store.agent_groups().unwrap()[0].created_at, store.agent_groups().unwrap()[1].created_at);
    assert_eq!(store.wirings().unwrap().len(), 1);
    assert_eq!(store.owners().unwrap().len(), 1);
    assert_eq!(store.members_of("ag-1").unwrap().len(), 1);
    assert_eq!(store.all::<UserDm>("", &[]).unwrap().len(), 1);
    assert_eq!(store.destinations_of("ag-1").unwrap().len(), 1);
    assert_eq!(store.session("s1").unwrap().status, SessionStatus::Active);
    assert_eq!(store.all::<Question>("", &[]).unwrap()[0].expires_at, None);
    assert_eq!(store.all::<Approval>("", &[]).unwrap()[0].decided_by, None);
    assert_eq!(store.all::<SenderApproval>("", &[]).unwrap().len(), 1);
    assert_eq!(store.all::<ChannelApproval>("", &[]).unwrap().len(), 1);
    assert_eq!(store.dropped_senders(10).unwrap()[0].message_count, 3);
    assert_eq!(store.integrity_problems().unwrap(), Vec::<String>::new());
}

#[test]
fn every_older_version_gets_the_schema_of_a_new_database() {
    let folder = tempfile::tempdir().unwrap();
    let schema = |store: &Store| -> Vec<String> {
        store.column("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name", &[]).unwrap()
    };
    let new = Home::empty();
    for version in 0..=MIGRATIONS.len() {
        let store = at_version(&folder, version);
        migrate(&store, MIGRATIONS, noon()).unwrap();
        assert_eq!(schema(&store), schema(&new.store), "from version {version}");
    }
}

#[test]
fn a_migration_that_fails_half_way_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = at_version(&folder, MIGRATIONS.len());
    let before = tables(&store);
    let broken = "CREATE TABLE half (id TEXT); INSERT INTO half VALUES ('x'); INSERT INTO nowhere VALUES (1);";
    let with = |sql| {
        let known = MIGRATIONS.iter().map(|known| Migration { name: known.name, sql: known.sql });
        known.chain([Migration { name: "next", sql }]).collect::<Vec<_>>()
    };
    assert!(migrate(&store, &with(broken), noon()).is_err());
    assert_eq!(tables(&store), before);
    migrate(&store, MIGRATIONS, noon()).unwrap();

    migrate(&store, &with("CREATE TABLE half (id TEXT);"), noon()).unwrap();
    assert_eq!(tables(&store).len(), before.len() + 1);
}

#[test]
fn a_database_of_a_newer_nanoclaw_is_refused_and_untouched() {
    let home = Home::empty();
    let before = tables(&home.store);
    home.store
        .execute("INSERT INTO schema_version VALUES (99, 'from-the-future', '2030-01-01T00:00:00Z')", &[])
        .unwrap();
    for refused in [Store::open(&home.path(), noon()), Store::open_read_only(&home.path())] {
        let error = refused.unwrap_err();
        assert!(
            matches!(&error, StoreError::Schema(why) if why.contains("has schema 99, written by a newer")),
            "{error:?}"
        );
        assert!(error.to_string().contains("newer nanoclaw"));
    }
    assert_eq!(tables(&home.store), before);
}

#[test]
fn a_database_with_another_history_is_refused_and_untouched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v2.db");
    let theirs = Connection::open(&path).unwrap();
    theirs
        .execute_batch(
            "CREATE TABLE schema_version (version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied TEXT NOT NULL);
             INSERT INTO schema_version VALUES (1, 'initial-v2-schema', '2026-04-08T20:34:09.000Z');",
        )
        .unwrap();
    let error = Store::open(&path, noon()).unwrap_err();
    assert!(matches!(&error, StoreError::Schema(why) if why.contains("(schema 1 is `initial-v2-schema`)")));
    let theirs_now: (i64, String) = theirs
        .query_row(
            "SELECT (SELECT count(*) FROM sqlite_schema WHERE type = 'table'), journal_mode FROM pragma_journal_mode",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .unwrap();
    assert_eq!(theirs_now, (1, "delete".to_owned()));
}

#[test]
fn an_older_database_is_not_opened_for_reading_only() {
    let folder = tempfile::tempdir().unwrap();
    drop(at_version(&folder, 1));
    let error = Store::open_read_only(&folder.path().join("1.db")).unwrap_err();
    assert!(matches!(&error, StoreError::Schema(why) if why.contains("has schema 1 and waits")), "{error:?}");
}
