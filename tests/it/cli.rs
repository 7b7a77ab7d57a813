//! The command line: what it prints, where, and its exit codes.

use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Child;

use serde_json::Value;

use crate::support::Host;
use crate::support::docker::docker;
use crate::support::process::{self, run};
use crate::support::wait::{DEADLINE, is_readable, wait_for};

#[test]
fn a_chat_without_a_daemon_says_how_to_start_one() {
    let host = Host::new();
    for args in [&["chat", "hello"][..], &["chat", "--json", "hello"]] {
        let output = host.run(args);
        assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""));
        assert!(output.stderr.contains("`nanoclaw run`"), "{output:?}");
    }
}

#[test]
fn an_unknown_word_gets_a_suggestion_and_code_2() {
    let host = Host::new();
    for (args, meant) in
        [(&["statsu"][..], "status"), (&["chat", "--timout", "3"], "--timeout"), (&["doktor"], "doctor")]
    {
        let output = host.run(args);
        assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{args:?}");
        assert!(output.stderr.contains(meant), "{output:?}");
    }
}

#[test]
fn a_command_whose_output_nobody_reads_ends_without_a_word_and_the_daemon_goes_on() {
    let host = Host::started();
    for args in [&["status"][..], &["status", "--json"], &["chats", "list"], &["doctor"]] {
        let (reader, stdout) = rustix::pipe::pipe().unwrap();
        drop(reader);
        let child = host.nanoclaw(args).stdout(stdout).stderr(std::process::Stdio::piped()).spawn().unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.signal(), Some(rustix::process::Signal::PIPE.as_raw()), "{args:?}: {output:?}");
        assert!(output.stderr.is_empty(), "{args:?}: {output:?}");
    }
    let status = fs::read_to_string(format!("/proc/{}/status", host.pid())).unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap().trim();
    let pipe = 1 << (rustix::process::Signal::PIPE.as_raw() - 1);
    assert_ne!(u64::from_str_radix(ignored, 16).unwrap() & pipe, 0, "a client that leaves would end the daemon");
}

#[test]
fn help_is_there_for_everything() {
    let host = Host::new();
    let all = host.run(&["--help"]);
    assert_eq!((all.code, all.stderr.as_str()), (Some(0), ""));
    for command in ["run", "chat", "status", "doctor", "logs", "init"] {
        assert!(all.stdout.contains(command), "{}", all.stdout);
        let output = host.run(&[command, "--help"]);
        assert_eq!(output.code, Some(0));
        assert!(output.stdout.contains("Usage: nanoclaw"), "{output:?}");
    }
    assert!(host.run(&["--version"]).stdout.starts_with("nanoclaw "));
    assert_eq!(fs::read_dir(host.home().root()).unwrap().count(), 0, "nothing was made");
}

#[test]
fn a_wrong_setting_names_the_variable_the_value_and_what_is_allowed() {
    let mut host = Host::new();
    host.set("MAX_CONCURRENT_CONTAINERS", "many");
    let output = host.run(&["run"]);
    assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""));
    for part in ["MAX_CONCURRENT_CONTAINERS", "many", "from 1 to"] {
        assert!(output.stderr.contains(part), "{output:?}");
    }
    host.unset("MAX_CONCURRENT_CONTAINERS");
    fs::write(host.home().env_file(), "CONTAINER_IDLE_SECONDS=forever\n").unwrap();
    let output = host.run(&["run"]);
    assert!(output.stderr.contains("CONTAINER_IDLE_SECONDS") && output.stderr.contains("forever"), "{output:?}");
}

#[test]
fn a_setting_of_the_environment_wins_over_the_file() {
    let mut host = Host::new();
    assert_eq!(host.run(&["init", "--yes"]).code, Some(0));
    fs::write(host.home().env_file(), "NANOCLAW_PROVIDER=nonsense\n").unwrap();
    assert_eq!(host.run(&["run"]).code, Some(1));
    host.set("NANOCLAW_PROVIDER", "demo");
    host.start();
    assert!(host.stdout()[0].contains("provider=demo"));
    assert_eq!(host.stdout().len(), 1, "one line, and nothing else: {:?}", host.stdout());
}

