//! The folders of the old install: which of them come along, staged in the home, and moved in by
//! rename.
//!
//! A stage that is dropped moves back what it moved in and removes itself; only [`Stage::keep`]
//! leaves the folders where they are. A host that dies in between leaves folders that no row
//! names, and the next import says so.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nanoclaw_session::inbound::{Durability, InboundDb};
use nanoclaw_session::layout::{INBOUND_DB, SessionDir, journal_of};
use nanoclaw_session::row::{AckStatus, InStatus};
use nanoclaw_session::untrusted::recover_copy;

use super::report::{Account, Fate, Report};
use super::rows::Taken;
use super::tree::{Copier, Links, names, open_folder};
use crate::home::Home;

/// The group folder every agent may read.
const GLOBAL: &str = "global";
/// The `.claude` folder of an agent group, beside its sessions.
const CLAUDE_SHARED: &str = ".claude-shared";

/// What is to be copied.
#[derive(Debug, Default)]
pub struct Plan {
    /// `data/v2-sessions/<agent group>`.
    sessions: Vec<SessionsOfGroup>,
    /// `groups/<folder>`: source and place in the home.
    groups: Vec<(PathBuf, PathBuf)>,
    accounts: Vec<Account>,
    notes: Vec<String>,
}

#[derive(Debug)]
struct SessionsOfGroup {
    from: PathBuf,
    to: PathBuf,
    sessions: Vec<String>,
    has_claude_state: bool,
}

/// Decides for every folder below `data/v2-sessions` and `groups`.
///
/// # Errors
/// A folder cannot be listed.
pub fn plan(home: &Home, old: &Path, taken: &Taken) -> Result<Plan> {
    let mut plan = Plan::default();
    plan.sessions(home, &old.join("data/v2-sessions"), taken)?;
    plan.groups(home, &old.join("groups"), taken)?;
    Ok(plan)
}

impl Plan {
    fn sessions(&mut self, home: &Home, folder: &Path, taken: &Taken) -> Result<()> {
        let mut account = Account::new("v2-sessions/");
        let mut found = BTreeMap::new();
        for group in list(folder)? {
            let from = folder.join(&group);
            if !taken.groups.iter().any(|known| known.id == group) {
                account.drop_row(group, "it belongs to no agent group that comes along");
                continue;
            }
            let to = home.claude_state(&group).parent().map(Path::to_owned).unwrap_or_default();
            if !is_free(&to)? {
                account.refuse(group, format!("{} is there already, and belongs to nobody", to.display()));
                continue;
            }
            let mut moved = SessionsOfGroup { from: from.clone(), to, sessions: Vec::new(), has_claude_state: false };
            for name in list(&from)? {
                let shown = format!("{group}/{name}");
                let inbound = from.join(&name).join(INBOUND_DB);
                if name == CLAUDE_SHARED {
                    moved.has_claude_state = true;
                    account.count(Fate::Imported);
                } else if !taken.sessions.iter().any(|s| s.agent_group_id == group && s.id == name) {
                    account.drop_row(shown, "it belongs to no session that comes along");
                } else if fs::symlink_metadata(journal_of(&inbound)).is_ok() {
                    // An agent of the older layout could have put it there, and rolling it back
                    // would do as it says.
                    account.refuse(shown, "its host died inside a commit: start and stop the old install once");
                } else {
                    account.count(Fate::Imported);
                    found.insert((group.clone(), name.clone()), ());
                    moved.sessions.push(name);
                }
            }
            self.sessions.push(moved);
        }
        let missing =
            taken.sessions.iter().filter(|s| !found.contains_key(&(s.agent_group_id.clone(), s.id.clone()))).count();
        if missing > 0 {
            self.notes.push(format!("{missing} sessions have no folder in the old install; they start empty"));
        }
        self.accounts.push(account);
        Ok(())
    }

