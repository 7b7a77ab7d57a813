//! A model behind the gateway: the fake Messages API plays it.

use std::time::{Duration, Instant};

use nanoclaw_session::alive::last_heartbeat;

use crate::messages_api::{MessagesApi, Script};
use crate::support::docker::docker;
use crate::support::wait::{now, wait_for};
use crate::support::{Host, texts};

const KEY: &str = "sk-the-real-key";

fn start(api: &MessagesApi) -> Host {
    let mut host = Host::new();
    host.set("ANTHROPIC_API_KEY", KEY);
    host.set("ANTHROPIC_BASE_URL", api.address());
    host.start();
    host
}

/// Pauses between the chunks show as progress; and a conversation survives its container.
#[test]
fn progress_is_seen_before_the_last_chunk_and_the_history_survives_the_container() {
    let api = MessagesApi::on_port();
    let host = start(&api);
    api.script(Script::Paced(vec!["one ".into(), "two ".into(), "three".into()]));
    let mut client = host.client();
    client.say("m1", "my name is Ann");
    let first = api.request();
    assert_eq!(first.headers["x-api-key"], KEY, "the gateway put the real key in the token's place");
    let dir = host.dir();
    for chunk in 1..=3 {
        // The stream stands still: what moves the heartbeat is the part that came.
        let asked = now();
        wait_for(&format!("progress with chunk {chunk} held back"), &[&dir.out()], || {
            last_heartbeat(&dir).filter(|at| *at > asked)
        });
        assert!(host.replies().is_empty());
        api.release();
    }
    assert_eq!(texts(&client.turn("m1")), ["one two three"]);

    docker(&["kill", "--signal", "KILL", &host.container()]);
    host.wait_run_ended(1);
    assert_eq!(client.ask("m2", "who am I?"), ["answer 1"]);
    let messages = api.request().messages();
    let roles: Vec<&str> = messages.iter().map(|(role, _)| role.as_str()).collect();
    assert_eq!(roles, ["user", "assistant", "user"]);
    assert!(messages[0].1.contains("my name is Ann"), "{messages:#?}");
    assert_eq!(messages[1].1, "one two three");
    assert!(messages[2].1.contains("who am I?"), "{messages:#?}");
    assert_eq!(host.events().started(2).len(), 2);
}

#[test]
fn what_passes_is_tried_again_and_answered_once() {
    let api = MessagesApi::on_port();
    let host = start(&api);
    let fault = |code, kind, retry_after| Script::Status { code, kind, message: "later", retry_after };
    api.script(fault(529, "overloaded_error", None));
    api.script(fault(429, "rate_limit_error", Some(1)));
    api.script(Script::Cut("half an ans".into()));
    api.script(Script::ErrorEvent { kind: "overloaded_error", message: "Overloaded" });
    api.script(Script::Say("the whole answer".into()));
    let mut client = host.client();
    assert_eq!(client.ask("m1", "hello"), ["the whole answer"]);
    for _ in 0..5 {
        assert!(api.request().last().contains("hello"));
    }
    assert_eq!(api.requests_left(), 0);
    assert_eq!(host.events().started(1).len(), 1, "without another container");
    host.wait_completed(1);
}

#[test]
fn a_refused_key_is_a_plain_sentence_and_the_message_fails() {
    let api = MessagesApi::on_port();
    let host = start(&api);
    api.script(Script::Status {
        code: 401,
        kind: "authentication_error",
        message: "invalid x-api-key",
        retry_after: None,
    });
    let output = host.run(&["chat", "hello"]);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stdout.contains("key") && output.stdout.lines().count() == 1, "{output:?}");
    assert!(!output.stdout.contains(KEY));
    wait_for("the message to be failed", &[], || (host.inbound()[0].1 == "failed").then_some(()));
    assert_eq!(host.chat("again"), "answer 1\n", "the next one is answered");
}

#[test]
fn without_a_key_the_user_hears_what_to_do() {
    let mut host = Host::new();
    host.set("NANOCLAW_PROVIDER", "anthropic");
    host.start();
    let output = host.run(&["chat", "hello"]);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stdout.contains("ANTHROPIC_API_KEY"), "{output:?}");
}

#[test]
fn a_model_that_cannot_be_reached_is_tried_until_it_can() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap();
    drop(listener);
    let mut host = Host::new();
    host.set("ANTHROPIC_API_KEY", KEY);
    host.set("ANTHROPIC_BASE_URL", format!("http://{port}"));
    host.start();
    let mut client = host.client();
    client.say("m1", "hello");
    host.wait_log("The model could not be reached", 1);
    let api = MessagesApi::on_port();
    host.sigterm();
    host.set("ANTHROPIC_BASE_URL", api.address());
    host.start();
    let client = host.client();
    assert_eq!(client.text(), "answer 1");
    assert_eq!(host.events().started(1).len(), 1);
}

/// The gateway adds no waiting of its own: the first chunk is at the runner while the second one
/// is not even written.
#[test]
fn a_follow_up_reaches_the_conversation_of_a_running_turn() {
    let api = MessagesApi::on_port();
    let host = start(&api);
    api.script(Script::Paced(vec!["slow ".into(), "answer".into()]));
    let mut client = host.client();
    client.say("m1", "first");
    api.request();
    client.say("m2", "second");
    client.accepted("m2");
    api.release();
    api.release();
    let begun = Instant::now();
    let lines = client.turn("m2");
    assert!(begun.elapsed() < Duration::from_secs(20));
    let heard = texts(&lines);
    assert!(!heard.is_empty() && heard.len() <= 2, "{heard:?}");
    let later = api.request();
    assert!(later.last().contains("second"), "{later:#?}");
    host.wait_completed(2);
    assert_eq!(host.events().started(1).len(), 1);
}
