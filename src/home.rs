//! The home: one folder that holds everything an install owns, and the lock that makes its
//! daemon the only one.
//!
//! ```text
//! <home>/              0700
//!   .env               0600, settings
//!   data/v2.db         the central database
//!   data/v2-sessions/<agent group>/<session>/     session folders; <agent group>/.claude-shared
//!   data/cli.sock      the terminal's socket, 0600
//!   data/gateway/      the credential gateway's socket, mounted into containers
//!   data/nanoclaw.lock one host per home
//!   groups/<folder>/   an agent's own files;  groups/global/ shared, read-only for agents
//!   instructions/      the owner's instructions, per group
//!   logs/              nanoclaw.log, and the kept logs of containers
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nanoclaw_session::layout::SessionDir;
use rustix::fs::{FlockOperation, flock};

/// The settings file inside a home.
pub const ENV_FILE: &str = ".env";

/// How long another process may hold the home before that counts.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
/// How often the lock is tried meanwhile.
const LOCK_STEP: Duration = Duration::from_millis(50);

/// Paths of one install. Nothing is touched before [`Home::create`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    root: PathBuf,
}

impl Home {
    /// The home at `--home`, else `$NANOCLAW_HOME`, else `~/.nanoclaw`.
    pub fn locate(flag: Option<&Path>) -> Result<Home> {
        let root = match flag {
            Some(path) => path.to_owned(),
            None => match std::env::var_os("NANOCLAW_HOME").filter(|v| !v.is_empty()) {
                Some(path) => PathBuf::from(path),
                None => {
                    let user = std::env::var_os("HOME").filter(|v| !v.is_empty());
                    let user = user.context("no home: give --home DIR, or set NANOCLAW_HOME or HOME")?;
                    Path::new(&user).join(".nanoclaw")
                }
            },
        };
        // Docker wants absolute paths, and the folder may not exist yet.
        Ok(Home { root: std::path::absolute(root)? })
    }

    /// Creates the folders that are missing and closes the home to other users.
    pub fn create(&self) -> Result<()> {
        let private = |path: &Path| -> Result<()> {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .with_context(|| format!("cannot create {}", path.display()))
        };
        private(&self.root)?;
        fs::set_permissions(&self.root, fs::Permissions::from_mode(0o700))
            .with_context(|| format!("cannot close {} to other users", self.root.display()))?;
        let closed = [self.recovery(), self.logs(), self.instructions()];
        for folder in closed {
            private(&folder)?;
        }
        // These are mounted into containers, whose user is not ours: the home above is what is closed.
        for folder in [self.gateway_dir(), self.sessions(), self.groups(), self.group("global")] {
            private(&folder)?;
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
        }
        let env = self.env_file();
        if env.exists() {
            fs::set_permissions(&env, fs::Permissions::from_mode(0o600))
                .with_context(|| format!("cannot close {} to other users", env.display()))?;
        }
        Ok(())
    }

