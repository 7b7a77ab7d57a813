//! The CLI's process: how it is started, spoken to and ended.

use std::fs::{self, DirBuilder};
use std::io::{self, BufReader, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use nanoclaw_session::config::ContainerConfig;
use nanoclaw_session::layout::SessionDir;
use serde_json::{Map, Value, json};

use super::protocol::{self, Line};
use super::relay;
use crate::gateway::{Gateway, SILENCE_TIMEOUT};
use crate::process::{self, Child};
use crate::provider::STACK_BYTES;

const PROGRAM: &str = "claude";
/// The name of our own tools' server: they are called `mcp__nanoclaw__<tool>`.
pub const OWN_SERVER: &str = "nanoclaw";
/// Tools that make no sense here and whose descriptions would only cost. What has a counterpart of ours stays, to be
/// refused with a hint.
const REMOVED_TOOLS: &str = "Monitor,Workflow,ListAgents,ReportFindings";
/// How long the CLI waits for what a hook of ours says.
const HOOK_TIMEOUT_SECONDS: u32 = 60;
/// Longest call of an MCP server's tool. Ours take their own time.
const MCP_CALL_TIMEOUT: Duration = Duration::from_secs(600);
const OWN_CALL_TIMEOUT: Duration = Duration::from_secs(24 * 3_600);
/// Lines it may be ahead of us.
const MAX_LINES_AHEAD: usize = 64;
/// How long it may take to leave when told to.
const LEAVE_PATIENCE: Duration = Duration::from_secs(2);

/// Everything a start needs that stays the same.
pub struct Launch {
    pub gateway: Gateway,
    pub home: PathBuf,
    cwd: PathBuf,
    skills: PathBuf,
    model: Option<String>,
    effort: Option<String>,
    servers: Map<String, Value>,
    /// Our own tools are served.
    has_own_tools: bool,
}

/// What a process works on. Another one needs another process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    /// `None` until there is something that could be resumed.
    pub continuation: Option<String>,
    pub system: String,
}

/// A running CLI. Dropped: killed, with all it has started.
pub struct Cli {
    pub lines: Receiver<Line>,
    pub conversation: Conversation,
    input: Sender<Value>,
    process: Child,
}

impl Launch {
    pub fn new(
        config: &ContainerConfig,
        dir: &SessionDir,
        gateway: Gateway,
        home: PathBuf,
        has_own_tools: bool,
    ) -> Launch {
        let set = |value: &Option<String>| value.clone().filter(|v| !v.trim().is_empty());
        let server = |s: &nanoclaw_session::config::McpServer| json!({"type": "stdio", "command": s.command, "args": s.args, "env": s.env});
        let mut servers: Map<String, Value> = config.mcp_servers.iter().map(|(n, s)| (n.clone(), server(s))).collect();
        if has_own_tools {
            let own = json!({"type": "sdk", "name": OWN_SERVER, "alwaysLoad": true,
                "timeout": OWN_CALL_TIMEOUT.as_millis() as u64});
            servers.insert(OWN_SERVER.into(), own);
        }
        Launch {
            gateway,
            home,
            cwd: dir.root().join("agent"),
            skills: dir.skills(),
            model: set(&config.model),
            effort: set(&config.effort),
            servers,
            has_own_tools,
        }
    }

    /// Where the CLI finds the API. Opened once; the port lives as long as the runner.
    pub fn open_address(&self) -> io::Result<String> {
        match self.gateway.socket() {
            Some(socket) => Ok(format!("http://127.0.0.1:{}", relay::open(socket.to_owned())?)),
            None => Ok(self.gateway.url("")),
        }
    }

