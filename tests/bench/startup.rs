//! From the start of the process to its line `ready`, with an empty store and with a full one,
//! what a full one costs later, and a cycle without a daemon.

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use nanoclaw::channel::cli::LOCAL_CHAT;
use nanoclaw_session::layout::SessionDir;

use crate::Effort;
use crate::host::Place;
use crate::past;
use crate::process::Usage;
use crate::report::{Report, Weight};
use crate::samples::Samples;

const MAX_MS: f64 = 50.0;
const MAX_FULL_MS: f64 = 150.0;
const MAX_SWEEP_MS: f64 = 30.0;
const SESSIONS: usize = 1_000;
const SESSIONS_OF_CYCLE: usize = 100;
const MAX_CYCLE_MS: f64 = 50.0;
const MAX_CYCLE_MIB: f64 = 12.0;
/// Once a minute the sweep looks at everything.
const SWEEP_PASS: Duration = Duration::from_secs(60);
/// Until what a start sets off has calmed down.
const CALM: Duration = Duration::from_secs(5);

pub fn measure(report: &mut Report, bin: &Path, effort: Effort) -> Result<()> {
    let n = effort.pick(10, 3);
    let place = Place::new()?;
    // The first start migrates; it is not the one people wait for.
    drop(place.start(bin)?);
    starts(report, &place, bin, n, "start to ready", MAX_MS)?;
    fill(&place, 0..SESSIONS_OF_CYCLE)?;
    cycles(report, &place, bin, n)?;
    fill(&place, SESSIONS_OF_CYCLE..SESSIONS)?;
    starts(report, &place, bin, n, "start to ready, 1,000 sessions", MAX_FULL_MS)?;
    if effort == Effort::Full {
        sweep(report, &place, bin)?;
    }
    Ok(())
}

fn starts(report: &mut Report, place: &Place, bin: &Path, n: usize, name: &str, at_most: f64) -> Result<()> {
    drop(place.start(bin)?);
    let mut samples = Samples::default();
    for _ in 0..n {
        samples.push(place.start(bin)?.ready_after);
    }
    let note = format!("N={}, p50; longest {:.1} ms", samples.len(), samples.quantile_ms(1.0));
    report.at_most(name, samples.median_ms(), "ms", at_most, Weight::Informs, note);
    Ok(())
}

/// `nanoclaw sweep` with nothing to do.
fn cycles(report: &mut Report, place: &Place, bin: &Path, n: usize) -> Result<()> {
    let (mut samples, mut most_kib) = (Samples::default(), 0);
    for _ in 0..n {
        let (took, kib) = place.cycle(bin)?;
        samples.push(took);
        most_kib = kib.max(most_kib);
    }
    let note = format!("N={}, p50; longest {:.1} ms", samples.len(), samples.quantile_ms(1.0));
    report.at_most("empty cycle, 100 sessions", samples.median_ms(), "ms", MAX_CYCLE_MS, Weight::Informs, note);
    let note = format!("resident, the most of {}", samples.len());
    report.at_most("empty cycle: memory", most_kib as f64 / 1024.0, "MiB", MAX_CYCLE_MIB, Weight::Fails, note);
    Ok(())
}

/// CPU of one pass of the sweep over sessions that do nothing.
fn sweep(report: &mut Report, place: &Place, bin: &Path) -> Result<()> {
    let host = place.start(bin)?;
    // The second pass: the first one after a start has to look into every file.
    thread::sleep(SWEEP_PASS + CALM);
    let before = Usage::of(host.pid())?;
    thread::sleep(SWEEP_PASS);
    let after = Usage::of(host.pid())?;
    let cpu = after.cpu_of("sweep") - before.cpu_of("sweep");
    let note = format!("all threads {:.1} ms in a minute", after.cpu_since(&before).as_secs_f64() * 1e3);
    report.at_most(
        "sweep over 1,000 idle sessions: CPU",
        cpu.as_secs_f64() * 1e3,
        "ms",
        MAX_SWEEP_MS,
        Weight::Informs,
        note,
    );
    Ok(())
}

/// Sessions that had one message, each in its thread, and its answer.
fn fill(place: &Place, sessions: Range<usize>) -> Result<()> {
    let store = place.store()?;
    let mut model: Option<SessionDir> = None;
    for n in sessions {
        let (id, thread) = (format!("sess-bench-{n}"), format!("thread-{n}"));
        let dir = place.session(&store, &id, LOCAL_CHAT, Some(&thread))?;
        match &model {
            None => {
                past::write(&dir, 1)?;
                model = Some(dir);
            }
            Some(model) => {
                fs::copy(model.inbound_db(), dir.inbound_db())?;
                fs::copy(model.outbound_db(), dir.outbound_db())?;
            }
        }
    }
    Ok(())
}
