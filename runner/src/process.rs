//! The only place that starts child processes.
//!
//! A child leads a session of its own, has no stdin unless it is given one, and does not see the token that stands
//! for the owner's key. It is ended together with all it has started: what is in its session (also in groups of
//! their own, which `timeout` and `set -m` make) or descends from it. What has called `setsid` *and* lost its parent
//! has left on purpose; it lives until the container ends.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{self, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal, setsid};

/// The session's credential at the gateway.
const TOKEN: &str = "NANOCLAW_GATEWAY_TOKEN";
/// Between a polite SIGTERM and SIGKILL.
const TERM_GRACE: Duration = Duration::from_millis(700);
/// Between SIGKILL and giving up.
const KILL_GRACE: Duration = Duration::from_secs(1);
/// How often the list of processes is read for such as were started while their parents were killed.
const KILL_PASSES: usize = 3;

/// A program to [`spawn`]: stdin is null, the rest as `std` has it. `program` is a path or searched for in `PATH`.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    #[allow(clippy::disallowed_methods)] // this is the place the rule points to
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).env_remove(TOKEN);
    command
}

/// A child that was started; killed with all it has started when dropped, unless its end was seen.
#[derive(Debug)]
pub struct Child {
    pub stdin: Option<ChildStdin>,
    pub stdout: Option<ChildStdout>,
    process: process::Child,
    status: Option<ExitStatus>,
}

/// Starts it as the leader of a session.
///
/// # Errors
/// Whatever keeps it from starting; `NotFound` when there is no such program, or no such working directory.
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    // SAFETY: setsid is async-signal-safe and allocates nothing.
    let mut process = unsafe { command.pre_exec(|| Ok(setsid().map(drop)?)) }.spawn()?;
    let (stdin, stdout) = (process.stdin.take(), process.stdout.take());
    Ok(Child { stdin, stdout, process, status: None })
}

impl Child {
    fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Becomes readable when the child ends. Not to be asked for once its end was seen.
    pub fn pidfd(&self) -> io::Result<OwnedFd> {
        Ok(pidfd_open(self.pid(), PidfdFlags::empty())?)
    }

    /// How it ended, if it does so within `timeout`. What it left behind is then on its own.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<Option<ExitStatus>> {
        if self.status.is_none() {
            wait_readable(&self.pidfd()?, Instant::now() + timeout)?;
            self.status = self.process.try_wait()?;
        }
        Ok(self.status)
    }

    /// Ends it and all it has started: SIGTERM, and SIGKILL for what is there a moment later. Does nothing once its
    /// end was seen.
    pub fn end(&mut self) -> io::Result<ExitStatus> {
        self.signal_all(TERM_GRACE)
    }

    fn signal_all(&mut self, grace: Duration) -> io::Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        // As long as nobody has waited for it, its number is not given to another process.
        let told = tree(self.pid());
        if !grace.is_zero() {
            told.iter().for_each(|fd| send(fd, Signal::TERM));
            let until = Instant::now() + grace;
            // What cannot be waited for is killed all the sooner.
            let _patience = told.iter().try_for_each(|fd| wait_readable(fd, until).map(drop));
        }
        told.iter().for_each(|fd| send(fd, Signal::KILL));
        // There may be more processes than descriptors.
        drop(told);
        for _ in 0..KILL_PASSES {
            tree(self.pid()).iter().for_each(|fd| send(fd, Signal::KILL));
        }
        // It is dead, unless the kernel holds it: a call that waits for a disk has no end.
        self.wait(KILL_GRACE)?.ok_or(io::ErrorKind::TimedOut.into())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Without /proc or memory there is nothing more to be done about it.
        let _best_effort = self.signal_all(Duration::ZERO);
    }
}

fn send(process: &OwnedFd, signal: Signal) {
    // It fails for what is gone already, which is what is wanted.
    let _gone = pidfd_send_signal(process, signal);
}

/// The living processes that are in the session of `leader` or descend from it, itself included.
fn tree(leader: Pid) -> Vec<OwnedFd> {
    let leader = leader.as_raw_pid();
    let pids =
        fs::read_dir("/proc").into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let mut others: Vec<(i32, i32, i32)> =
        pids.filter_map(|pid| stat(pid).map(|(parent, session)| (pid, parent, session))).collect();
    let mut found = vec![leader];
    loop {
        let known = found.len();
        others.retain(|(pid, parent, session)| {
            let ours = *session == leader || found.contains(parent);
            found.extend(ours.then_some(*pid));
            !ours
        });
        if found.len() == known {
            break;
        }
    }
    found.into_iter().filter_map(|pid| pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()).collect()
}

