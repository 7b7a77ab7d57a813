//! Kills without end, and an oracle that counts. `make soak` runs more of the same, and what takes
//! minutes.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nanoclaw::store::EndReason;
use nanoclaw_session::alive::last_heartbeat;
use rustix::process::{Pid, Signal, kill_process, pidfd_send_signal};
use serde_json::{Value, json};

use crate::support::docker;
use crate::support::oracle::Oracle;
use crate::support::wait::{Creations, DEADLINE, wait_for, wait_until};
use crate::support::{Client, Host, Random, process, sqlite};

/// Each has a chat, a session and a container of its own.
const AGENTS: [&str; 4] = ["main", "ann", "bob", "cyd"];
const CHATS: [&str; 4] = ["local", "local:ann", "local:bob", "local:cyd"];

/// Longest wait for a moment at which to kill; then it is any moment.
const MOMENT: Duration = Duration::from_secs(2);
/// Kills of a session's containers without an answer in between. A message is tried five times.
const MAX_KILLS_IN_A_ROW: usize = 2;
/// Longest time without any news at the end: a retry may wait for 40 s.
const NO_NEWS: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Host,
    Container,
}

/// When the victim dies.
#[derive(Debug, Clone, Copy)]
enum Moment {
    Any,
    /// A message was just accepted.
    Accepted,
    /// A container is being started.
    Start,
    /// The runner is inside a commit: of a claim, or of an answer.
    RunnerCommits,
    /// The host is inside a commit: of a message, or of what was delivered.
    HostCommits,
}

const MOMENTS: [Moment; 6] =
    [Moment::Any, Moment::Any, Moment::Accepted, Moment::Start, Moment::RunnerCommits, Moment::HostCommits];

/// How many hosts and containers are killed.
fn scale() -> (usize, usize) {
    if std::env::var_os("NANOCLAW_SOAK").is_some() { (200, 50) } else { (25, 10) }
}

struct Run {
    host: Host,
    client: Client,
    oracle: Oracle,
    random: Random,
    /// Of each session: kills, and the answers there were, since the last answer.
    kills_in_a_row: [(usize, usize); AGENTS.len()],
}

#[test]
fn kills_at_random_moments_lose_nothing_and_nothing_is_answered_twice() {
    let (host_kills, container_kills) = scale();
    let begun = Instant::now();
    let mut host = Host::new();
    // Containers leave and start all the time.
    host.set("CONTAINER_IDLE_SECONDS", "2");
    host.start();
    for agent in &AGENTS[1..] {
        host.add_agent(agent);
    }
    let client = host.client();
    let mut run = Run {
        client,
        host,
        oracle: Oracle::new(&CHATS),
        random: Random::new("kills_at_random_moments"),
        kills_in_a_row: [(0, 0); AGENTS.len()],
    };
    run.listen();
    let mut left = [(Victim::Host, host_kills), (Victim::Container, container_kills)];
    while let total @ 1.. = left.iter().map(|(_, n)| n).sum::<usize>() {
        let pick = usize::from(run.random.below(total) >= left[0].1);
        let moment = MOMENTS[run.random.below(MOMENTS.len())];
        let killed = match left[pick].0 {
            Victim::Host => run.kill_host(moment),
            Victim::Container => run.kill_container(moment),
        };
        left[pick].1 -= usize::from(killed);
    }
    run.settle();

    let report = run.oracle.report(&run.host);
    println!("oracle: {report}, in {} s, {}", begun.elapsed().as_secs(), run.random.seed());
    assert!(report.violations.is_empty(), "{}: {:#?}", run.random.seed(), report.violations);
    assert_eq!((report.host_kills, report.container_kills), (host_kills, container_kills));
    assert_eq!(run.host.events().two_at_once(), None, "{}", run.random.seed());
    assert!(report.duplicates <= host_kills, "{report}");
}

impl Run {
    fn listen(&mut self) {
        for chat in CHATS {
            self.client.send(&json!({"listen": chat}));
        }
        for line in self.oracle.unaccepted() {
            self.client.send(&line);
        }
    }

    /// Says a few things, to anybody or to `chat`.
    fn burst(&mut self, chat: Option<usize>) {
        for _ in 0..self.random.within(1..5) {
            let chat = chat.unwrap_or_else(|| self.random.below(CHATS.len()));
            let line = match self.random.below(12) {
                0 => self.oracle.slow_message(chat),
                _ => self.oracle.message(chat),
            };
            self.client.send(&line);
        }
    }

    /// Hears what comes for `time`, or until `enough`.
    fn hear(&mut self, time: Duration, enough: impl Fn(&Oracle) -> bool) -> bool {
        let until = Instant::now() + time;
        while !enough(&self.oracle) {
            let left = until.saturating_duration_since(Instant::now());
            match self.client.within(left) {
                Some(line) => self.oracle.hear(&line),
                None => return false,
            }
        }
        true
    }

    /// Says something and waits for the moment.
    fn until(&mut self, moment: Moment) {
        let dirs = || {
            let sessions = self.host.store().active_sessions().expect("sessions");
            sessions.into_iter().map(|s| self.host.dir_of(&s)).collect::<Vec<_>>()
        };
        match moment {
            Moment::Any => {
                self.burst(None);
                let time = Duration::from_millis(self.random.within(0..400));
                self.hear(time, |_| false);
            }
            Moment::Accepted => {
                self.burst(None);
                self.hear(MOMENT, Oracle::all_accepted);
            }
            Moment::Start => {
                let creates = self.host.events().count("create");
                let resting = self.resting();
                self.burst(resting);
                self.host.events().came("create", creates + 1, MOMENT);
            }
            Moment::RunnerCommits => {
                let commits = Creations::of("outbound.db-journal", dirs().iter().map(|d| d.out()));
                self.burst(None);
                commits.wait(MOMENT);
            }
            Moment::HostCommits => {
                let commits = Creations::of("inbound.db-journal", dirs().iter().map(|d| d.root().to_owned()));
                self.burst(None);
                // The first is a message that comes, the later ones may be an outcome.
                for _ in 0..=self.random.below(4) {
                    commits.wait(MOMENT / 4);
                }
            }
        }
    }

