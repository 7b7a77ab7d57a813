//! Takes over an install of NanoClaw v2: its database (any version of its schema), its session
//! folders and its group folders. Runs on the thread of `nanoclaw import`.
//!
//! Invariants
//! - Nothing in the old folder is changed: its database is read from a private copy, and its
//!   folders are copied.
//! - All or nothing. Everything is rehearsed on a copy of the home's database first; folders are
//!   staged in the home; then one transaction takes the rows, moves the folders in by rename and
//!   commits. Whatever fails on the way, the folders are moved back and the stage is removed.
//! - Every row of the source is accounted for in the [`Report`].
//! - Neither install runs meanwhile: ours is locked, and the old database must not change.
//!
//! What a home may hold already stays. A chat or user that both have is the home's. An agent group
//! whose id or folder the home has is refused, with one exception: the agent group "main" that a
//! first start made, and that nobody has talked to or changed, makes room (the terminal goes to the
//! first imported group at the next start, unless the old install wired it).

mod folders;
mod report;
mod rows;
mod tree;

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use jiff::Timestamp;

pub use report::Report;

use crate::channel::cli;
use crate::home::Home;
use crate::setup::MAIN;
use crate::store::{AgentGroup, CliScope, ContainerConfig, LegacyDb, Store, StoreError};
use folders::{Plan, Stage};

/// Whether anything is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    DryRun,
    Real,
}

/// Endings of a database's files, its own first.
const DATABASE_FILES: [&str; 3] = ["", "-wal", "-journal"];

/// Imports the install at `dir` into `home`. While the report has refused rows nothing was
/// imported, whatever the mode.
/// On an error nothing was, either.
pub fn import(home: &Home, dir: &Path, mode: Mode, now: Timestamp) -> Result<Report> {
    let scratch = Scratch::create(&std::env::temp_dir())?;
    let old = OldInstall::open(home, dir, &scratch)?;
    let (mut report, plan) = rehearse(home, &old, &scratch, now)?;
    report.dry_run = mode == Mode::DryRun;
    if mode == Mode::Real && report.refused() == 0 {
        let fresh = !home.root().exists();
        let done = settle(home, &old, &plan, now);
        if done.is_err() && fresh {
            fs::remove_dir_all(home.root()).with_context(|| format!("cannot remove {}", home.root().display()))?;
        }
        report.notes.extend(done?);
    }
    Ok(report)
}

/// Does all but the folders, on a copy of the home's database.
fn rehearse(home: &Home, old: &OldInstall, scratch: &Scratch, now: Timestamp) -> Result<(Report, Plan)> {
    let copy = scratch.path.join("home.db");
    // First for reading, so that an older schema is not migrated by a look. That connection is closed
    // before the other one: only a writer takes its WAL away when it closes.
    match Store::open_read_only(&home.store()).map(drop) {
        Err(StoreError::NotFound { .. }) => {}
        Ok(()) => Store::open_existing(&home.store(), now)?.snapshot_to(&copy)?,
        Err(error) => return Err(error).with_context(|| format!("cannot open {}", home.store().display())),
    }
    take_over(&Store::open(&copy, now)?, home, old, now, |_| Ok(()))
}

/// Does it. Returns notes about what was copied.
fn settle(home: &Home, old: &OldInstall, plan: &Plan, now: Timestamp) -> Result<Vec<String>> {
    home.create()?;
    let _lock = home.lock()?;
    let mut stage = Stage::create(home)?;
    let notes = stage.fill(&old.root, plan)?;
    if stamps(&old.root)? != old.stamps {
        bail!("{} changed meanwhile: stop the old install first", old.root.display());
    }
    let store = Store::open(&home.store(), now).with_context(|| format!("cannot open {}", home.store().display()))?;
    take_over(&store, home, old, now, |report| {
        if report.refused() > 0 {
            bail!("the home changed meanwhile: try again");
        }
        stage.move_in(plan)
    })?;
    stage.keep();
    Ok(notes)
}

