//! Imports of the databases that NanoClaw wrote, into real homes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use nanoclaw_session::inbound::{Durability, InboundDb};
use nanoclaw_session::layout::fnv1a_64;
use nanoclaw_session::untrusted::{OutRow, open_untrusted};
use rusqlite::Connection;

use super::{Mode, Report, import};
use crate::home::{Held, Home};
use crate::store::{CliScope, EngageMode, SenderScope, Store, Target};

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

const VERSIONS: [&str; 6] = [
    "v2-01-initial-v2-schema",
    "v2-04-agent-destinations",
    "v2-07-drop-pending-credentials",
    "v2-08-engage-modes",
    "v2-10-channel-registration",
    "v2-13-cli-scope",
];

struct World {
    tmp: tempfile::TempDir,
}

impl World {
    /// An old install with this database, a session folder and a group folder.
    fn new(version: &str) -> World {
        nanoclaw_session::untrusted::install_guards();
        let world = World { tmp: tempfile::tempdir().unwrap() };
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/nanoclaw-v2");
        let data = world.old().join("data");
        let session = data.join("v2-sessions/ag-1/sess-1");
        fs::create_dir_all(session.join("outbox/msg-1")).unwrap();
        fs::write(session.join("outbox/msg-1/report.txt"), "sent").unwrap();
        fs::copy(fixtures.join(format!("{version}.db")), data.join("v2.db")).unwrap();
        for file in ["inbound.db", "outbound.db", "container.json", ".heartbeat"] {
            fs::copy(fixtures.join("session").join(file), session.join(file)).unwrap();
        }
        let claude = data.join("v2-sessions/ag-1/.claude-shared");
        fs::create_dir(&claude).unwrap();
        fs::write(claude.join("settings.json"), "{}").unwrap();
        let group = world.old().join("groups/andy");
        fs::create_dir_all(&group).unwrap();
        fs::write(group.join("CLAUDE.local.md"), "Zoe likes tea.").unwrap();
        world
    }

    fn old(&self) -> PathBuf {
        self.tmp.path().join("old")
    }

    fn home(&self) -> Home {
        Home::locate(Some(&self.tmp.path().join("home"))).unwrap()
    }

    fn import(&self, mode: Mode) -> anyhow::Result<Report> {
        import(&self.home(), &self.old(), mode, NOW)
    }

    fn store(&self) -> Store {
        Store::open_existing(&self.home().store(), NOW).unwrap()
    }

    /// Changes the old database.
    fn sql(&self, sql: &str) {
        let db = Connection::open(self.old().join("data/v2.db")).unwrap();
        db.execute_batch(&format!("PRAGMA foreign_keys=OFF; {sql}")).unwrap();
    }

    /// A home as the first start makes it.
    fn set_up(&self) {
        self.home().create().unwrap();
        let agents = crate::config::AgentSettings {
            assistant_name: "Claw".into(),
            provider: "demo".into(),
            model: None,
            max_messages_per_prompt: 10,
            timezone: "UTC".into(),
        };
        let store = Store::open(&self.home().store(), NOW).unwrap();
        crate::setup::ensure_defaults(&store, &agents).unwrap();
    }
}

/// Every file below a folder with its mode and a hash of its bytes, or of its target as a link.
fn picture(folder: &Path) -> BTreeMap<PathBuf, (u32, u64)> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(path) = open.pop() {
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        let bytes = if meta.is_symlink() {
            fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
        } else if meta.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            Vec::new()
        } else {
            fs::read(&path).unwrap()
        };
        found.insert(path, (meta.permissions().mode(), fnv1a_64(&bytes)));
    }
    found
}

fn account<'a>(report: &'a Report, name: &str) -> &'a super::report::Account {
    report.tables.iter().find(|account| account.name == name).unwrap_or_else(|| panic!("no account of {name}"))
}

