//! One install: a fresh home, the settings, and the daemon on it, started and stopped as often as
//! a test likes. What it leaves in the engine goes with it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use nanoclaw::home::Home;
use nanoclaw::setup::wire_terminal;
use nanoclaw::store::{AgentGroup, ContainerRun, Session, Store};
use nanoclaw_session::layout::SessionDir;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::docker::{self, Events};
use super::lines::Lines;
use super::process::{self, Output, command};
use super::wait::{DEADLINE, now, wait_for, wait_until};
use super::{Client, binaries, sqlite};

/// Installs that live at once, each with a container as a rule.
const MAX_HOSTS: usize = 4;
/// Longest time from the start to the line `ready`.
const READY: Duration = Duration::from_secs(20);

/// Longest wait, at the end, for the engine's programs that the daemon had started.
const LAST_CALLS: Duration = Duration::from_secs(10);

/// See the module.
pub struct Host {
    home: Home,
    settings: BTreeMap<String, String>,
    daemon: Option<Daemon>,
    /// What is put before the daemon's own command.
    wrapper: Vec<OsString>,
    /// The log of the daemons before this one.
    earlier: Vec<String>,
    events: Events,
    tmp: TempDir,
    _permit: Permit,
}

struct Daemon {
    child: Child,
    stdout: Lines,
    log: Lines,
    command: String,
}

impl Host {
    /// A home with nothing in it; the demo provider, unless set otherwise.
    #[track_caller]
    pub fn new() -> Host {
        docker::must_work();
        binaries::folder();
        let permit = Permit::take();
        // Short: the path of a socket has little room.
        let tmp = tempfile::Builder::new().prefix("nanoclaw-it-").tempdir().expect("a temporary folder");
        let home = Home::locate(Some(&tmp.path().join("home"))).expect("a home");
        fs::create_dir(home.root()).expect("the home");
        let events = Events::of(&home.install_id());
        let mut settings = BTreeMap::from([("TZ".to_owned(), "UTC".to_owned())]);
        if !binaries::folder().starts_with(env!("CARGO_MANIFEST_DIR")) {
            // Elsewhere the binaries do not find what lies in the source tree by themselves.
            settings.insert("NANOCLAW_SHARED".to_owned(), concat!(env!("CARGO_MANIFEST_DIR"), "/container").to_owned());
        }
        Host { home, settings, daemon: None, wrapper: Vec::new(), earlier: Vec::new(), events, tmp, _permit: permit }
    }

    /// A home that was just started.
    #[track_caller]
    pub fn started() -> Host {
        let mut host = Host::new();
        host.start();
        host
    }

    // ---- settings and commands

    /// Sets a variable of the environment of everything that is started from now on.
    pub fn set(&mut self, name: &str, value: impl AsRef<str>) {
        self.settings.insert(name.to_owned(), value.as_ref().to_owned());
    }

    pub fn unset(&mut self, name: &str) {
        self.settings.remove(name);
    }

    /// Lets the daemon be started by something else, which gets its command as arguments.
    pub fn wrap(&mut self, words: &[&str]) {
        self.wrapper = words.iter().map(OsString::from).collect();
    }

    /// The `nanoclaw` command on this home.
    pub fn nanoclaw(&self, args: &[&str]) -> Command {
        self.command(command(binaries::folder().join("nanoclaw")), args)
    }

    fn command(&self, mut command: Command, args: &[&str]) -> Command {
        command.args(args).env_clear().current_dir(self.tmp.path());
        for inherited in ["PATH", "DOCKER_HOST", "XDG_RUNTIME_DIR"] {
            command.envs(std::env::var_os(inherited).map(|value| (inherited, value)));
        }
        command.env("HOME", self.tmp.path()).env("NANOCLAW_HOME", self.home.root()).envs(&self.settings);
        command
    }

