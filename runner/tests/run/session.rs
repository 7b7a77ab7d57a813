//! A session folder in a temporary directory, the host's part of it, and the real runner on it.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nanoclaw_session::config::ContainerConfig;
use nanoclaw_session::content::ChatIn;
use nanoclaw_session::inbound::{Durability, InboundDb, InboundTx, Intake};
use nanoclaw_session::layout::SessionDir;
use nanoclaw_session::row::{
    AckStatus, Address, Audience, Destination, DestinationType, InKind, NewMessageIn, Trigger,
};
use nanoclaw_session::watch::DirWatch;
use rusqlite::{Connection, OpenFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// Longest wait for anything.
const DEADLINE: Duration = Duration::from_secs(30);

pub struct Session {
    tmp: tempfile::TempDir,
    pub dir: SessionDir,
    watch: DirWatch,
}

/// A row of `messages_out`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub id: String,
    pub seq: i64,
    pub in_reply_to: Option<String>,
    pub address: Address,
    pub content: serde_json::Value,
}

impl Reply {
    pub fn text(&self) -> &str {
        self.content["text"].as_str().unwrap_or_default()
    }
}

#[allow(clippy::disallowed_methods)] // the tests' clock
pub fn now() -> Timestamp {
    Timestamp::now()
}

pub fn chat(id: &str) -> Address {
    Address { channel_type: Some("cli".into()), platform_id: Some(id.into()), thread_id: None }
}

pub fn destination(name: &str, chat_id: &str) -> Destination {
    Destination {
        name: name.into(),
        display_name: None,
        kind: DestinationType::Channel,
        address: chat(chat_id),
        agent_group_id: None,
    }
}

/// A message from the session's own chat.
pub fn message(id: &str, text: &str) -> NewMessageIn {
    let content = ChatIn { text: text.into(), sender: Some("Ann".into()), ..ChatIn::default() };
    NewMessageIn::chat(id.into(), now(), chat("home"), content.to_json())
}

impl Session {
    /// A session of the demo provider, whose own and only chat is `home`.
    pub fn new() -> Session {
        let session = Session::at(|_| ());
        session.configure(|_| ());
        session.host(|tx| {
            tx.replace_destinations(&[destination("home", "home")])?;
            tx.set_routing(&chat("home"))
        });
        session
    }

    /// A session folder that `fill` fills before it is prepared.
    pub fn at(fill: impl FnOnce(&std::path::Path)) -> Session {
        let tmp = tempfile::tempdir().unwrap();
        let root = tmp.path().join("session");
        fs::create_dir(&root).unwrap();
        fill(&root);
        let dir = SessionDir::new(root);
        dir.prepare().unwrap();
        let watch = DirWatch::new(&dir.out()).unwrap();
        Session { tmp, dir, watch }
    }