#[test]
fn the_home_is_closed_to_others() {
    let mut host = Host::new();
    fs::set_permissions(host.home().root(), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(host.run(&["init", "--yes"]).code, Some(0));
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(host.home().root()), mode(&host.home().env_file())), (0o700, 0o600));
    fs::set_permissions(host.home().env_file(), fs::Permissions::from_mode(0o644)).unwrap();
    host.start();
    assert_eq!(mode(&host.home().env_file()), 0o600, "closed again");
    assert_eq!((mode(&host.home().cli_socket()), mode(&host.home().store())), (0o600, 0o600));
    assert_eq!(mode(&host.home().log_file()), 0o600);
    let again = host.run(&["init", "--yes"]);
    assert!(again.code == Some(0) && !again.stdout.contains("wrote"), "init is safe to repeat: {again:?}");
}

#[test]
fn status_tells_of_the_daemon_and_its_sessions_up_and_down() {
    let mut host = Host::new();
    let nothing = host.run(&["status"]);
    assert!(nothing.code == Some(1) && nothing.stderr.contains("`nanoclaw init`"), "{nothing:?}");
    host.start();
    host.chat("hello");
    host.wait_completed(1);
    let up = host.json(&["status"]);
    assert_eq!(up["daemon"]["running"], true);
    assert_eq!(up["daemon"]["pid"], host.pid());
    assert_eq!(up["daemon"]["accepting"], true);
    let session = &up["sessions"][0];
    assert_eq!(session["id"], host.session().id);
    assert_eq!(session["containerName"], host.container());
    assert_eq!((&session["queued"], &session["undelivered"]), (&0.into(), &0.into()));
    assert!(session["container"] == "running" || session["container"] == "idle", "{session}");
    assert!(session["lastProgress"].is_string());
    let text = host.run(&["status"]).stdout;
    assert!(text.contains(&format!("running (process {})", host.pid())), "{text}");

    host.sigterm();
    let down = host.json(&["status"]);
    assert_eq!((&down["daemon"]["running"], &down["daemon"]["accepting"]), (&false.into(), &false.into()));
    assert_eq!(down["sessions"][0]["id"], host.session().id);
    assert!(host.run(&["status"]).stdout.contains("`nanoclaw run`"));
}

#[test]
fn doctor_finds_nothing_wrong_here_up_and_down() {
    let mut host = Host::new();
    let check = |host: &Host| {
        let checks = host.json(&["doctor"]);
        for check in checks.as_array().unwrap() {
            assert_eq!(check["ok"], true, "{check}");
        }
        let names: Vec<String> =
            checks.as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap().into()).collect();
        for name in
            ["home", "disk", "database", "clock", "docker", "runner", "image", "runner-in-image", "memory-limit"]
        {
            assert!(names.iter().any(|n| n == name), "{names:?}");
        }
    };
    check(&host);
    host.start();
    check(&host);
}

#[test]
fn doctor_names_what_is_wrong_and_what_helps() {
    let mut host = Host::new();
    host.set("CONTAINER_IMAGE", "nanoclaw-no-such-image:1");
    let output = host.run(&["doctor"]);
    assert_eq!(output.code, Some(1));
    let failed = output.stdout.lines().find(|l| l.starts_with("FAILED")).unwrap_or_else(|| panic!("{output:?}"));
    assert!(failed.contains("nanoclaw-no-such-image:1") && output.stdout.contains("`make image`"), "{output:?}");

    host.set("DOCKER", "/nowhere/docker");
    let output = host.run(&["doctor", "--json"]);
    assert_eq!(output.code, Some(1));
    let checks: Value = serde_json::from_str(&output.stdout).unwrap();
    let docker = checks.as_array().unwrap().iter().find(|c| c["name"] == "docker").unwrap();
    assert_eq!(docker["ok"], false);
    assert!(docker["remedy"].as_str().unwrap().contains("`make run`"), "{docker}");
}

