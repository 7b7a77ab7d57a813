//! The `anthropic` provider against a strict stand-in for the Messages API.

use std::time::{Duration, Instant};

use nanoclaw_session::alive::last_heartbeat;
use nanoclaw_session::row::AckStatus;

use crate::messages_api::{MessagesApi, Script};
use crate::session::{Runner, Session, now};

/// A session with the anthropic provider, and the API behind its gateway's socket.
fn session() -> (Session, MessagesApi) {
    let session = Session::new();
    session.configure(|c| c.provider = "anthropic".into());
    std::fs::write(session.dir.instructions(), "Be kind.").unwrap();
    let api = MessagesApi::on_socket(&session.path("gateway.sock"));
    (session, api)
}

fn start(session: &Session, api: &MessagesApi) -> Runner {
    session.start_with(&[("NANOCLAW_GATEWAY", api.address()), ("NANOCLAW_GATEWAY_TOKEN", "token-1")])
}

fn status(code: u16, retry_after: Option<u64>) -> Script {
    Script::Status { code, kind: "some_error", message: "some reason", retry_after }
}

#[test]
fn a_conversation_survives_the_container() {
    let (session, api) = session();
    let runner = start(&session, &api);
    session.say("m1", "my name is Ann");
    let request = api.request();
    assert_eq!(request.headers["x-api-key"], "token-1");
    assert!(request.body["system"][0]["text"].as_str().unwrap().starts_with("Be kind.\n\n## Your destinations"));
    assert!(request.last().contains("sender=\"Ann\"") && request.last().contains(">my name is Ann</message>"));
    session.wait_ack("m1", AckStatus::Completed);
    assert_eq!(session.texts(), ["answer 1"]);
    runner.kill();

    let _runner = start(&session, &api);
    session.say("m2", "who am I?");
    let messages = api.request().messages();
    let roles: Vec<&str> = messages.iter().map(|(role, _)| role.as_str()).collect();
    assert_eq!(roles, ["user", "assistant", "user"]);
    assert!(messages[0].1.contains("my name is Ann") && messages[1].1 == "answer 1");
    session.wait_ack("m2", AckStatus::Completed);
    assert_eq!(session.texts(), ["answer 1", "answer 2"]);
}

#[test]
fn progress_is_seen_before_the_answer_is_whole() {
    let (session, api) = session();
    let _runner = start(&session, &api);
    api.script(Script::Paced(vec!["one ".into(), "two".into()]));
    session.say("m1", "hello");
    api.request();
    let asked = now();
    session.wait_for("progress", || last_heartbeat(&session.dir).filter(|t| *t > asked));
    assert!(session.silent_until().is_some_and(|t| t > now()));
    assert_eq!(session.ack("m1"), Some(AckStatus::Processing));
    api.release();
    api.release();
    session.wait_ack("m1", AckStatus::Completed);
    assert_eq!(session.texts(), ["one two"]);
    assert_eq!(session.silent_until(), None);
}

#[test]
fn what_passes_is_tried_again_and_the_user_sees_only_the_answer() {
    let (session, api) = session();
    let _runner = start(&session, &api);
    let overloaded = Script::ErrorEvent { kind: "overloaded_error", message: "Overloaded" };
    for (i, trouble) in
        [status(529, None), status(503, None), Script::Cut("half".into()), overloaded].into_iter().enumerate()
    {
        api.script(trouble);
        let id = format!("m{i}");
        session.say(&id, "hello");
        assert_eq!(api.request().body, api.request().body, "the same request again");
        session.wait_ack(&id, AckStatus::Completed);
    }
    assert_eq!(session.texts(), ["answer 1", "answer 2", "answer 3", "answer 4"]);
}

#[test]
fn a_short_retry_after_is_waited_for() {
    let (session, api) = session();
    let _runner = start(&session, &api);
    api.script(status(429, Some(2)));
    session.say("m1", "hello");
    api.request();
    let refused = Instant::now();
    api.request();
    assert!(refused.elapsed() >= Duration::from_millis(1_900), "{:?}", refused.elapsed());
    session.wait_ack("m1", AckStatus::Completed);
}

#[test]
fn a_long_retry_after_is_one_notice_with_the_time() {
    let (session, api) = session();
    let _runner = start(&session, &api);
    api.script(status(429, Some(7_200)));
    session.say("m1", "hello");
    session.wait_ack("m1", AckStatus::Failed);
    let texts = session.texts();
    assert_eq!(texts.len(), 1);
    assert!(texts[0].starts_with("The model's limit is used up until "), "{texts:?}");
}

#[test]
fn what_never_passes_is_a_plain_sentence_and_leaves_no_trace_in_the_history() {
    let (session, api) = session();
    let _runner = start(&session, &api);
    for (i, (script, sentence)) in [
        (status(401, None), "The model refused the key (some reason)."),
        (status(400, None), "The model rejected the request: some reason"),
        (status(404, None), "The model rejected the request: some reason"),
        (Script::Refuse, "The model declined to answer that."),
    ]
    .into_iter()
    .enumerate()
    {
        api.script(script);
        let id = format!("m{i}");
        session.say(&id, "hello");
        api.request();
        session.wait_ack(&id, AckStatus::Failed);
        assert!(session.texts()[i].starts_with(sentence), "{:?}", session.texts());
    }
    session.say("last", "and now?");
    assert_eq!(api.request().messages().len(), 1);
    session.wait_ack("last", AckStatus::Completed);
    assert_eq!(api.requests_left(), 0);
}

