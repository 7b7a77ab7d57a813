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
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use jiff::Timestamp;

pub use report::Report;

use crate::channel::cli;
use crate::home::{Holder, Home, LockError};
use crate::setup::MAIN;
use crate::store::{CliScope, ContainerConfig, LegacyDb, Store, StoreError};
use folders::{Plan, Stage};

/// Whether anything is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    DryRun,
    Real,
}

/// Files beside a database that belong to it.
const COMPANIONS: [&str; 2] = ["-wal", "-journal"];

/// Imports the install at `dir` into `home`. While the report has refused rows nothing was
/// imported, whatever the mode.
///
/// # Errors
/// There is no install at `dir`, either install runs, or a database or a file failed: nothing was
/// imported.
pub fn import(home: &Home, dir: &Path, mode: Mode, now: Timestamp) -> Result<Report> {
    let old = OldInstall::find(home, dir)?;
    if mode == Mode::Real {
        if let Some(Holder { pid }) = home.holder()? {
            return Err(LockError::Held { pid }.into());
        }
    }
    let scratch = Scratch::create()?;
    let stamps = old.stamps()?;
    let source = old.copy_database(&scratch)?;
    let (mut report, plan) = rehearse(home, &old, &source, &scratch, now)?;
    report.dry_run = mode == Mode::DryRun;
    if mode == Mode::DryRun || report.refused() > 0 {
        return Ok(report);
    }
    let fresh = !home.root().exists();
    let done = settle(home, &old, &stamps, &source, &plan, now);
    if done.is_err() && fresh {
        fs::remove_dir_all(home.root()).with_context(|| format!("cannot remove {}", home.root().display()))?;
    }
    report.notes.extend(done?);
    Ok(report)
}

/// Does all but the folders, on a copy of the home's database.
fn rehearse(
    home: &Home,
    old: &OldInstall,
    source: &LegacyDb,
    scratch: &Scratch,
    now: Timestamp,
) -> Result<(Report, Plan)> {
    let copy = scratch.path.join("home.db");
    // First for reading, so that an older schema is not migrated by a look. That connection is closed
    // before the other one: only a writer takes its WAL away when it closes.
    match Store::open_read_only(&home.store()).map(drop) {
        Err(StoreError::NotFound { .. }) => {}
        Ok(()) => Store::open_existing(&home.store(), now)?.snapshot_to(&copy)?,
        Err(error) => return Err(error).with_context(|| format!("cannot open {}", home.store().display())),
    }
    let store = Store::open(&copy, now)?;
    let mut report = Report::default();
    let taken = store.transaction(|| -> Result<rows::Taken> {
        if let Some(note) = make_room(&store, home, source)? {
            report.notes.push(note);
        }
        Ok(rows::take(source, &store, now)?)
    })?;
    let plan = folders::plan(home, &old.root, &taken)?;
    report.tables = taken.tables;
    report.notes.extend(taken.notes);
    plan.report(&mut report);
    if old.root.join(".env").exists() {
        report.notes.push(format!(
            "settings are not taken over: copy what you need from {} to {}",
            old.root.join(".env").display(),
            home.env_file().display()
        ));
    }
    Ok((report, plan))
}

/// Does it. Returns notes about what was copied.
fn settle(
    home: &Home,
    old: &OldInstall,
    stamps: &[Option<Stamp>],
    source: &LegacyDb,
    plan: &Plan,
    now: Timestamp,
) -> Result<Vec<String>> {
    home.create()?;
    let _lock = home.lock()?;
    let mut stage = Stage::create(home)?;
    let notes = stage.fill(plan)?;
    if old.stamps()? != stamps {
        bail!("{} changed meanwhile: stop the old install first", old.database().display());
    }
    let store = Store::open(&home.store(), now).with_context(|| format!("cannot open {}", home.store().display()))?;
    store.transaction(|| -> Result<()> {
        make_room(&store, home, source)?;
        let taken = rows::take(source, &store, now)?;
        if let Some(account) = taken.tables.iter().find(|account| account.refused > 0) {
            bail!("the home changed meanwhile ({}): try again", account.name);
        }
        stage.move_in(plan)
    })?;
    stage.keep();
    Ok(notes)
}

