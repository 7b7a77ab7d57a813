//! Forgetting: what is done with for long enough goes, a bounded piece at a time. Worker thread.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};
use jiff::{SignedDuration, Timestamp};
use nanoclaw_session::inbound::{Durability, InboundDb};
use nanoclaw_session::layout::SessionDir;

/// How long what is done with is kept.
pub const KEPT: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Rows of one session that go in one pass.
const MAX_ROWS_PER_PASS: u32 = 500;
/// Folders that go in one pass.
const MAX_FOLDERS_PER_PASS: usize = 100;
/// A folder younger than this may belong to a message that is being written.
const MIN_ORPHAN_AGE: SignedDuration = SignedDuration::from_hours(24);

/// Forgets a session's old messages, with their attachments, and attachments without a message.
pub fn session(dir: &SessionDir, now: Timestamp) -> Result<()> {
    let mut db = InboundDb::open(dir, Durability::Normal)?;
    let pruned = db.write(|tx| tx.prune(now - KEPT, MAX_ROWS_PER_PASS))?;
    for id in &pruned {
        remove(&dir.inbox(id))?;
    }
    let kept = db.ids()?.iter().filter_map(|id| dir.inbox(id).file_name().map(OsString::from)).collect();
    let orphans = folders_but(&dir.root().join("inbox"), &kept, now)?;
    if pruned.len() + orphans > 0 {
        log::info!("Pruned a session folder={} messages={} orphans={orphans}", dir.root().display(), pruned.len());
    }
    Ok(())
}

/// Removes the old folders below `parent` that are not in `kept`; returns how many.
pub fn folders_but(parent: &Path, kept: &HashSet<OsString>, now: Timestamp) -> Result<usize> {
    let entries = match fs::read_dir(parent) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(0),
        entries => entries.with_context(|| format!("read {}", parent.display()))?,
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry?;
        let modified = Timestamp::try_from(entry.metadata()?.modified()?)?;
        if !kept.contains(&entry.file_name()) && now.duration_since(modified) > MIN_ORPHAN_AGE {
            remove(&entry.path())?;
            removed += 1;
        }
        if removed == MAX_FOLDERS_PER_PASS {
            break;
        }
    }
    Ok(removed)
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e).with_context(|| format!("remove {}", folder.display())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nanoclaw_session::row::{Address, InStatus, NewMessageIn, Trigger};
    use rustix::fs::{AtFlags, CWD, Timestamps, utimensat};
    use rustix::time::Timespec;

    fn now() -> Timestamp {
        crate::time::now()
    }

    fn make_old(path: &Path) {
        let time = Timespec { tv_sec: now().as_second() - 10 * 24 * 3600, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, path, &times, AtFlags::empty()).unwrap();
    }

    #[test]
    fn what_is_done_and_old_goes_and_everything_else_stays() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = SessionDir::new(tmp.path());
        dir.prepare().unwrap();
        let row = |id: &str, days: i64, trigger| {
            let at = now() - SignedDuration::from_hours(24 * days);
            NewMessageIn { trigger, ..NewMessageIn::chat(id.into(), at, Address::default(), "{}".into()) }
        };
        let mut db = InboundDb::open(&dir, Durability::Normal).unwrap();
        db.write(|tx| {
            for (id, days, trigger) in [
                ("old-done", 40, Trigger::Wake),
                ("old-waiting", 40, Trigger::Wake),
                ("old-context", 40, Trigger::Context),
                ("new-done", 20, Trigger::Wake),
                ("new-context", 20, Trigger::Context),
                ("last", 40, Trigger::Wake),
            ] {
                tx.insert(&row(id, days, trigger))?;
            }
            for id in ["old-done", "new-done", "last"] {
                tx.finish(id, InStatus::Completed)?;
            }
            Ok(())
        })
        .unwrap();
        for id in ["old-done", "old-waiting", "orphan", "young-orphan"] {
            fs::create_dir_all(dir.inbox(id)).unwrap();
            fs::write(dir.inbox(id).join("photo.jpg"), "x").unwrap();
            if id != "young-orphan" {
                make_old(&dir.inbox(id));
            }
        }
        session(&dir, now()).unwrap();
        assert_eq!(db.ids().unwrap(), ["old-waiting", "new-done", "new-context", "last"], "the highest seq stays");
        let left = |id: &str| dir.inbox(id).exists();
        assert_eq!(["old-done", "old-waiting", "orphan", "young-orphan"].map(left), [false, true, false, true]);
    }
}
