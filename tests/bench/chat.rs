//! What a person waits for: a message through the socket, the agent's container, and back. The
//! demo provider answers, so no model time is in it.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::Effort;
use crate::host::{Client, Host};
use crate::process::docker;
use crate::report::{self, Report, Weight};
use crate::samples::Samples;

const WARM_P50_MS: f64 = 25.0;
const WARM_P95_MS: f64 = 60.0;
/// What a first message may cost beyond a container that does nothing.
const COLD_EXTRA_MS: f64 = 150.0;
/// Pause between messages where they do not follow each other at once.
const PAUSE: Duration = Duration::from_millis(250);
const WARM_UPS: usize = 10;

pub fn measure(report: &mut Report, host: &Host<'_>, client: &mut Client, effort: Effort) -> Result<()> {
    warm(report, client, effort.pick(200, 40), Duration::ZERO, "warm")?;
    warm(report, client, effort.pick(60, 10), PAUSE, "warm, one every 250 ms")?;
    cold(report, host, client, effort)
}

fn warm(report: &mut Report, client: &mut Client, n: usize, pause: Duration, name: &str) -> Result<()> {
    let (mut accepted, mut reply, mut end) = (Samples::default(), Samples::default(), Samples::default());
    for sample in 0..WARM_UPS + n {
        thread::sleep(pause);
        let times = client.turn(&format!("message {sample}"))?;
        if sample >= WARM_UPS {
            accepted.push(times.accepted);
            reply.push(times.reply);
            end.push(times.end);
        }
    }
    let fsync = report.fsync_ms();
    let note = format!(
        "N={}; accepted {:.1}, end of turn {:.1}; one fsync {fsync:.2} ms, load {}",
        reply.len(),
        accepted.median_ms(),
        end.median_ms(),
        report::load()
    );
    report.at_most(&format!("{name}: p50"), reply.median_ms(), "ms", WARM_P50_MS, Weight::Informs, note);
    let note = format!("longest {:.1} ms", reply.quantile_ms(1.0));
    report.at_most(&format!("{name}: p95"), reply.quantile_ms(0.95), "ms", WARM_P95_MS, Weight::Informs, note);
    Ok(())
}

/// In turns, so that both see the same machine: a container that does nothing, and a first message.
fn cold(report: &mut Report, host: &Host<'_>, client: &mut Client, effort: Effort) -> Result<()> {
    let (mut bare, mut detached, mut first) = (Samples::default(), Samples::default(), Samples::default());
    for sample in 0..=effort.pick(7, 3) {
        host.stop_container()?;
        let bare_took = run_bare(&["--rm"])?;
        let detached_took = run_bare(&["--detach"])?;
        let times = client.turn("the container is gone")?;
        // The first round warms the page cache.
        if sample > 0 {
            bare.push(bare_took);
            detached.push(detached_took);
            first.push(times.reply);
        }
    }
    report.beside("cold: docker run --rm of /bin/true", bare.median_ms(), "ms", format!("N={}, p50", bare.len()));
    report.beside("cold: docker run --detach of it", detached.median_ms(), "ms", "until the CLI returns".into());
    let at_most = bare.median_ms() + COLD_EXTRA_MS;
    let note = format!("N={}; {:+.0} ms to the bare run", first.len(), first.median_ms() - bare.median_ms());
    report.at_most("cold: first message, p50", first.median_ms(), "ms", at_most, Weight::Informs, note);
    Ok(())
}

/// A container of the same image that does nothing.
fn run_bare(how: &[&str]) -> Result<Duration> {
    let image = std::env::var("CONTAINER_IMAGE").unwrap_or_else(|_| "nanoclaw-agent:latest".into());
    let mut args = vec!["run"];
    args.extend(how);
    args.extend(["--pull", "never", "--init", "--entrypoint", "/bin/true", &image]);
    let started = Instant::now();
    let output = docker(&args)?;
    let took = started.elapsed();
    // Detached, it is still there; its id was printed.
    if let Some(id) = output.split_whitespace().next() {
        docker(&["rm", "--force", id])?;
    }
    Ok(took)
}
