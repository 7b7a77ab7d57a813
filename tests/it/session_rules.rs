//! The rules of the session's files, each looked at where it breaks.

use std::collections::BTreeSet;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use crate::support::docker::{docker, pid};
use crate::support::wait::{DEADLINE, pass};
use crate::support::{Host, process, sqlite};

/// The names of everything that is made in a folder from now on.
struct Names {
    inotify: OwnedFd,
    seen: BTreeSet<String>,
}

impl Names {
    fn watch(folders: &[&Path]) -> Names {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).unwrap();
        for folder in folders {
            inotify::add_watch(&inotify, *folder, WatchFlags::CREATE | WatchFlags::MOVED_TO).unwrap();
        }
        Names { inotify, seen: BTreeSet::new() }
    }

    fn take(&mut self) -> &BTreeSet<String> {
        let mut buffer = [MaybeUninit::uninit(); 64 * 1024];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        while let Ok(event) = reader.next() {
            assert!(!event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW), "some names were missed");
            self.seen.extend(event.file_name().map(|n| n.to_string_lossy().into_owned()));
        }
        &self.seen
    }
}

#[test]
fn both_files_keep_a_rollback_journal_and_no_wal_ever_appears() {
    let host = Host::started();
    host.chat("hello");
    let dir = host.dir();
    let out = dir.out();
    let mut names = Names::watch(&[dir.root(), &out]);
    for text in ["one", "send me a file", "react to that"] {
        host.chat(text);
    }
    // A start of a container over existing files, too.
    docker(&["kill", "--signal", "KILL", &host.container()]);
    host.wait_run_ended(1);
    host.chat("two");
    host.run(&["status"]);
    host.wait_completed(5);

    let seen = names.take();
    for journal in ["inbound.db-journal", "outbound.db-journal"] {
        assert!(seen.contains(journal), "the watch sees what happens: {seen:?}");
    }
    let wal: Vec<&String> = seen.iter().filter(|n| n.ends_with("-wal") || n.ends_with("-shm")).collect();
    assert!(wal.is_empty(), "{wal:?}");
    for database in [dir.inbound_db(), dir.outbound_db()] {
        assert_eq!(sqlite::format_versions(&database), (1, 1), "{}", database.display());
    }
}

#[test]
fn the_runner_holds_no_handle_on_inbound_db_between_polls_and_maps_no_database() {
    const LOOKS: usize = 400;
    let host = Host::started();
    host.chat("hello");
    host.wait_completed(1);
    let init = pid(&host.container());
    let runner = process::descendants(init);
    let [runner] = runner[..] else { panic!("one runner below the init: {runner:?}") };
    assert!(process::command_line(runner).contains("nanoclaw-runner"));

    let mut held = 0;
    let mut own = 0;
    for look in 0..LOOKS {
        // Some of the looks fall into a turn.
        if look == LOOKS / 2 {
            host.chat("again");
        }
        let maps = String::from_utf8_lossy(&process::read(runner, "maps")).into_owned();
        assert!(maps.contains("nanoclaw-runner"), "the maps can be read");
        assert!(!maps.contains(".db"), "{maps}");
        let files = process::open_files(runner, |path| path.extension().is_some_and(|e| e == "db"));
        held += usize::from(files.iter().any(|f| f.path.ends_with("inbound.db")));
        own += usize::from(files.iter().any(|f| f.path.ends_with("outbound.db")));
        pass(Duration::from_millis(5));
    }
    assert!(own > 0, "its own database is open: {:?}", process::open_files(runner, |_| true));
    assert!(held * 20 < LOOKS, "inbound.db was open in {held} of {LOOKS} looks");
    let maps = String::from_utf8_lossy(&process::read(host.pid(), "maps")).into_owned();
    assert!(!maps.contains("inbound.db") && !maps.contains("outbound.db"), "the host maps none either");
}

/// The host in a mount namespace of its own, in which everything the agent may write is
/// read-only: a write, wherever it hid, would fail. The container's own mount is another one.
#[test]
fn the_host_writes_nothing_that_belongs_to_the_agent() {
    let mut host = Host::new();
    host.start_with(&["--stop-containers"]);
    host.chat("hello");
    host.sigterm();
    let dir = host.dir();
    let state = host.home().claude_state("main");
    let theirs = [dir.out(), host.home().group("main"), state].map(|p| p.display().to_string());
    let script = format!(
        "for p in '{}'; do mount --bind \"$p\" \"$p\" && mount -o remount,bind,ro \"$p\" || exit 9; done; exec \"$@\"",
        theirs.join("' '")
    );
    let mut unshare = vec!["unshare", "--mount", "--propagation", "private"];
    if !rustix::process::geteuid().is_root() {
        unshare.extend(["--user", "--map-current-user", "--keep-caps"]);
    }
    unshare.extend(["sh", "-c", &script, "sh"]);
    host.wrap(&unshare);
    host.start();
    for folder in &theirs {
        let probe = format!("/proc/{}/root{folder}/probe", host.pid());
        let error = std::fs::write(probe, "x").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(30), "read-only for the host: {error}");
    }

    let mut client = host.client();
    assert!(client.ask("m1", "one")[0].contains("turn 2"), "with its memory");
    client.say("m2", "send me a file");
    assert!(client.turn("m2").iter().any(|l| l["type"] == "file"));
    client.say("m3", "react to that");
    assert!(client.turn("m3").iter().any(|l| l["type"] == "reaction"));
    // A container that dies in a commit, and a successor.
    docker(&["kill", "--signal", "KILL", &host.container()]);
    host.wait_run_ended(2);
    assert_eq!(client.ask("m4", "two").len(), 1);
    host.wait_completed(5);
    host.assert_no_complaint();
}

#[test]
fn the_host_opens_what_the_container_wrote_for_reading_only() {
    /// Looks that fell on an open file of the container's.
    const ENOUGH: usize = 50;
    let host = Host::started();
    host.chat("hello");
    let out = host.dir().out();
    let pid = host.pid();
    let seen = AtomicUsize::new(0);
    thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let until = Instant::now() + DEADLINE;
            while seen.load(Ordering::Relaxed) < ENOUGH && Instant::now() < until {
                for file in process::open_files(pid, |path| path.starts_with(&out)) {
                    let access = OFlags::from_bits_retain(file.flags);
                    assert!(!access.intersects(OFlags::WRONLY | OFlags::RDWR), "{file:?}");
                    seen.fetch_add(usize::from(file.path.ends_with("outbound.db")), Ordering::Relaxed);
                }
            }
        });
        let mut client = host.client();
        for n in 0.. {
            if sampler.is_finished() {
                break;
            }
            let id = format!("m{n}");
            client.say(&id, &if n % 5 == 0 { format!("send me a file {n}") } else { format!("and on {n}") });
            let lines = client.turn(&id);
            assert_eq!(lines.iter().any(|l| l["type"] == "file"), n % 5 == 0, "{lines:#?}");
        }
    });
    let seen = seen.into_inner();
    assert!(seen >= ENOUGH, "only {seen} looks fell on an open file: this test sees too little");
    host.assert_no_complaint();
}
