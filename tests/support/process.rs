//! Child processes of the tests, and a look at everybody's in `/proc`.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::wait::{DEADLINE, is_readable};

/// A command, ready to be given arguments.
#[allow(clippy::disallowed_methods)] // the one place of the tests that starts children
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    Command::new(program)
}

/// What a command came to.
#[derive(Debug, Clone)]
pub struct Output {
    /// None when a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a command to its end, with `input` on its stdin.
///
/// # Panics
/// When it does not start, or not end in time.
#[track_caller]
pub fn run(command: &mut Command, input: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    // One that does not read its input is none of our business.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    let stdout = collect(child.stdout.take().expect("piped"));
    let stderr = collect(child.stderr.take().expect("piped"));
    let status = wait(&mut child, DEADLINE);
    if status.is_none() {
        child.kill().expect("kill");
        child.wait().expect("wait");
    }
    let text =
        |thread: thread::JoinHandle<Vec<u8>>| String::from_utf8_lossy(&thread.join().expect("a reader")).into_owned();
    let (stdout, stderr) = (text(stdout), text(stderr));
    match status {
        Some(status) => Output { code: status.code(), stdout, stderr },
        None => panic!("{command:?} did not end in {DEADLINE:?}\nstdout: {stdout}\nstderr: {stderr}"),
    }
}

/// The same, for what takes root, such as a mount: who is not asks for it, without a prompt.
pub fn root_command(program: &str) -> Command {
    if rustix::process::geteuid().is_root() {
        return command(program);
    }
    let mut sudo = command("sudo");
    sudo.args(["--non-interactive", program]);
    sudo
}

/// Runs a command as root.
///
/// # Panics
/// When it fails: without root there is no such test, and no skipping it either.
#[track_caller]
pub fn as_root(words: &[&str]) {
    let output = run(root_command(words[0]).args(&words[1..]), "");
    assert_eq!(output.code, Some(0), "{words:?} as root: {output:?}");
}

fn collect(mut stream: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is what there is.
        let _ = stream.read_to_end(&mut bytes);
        bytes
    })
}

/// Waits for the end of a child; none when it does not end within `limit`.
pub fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).expect("pidfd_open");
    is_readable(&pidfd, limit).then(|| child.wait().expect("wait"))
}

/// The ids of all processes.
pub fn all() -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

/// A file of a process in `/proc`; empty when the process is gone or not ours to read.
pub fn read(pid: u32, file: &str) -> Vec<u8> {
    fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default()
}

/// Its command line, for people.
pub fn command_line(pid: u32) -> String {
    String::from_utf8_lossy(&read(pid, "cmdline")).replace('\0', " ").trim().to_owned()
}

/// The children of `pid` and theirs, zombies aside.
pub fn descendants(pid: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = all().into_iter().filter_map(|p| Some((p, parent(p)?))).collect();
    let mut found = BTreeSet::from([pid]);
    loop {
        let more: Vec<u32> = parents
            .iter()
            .filter(|(p, parent)| found.contains(parent) && !found.contains(p))
            .map(|(p, _)| *p)
            .collect();
        if more.is_empty() {
            break;
        }
        found.extend(more);
    }
    found.remove(&pid);
    found.into_iter().collect()
}

fn parent(pid: u32) -> Option<u32> {
    let stat = String::from_utf8_lossy(&read(pid, "stat")).into_owned();
    // The name in parentheses may hold anything.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    (state != "Z").then(|| fields.next()?.parse().ok())?
}

/// One open file of a process.
#[derive(Debug)]
pub struct OpenFile {
    pub path: PathBuf,
    /// open(2)'s flags.
    pub flags: u32,
}

/// The open files of a process that `wanted` names. It runs meanwhile: what was closed between two
/// looks is left out.
pub fn open_files(pid: u32, wanted: impl Fn(&Path) -> bool) -> Vec<OpenFile> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let path = fs::read_link(entry.path()).ok().filter(|path| wanted(path))?;
            let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{}", entry.file_name().to_str()?)).ok()?;
            // The number may be another file's by now.
            let path = fs::read_link(entry.path()).ok().filter(|now| *now == path)?;
            let flags = info.lines().find_map(|l| l.strip_prefix("flags:"))?.trim();
            Some(OpenFile { path, flags: u32::from_str_radix(flags, 8).ok()? })
        })
        .collect()
}
