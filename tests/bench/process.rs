//! What the kernel says about a process, and the docker CLI.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Between two looks at something that is waited for.
const STEP: Duration = Duration::from_millis(2);

/// Runs the docker CLI to its end; its stdout.
pub fn docker(args: &[&str]) -> Result<String> {
    let program = std::env::var("DOCKER").unwrap_or_else(|_| "docker".into());
    let output = Command::new(&program).args(args).output().with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Looks again and again until it is true.
pub fn wait_until(what: &str, limit: Duration, mut is_true: impl FnMut() -> Result<bool>) -> Result<()> {
    let until = Instant::now() + limit;
    while !is_true()? {
        if Instant::now() > until {
            bail!("waited {} s for {what}", limit.as_secs());
        }
        thread::sleep(STEP);
    }
    Ok(())
}

/// Processes whose parent this is.
pub fn children(pid: u32) -> Vec<u32> {
    processes().filter(|p| stat(*p).is_some_and(|s| s.parent == pid)).collect()
}

/// How many other processes run the same file: they share its pages, which lowers PSS.
pub fn siblings(pid: u32) -> usize {
    let identity = |pid: u32| fs::metadata(format!("/proc/{pid}/exe")).map(|m| (m.dev(), m.ino())).ok();
    let own = identity(pid);
    processes().filter(|p| *p != pid && own.is_some() && identity(*p) == own).count()
}

fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok())
}

struct Stat {
    parent: u32,
    faults_of_children: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before the last parenthesis may hold anything.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Stat { parent: fields.get(1)?.parse().ok()?, faults_of_children: fields.get(8)?.parse().ok()? })
}

/// Memory of a process, pages shared with others counted in part.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    pub pss_kib: f64,
    pub pss_anonymous_kib: f64,
    pub pss_file_kib: f64,
    pub rss_kib: f64,
}

impl Memory {
    pub fn of(pid: u32) -> Result<Memory> {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let field = |name: &str| {
            let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
            let kib = line.and_then(|l| l.trim().strip_suffix("kB")?.trim().parse().ok());
            kib.with_context(|| format!("{path} has no {name}"))
        };
        Ok(Memory {
            pss_kib: field("Pss")?,
            pss_anonymous_kib: field("Pss_Anon")?,
            pss_file_kib: field("Pss_File")?,
            rss_kib: field("Rss")?,
        })
    }
}

/// What a process has used so far.
#[derive(Debug, Clone)]
pub struct Usage {
    /// Per thread: what it is called.
    threads: BTreeMap<u32, ThreadUsage>,
    pub bytes_written: u64,
    /// Grows when a child that was started has ended.
    faults_of_children: u64,
}

#[derive(Debug, Clone)]
struct ThreadUsage {
    name: String,
    cpu: Duration,
    /// Voluntary context switches: it waited, and was woken.
    wakes: u64,
}

impl Usage {
    pub fn of(pid: u32) -> Result<Usage> {
        let mut threads = BTreeMap::new();
        for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
            let path = entry?.path();
            let read = |name: &str| fs::read_to_string(path.join(name)).unwrap_or_default();
            let id = path.file_name().and_then(|n| n.to_str()?.parse().ok()).context("a thread without an id")?;
            let nanoseconds = read("schedstat").split(' ').next().and_then(|n| n.parse().ok());
            let wakes = read("status")
                .lines()
                .find_map(|l| l.strip_prefix("voluntary_ctxt_switches:")?.trim().parse().ok())
                .unwrap_or(0);
            let cpu = Duration::from_nanos(nanoseconds.unwrap_or(0));
            threads.insert(id, ThreadUsage { name: read("comm").trim().to_owned(), cpu, wakes });
        }
        let io = fs::read_to_string(format!("/proc/{pid}/io"))?;
        let bytes_written =
            io.lines().find_map(|l| l.strip_prefix("write_bytes: ")?.parse().ok()).context("no write_bytes")?;
        let faults_of_children = stat(pid).context("the process is gone")?.faults_of_children;
        Ok(Usage { threads, bytes_written, faults_of_children })
    }

    pub fn threads(&self) -> usize {
        self.threads.len()
    }

    /// CPU time since `before`; a thread that ended meanwhile is not counted.
    pub fn cpu_since(&self, before: &Usage) -> Duration {
        self.since(before).map(|(_, cpu, _)| cpu).sum()
    }

    pub fn wakes_since(&self, before: &Usage) -> u64 {
        self.since(before).map(|(_, _, wakes)| wakes).sum()
    }

    /// CPU time of the threads of this name.
    pub fn cpu_of(&self, name: &str) -> Duration {
        self.threads.values().filter(|t| t.name == name).map(|t| t.cpu).sum()
    }

    /// Who woke how often, for a note.
    pub fn wakers_since(&self, before: &Usage) -> String {
        let mut wakers: Vec<_> = self.since(before).filter(|(.., wakes)| *wakes > 0).collect();
        wakers.sort_by_key(|(.., wakes)| std::cmp::Reverse(*wakes));
        wakers.iter().map(|(name, _, wakes)| format!("{name} {wakes}")).collect::<Vec<_>>().join(", ")
    }

    /// Whether a child process was started and has ended since `before`. One that still runs is
    /// in [`children`].
    pub fn child_ended_since(&self, before: &Usage) -> bool {
        self.faults_of_children > before.faults_of_children
    }

    fn since<'a>(&'a self, before: &'a Usage) -> impl Iterator<Item = (&'a str, Duration, u64)> + 'a {
        self.threads.iter().map(|(id, now)| {
            let (cpu, wakes) = before.threads.get(id).map_or((Duration::ZERO, 0), |t| (t.cpu, t.wakes));
            (now.name.as_str(), now.cpu.saturating_sub(cpu), now.wakes.saturating_sub(wakes))
        })
    }
}
