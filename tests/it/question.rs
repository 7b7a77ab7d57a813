//! An agent asks, a person answers, through the real host and a real container.

use serde_json::{Value, json};

use crate::support::docker::docker;
use crate::support::wait::wait_for;
use crate::support::{Client, Host, sqlite};

/// Has the demo provider ask; the question as the terminal gets it.
fn asked(client: &mut Client, id: &str) -> Value {
    client.say(id, "ask me a question");
    client.until("a question", |l| l["type"] == "question").pop().unwrap()
}

fn open(host: &Host) -> usize {
    sqlite::column(&host.home().store(), "SELECT question_id FROM pending_questions").unwrap().len()
}

fn texts_until_end(client: &Client, id: &str) -> Vec<String> {
    let ended = |l: &Value| l["type"] == "turn_end" && l["messageIds"].as_array().unwrap().contains(&json!(id));
    let lines = client.until("the end of the turn", ended);
    lines.iter().filter_map(|l| l["text"].as_str().map(str::to_owned)).collect()
}

#[test]
fn a_number_a_label_and_a_line_of_the_socket_answer_and_the_question_shows_it() {
    let host = Host::started();
    let mut client = host.client();
    let question = asked(&mut client, "m1");
    assert_eq!(question["options"][1]["label"], "Green", "{question:#}");
    assert_eq!(open(&host), 1);
    client.say("a1", "2");
    // The agent may be quicker than the question's own message.
    let (mut answered, mut shown, mut ended) = (false, false, false);
    client.until("the answer, the outcome and the end", |l| {
        answered |= l["text"] == "local chose \"green\".";
        shown |= l["type"] == "edit" && l["text"] == "A question from the demo provider: Green it is";
        ended |= l["type"] == "turn_end" && l["messageIds"].as_array().unwrap().contains(&json!("a1"));
        answered && shown && ended
    });
    asked(&mut client, "m2");
    client.say("a2", "blue");
    assert!(texts_until_end(&client, "a2").contains(&"local chose \"blue\".".to_owned()));
    let question = asked(&mut client, "m3");
    let answer = json!({"id": "a3", "questionId": question["questionId"], "option": "Red"});
    client.send(&answer);
    assert!(texts_until_end(&client, "a3").contains(&"local chose \"red\".".to_owned()));
    // The second time it is open no more.
    let again = json!({"id": "a4", "questionId": question["questionId"], "option": "Blue"});
    client.send(&again);
    let texts = texts_until_end(&client, "a4");
    assert!(texts.iter().any(|t| t.contains("not open here")), "{texts:?}");
    assert!(!texts.iter().any(|t| t.contains("chose")), "{texts:?}");
    assert_eq!(open(&host), 0);
    host.wait_completed(6);
    host.assert_no_complaint();
}

#[test]
fn who_writes_something_else_is_answered_and_the_question_is_over() {
    let host = Host::started();
    let mut client = host.client();
    asked(&mut client, "m1");
    client.say("m2", "hello");
    let texts = texts_until_end(&client, "m2");
    assert!(texts.iter().any(|t| t.contains("withdrawn: the user has written a message instead")), "{texts:?}");
    assert!(texts.iter().any(|t| t.starts_with("Hello!")), "{texts:?}");
    assert_eq!(open(&host), 0);
}

#[test]
fn an_answer_survives_the_host_and_the_container_that_asked() {
    let mut host = Host::started();
    let mut client = host.client();
    let question = asked(&mut client, "m1");
    wait_for("its delivery", &[], || {
        let delivered = sqlite::column(&host.dir().inbound_db(), "SELECT message_out_id FROM delivered");
        (delivered.unwrap_or_default().len() == 1).then_some(())
    });
    host.kill9();
    host.start();
    docker(&["kill", "--signal", "KILL", &host.container()]);
    host.wait_run_ended(1);
    let mut client = host.client();
    let answer = json!({"id": "a1", "questionId": question["questionId"], "option": "Green"});
    client.send(&answer);
    let texts = texts_until_end(&client, "a1");
    assert!(texts.iter().any(|t| t.contains("In answer to your earlier question") && t.contains("green")), "{texts:?}");
}
