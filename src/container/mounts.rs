//! Which folders of the machine an agent may be given besides its own: the owner's allow-list,
//! `~/.config/nanoclaw/mount-allowlist.json`, which lies outside everything a container can reach.
//!
//! ```json
//! {"allowedRoots": [{"path": "~/projects", "allowReadWrite": true}], "blockedPatterns": ["salary"]}
//! ```
//!
//! Invariants
//! - Without a list nothing is allowed. What it allows is judged by real paths: no link leads out of a root.
//! - Keys and credentials are refused whatever the list says, and so is what holds them, the home
//!   of this install, or the list itself.
//! - A malformed entry, in the list or in a group's configuration, disables itself and no other.
//!
//! Nothing is changed here; [`judge`] only looks.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::spec::{Access, Mount};
use crate::home::Home;
use crate::store::{ContainerConfig, Store, StoreError};
use nanoclaw_session::layout::CONTAINER_WORKSPACE;

/// Refused wherever they are part of a name in the path, in any case: keys, credentials, engines.
const BLOCKED: &str = "\
    .ssh .gnupg .gpg .aws .azure .gcloud .kube .docker .env .netrc .npmrc .pypirc .git-credentials .password-store \
    .secret credentials private_key id_rsa id_dsa id_ecdsa id_ed25519 docker.sock podman.sock";

/// Folders that are refused because of what lies directly in them: somebody's home, in short.
const TELLTALES: [&str; 8] = [".ssh", ".gnupg", ".aws", ".azure", ".kube", ".docker", ".netrc", ".password-store"];

/// Whole trees that belong to the machine.
const SYSTEM: [&str; 7] = ["/proc", "/sys", "/dev", "/run", "/var/run", "/etc", "/boot"];

/// Longest name of a mount. bytes
const MAX_NAME_BYTES: usize = 64;
/// Largest list that is read. bytes
const MAX_LIST_BYTES: u64 = 1 << 20;

/// What the owner allows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowList {
    roots: Vec<Root>,
    /// Lower case, beside the built-in ones.
    blocked: Vec<String>,
    /// Real paths that are neither mounted nor in what is.
    protected: Vec<PathBuf>,
    /// What in the list is malformed, and off.
    pub problems: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Root {
    /// A real path.
    path: PathBuf,
    access: Access,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawRoot {
    path: String,
    #[serde(default)]
    allow_read_write: bool,
}

/// An entry of `additional_mounts`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    host_path: String,
    /// The name below `/workspace/extra/`; by default that of the folder.
    container_path: Option<String>,
    #[serde(default = "yes")]
    readonly: bool,
}

fn yes() -> bool {
    true
}

/// Where the list lies for this user; `None` without a home folder.
pub fn list_path() -> Option<PathBuf> {
    user_home().map(|home| home.join(".config/nanoclaw/mount-allowlist.json"))
}

fn user_home() -> Option<PathBuf> {
    std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from)
}

