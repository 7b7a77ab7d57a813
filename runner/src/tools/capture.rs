//! The output of a command: its two ends are kept for the model, all of it goes into a file.
//!
//! Written by the thread that drains the command's pipe, read by the tools. Where the disk takes no more, the last of
//! the output is still there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{id, time};

/// Most that is shown of either end of an output. bytes
const END_BYTES: usize = 15_000;
/// Most that is stored of one output. bytes
const MAX_FILE_BYTES: u64 = 50 * 1024 * 1024;
/// Old outputs that stay: with the one above, a bound of what they take on disk.
const MAX_OLD_FILES: usize = 20;

/// One command's output.
#[derive(Debug)]
pub struct Capture {
    path: PathBuf,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    /// None when none could be made.
    file: Option<File>,
    /// How much is in the file. bytes
    stored: u64,
    /// How much came. bytes
    total: u64,
    /// The last that came, up to twice [`END_BYTES`].
    tail: Vec<u8>,
}

impl Capture {
    /// A new, empty one with its file in `folder`, where old ones are removed.
    pub fn new(folder: &Path) -> Capture {
        // Names sort by age.
        let path = folder.join(format!("bash-{}-{}.txt", time::now().as_millisecond(), id::random()));
        let file = prune(folder)
            .and_then(|()| OpenOptions::new().read(true).write(true).create_new(true).open(&path))
            // A full disk is no reason to run no command: it may be the one that makes room.
            .inspect_err(|e| eprintln!("no file for a command's output in {}: {e}", folder.display()));
        Capture { path, kept: Mutex::new(Kept { file: file.ok(), stored: 0, total: 0, tail: Vec::new() }) }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What came: all of it, or its two ends and where the rest is.
    pub fn text(&self) -> String {
        let kept = self.kept();
        let total = to_usize(kept.total);
        let mut text = vec![0; to_usize(kept.stored).min(END_BYTES)];
        // A file that cannot be read back is as good as one that could not be written.
        let head = kept.file.as_ref().map_or(0, |file| file.read_at(&mut text, 0).unwrap_or(0));
        text.truncate(head);
        let tail = END_BYTES.min(total - head);
        if total > head + tail {
            let part =
                if kept.stored < kept.total { format!("the first {} bytes are", kept.stored) } else { "all is".into() };
            let (path, left_out) = (self.path.display(), total - head - tail);
            text.extend(format!("\n[... {left_out} bytes are left out here; {part} in {path} ...]\n").bytes());
        }
        text.extend_from_slice(&kept.tail[kept.tail.len() - tail..]);
        String::from_utf8_lossy(&text).into_owned()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the file if [`Capture::text`] has shown all that is in it.
    pub fn forget_if_short(&self) {
        if self.kept().total <= 2 * END_BYTES as u64 {
            // One file too many, until it is pruned.
            let _kept = fs::remove_file(&self.path);
        }
    }
}

impl Write for &Capture {
    fn write(&mut self, new: &[u8]) -> io::Result<usize> {
        let mut kept = self.kept();
        let room = to_usize(MAX_FILE_BYTES - kept.stored).min(new.len());
        // What follows a gap is not stored: the file holds the beginning, as it is said to.
        let store = |file: &File| kept.stored == kept.total && file.write_all_at(&new[..room], kept.stored).is_ok();
        if kept.file.as_ref().is_some_and(store) {
            kept.stored += room as u64;
        }
        kept.total += new.len() as u64;
        kept.tail.extend_from_slice(new);
        if kept.tail.len() > 2 * END_BYTES {
            let surplus = kept.tail.len() - END_BYTES;
            kept.tail.drain(..surplus);
        }
        Ok(new.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn prune(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort_unstable_by(|a, b| b.cmp(a));
    for path in paths.iter().skip(MAX_OLD_FILES) {
        // The agent may have put a folder here; what stays costs room and nothing else.
        let _stays = fs::remove_file(path);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_leaves_its_ends_and_a_file_up_to_the_cap() {
        let folder = tempfile::tempdir().unwrap();
        let capture = Capture::new(folder.path());
        for i in 0..7_000_000 {
            (&capture).write_all(format!("{i:8}\n").as_bytes()).unwrap();
        }
        let text = capture.text();
        assert!(text.starts_with("       0\n       1\n") && text.ends_with(" 6999998\n 6999999\n"));
        assert!(text.contains("[... 62970000 bytes are left out here; the first 52428800 bytes are in"), "{text}");
        assert_eq!(fs::metadata(capture.path()).unwrap().len(), MAX_FILE_BYTES);
        assert!(capture.kept().tail.capacity() < 8 * END_BYTES);
    }

    #[test]
    fn an_output_that_is_shown_whole_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let capture = Capture::new(folder.path());
        let text: String = (0..2_900).map(|i| format!("line {i:4}\n")).collect();
        (&capture).write_all(text.as_bytes()).unwrap();
        assert_eq!(capture.text(), text);
        capture.forget_if_short();
        assert!(!capture.path().exists());
    }

    #[test]
    fn without_a_file_the_end_is_still_there() {
        let capture = Capture::new(Path::new("/proc/no/such"));
        (&capture).write_all(&[b'x'; 100_000]).unwrap();
        (&capture).write_all(b"end").unwrap();
        let text = capture.text();
        assert!(text.starts_with("\n[... 85003 bytes") && text.ends_with("xend"), "{}", &text[..200]);
    }

    #[test]
    fn old_outputs_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        for i in 0..50 {
            fs::write(folder.path().join(format!("bash-1{i:02}-0.txt")), b"old").unwrap();
        }
        fs::create_dir(folder.path().join("a-folder")).unwrap();
        let capture = Capture::new(folder.path());
        let left = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!((left, capture.path().exists()), (MAX_OLD_FILES + 2, true));
        assert!(folder.path().join("bash-149-0.txt").exists() && !folder.path().join("bash-100-0.txt").exists());
    }
}
