//! A real server, as its authors publish it.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use super::*;
use crate::process;

/// A real server of the protocol's own project, from PyPI.
#[test]
fn a_public_server_tells_the_time() {
    let Some(program) = installed("mcp-server-time==2026.10.19", "mcp-server-time") else { return };
    let command = program.to_str().unwrap().to_owned();
    let config = BTreeMap::from([("time".to_owned(), McpServer { command, ..McpServer::default() })]);
    let world = World::with(config, tempfile::tempdir().unwrap(), patient());
    let tools = world.tools();
    let tool = |name: &str| tools.iter().find(|tool| tool.spec().name == format!("mcp__time__{name}")).unwrap();
    assert_eq!(tool("get_current_time").effect(), Effect::Reads);
    let input = json!({"source_timezone": "Europe/Berlin", "time": "12:30", "target_timezone": "Asia/Tokyo"});
    let output = tool("convert_time").call(&input, &world.context);
    assert_eq!(output.outcome, Outcome::Done);
    assert!(text(&output).0.contains("Asia/Tokyo"), "{output:?}");
    let wrong = json!({"timezone": "Mars/Olympus"});
    assert_eq!(tool("get_current_time").call(&wrong, &world.context).outcome, Outcome::Failed);
}

/// A program of a package from PyPI, installed below the target folder once; `None`, loudly, when there is no way
/// to install anything.
fn installed(package: &str, program: &str) -> Option<PathBuf> {
    let target = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().to_owned();
    let venv = target.join("tmp").join(plain(package));
    let (bin, done) = (venv.join("bin"), venv.join("done"));
    if !done.exists() {
        run("python3", &["-m", "venv", "--clear", venv.to_str().unwrap()]).expect("python3 with venv");
        let pip = bin.join("pip");
        let install = ["install", "--quiet", "--disable-pip-version-check", package];
        if let Err(why) = run(pip.to_str().unwrap(), &install) {
            let reached =
                run(pip.to_str().unwrap(), &["download", "--no-deps", "--dest", venv.to_str().unwrap(), "pip"]);
            assert!(reached.is_err(), "{package} cannot be installed, though other packages can: {why}");
            eprintln!("\n!!! SKIPPED, NOT TESTED: no package registry can be reached: {why}\n");
            return None;
        }
        fs::write(done, "").unwrap();
    }
    Some(bin.join(program))
}

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let mut child = process::spawn(process::command(program).args(args).stdout(Stdio::null()))
        .map_err(|e| format!("{program}: {e}"))?;
    let status = child.wait(Duration::from_secs(300)).unwrap().expect("an end");
    if status.success() { Ok(()) } else { Err(format!("{program}: {status}")) }
}