#[test]
fn a_poisoned_history_is_dropped_and_the_turn_done_again_invisibly() {
    let (session, api) = session();
    let _runner = start(&session, &api);
    session.say("m1", "hello");
    api.request();
    session.wait_ack("m1", AckStatus::Completed);
    api.script(status(400, None));
    session.say("m2", "more");
    assert_eq!(api.request().messages().len(), 3);
    let fresh = api.request().messages();
    assert!(fresh.len() == 1 && fresh[0].1.contains("more"), "{fresh:?}");
    session.wait_ack("m2", AckStatus::Completed);
    session.say("m3", "and more");
    assert_eq!(api.request().messages().len(), 3, "the new history goes on");
    session.wait_ack("m3", AckStatus::Completed);
    assert_eq!(session.texts(), ["answer 1", "answer 2", "answer 3"]);
}

#[test]
fn a_request_that_fails_with_and_without_history_costs_the_message_and_not_the_history() {
    let (session, api) = session();
    let _runner = start(&session, &api);
    session.say("m1", "hello");
    api.request();
    session.wait_ack("m1", AckStatus::Completed);
    api.script(status(400, None));
    api.script(status(400, None));
    session.say("m2", "bad");
    session.wait_ack("m2", AckStatus::Failed);
    api.request();
    api.request();
    session.say("m3", "good");
    let messages = api.request().messages();
    assert_eq!(messages.len(), 3);
    assert!(messages[0].1.contains("hello") && !messages[2].1.contains("bad"), "{messages:?}");
    session.wait_ack("m3", AckStatus::Completed);
}

#[test]
fn a_follow_up_during_an_answer_is_asked_in_the_same_turn() {
    let (session, api) = session();
    let _runner = start(&session, &api);
    api.script(Script::Paced(vec!["first answer".into()]));
    session.say("m1", "hello");
    api.request();
    session.say("m2", "and this");
    session.wait_ack("m2", AckStatus::Processing);
    api.release();
    let messages = api.request().messages();
    assert_eq!(messages[1].1, "first answer");
    assert!(messages[2].1.contains("and this"));
    session.wait_ack("m2", AckStatus::Completed);
    assert_eq!(session.ack_with_time("m1"), session.ack_with_time("m2"));
    assert_eq!(session.texts(), ["first answer\n\nanswer 1"]);
}

#[test]
fn stop_breaks_an_answer_off_within_two_seconds_and_the_model_is_told() {
    let (session, api) = session();
    let _runner = start(&session, &api);
    api.script(Script::Paced(vec!["half an".into(), " answer".into()]));
    session.say("m1", "hello");
    api.request();
    session.wait_for("beginning of the answer", || session.continuation("anthropic"));
    let asked = Instant::now();
    session.stop("s1");
    session.wait_ack("m1", AckStatus::Completed);
    api.client_gone();
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    assert_eq!(session.texts(), ["Stopped."]);
    session.say("m2", "go on");
    let messages = api.request().messages();
    assert!(messages[1].1.ends_with("[The user stopped this reply.]"), "{messages:?}");
    session.wait_ack("m2", AckStatus::Completed);
}

#[test]
fn a_kill_in_the_middle_of_an_answer_neither_loses_nor_doubles_the_prompt() {
    let (session, api) = session();
    let runner = start(&session, &api);
    session.say("m1", "hello");
    api.request();
    session.wait_ack("m1", AckStatus::Completed);
    api.script(Script::Paced(vec!["half".into()]));
    session.say("m2", "the question");
    api.request();
    runner.kill();
    api.client_gone();
    let _runner = start(&session, &api);
    let messages = api.request().messages();
    assert_eq!(messages.len(), 3);
    assert_eq!(messages[2].1.matches("the question").count(), 1, "{messages:?}");
    session.wait_ack("m2", AckStatus::Completed);
    assert_eq!(session.texts(), ["answer 1", "answer 2"]);
}

#[test]
fn a_gateway_that_is_away_for_a_moment_is_waited_for() {
    let session = Session::new();
    session.configure(|c| c.provider = "anthropic".into());
    let socket = session.path("gateway.sock");
    let _runner =
        session.start_with(&[("NANOCLAW_GATEWAY", socket.to_str().unwrap()), ("NANOCLAW_GATEWAY_TOKEN", "token-1")]);
    session.say("m1", "hello");
    session.wait_for("first try", || session.log().contains("Request failed, trying again").then_some(()));
    let api = MessagesApi::on_socket(&socket);
    api.request();
    session.wait_ack("m1", AckStatus::Completed);
    assert_eq!(session.texts(), ["answer 1"]);
}

#[test]
fn a_url_will_do_as_the_gateway() {
    let session = Session::new();
    session.configure(|c| {
        c.provider = "anthropic".into();
        c.model = Some("model-x".into());
    });
    let api = MessagesApi::on_port();
    let _runner = start(&session, &api);
    session.say("m1", "hello");
    assert_eq!(api.request().body["model"], "model-x");
    session.wait_ack("m1", AckStatus::Completed);
}

#[test]
fn text_for_nobody_is_answered_with_one_nudge() {
    let (session, api) = session();
    session.host(|tx| {
        tx.replace_destinations(&[
            crate::session::destination("home", "home"),
            crate::session::destination("work", "C1"),
        ])
    });
    let _runner = start(&session, &api);
    api.script(Script::Say("just text".into()));
    api.script(Script::Say("<message to=\"work\">now addressed</message>".into()));
    session.say("m1", "hello");
    api.request();
    let nudged = api.request();
    assert!(nudged.last().contains("sent to nobody"), "{}", nudged.last());
    session.wait_ack("m1", AckStatus::Completed);
    assert_eq!(session.texts(), ["now addressed"]);

    api.script(Script::Say("text again".into()));
    api.script(Script::Say("and again".into()));
    session.say("m2", "hello");
    session.wait_ack("m2", AckStatus::Completed);
    api.request();
    api.request();
    assert_eq!((session.texts().len(), api.requests_left()), (1, 0), "one nudge and no more");
}