    /// Runs `nanoclaw` to its end.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Output {
        process::run(&mut self.nanoclaw(args), "")
    }

    /// Runs `nanoclaw ... --json`: the document it printed. It must end well.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        let output = self.run(&[args, &["--json"]].concat());
        assert_eq!(output.code, Some(0), "nanoclaw {args:?}: {output:?}");
        serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}: {}", output.stdout))
    }

    /// `nanoclaw chat TEXT`: what it printed. It must end well.
    #[track_caller]
    pub fn chat(&self, text: &str) -> String {
        let output = self.run(&["chat", text]);
        assert_eq!(output.code, Some(0), "nanoclaw chat {text:?}: {output:?}");
        output.stdout
    }

    /// A client of the socket that listens already.
    #[track_caller]
    pub fn client(&self) -> Client {
        let mut client = Client::connect(&self.home.cli_socket());
        client.listen();
        client
    }

    /// Makes an agent group whose chat at the terminal is `local:<name>`; the daemon need not run, but must have once.
    #[track_caller]
    pub fn add_agent(&self, name: &str) -> AgentGroup {
        let text = || name.to_owned();
        let group = AgentGroup { id: text(), name: text(), folder: text(), agent_provider: None, created_at: now() };
        let store = self.store();
        store.create_agent_group(&group).expect("a new group");
        wire_terminal(&store, &format!("local:{name}"), &group).expect("a new chat");
        group
    }

    // ---- the daemon

    /// Starts the daemon and waits for its line.
    #[track_caller]
    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// The same, with arguments after `run`.
    #[track_caller]
    pub fn start_with(&mut self, args: &[&str]) {
        assert!(self.daemon.is_none(), "it runs already");
        let program = binaries::folder().join("nanoclaw").into_os_string();
        let mut words = self.wrapper.iter().cloned().chain([program, "run".into()]);
        let mut command = self.command(command(words.next().expect("a program")), &[]);
        command.args(words).args(args);
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = spawned.unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let stdout = Lines::of(child.stdout.take().expect("piped"));
        let log = Lines::of(child.stderr.take().expect("piped"));
        self.daemon = Some(Daemon { child, stdout: stdout.clone(), log: log.clone(), command: format!("{command:?}") });
        if let Err(lines) = stdout.wait(READY, |lines| lines.iter().any(|l| l.starts_with("ready ")).then_some(())) {
            panic!("the daemon did not become ready; it said {lines:?} {:#?}", log.all());
        }
    }

    /// The daemon's process id.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.running().child.id()
    }

    #[track_caller]
    fn running(&self) -> &Daemon {
        self.daemon.as_ref().expect("the daemon runs")
    }

    /// Everything this daemon printed on stdout.
    pub fn stdout(&self) -> Vec<String> {
        self.running().stdout.all()
    }

    /// Ends the daemon without giving it a chance.
    #[track_caller]
    pub fn kill9(&mut self) {
        self.end(Signal::KILL, DEADLINE);
    }

    /// Asks the daemon to stop; how it ended.
    ///
    /// # Panics
    /// When it takes longer than ten seconds.
    #[track_caller]
    pub fn sigterm(&mut self) -> ExitStatus {
        self.end(Signal::TERM, Duration::from_secs(10))
    }

    #[track_caller]
    fn end(&mut self, signal: Signal, limit: Duration) -> ExitStatus {
        let mut daemon = self.daemon.take().expect("the daemon runs");
        kill_process(Pid::from_child(&daemon.child), signal).expect("kill");
        let Some(status) = process::wait(&mut daemon.child, limit) else {
            self.daemon = Some(daemon);
            panic!("the daemon did not end within {limit:?} of {signal:?}");
        };
        // The stream ends with the process, so this is all there will be.
        self.earlier.extend(daemon.log.wait(DEADLINE, |_| None::<()>).unwrap_err());
        status
    }

    // ---- its log

    /// Lines this daemon logged.
    pub fn log(&self) -> Vec<String> {
        self.running().log.all()
    }

    /// Lines this daemon logged that hold `text`.
    pub fn logged(&self, text: &str) -> usize {
        self.log().iter().filter(|l| l.contains(text)).count()
    }

    /// Waits until this daemon has logged `text` for the `n`-th time, from 1.
    #[track_caller]
    pub fn wait_log(&self, text: &str, n: usize) -> String {
        let found = self.running().log.wait(DEADLINE, |l| l.iter().filter(|l| l.contains(text)).nth(n - 1).cloned());
        found.unwrap_or_else(|_| panic!("the host did not log {text:?} {n} times"))
    }

    /// # Panics
    /// When this daemon complained about anything.
    #[track_caller]
    pub fn assert_no_complaint(&self) {
        let complaints: Vec<String> =
            self.log().into_iter().filter(|l| l.contains(" ERROR ") || l.contains(" WARN ")).collect();
        assert!(complaints.is_empty(), "the host complained: {complaints:#?}");
    }

    // ---- its files

    pub fn home(&self) -> &Home {
        &self.home
    }

    /// A folder of the test's own, gone with the host.
    pub fn scratch(&self) -> &Path {
        self.tmp.path()
    }

    /// The central database; the daemon need not run, but must have once.
    #[track_caller]
    pub fn store(&self) -> Store {
        Store::open_existing(&self.home.store(), now()).expect("the central database")
    }

    /// The only session.
    #[track_caller]
    pub fn session(&self) -> Session {
        let sessions = self.store().active_sessions().expect("sessions");
        let [session] = sessions.try_into().expect("exactly one session");
        session
    }

    pub fn dir_of(&self, session: &Session) -> SessionDir {
        self.home.session(&session.agent_group_id, &session.id)
    }

    /// The platform id of a session's chat.
    #[track_caller]
    pub fn chat_of(&self, session: &Session) -> String {
        let id = session.messaging_group_id.as_ref().expect("a chat");
        self.store().messaging_group(id).expect("the chat").platform_id
    }

    /// The session of the agent group with this id, once there is one.
    #[track_caller]
    pub fn session_of(&self, agent: &str) -> Session {
        let sessions = || self.store().active_sessions().expect("sessions").into_iter();
        wait_for(&format!("a session of {agent}"), &[], || sessions().find(|s| s.agent_group_id == agent))
    }

    /// The only session's folder.
    #[track_caller]
    pub fn dir(&self) -> SessionDir {
        self.dir_of(&self.session())
    }

    /// The only session's container runs, the oldest first.
    #[track_caller]
    pub fn runs(&self) -> Vec<ContainerRun> {
        let mut runs = self.store().container_runs_of(&self.session().id, 100).expect("container runs");
        runs.reverse();
        runs
    }

    /// The `n`-th container run of the only session, from 1, once its end is recorded.
    #[track_caller]
    pub fn wait_run_ended(&self, n: usize) -> ContainerRun {
        wait_for(&format!("the end of container run {n}"), &[], || {
            self.runs().into_iter().nth(n - 1).filter(|run| run.ended_at.is_some())
        })
    }

    /// `(id, status)` of the only session's inbound rows, in order.
    #[track_caller]
    pub fn inbound(&self) -> Vec<(String, String)> {
        statuses(&self.dir())
    }

    /// Waits until the only session has this many inbound rows and all are completed.
    #[track_caller]
    pub fn wait_completed(&self, rows: usize) {
        let dir = self.dir();
        wait_for(&format!("{rows} completed messages"), &[dir.root()], || {
            let statuses = statuses(&dir);
            (statuses.len() == rows && statuses.iter().all(|(_, s)| s == "completed")).then_some(())
        });
    }

    /// Texts of the only session's outbound rows, in order; empty before there are any.
    #[track_caller]
    pub fn replies(&self) -> Vec<String> {
        let sql = "SELECT COALESCE(json_extract(content, '$.text'), content) FROM messages_out
             WHERE kind <> 'system' ORDER BY seq";
        sqlite::column(&self.dir().outbound_db(), sql).unwrap_or_default()
    }

    // ---- its containers

    /// What the engine tells about this install's containers.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Names of this install's containers, ended ones too.
    #[track_caller]
    pub fn containers(&self) -> Vec<String> {
        docker::labelled(&self.label())
    }

    /// The only container there is.
    #[track_caller]
    pub fn container(&self) -> String {
        let containers = self.containers();
        let [container] = <[String; 1]>::try_from(containers).expect("exactly one container");
        container
    }

    /// The label of this install's containers.
    pub fn label(&self) -> String {
        format!("nanoclaw.install={}", self.home.install_id())
    }

    fn report(&self) {
        let heading = |text: &str| eprintln!("---- {text}");
        if let Some(daemon) = &self.daemon {
            heading("command");
            eprintln!("{}", daemon.command);
        }
        heading("home");
        list(self.home.root(), self.home.root());
        heading("host log");
        for line in self.earlier.iter().chain(&self.daemon.as_ref().map(|d| d.log.all()).unwrap_or_default()) {
            eprintln!("{line}");
        }
        heading("events of containers");
        for event in self.events.all() {
            eprintln!("{} {} {}", event.at, event.action, event.container);
        }
        for container in docker::attempt(&["ps", "-aq", "--filter", &format!("label={}", self.label())]).stdout.lines()
        {
            heading(&format!("log of container {container}"));
            let log = docker::attempt(&["logs", "--timestamps", container]);
            eprintln!("{}{}", log.stdout, log.stderr);
        }
        for path in files_below(&self.home.logs().join("containers")) {
            heading(&format!("kept log {}", path.display()));
            eprintln!("{}", fs::read_to_string(&path).unwrap_or_default());
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            let calls = process::descendants(daemon.child.id());
            // It is ours; ended already is as good.
            let _ = daemon.child.kill();
            let _ = daemon.child.wait();
            // A `docker run` outlives it, and would bring a container that nobody removes.
            wait_until(LAST_CALLS, &[], || {
                calls.iter().all(|pid| process::read(*pid, "cmdline").is_empty()).then_some(())
            });
        }
        if std::thread::panicking() {
            self.report();
        }
        let left = docker::attempt(&["ps", "-aq", "--filter", &format!("label={}", self.label())]).stdout;
        if !left.trim().is_empty() {
            let ids: Vec<&str> = left.split_whitespace().collect();
            docker::attempt(&[&["rm", "--force", "--volumes"], &ids[..]].concat());
        }
    }
}

fn statuses(dir: &SessionDir) -> Vec<(String, String)> {
    let rows = sqlite::query(&dir.inbound_db(), "SELECT id, status FROM messages_in ORDER BY seq").unwrap_or_default();
    rows.into_iter().filter_map(|row| <[String; 2]>::try_from(row).ok()).map(|[id, status]| (id, status)).collect()
}

/// Every file below a folder.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files_below(&path)),
            Ok(kind) if kind.is_file() => found.push(path),
            _ => {}
        }
    }
    found
}

fn list(root: &Path, folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        let name = path.strip_prefix(root).unwrap_or(&path).display();
        eprintln!("{:o} {:>5} {:>8} {name}", meta.mode(), meta.uid(), meta.len());
        if meta.is_dir() {
            list(root, &path);
        }
    }
}

/// Leave to have an install, of [`MAX_HOSTS`].
struct Permit;

static HOSTS: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

impl Permit {
    fn take() -> Permit {
        let count = HOSTS.0.lock().expect("no holder panics");
        *HOSTS.1.wait_while(count, |n| *n >= MAX_HOSTS).expect("no holder panics") += 1;
        Permit
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *HOSTS.0.lock().expect("no holder panics") -= 1;
        HOSTS.1.notify_one();
    }
}