    /// A path outside of the session folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.tmp.path().join(name)
    }

    pub fn configure(&self, change: impl FnOnce(&mut ContainerConfig)) {
        let mut config = ContainerConfig::load(&self.dir).unwrap_or_default();
        change(&mut config);
        config.store(&self.dir).unwrap();
    }

    /// A write of the host.
    pub fn host<T>(&self, f: impl FnOnce(&InboundTx<'_>) -> rusqlite::Result<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        // The runner may be looking; the real host parks the write and comes back.
        let mut db = loop {
            match InboundDb::open(&self.dir, Durability::Acknowledged) {
                Err(e) if nanoclaw_session::inbound::is_transient(&e) && Instant::now() < deadline => {}
                other => break other.unwrap(),
            }
        };
        db.write(f).unwrap()
    }

    pub fn insert(&self, message: &NewMessageIn) -> i64 {
        match self.host(|tx| tx.insert(message)) {
            Intake::Stored { seq, .. } => seq,
            Intake::Absorbed { id } => panic!("{id} was there already"),
        }
    }

    pub fn say(&self, id: &str, text: &str) -> i64 {
        self.insert(&message(id, text))
    }

    pub fn context(&self, id: &str, text: &str) {
        self.insert(&NewMessageIn { trigger: Trigger::Context, ..message(id, text) });
    }

    pub fn say_on_wake(&self, id: &str, text: &str) {
        self.insert(&NewMessageIn { audience: Audience::FreshContainer, ..message(id, text) });
    }

    pub fn stop(&self, id: &str) {
        let content = nanoclaw_session::content::Control::Stop.to_json();
        self.insert(&NewMessageIn { kind: InKind::System, content, ..message(id, "") });
    }

    pub fn start(&self) -> Runner {
        self.start_with(&[])
    }

    #[allow(clippy::disallowed_methods)] // the real binary is what is tested
    pub fn start_with(&self, environment: &[(&str, &str)]) -> Runner {
        let log = File::options().create(true).append(true).open(self.path("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_nanoclaw-runner"))
            .args(["run", "--workspace"])
            .arg(self.dir.root())
            .env_clear()
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Runner { child }
    }

    fn outbound(&self) -> Option<Connection> {
        let db = Connection::open_with_flags(self.dir.outbound_db(), OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
        db.busy_timeout(Duration::from_secs(5)).unwrap();
        let ready = db.query_row("SELECT COUNT(*) FROM sqlite_master", [], |r| r.get::<_, i64>(0));
        match ready {
            // A runner was killed inside a commit: the next one rolls it back.
            Err(e) if nanoclaw_session::inbound::is_transient(&e) => None,
            ready => (ready.unwrap() > 0).then_some(db),
        }
    }

    /// What is sent to people.
    pub fn replies(&self) -> Vec<Reply> {
        self.rows("kind <> 'system'")
    }

    /// What is asked of the host.
    pub fn actions(&self) -> Vec<Reply> {
        self.rows("kind = 'system'")
    }

    fn rows(&self, which: &str) -> Vec<Reply> {
        let Some(db) = self.outbound() else { return Vec::new() };
        let sql = format!(
            "SELECT id, seq, in_reply_to, channel_type, platform_id, thread_id, content FROM messages_out
             WHERE {which} ORDER BY seq"
        );
        let mut statement = db.prepare(&sql).unwrap();
        let rows = statement.query_map([], |r| {
            Ok(Reply {
                id: r.get(0)?,
                seq: r.get(1)?,
                in_reply_to: r.get(2)?,
                address: Address { channel_type: r.get(3)?, platform_id: r.get(4)?, thread_id: r.get(5)? },
                content: serde_json::from_str(&r.get::<_, String>(6)?).unwrap(),
            })
        });
        rows.unwrap().map(Result::unwrap).collect()
    }

    pub fn texts(&self) -> Vec<String> {
        self.replies().iter().map(|r| r.text().to_owned()).collect()
    }

    pub fn ack(&self, id: &str) -> Option<AckStatus> {
        self.ack_with_time(id).map(|(status, _)| status)
    }

    /// The acknowledgement and when it was written.
    pub fn ack_with_time(&self, id: &str) -> Option<(AckStatus, String)> {
        let sql = "SELECT status, status_changed FROM processing_ack WHERE message_id = ?1";
        let row = self.outbound()?.query_row(sql, [id], |r| Ok((r.get(0)?, r.get(1)?)));
        rusqlite::OptionalExtension::optional(row).unwrap()
    }

    pub fn continuation(&self, provider: &str) -> Option<String> {
        let sql = "SELECT value FROM session_state WHERE key = ?1";
        let key = nanoclaw_session::outbound::continuation_key(provider);
        let row = self.outbound()?.query_row(sql, [key], |r| r.get(0));
        rusqlite::OptionalExtension::optional(row).unwrap()
    }

    pub fn current_tool(&self) -> Option<String> {
        self.outbound()?.query_row("SELECT current_tool FROM container_state", [], |r| r.get(0)).ok()?
    }

    pub fn silent_until(&self) -> Option<Timestamp> {
        let sql = "SELECT silent_until FROM container_state";
        let text: Option<String> = self.outbound()?.query_row(sql, [], |r| r.get(0)).ok()?;
        nanoclaw_session::time::parse_utc(&text?)
    }

    /// Waits for something the runner does; each change in `out/` is a reason to check again.
    #[track_caller]
    pub fn wait_for<T>(&self, what: &str, mut check: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(value) = check() {
                return value;
            }
            assert!(Instant::now() < deadline, "no {what}\n{}", self.describe());
            let timeout = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
            poll(&mut [PollFd::from_borrowed_fd(self.watch.as_fd(), PollFlags::IN)], Some(&timeout)).unwrap();
            self.watch.drain("outbound.db").unwrap();
        }
    }

    #[track_caller]
    pub fn wait_ack(&self, id: &str, status: AckStatus) {
        self.wait_for(&format!("{status:?} of {id}"), || (self.ack(id) == Some(status)).then_some(()));
    }

    /// What a failing test prints.
    fn describe(&self) -> String {
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        let files: Vec<_> = fs::read_dir(self.dir.out()).unwrap().map(|f| f.unwrap().file_name()).collect();
        format!("replies: {:#?}\nout/: {files:?}\nlog:\n{log}", self.replies())
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

pub struct Runner {
    child: Child,
}

impl Runner {
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// SIGKILL, and gone.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn terminate(&self) {
        kill_process(self.pid(), Signal::TERM).unwrap();
    }

    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for the end; the exit code, -1 for a signal.
    #[track_caller]
    pub fn exit_code(mut self) -> i32 {
        let pidfd = pidfd_open(self.pid(), PidfdFlags::empty()).unwrap();
        let timeout = Timespec { tv_sec: DEADLINE.as_secs() as i64, tv_nsec: 0 };
        let ended = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)).unwrap();
        assert_eq!(ended, 1, "the runner does not end");
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        // A test that ended early leaves nothing behind; errors mean that it is gone already.
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _gone = self.child.kill();
            let _reaped = self.child.wait();
        }
    }
}
