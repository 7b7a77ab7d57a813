//! The file: how it is opened, by whom, and by how many at once.

use std::os::unix::fs::PermissionsExt;
use std::sync::Barrier;

use super::*;

#[test]
fn a_new_database_is_private_and_has_the_pragmas() {
    let home = Home::furnished();
    for file in ["v2.db", "v2.db-wal", "v2.db-shm"] {
        let mode = std::fs::metadata(home.folder.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let pragma = |name: &str| -> String {
        home.store
            .connection
            .query_row(&format!("SELECT CAST({name} AS TEXT) FROM pragma_{name}"), [], |row| row.get(0))
            .unwrap()
    };
    assert_eq!(pragma("journal_mode"), "wal");
    assert_eq!(pragma("synchronous"), "1");
    assert_eq!(pragma("foreign_keys"), "1");
    let cache: i64 = home.store.connection.query_row("PRAGMA cache_size", [], |row| row.get(0)).unwrap();
    let busy: i64 = home.store.connection.query_row("PRAGMA busy_timeout", [], |row| row.get(0)).unwrap();
    let temp: i64 = home.store.connection.query_row("PRAGMA temp_store", [], |row| row.get(0)).unwrap();
    assert_eq!((cache, busy, temp), (-128, 5000, 2));
}

#[test]
fn only_open_creates() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v2.db");
    for refused in [Store::open_existing(&path, noon()), Store::open_read_only(&path)] {
        assert!(matches!(refused, Err(StoreError::NotFound { noun: "database", .. })));
    }
    assert!(!path.exists());
    assert!(matches!(Store::open(&folder.path().join("no/v2.db"), noon()), Err(StoreError::Io(_))));
}

#[test]
fn a_read_only_store_reads_what_is_being_written_and_refuses_to_write() {
    let home = Home::furnished();
    let reader = Store::open_read_only(&home.path()).unwrap();
    home.store.create_agent_group(&group("second")).unwrap();
    assert_eq!(reader.agent_groups().unwrap().len(), 2);
    assert!(reader.create_agent_group(&group("third")).is_err());
}

#[test]
fn a_read_only_store_opens_while_no_daemon_runs() {
    let Home { folder, store } = Home::furnished();
    drop(store);
    assert!(!folder.path().join("v2.db-wal").exists(), "the last connection cleans up");
    let reader = Store::open_read_only(&folder.path().join("v2.db")).unwrap();
    assert_eq!(reader.agent_groups().unwrap(), [group("main")]);
}

#[test]
fn programs_that_open_a_new_file_together_all_get_a_store() {
    for _ in 0..10 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v2.db");
        let start = Barrier::new(8);
        std::thread::scope(|scope| {
            for n in 0..8 {
                let (start, path) = (&start, &path);
                scope.spawn(move || {
                    start.wait();
                    let store = Store::open(path, noon()).unwrap();
                    store.create_agent_group(&group(&format!("group-{n}"))).unwrap();
                });
            }
        });
        let store = Store::open(&path, noon()).unwrap();
        assert_eq!(store.agent_groups().unwrap().len(), 8);
        let privileged = store
            .agent_groups()
            .unwrap()
            .iter()
            .filter(|group| store.container_config(&group.id).unwrap().cli_scope == CliScope::Global)
            .count();
        assert_eq!(privileged, 1, "only the first group is privileged");
    }
}

#[test]
fn two_stores_write_at_once_without_busy_errors() {
    let home = Home::furnished();
    let start = Barrier::new(2);
    std::thread::scope(|scope| {
        for writer in 0..2 {
            let (start, store) = (&start, home.another());
            scope.spawn(move || {
                start.wait();
                for n in 0..200 {
                    // Reads before it writes: a deferred transaction would meet SQLITE_BUSY here.
                    store
                        .transaction(|| -> Result<()> {
                            let before = store.dropped_senders(1)?;
                            assert!(before.len() <= 1);
                            store.record_dropped(&dropped("telegram:stranger"))
                        })
                        .unwrap();
                    store.set_cursor(&format!("telegram:{writer}"), &n.to_string(), noon()).unwrap();
                }
            });
        }
    });
    assert_eq!(home.store.dropped_senders(10).unwrap()[0].message_count, 400);
    assert_eq!(home.store.cursor("telegram:1").unwrap().as_deref(), Some("199"));
}

#[test]
fn a_transaction_that_fails_leaves_nothing_also_of_those_inside_it() {
    let home = Home::furnished();
    let refused: Result<()> = home.store.transaction(|| {
        home.store.create_agent_group(&group("second"))?;
        home.store.create_agent_group(&group("Not an id"))
    });
    assert!(matches!(refused, Err(StoreError::Invalid { .. })));
    assert_eq!(home.store.agent_groups().unwrap().len(), 1);
    home.store.create_agent_group(&group("second")).unwrap();
}

#[test]
fn a_snapshot_is_a_whole_database() {
    let home = Home::furnished();
    let copy = home.folder.path().join("copy.db");
    home.store.snapshot_to(&copy).unwrap();
    assert!(home.store.snapshot_to(&copy).is_err(), "nothing is overwritten");
    let copy = Store::open_existing(&copy, noon()).unwrap();
    assert_eq!(copy.sessions().unwrap(), home.store.sessions().unwrap());
    assert_eq!(copy.integrity_problems().unwrap(), Vec::<String>::new());
}

#[test]
fn a_dangling_reference_is_an_integrity_problem() {
    let home = Home::furnished();
    home.store
        .connection
        .execute_batch("PRAGMA foreign_keys = OFF; DELETE FROM agent_groups; PRAGMA foreign_keys = ON;")
        .unwrap();
    let problems = home.store.integrity_problems().unwrap();
    assert!(problems.iter().any(|problem| problem.starts_with("sessions:")), "{problems:?}");
}
