//! The host comes and goes; messages, answers and containers stay.

use std::time::{Duration, Instant};

use nanoclaw::store::EndReason;
use serde_json::Value;

use crate::faults::Engine;
use crate::messages_api::{MessagesApi, Script};
use crate::support::docker::{IMAGE, attempt, docker, labelled};
use crate::support::wait::wait_for;
use crate::support::{Host, process, sqlite, texts};

pub fn with_model(api: &MessagesApi) -> Host {
    let mut host = Host::new();
    host.set("ANTHROPIC_API_KEY", "sk-test");
    host.set("ANTHROPIC_BASE_URL", api.address());
    host
}

#[test]
fn an_answer_under_way_when_the_host_is_killed_arrives_once() {
    let api = MessagesApi::on_port();
    let mut host = with_model(&api);
    host.start();
    api.script(Script::Paced(vec!["this is never he".into(), "ard".into()]));
    api.script(Script::Say("the answer".into()));
    let mut client = host.client();
    client.say("m1", "what is it?");
    api.request();
    let container = host.container();
    host.kill9();
    api.client_gone();

    host.start();
    let mut client = host.client();
    assert_eq!(client.text(), "the answer");
    host.wait_completed(1);
    assert_eq!(client.ask("m2", "and then?"), ["answer 1"], "nothing comes twice");
    assert_eq!(host.replies(), ["the answer", "answer 1"]);
    assert_eq!(host.runs().len(), 1);
    assert_eq!(host.events().started(1), [container], "the same container all along");
    assert_eq!(host.logged("Adopted a container"), 1);
}

#[test]
fn an_answer_that_was_written_when_the_host_is_killed_arrives_once() {
    let mut host = Host::started();
    let mut client = host.client();
    client.say("m1", "hello");
    client.accepted("m1");
    drop(client);
    // Nobody listens, so it is written and not delivered.
    let out =
        wait_for("the session", &[], || host.store().active_sessions().unwrap().pop().map(|s| host.dir_of(&s).out()));
    wait_for("its folder", &[], || out.is_dir().then_some(()));
    wait_for("the answer", &[&out], || (host.replies().len() == 1).then_some(()));
    host.kill9();

    host.start();
    let mut client = host.client();
    assert!(client.text().starts_with("Hello!"));
    assert!(client.ask("m2", "second")[0].contains("\"second\""), "nothing comes twice");
    host.wait_completed(2);
    assert_eq!(host.events().started(1).len(), 1);
}

#[test]
fn a_message_that_was_accepted_survives_a_kill_at_once() {
    let mut host = Host::started();
    let mut client = host.client();
    client.say("m1", "are you there?");
    client.accepted("m1");
    host.kill9();
    host.start();
    let client = host.client();
    assert!(client.text().contains("\"are you there?\""));
    host.wait_completed(1);
    assert_eq!(host.replies().len(), 1);
}

#[test]
fn an_idle_container_is_adopted_after_a_restart() {
    let mut host = Host::started();
    host.chat("hello");
    let container = host.container();
    let client = host.client();
    let asked = Instant::now();
    let status = host.sigterm();
    assert_eq!(status.code(), Some(0), "with a terminal connected");
    println!("stopped in {:?}", asked.elapsed());
    drop(client);
    assert_eq!(docker(&["inspect", "--format", "{{.State.Running}}", &container]), "true");

    host.start();
    host.wait_log("Adopted a container", 1);
    assert!(host.chat("second").contains("turn 2. You said: \"second\""));
    assert_eq!(host.container(), container);
    assert_eq!(host.events().started(1), [container.as_str()]);

    // Its end is noticed as that of any other.
    docker(&["kill", "--signal", "KILL", &container]);
    let run = host.wait_run_ended(1);
    assert_eq!((run.end_reason, run.exit_code), (Some(EndReason::Crashed), Some(137)));
}

#[test]
fn a_chat_that_waits_does_not_hold_up_the_end() {
    let api = MessagesApi::on_port();
    let mut host = with_model(&api);
    host.start();
    api.script(Script::Paced(vec!["...".into(), "!".into()]));
    let mut chat = host.nanoclaw(&["chat", "what is it?"]);
    let mut chat = chat.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    api.request();
    assert_eq!(host.sigterm().code(), Some(0));
    let status = process::wait(&mut chat, Duration::from_secs(5)).expect("the chat ends with the host");
    assert_eq!(status.code(), Some(1));
}

#[test]
fn containers_stop_with_the_host_when_that_is_asked_for() {
    let mut host = Host::new();
    host.start_with(&["--stop-containers"]);
    host.chat("hello");
    assert_eq!(host.sigterm().code(), Some(0));
    assert_eq!(host.containers(), [] as [&str; 0]);
    assert_eq!(host.runs()[0].end_reason, Some(EndReason::Stopped));
    host.start();
    assert!(host.chat("second").contains("turn 2"));
}

#[test]
fn a_second_host_on_the_same_home_names_the_first_and_leaves() {
    let host = Host::started();
    let second = host.run(&["run"]);
    assert_eq!(second.code, Some(3), "{second:?}");
    assert!(second.stderr.contains(&format!("process {}", host.pid())), "{second:?}");
    assert_eq!(second.stdout, "");
    assert!(host.chat("hello").starts_with("Hello!"), "the first one goes on");
}