/// Parent and session, from `/proc/<pid>/stat`: pid (name) state parent group session ...; the name may hold anything.
fn stat(pid: i32) -> Option<(i32, i32)> {
    let line = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let after = &line[line.iter().rposition(|b| *b == b')')? + 1..];
    let mut fields = std::str::from_utf8(after).ok()?.split_ascii_whitespace().skip(1);
    let (parent, _group, session) = (fields.next()?, fields.next()?, fields.next()?);
    Some((parent.parse().ok()?, session.parse().ok()?))
}

/// Waits until `fd` is readable or closed by the other side; false when the time is over.
pub fn wait_readable(fd: &impl AsFd, until: Instant) -> io::Result<bool> {
    loop {
        let left = Timespec::try_from(until.saturating_duration_since(Instant::now())).ok();
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], left.as_ref()) {
            Err(Errno::INTR) => {}
            ready => return Ok(ready? > 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};

    /// A shell, and the pids it has printed: one a line, until `done`.
    fn shell(script: &str) -> (Child, Vec<i32>) {
        let mut child = spawn(command("bash").args(["-c", script]).stdout(Stdio::piped())).unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let pids = lines.take_while(|l| l != "done").map(|l| l.parse().unwrap()).collect();
        (child, pids)
    }

    fn alive(pid: i32) -> bool {
        fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z "))
    }

    fn assert_gone(pids: &[i32]) {
        assert!(!pids.is_empty());
        for &pid in pids {
            if let Ok(fd) = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()) {
                assert!(wait_readable(&fd, Instant::now() + Duration::from_secs(5)).unwrap(), "{pid} lives");
            }
            assert!(!alive(pid), "{pid} lives");
        }
    }

    #[test]
    fn an_end_reaches_groups_and_sessions_of_their_own() {
        let script = "setsid sleep 1000 & echo $!; timeout 1000 sleep 1001 & echo $!; \
                      set -m; sleep 1002 & echo $!; echo done; wait";
        let (mut child, pids) = shell(script);
        assert_eq!((pids.len(), pids.iter().all(|&p| alive(p))), (3, true));
        let started = Instant::now();
        assert_eq!(child.end().unwrap().code(), None);
        assert!(started.elapsed() < Duration::from_secs(2));
        assert_gone(&pids);
    }

    #[test]
    fn what_ignores_the_polite_signal_is_killed_and_what_does_not_may_clean_up() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("mark");
        let script = format!(
            "trap 'echo clean > {}; exit 7' TERM; \
             (trap '' TERM; echo $BASHPID; echo done; while :; do sleep 1; done) & while :; do sleep 0.1; done",
            mark.display()
        );
        let (mut child, pids) = shell(&script);
        assert_eq!(child.end().unwrap().code(), Some(7));
        assert_eq!(fs::read_to_string(mark).unwrap(), "clean\n");
        assert_gone(&pids);
    }

    #[test]
    fn a_dropped_child_is_killed_and_one_that_was_waited_for_leaves_its_own_behind() {
        let (child, pids) = shell("sleep 1000 & echo $!; echo done; wait");
        drop(child);
        assert_gone(&pids);
        let (mut child, pids) = shell("sleep 1000 >&- & echo $!; echo done");
        assert_eq!(child.wait(Duration::from_secs(20)).unwrap().unwrap().code(), Some(0));
        drop(child);
        assert!(alive(pids[0]));
        rustix::process::kill_process(Pid::from_raw(pids[0]).unwrap(), Signal::KILL).unwrap();
    }

    #[test]
    fn a_child_sees_no_token_and_no_stdin() {
        let mut child = command("env");
        assert!(child.get_envs().any(|(name, value)| name == TOKEN && value.is_none()));
        child.stdout(Stdio::null());
        assert!(spawn(&mut child).unwrap().wait(Duration::from_secs(20)).unwrap().unwrap().success());
        let (mut cat, _) = shell("cat; echo done");
        assert!(cat.wait(Duration::from_secs(20)).unwrap().is_some());
        assert_eq!(spawn(&mut command("no-such-program")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
