//! A session's file is damaged, replaced or a trap: that session suffers, and nobody else.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, RenameFlags, mknodat, renameat_with};
use serde_json::{Value, json};

use crate::support::wait::wait_for;
use crate::support::{Client, Host, sqlite};

/// What everybody else's messages may take meanwhile.
const MAX_LATENCY: Duration = Duration::from_secs(2);

/// What becomes of the session without anybody's help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    GoesOn,
    /// `status` and `doctor` tell of it, and it goes on once the file is itself again.
    Told,
}

struct Fault {
    agent: &'static str,
    /// Does it to the file; the other path is the same file of somebody else.
    damage: fn(&Path, &Path),
    then: Then,
}

const FAULTS: [Fault; 8] = [
    Fault { agent: "garbage", damage: |file, _| overwrite(file), then: Then::Told },
    Fault { agent: "cut", damage: |file, _| set_len(file, 5_000), then: Then::Told },
    Fault { agent: "emptied", damage: |file, _| set_len(file, 0), then: Then::GoesOn },
    // As a backup brings it back: the same bytes in another inode.
    Fault { agent: "restored", damage: |file, _| put(file, |at| copy_owned(file, at)), then: Then::GoesOn },
    Fault {
        agent: "replaced",
        damage: |file, _| put(file, |at| fs::write(at, "no database ".repeat(1_000)).unwrap()),
        then: Then::Told,
    },
    Fault { agent: "folder", damage: |file, _| put(file, |at| fs::create_dir(at).unwrap()), then: Then::Told },
    Fault { agent: "fifo", damage: |file, _| put(file, fifo), then: Then::Told },
    Fault { agent: "symlink", damage: |file, other| put(file, |at| symlink(other, at).unwrap()), then: Then::Told },
];

fn overwrite(file: &Path) {
    File::options().write(true).open(file).unwrap().write_all_at(&[b'x'; 4096], 0).unwrap();
}

fn set_len(file: &Path, bytes: u64) {
    File::options().write(true).open(file).unwrap().set_len(bytes).unwrap();
}

/// Puts something else in the file's place, in one step: its owner may look at any moment.
fn put(file: &Path, make: impl FnOnce(&Path)) {
    let other = file.with_extension("other");
    make(&other);
    renameat_with(CWD, &other, CWD, file, RenameFlags::EXCHANGE).unwrap();
    fs::remove_file(other).unwrap();
}

