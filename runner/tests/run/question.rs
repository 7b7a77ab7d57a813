//! `ask_user_question`: the row that asks, the row that answers, and what becomes of an answer nobody waits for.

use nanoclaw_session::content::Answer;
use nanoclaw_session::question::Outcome;
use nanoclaw_session::row::{AckStatus, Address, InKind, NewMessageIn, Trigger};
use serde_json::{Value, json};

use crate::messages_api::{MessagesApi, Script};
use crate::model::{result, session, start};
use crate::session::{Reply, Session, chat, message};

/// The model asks when the user says `id`; the question's row.
fn asked(session: &Session, api: &MessagesApi, id: &str) -> Reply {
    let input = json!({"title": "Which?", "question": "Of these.", "timeout": 600,
        "options": [{"label": "Red", "value": "r"}, {"label": "Blue"}]});
    api.script(Script::calls(&[("ask_user_question", input)]));
    session.say(id, "paint it");
    api.request();
    session.wait_for("the question", || session.replies().pop().filter(|row| row.content["type"] == "ask_question"))
}

fn question_id(row: &Reply) -> String {
    row.content["questionId"].as_str().unwrap().to_owned()
}

fn chosen() -> Outcome {
    Outcome::Chosen { option: "r".into(), by: Some("Ann".into()) }
}

/// The host writes what became of a question.
fn answer(session: &Session, row_id: &str, question_id: &str, outcome: Outcome) {
    let trigger = if outcome == chosen() { Trigger::Wake } else { Trigger::Context };
    let answer = Answer { question_id: question_id.into(), title: "Which?".into(), outcome };
    let row = NewMessageIn { kind: InKind::System, content: answer.to_json(), trigger, ..message(row_id, "") };
    session.insert(&row);
}

/// What the model was told in the request after the question.
fn told(body: &Value) -> String {
    result(&body["messages"].as_array().unwrap().last().unwrap()["content"][0])
}

#[test]
fn a_question_waits_silently_for_its_answer_and_the_model_gets_it() {
    let (session, api) = session();
    let _runner = start(&session, &api);
    let row = asked(&session, &api, "m1");
    assert_eq!(row.address, Address::default(), "where the session's own chat is, the host knows");
    assert_eq!(row.content["options"][0], json!({"label": "Red", "value": "r"}));
    let until = session.wait_for("the declared silence", || session.silent_until());
    let expires = nanoclaw_session::time::parse_utc(row.content["expiresAt"].as_str().unwrap()).unwrap();
    assert!(until > expires, "{until} {expires}");
    answer(&session, "a1", &question_id(&row), chosen());
    assert_eq!(told(&api.request().body), "Ann chose \"r\".");
    session.wait_ack("m1", AckStatus::Completed);
    assert_eq!(session.ack_with_time("a1"), session.ack_with_time("m1"), "one turn, one transaction");
    let last = session.replies().pop().unwrap();
    assert_eq!((last.text(), last.in_reply_to.as_deref()), ("answer 1", Some("m1")));
}

#[test]
fn a_question_that_is_withdrawn_or_expired_comes_back_as_such() {
    let (session, api) = session();
    let _runner = start(&session, &api);
    let row = asked(&session, &api, "m1");
    answer(&session, "a1", &question_id(&row), Outcome::Withdrawn { why: "it rains".into() });
    assert_eq!(told(&api.request().body), "The question was withdrawn: it rains.");
    session.wait_ack("m1", AckStatus::Completed);
    let row = asked(&session, &api, "m2");
    answer(&session, "a2", &question_id(&row), Outcome::Expired);
    assert_eq!(told(&api.request().body), "Nobody answered within 600 seconds.");
    session.wait_ack("m2", AckStatus::Completed);
    // Once more, for nobody.
    answer(&session, "a3", &question_id(&row), Outcome::Expired);
    session.wait_ack("a3", AckStatus::Completed);
}

#[test]
fn a_stop_ends_the_wait_and_an_answer_after_it_is_the_next_prompt() {
    let (session, api) = session();
    let _runner = start(&session, &api);
    let row = asked(&session, &api, "m1");
    session.stop("s1");
    session.wait_ack("m1", AckStatus::Completed);
    answer(&session, "a1", &question_id(&row), chosen());
    let prompt = api.request().last();
    assert!(prompt.contains("In answer to your earlier question") && prompt.contains("Which?"), "{prompt}");
    assert!(prompt.contains("r</message>") && prompt.contains("Ann"), "{prompt}");
    session.wait_ack("a1", AckStatus::Completed);
    let last = session.replies().pop().unwrap();
    assert_eq!((last.text(), &last.address), ("answer 1", &chat("home")));
}

#[test]
fn an_answer_a_dead_runner_had_taken_is_not_lost() {
    let (session, api) = session();
    let runner = start(&session, &api);
    let row = asked(&session, &api, "m1");
    runner.kill();
    answer(&session, "a1", &question_id(&row), chosen());
    let runner = start(&session, &api);
    let prompt = api.request().last();
    assert!(prompt.contains("In answer to your earlier question"), "{prompt}");
    session.wait_ack("a1", AckStatus::Completed);
    // The same in the middle of the turn that has the answer.
    let row = asked(&session, &api, "m2");
    api.script(Script::Silent);
    answer(&session, "a2", &question_id(&row), chosen());
    assert_eq!(told(&api.request().body), "Ann chose \"r\".");
    session.wait_ack("a2", AckStatus::Processing);
    runner.kill();
    let _runner = start(&session, &api);
    let prompt = api.request().last();
    assert!(prompt.contains("In answer to your earlier question"), "{prompt}");
    session.wait_ack("a2", AckStatus::Completed);
}

#[test]
fn the_demo_provider_asks_a_question() {
    let session = Session::new();
    let _runner = session.start();
    session.say("m1", "please ask me a question");
    let row = session.wait_for("the question", || session.replies().pop());
    assert_eq!(row.content["options"].as_array().unwrap().len(), 3);
    answer(&session, "a1", &question_id(&row), Outcome::Chosen { option: "green".into(), by: Some("Ann".into()) });
    session.wait_ack("m1", AckStatus::Completed);
    assert_eq!(session.texts().pop().unwrap(), "Ann chose \"green\".");
}