#[test]
fn logs_show_the_host_and_what_a_container_said() {
    let mut host = Host::new();
    let none = host.run(&["logs"]);
    assert!(none.code == Some(1) && none.stderr.contains("has not run"), "{none:?}");
    host.start();
    host.chat("hello");
    let log = host.run(&["logs"]);
    assert_eq!(log.code, Some(0));
    assert!(log.stdout.contains("Ready") && log.stdout.contains("Message routed"), "{log:?}");
    docker(&["kill", &host.container()]);
    host.wait_run_ended(1);
    let session = host.session().id;
    let log = host.run(&["logs", &session[..session.len() - 2]]);
    assert!(log.stdout.contains("Runner started"), "{log:?}");
    let unknown = host.run(&["logs", "no-such-session"]);
    assert!(unknown.code == Some(1) && unknown.stderr.contains(&session), "{unknown:?}");
}

#[test]
fn a_chat_with_json_prints_one_document_a_line() {
    let host = Host::started();
    let output = host.run(&["chat", "--json", "hello"]);
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""));
    let lines: Vec<Value> = output.stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    // That somebody types is said when there is a moment for it.
    let types: Vec<&str> = lines.iter().map(|l| l["type"].as_str().unwrap()).filter(|t| *t != "typing").collect();
    assert_eq!(types, ["accepted", "text", "turn_end"]);
    assert_eq!(lines.last().unwrap()["result"], "completed");
}

#[test]
fn an_unknown_group_is_refused_with_those_there_are() {
    let host = Host::started();
    let output = host.run(&["chat", "--to", "nobody", "hello"]);
    assert_eq!(output.code, Some(1));
    assert!(output.stderr.contains("nobody") && output.stderr.contains("main"), "{output:?}");
}

#[test]
fn nothing_to_say_is_an_error() {
    let host = Host::started();
    let output = run(&mut host.nanoclaw(&["chat"]), "\n");
    assert!(output.code == Some(1) && output.stderr.contains("nothing to say"), "{output:?}");
    assert!(host.store().active_sessions().unwrap().is_empty());
}

/// `nanoclaw chat` on a pseudo-terminal of its own.
struct Terminal {
    /// None once it has hung up.
    ours: Option<OwnedFd>,
    chat: Child,
    shown: String,
    /// Up to here the test has looked.
    looked: usize,
}

impl Terminal {
    fn open(host: &Host) -> Terminal {
        let (ours, theirs) = terminal();
        let mut command = host.nanoclaw(&["chat"]);
        command.env("TERM", "xterm");
        command.stdin(theirs.try_clone().unwrap()).stdout(theirs.try_clone().unwrap()).stderr(theirs);
        let chat = command.spawn().unwrap();
        let mut terminal = Terminal { ours: Some(ours), chat, shown: String::new(), looked: 0 };
        terminal.shows("You are talking to your agent");
        terminal.shows("> ");
        terminal
    }

    /// Waits until this is on the screen, after what was looked for before.
    #[track_caller]
    fn shows(&mut self, text: &str) {
        self.see(text, |new| new.find(text).map(|at| at + text.len()));
    }

    #[track_caller]
    fn see(&mut self, what: &str, found: impl Fn(&str) -> Option<usize>) {
        loop {
            if let Some(end) = found(&self.shown[self.looked..]) {
                self.looked += end;
                return;
            }
            let mut bytes = [0; 4096];
            let ours = self.ours.as_ref().expect("the terminal is there");
            if !is_readable(ours, DEADLINE) {
                panic!("no {what:?} on the screen: {:?}", self.shown);
            }
            let n = rustix::io::read(ours, &mut bytes).expect("the chat still runs");
            self.shown.push_str(&String::from_utf8_lossy(&bytes[..n]));
        }
    }

    fn keys(&self, keys: &str) {
        let ours = self.ours.as_ref().expect("the terminal is there");
        assert_eq!(rustix::io::write(ours, keys.as_bytes()).unwrap(), keys.len());
    }