#[test]
fn every_version_imports_with_its_wirings_and_accounts_for_every_row() {
    for version in VERSIONS {
        let world = World::new(version);
        let before = picture(&world.old());
        let report = world.import(Mode::Real).unwrap();
        assert_eq!(picture(&world.old()), before, "{version}: the source changed");
        assert_eq!(report.refused(), 0, "{version}: {}", report.to_text());

        let source = Connection::open(world.old().join("data/v2.db")).unwrap();
        let mut names = source.prepare("SELECT name FROM sqlite_master WHERE type = 'table'").unwrap();
        for name in names.query_map([], |row| row.get::<_, String>(0)).unwrap() {
            let name = name.unwrap();
            let rows: i64 = source.query_row(&format!("SELECT count(*) FROM {name}"), [], |row| row.get(0)).unwrap();
            let rows = rows.unsigned_abs();
            let account = account(&report, &name);
            assert_eq!(account.found, rows, "{version}: {name}");
            assert_eq!(account.imported + account.already_there + account.dropped, rows, "{version}: {name}");
            let ours = !(name == "schema_version" || name.starts_with("chat_sdk_"));
            assert_eq!(account.imported, if ours { rows } else { 0 }, "{version}: {name}: {}", report.to_text());
        }

        let store = world.store();
        let wirings: Vec<_> = store
            .wirings()
            .unwrap()
            .into_iter()
            .map(|w| (w.id, w.engage_mode, w.engage_pattern, w.sender_scope, w.priority))
            .collect();
        let (pattern, mention) = (EngageMode::Pattern, EngageMode::Mention);
        let (all, known) = (SenderScope::All, SenderScope::Known);
        let dot = || Some(".".to_owned());
        let mut expected = vec![
            ("mga-1".to_owned(), pattern, dot(), all, 0),
            ("mga-2".to_owned(), pattern, Some("^@Andy\\b".to_owned()), all, 1),
            ("mga-3".to_owned(), pattern, dot(), known, 2),
            ("mga-4".to_owned(), mention, None, all, 3),
            ("mga-5".to_owned(), mention, None, known, 4),
            ("mga-6".to_owned(), pattern, dot(), all, 5),
        ];
        let mut found = wirings;
        found.sort_by_key(|wiring| wiring.0.clone());
        expected.sort_by_key(|wiring| wiring.0.clone());
        assert_eq!(found, expected, "{version}");
        let names: Vec<_> = store.destinations_of("ag-1").unwrap().into_iter().map(|d| d.local_name).collect();
        assert_eq!(names, ["cli", "family", "zoe-dm"], "{version}");
        assert_eq!(store.destinations().unwrap().len(), 6, "{version}");
        assert_eq!(store.container_config("ag-3").unwrap().cli_scope, CliScope::Group, "{version}");
        assert_eq!(store.integrity_problems().unwrap(), [""; 0], "{version}");
    }
}

#[test]
fn what_older_versions_lack_is_added_and_said() {
    let world = World::new("v2-01-initial-v2-schema");
    let report = world.import(Mode::Real).unwrap();
    assert_eq!(account(&report, "agent_destinations").added, 6);
    assert_eq!(account(&report, "container_configs").added, 3);
    // As in any home: the first agent may do more, and the person at the terminal owns it.
    assert_eq!(world.store().container_config("ag-1").unwrap().cli_scope, CliScope::Global);
    let owners: Vec<_> = world.store().owners().unwrap().into_iter().map(|grant| grant.user_id).collect();
    assert_eq!(owners, ["telegram:6037840640", "cli:local"]);
    assert!(report.notes.iter().any(|note| note.contains("`codex`")), "{:?}", report.notes);
}

#[test]
fn a_session_goes_on_where_it_was_and_nothing_is_sent_again() {
    let world = World::new("v2-13-cli-scope");
    let report = world.import(Mode::Real).unwrap();
    assert_eq!((account(&report, "v2-sessions/").imported, account(&report, "groups/").imported), (2, 1));
    let home = world.home();
    let dir = home.session("ag-1", "sess-1");
    assert!(dir.is_prepared());
    let inbound = InboundDb::open(&dir, Durability::Normal).unwrap();
    assert_eq!(inbound.unfinished_ids().unwrap(), [""; 0], "answered messages wake nobody");
    assert_eq!(inbound.message("m-3:ag-bench").unwrap().unwrap().seq, 8);
    let rows = open_untrusted(&dir).unwrap().read(|look| look.messages_after(0, 100)).unwrap().rows;
    assert_eq!(rows.len(), 6);
    for row in rows {
        let OutRow::Message(message) = row else { panic!("{row:?}") };
        assert!(inbound.delivered(&message.id).unwrap().is_some(), "{} would be sent again", message.id);
    }
    assert_eq!(fs::read_to_string(dir.outbox("msg-1").join("report.txt")).unwrap(), "sent");
    assert_eq!(fs::read_to_string(home.group("andy").join("CLAUDE.local.md")).unwrap(), "Zoe likes tea.");
    assert_eq!(fs::read_to_string(home.claude_state("ag-1").join("settings.json")).unwrap(), "{}");
    let left: Vec<_> = fs::read_dir(home.data()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("import")), "{left:?}");
}

