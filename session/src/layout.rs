//! The session folder: where everything lies (drawn in docs/SESSION.md), and how a folder made by
//! NanoClaw v2 is converted to it. The host uses the type on the real path, the runner on
//! `/workspace`.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

/// Where a session folder is mounted in its container.
pub const CONTAINER_WORKSPACE: &str = "/workspace";
/// Name of the writable folder inside a session folder.
pub const OUT: &str = "out";
/// Name of the host's database.
pub const INBOUND_DB: &str = "inbound.db";
/// Name of the container's database.
pub const OUTBOUND_DB: &str = "outbound.db";

/// Longest folder name made of a message id; longer ids are cut and get a hash. bytes.
const MAX_FOLDER_NAME_BYTES: usize = 100;

/// Paths inside one session folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionDir {
    root: PathBuf,
}

impl SessionDir {
    /// The session folder at `root`. Nothing is touched.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        SessionDir { root: root.into() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }
    pub fn inbound_db(&self) -> PathBuf {
        self.root.join(INBOUND_DB)
    }
    /// The host's attachments for the message `id`.
    pub fn inbox(&self, id: &str) -> PathBuf {
        self.root.join("inbox").join(folder_name(id))
    }
    pub fn container_json(&self) -> PathBuf {
        self.root.join("container.json")
    }
    pub fn instructions(&self) -> PathBuf {
        self.root.join("CLAUDE.md")
    }
    /// What the agent wrote down for itself, in its group's folder (in the container only).
    pub fn memory(&self) -> PathBuf {
        self.root.join("agent").join("CLAUDE.local.md")
    }
    pub fn skills(&self) -> PathBuf {
        self.root.join("skills")
    }
    pub fn alive(&self) -> PathBuf {
        self.root.join("alive")
    }
    pub fn out(&self) -> PathBuf {
        self.root.join(OUT)
    }
    pub fn outbound_db(&self) -> PathBuf {
        self.out().join(OUTBOUND_DB)
    }
    /// The agent's files for its outbound message `id`.
    pub fn outbox(&self, id: &str) -> PathBuf {
        self.out().join("outbox").join(folder_name(id))
    }
    pub fn state(&self) -> PathBuf {
        self.out().join("state")
    }
    pub fn heartbeat(&self) -> PathBuf {
        self.out().join("heartbeat")
    }

    /// Creates what is missing of the folder, and converts a folder of the older layout (its
    /// `outbound.db`, `outbox` and `.heartbeat` at the root). Host only, and only while no
    /// container of this session runs. Idempotent; what was interrupted is completed, and nothing
    /// is lost by a failure: files are moved by rename.
    pub fn prepare(&self) -> io::Result<()> {
        create_dir(&self.root)?;
        for name in [OUT, "inbox", "skills", "agent", "global", "extra"] {
            create_dir(&self.root.join(name))?;
        }
        self.convert("outbound.db-journal", "outbound.db-journal")?;
        for (old, new) in [(OUTBOUND_DB, OUTBOUND_DB), ("outbox", "outbox"), (".heartbeat", "heartbeat")] {
            let old = self.convert(old, new)?;
            // Readers of the older layout follow it.
            if fs::symlink_metadata(&old).is_err() {
                symlink(Path::new(OUT).join(new), &old)?;
            }
        }
        create_dir(&self.out().join("outbox"))?;
        create_dir(&self.state())?;
        // Any container user must be able to open it for reading; nobody may write.
        match OpenOptions::new().write(true).create_new(true).mode(0o644).open(self.alive()) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
            _ => Ok(()),
        }
    }

    /// True after [`SessionDir::prepare`].
    pub fn is_prepared(&self) -> bool {
        self.state().is_dir() && self.alive().exists()
    }

    /// Moves `<root>/<old>`, returned, to `<root>/out/<new>` unless it is a symlink already.
    fn convert(&self, old: &str, new: &str) -> io::Result<PathBuf> {
        let old = self.root.join(old);
        match fs::symlink_metadata(&old) {
            Ok(meta) if !meta.is_symlink() => fs::rename(&old, self.out().join(new))?,
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        Ok(old)
    }
}

/// Creates a folder, or accepts a real one: a symlink in its place was planted by an agent of
/// the older layout, which could write here.
fn create_dir(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o755).create(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && fs::symlink_metadata(path)?.is_dir() => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => DirBuilder::new().recursive(true).mode(0o755).create(path),
        other => other,
    }
}

/// The rollback journal of the database at `path`: SQLite keeps it beside it.
pub fn journal_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-journal");
    name.into()
}

/// The folder name for a message id. Each unsafe byte becomes `%XX`, and an over-long name is cut
/// and gets a hash of the whole id, so different ids never share a folder.
pub fn folder_name(id: &str) -> String {
    let safe = |i, b: u8| b.is_ascii_alphanumeric() || b"-_:@".contains(&b) || (b == b'.' && i > 0);
    let folder_char = |(i, b)| if safe(i, b) { char::from(b).to_string() } else { format!("%{b:02X}") };
    let mut name: String = id.bytes().enumerate().map(folder_char).collect();
    if name.is_empty() {
        name.push('%');
    }
    if name.len() > MAX_FOLDER_NAME_BYTES {
        let hash = fnv1a_64(id.as_bytes());
        name.truncate(MAX_FOLDER_NAME_BYTES - 18);
        name.push_str(&format!("%-{hash:016x}"));
    }
    name
}

