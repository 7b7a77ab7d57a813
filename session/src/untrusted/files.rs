//! Files of the container that are no databases: attachments, and a dead container's journal.
//! They are opened by exact name; no container folder is ever listed.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, open, openat, openat2};
use rustix::io::Errno;

use super::{UntrustedError, out_folder};
use crate::layout::{SessionDir, folder_name};

/// Largest file an agent may send. bytes.
pub const MAX_OUTBOX_FILE_BYTES: u64 = 100 << 20;

/// Opens the file `name` that the agent sends with its message `message_id`, and tells its size
/// in bytes. The container can still write it: read no more than that size.
///
/// # Errors
/// [`UntrustedError::Hostile`] when the name is no plain file name, or what it names is no regular
/// file below `out/` or too large; [`UntrustedError::Again`] while it is leased or being moved.
pub fn open_outbox_file(dir: &SessionDir, message_id: &str, name: &str) -> Result<(File, u64), UntrustedError> {
    let mut components = Path::new(name).components();
    // Compared as a whole: `a/` and `a/.` are one component, too.
    if !matches!((components.next(), components.next()), (Some(Component::Normal(c)), None) if c == name) {
        return Err(UntrustedError::hostile(format_args!("{name:?} is no file name")));
    }
    let path = Path::new("outbox").join(folder_name(message_id)).join(name);
    let (file, bytes) = open_regular(&out_folder(dir)?, &path)?;
    if bytes > MAX_OUTBOX_FILE_BYTES {
        return Err(UntrustedError::hostile(format_args!("{name:?} has {bytes} bytes")));
    }
    Ok((file, bytes))
}

/// Opens a regular file below the canonical folder `out`, following no symlink and waiting for
/// nothing.
pub(super) fn open_regular(out: &Path, relative: &Path) -> Result<(File, u64), UntrustedError> {
    let out = open(out, FOLDER, Mode::empty()).map_err(fault)?;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let file = match openat2(&out, relative, FILE, Mode::empty(), beneath) {
        // A kernel before 5.6, or a seccomp filter of that age.
        Err(Errno::NOSYS | Errno::PERM) => step_by_step(out, relative),
        result => result,
    }
    .map_err(fault)?;
    let stat = fstat(&file).map_err(fault)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(UntrustedError::hostile("no regular file"));
    }
    Ok((file.into(), stat.st_size.unsigned_abs()))
}

const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const FILE: OFlags =
    OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The same without `openat2`: each component is opened relative to the one before.
fn step_by_step(mut folder: OwnedFd, relative: &Path) -> rustix::io::Result<OwnedFd> {
    let mut components = relative.components().peekable();
    while let Some(component) = components.next() {
        let Component::Normal(name) = component else { return Err(Errno::XDEV) };
        let flags = if components.peek().is_some() { FOLDER } else { FILE };
        folder = openat(&folder, name, flags, Mode::empty())?;
    }
    Ok(folder)
}