#[test]
fn a_container_that_ended_while_the_host_was_away_is_recorded_and_removed() {
    let mut host = Host::started();
    host.chat("hello");
    let container = host.container();
    host.sigterm();
    docker(&["kill", "--signal", "KILL", &container]);
    docker(&["wait", &container]);
    host.start();
    let run = host.wait_run_ended(1);
    assert_eq!((run.end_reason, run.exit_code), (Some(EndReason::Crashed), Some(137)));
    assert_eq!(host.containers(), [] as [&str; 0]);
    assert!(host.home().container_logs(&host.session().id).join(format!("{container}.log")).is_file());
    assert!(host.chat("second").contains("turn 2"));
}

#[test]
fn a_container_that_vanished_is_replaced() {
    let mut host = Host::started();
    host.chat("hello");
    // The answer may come before the engine's program says what it started.
    wait_for("the start to be recorded", &[], || host.runs()[0].container_id.clone());
    host.sigterm();
    docker(&["rm", "--force", &host.container()]);
    host.start();
    assert!(host.chat("second").contains("turn 2"));
    assert_eq!(host.wait_run_ended(1).end_reason, Some(EndReason::Vanished));
}

/// The engine is slow to say what there is; nothing is started until it has.
#[test]
fn a_message_that_comes_before_the_containers_are_known_goes_to_the_adopted_one() {
    let mut host = Host::started();
    host.chat("hello");
    let container = host.container();
    host.sigterm();
    let engine = Engine::broken(&mut host, "ps*", "while [ -e \"$flag\" ]; do sleep 0.05; done");
    host.start();
    let mut client = host.client();
    client.say("m2", "second");
    client.accepted("m2");
    engine.mend();
    host.wait_log("Adopted a container", 1);
    assert!(client.text().contains("turn 2. You said: \"second\""));
    host.wait_completed(2);
    assert!(client.ask("m3", "third")[0].contains("turn 3"));
    assert_eq!(host.runs().len(), 1, "and no other one is even meant to start");
    assert_eq!(host.events().started(1), [container]);
}

#[test]
fn a_container_that_is_starting_stops_with_the_host_too() {
    let mut host = Host::new();
    host.start_with(&["--stop-containers"]);
    let mut client = host.client();
    client.say("m1", "hello");
    host.events().wait("create", 1);
    assert_eq!(host.sigterm().code(), Some(0));
    assert_eq!(host.containers(), [] as [&str; 0]);
    // It was answered while the container was on its way out, or it waits for the next one.
    let mut heard: Vec<Value> = std::iter::from_fn(|| client.rest()).collect();
    host.start();
    let client = host.client();
    while texts(&heard).is_empty() {
        heard.push(client.next());
    }
    assert!(texts(&heard)[0].starts_with("Hello!"));
    host.wait_completed(1);
}

#[test]
fn containers_of_an_earlier_life_stop_with_the_host_too() {
    let mut host = Host::started();
    host.chat("hello");
    host.sigterm();
    host.start_with(&["--stop-containers"]);
    assert_eq!(host.sigterm().code(), Some(0), "at once, perhaps before it knows of them");
    assert_eq!(host.containers(), [] as [&str; 0]);
}

#[test]
fn leftovers_of_this_install_are_removed_and_others_containers_are_not_touched() {
    let mut host = Host::new();
    let other = format!("nanoclaw.install=other-{}", host.home().install_id());
    for label in [&host.label(), &other] {
        docker(&["run", "--detach", "--pull", "never", "--label", label, "--network", "none", IMAGE, "sleep", "600"]);
    }
    let others = labelled(&other);
    host.start();
    wait_for("its leftover to go", &[], || host.containers().is_empty().then_some(()));
    host.chat("hello");
    let still = labelled(&other);
    attempt(&["rm", "--force", &others[0]]);
    assert_eq!(still, others);
}

#[test]
fn a_journal_of_a_host_that_died_in_a_commit_is_rolled_back_at_the_start() {
    let mut host = Host::started();
    host.chat("hello");
    host.sigterm();
    let dir = host.dir();
    let database = dir.inbound_db();
    // A commit that never ended: pages are in the file, and the journal that undoes them is hot.
    let half_done = "import os,sqlite3,sys\ndb=sqlite3.connect(sys.argv[1],isolation_level=None)\n\
        db.execute('PRAGMA cache_size=1')\ndb.execute('BEGIN IMMEDIATE')\n\
        db.execute(\"UPDATE messages_in SET content='half done'\")\n\
        db.executemany(\"INSERT INTO messages_in(id,seq,kind,timestamp,content,status) VALUES(?,?,'chat','2026-01-01T00:00:00Z',?,'completed')\",\
        [('x%d'%i,1000+2*i,'y'*3000) for i in range(50)])\nos._exit(0)\n";
    let died = process::run(process::command("python3").args(["-c", half_done]).arg(&database), "");
    assert_eq!(died.code, Some(0), "{died:?}");
    let journal = dir.root().join("inbound.db-journal");
    assert!(journal.metadata().unwrap().len() > 512, "a hot journal");
    host.start();
    assert!(!journal.exists(), "rolled back before anything else");
    assert_eq!(sqlite::column(&database, "SELECT COUNT(*) FROM messages_in").unwrap(), ["1"]);
    assert!(host.chat("second").contains("turn 2"));
}
