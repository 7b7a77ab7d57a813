//! Copies folders of the old install. What lies there was written by agents, so it is walked by
//! descriptor, one name at a time: no symbolic link is followed, and only files and folders are
//! opened. The source is only ever opened for reading.
//!
//! Failure: the first file that cannot be copied, or the limit that was passed, ends the copy;
//! what was copied is the caller's to remove.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Timestamps, futimens, open, openat, readlinkat, statat};

/// Largest file. bytes
const MAX_FILE_BYTES: u64 = 2 << 30;
/// Most bytes in one import.
const MAX_TOTAL_BYTES: u64 = 32 << 30;
/// Most files and folders in one import.
const MAX_ENTRIES: u64 = 1_000_000;
/// Deepest folder.
const MAX_DEPTH: u32 = 64;

/// What becomes of symbolic links. None is ever followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// Made again as they are: the host does not look into that folder.
    Keep,
    LeaveOut,
}

/// One import's copies, and what they may still cost.
#[derive(Debug, Default)]
pub struct Copier {
    entries: u64,
    bytes: u64,
    /// Links, sockets and devices that did not come along.
    pub left_out: u64,
}

/// Opens a folder, unless a link stands in its place.
///
/// # Errors
/// The system's; `None` when there is no such folder.
pub fn open_folder(path: &Path) -> io::Result<Option<OwnedFd>> {
    match open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Ok(folder) => Ok(Some(folder)),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// The names in a folder, sorted.
///
/// # Errors
/// The system's.
pub fn names(folder: impl AsFd) -> io::Result<Vec<std::ffi::OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = std::ffi::OsStr::from_bytes(entry.file_name().to_bytes()).to_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

impl Copier {
    /// Copies the folder `from` to `to`, which must not exist. Every copied file has at least
    /// `readable` as its mode, a folder also the search bits that go with it.
    ///
    /// # Errors
    /// The first file that cannot be copied, by path; or a limit.
    pub fn copy(&mut self, from: &Path, to: &Path, links: Links, readable: u32) -> Result<()> {
        let folder = open_folder(from)
            .and_then(|folder| folder.ok_or_else(|| io::ErrorKind::NotFound.into()))
            .with_context(|| format!("cannot open {}", from.display()))?;
        self.copy_folder(folder, from, to, &Manner { links, readable }, 0)
    }

    fn copy_folder(&mut self, from: OwnedFd, shown: &Path, to: &Path, manner: &Manner, depth: u32) -> Result<()> {
        if depth > MAX_DEPTH {
            bail!("{} is deeper than {MAX_DEPTH} folders", shown.display());
        }
        DirBuilder::new().mode(0o700).create(to).with_context(|| format!("cannot create {}", to.display()))?;
        for name in names(&from).with_context(|| format!("cannot list {}", shown.display()))? {
            let (shown, to) = (shown.join(&name), to.join(&name));
            self.copy_entry(&from, &name, &shown, &to, manner, depth)
                .with_context(|| format!("cannot copy {}", shown.display()))?;
        }
        let mode = Mode::from_raw_mode(rustix::fs::fstat(&from)?.st_mode).bits() & 0o777;
        let search = manner.readable | (manner.readable & 0o444) >> 2;
        fs::set_permissions(to, Permissions::from_mode(mode | search))?;
        Ok(())
    }

    fn copy_entry(
        &mut self,
        from: &OwnedFd,
        name: &std::ffi::OsStr,
        shown: &Path,
        to: &Path,
        manner: &Manner,
        depth: u32,
    ) -> Result<()> {
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            bail!("there are more than {MAX_ENTRIES} files");
        }
        let found = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let folder = openat(from, name, flags, Mode::empty())?;
                self.copy_folder(folder, shown, to, manner, depth + 1)
            }
            FileType::RegularFile => self.copy_file(from, name, to, manner.readable),
            FileType::Symlink if manner.links == Links::Keep => {
                let target = readlinkat(from, name, Vec::new())?;
                Ok(symlink(PathBuf::from(std::ffi::OsStr::from_bytes(target.to_bytes())), to)?)
            }
            _ => {
                self.left_out += 1;
                Ok(())
            }
        }
    }

    fn copy_file(&mut self, from: &OwnedFd, name: &std::ffi::OsStr, to: &Path, readable: u32) -> Result<()> {
        // NONBLOCK: what was a file a moment ago may be a pipe by now.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let source = File::from(openat(from, name, flags, Mode::empty())?);
        let meta = rustix::fs::fstat(&source)?;
        if FileType::from_raw_mode(meta.st_mode) != FileType::RegularFile {
            bail!("it is no file any more");
        }
        let mode = (Mode::from_raw_mode(meta.st_mode).bits() & 0o777) | readable;
        let mut target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
        let bytes = io::copy(&mut (&source).take(MAX_FILE_BYTES + 1), &mut target)?;
        self.bytes += bytes;
        if bytes > MAX_FILE_BYTES {
            bail!("it is larger than {} MiB", MAX_FILE_BYTES >> 20);
        }
        if self.bytes > MAX_TOTAL_BYTES {
            bail!("all files together are larger than {} MiB", MAX_TOTAL_BYTES >> 20);
        }
        target.set_permissions(Permissions::from_mode(mode))?;
        let (atime, mtime) = (meta.st_atime, meta.st_mtime);
        let spec = |s, ns: u64| rustix::fs::Timespec { tv_sec: s, tv_nsec: i64::try_from(ns).unwrap_or(0) };
        let times = Timestamps {
            last_access: spec(atime, meta.st_atime_nsec),
            last_modification: spec(mtime, meta.st_mtime_nsec),
        };
        Ok(futimens(&target, &times)?)
    }
}

/// How a tree is copied.
struct Manner {
    links: Links,
    /// Bits every file gets.
    readable: u32,
}