/// Removes the default agent group of a home that was set up and never used, and the terminal's
/// chat with it. Says so.
fn make_room(store: &Store, home: &Home, source: &LegacyDb) -> Result<Option<String>> {
    if source.tables()?.get("agent_groups").is_none_or(|count| *count == 0) {
        return Ok(None);
    }
    let groups = store.agent_groups()?;
    let [main] = groups.as_slice() else { return Ok(None) };
    let mut untouched = ContainerConfig::new(MAIN, main.created_at);
    untouched.cli_scope = CliScope::Global;
    let mut chats = Vec::new();
    for wiring in store.wirings_of_group(&main.id)? {
        chats.push(store.messaging_group(&wiring.messaging_group_id)?);
    }
    let used = main.id != MAIN
        || store.container_config(MAIN)? != untouched
        || !store.sessions()?.is_empty()
        || !store.members_of(MAIN)?.is_empty()
        || chats.iter().any(|chat| chat.channel_type != cli::CHANNEL)
        || !folders::is_free(&home.group(&main.folder))?
        || home.instructions().join(format!("{}.md", main.folder)).exists();
    if used {
        return Ok(None);
    }
    store.delete_agent_group_cascade(MAIN)?;
    for chat in chats {
        if store.wirings_of_chat(&chat.id)?.is_empty() {
            store.delete_messaging_group_cascade(&chat.id)?;
        }
    }
    Ok(Some(format!("the unused agent group `{MAIN}` of this home makes room")))
}

/// An install of NanoClaw v2.
#[derive(Debug)]
struct OldInstall {
    root: PathBuf,
}

/// What tells whether a file was written: size, seconds and nanoseconds of its time.
type Stamp = (u64, i64, i64);

impl OldInstall {
    fn find(home: &Home, dir: &Path) -> Result<OldInstall> {
        let root = dir.canonicalize().with_context(|| format!("cannot open {}", dir.display()))?;
        if home.root().canonicalize().is_ok_and(|own| own.starts_with(&root) || root.starts_with(&own)) {
            bail!("{} and the home {} contain each other", root.display(), home.root().display());
        }
        let old = OldInstall { root };
        if !fs::symlink_metadata(old.database()).is_ok_and(|meta| meta.is_file()) {
            bail!("{} is no install of NanoClaw v2: it has no data/v2.db", old.root.display());
        }
        Ok(old)
    }

    fn database(&self) -> PathBuf {
        self.root.join("data/v2.db")
    }

    /// The database's files, itself first.
    fn database_files(&self) -> impl Iterator<Item = PathBuf> + '_ {
        ["", COMPANIONS[0], COMPANIONS[1]].into_iter().map(|suffix| self.root.join(format!("data/v2.db{suffix}")))
    }

    fn stamps(&self) -> Result<Vec<Option<Stamp>>> {
        let stamp = |path: PathBuf| match fs::symlink_metadata(&path) {
            Ok(meta) => Ok(Some((meta.size(), meta.mtime(), meta.mtime_nsec()))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(|| format!("cannot look at {}", path.display())),
        };
        self.database_files().map(stamp).collect()
    }

    /// Opens a copy of the database with what lies beside it: SQLite would write here.
    fn copy_database(&self, scratch: &Scratch) -> Result<LegacyDb> {
        let target = scratch.path.join("v2.db");
        for (from, suffix) in self.database_files().zip(["", COMPANIONS[0], COMPANIONS[1]]) {
            let to = scratch.path.join(format!("v2.db{suffix}"));
            let copied = File::open(&from).and_then(|mut from| io::copy(&mut from, &mut File::create_new(to)?));
            match copied {
                Err(e) if e.kind() == io::ErrorKind::NotFound && !suffix.is_empty() => {}
                other => drop(other.with_context(|| format!("cannot copy {}", from.display()))?),
            }
        }
        LegacyDb::open(&target).with_context(|| format!("cannot read {}", self.database().display()))
    }
}

/// A private folder outside both installs, removed at the end.
#[derive(Debug)]
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn create() -> Result<Scratch> {
        let path = std::env::temp_dir().join(crate::id::new_id("nanoclaw-import"));
        DirBuilder::new().mode(0o700).create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Scratch { path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir_all(&self.path) {
            log::warn!("A temporary folder stays path={} error={e}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests;
