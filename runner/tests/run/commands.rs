//! The command line: probe, version, wrong arguments, broken folders.

use std::process::{Command, Output};

use crate::session::Session;

#[allow(clippy::disallowed_methods)] // the real binary is what is tested
fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nanoclaw-runner")).args(arguments).output().unwrap()
}

#[test]
fn probe_proves_that_the_mounts_are_right() {
    let session = Session::new();
    let output = run(&["probe", "--workspace", session.dir.root().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1);
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&report["ok"], &report["out_writable"]), (&true.into(), &true.into()));
    assert!(session.dir.out().join("probe").exists());

    let output = run(&["probe", "--workspace", "/nonexistent"]);
    assert_eq!(output.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], false);
    assert!(report["error"].as_str().unwrap().contains("/nonexistent"), "{report}");
}

#[test]
fn wrong_arguments_are_explained() {
    for arguments in [&[][..], &["fly"], &["run", "--fast"], &["run", "--workspace"]] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("usage: nanoclaw-runner"));
    }
    assert!(String::from_utf8_lossy(&run(&["--version"]).stdout).starts_with("nanoclaw-runner 0."));
}

#[test]
fn a_broken_folder_is_a_fault_that_names_the_file() {
    let session = Session::new();
    std::fs::write(session.dir.container_json(), "{").unwrap();
    assert_eq!(session.start().exit_code(), 1);
    assert!(session.log().contains("error: read") && session.log().contains("container.json"), "{}", session.log());
}