    fn groups(&mut self, home: &Home, folder: &Path, taken: &Taken) -> Result<()> {
        let mut account = Account::new("groups/");
        for name in list(folder)? {
            let to = home.group(&name);
            let known = taken.groups.iter().any(|group| group.folder == name);
            if !known && name != GLOBAL {
                account.drop_row(name, "it belongs to no agent group that comes along");
                continue;
            }
            if !is_free(&to)? {
                let reason = format!("{} is there already", to.display());
                match known {
                    true => account.refuse(name, reason),
                    false => account.drop_row(name, reason),
                }
                continue;
            }
            let from = folder.join(&name);
            if known && from.join("CLAUDE.md").exists() {
                let own = home.instructions().join(format!("{name}.md"));
                self.notes.push(format!(
                    "groups/{name}/CLAUDE.md comes along as a file; instructions are read from {} now",
                    own.display()
                ));
            }
            account.count(Fate::Imported);
            self.groups.push((from, to));
        }
        self.accounts.push(account);
        Ok(())
    }

    /// Adds what was decided to the report.
    pub fn report(&self, report: &mut Report) {
        for account in &self.accounts {
            report.tables.push(account.clone());
        }
        report.notes.extend(self.notes.iter().cloned());
    }
}

/// Copies in the home that are not in their places yet.
#[derive(Debug)]
pub struct Stage {
    root: PathBuf,
    recovery: PathBuf,
    moved: Vec<Moved>,
    kept: bool,
}

/// A folder that was moved in.
#[derive(Debug)]
struct Moved {
    staged: PathBuf,
    place: PathBuf,
    /// An empty folder was there, and the rename took its place.
    replaced: Option<fs::Permissions>,
}

