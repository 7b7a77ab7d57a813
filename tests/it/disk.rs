//! The disk is full, or read-only: nothing that was accepted is lost, and it goes on without a
//! restart.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::docker::docker;
use crate::support::process::{as_root, root_command, run};
use crate::support::wait::wait_for;
use crate::support::{Client, Host};

/// A file system of its own, small enough to be filled. Gone with this.
struct Mounted(PathBuf);

impl Mounted {
    #[track_caller]
    fn tmpfs(at: &Path, size: &str) -> Mounted {
        // The folder keeps the mode and owner it has.
        let meta = fs::metadata(at).unwrap();
        let options = format!("size={size},mode={:o},uid={},gid={}", meta.mode() & 0o7777, meta.uid(), meta.gid());
        Mounted::mount(&["-t", "tmpfs", "-o", &options, "tmpfs"], at)
    }

    /// The same folder, which cannot be written any more by whoever comes to it by its path.
    fn read_only(at: &Path) -> Mounted {
        let path = at.display().to_string();
        let mounted = Mounted::mount(&["--bind", &path], at);
        // Refused while the host happens to have a file of it open for writing.
        let remount = || run(root_command("mount").args(["-o", "remount,bind,ro", &path]), "").code == Some(0);
        wait_for("the mount to be read-only", &[], || remount().then_some(()));
        mounted
    }

    #[track_caller]
    fn mount(what: &[&str], at: &Path) -> Mounted {
        as_root(&[&["mount"], what, &[&at.display().to_string()]].concat());
        Mounted(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: a container may still have it.
        as_root(&["umount", "--lazy", &self.0.display().to_string()]);
    }
}

/// Takes all the room there is; returns what to remove to have it back.
fn fill(folder: &Path) -> PathBuf {
    let ballast = folder.join("ballast");
    let mut file = File::create(&ballast).unwrap();
    for piece in [1 << 16, 1 << 12, 1 << 8, 1] {
        let bytes = vec![b'x'; piece];
        while file.write_all(&bytes).is_ok() {}
    }
    ballast
}

/// Says something and waits for what the host makes of it: true when it has it on disk.
fn is_accepted(client: &mut Client, id: &str, text: &str) -> bool {
    client.say(id, text);
    let lines =
        client.until("acceptance or an error", |l| l["type"] == "error" || (l["type"] == "accepted" && l["id"] == id));
    let last = lines.last().unwrap();
    if last["type"] == "error" {
        let message = last["message"].as_str().unwrap();
        assert!(message.contains(id) && message.contains("send it again"), "{message}");
    }
    last["type"] == "accepted"
}

#[track_caller]
fn hear(client: &Client, quoted: &str) -> Vec<Value> {
    client.until(quoted, |l| l["text"].as_str().is_some_and(|t| t.contains(quoted)))
}

#[test]
fn a_full_disk_refuses_messages_and_goes_on_when_there_is_room() {
    let mut host = Host::new();
    let _disk = Mounted::tmpfs(host.home().root(), "12m");
    host.start();
    let mut client = host.client();
    assert_eq!(client.ask("m1", "first.").len(), 1);
    host.wait_completed(1);
    let ballast = fill(host.home().root());
    let refused: Vec<String> =
        (2..6).map(|n| format!("m{n}")).filter(|id| !is_accepted(&mut client, id, &format!("this is {id}."))).collect();
    assert!(!refused.is_empty(), "the disk is full");
    assert!(host.log().iter().any(|l| l.contains("full")), "{:#?}", host.log());
    let status = host.run(&["status"]);
    assert_eq!(status.code, Some(0), "{status:?}");

    fs::remove_file(ballast).unwrap();
    for id in &refused {
        assert!(is_accepted(&mut client, id, &format!("this is {id}.")));
    }
    host.wait_completed(5);
    for id in ["m2", "m3", "m4", "m5"] {
        let replies = host.replies().iter().filter(|r| r.contains(&format!("\"this is {id}.\""))).count();
        assert_eq!(replies, 1, "{id}: {:#?}", host.replies());
    }
    assert!(host.chat("and now?").contains("\"and now?\""));
}

#[test]
fn a_full_disk_of_the_container_delays_its_answers_until_there_is_room() {
    let mut host = Host::started();
    host.chat("hello");
    host.wait_completed(1);
    host.sigterm();
    docker(&["rm", "--force", &host.container()]);
    let out = host.dir().out();
    let kept = host.scratch().join("kept");
    fs::copy(host.dir().outbound_db(), &kept).unwrap();
    let _disk = Mounted::tmpfs(&out, "256k");
    fs::copy(&kept, host.dir().outbound_db()).unwrap();
    let owner = fs::metadata(&out).unwrap();
    chown(host.dir().outbound_db(), Some(owner.uid()), Some(owner.gid())).unwrap();
    let ballast = fill(&out);

    host.start();
    let mut client = host.client();
    assert!(is_accepted(&mut client, "m2", "second."), "its disk is not ours");
    let ended = |n| host.runs().iter().filter(|r| r.exit_code == Some(1)).count() >= n;
    wait_for("a container that cannot write", &[], || ended(1).then_some(()));
    fs::remove_file(ballast).unwrap();
    hear(&client, "\"second.\"");
    host.wait_completed(2);
    assert_eq!(host.replies().len(), 2, "{:#?}", host.replies());
    assert_eq!(client.ask("m3", "third.").len(), 1);
}

#[test]
fn a_read_only_home_is_named_at_the_start() {
    let mut host = Host::started();
    host.chat("hello");
    host.sigterm();
    let read_only = Mounted::read_only(host.home().root());
    let started = host.run(&["run"]);
    assert_eq!(started.code, Some(1), "{started:?}");
    let home = host.home().root().display().to_string();
    assert!(started.stderr.contains("Read-only file system") && started.stderr.contains(&home), "{started:?}");
    drop(read_only);
    host.start();
    assert!(host.chat("second").contains("turn 2"));
}

#[test]
fn a_home_that_becomes_read_only_loses_nothing_and_goes_on_once_it_is_not() {
    let host = Host::started();
    host.chat("hello");
    host.wait_completed(1);
    let mut client = host.client();
    let read_only = Mounted::read_only(host.home().root());
    // The store is open already: it may still take what the session's file cannot.
    let accepted = is_accepted(&mut client, "m2", "second.");
    drop(read_only);
    assert!(accepted || is_accepted(&mut client, "m2", "second."));
    hear(&client, "\"second.\"");
    host.wait_completed(2);
}

#[test]
fn a_look_at_a_home_that_is_read_only_says_that_it_is() {
    let host = Host::new();
    host.run(&["init", "--yes"]);
    let _mounted = Mounted::read_only(host.home().root());
    let output = host.run(&["status"]);
    assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""));
    let data = host.home().data();
    assert!(
        output.stderr.contains(&format!("{} cannot be written (Read-only file system", data.display())),
        "{output:?}"
    );
}