impl AllowList {
    /// Reads the list at `path`. Without a file nothing is allowed, and one that cannot be read
    /// allows nothing either. `home` is this install's, which is never mounted.
    pub fn load(path: &Path, home: &Path) -> AllowList {
        let list = match fs::metadata(path) {
            Ok(meta) if meta.len() > MAX_LIST_BYTES => Err(format!("it is larger than {MAX_LIST_BYTES} bytes")),
            Ok(_) => fs::read_to_string(path).map_err(|e| e.to_string()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok("{}".to_owned()),
            Err(e) => Err(e.to_string()),
        };
        let parsed = list.and_then(|text| serde_json::from_str::<Value>(&text).map_err(|e| e.to_string()));
        let mut allowed = AllowList::default();
        match parsed {
            Ok(value) => allowed.take(&value),
            Err(problem) => allowed.problems.push(problem),
        }
        let own = path.parent().unwrap_or(path);
        // A path that does not exist yet protects itself under the name it will have.
        allowed.protected = [home, own].iter().map(|p| p.canonicalize().unwrap_or_else(|_| p.to_path_buf())).collect();
        allowed
    }

    /// The entries of a part of the list that are understood; `None` when it is no list.
    fn entries<T>(&mut self, list: &Value, part: &str, parse: fn(&Value) -> Result<T, String>) -> Option<Vec<T>> {
        let Some(value) = list.get(part) else { return Some(Vec::new()) };
        let Some(entries) = value.as_array() else {
            self.problems.push(format!("{part} is no list"));
            return None;
        };
        let mut understood = Vec::new();
        for (n, entry) in entries.iter().enumerate() {
            match parse(entry) {
                Ok(entry) => understood.push(entry),
                Err(problem) => self.problems.push(format!("{part}, entry {}: {problem}", n + 1)),
            }
        }
        Some(understood)
    }

    fn take(&mut self, list: &Value) {
        self.roots = self.entries(list, "allowedRoots", parse_root).unwrap_or_default();
        match self.entries(list, "blockedPatterns", parse_pattern) {
            Some(patterns) => self.blocked = patterns,
            // What should be blocked is not known: nothing is allowed.
            None => self.roots.clear(),
        }
    }

    /// The pattern that blocks a real path.
    fn blocks(&self, real: &Path) -> Option<String> {
        let whole = real.to_string_lossy().to_lowercase();
        BLOCKED
            .split_whitespace()
            .chain(self.blocked.iter().map(String::as_str))
            .find(|pattern| whole.contains(pattern))
            .map(str::to_owned)
    }
}

fn parse_pattern(value: &Value) -> Result<String, String> {
    let text = value.as_str().map(str::trim).filter(|text| !text.is_empty());
    text.map(str::to_lowercase).ok_or_else(|| "no text".to_owned())
}

fn parse_root(value: &Value) -> Result<Root, String> {
    let raw = RawRoot::deserialize(value).map_err(|e| e.to_string())?;
    let path = absolute(&raw.path).ok_or_else(|| format!("{:?} is no absolute path", raw.path))?;
    let path = path.canonicalize().map_err(|e| format!("{}: {e}", path.display()))?;
    let access = if raw.allow_read_write { Access::ReadWrite } else { Access::ReadOnly };
    Ok(Root { path, access })
}

/// A path as people write it, with `~` for their home.
fn absolute(text: &str) -> Option<PathBuf> {
    let path = match text.strip_prefix('~') {
        Some("") => user_home()?,
        Some(rest) => user_home()?.join(rest.strip_prefix('/')?),
        None => PathBuf::from(text),
    };
    path.is_absolute().then_some(path)
}

/// Judges one entry of a group's `additional_mounts`, `{hostPath, containerPath?, readonly?}`. It
/// is writable only if it asks for that and its root allows it.
fn judge(entry: &Value, allowed: &AllowList) -> Result<Mount, String> {
    let entry = Entry::deserialize(entry).map_err(|e| format!("the entry is malformed: {e}"))?;
    let path = absolute(&entry.host_path).ok_or_else(|| format!("{:?} is no absolute path", entry.host_path))?;
    let looked = path.canonicalize().and_then(|real| Ok((fs::symlink_metadata(&real)?, real)));
    let (meta, real) = looked.map_err(|_| format!("{} is not there", path.display()))?;
    let refused = |why: &str| Err(format!("{} {why}", real.display()));
    if !meta.is_dir() && !meta.is_file() {
        return refused("is neither a folder nor a file");
    }
    if let Some(pattern) = allowed.blocks(&real) {
        return refused(&format!("is blocked by `{pattern}`"));
    }
    let touches = |other: &Path| real.starts_with(other) || other.starts_with(&real);
    if allowed.protected.iter().any(|other| touches(other)) || SYSTEM.iter().any(|other| touches(Path::new(other))) {
        return refused("is not for agents");
    }
    if let Some(found) = TELLTALES.iter().find(|name| fs::symlink_metadata(real.join(name)).is_ok()) {
        return refused(&format!("is blocked by `{found}`"));
    }
    let roots = allowed.roots.iter().filter(|root| real.starts_with(&root.path));
    // The closest root decides.
    let Some(root) = roots.max_by_key(|root| root.path.components().count()) else {
        return refused("is below no allowed root");
    };
    let name = match entry.container_path.as_deref() {
        Some(path) => path.strip_prefix("/workspace/extra/").unwrap_or(path).to_owned(),
        None => real.file_name().unwrap_or_default().to_string_lossy().into_owned(),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > MAX_NAME_BYTES || name.starts_with('.') || !name.chars().all(plain) {
        return Err(format!("{name:?} is no name for a mount: 1 to 64 of A-Z, a-z, 0-9, `.`, `_`, `-`"));
    }
    let access = if entry.readonly { Access::ReadOnly } else { root.access };
    Ok(Mount { source: real, target: format!("{CONTAINER_WORKSPACE}/extra/{name}"), access })
}

/// What a group's configuration asks for, judged by the owner's list: what is mounted, and why
/// something is not.
pub fn of_group(home: &Home, config: &ContainerConfig) -> (Vec<Mount>, Vec<String>) {
    if config.additional_mounts.is_empty() {
        return Default::default();
    }
    let Some(path) = list_path() else {
        return (Vec::new(), vec!["there is no allow-list: HOME is not set".to_owned()]);
    };
    let list = AllowList::load(&path, home.root());
    let (mounts, refused) = judge_all(&config.additional_mounts, &list);
    let ignored = list.problems.iter().map(|problem| format!("{}: {problem}", path.display()));
    (mounts, ignored.chain(refused).collect())
}

/// What is refused to any group, and why, each with the group's folder.
pub fn refused(store: &Store, home: &Home) -> Result<Vec<String>, StoreError> {
    let mut all = Vec::new();
    for group in store.agent_groups()? {
        let (_, refused) = of_group(home, &store.container_config(&group.id)?);
        all.extend(refused.iter().map(|reason| format!("{}: {reason}", group.folder)));
    }
    Ok(all)
}

/// Judges all entries: what is mounted, and which entry is refused and why. A name is given once,
/// and nothing is mounted that lies in what the agent may write: it could put a link in its place.
pub fn judge_all(entries: &[Value], allowed: &AllowList) -> (Vec<Mount>, Vec<String>) {
    let mut mounts: Vec<Mount> = Vec::new();
    let mut refused = Vec::new();
    for (n, entry) in entries.iter().enumerate() {
        match judge(entry, allowed) {
            Ok(mount) if mounts.iter().any(|other| other.target == mount.target) => {
                refused.push(format!("entry {}: another one is at {}", n + 1, mount.target));
            }
            Ok(mount) => mounts.push(mount),
            Err(reason) => refused.push(format!("entry {}: {reason}", n + 1)),
        }
    }
    let writable: Vec<PathBuf> =
        mounts.iter().filter(|m| m.access == Access::ReadWrite).map(|m| m.source.clone()).collect();
    mounts.retain(|mount| {
        let inside = writable.iter().any(|folder| mount.source != *folder && mount.source.starts_with(folder));
        if inside {
            refused.push(format!("{}: it lies in a folder the agent may write", mount.source.display()));
        }
        !inside
    });
    (mounts, refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    struct World {
        tmp: tempfile::TempDir,
    }

    impl World {
        fn new() -> World {
            let world = World { tmp: tempfile::tempdir().unwrap() };
            for folder in ["open/notes", "open/shut", "other", "home/data"] {
                fs::create_dir_all(world.path(folder)).unwrap();
            }
            world
        }

        /// Canonical, since a temporary folder may be a link.
        fn path(&self, name: &str) -> PathBuf {
            self.tmp.path().canonicalize().unwrap().join(name)
        }

        fn list(&self, text: &Value) -> AllowList {
            let path = self.path("config/list.json");
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text.to_string()).unwrap();
            AllowList::load(&path, &self.path("home"))
        }

        fn usual(&self) -> AllowList {
            self.list(&json!({
                "allowedRoots": [
                    {"path": self.path("open"), "allowReadWrite": true},
                    {"path": self.path("open/shut")},
                ],
                "blockedPatterns": ["Salary"],
            }))
        }

        fn judge(&self, path: &str) -> Result<Mount, String> {
            judge(&json!({"hostPath": self.path(path)}), &self.usual())
        }
    }

    fn refused(verdict: Result<Mount, String>, why: &str) -> bool {
        verdict.is_err_and(|reason| reason.contains(why))
    }

    #[test]
    fn a_folder_below_a_root_is_mounted_and_written_only_if_both_say_so() {
        let world = World::new();
        let read_only = world.judge("open/notes").unwrap();
        assert_eq!(read_only, Mount::read_only(world.path("open/notes"), "/workspace/extra/notes"));
        let ask = |path: &str| json!({"hostPath": world.path(path), "containerPath": "n-1", "readonly": false});
        let allowed = world.usual();
        assert_eq!(
            judge(&ask("open/notes"), &allowed).unwrap(),
            Mount::read_write(world.path("open/notes"), "/workspace/extra/n-1")
        );
        // The closer root has the say.
        assert_eq!(judge(&ask("open/shut"), &allowed).unwrap().access, Access::ReadOnly);
        assert_eq!(world.judge("other"), Err(format!("{} is below no allowed root", world.path("other").display())));
    }

    #[test]
    fn no_link_and_no_dots_lead_out_of_a_root() {
        let world = World::new();
        symlink(world.path("other"), world.path("open/link")).unwrap();
        let outside = format!("{} is below no allowed root", world.path("other").display());
        assert_eq!(world.judge("open/link"), Err(outside.clone()));
        assert_eq!(world.judge("open/../other"), Err(outside));
        assert!(refused(world.judge("open/gone"), "is not there"));
        // Nor does a root's name that another folder's begins with.
        fs::create_dir(world.path("open-not")).unwrap();
        assert!(refused(world.judge("open-not"), "is below no allowed root"));
    }

    #[test]
    fn keys_and_credentials_are_refused_whatever_the_list_says() {
        let world = World::new();
        for name in [".ssh", ".AWS", ".gnupg", ".env", ".env.local", "id_rsa", "my-credentials", "salary-2026"] {
            fs::create_dir(world.path("open").join(name)).unwrap();
            let verdict = world.judge(&format!("open/{name}"));
            assert!(refused(verdict, "is blocked by"), "{name}");
            fs::remove_dir(world.path("open").join(name)).unwrap();
        }
        symlink("/etc", world.path("open/config")).unwrap();
        assert!(refused(world.judge("open/config"), "is not for agents"));
        // Under another name, too.
        fs::create_dir(world.path(".ssh")).unwrap();
        symlink(world.path(".ssh"), world.path("open/harmless")).unwrap();
        assert!(refused(world.judge("open/harmless"), "is blocked by"));
        // And a folder that holds them.
        fs::create_dir_all(world.path("open/person/.ssh")).unwrap();
        assert!(refused(world.judge("open/person"), "is blocked by"));
        let _socket = UnixListener::bind(world.path("open/engine")).unwrap();
        assert!(refused(world.judge("open/engine"), "is neither a folder nor a file"));
    }

    #[test]
    fn neither_the_home_nor_the_list_nor_what_holds_them_is_mounted() {
        let world = World::new();
        let all = world.list(&json!({"allowedRoots": [{"path": "/", "allowReadWrite": true}]}));
        for path in ["home", "home/data", "config", ""] {
            let verdict = judge(&json!({"hostPath": world.path(path)}), &all);
            assert!(refused(verdict, "is not for agents"), "{path}");
        }
        for path in ["/", "/etc/ssl", "/proc/self", "/dev/shm"] {
            let verdict = judge(&json!({"hostPath": path}), &all);
            assert!(refused(verdict.clone(), "is not for agents") || refused(verdict, "is not there"), "{path}");
        }
        assert!(judge(&json!({"hostPath": world.path("other")}), &all).is_ok());
    }

    #[test]
    fn a_malformed_entry_disables_itself_and_no_other() {
        let world = World::new();
        let allowed = world.list(&json!({
            "allowedRoots": [7, {"path": "relative"}, {"path": "/does/not/exist"}, {"path": world.path("open")}],
            "blockedPatterns": ["", 3, "salary"],
        }));
        assert_eq!(allowed.problems.len(), 5, "{:?}", allowed.problems);
        let good = json!({"hostPath": world.path("open/notes")});
        let entries = [json!("text"), json!({"hostPath": "relative"}), good.clone(), json!({}), good];
        let (mounts, refused) = judge_all(&entries, &allowed);
        assert_eq!(mounts, [Mount::read_only(world.path("open/notes"), "/workspace/extra/notes")]);
        assert_eq!(refused.len(), 4, "{refused:?}");
    }

    #[test]
    fn without_a_list_or_with_an_unreadable_one_nothing_is_allowed() {
        let world = World::new();
        let entry = json!({"hostPath": world.path("open/notes")});
        let none = AllowList::load(&world.path("nowhere.json"), &world.path("home"));
        assert!(none.problems.is_empty() && judge(&entry, &none).is_err());
        fs::write(world.path("broken.json"), "{").unwrap();
        let broken = AllowList::load(&world.path("broken.json"), &world.path("home"));
        assert!(broken.problems.len() == 1 && judge(&entry, &broken).is_err());
        let vague = world.list(&json!({"allowedRoots": [{"path": world.path("open")}], "blockedPatterns": "salary"}));
        assert!(vague.problems.len() == 1 && judge(&entry, &vague).is_err());
    }

    #[test]
    fn a_mount_has_one_plain_name() {
        let world = World::new();
        for name in ["../x", "a/b", "", ".hidden", "..", "a,readonly=false", "/workspace/out"] {
            let entry = json!({"hostPath": world.path("open/notes"), "containerPath": name});
            assert!(refused(judge(&entry, &world.usual()), "is no name for a mount"), "{name}");
        }
    }

    #[test]
    fn nothing_is_mounted_that_lies_in_a_writable_mount() {
        let world = World::new();
        fs::create_dir(world.path("open/notes/inner")).unwrap();
        let outer = json!({"hostPath": world.path("open/notes"), "readonly": false});
        let inner = json!({"hostPath": world.path("open/notes/inner")});
        let (mounts, refused) = judge_all(&[inner, outer], &world.usual());
        assert_eq!(mounts.len(), 1);
        assert_eq!(refused.len(), 1);
    }

    #[test]
    fn what_is_refused_to_a_group_is_told_with_its_folder_and_reason() {
        let world = World::new();
        let home = Home::locate(Some(&world.path("home"))).unwrap();
        home.create().unwrap();
        let now = jiff::Timestamp::UNIX_EPOCH;
        let store = Store::open(&home.store(), now).unwrap();
        let group = |id: &str| crate::store::AgentGroup {
            id: id.into(),
            name: id.into(),
            folder: id.into(),
            agent_provider: None,
            created_at: now,
        };
        store.create_agent_group(&group("main")).unwrap();
        store.create_agent_group(&group("other")).unwrap();
        assert_eq!(super::refused(&store, &home).unwrap(), [""; 0]);
        let additional_mounts = vec![json!({"hostPath": "/does/not/exist"})];
        let config = ContainerConfig { additional_mounts, ..store.container_config("other").unwrap() };
        store.put_container_config(&config).unwrap();
        // The list of whoever runs this test may have faults of its own, which come first.
        let last = super::refused(&store, &home).unwrap().pop().unwrap();
        assert_eq!(last, "other: entry 1: /does/not/exist is not there");
    }
}