/// Takes the rows and plans the folders, in one transaction that `then` ends.
fn take_over(
    store: &Store,
    home: &Home,
    old: &OldInstall,
    now: Timestamp,
    then: impl FnOnce(&Report) -> Result<()>,
) -> Result<(Report, Plan)> {
    store.transaction(|| {
        let room = make_room(store, home, &old.database)?;
        let mut taken = rows::take(&old.database, store, now)?;
        let plan = folders::plan(home, &old.root, &mut taken)?;
        let mut report = taken.report;
        report.notes.extend(room);
        let settings = old.root.join(".env");
        if settings.exists() {
            let (from, to) = (settings.display(), home.env_file());
            report.notes.push(format!("settings stay behind: copy what you need from {from} to {}", to.display()));
        }
        then(&report)?;
        Ok((report, plan))
    })
}

/// Removes the default agent group of a home that was set up and never used, and the terminal's
/// chat with it. Says so.
fn make_room(store: &Store, home: &Home, source: &LegacyDb) -> Result<Option<String>> {
    let groups = store.agent_groups()?;
    let [main] = groups.as_slice() else { return Ok(None) };
    let mut untouched = ContainerConfig::new(MAIN, main.created_at);
    untouched.cli_scope = CliScope::Global;
    let chats = store.messaging_groups()?;
    let terminals: Vec<_> = chats.iter().filter(|chat| chat.channel_type == cli::CHANNEL).collect();
    let used = main.id != MAIN
        || store.container_config(MAIN)? != untouched
        || !store.sessions()?.is_empty()
        || !store.members_of(MAIN)?.is_empty()
        || store.wirings()?.iter().any(|wiring| terminals.iter().all(|chat| chat.id != wiring.messaging_group_id))
        || !folders::is_free(&home.group(&main.folder))?
        || home.instructions().join(format!("{}.md", main.folder)).exists();
    if used || source.rows::<AgentGroup>()?.is_empty() {
        return Ok(None);
    }
    store.delete_agent_group_cascade(MAIN)?;
    for chat in terminals {
        store.delete_messaging_group_cascade(&chat.id)?;
    }
    Ok(Some(format!("the unused agent group `{MAIN}` of this home makes room")))
}

/// An install of NanoClaw v2.
#[derive(Debug)]
struct OldInstall {
    root: PathBuf,
    /// A copy.
    database: LegacyDb,
    /// As they were when it was made.
    stamps: Vec<Option<Stamp>>,
}

/// What tells whether a file was written: its size and time.
type Stamp = (u64, SystemTime);

impl OldInstall {
    /// Copies the database of the install at `dir` with what lies beside it, since SQLite would write
    /// there.
    fn open(home: &Home, dir: &Path, scratch: &Scratch) -> Result<OldInstall> {
        let root = dir.canonicalize().with_context(|| format!("cannot open {}", dir.display()))?;
        if home.root().canonicalize().is_ok_and(|own| own.starts_with(&root) || root.starts_with(&own)) {
            bail!("{} and the home {} contain each other", root.display(), home.root().display());
        }
        let stamps = stamps(&root)?;
        if stamps[0].is_none() {
            bail!("{} is no install of NanoClaw v2: it has no data/v2.db", root.display());
        }
        for (ending, _) in DATABASE_FILES.iter().zip(&stamps).filter(|(_, stamp)| stamp.is_some()) {
            let (from, to) = (root.join(format!("data/v2.db{ending}")), scratch.path.join(format!("v2.db{ending}")));
            File::open(&from)
                .and_then(|mut from| io::copy(&mut from, &mut File::create_new(to)?))
                .with_context(|| format!("cannot copy {}", from.display()))?;
        }
        let database = LegacyDb::open(&scratch.path.join("v2.db"))
            .with_context(|| format!("cannot read {}", root.join("data/v2.db").display()))?;
        Ok(OldInstall { root, database, stamps })
    }
}

fn stamps(root: &Path) -> Result<Vec<Option<Stamp>>> {
    let stamp = |ending: &&str| {
        let path = root.join(format!("data/v2.db{ending}"));
        match fs::symlink_metadata(&path).and_then(|meta| Ok((meta.len(), meta.modified()?))) {
            Ok(stamp) => Ok(Some(stamp)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(|| format!("cannot look at {}", path.display())),
        }
    };
    DATABASE_FILES.iter().map(stamp).collect()
}

/// A private folder, removed at the end.
#[derive(Debug)]
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn create(parent: &Path) -> Result<Scratch> {
        let path = parent.join(crate::id::new_id("import"));
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Scratch { path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir_all(&self.path) {
            log::warn!("An import left a folder behind path={} error={e}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests;
