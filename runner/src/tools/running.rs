//! A command that was started for a tool: its output is captured, its end can be waited for.

use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, select};
use rustix::pipe::{PipeFlags, pipe_with};

use super::beside;
use super::capture::Capture;
use crate::process::{self, Child};
use crate::stop::Stop;

/// How long the output of a command that has ended is waited for: what it has left behind may hold the pipe.
const PIPE_GRACE: Duration = Duration::from_millis(300);

/// Killed with all it has started when dropped, unless its end was seen.
pub struct Running {
    pub child: Child,
    pub output: Arc<Capture>,
    /// Has a word, or is closed, once nobody can write to the output any more.
    drained: Receiver<io::Result<u64>>,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    ByItself(ExitStatus),
    /// Killed, with all it had started.
    Stopped,
    /// Likewise, after this time.
    TimedOut(Duration),
}

impl Running {
    /// Starts it with stdout and stderr in one output, whose file lies in `outputs`.
    pub fn start(mut command: Command, outputs: &Path) -> io::Result<Running> {
        let (pipe, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        let child = process::spawn(command.stdout(writer.try_clone()?).stderr(writer))?;
        let output = Arc::new(Capture::new(outputs));
        let sink = output.clone();
        let drained = beside("tool-output", move || io::copy(&mut File::from(pipe), &mut &*sink))?;
        Ok(Running { child, output, drained })
    }

    /// Waits for its end, which a stop or the timeout bring about.
    pub fn finish(&mut self, timeout: Duration, stop: &Stop) -> io::Result<End> {
        let (pidfd, until) = (self.child.pidfd()?, Instant::now() + timeout);
        let exited = beside("tool-exit", move || process::wait_readable(&pidfd, until))?;
        let end = select! {
            recv(stop.word()) -> _ => End::Stopped,
            recv(exited) -> _ => match self.child.wait(Duration::ZERO)? {
                Some(status) => End::ByItself(status),
                None => End::TimedOut(timeout),
            },
        };
        self.child.end()?;
        Ok(end)
    }

    /// Whether all of the output of a command that has ended is there.
    pub fn drained(&self) -> bool {
        !matches!(self.drained.recv_timeout(PIPE_GRACE), Err(RecvTimeoutError::Timeout))
    }
}

/// How it ended, if it has, in words.
pub fn state(status: Option<ExitStatus>) -> String {
    match status.map(|s| (s.code(), s.signal())) {
        None => "still running".into(),
        Some((Some(code), _)) => format!("exit code {code}"),
        Some((None, signal)) => format!("killed by signal {}", signal.unwrap_or_default()),
    }
}