fn fault(errno: Errno) -> UntrustedError {
    match errno {
        Errno::NOTDIR => UntrustedError::NotThere,
        Errno::LOOP | Errno::XDEV => UntrustedError::hostile("a symlink"),
        // A socket.
        Errno::NXIO => UntrustedError::hostile("no regular file"),
        other => io::Error::from(other).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::untrusted::tests::{fifo, folder, lease};
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    fn with_outbox() -> (tempfile::TempDir, SessionDir, PathBuf) {
        let (tmp, dir) = folder();
        let outbox = dir.outbox("m1");
        fs::create_dir_all(&outbox).unwrap();
        (tmp, dir, outbox)
    }

    fn is_hostile(result: Result<(File, u64), UntrustedError>) -> bool {
        matches!(result, Err(UntrustedError::Hostile(_)))
    }

    #[test]
    fn a_file_is_found_by_its_exact_name() {
        let (_tmp, dir, outbox) = with_outbox();
        fs::write(outbox.join("a.txt"), "hello").unwrap();
        let (mut file, bytes) = open_outbox_file(&dir, "m1", "a.txt").unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), bytes), ("hello", 5));
        assert_eq!(open_outbox_file(&dir, "m1", "b.txt").unwrap_err(), UntrustedError::NotThere);
        assert_eq!(open_outbox_file(&dir, "m2", "a.txt").unwrap_err(), UntrustedError::NotThere);
    }

    #[test]
    fn a_name_that_is_a_path_is_refused() {
        let (_tmp, dir, outbox) = with_outbox();
        fs::write(outbox.join("f"), "x").unwrap();
        fs::write(dir.out().join("outbox/secret"), "x").unwrap();
        let absolute = outbox.join("f");
        for name in ["", ".", "..", "../secret", "f/", "./f", "f/.", "a/../f", absolute.to_str().unwrap()] {
            assert!(is_hostile(open_outbox_file(&dir, "m1", name)), "{name:?}");
        }
    }

    #[test]
    fn a_symlink_anywhere_below_out_is_refused() {
        let (tmp, dir, outbox) = with_outbox();
        let elsewhere = tmp.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        fs::write(elsewhere.join("f"), "secret").unwrap();
        symlink(elsewhere.join("f"), outbox.join("f")).unwrap();
        assert!(is_hostile(open_outbox_file(&dir, "m1", "f")));
        symlink(&elsewhere, dir.outbox("m2")).unwrap();
        assert!(is_hostile(open_outbox_file(&dir, "m2", "f")));
        fs::remove_dir_all(dir.out().join("outbox")).unwrap();
        fs::create_dir(elsewhere.join("m1")).unwrap();
        fs::write(elsewhere.join("m1/f"), "secret").unwrap();
        symlink(&elsewhere, dir.out().join("outbox")).unwrap();
        assert!(is_hostile(open_outbox_file(&dir, "m1", "f")));
    }

    #[test]
    fn without_openat2_symlinks_are_refused_as_well() {
        let (tmp, dir, outbox) = with_outbox();
        fs::write(outbox.join("f"), "x").unwrap();
        symlink(tmp.path(), dir.outbox("m2")).unwrap();
        symlink(outbox.join("f"), outbox.join("g")).unwrap();
        let open = |path: &str| {
            let out = rustix::fs::open(dir.out(), FOLDER, Mode::empty()).unwrap();
            step_by_step(out, Path::new(path)).map(|_| ())
        };
        assert_eq!(open("outbox/m1/f"), Ok(()));
        assert_eq!(open("outbox/m1/g"), Err(Errno::LOOP));
        assert_eq!(open("outbox/m2/alive"), Err(Errno::NOTDIR));
        assert_eq!(open("outbox/m1/../m1/f"), Err(Errno::XDEV));
    }

    #[test]
    fn what_is_no_regular_file_is_refused_without_waiting() {
        let (_tmp, dir, outbox) = with_outbox();
        fifo(&outbox.join("fifo"));
        fs::create_dir(outbox.join("folder")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(outbox.join("socket")).unwrap();
        for name in ["fifo", "folder", "socket"] {
            assert!(is_hostile(open_outbox_file(&dir, "m1", name)), "{name}");
        }
        fs::write(outbox.join("leased"), "x").unwrap();
        let _lease = lease(&outbox.join("leased"));
        assert_eq!(open_outbox_file(&dir, "m1", "leased").unwrap_err(), UntrustedError::Again);
    }

    #[test]
    fn an_oversized_file_is_refused() {
        let (_tmp, dir, outbox) = with_outbox();
        let file = File::create(outbox.join("big")).unwrap();
        file.set_len(MAX_OUTBOX_FILE_BYTES).unwrap();
        assert!(open_outbox_file(&dir, "m1", "big").is_ok());
        file.set_len(MAX_OUTBOX_FILE_BYTES + 1).unwrap();
        assert!(is_hostile(open_outbox_file(&dir, "m1", "big")));
    }
}