    fn hang_up(&mut self) {
        self.ours = None;
    }

    /// Types a line as a person does: the next key when the last one is on the screen.
    #[track_caller]
    fn enters(&mut self, line: &str) {
        for key in line.chars() {
            self.keys(&key.to_string());
            self.shows(&key.to_string());
        }
        self.keys("\r");
    }

    fn ends(mut self) {
        self.keys("\u{4}");
        let status = process::wait(&mut self.chat, DEADLINE).expect("Ctrl-D ends it");
        assert_eq!(status.code(), Some(0));
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It is ours, and after a failed test nobody else ends it; ended already is as good.
        let _ = self.chat.kill();
        let _ = self.chat.wait();
    }
}

/// Both ends of a new pseudo-terminal: ours, and the one for a program. No child inherits either
/// by accident: whoever holds our end keeps the terminal from hanging up.
fn terminal() -> (OwnedFd, OwnedFd) {
    const FLAGS: libc::c_int = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    let made = |what: &str, result: libc::c_int| {
        assert!(result >= 0, "{what}: {}", std::io::Error::last_os_error());
        result
    };
    // SAFETY: each descriptor was just handed to us, and becomes its only owner's.
    unsafe {
        let ours = OwnedFd::from_raw_fd(made("posix_openpt", libc::posix_openpt(FLAGS)));
        made("grantpt", libc::grantpt(ours.as_raw_fd()));
        made("unlockpt", libc::unlockpt(ours.as_raw_fd()));
        let theirs =
            OwnedFd::from_raw_fd(made("its other end", libc::ioctl(ours.as_raw_fd(), libc::TIOCGPTPEER, FLAGS)));
        let size = libc::winsize { ws_row: 24, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 };
        made("its size", libc::ioctl(ours.as_raw_fd(), libc::TIOCSWINSZ, &size));
        (ours, theirs)
    }
}

#[test]
fn a_chat_on_a_terminal_is_a_conversation() {
    let host = Host::started();
    let mut terminal = Terminal::open(&host);
    terminal.enters("hello");
    terminal.shows("Hello! I am the demo provider (turn 1).");
    terminal.shows("> ");
    terminal.enters("one \\");
    terminal.shows("… ");
    terminal.enters("two");
    terminal.shows("turn 2. You said: \"one");
    terminal.shows("two\"");
    terminal.ends();
    host.wait_completed(2);
    let history = fs::read_to_string(host.home().data().join("chat-history")).unwrap();
    assert!(history.contains("hello"), "{history}");
}

/// As over a slow connection, or from a program.
#[test]
fn keys_that_come_in_one_go_are_all_taken() {
    let host = Host::started();
    let mut terminal = Terminal::open(&host);
    terminal.keys("hello\r");
    terminal.shows("Hello! I am the demo provider (turn 1).");
    terminal.ends();
}

/// What was said while nobody sat there is shown to the next one who does.
#[test]
fn a_terminal_that_comes_back_is_shown_what_it_missed() {
    let host = Host::started();
    let mut client = host.client();
    client.say("m1", "hello");
    client.accepted("m1");
    drop(client);
    wait_for("the answer", &[], || {
        (host.store().active_sessions().unwrap().len() == 1 && host.replies().len() == 1).then_some(())
    });
    let mut terminal = Terminal::open(&host);
    terminal.looked = 0; // it may come before the prompt does
    terminal.shows("Hello! I am the demo provider (turn 1).");
    terminal.ends();
}

/// The window was closed: there is nobody to talk to any more, and nowhere to say so.
#[test]
fn a_chat_whose_terminal_is_gone_ends() {
    let host = Host::started();
    for typed in ["", "half a li"] {
        let mut terminal = Terminal::open(&host);
        terminal.keys(typed);
        terminal.shows(typed);
        terminal.hang_up();
        let status = process::wait(&mut terminal.chat, DEADLINE).expect("a hang-up ends it");
        assert_eq!(status.code(), Some(0), "after {typed:?}: {status}");
    }
}
