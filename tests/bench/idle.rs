//! What an idle host and an idle runner cost, after a burst that left its traces.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::Effort;
use crate::host::{Client, Host};
use crate::process::{self, Memory, Usage};
use crate::report::{Report, Weight};

const BURST: usize = 200;
const HOST_PSS_MIB: f64 = 6.0;
const RUNNER_PSS_MIB: f64 = 4.0;
const MAX_THREADS: f64 = 20.0;
const MAX_CPU_PERCENT: f64 = 0.1;
const MAX_WAKES_PER_SECOND: f64 = 2.0;

pub fn measure(report: &mut Report, host: &Host<'_>, client: &mut Client, effort: Effort) -> Result<()> {
    let window = Duration::from_secs(effort.pick(60, 10) as u64);
    let started = Instant::now();
    client.burst(BURST)?;
    let took = started.elapsed();
    let per_second = BURST as f64 / took.as_secs_f64();
    report.beside("burst of 200 messages, all turns", took.as_secs_f64() * 1e3, "ms", format!("{per_second:.0}/s"));
    thread::sleep(window);

    let (host_pid, runner_pid) = (host.pid(), host.runner_pid()?);
    let memory_after_burst = (Memory::of(host_pid)?, Memory::of(runner_pid)?);
    let files = stamps(host.place.home.root())?;
    let before = (Usage::of(host_pid)?, Usage::of(runner_pid)?);
    thread::sleep(window);
    let after = (Usage::of(host_pid)?, Usage::of(runner_pid)?);
    let docker_now = process::children(host_pid).len();
    let changed = changes(&files, &stamps(host.place.home.root())?);
    let seconds = window.as_secs_f64();

    memory(report, "host idle", host_pid, memory_after_burst.0, HOST_PSS_MIB);
    report.at_most("host idle: threads", after.0.threads() as f64, "", MAX_THREADS, Weight::Fails, String::new());
    cpu(report, "host idle", &before.0, &after.0, window);
    let wakes = after.0.wakes_since(&before.0) as f64 / seconds;
    let note = format!("in {seconds:.0} s: {}", after.0.wakers_since(&before.0));
    report.at_most("host idle: wake-ups a second", wakes, "", MAX_WAKES_PER_SECOND, Weight::Fails, note);
    let bytes = after.0.bytes_written - before.0.bytes_written;
    report.at_most("host idle: bytes written", bytes as f64, "", 0.0, Weight::Fails, format!("in {seconds:.0} s"));
    let note = changed.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(" ");
    report.at_most("idle: files changed below the home", changed.len() as f64, "", 0.0, Weight::Fails, note);
    let children = docker_now + usize::from(after.0.child_ended_since(&before.0));
    report.at_most("host idle: docker processes", children as f64, "", 0.0, Weight::Fails, String::new());

    memory(report, "runner idle", runner_pid, memory_after_burst.1, RUNNER_PSS_MIB);
    cpu(report, "runner idle", &before.1, &after.1, window);
    let wakes = after.1.wakes_since(&before.1) as f64 / seconds;
    report.beside("runner idle: wake-ups a second", wakes, "", after.1.wakers_since(&before.1));
    let bytes = after.1.bytes_written - before.1.bytes_written;
    report.at_most("runner idle: bytes written", bytes as f64, "", 0.0, Weight::Fails, String::new());
    Ok(())
}

fn memory(report: &mut Report, who: &str, pid: u32, memory: Memory, at_most: f64) {
    let mib = |kib: f64| kib / 1024.0;
    let others = match process::siblings(pid) {
        0 => String::new(),
        n => format!("; {n} more processes share the binary"),
    };
    let note = format!(
        "anonymous {:.1}, files {:.1}, RSS {:.1} MiB{others}",
        mib(memory.pss_anonymous_kib),
        mib(memory.pss_file_kib),
        mib(memory.rss_kib)
    );
    report.at_most(&format!("{who}: PSS"), mib(memory.pss_kib), "MiB", at_most, Weight::Fails, note);
}

fn cpu(report: &mut Report, who: &str, before: &Usage, after: &Usage, window: Duration) {
    let used = after.cpu_since(before);
    let percent = used.as_secs_f64() / window.as_secs_f64() * 100.0;
    let note = format!("{:.1} ms in {} s", used.as_secs_f64() * 1e3, window.as_secs());
    report.at_most(&format!("{who}: CPU"), percent, "%", MAX_CPU_PERCENT, Weight::Fails, note);
}

type Stamps = BTreeMap<PathBuf, (u64, i64, i64)>;

/// Size and time of every file and folder; a WAL that is reset in place shows by its time.
fn stamps(folder: &Path) -> Result<Stamps> {
    let mut found = Stamps::new();
    let mut open = vec![folder.to_owned()];
    while let Some(path) = open.pop() {
        let meta = fs::symlink_metadata(&path)?;
        if meta.is_dir() {
            for entry in fs::read_dir(&path)? {
                open.push(entry?.path());
            }
        }
        found.insert(path, (meta.size(), meta.mtime(), meta.mtime_nsec()));
    }
    Ok(found)
}

fn changes(before: &Stamps, after: &Stamps) -> Vec<PathBuf> {
    let gone = before.keys().filter(|p| !after.contains_key(*p));
    let other = after.iter().filter(|(p, stamp)| before.get(*p) != Some(*stamp)).map(|(p, _)| p);
    gone.chain(other).cloned().collect()
}
