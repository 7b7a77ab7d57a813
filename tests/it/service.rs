//! What a service manager gets to see: that the host is ready, that it turns, and when it does not.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::Host;
use crate::support::docker::docker;
use crate::support::wait::DEADLINE;

/// Short: a frozen thread is waited for.
const WATCHDOG: Duration = Duration::from_secs(1);

/// Stands in for systemd.
struct Manager(UnixDatagram);

impl Manager {
    fn of(host: &mut Host) -> Manager {
        let path = host.scratch().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        host.set("NOTIFY_SOCKET", path.to_str().unwrap());
        Manager(socket)
    }

    fn next(&self, limit: Duration) -> Option<String> {
        let mut buffer = [0; 256];
        self.0.set_read_timeout(Some(limit)).unwrap();
        let n = self.0.recv(&mut buffer).ok()?;
        Some(String::from_utf8(buffer[..n].to_vec()).unwrap())
    }

    #[track_caller]
    fn expect(&self, message: &str) {
        let heard = self.next(DEADLINE);
        assert!(heard.as_ref().is_some_and(|m| m.starts_with(message)), "{message} was expected, not {heard:?}");
    }

    /// Nothing for as long as it takes systemd to lose its patience.
    #[track_caller]
    fn expect_silence(&self, why: &str) {
        let until = Instant::now() + 10 * WATCHDOG;
        while self.next(WATCHDOG).is_some() {
            assert!(Instant::now() < until, "it is called alive, and {why}");
        }
    }
}

/// One thread that stands still; the others go on.
struct Frozen(i32);

impl Frozen {
    fn thread(tid: i32) -> Frozen {
        // SAFETY: plain calls on a thread of our own child; waitpid takes no status.
        unsafe {
            for request in [libc::PTRACE_SEIZE, libc::PTRACE_INTERRUPT] {
                assert_eq!(libc::ptrace(request, tid, 0, 0), 0, "{}", std::io::Error::last_os_error());
            }
            assert_eq!(libc::waitpid(tid, std::ptr::null_mut(), libc::__WALL), tid);
        }
        Frozen(tid)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // SAFETY: as above; a thread that is gone needs no thawing.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, 0, 0) };
    }
}

fn thread_named(pid: u32, name: &str) -> i32 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let comm = |path: &std::path::Path| fs::read_to_string(path.join("comm")).unwrap_or_default();
    let found = tasks.map(|t| t.path()).find(|path| comm(path).trim() == name);
    let found = found.unwrap_or_else(|| panic!("no thread {name}"));
    found.file_name().unwrap().to_str().unwrap().parse().unwrap()
}

#[test]
fn the_watchdog_is_fed_only_while_every_thread_turns() {
    let mut host = Host::new();
    let manager = Manager::of(&mut host);
    host.set("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
    host.start();
    manager.expect("READY=1");
    for _ in 0..3 {
        manager.expect("WATCHDOG=1");
    }
    for name in ["poller", "router", "sweep", "delivery", "cli", "watcher", "gateway", "nanoclaw"] {
        let frozen = Frozen::thread(thread_named(host.pid(), name));
        manager.expect_silence(&format!("its thread {name} stands still"));
        drop(frozen);
        manager.expect("WATCHDOG=1");
    }
    assert!(host.logged("A thread hangs thread=sweep") > 0);
    assert!(host.chat("hello").contains("Hello!"), "it works as before");
    host.sigterm();
    while manager.next(DEADLINE).expect("STOPPING=1 was expected") != "STOPPING=1" {}
}

#[test]
fn a_watchdog_for_somebody_else_is_not_fed() {
    let mut host = Host::new();
    let manager = Manager::of(&mut host);
    host.set("WATCHDOG_USEC", "100000");
    host.set("WATCHDOG_PID", "1");
    host.start();
    manager.expect("READY=1");
    assert_eq!(manager.next(WATCHDOG), None);
}

#[test]
fn an_installation_is_shown_before_it_is_done() {
    let host = Host::new();
    let output = host.run(&["service", "install", "--dry-run"]);
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""));
    let home = format!("--home \"{}\" run\nType=notify\n", host.home().root().display());
    for wanted in ["nanoclaw.service\n[Unit]", &home, "daemon-reload\n", "enable nanoclaw.service\n", "restart"] {
        assert!(output.stdout.contains(wanted), "{wanted} is not in {}", output.stdout);
    }
    let timer = host.run(&["service", "install", "--timer", "--dry-run"]).stdout;
    assert!(timer.contains(" sweep\nType=oneshot\n") && timer.contains("OnCalendar=minutely\n"), "{timer}");
}

#[test]
fn a_reload_takes_what_it_can_and_names_the_rest() {
    let mut host = Host::new();
    let manager = Manager::of(&mut host);
    let env = host.home().env_file();
    fs::write(&env, "CONTAINER_MEMORY=300m\nASSISTANT_NAME=Ann\n").unwrap();
    host.start();
    manager.expect("READY=1");
    fs::write(&env, "CONTAINER_MEMORY=200m\nASSISTANT_NAME=Bob\nNANOCLAW_LOG=debug,json\n").unwrap();
    let reload = || kill_process(Pid::from_raw(i32::try_from(host.pid()).unwrap()).unwrap(), Signal::HUP).unwrap();
    reload();
    manager.expect("RELOADING=1\nMONOTONIC_USEC=");
    manager.expect("READY=1");
    host.wait_log("A changed setting wants a restart setting=ASSISTANT_NAME", 1);
    assert_eq!(host.logged("wants a restart"), 1);
    assert!(host.log().last().unwrap().starts_with('{'), "the log is in the new format");
    host.chat("hello");
    let memory = docker(&["inspect", "--format", "{{.HostConfig.Memory}}", &host.container()]);
    assert_eq!(memory.trim(), (200 << 20).to_string());

    fs::write(&env, "CONTAINER_MEMORY=tiny\n").unwrap();
    reload();
    host.wait_log("Settings were not read again error=CONTAINER_MEMORY", 1);
}