impl Stage {
    /// An empty stage in the home.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(home: &Home) -> Result<Stage> {
        let root = home.data().join(crate::id::new_id("import"));
        make(&root, 0o700)?;
        Ok(Stage { recovery: root.join("recovery"), root, moved: Vec::new(), kept: false })
    }

    /// Copies what the plan says, and converts the session folders. Returns what the owner should
    /// know of it.
    ///
    /// # Errors
    /// The first file that failed.
    pub fn fill(&mut self, plan: &Plan) -> Result<Vec<String>> {
        let mut copier = Copier::default();
        let mut notes = Vec::new();
        for (n, group) in plan.sessions.iter().enumerate() {
            let staged = self.sessions(n);
            make(&staged, 0o755)?;
            for session in &group.sessions {
                // The host looks in there, and the container's user reads what is mounted.
                copier.copy(&group.from.join(session), &staged.join(session), Links::LeaveOut, 0o644)?;
                notes.extend(self.convert(&staged.join(session), session)?);
            }
            if group.has_claude_state {
                copier.copy(&group.from.join(CLAUDE_SHARED), &staged.join(CLAUDE_SHARED), Links::Keep, 0o600)?;
            }
        }
        for (n, (from, _)) in plan.groups.iter().enumerate() {
            copier.copy(from, &self.group(n), Links::Keep, 0o600)?;
        }
        if copier.left_out > 0 {
            notes.push(format!("{} links, sockets or devices were left out", copier.left_out));
        }
        Ok(notes)
    }

    /// Makes today's layout of a copied session folder, and ends the messages that its container had
    /// finished, so that none of them wakes anybody.
    fn convert(&self, folder: &Path, session: &str) -> Result<Option<String>> {
        let dir = SessionDir::new(folder);
        let context = || format!("cannot convert the folder of session {session}");
        dir.prepare().with_context(context)?;
        let mut inbound = InboundDb::open(&dir, Durability::Normal).with_context(context)?;
        loop {
            let waiting = inbound.unfinished_ids().with_context(context)?;
            if waiting.is_empty() || !dir.outbound_db().exists() {
                return Ok(None);
            }
            let acks = recover_copy(&dir, &self.recovery).and_then(|db| db.read(|look| look.acks(&waiting)));
            let acks = match acks {
                Ok(acks) => acks,
                // Delivery will meet the same fault, and say it to the right person.
                Err(e) => return Ok(Some(format!("session {session}: what its agent wrote cannot be read: {e}"))),
            };
            let finished: Vec<_> = acks
                .into_iter()
                .filter_map(|(id, status)| match status {
                    AckStatus::Completed => Some((id, InStatus::Completed)),
                    AckStatus::Failed => Some((id, InStatus::Failed)),
                    AckStatus::Processing => None,
                })
                .collect();
            if finished.is_empty() {
                return Ok(None);
            }
            inbound
                .write(|tx| finished.iter().try_for_each(|(id, status)| tx.finish(id, *status)))
                .with_context(context)?;
        }
    }

    /// Moves everything to its place.
    ///
    /// # Errors
    /// The first folder that cannot be moved; those before it are moved back with the stage.
    pub fn move_in(&mut self, plan: &Plan) -> Result<()> {
        for (n, group) in plan.sessions.iter().enumerate() {
            self.rename(self.sessions(n), &group.to)?;
        }
        for (n, (_, to)) in plan.groups.iter().enumerate() {
            self.rename(self.group(n), to)?;
        }
        Ok(())
    }

    /// Everything stays where it is now.
    pub fn keep(mut self) {
        self.kept = true;
    }

    fn sessions(&self, n: usize) -> PathBuf {
        self.root.join(format!("sessions-{n}"))
    }

    fn group(&self, n: usize) -> PathBuf {
        self.root.join(format!("group-{n}"))
    }

    fn rename(&mut self, staged: PathBuf, place: &Path) -> Result<()> {
        let replaced = match fs::symlink_metadata(place) {
            Ok(meta) if is_free(place)? => Some(meta.permissions()),
            Ok(_) => bail!("{} is there already", place.display()),
            Err(_) => None,
        };
        fs::rename(&staged, place).with_context(|| format!("cannot make {}", place.display()))?;
        self.moved.push(Moved { staged, place: place.to_owned(), replaced });
        Ok(())
    }

    fn undo(&mut self) -> io::Result<()> {
        while let Some(Moved { staged, place, replaced }) = self.moved.pop() {
            fs::rename(&place, &staged)?;
            if let Some(permissions) = replaced {
                fs::create_dir(&place)?;
                fs::set_permissions(&place, permissions)?;
            }
        }
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let undone = if self.kept { Ok(()) } else { self.undo() };
        if let Err(e) = undone.and_then(|()| fs::remove_dir_all(&self.root)) {
            log::warn!("An import left a folder behind path={} error={e}", self.root.display());
        }
    }
}

/// Whether a folder may be put there: nothing is, or an empty folder.
///
/// # Errors
/// It cannot be looked at.
pub fn is_free(place: &Path) -> Result<bool> {
    let look = || -> io::Result<bool> {
        match fs::symlink_metadata(place) {
            Ok(meta) if meta.is_dir() => Ok(fs::read_dir(place)?.next().is_none()),
            Ok(_) => Ok(false),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(e) => Err(e),
        }
    };
    look().with_context(|| format!("cannot look at {}", place.display()))
}

/// The names of the folders in a folder that may be missing; links and files are none.
fn list(folder: &Path) -> Result<Vec<String>> {
    let look = || -> io::Result<Vec<String>> {
        let Some(open) = open_folder(folder)? else { return Ok(Vec::new()) };
        Ok(names(open)?
            .into_iter()
            .filter(|name| fs::symlink_metadata(folder.join(name)).is_ok_and(|meta| meta.is_dir()))
            // Ours are ASCII; what is not names nothing that comes along.
            .map(|name| name.to_string_lossy().into_owned())
            .collect())
    };
    look().with_context(|| format!("cannot list {}", folder.display()))
}

fn make(folder: &Path, mode: u32) -> Result<()> {
    DirBuilder::new().mode(mode).create(folder).with_context(|| format!("cannot create {}", folder.display()))
}
