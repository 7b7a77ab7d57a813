//! The only place that starts child processes.
//!
//! A child gets an argument list and no shell, no stdin, a process group of its own, and a
//! deadline. Both its pipes are drained with a cap; at the deadline the whole group is killed,
//! and a grandchild that keeps a pipe open does not hold us.

use std::io::{self, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, unbounded};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

/// Most that is kept of each of a child's streams; the rest is read and dropped. bytes
pub const MAX_OUTPUT_BYTES: usize = 1024 * 1024;

/// How long the pipes may stay open after the child is gone.
const PIPE_GRACE: Duration = Duration::from_millis(500);

/// Stack of the two threads that drain a child's pipes. bytes
const DRAIN_STACK_BYTES: usize = 64 * 1024;

/// Settings that no child needs to see: the environment of a process can be read by its user, and
/// a program in `DOCKER` is not ours. Nor must one speak to the service manager in our name.
pub const SECRETS: [&str; 5] =
    ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN", "OPENAI_API_KEY", "NOTIFY_SOCKET"];

/// What to run.
#[derive(Debug, Clone)]
pub struct Invocation {
    pub program: String,
    pub args: Vec<String>,
    /// Added to our own environment: the place for what must not be seen in `ps`.
    pub env: Vec<(String, String)>,
    pub deadline: Duration,
}

/// How a child ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    pub ended: Ended,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// The end of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Code(i32),
    Signal(i32),
    /// Killed by us at its deadline.
    TimedOut,
}

impl Output {
    pub fn succeeded(&self) -> bool {
        self.ended == Ended::Code(0)
    }

    /// The last words of stderr, for a message.
    pub fn complaint(&self) -> String {
        let text = String::from_utf8_lossy(&self.stderr);
        let tail: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).rev().take(3).collect();
        let tail = tail.into_iter().rev().collect::<Vec<_>>().join(" ");
        match self.ended {
            Ended::TimedOut => format!("no answer in time. {tail}").trim_end().to_owned(),
            Ended::Signal(n) => format!("killed by signal {n}. {tail}").trim_end().to_owned(),
            Ended::Code(n) if tail.is_empty() => format!("exit code {n}"),
            Ended::Code(_) => tail,
        }
    }
}

/// Runs a child to its end. Blocks up to its deadline: never call it on an actor's thread.
pub fn run(invocation: &Invocation) -> io::Result<Output> {
    #[allow(clippy::disallowed_methods)] // this is the place the rule points to
    let mut command = Command::new(&invocation.program);
    for secret in SECRETS {
        command.env_remove(secret);
    }
    let mut child = command
        .args(&invocation.args)
        .envs(invocation.env.iter().map(|(k, v)| (k, v)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let watched = watch(&mut child, invocation.deadline);
    if watched.is_err() {
        // Nobody else would end it, or wait for it.
        let _ = child.kill();
        child.wait()?;
    }
    let Watched { status, timed_out, stdout, stderr } = watched?;
    let ended = match (timed_out, status.code()) {
        (true, _) => Ended::TimedOut,
        (false, Some(code)) => Ended::Code(code),
        (false, None) => Ended::Signal(status.signal().unwrap_or(0)),
    };
    // A grandchild may hold the pipes: what came until now is what there is.
    let until = Instant::now() + PIPE_GRACE;
    let collect =
        |pipe: Receiver<Vec<u8>>| std::iter::from_fn(|| pipe.recv_deadline(until).ok()).flatten().collect::<Vec<u8>>();
    Ok(Output { ended, stdout: collect(stdout), stderr: collect(stderr) })
}

struct Watched {
    status: ExitStatus,
    timed_out: bool,
    stdout: Receiver<Vec<u8>>,
    stderr: Receiver<Vec<u8>>,
}

fn watch(child: &mut Child, deadline: Duration) -> io::Result<Watched> {
    let stdout = drain(child.stdout.take())?;
    let stderr = drain(child.stderr.take())?;
    let (status, timed_out) = wait(child, deadline)?;
    Ok(Watched { status, timed_out, stdout, stderr })
}

fn wait(child: &mut Child, deadline: Duration) -> io::Result<(ExitStatus, bool)> {
    let pid = Pid::from_child(child);
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let end = Instant::now() + deadline;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((status, false));
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            // The group is gone already when the child ended in this very moment.
            let _gone = kill_process_group(pid, Signal::KILL);
            return Ok((child.wait()?, true));
        }
        crate::watch::wait_readable(&pidfd, left)?;
    }
}