#[test]
fn a_dry_run_tells_the_same_and_changes_nothing() {
    let world = World::new("v2-08-engage-modes");
    world.set_up();
    let before = (picture(world.home().root()), picture(&world.old()));
    let told = world.import(Mode::DryRun).unwrap();
    assert_eq!((picture(world.home().root()), picture(&world.old())), before);
    let done = world.import(Mode::Real).unwrap();
    assert!(told.dry_run && !done.dry_run);
    assert_eq!(told.to_text(), done.to_text());
    // Nor does it make a home.
    let other = World::new("v2-08-engage-modes");
    other.import(Mode::DryRun).unwrap();
    assert!(!other.home().root().exists());
}

#[test]
fn a_broken_row_is_named_and_leaves_the_home_as_it_was() {
    for (sql, table, row) in [
        ("UPDATE agent_groups SET id = 'Not Legal' WHERE id = 'ag-3'", "agent_groups", "Not Legal"),
        ("UPDATE sessions SET id = '../../../tmp/x' WHERE id = 'sess-2'", "sessions", "../../../tmp/x"),
        ("UPDATE sessions SET created_at = 'yesterday' WHERE id = 'sess-2'", "sessions", "sess-2"),
        (
            "UPDATE messaging_group_agents SET engage_mode = 'psychic' WHERE id = 'mga-3'",
            "messaging_group_agents",
            "mga-3",
        ),
        ("UPDATE user_roles SET role = 'king' WHERE user_id = 'discord:42'", "user_roles", "discord:42/king/ag-2"),
        (
            "UPDATE messaging_group_agents SET messaging_group_id = 'gone' WHERE id = 'mga-2'",
            "messaging_group_agents",
            "mga-2",
        ),
    ] {
        let world = World::new("v2-13-cli-scope");
        world.set_up();
        world.sql(sql);
        let before = picture(world.home().root());
        let report = world.import(Mode::Real).unwrap();
        assert_eq!(picture(world.home().root()), before, "{sql}");
        let account = account(&report, table);
        assert_eq!(account.refused, 1, "{sql}: {}", report.to_text());
        assert_eq!(account.problems[0].row, row, "{sql}");
    }
}

#[test]
fn what_only_waits_is_dropped_when_it_is_broken() {
    let world = World::new("v2-13-cli-scope");
    world.sql("UPDATE pending_approvals SET payload = '{' WHERE approval_id = 'appr-1'");
    let report = world.import(Mode::Real).unwrap();
    let account = account(&report, "pending_approvals");
    assert_eq!((account.found, account.imported, account.dropped), (2, 1, 1));
    assert_eq!(account.problems[0].row, "appr-1");
}

#[test]
fn a_file_that_fails_halfway_leaves_the_home_as_it_was() {
    let world = World::new("v2-13-cli-scope");
    world.set_up();
    // A file where the session wants a folder: found only when the copy is converted.
    fs::write(world.old().join("data/v2-sessions/ag-1/sess-1/agent"), "").unwrap();
    let mut before = picture(world.home().root());
    let error = world.import(Mode::Real).unwrap_err();
    assert!(format!("{error:#}").contains("sess-1"), "{error:#}");
    let mut after = picture(world.home().root());
    let lock = world.home().data().join("nanoclaw.lock");
    before.remove(&lock);
    after.remove(&lock);
    assert_eq!(after, before);
    // A home that did not exist does not exist then, either.
    let other = World::new("v2-13-cli-scope");
    fs::write(other.old().join("data/v2-sessions/ag-1/sess-1/agent"), "").unwrap();
    other.import(Mode::Real).unwrap_err();
    assert!(!other.home().root().exists());
}

#[test]
fn a_failure_after_the_folders_moved_in_moves_them_back() {
    let world = World::new("v2-13-cli-scope");
    world.set_up();
    let report = world.import(Mode::DryRun).unwrap();
    assert_eq!(report.refused(), 0);
    let home = world.home();
    let scratch = super::Scratch::create(world.tmp.path()).unwrap();
    let old = super::OldInstall::open(&home, &world.old(), &scratch).unwrap();
    let (_, plan) = super::rehearse(&home, &old, &scratch, NOW).unwrap();
    let before = picture(home.root());
    let mut stage = super::Stage::create(&home).unwrap();
    stage.fill(&old.root, &plan).unwrap();
    stage.move_in(&plan).unwrap();
    assert!(home.group("andy").join("CLAUDE.local.md").exists());
    drop(stage);
    assert_eq!(picture(home.root()), before);
}