/// FNV-1a, 64 bit: a stable name for an over-long id (not a security boundary; see
/// <http://www.isthe.com/chongo/tech/comp/fnv/>).
pub fn fnv1a_64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &b| (hash ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// Makes a file name that came from outside safe to be joined to a folder: no separators, no
/// leading dots, no control characters, at most 120 bytes. `taken` says which names are used.
pub fn confined_file_name(name: &str, taken: impl Fn(&str) -> bool) -> String {
    const MAX_FILE_NAME_BYTES: usize = 120;
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let clean: String = last
        .chars()
        .map(|c| if c.is_control() || matches!(c, '"' | '<' | '>' | '|' | ':' | '*' | '?') { '_' } else { c })
        .collect();
    let clean = clean.trim_start_matches(['.', ' ', '-']);
    let (stem, extension) = match clean.rfind('.').filter(|&dot| dot > 0 && clean.len() - dot <= 13) {
        Some(dot) => clean.split_at(dot),
        None => (clean, ""),
    };
    let mut stem = if stem.is_empty() { "file" } else { stem }.to_owned();
    while stem.len() > MAX_FILE_NAME_BYTES - 20 {
        stem.pop();
    }
    let numbered = (2..).map(|n| format!("{stem}-{n}{extension}"));
    std::iter::once(format!("{stem}{extension}")).chain(numbered).find(|name| !taken(name)).expect("endless")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn folder_names_keep_safe_ids_and_confine_the_rest() {
        assert_eq!(folder_name("m-0:ag-bench"), "m-0:ag-bench");
        assert_eq!(folder_name("../etc/passwd"), "%2E.%2Fetc%2Fpasswd");
        assert_eq!(folder_name(".."), "%2E.");
        assert_eq!(folder_name(""), "%");
        assert_eq!(folder_name("$abc:matrix.org"), "%24abc:matrix.org");
    }

    proptest! {
        #[test]
        fn a_folder_name_is_one_component_and_unique(a in ".{0,200}", b in ".{0,200}") {
            let (fa, fb) = (folder_name(&a), folder_name(&b));
            prop_assert!(fa.len() <= MAX_FOLDER_NAME_BYTES);
            prop_assert_eq!(Path::new(&fa).components().count(), 1);
            prop_assert!(!fa.starts_with('.') && !fa.contains('/') && !fa.contains('\0'));
            prop_assert_eq!(a == b, fa == fb);
        }

        #[test]
        fn a_confined_file_name_is_one_plain_component(name in ".{0,300}") {
            let n = confined_file_name(&name, |_| false);
            prop_assert!(!n.is_empty() && n.len() <= 140);
            prop_assert_eq!(Path::new(&n).components().count(), 1);
            prop_assert!(!n.starts_with('.') && !n.contains('/') && !n.chars().any(char::is_control));
        }
    }

    #[test]
    fn duplicate_file_names_are_numbered() {
        let taken = ["a.txt".to_owned(), "a-2.txt".to_owned()];
        assert_eq!(confined_file_name("a.txt", |n| taken.iter().any(|t| t == n)), "a-3.txt");
        assert_eq!(confined_file_name("../../.ssh/authorized_keys", |_| false), "authorized_keys");
        assert_eq!(confined_file_name("...", |_| false), "file");
    }

    #[test]
    fn an_older_folder_is_converted_once_and_stays_readable_under_its_old_names() {
        let tmp = tempfile::tempdir().unwrap();
        let root = tmp.path().join("s1");
        fs::create_dir_all(root.join("outbox/m1")).unwrap();
        fs::write(root.join("outbound.db"), b"database").unwrap();
        fs::write(root.join("outbox/m1/f"), b"file").unwrap();
        fs::write(root.join(".heartbeat"), b"").unwrap();
        let dir = SessionDir::new(&root);
        assert!(!dir.is_prepared());
        for _ in 0..2 {
            dir.prepare().unwrap();
            assert!(dir.is_prepared());
            assert_eq!(fs::read(dir.outbound_db()).unwrap(), b"database");
            assert_eq!(fs::read(root.join("outbound.db")).unwrap(), b"database");
            assert_eq!(fs::read(dir.outbox("m1").join("f")).unwrap(), b"file");
            assert_eq!(fs::read_link(root.join(".heartbeat")).unwrap(), Path::new("out/heartbeat"));
        }
    }

    #[test]
    fn a_symlink_planted_where_a_folder_belongs_is_refused() {
        let tmp = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        symlink(elsewhere.path(), tmp.path().join("out")).unwrap();
        assert!(SessionDir::new(tmp.path()).prepare().is_err());
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_interrupted_conversion_is_completed() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = SessionDir::new(tmp.path());
        fs::create_dir(dir.out()).unwrap();
        fs::write(dir.outbound_db(), b"moved already").unwrap();
        fs::write(tmp.path().join(".heartbeat"), b"").unwrap();
        dir.prepare().unwrap();
        assert_eq!(fs::read(tmp.path().join("outbound.db")).unwrap(), b"moved already");
        assert!(dir.heartbeat().exists());
    }
}
