//! The folders of the old install, which lie in it as they lie in a home: which of them come along,
//! copied into a stage in the home, and moved in by rename.
//!
//! A stage that is dropped moves back what it moved in and removes itself; only [`Stage::keep`]
//! leaves the folders where they are. A host that dies in between leaves folders that no row
//! names, and the next import says so.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nanoclaw_session::inbound::{Durability, InboundDb};
use nanoclaw_session::layout::{INBOUND_DB, SessionDir, journal_of};
use nanoclaw_session::row::{AckStatus, InStatus};
use nanoclaw_session::untrusted::recover_copy;

use super::Scratch;
use super::report::{Account, Fate};
use super::rows::Taken;
use super::tree::{Copier, Reader};
use crate::home::Home;
use crate::store::Session;

const SESSIONS: &str = "data/v2-sessions";
const GROUPS: &str = "groups";
/// The group folder every agent may read.
const GLOBAL: &str = "global";
/// The `.claude` folder of an agent group, beside its sessions.
const CLAUDE_SHARED: &str = ".claude-shared";
const OF_NO_GROUP: &str = "it belongs to no agent group that comes along";

/// What comes along; paths are relative to both installs.
#[derive(Debug, Default)]
pub struct Plan {
    copies: Vec<(PathBuf, Reader)>,
    /// The folders that hold the copies, or are them: what is moved in.
    places: Vec<PathBuf>,
}

/// Decides for every folder below `data/v2-sessions` and `groups`, and accounts for it.
pub fn plan(home: &Home, old: &Path, taken: &mut Taken) -> Result<Plan> {
    let mut plan = Plan::default();
    let sessions = plan.sessions(home, old, taken)?;
    let groups = plan.groups(home, old, taken)?;
    taken.report.tables.extend([sessions, groups]);
    Ok(plan)
}

impl Plan {
    fn sessions(&mut self, home: &Home, old: &Path, taken: &mut Taken) -> Result<Account> {
        let mut account = Account::new("v2-sessions/");
        for group in list(&old.join(SESSIONS))? {
            let place = Path::new(SESSIONS).join(&group);
            if !taken.groups.iter().any(|known| known.id == group) {
                account.enter(1, group, Fate::Dropped(OF_NO_GROUP.to_owned()));
                continue;
            }
            let to = home.root().join(&place);
            if !is_free(&to)? {
                let reason = format!("{} is there already, and belongs to nobody", to.display());
                account.enter(1, group, Fate::Refused(reason));
                continue;
            }
            for name in list(&old.join(&place))? {
                let folder = place.join(&name);
                let known = taken.sessions.iter().any(|s| s.agent_group_id == group && s.id == name);
                let fate = if name == CLAUDE_SHARED {
                    self.copies.push((folder, Reader::Agents));
                    Fate::Imported
                } else if !known {
                    Fate::Dropped("it belongs to no session that comes along".to_owned())
                } else if fs::symlink_metadata(journal_of(&old.join(&folder).join(INBOUND_DB))).is_ok() {
                    // An agent of the older layout could have put it there, and rolling it back
                    // would do as it says.
                    Fate::Refused("its host died inside a commit: start and stop the old install once".to_owned())
                } else {
                    self.copies.push((folder, Reader::Host));
                    Fate::Imported
                };
                account.enter(1, format!("{group}/{name}"), fate);
            }
            if self.copies.iter().any(|(copy, _)| copy.starts_with(&place)) {
                self.places.push(place);
            }
        }
        let lacks_folder = |s: &&Session| !old.join(SESSIONS).join(&s.agent_group_id).join(&s.id).is_dir();
        let missing = taken.sessions.iter().filter(lacks_folder).count();
        if missing > 0 {
            let note = format!("{missing} sessions have no folder in the old install; they start empty");
            taken.report.notes.push(note);
        }
        Ok(account)
    }

    fn groups(&mut self, home: &Home, old: &Path, taken: &mut Taken) -> Result<Account> {
        let mut account = Account::new("groups/");
        for name in list(&old.join(GROUPS))? {
            let place = Path::new(GROUPS).join(&name);
            let known = taken.groups.iter().any(|group| group.folder == name);
            let to = home.group(&name);
            let fate = if !known && name != GLOBAL {
                Fate::Dropped(OF_NO_GROUP.to_owned())
            } else if !is_free(&to)? {
                let reason = format!("{} is there already", to.display());
                // What both have and belongs to nobody is the home's.
                if known { Fate::Refused(reason) } else { Fate::Dropped(reason) }
            } else {
                if known && old.join(&place).join("CLAUDE.md").exists() {
                    taken.report.notes.push(format!(
                        "groups/{name}/CLAUDE.md comes along as a file; instructions are read from {} now",
                        home.instructions().join(format!("{name}.md")).display()
                    ));
                }
                self.copies.push((place.clone(), Reader::Agents));
                self.places.push(place);
                Fate::Imported
            };
            account.enter(1, name, fate);
        }
        Ok(account)
    }
}