    /// A chat whose agent has no container.
    fn resting(&self) -> Option<usize> {
        let running = self.host.events().running();
        (0..AGENTS.len()).find(|n| !running.iter().any(|c| c.starts_with(&format!("nanoclaw-{}-", AGENTS[*n]))))
    }

    fn kill_host(&mut self, moment: Moment) -> bool {
        self.until(moment);
        self.host.kill9();
        // What was on its way to us still is.
        while let Some(line) = self.client.rest() {
            self.oracle.hear(&line);
        }
        self.oracle.host_was_killed();
        self.host.start();
        self.client = self.host.client();
        self.listen();
        true
    }

    /// False when there was none to kill.
    fn kill_container(&mut self, moment: Moment) -> bool {
        let init = match moment {
            Moment::Start => {
                let starts = self.host.events().count("start");
                self.until(moment);
                if !self.host.events().came("start", starts + 1, MOMENT) {
                    return false;
                }
                self.host.events().running().pop().and_then(|c| self.init(&c))
            }
            _ => {
                let running = self.host.events().running();
                let pick = self.random.below(running.len().max(1));
                let init = running.get(pick).and_then(|c| self.init(c));
                self.until(if init.is_some() { moment } else { Moment::Any });
                init
            }
        };
        let killed = init.is_some_and(|init| pidfd_send_signal(init.as_fd(), Signal::KILL).is_ok());
        if killed {
            self.oracle.container_was_killed();
        }
        killed
    }

    /// The init of a container that may be killed now: nobody's last chance.
    fn init(&mut self, container: &str) -> Option<OwnedFd> {
        let session = AGENTS.iter().position(|a| container.starts_with(&format!("nanoclaw-{a}-")))?;
        let answers = self.oracle.answers_in(session);
        let (kills, then) = &mut self.kills_in_a_row[session];
        if *then != answers {
            (*kills, *then) = (0, answers);
        }
        if *kills >= MAX_KILLS_IN_A_ROW {
            return None;
        }
        let init = docker::init(container)?;
        *kills += 1;
        Some(init)
    }

    /// Waits until everything is answered, and written down as such.
    fn settle(&mut self) {
        let mut latest = Instant::now();
        while !(self.oracle.all_accepted() && self.oracle.all_answered()) && latest.elapsed() < NO_NEWS {
            if let Some(line) = self.client.within(Duration::from_secs(5)) {
                latest = Instant::now();
                self.oracle.hear(&line);
            }
        }
        let store = self.host.store();
        let dirs: Vec<_> = store.active_sessions().unwrap().iter().map(|s| self.host.dir_of(s)).collect();
        wait_until(DEADLINE, &[], || {
            let pending = "SELECT id FROM messages_in WHERE status = 'pending' AND trigger = 1";
            dirs.iter().all(|d| sqlite::column(&d.inbound_db(), pending).is_ok_and(|p| p.is_empty())).then_some(())
        });
        // What is sent twice would come now.
        self.hear(Duration::from_secs(1), |_| false);
    }
}

/// Stopped at the moment at which it has claimed a message: a runner that hangs looks like that.
#[test]
fn a_runner_that_claims_a_message_and_does_nothing_is_replaced_after_a_minute() {
    const LIMIT: Duration = Duration::from_secs(180);
    let host = Host::started();
    let mut client = host.client();
    let mut sent = 0;
    let (mut lines, runner) = loop {
        sent += 1;
        client.say(&format!("m{sent}"), &format!("count to {} slowly", sent + 10));
        let dir = host.dir_of(&host.session_of("main"));
        wait_for("its folder", &[], || dir.out().is_dir().then_some(()));
        let claims = "SELECT status_changed FROM processing_ack WHERE status = 'processing'";
        let claimed = wait_for("its claim", &[&dir.out()], || sqlite::column(&dir.outbound_db(), claims).ok()?.pop());
        let runner = process::descendants(docker::pid(&host.container()))[0];
        let signal = |signal| kill_process(Pid::from_raw(i32::try_from(runner).unwrap()).unwrap(), signal).unwrap();
        signal(Signal::STOP);
        // One that has made progress since may take half an hour.
        if last_heartbeat(&dir).is_none_or(|at| at <= claimed.parse().unwrap()) {
            break (Vec::new(), runner);
        }
        signal(Signal::CONT);
        client.turn(&format!("m{sent}"));
    };
    let stopped = Instant::now();
    let answer = format!(", {}", sent + 10);
    while !lines.last().is_some_and(|l: &Value| l["text"].as_str().is_some_and(|t| t.ends_with(&answer))) {
        let left = LIMIT.saturating_sub(stopped.elapsed());
        lines.push(client.within(left).unwrap_or_else(|| panic!("no answer; {lines:#?}")));
    }
    println!("answered {} s after the runner {runner} was stopped", stopped.elapsed().as_secs());
    assert!(stopped.elapsed() > Duration::from_secs(60));
    host.wait_completed(sent);
    assert_eq!(host.runs()[0].end_reason, Some(EndReason::Stuck));
    assert_eq!(host.replies().len(), sent);
    let tries = sqlite::column(&host.dir().inbound_db(), "SELECT tries FROM messages_in ORDER BY seq DESC LIMIT 1");
    assert_eq!(tries.unwrap(), ["1"]);
}
