//! The table: what was measured, what was wanted, and whether it was met.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::Effort;
use crate::host::bench_dir;
use crate::samples::Samples;

/// Writes that say how long the disk takes for one.
const FSYNC_SAMPLES: usize = 100;

/// What a missed target means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// A ratio, a count or a size: the bench fails.
    Fails,
    /// An absolute time: it depends on the machine.
    Informs,
}

/// One line of the table.
#[derive(Debug)]
struct Row {
    name: String,
    /// `None`: it could not be measured, and the note says why.
    value: Option<f64>,
    unit: &'static str,
    at_most: Option<f64>,
    weight: Weight,
    note: String,
}

impl Row {
    fn met(&self) -> Option<bool> {
        Some(self.value? <= self.at_most?)
    }

    fn verdict(&self) -> &'static str {
        match (self.met(), self.weight) {
            (Some(true), _) => "met",
            (Some(false), Weight::Fails) => "MISSED",
            (Some(false), Weight::Informs) => "missed",
            (None, _) if self.value.is_none() => "not measured",
            (None, _) => "",
        }
    }
}

/// All lines so far.
#[derive(Debug)]
pub struct Report {
    effort: Effort,
    fsync_ms: f64,
    rows: Vec<Row>,
}

impl Report {
    /// Measures the disk, which everything durable waits for.
    pub fn new(effort: Effort) -> Result<Report> {
        let fsync_ms = fsync()?.median_ms();
        let report = Report { effort, fsync_ms, rows: Vec::new() };
        println!("{}", report.machine_line());
        Ok(report)
    }

    pub fn fsync_ms(&self) -> f64 {
        self.fsync_ms
    }

    /// A value with a target it must not exceed.
    pub fn at_most(&mut self, name: &str, value: f64, unit: &'static str, at_most: f64, weight: Weight, note: String) {
        self.push(Row { name: name.into(), value: Some(value), unit, at_most: Some(at_most), weight, note });
    }

    /// A value that has no target but explains another one.
    pub fn beside(&mut self, name: &str, value: f64, unit: &'static str, note: String) {
        self.push(Row { name: name.into(), value: Some(value), unit, at_most: None, weight: Weight::Informs, note });
    }

    /// What could not be measured, and why.
    pub fn absent(&mut self, name: &str, why: String) {
        self.push(Row { name: name.into(), value: None, unit: "", at_most: None, weight: Weight::Informs, note: why });
    }

    /// Each line is shown at once, since the whole takes minutes.
    fn push(&mut self, row: Row) {
        let value = row.value.map_or("-".into(), |v| format!("{} {}", number(v), row.unit));
        let at_most = row.at_most.map_or("".into(), |v| format!("<= {}", number(v)));
        println!("{:<46} {:>13} {:>9}  {:<7} {}", row.name, value.trim_end(), at_most, row.verdict(), row.note);
        self.rows.push(row);
    }

    /// Writes `bench.json` and judges.
    pub fn finish(self, bin: &Path) -> Result<ExitCode> {
        let path = bin.parent().unwrap_or(bin).join("bench.json");
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|r| {
                json!({"name": r.name, "value": r.value, "unit": r.unit, "at_most": r.at_most, "met": r.met(),
                       "fails": r.weight == Weight::Fails, "note": r.note})
            })
            .collect();
        let document = json!({"machine": self.machine_line(), "fsync_ms": self.fsync_ms,
                              "quick": self.effort == Effort::Quick, "rows": rows});
        fs::write(&path, serde_json::to_string_pretty(&document)? + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
        let count = |weight| self.rows.iter().filter(|r| r.met() == Some(false) && r.weight == weight).count();
        let (failed, informed) = (count(Weight::Fails), count(Weight::Informs));
        println!("{failed} targets missed, and {informed} absolute times; written to {}", path.display());
        Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn machine_line(&self) -> String {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        format!(
            "linux {}, {cores} cores, load {}, fsync {:.2} ms{}",
            read("/proc/sys/kernel/osrelease").trim(),
            load(),
            self.fsync_ms,
            if self.effort == Effort::Quick { ", QUICK: few samples, short idle time" } else { "" },
        )
    }
}

/// Processes that wanted a core in the last minute: others beside us make every time longer.
pub fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_owned()
}

/// As few digits as say something.
fn number(value: f64) -> String {
    if value.fract() == 0.0 || value.abs() >= 100.0 {
        format!("{value:.0}")
    } else if value.abs() >= 1.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.3}")
    }
}

/// One page written and synced, over and over.
fn fsync() -> Result<Samples> {
    let path: PathBuf = bench_dir().join(format!("nanoclaw-fsync-{}", std::process::id()));
    let mut samples = Samples::default();
    let mut file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    for _ in 0..FSYNC_SAMPLES {
        let started = Instant::now();
        file.write_all(&[0; 4096])?;
        file.sync_all()?;
        samples.push(started.elapsed());
    }
    fs::remove_file(&path)?;
    Ok(samples)
}