#[test]
fn links_in_the_old_install_are_never_followed() {
    let world = World::new("v2-13-cli-scope");
    let secret = world.tmp.path().join("secret");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("key"), "secret").unwrap();
    let session = world.old().join("data/v2-sessions/ag-1/sess-1");
    symlink(&secret, session.join("inbox")).unwrap();
    symlink(secret.join("key"), session.join("outbox/msg-1/key")).unwrap();
    symlink(&secret, world.old().join("groups/research")).unwrap();
    symlink(&secret, world.old().join("groups/andy/stolen")).unwrap();
    world.import(Mode::Real).unwrap();
    let dir = world.home().session("ag-1", "sess-1");
    assert!(fs::symlink_metadata(dir.root().join("inbox")).unwrap().is_dir());
    assert!(!dir.outbox("msg-1").join("key").exists());
    assert!(!world.home().group("research").exists());
    // Where only the container looks, it is what it was: a link, and not what it led to.
    assert_eq!(fs::read_link(world.home().group("andy").join("stolen")).unwrap(), secret);
}

#[test]
fn what_a_database_left_in_its_wal_is_imported() {
    let world = World::new("v2-13-cli-scope");
    let path = world.old().join("data/v2.db");
    let db = Connection::open(&path).unwrap();
    db.pragma_update(None, "journal_mode", "WAL").unwrap();
    db.execute_batch("PRAGMA wal_autocheckpoint=0; UPDATE agent_groups SET name = 'In the WAL' WHERE id = 'ag-1'")
        .unwrap();
    let before = picture(&world.old());
    world.import(Mode::Real).unwrap();
    assert_eq!(picture(&world.old()), before);
    assert_eq!(world.store().agent_group("ag-1").unwrap().name, "In the WAL");
}

#[test]
fn an_unused_default_group_makes_room_and_a_used_one_stays() {
    let world = World::new("v2-13-cli-scope");
    world.set_up();
    world.import(Mode::Real).unwrap();
    let ids = |store: &Store| store.agent_groups().unwrap().into_iter().map(|g| g.id).collect::<Vec<_>>();
    let store = world.store();
    assert_eq!(ids(&store), ["ag-1", "ag-2", "ag-3"]);
    let terminal = store.find_messaging_group("cli", "local").unwrap().unwrap();
    assert_eq!(terminal.id, "mg-4");
    assert!(store.find_destination_to("ag-1", Target::Channel("mg-4")).unwrap().is_some());

    let world = World::new("v2-13-cli-scope");
    world.set_up();
    fs::create_dir(world.home().group("main")).unwrap();
    fs::write(world.home().group("main").join("CLAUDE.local.md"), "mine").unwrap();
    let report = world.import(Mode::Real).unwrap();
    assert_eq!(ids(&world.store()), ["main", "ag-1", "ag-2", "ag-3"]);
    // Both have the terminal: it is the home's, and the old wiring joins it.
    assert_eq!(account(&report, "messaging_groups").already_there, 1);
    let terminal = world.store().find_messaging_group("cli", "local").unwrap().unwrap();
    assert_eq!(world.store().wirings_of_chat(&terminal.id).unwrap().len(), 2);
}

#[test]
fn the_same_groups_are_not_imported_twice() {
    let world = World::new("v2-13-cli-scope");
    world.import(Mode::Real).unwrap();
    let before = picture(&world.home().groups());
    let report = world.import(Mode::Real).unwrap();
    assert_eq!(account(&report, "agent_groups").refused, 3);
    assert!(account(&report, "agent_groups").problems[0].reason.contains("`andy` belongs to `ag-1`"));
    assert_eq!(picture(&world.home().groups()), before);
}

#[test]
fn nothing_is_imported_under_a_running_daemon_or_from_no_install() {
    let world = World::new("v2-13-cli-scope");
    world.set_up();
    let lock = world.home().lock().unwrap();
    let error = world.import(Mode::Real).unwrap_err();
    assert!(error.is::<Held>(), "{error:#}");
    world.import(Mode::DryRun).unwrap();
    drop(lock);
    let nothing = import(&world.home(), world.tmp.path(), Mode::DryRun, NOW).unwrap_err().to_string();
    assert!(nothing.contains("each other"), "{nothing}");
    let empty = tempfile::tempdir().unwrap();
    let nothing = import(&world.home(), empty.path(), Mode::DryRun, NOW).unwrap_err().to_string();
    assert!(nothing.contains("data/v2.db"), "{nothing}");
}
