//! README's commands are run as they stand: `make run` off a terminal until it says `ready`, then
//! each line of the block that is for another shell.

// A user's commands are what is tested here.
#![allow(clippy::disallowed_methods)]

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Runs on its own home, and takes down what it started.
struct Started {
    child: Child,
    home: PathBuf,
}

impl Drop for Started {
    fn drop(&mut self) {
        // SAFETY: a signal to the process group of our own child.
        unsafe { libc::kill(-(self.child.id() as i32), libc::SIGTERM) };
        self.child.wait().unwrap();
        let home = nanoclaw::home::Home::locate(Some(&self.home)).unwrap();
        let filter = format!("label=nanoclaw.install={}", home.install_id());
        let ids = Command::new("docker").args(["ps", "-aq", "--filter", &filter]).output().unwrap().stdout;
        let ids = String::from_utf8(ids).unwrap();
        if !ids.trim().is_empty() {
            Command::new("docker").args(["rm", "-f"]).args(ids.split_whitespace()).output().unwrap();
        }
    }
}

fn blocks(readme: &str) -> Vec<Vec<String>> {
    readme
        .split("```sh\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap().lines().map(str::to_owned).collect())
        .collect()
}

#[test]
fn the_commands_of_the_readme_work_as_they_stand() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let blocks = blocks(&readme);
    let (first, second) = (&blocks[0], &blocks[1]);
    assert!(first[0].starts_with("make run ") && first[1].starts_with("make test "), "{first:?}");
    for line in first {
        let target = line.split_whitespace().nth(1).unwrap();
        let makefile = std::fs::read_to_string(root.join("Makefile")).unwrap();
        assert!(makefile.lines().any(|l| l.starts_with(&format!("{target}:"))), "no make target {target}");
    }

    let tmp = tempfile::tempdir().unwrap();
    let home = tmp.path().join("home");
    // `make test` runs this: the inner make must not think that it shares its job slots.
    let make = |command: &mut Command| {
        command.current_dir(root).env("NANOCLAW_HOME", &home).env_remove("MAKEFLAGS").env_remove("MAKELEVEL");
    };
    let mut run = Command::new("make");
    make(&mut run);
    let mut child = run.arg("run").stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0).spawn().unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let _started = Started { child, home: home.clone() };
    let ready = stdout.lines().map_while(Result::ok).find(|line| line.starts_with("ready "));
    assert!(ready.is_some_and(|line| line.contains("provider=demo")), "`make run` ended without `ready`");

    for line in second {
        let mut shell = Command::new("sh");
        make(&mut shell);
        let output = shell.args(["-c", line]).output().unwrap();
        let shown = format!(
            "{line}\n--- stdout\n{}--- stderr\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        println!("{shown}");
        assert!(output.status.success(), "{shown}");
        assert!(!output.stdout.is_empty(), "it printed nothing: {shown}");
        if line.contains("chat") {
            assert!(shown.contains("Hello! I am the demo provider"), "{shown}");
        }
    }
}
