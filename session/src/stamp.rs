//! Whether a look at a database is worth it: one `lstat` instead of an open.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use jiff::Timestamp;

use crate::layout::journal_of;

/// A file changed less than this before may change again within the same tick of the file
/// system's clock. s.
const SETTLED_AFTER_S: i64 = 2;

/// What the file system says of a database. Two equal stamps that are settled mean that
/// nothing was written between them. The container cannot forge that: it sets its files' times,
/// but not the time of that change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Device, inode and size in bytes; `None`: there is no such file.
    file: Option<[u64; 3]>,
    modified: (i64, i64),
    changed: (i64, i64),
    /// A writer is at work, or died at it.
    has_journal: bool,
}

impl Stamp {
    /// Takes the stamp of a database; a missing file has one too.
    pub fn take(path: &Path) -> io::Result<Stamp> {
        let has_journal = lstat(&journal_of(path))?.is_some();
        let mut stamp = Stamp { file: None, modified: (0, 0), changed: (0, 0), has_journal };
        if let Some(meta) = lstat(path)? {
            stamp.file = Some([meta.dev(), meta.ino(), meta.size()]);
            stamp.modified = (meta.mtime(), meta.mtime_nsec());
            stamp.changed = (meta.ctime(), meta.ctime_nsec());
        }
        Ok(stamp)
    }

    /// The stamp in one word, to be compared with a later one; `None` while a journal is there.
    pub fn word(&self) -> Option<String> {
        let Stamp { file, modified, changed, has_journal } = self;
        (!has_journal).then(|| format!("{file:?}{modified:?}{changed:?}").replace(' ', ""))
    }

    /// False when another look is due even if the next stamp is the same: the file is younger
    /// than two seconds, or a journal is there.
    pub fn is_settled(&self, now: Timestamp) -> bool {
        !self.has_journal && (self.file.is_none() || self.changed.0 + SETTLED_AFTER_S < now.as_second())
    }
}

fn lstat(path: &Path) -> io::Result<Option<Metadata>> {
    match path.symlink_metadata() {
        Ok(meta) => Ok(Some(meta)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::SessionDir;
    use std::fs::{self, File, FileTimes};
    use std::time::{Duration, SystemTime};

    fn folder() -> (tempfile::TempDir, SessionDir) {
        let tmp = tempfile::tempdir().unwrap();
        let dir = SessionDir::new(tmp.path());
        dir.prepare().unwrap();
        (tmp, dir)
    }

    fn changed_at(stamp: &Stamp) -> Timestamp {
        Timestamp::from_second(stamp.changed.0).unwrap()
    }

    #[test]
    fn a_stamp_differs_after_any_write_and_settles_after_two_seconds() {
        let (_tmp, dir) = folder();
        let missing = Stamp::take(&dir.outbound_db()).unwrap();
        assert!(missing.is_settled(Timestamp::UNIX_EPOCH));
        fs::write(dir.outbound_db(), "a").unwrap();
        let first = Stamp::take(&dir.outbound_db()).unwrap();
        assert_ne!(first, missing);
        assert_eq!(first, Stamp::take(&dir.outbound_db()).unwrap());
        let written = changed_at(&first);
        assert!(!first.is_settled(written));
        assert!(!first.is_settled(written + Duration::from_secs(2)));
        assert!(first.is_settled(written + Duration::from_secs(3)));
        fs::write(dir.outbound_db(), "ab").unwrap();
        assert_ne!(first, Stamp::take(&dir.outbound_db()).unwrap());
    }

    #[test]
    fn a_file_with_a_set_back_time_is_not_settled() {
        let (_tmp, dir) = folder();
        let file = File::create(dir.outbound_db()).unwrap();
        file.set_times(FileTimes::new().set_modified(SystemTime::UNIX_EPOCH)).unwrap();
        let stamp = Stamp::take(&dir.outbound_db()).unwrap();
        assert!(!stamp.is_settled(changed_at(&stamp)));
    }

    #[test]
    fn a_replaced_file_has_another_stamp() {
        let (_tmp, dir) = folder();
        fs::write(dir.outbound_db(), "a").unwrap();
        let first = Stamp::take(&dir.outbound_db()).unwrap();
        fs::write(dir.out().join("new"), "a").unwrap();
        fs::rename(dir.out().join("new"), dir.outbound_db()).unwrap();
        assert_ne!(first, Stamp::take(&dir.outbound_db()).unwrap());
    }

    #[test]
    fn a_journal_is_never_settled() {
        let (_tmp, dir) = folder();
        fs::write(dir.outbound_db(), "a").unwrap();
        let quiet = Stamp::take(&dir.outbound_db()).unwrap();
        fs::write(journal_of(&dir.outbound_db()), "").unwrap();
        let stamp = Stamp::take(&dir.outbound_db()).unwrap();
        assert_ne!(stamp, quiet);
        assert!(!stamp.is_settled(changed_at(&stamp) + Duration::from_secs(3600)));
    }
}
