//! The CLI's process: how it is started, spoken to and ended.

use std::fs::{self, DirBuilder};
use std::io::{self, BufReader, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use nanoclaw_session::config::{ContainerConfig, McpServer};
use nanoclaw_session::layout::SessionDir;
use serde_json::{Map, Value, json};

use super::protocol::{self, Line};
use super::relay::{self, LimitedUntil};
use crate::gateway::{Gateway, SILENCE_TIMEOUT};
use crate::id;
use crate::process::{self, Child};
use crate::provider::STACK_BYTES;

const PROGRAM: &str = "claude";
/// Tools that are removed make no sense here, and their descriptions would only cost. What has a counterpart of ours
/// stays, to be refused with a hint.
const ARGUMENTS: [&str; 10] = [
    "-p",
    "--input-format=stream-json",
    "--output-format=stream-json",
    "--verbose",
    "--include-partial-messages",
    "--permission-mode=bypassPermissions",
    "--setting-sources=user",
    "--system-prompt-snapshot=off",
    "--strict-mcp-config",
    "--disallowedTools=Monitor,Workflow,ListAgents,ReportFindings",
];
const ENVIRONMENT: [(&str, &str); 4] = [
    // The container is the sandbox.
    ("IS_SANDBOX", "1"),
    ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
    ("CLAUDE_CODE_STARTUP_FAILURE_RESULTS", "1"),
    // Longest call of a tool of the group's MCP servers.
    ("MCP_TOOL_TIMEOUT", "600000"),
];
/// Ours take their own time.
const OWN_CALL_TIMEOUT_MS: u32 = 24 * 3_600 * 1_000;
/// In the agent's home, which ends with the container: what belongs on no command line, and the key not into the
/// environment of all that the agent runs either.
const FOLDER: &str = ".nanoclaw";
const KEY: &str = ".nanoclaw/key";
const SYSTEM_PROMPT: &str = ".nanoclaw/system-prompt.md";
/// How long the CLI waits for what a hook of ours says.
const HOOK_TIMEOUT_SECONDS: u32 = 60;
/// Lines it may be ahead of us.
const MAX_LINES_AHEAD: usize = 64;
/// How long it may take to leave when told to.
const LEAVE_PATIENCE: Duration = Duration::from_secs(2);

/// How it is started: what stays the same.
pub struct Launch {
    gateway: Gateway,
    /// Where the CLI finds the API: the port lives as long as the runner.
    address: io::Result<String>,
    home: PathBuf,
    cwd: PathBuf,
    skills: PathBuf,
    arguments: Vec<String>,
    own_servers: &'static [&'static str],
    /// No turn listens. A turn that the CLI begins meanwhile is announced.
    pub idle: Arc<AtomicBool>,
    pub wake: Sender<()>,
    pub limit: LimitedUntil,
}

/// What a process works on.
#[derive(Debug, Clone)]
pub struct Conversation {
    /// `None` until there is something that could be resumed.
    pub continuation: Option<String>,
    pub system: String,
}

/// A running CLI. Dropped: killed, with all it has started.
pub struct Cli {
    pub lines: Receiver<Line>,
    /// Messages to it. They are lost when it has ended, which its lines tell.
    pub input: Sender<Value>,
    pub conversation: Conversation,
    /// Tasks that go on in the background.
    background: Arc<AtomicUsize>,
    process: Child,
}