    /// Starts the CLI on a conversation; `uuid` names it if it is new. Each line, once it can be read, is followed by
    /// a word on `wakes` when a turn begins while `idle`.
    pub fn start(
        &self,
        conversation: Conversation,
        uuid: &str,
        address: &str,
        idle: Arc<AtomicBool>,
        wakes: Sender<()>,
    ) -> io::Result<Cli> {
        link_skills(&self.skills, &self.home.join(".claude/skills"))?;
        // Neither belongs on a command line, nor the key into the environment of every command the agent runs.
        let folder = self.home.join(".nanoclaw");
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let (key, prompt) = (folder.join("key"), folder.join("system-prompt.md"));
        fs::write(&key, self.gateway.token())?;
        fs::write(&prompt, &conversation.system)?;
        let settings = json!({"attribution": {"commit": "", "pr": ""}, "autoMemoryEnabled": false,
            "apiKeyHelper": format!("cat '{}'", key.display())});
        let mut command = process::command(PROGRAM);
        command
            .args(["-p", "--input-format=stream-json", "--output-format=stream-json", "--verbose"])
            .args(["--include-partial-messages", "--permission-mode=bypassPermissions", "--setting-sources=user"])
            .arg(match &conversation.continuation {
                Some(session) => format!("--resume={session}"),
                None => format!("--session-id={uuid}"),
            })
            .arg(format!("--append-system-prompt-file={}", prompt.display()))
            .args(["--system-prompt-snapshot=off", "--strict-mcp-config"])
            .arg(format!("--mcp-config={}", json!({"mcpServers": self.servers})))
            .arg(format!("--settings={settings}"))
            .arg(format!("--disallowedTools={REMOVED_TOOLS}"))
            .args(self.model.iter().map(|model| format!("--model={model}")))
            .args(self.effort.iter().map(|effort| format!("--effort={effort}")))
            .current_dir(&self.cwd)
            .env("ANTHROPIC_BASE_URL", address)
            .env("API_TIMEOUT_MS", SILENCE_TIMEOUT.as_millis().to_string())
            .env("MCP_TOOL_TIMEOUT", MCP_CALL_TIMEOUT.as_millis().to_string())
            .envs([("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"), ("CLAUDE_CODE_STARTUP_FAILURE_RESULTS", "1")])
            // It may do what it likes here: the container is the sandbox.
            .env("IS_SANDBOX", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = process::spawn(&mut command)?;
        let (line, lines) = bounded(MAX_LINES_AHEAD);
        let (input, to_write) = unbounded::<Value>();
        if let Some(stdout) = process.stdout.take() {
            spawn("claude-out", move || {
                let mut stdout = BufReader::new(stdout);
                // An error is an end like any other: the process is of no use any more.
                while let Ok(Some(read)) = protocol::read(&mut stdout) {
                    let begins = read.is_init();
                    if line.send(read).is_err() {
                        return;
                    }
                    if begins && idle.load(Ordering::SeqCst) {
                        // Full: the word was given already.
                        let _given = wakes.try_send(());
                    }
                }
            })?;
        }
        if let Some(mut stdin) = process.stdin.take() {
            spawn("claude-in", move || {
                // When it takes no more, it is about to end, and its output says so.
                while to_write.recv().is_ok_and(|message| writeln!(stdin, "{message}").is_ok()) {}
            })?;
        }
        let cli = Cli { lines, conversation, input, process };
        cli.write(self.initialize());
        Ok(cli)
    }

    fn initialize(&self) -> Value {
        let hook = json!([{"hookCallbackIds": ["runner"], "timeout": HOOK_TIMEOUT_SECONDS}]);
        let own: &[&str] = if self.has_own_tools { &[OWN_SERVER] } else { &[] };
        protocol::control(json!({"subtype": "initialize", "sdkMcpServers": own,
            "hooks": {"PreToolUse": hook, "PostToolUse": hook, "PostToolUseFailure": hook}}))
    }
}

impl Cli {
    pub fn write(&self, message: Value) {
        // It has ended: its lines say so.
        let _gone = self.input.send(message);
    }

    /// For what answers it from another thread.
    pub fn input(&self) -> Sender<Value> {
        self.input.clone()
    }

    pub fn is_alive(&mut self) -> bool {
        matches!(self.process.wait(Duration::ZERO), Ok(None))
    }

    /// How it ended, in words.
    pub fn end_in_words(mut self) -> String {
        match self.process.wait(LEAVE_PATIENCE) {
            Ok(Some(status)) => status.to_string(),
            Ok(None) => "its output was closed".into(),
            Err(e) => e.to_string(),
        }
    }

    /// Ends it in peace if it lets us, and with force if not.
    pub fn leave(mut self) {
        self.write(protocol::control(json!({"subtype": "end_session"})));
        match self.process.wait(LEAVE_PATIENCE) {
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => eprintln!("Claude Code did not leave and is killed"),
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.into()).stack_size(STACK_BYTES).spawn(work).map(drop)
}

/// Puts links to the chosen skills beside the group's own, and takes those to others away. The folder is the
/// group's: sessions beside this one may do the same.
fn link_skills(chosen: &Path, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if fs::read_link(&path).is_ok_and(|target| target.parent() == Some(chosen)) && !path.exists() {
            unless(ErrorKind::NotFound, fs::remove_file(path))?;
        }
    }
    for entry in fs::read_dir(chosen)? {
        let skill = entry?.path();
        let link = folder.join(skill.file_name().unwrap_or_default());
        unless(ErrorKind::AlreadyExists, symlink(&skill, link))?;
    }
    Ok(())
}

fn unless(expected: ErrorKind, result: io::Result<()>) -> io::Result<()> {
    result.or_else(|e| if e.kind() == expected { Ok(()) } else { Err(e) })
}
