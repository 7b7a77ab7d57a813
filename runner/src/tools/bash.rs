//! `bash`.
//!
//! Every command is a bash of its own that starts in the folder where the last one ended. A stop or a timeout ends it
//! with all it has started ([`process`]). A background job is not ended by a stop, for it was started to outlive its
//! call; it ends with the container, as does what a command has left behind with `&`.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use serde::Deserialize;
use serde_json::json;

use super::running::{self, End, Running};
use super::{Context, Effect, Output, Tool, beside, tool};
use crate::process;

const DEFAULT_TIMEOUT_MS: u64 = 120_000;
const MAX_TIMEOUT_MS: u64 = 600_000;
/// Background jobs that run beside each other.
const MAX_JOBS: usize = 10;
/// Longer than any container lives.
const JOB_TIME: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// Longest name of a folder that is found again. bytes
const MAX_PATH_BYTES: usize = 4096;
/// `$1` is the command. Stdin is the place where the shell writes the folder it ends in: out of the way of the
/// command's output and of the descriptors it may choose.
const WRAPPER: &str = r#"exec {NANOCLAW_CWD}>&0 </dev/null; trap 'pwd -P >&$NANOCLAW_CWD 2>/dev/null' EXIT; eval "$1""#;

/// The tool, with a shell that starts in `home` and keeps long outputs in `outputs`.
pub fn new(home: PathBuf, outputs: PathBuf) -> Arc<dyn Tool> {
    let description = format!(
        "Runs a bash command and returns its output (stdout and stderr as they came) and its exit code. Every call is \
         a new shell in the folder where the last one ended, at first {}; variables do not last. There is no stdin \
         and no terminal. Of a long output both ends are shown, and the file that holds all of it is named.",
        home.display()
    );
    let properties = json!({
        "command": {"type": "string"},
        "timeout": {
            "type": "integer",
            "description": format!("Milliseconds; {DEFAULT_TIMEOUT_MS} unless said, at most {MAX_TIMEOUT_MS}."),
        },
        "run_in_background": {
            "type": "boolean",
            "description": "Return at once with the process id and the file of the output. There is no timeout; the job \
                            ends with this container, which stops when nobody has written for some minutes.",
        },
        "description": {"type": "string", "description": "What it is for, in a few words."},
    });
    let cwd = Mutex::new(home.clone());
    let shell = Shell { home, outputs, cwd, jobs: Arc::default() };
    tool(
        ("bash", &description),
        (properties, &["command"]),
        Effect::Changes,
        BashInput::timeout,
        move |input: BashInput, context| match input.run_in_background {
            Some(true) => shell.start_job(&input.command),
            _ => shell.run(&input.command, input.timeout(), context),
        },
    )
}

struct Shell {
    home: PathBuf,
    outputs: PathBuf,
    cwd: Mutex<PathBuf>,
    /// Every running job has one.
    jobs: Arc<()>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BashInput {
    command: String,
    timeout: Option<u64>,
    run_in_background: Option<bool>,
    /// For people who watch.
    #[serde(rename = "description")]
    _description: Option<String>,
}

impl BashInput {
    fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout.unwrap_or(DEFAULT_TIMEOUT_MS).clamp(1, MAX_TIMEOUT_MS))
    }
}

impl Shell {
    fn cwd(&self) -> MutexGuard<'_, PathBuf> {
        self.cwd.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, command: &str, timeout: Duration, context: &Context) -> Result<Output, String> {
        let (mut running, cwd) = self.start(command)?;
        let end = running.finish(timeout, &context.stop).map_err(unwaitable)?;
        let drained = running.drained();
        let mut text = closed(running.output.text());
        text += &match end {
            End::ByItself(status) => format!("[{}]", running::state(Some(status))),
            End::Stopped => "[stopped, with all it had started]".into(),
            End::TimedOut(after) => {
                format!("[killed, with all it had started, after {} ms: its timeout]", after.as_millis())
            }
        };
        if drained {
            running.output.forget_if_short();
        } else {
            text += &format!("\n[what it has left running writes to {}]", running.output.path().display());
        }
        if let Some(folder) = folder_in(&cwd).filter(|folder| *folder != *self.cwd()) {
            text += &format!("\n[the folder is now {}]", folder.display());
            *self.cwd() = folder;
        }
        // How it ended by itself is for the model to judge: to `grep -q` or `diff`, 1 is an answer.
        Ok(if matches!(end, End::ByItself(_)) { Output::text(text) } else { Output::failed(text) })
    }

    fn start_job(&self, command: &str) -> Result<Output, String> {
        let token = self.jobs.clone();
        if Arc::strong_count(&token) > MAX_JOBS + 1 {
            return Err(format!("{MAX_JOBS} jobs are running; end one first."));
        }
        let (mut running, _) = self.start(command)?;
        let (id, path) = (running.child.id(), running.output.path().display().to_string());
        let end = move || {
            let _running = token;
            let status = running.child.wait(JOB_TIME)?;
            running.drained();
            writeln!(&*running.output, "[{}]", running::state(status))
        };
        beside("bash-job", end).map_err(unwaitable)?;
        Ok(Output::text(format!(
            "Started as process {id}: `kill -- -{id}` ends it. Its output, and at last its exit code, go to {path}."
        )))
    }

    /// Starts it in the last folder; also returns the file where the shell leaves the name of the one it ends in.
    fn start(&self, command: &str) -> Result<(Running, File), String> {
        let folder = self.cwd().clone();
        if folder != self.home && !folder.is_dir() {
            self.cwd().clone_from(&self.home);
            // It may be meant for that folder only, such as `rm *`.
            let (gone, home) = (folder.display(), self.home.display());
            return Err(format!("{gone} is gone, so nothing was run. The folder is now {home}."));
        }
        let start = || {
            let cwd = File::from(memfd_create("cwd", MemfdFlags::CLOEXEC)?);
            let mut bash = process::command("bash");
            bash.args(["-c", WRAPPER, "bash", command]).current_dir(&folder).stdin(cwd.try_clone()?);
            Ok((Running::start(bash, &self.outputs)?, cwd))
        };
        start().map_err(|e: io::Error| format!("bash cannot be started in {}: {e}.", folder.display()))
    }
}

fn unwaitable(e: io::Error) -> String {
    format!("The command cannot be waited for: {e}.")
}

/// With a newline at its end, if there is anything.
fn closed(mut text: String) -> String {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// The folder whose name a shell has left; none when it was killed, or ended by `exec`.
fn folder_in(file: &File) -> Option<PathBuf> {
    let mut name = vec![0; MAX_PATH_BYTES];
    let length = file.read_at(&mut name, 0).ok()?;
    name.truncate(length);
    (name.pop() == Some(b'\n')).then(|| PathBuf::from(OsString::from_vec(name)))
}
