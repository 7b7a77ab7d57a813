//! Copies folders of the old install. What lies there was written by agents, so it is walked by
//! descriptor, one name at a time: no symbolic link is followed, and only files and folders are
//! opened. The source is only ever opened for reading.
//!
//! Failure: the first file that cannot be copied, or the limit that was passed, ends the copy;
//! what was copied is the caller's to remove.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, FileTimes, Permissions};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, readlinkat, statat, symlink};

/// Most bytes in one import.
const MAX_TOTAL_BYTES: u64 = 32 << 30;
/// What a file or folder counts beside its content, so that they are not without number either. bytes
const ENTRY_BYTES: u64 = 4 << 10;

/// Who looks into a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// The host, and the container's user from a mount: everybody may read, and links are left out.
    Host,
    /// Agents only: links are made again as they are.
    Agents,
}

/// One import's copies.
#[derive(Debug, Default)]
pub struct Copier {
    bytes: u64,
    /// Links, sockets and devices that did not come along.
    pub left_out: u64,
}

impl Copier {
    /// Copies the folder `from` to `to`, which must not exist.
    pub fn copy(&mut self, from: &Path, to: &Path, reader: Reader) -> Result<()> {
        self.entry(CWD, from.as_os_str(), to, reader).with_context(|| format!("cannot copy {}", from.display()))
    }

    fn entry(&mut self, folder: BorrowedFd<'_>, name: &OsStr, to: &Path, reader: Reader) -> Result<()> {
        let found = FileType::from_raw_mode(statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode);
        match found {
            FileType::Directory | FileType::RegularFile => {}
            FileType::Symlink if reader == Reader::Agents => {
                return Ok(symlink(readlinkat(folder, name, Vec::new())?, to)?);
            }
            _ => {
                self.left_out += 1;
                return Ok(());
            }
        }
        // NONBLOCK: what was a file a moment ago may be a pipe by now.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let source = File::from(openat(folder, name, flags, Mode::empty())?);
        let meta = source.metadata()?;
        self.bytes += ENTRY_BYTES + meta.len();
        if self.bytes > MAX_TOTAL_BYTES {
            bail!("all files together are larger than {} GiB", MAX_TOTAL_BYTES >> 30);
        }
        let readable = match reader {
            Reader::Host => 0o644,
            Reader::Agents => 0o600,
        };
        let mut mode = (meta.permissions().mode() & 0o777) | readable;
        if meta.is_dir() {
            mode |= (readable & 0o444) >> 2;
            fs::create_dir(to)?;
            for name in names(&source)? {
                let within = || format!("in it, {}", Path::new(&name).display());
                self.entry(source.as_fd(), &name, &to.join(&name), reader).with_context(within)?;
            }
        } else if meta.is_file() {
            let mut target = File::create_new(to)?;
            io::copy(&mut (&source).take(meta.len()), &mut target)?;
            target.set_times(FileTimes::new().set_accessed(meta.accessed()?).set_modified(meta.modified()?))?;
        } else {
            bail!("it is no file any more");
        }
        Ok(fs::set_permissions(to, Permissions::from_mode(mode))?)
    }
}

fn names(folder: &File) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}