/// Reads a pipe to its end on a thread of its own; what is kept comes in pieces.
fn drain(pipe: Option<impl Read + Send + 'static>) -> io::Result<Receiver<Vec<u8>>> {
    // Never more than MAX_OUTPUT_BYTES in all; a bound in pieces would stop the child.
    let (sender, receiver) = unbounded();
    if let Some(mut pipe) = pipe {
        thread::Builder::new().name("child-output".into()).stack_size(DRAIN_STACK_BYTES).spawn(move || {
            let mut room = MAX_OUTPUT_BYTES;
            let mut buffer = [0; 8192];
            while let Ok(n @ 1..) = pipe.read(&mut buffer) {
                let kept = n.min(room);
                room -= kept;
                // The receiver gave up waiting when a grandchild held the pipe: read on, so that it can go on.
                let _gone = sender.send(buffer[..kept].to_vec());
            }
        })?;
    }
    Ok(receiver)
}

/// What becomes of a process that writes where nobody reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokenPipe {
    /// It ends without a word: right for what only prints.
    Ends,
    /// It goes on, and the write has failed: right for what has peers that come and go.
    IsAnError,
}

/// Called before there are other threads. (Rust starts every program with the second one.)
pub fn on_broken_pipe(what: BrokenPipe) {
    let action = match what {
        BrokenPipe::Ends => libc::SIG_DFL,
        BrokenPipe::IsAnError => libc::SIG_IGN,
    };
    // SAFETY: neither action runs code of ours.
    unsafe { libc::signal(libc::SIGPIPE, action) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, deadline_ms: u64) -> Output {
        run(&Invocation {
            program: "sh".into(),
            args: vec!["-c".into(), script.into()],
            env: vec![("SECRET".into(), "s3cret".into())],
            deadline: Duration::from_millis(deadline_ms),
        })
        .unwrap()
    }

    #[test]
    fn output_and_code_are_kept() {
        let out = sh("echo out; echo err >&2; exit 3", 5_000);
        assert_eq!((out.ended, out.stdout.as_slice()), (Ended::Code(3), &b"out\n"[..]));
        assert_eq!(out.complaint(), "err");
        assert_eq!(sh("printf %s $SECRET", 5_000).stdout, b"s3cret");
    }

    #[test]
    fn a_child_that_hangs_is_killed_with_its_group() {
        let started = Instant::now();
        let out = sh("sleep 60 & echo $!; wait", 300);
        assert_eq!(out.ended, Ended::TimedOut);
        assert!(started.elapsed() < Duration::from_secs(5));
        let sleeper = String::from_utf8(out.stdout).unwrap();
        // Killed it is; on a busy machine it may take a while to notice.
        if let Ok(sleeper) = pidfd_open(Pid::from_raw(sleeper.trim().parse().unwrap()).unwrap(), PidfdFlags::empty()) {
            assert!(crate::watch::wait_readable(&sleeper, Duration::from_secs(20)).unwrap(), "it is still there");
        }
    }

    #[test]
    fn a_grandchild_that_keeps_the_pipe_does_not_hold_us() {
        let started = Instant::now();
        let out = sh("setsid sleep 5 & echo said", 60_000);
        assert_eq!((out.ended, out.stdout.as_slice()), (Ended::Code(0), &b"said\n"[..]));
        assert!(started.elapsed() < Duration::from_secs(4));
    }

    #[test]
    fn a_flood_is_capped() {
        let out = sh("head -c 5000000 /dev/zero", 20_000);
        assert_eq!((out.ended, out.stdout.len()), (Ended::Code(0), MAX_OUTPUT_BYTES));
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        let missing = Invocation {
            program: "no-such-program".into(),
            args: vec![],
            env: vec![],
            deadline: Duration::from_secs(1),
        };
        assert_eq!(run(&missing).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