fn fifo(at: &Path) {
    mknodat(CWD, at, FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
}

fn copy_owned(from: &Path, to: &Path) {
    fs::copy(from, to).unwrap();
    let meta = fs::metadata(from).unwrap();
    chown(to, Some(meta.uid()), Some(meta.gid())).unwrap();
}

fn chat(agent: &str) -> String {
    format!("local:{agent}")
}

fn say(client: &mut Client, agent: &str, n: usize) {
    let id = format!("{agent}-{n}");
    let text = format!("{agent} says {n}.");
    client.send(&json!({"id": id, "text": text, "to": {"channelType": "cli", "platformId": chat(agent)}}));
}

/// Tells which of these messages are answered, from the lines so far.
fn is_answered(lines: &[Value], agent: &str, n: usize) -> bool {
    let quoted = format!("\"{agent} says {n}.\"");
    lines.iter().any(|l| l["type"] == "text" && l["text"].as_str().is_some_and(|t| t.contains(&quoted)))
}

fn hear_until(client: &Client, lines: &mut Vec<Value>, enough: impl Fn(&[Value]) -> bool) {
    while !enough(lines) {
        lines.push(client.next());
    }
}

/// The agents of [`FAULTS`], each with its session; `which` of its files is damaged.
fn only_the_session_itself_suffers(which: &str) {
    let mut host = Host::new();
    host.set("MAX_CONCURRENT_CONTAINERS", "20");
    host.start();
    for Fault { agent, .. } in &FAULTS {
        host.add_agent(agent);
    }
    let mut client = host.client();
    let mut lines = Vec::new();
    assert_eq!(client.ask("main-1", "the first.").len(), 1);
    for Fault { agent, .. } in &FAULTS {
        client.send(&json!({"listen": chat(agent)}));
        say(&mut client, agent, 1);
    }
    hear_until(&client, &mut lines, |lines| FAULTS.iter().all(|f| is_answered(lines, f.agent, 1)));

    let pid = host.pid();
    let dir_of = |agent: &str| host.dir_of(&host.session_of(agent));
    let file_of = |agent: &str| -> PathBuf {
        let dir = dir_of(agent);
        if which == "inbound.db" { dir.inbound_db() } else { dir.outbound_db() }
    };
    let kept = |agent: &str| host.scratch().join(format!("{agent}.kept"));
    for Fault { agent, damage, .. } in &FAULTS {
        let settled =
            "SELECT (SELECT COUNT(*) FROM delivered) + (SELECT COUNT(*) FROM messages_in WHERE status = 'completed')";
        let inbound = dir_of(agent).inbound_db();
        wait_for("its outcome", &[], || (sqlite::column(&inbound, settled).ok()? == ["2"]).then_some(()));
        copy_owned(&file_of(agent), &kept(agent));
        damage(&file_of(agent), &file_of("main"));
    }

    for Fault { agent, .. } in &FAULTS {
        say(&mut client, agent, 2);
    }
    for n in 0..10 {
        let begun = Instant::now();
        let id = format!("main-again-{n}");
        client.say(&id, &format!("more {n}."));
        let answered = |lines: &[Value]| {
            let quoted = format!("\"more {n}.\"");
            lines.iter().any(|l| l["text"].as_str().is_some_and(|t| t.contains(&quoted)))
        };
        hear_until(&client, &mut lines, answered);
        let waited = begun.elapsed();
        assert!(waited < MAX_LATENCY, "{id}: {waited:?}");
    }

    let told = host.run(&["status", "--json"]);
    let status: Value = serde_json::from_str(&told.stdout).unwrap_or_else(|e| panic!("{e}: {told:?}"));
    let doctor = host.run(&["doctor"]);
    for Fault { agent, then, .. } in FAULTS.iter().filter(|f| f.then == Then::Told) {
        let session = status["sessions"].as_array().unwrap().iter().find(|s| s["agentGroup"] == *agent).unwrap();
        assert!(session["lastError"].as_str().is_some_and(|e| e.contains(which)), "{agent}: {then:?} {session:#}");
        assert!(doctor.stdout.contains(session["id"].as_str().unwrap()), "{agent}: {}", doctor.stdout);
    }
    assert_eq!(doctor.code, Some(1));

    for Fault { agent, .. } in FAULTS.iter().filter(|f| f.then == Then::Told) {
        let file = file_of(agent);
        if fs::symlink_metadata(&file).unwrap().is_dir() {
            fs::remove_dir(&file).unwrap();
        }
        fs::rename(kept(agent), &file).unwrap();
    }
    // A runner cannot know that the file is another one now. (The engine's own `kill` may hit a start that is under way.)
    for Fault { agent, .. } in &FAULTS {
        let restarted = host.run(&["groups", "restart", agent]);
        assert_eq!(restarted.code, Some(0), "{restarted:?}");
    }
    hear_until(&client, &mut lines, |lines| FAULTS.iter().all(|f| is_answered(lines, f.agent, 2)));
    assert_eq!(host.pid(), pid);
    assert_eq!(host.events().two_at_once(), None);
    let others = format!(
        "SELECT COUNT(*) FROM messages_{} WHERE content LIKE '% says %'",
        if which == "inbound.db" { "in" } else { "out" }
    );
    assert_eq!(sqlite::column(&file_of("main"), &others).unwrap(), ["0"], "nothing went through the symlink");
}

#[test]
fn a_broken_inbound_db_stops_only_its_own_session() {
    only_the_session_itself_suffers("inbound.db");
}

#[test]
fn a_broken_outbound_db_stops_only_its_own_session() {
    only_the_session_itself_suffers("outbound.db");
}