/// Copies in the home that are not in their places yet.
#[derive(Debug)]
pub struct Stage {
    home: PathBuf,
    folder: Scratch,
    /// What was moved in, and the permissions of the empty folder whose place it took.
    moved: Vec<(PathBuf, Option<fs::Permissions>)>,
}

impl Stage {
    /// An empty stage in the home.
    pub fn create(home: &Home) -> Result<Stage> {
        Ok(Stage { home: home.root().to_owned(), folder: Scratch::create(&home.data())?, moved: Vec::new() })
    }

    /// Copies what the plan says from the install at `old`, and converts the session folders.
    /// Returns what the owner should know of it.
    pub fn fill(&self, old: &Path, plan: &Plan) -> Result<Vec<String>> {
        let mut copier = Copier::default();
        let mut notes = Vec::new();
        for (folder, reader) in &plan.copies {
            let staged = self.folder.path.join(folder);
            staged.parent().map_or(Ok(()), fs::create_dir_all).context("cannot create folders in the stage")?;
            copier.copy(&old.join(folder), &staged, *reader)?;
            if *reader == Reader::Host {
                notes.extend(self.convert(folder).with_context(|| format!("cannot convert {}", folder.display()))?);
            }
        }
        if copier.left_out > 0 {
            notes.push(format!("{} links, sockets or devices were left out", copier.left_out));
        }
        Ok(notes)
    }

    /// Makes today's layout of a copied session folder, and ends the messages that its container had
    /// finished, so that none of them wakes anybody.
    fn convert(&self, folder: &Path) -> Result<Option<String>> {
        let dir = SessionDir::new(self.folder.path.join(folder));
        dir.prepare()?;
        let mut inbound = InboundDb::open(&dir, Durability::Normal)?;
        loop {
            let waiting = inbound.unfinished_ids()?;
            if waiting.is_empty() || !dir.outbound_db().exists() {
                return Ok(None);
            }
            let looked =
                recover_copy(&dir, &self.folder.path.join("recovery")).and_then(|db| db.read(|s| s.acks(&waiting)));
            let acks = match looked {
                Ok(acks) => acks,
                // Delivery will meet the same fault, and say it to the right person.
                Err(e) => return Ok(Some(format!("what the agent wrote in {} cannot be read: {e}", folder.display()))),
            };
            let finished = acks.into_iter().filter_map(|(id, status)| match status {
                AckStatus::Completed => Some((id, InStatus::Completed)),
                AckStatus::Failed => Some((id, InStatus::Failed)),
                AckStatus::Processing => None,
            });
            let finished: Vec<_> = finished.collect();
            if finished.is_empty() {
                return Ok(None);
            }
            inbound.write(|tx| finished.iter().try_for_each(|(id, status)| tx.finish(id, *status)))?;
        }
    }

    /// Moves everything to its place, which is free.
    /// On an error those that were moved are moved back with the stage.
    pub fn move_in(&mut self, plan: &Plan) -> Result<()> {
        for place in &plan.places {
            let to = self.home.join(place);
            let replaced = fs::symlink_metadata(&to).ok().map(|meta| meta.permissions());
            // It replaces an empty folder, and nothing else.
            fs::rename(self.folder.path.join(place), &to).with_context(|| format!("cannot make {}", to.display()))?;
            self.moved.push((place.clone(), replaced));
        }
        Ok(())
    }

    /// Everything stays where it is now.
    pub fn keep(mut self) {
        self.moved.clear();
    }

    fn undo(&mut self) -> io::Result<()> {
        while let Some((place, replaced)) = self.moved.pop() {
            let to = self.home.join(&place);
            fs::rename(&to, self.folder.path.join(&place))?;
            if let Some(permissions) = replaced {
                fs::create_dir(&to)?;
                fs::set_permissions(&to, permissions)?;
            }
        }
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Err(e) = self.undo() {
            log::warn!("An import left folders behind home={} error={e}", self.home.display());
        }
    }
}

/// Whether a folder may be put there: nothing is, or an empty folder.
pub fn is_free(place: &Path) -> Result<bool> {
    let look = || match fs::symlink_metadata(place) {
        Ok(meta) => Ok(meta.is_dir() && fs::read_dir(place)?.next().is_none()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(e) => Err(e),
    };
    look().with_context(|| format!("cannot look at {}", place.display()))
}

/// The sorted names of the folders in a folder that may be missing; links and files are none.
fn list(folder: &Path) -> Result<Vec<String>> {
    let look = || -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                // Ours are ASCII; what is not names nothing that comes along.
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        names.sort();
        Ok(names)
    };
    match look() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.with_context(|| format!("cannot list {}", folder.display())),
    }
}
