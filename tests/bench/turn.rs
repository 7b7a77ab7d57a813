//! What one turn without tools costs the disk, host and runner together: fsyncs by strace, bytes
//! by the kernel's own count.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::Effort;
use crate::host::{Client, Host, bench_dir};
use crate::process::{Usage, wait_until};
use crate::report::{Report, Weight};

const MAX_FSYNCS: f64 = 20.0;
const MAX_KIB: f64 = 200.0;
/// What is written behind the end of a turn is part of it.
const AFTERMATH: Duration = Duration::from_millis(200);

pub fn measure(report: &mut Report, host: &Host<'_>, client: &mut Client, effort: Effort) -> Result<()> {
    let pids = [host.pid(), host.runner_pid()?];
    bytes(report, pids, client, effort.pick(50, 10))?;

    let trace = bench_dir().join(format!("nanoclaw-strace-{}", std::process::id()));
    let strace = match Strace::attach(&pids, &trace) {
        Ok(strace) => strace,
        Err(e) => {
            report.absent("turn: fsyncs", format!("{e:#}; `apt install strace` and the right to use it"));
            return Ok(());
        }
    };
    let turns = effort.pick(20, 5);
    spaced_turns(client, turns)?;
    strace.detach()?;
    let calls = fs::read_to_string(&trace)?;
    fs::remove_file(&trace)?;
    let by_file = count(&calls);
    let total: usize = by_file.values().sum();
    let mean = |n: usize| n as f64 / turns as f64;
    let files: Vec<String> = by_file.iter().map(|(file, n)| format!("{file} {:.1}", mean(*n))).collect();
    let note = format!("N={turns}; {}", files.join(", "));
    report.at_most("turn: fsyncs", mean(total), "", MAX_FSYNCS, Weight::Fails, note);
    Ok(())
}

/// Pages of 4 KiB as the kernel counts them, also those of journals that are deleted again.
fn bytes(report: &mut Report, pids: [u32; 2], client: &mut Client, turns: usize) -> Result<()> {
    let written = || -> Result<[u64; 2]> { Ok([Usage::of(pids[0])?.bytes_written, Usage::of(pids[1])?.bytes_written]) };
    let kib = |bytes: u64| bytes as f64 / 1024.0;
    thread::sleep(AFTERMATH);
    let first = written()?;
    let (mut last, mut each) = (first, Vec::new());
    for _ in 0..turns {
        spaced_turns(client, 1)?;
        let now = written()?;
        each.push(kib(now[0] + now[1] - last[0] - last[1]));
        last = now;
    }
    each.sort_by(f64::total_cmp);
    let mean = |n: usize| kib(last[n] - first[n]) / turns as f64;
    let note = format!("N={turns}, p50; mean: host {:.0}, runner {:.0}", mean(0), mean(1));
    report.at_most("turn: written", each[turns / 2], "KiB", MAX_KIB, Weight::Fails, note);
    Ok(())
}

/// Turns that do not share a commit.
fn spaced_turns(client: &mut Client, turns: usize) -> Result<()> {
    for n in 0..turns {
        client.turn(&format!("what does turn {n} cost"))?;
        thread::sleep(AFTERMATH);
    }
    Ok(())
}

/// How often each file was synced; a folder ends in `/`.
fn count(calls: &str) -> BTreeMap<String, usize> {
    let mut by_file = BTreeMap::new();
    for line in calls.lines().filter(|l| l.contains("sync(")) {
        // 123 fdatasync(7</some/where/inbound.db>) = 0
        let Some(path) = line.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(path, _)| path) else {
            continue;
        };
        let path = path.trim_end_matches(" (deleted)");
        let name = Path::new(path).file_name().map_or(path.to_owned(), |n| n.to_string_lossy().into_owned());
        let name = if name.contains(".db") { name } else { format!("{name}/") };
        *by_file.entry(name).or_default() += 1;
    }
    by_file
}

/// strace, attached to some processes.
struct Strace {
    child: Child,
}

impl Strace {
    fn attach(pids: &[u32], trace: &Path) -> Result<Strace> {
        let mut command = Command::new("strace");
        command.args(["-f", "-y", "-q", "-e", "trace=fsync,fdatasync,sync_file_range,msync", "-o"]).arg(trace);
        for pid in pids {
            command.args(["-p", &pid.to_string()]);
        }
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().context("strace is not installed")?;
        let mut strace = Strace { child };
        let traced = |pid: &u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.lines().any(|l| l.strip_prefix("TracerPid:").is_some_and(|t| t.trim() != "0"))
        };
        wait_until("strace", Duration::from_secs(10), || {
            ensure!(strace.child.try_wait()?.is_none(), "strace may not attach");
            Ok(pids.iter().all(traced))
        })?;
        // Its other threads follow at once.
        thread::sleep(AFTERMATH);
        Ok(strace)
    }

    fn detach(mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::INT)?;
        self.child.wait()?;
        Ok(())
    }
}