impl Launch {
    pub fn new(
        config: &ContainerConfig,
        dir: &SessionDir,
        gateway: Gateway,
        home: PathBuf,
        own_servers: &'static [&'static str],
        wake: Sender<()>,
    ) -> Launch {
        let stdio = |s: &McpServer| json!({"type": "stdio", "command": s.command, "args": s.args, "env": s.env});
        let sdk = |name: &str| json!({"type": "sdk", "name": name, "alwaysLoad": true, "timeout": OWN_CALL_TIMEOUT_MS});
        let mut servers: Map<String, Value> = config.mcp_servers.iter().map(|(n, s)| (n.clone(), stdio(s))).collect();
        servers.extend(own_servers.iter().map(|name| ((*name).to_owned(), sdk(name))));
        let settings = json!({"attribution": {"commit": "", "pr": ""}, "autoMemoryEnabled": false,
            "apiKeyHelper": format!("cat '{}'", home.join(KEY).display())});
        let mut arguments = vec![
            format!("--append-system-prompt-file={}", home.join(SYSTEM_PROMPT).display()),
            format!("--mcp-config={}", json!({"mcpServers": servers})),
            format!("--settings={settings}"),
        ];
        let given = |name: &str, value: &Option<String>| value.as_ref().map(|value| format!("--{name}={value}"));
        arguments.extend(given("model", &config.model));
        arguments.extend(given("effort", &config.effort));
        let limit = LimitedUntil::default();
        let address = match gateway.socket() {
            Some(socket) => {
                relay::open(socket.to_owned(), limit.clone()).map(|port| format!("http://127.0.0.1:{port}"))
            }
            None => Ok(gateway.url("")),
        };
        let (cwd, skills) = (dir.root().join("agent"), dir.skills());
        Launch { gateway, address, home, cwd, skills, arguments, own_servers, idle: Arc::default(), wake, limit }
    }

    /// Starts the CLI on a conversation.
    ///
    /// # Errors
    /// `NotFound`: there is no CLI; or a file, port, process or thread is not to be had.
    pub fn start(&self, conversation: Conversation) -> io::Result<Cli> {
        let address = self.address.as_ref().map_err(|e| io::Error::other(e.to_string()))?;
        link_skills(&self.skills, &self.home.join(".claude/skills"))?;
        DirBuilder::new().recursive(true).mode(0o700).create(self.home.join(FOLDER))?;
        fs::write(self.home.join(KEY), self.gateway.token())?;
        fs::write(self.home.join(SYSTEM_PROMPT), &conversation.system)?;
        let mut command = process::command(PROGRAM);
        command
            .args(ARGUMENTS)
            .args(&self.arguments)
            .arg(match &conversation.continuation {
                Some(session) => format!("--resume={session}"),
                None => format!("--session-id={}", id::uuid()),
            })
            .current_dir(&self.cwd)
            .envs(ENVIRONMENT)
            .env("ANTHROPIC_BASE_URL", address)
            .env("API_TIMEOUT_MS", SILENCE_TIMEOUT.as_millis().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = process::spawn(&mut command)?;
        let (input, to_write) = unbounded::<Value>();
        let (line, lines) = bounded(MAX_LINES_AHEAD);
        let background = Arc::<AtomicUsize>::default();
        if let Some(mut stdin) = process.stdin.take() {
            // When it takes no more, it is about to end.
            spawn(move || while to_write.recv().is_ok_and(|message| writeln!(stdin, "{message}").is_ok()) {})?;
        }
        if let Some(stdout) = process.stdout.take() {
            let (idle, wake, background) = (self.idle.clone(), self.wake.clone(), background.clone());
            spawn(move || {
                let mut stdout = BufReader::new(stdout);
                // An error is an end like any other: the process is of no use any more.
                while let Ok(Some(read)) = protocol::read(&mut stdout) {
                    if let Some(tasks) = read.background() {
                        background.store(tasks, Ordering::SeqCst);
                    }
                    let begins = read.is_init();
                    if line.send(read).is_err() {
                        break;
                    }
                    if begins && idle.load(Ordering::SeqCst) {
                        // Full: the word was given already.
                        let _given = wake.try_send(());
                    }
                }
                background.store(0, Ordering::SeqCst);
            })?;
        }
        let cli = Cli { lines, input, conversation, background, process };
        let hook = json!([{"hookCallbackIds": ["runner"], "timeout": HOOK_TIMEOUT_SECONDS}]);
        cli.request(json!({"subtype": "initialize", "sdkMcpServers": self.own_servers,
            "hooks": {"PreToolUse": hook, "PostToolUse": hook, "PostToolUseFailure": hook}}));
        Ok(cli)
    }
}

impl Cli {
    pub fn write(&self, message: Value) {
        let _ended = self.input.send(message);
    }

    /// Asks for something; nobody waits for the answer.
    pub fn request(&self, request: Value) {
        self.write(json!({"type": "control_request", "request_id": "runner", "request": request}));
    }

    /// Whether it can go on with this. Another system prompt takes another process; but it can wait for the end of
    /// what runs in the background, which would end with the process.
    pub fn suits(&self, wanted: &Conversation) -> bool {
        let is_same = self.conversation.continuation == wanted.continuation;
        is_same && (self.is_busy() || self.conversation.system == wanted.system)
    }

    /// Whether it may begin a turn by itself.
    pub fn is_busy(&self) -> bool {
        self.background.load(Ordering::SeqCst) > 0
    }

    /// Ends it in peace if it lets us, and with force if not.
    pub fn leave(mut self) {
        self.request(json!({"subtype": "end_session"}));
        if !matches!(self.process.wait(LEAVE_PATIENCE), Ok(Some(_))) {
            eprintln!("Claude Code did not leave and is killed");
        }
    }
}

/// Runs something beside the turn.
pub fn spawn(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name("claude".into()).stack_size(STACK_BYTES).spawn(work).map(drop)
}

/// Puts links to the chosen skills beside the group's own. Sessions beside this one do the same; a link to a skill
/// that is not chosen any more leads nowhere. Without a folder there are none.
fn link_skills(chosen: &Path, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for skill in fs::read_dir(chosen).into_iter().flatten() {
        let skill = skill?;
        match symlink(skill.path(), folder.join(skill.file_name())) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skills_are_linked_once_and_no_folder_of_them_is_no_fault() {
        let tmp = tempfile::tempdir().unwrap();
        let (chosen, folder) = (tmp.path().join("chosen"), tmp.path().join("home/skills"));
        link_skills(&chosen, &folder).unwrap();
        fs::create_dir_all(chosen.join("tone")).unwrap();
        link_skills(&chosen, &folder).unwrap();
        link_skills(&chosen, &folder).unwrap();
        assert_eq!(fs::read_link(folder.join("tone")).unwrap(), chosen.join("tone"));
    }
}