    pub fn root(&self) -> &Path {
        &self.root
    }
    pub fn data(&self) -> PathBuf {
        self.root.join("data")
    }
    pub fn env_file(&self) -> PathBuf {
        self.root.join(ENV_FILE)
    }
    pub fn store(&self) -> PathBuf {
        self.data().join("v2.db")
    }
    pub fn cli_socket(&self) -> PathBuf {
        self.data().join("cli.sock")
    }
    pub fn gateway_dir(&self) -> PathBuf {
        self.data().join("gateway")
    }
    /// Where copies of what killed containers left are rolled back.
    pub fn recovery(&self) -> PathBuf {
        self.data().join("recovery")
    }
    pub fn groups(&self) -> PathBuf {
        self.root.join("groups")
    }
    pub fn group(&self, folder: &str) -> PathBuf {
        self.groups().join(folder)
    }
    pub fn instructions(&self) -> PathBuf {
        self.root.join("instructions")
    }
    /// The owner's instructions for a group.
    pub fn instructions_of(&self, folder: &str) -> PathBuf {
        self.instructions().join(format!("{folder}.md"))
    }
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }
    pub fn log_file(&self) -> PathBuf {
        self.logs().join("nanoclaw.log")
    }
    /// Where the kept logs of a session's containers lie.
    pub fn container_logs(&self, session_id: &str) -> PathBuf {
        self.logs().join("containers").join(session_id)
    }
    fn sessions(&self) -> PathBuf {
        self.data().join("v2-sessions")
    }
    pub fn session(&self, agent_group_id: &str, session_id: &str) -> SessionDir {
        SessionDir::new(self.sessions().join(agent_group_id).join(session_id))
    }
    /// The group's own `.claude`, shared by its sessions.
    pub fn claude_state(&self, agent_group_id: &str) -> PathBuf {
        self.sessions().join(agent_group_id).join(".claude-shared")
    }
    /// Makes a group's folder; what is there from before stays.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn make_group(&self, folder: &str) -> Result<()> {
        let path = self.group(folder);
        let made = DirBuilder::new().recursive(true).mode(0o755).create(&path);
        made.with_context(|| format!("cannot create {}", path.display()))
    }

    /// Tells this install's containers from another's.
    pub fn install_id(&self) -> String {
        let canonical = self.root.canonicalize().unwrap_or_else(|_| self.root.clone());
        crate::id::short_hash(canonical.as_os_str().as_encoded_bytes())
    }
    fn lock_file(&self) -> PathBuf {
        self.data().join("nanoclaw.lock")
    }

    /// Takes the home for this process, until the lock is dropped.
    /// The error is [`Held`] when another process has it, and not only for a moment.
    pub fn lock(&self) -> Result<HomeLock> {
        let mut tries = LOCK_PATIENCE.as_millis() / LOCK_STEP.as_millis();
        loop {
            tries -= 1;
            match self.try_lock().context("cannot lock the home")? {
                Ok(lock) => return Ok(lock),
                // It may be a `status` that is just looking.
                Err(_) if tries > 0 => crate::thread::pause(LOCK_STEP),
                Err(held) => return Err(held.into()),
            }
        }
    }

    /// Whether a daemon holds the home, and its process id where that can be read. Does not
    /// disturb it.
    pub fn holder(&self) -> io::Result<Option<Held>> {
        let mut file = match File::open(self.lock_file()) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(None),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(Some(Held { pid: pid_in(&mut file)? })),
            Err(e) => Err(e.into()),
        }
    }

    fn try_lock(&self) -> io::Result<Result<HomeLock, Held>> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.lock_file())?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(Err(Held { pid: pid_in(&mut file)? })),
            Err(e) => return Err(e.into()),
        }
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Ok(HomeLock { _file: file }))
    }
}

/// Makes the socket at `path` with the permissions `mode`, replacing what an earlier life left there.
pub fn listen(path: &Path, mode: u32) -> Result<UnixListener> {
    let make = || {
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        Ok(listener)
    };
    make().with_context(|| format!("cannot open the socket {}", path.display()))
}

/// The process id in a lock file, where it can be read.
fn pid_in(file: &mut File) -> io::Result<Option<u32>> {
    let mut pid = String::new();
    file.read_to_string(&mut pid)?;
    Ok(pid.trim().parse().ok())
}

/// The home belongs to this process while this lives; the kernel frees it with the process.
#[derive(Debug)]
pub struct HomeLock {
    _file: File,
}

/// Another process holds the home; its id where it could be read.
#[derive(Debug, PartialEq, Eq)]
pub struct Held {
    pub pid: Option<u32>,
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let process = self.pid.map_or(String::new(), |pid| format!(" (process {pid})"));
        write!(f, "another nanoclaw{process} runs on this home; stop it first, or use another --home")
    }
}

impl std::error::Error for Held {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_private_and_taken_once() {
        let tmp = tempfile::tempdir().unwrap();
        let home = Home::locate(Some(&tmp.path().join("h"))).unwrap();
        home.create().unwrap();
        home.create().unwrap();
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(home.root()), mode(&home.data())), (0o700, 0o700));
        assert_eq!((mode(&home.gateway_dir()), mode(&home.group("global"))), (0o755, 0o755));
        let lock = home.lock().unwrap();
        let Held { pid } = home.lock().unwrap_err().downcast().unwrap();
        assert_eq!(pid, Some(std::process::id()));
        assert_eq!(home.holder().unwrap(), Some(Held { pid }));
        drop(lock);
        assert_eq!(home.holder().unwrap(), None);
        home.lock().unwrap();
    }
}
