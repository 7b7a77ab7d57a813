//! A turn with a model: what the runner weighs in it, and what a call of a tool costs - beside the Claude Code CLI,
//! where `make test-claude` has left it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::Effort;
use crate::host::Place;
use crate::messages_api::{MessagesApi, Script};
use crate::process::Memory;
use crate::report::{Report, Weight};
use crate::samples::Samples;

/// The bound on a runner that works. MiB
const MAX_WORKING_PSS_MIB: f64 = 40.0;
const WARM_UPS: usize = 3;

pub fn measure(report: &mut Report, bin: &Path, effort: Effort) -> Result<()> {
    let place = Place::new()?;
    let api = MessagesApi::on_port();
    let settings = fs::read_to_string(place.home.env_file())?.replace("=demo", "=anthropic");
    let gateway = format!("ANTHROPIC_API_KEY=bench\nANTHROPIC_BASE_URL={}\n", api.address());
    fs::write(place.home.env_file(), settings + &gateway)?;
    let host = place.start(bin)?;
    let mut client = host.connect()?;

    for (name, input) in [("get_time", json!({})), ("bash", json!({"command": "true"}))] {
        let mut samples = Samples::default();
        for n in 0..WARM_UPS + effort.pick(100, 10) {
            api.script(Script::calls(&[(name, input.clone())]));
            client.send(&["work"])?;
            api.request();
            let asked = Instant::now();
            api.request();
            if n >= WARM_UPS {
                samples.push(asked.elapsed());
            }
            client.next()?;
        }
        let note = format!(
            "N={}, p95 {:.1} ms: answer read, tool run, next request sent",
            samples.len(),
            samples.quantile_ms(0.95)
        );
        report.beside(&format!("tool call: {name}"), samples.median_ms(), "ms", note);
    }

    api.script(Script::Paced(vec!["half".into()]));
    client.send(&["wait"])?;
    api.request();
    let memory = Memory::of(host.runner_pid()?)?;
    api.release();
    let (pss, anonymous) = (memory.pss_kib / 1024.0, memory.pss_anonymous_kib / 1024.0);
    let note = format!("anonymous {anonymous:.1} MiB, in the middle of an answer");
    report.at_most("runner in a turn: PSS", pss, "MiB", MAX_WORKING_PSS_MIB, Weight::Fails, note);
    drop(client);
    match claude() {
        Some(cli) => report.beside("Claude Code CLI in a turn: PSS", cli_pss_mib(&cli, &api)?, "MiB", String::new()),
        None => report.absent("Claude Code CLI in a turn: PSS", "`make test-claude` gets the CLI".into()),
    }
    Ok(())
}

/// The newest CLI that `make test-claude` has downloaded.
fn claude() -> Option<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    let versions = fs::read_dir(target.join("claude-cli")).ok()?;
    versions.filter_map(|entry| Some(entry.ok()?.path().join("claude"))).filter(|cli| cli.exists()).max()
}

/// What the CLI weighs after its first answer.
fn cli_pss_mib(cli: &Path, api: &MessagesApi) -> Result<f64> {
    let home = tempfile::tempdir()?;
    let mut child = Command::new(cli)
        .args(["-p", "--input-format=stream-json", "--output-format=stream-json", "--verbose", "--model=sonnet"])
        .env_clear()
        .envs([("HOME", home.path().as_os_str()), ("PATH", "/usr/bin:/bin".as_ref())])
        .envs([("ANTHROPIC_BASE_URL", api.address()), ("ANTHROPIC_API_KEY", "bench")])
        .env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")
        .current_dir(home.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let measured = (|| {
        let mut stdin = child.stdin.take().context("no stdin")?;
        writeln!(stdin, "{}", json!({"type": "user", "message": {"role": "user", "content": "hello"}}))?;
        for line in BufReader::new(child.stdout.take().context("no stdout")?).lines() {
            if serde_json::from_str::<Value>(&line?)?["type"] == "result" {
                return Ok(Memory::of(child.id())?.pss_kib / 1024.0);
            }
        }
        ensure!(false, "the CLI ended without a result");
        Ok(0.0)
    })();
    child.kill()?;
    child.wait()?;
    measured
}
