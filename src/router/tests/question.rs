//! Answers to questions: whose count, where, and how often.

use nanoclaw_session::content::{Answer, Inbound, System};
use nanoclaw_session::question::Outcome;
use nanoclaw_session::row::{InKind, MessageIn, Trigger};
use serde_json::json;

use super::world::{NATIVE, World};
use crate::channel::InboundMessage;
use crate::store::{Question, Session};

/// A chat in which `a` has a session, and has asked `q1`.
fn asked(setup: &str) -> (World, Session) {
    let w = World::new(setup);
    w.send(vec![w.message(0, "owner@: hello")]);
    let session = w.store.sessions().unwrap().into_iter().find(|s| s.agent_group_id == "a").unwrap();
    w.ask("q1", &session);
    (w, session)
}

impl World {
    fn ask(&self, id: &str, session: &Session) {
        let now = crate::time::now();
        let question = Question {
            question_id: id.into(),
            session_id: session.id.clone(),
            message_out_id: format!("out-{id}"),
            platform_id: Some(NATIVE.into()),
            channel_type: Some("telegram".into()),
            thread_id: None,
            title: format!("Which {id}?"),
            options_json: json!([{"label": "Red", "value": "r", "selectedLabel": "Red it is"}, {"label": "Blue"}]),
            created_at: now,
            expires_at: Some(now + std::time::Duration::from_secs(60)),
        };
        self.store.put_question(&question).unwrap();
    }

    /// What became of questions, as the session is told, with its rows.
    fn answers(&self, session: &Session) -> Vec<(MessageIn, Answer)> {
        let rows = self.rows(session).into_iter();
        let read = |row: MessageIn| match Inbound::parse(row.kind, &row.content) {
            Inbound::System(Some(System::Answer(answer))) => Some((row, answer)),
            _ => None,
        };
        rows.filter_map(read).collect()
    }

    fn outcomes(&self, session: &Session) -> Vec<String> {
        let word = |(_, answer): (MessageIn, Answer)| match answer.outcome {
            Outcome::Chosen { option, by } => format!("{}={option} {}", answer.question_id, by.unwrap_or_default()),
            Outcome::Withdrawn { why } => format!("{} withdrawn: {why}", answer.question_id),
            Outcome::Expired => format!("{} expired", answer.question_id),
        };
        let mut words: Vec<String> = self.answers(session).into_iter().map(word).collect();
        words.sort();
        words
    }

    /// What the host says: the outcome of questions, and the rest.
    fn said(&self) -> Vec<String> {
        let messages = self.store.pending_host_messages(100).unwrap().into_iter();
        messages.filter_map(|m| m.content["text"].as_str().map(str::to_owned)).collect()
    }

    fn open(&self) -> usize {
        self.store.questions_in_chat("telegram", NATIVE).unwrap().len()
    }
}

fn answering(w: &World, n: usize, words: &str, question: &str) -> InboundMessage {
    InboundMessage { answers: Some(question.into()), ..w.message(n, words) }
}

#[test]
fn a_number_or_a_label_in_a_private_chat_is_an_answer_once() {
    for said in ["1", "red", "R"] {
        let (w, session) = asked("dm public a:all");
        w.send(vec![w.message(1, &format!("zoe: {said}"))]);
        assert_eq!(w.outcomes(&session), ["q1=r zoe"], "{said:?}");
        let (row, _) = w.answers(&session).remove(0);
        assert_eq!((row.kind, row.trigger), (InKind::System, Trigger::Wake));
        assert_eq!(row.id, "m1:a", "whoever waits for the end of the turn hears it");
        assert_eq!(w.said(), ["Which q1?: Red it is"]);
        assert_eq!((w.open(), w.rows(&session).len()), (0, 2));
        // The second is a message like any.
        w.send(vec![w.message(2, "zoe: 2")]);
        assert_eq!((w.outcomes(&session).len(), w.rows(&session).len()), (1, 3));
    }
}

#[test]
fn the_newest_question_is_meant_and_two_answers_in_one_batch_are_one() {
    let (w, session) = asked("dm public a:all");
    w.ask("q2", &session);
    w.send(vec![w.message(1, "zoe: 2"), answering(&w, 2, "zoe: 1", "q2")]);
    assert_eq!(w.outcomes(&session), ["q2=Blue zoe"]);
    assert_eq!(w.open(), 1);
    // The same message again, as after a crash before it was acknowledged.
    w.ask("q2", &session);
    w.send(vec![w.message(1, "zoe: 2")]);
    assert_eq!((w.outcomes(&session), w.open()), (vec!["q2=Blue zoe".to_owned()], 1));
}

#[test]
fn a_button_counts_from_whom_the_router_would_let_through_and_in_its_own_chat() {
    let (w, session) = asked("group strict a:mention b:all");
    // b knows this one, and a does not; a mention is not needed to press a button.
    w.send(vec![answering(&w, 1, "bmember: Red", "q1"), answering(&w, 2, "zoe: Red", "q1")]);
    assert_eq!((w.outcomes(&session).len(), w.open(), w.said().len()), (0, 1, 0), "{:?}", w.said());
    let elsewhere = InboundMessage {
        chat: crate::channel::Chat::new("telegram", "elsewhere"),
        ..answering(&w, 3, "aadmin: Red", "q1")
    };
    w.send(vec![elsewhere, answering(&w, 4, "aadmin: Green", "q1"), answering(&w, 5, "aadmin: Red", "q9")]);
    assert_eq!((w.outcomes(&session).len(), w.open()), (0, 1));
    w.send(vec![answering(&w, 6, "aadmin: Red", "q1"), answering(&w, 7, "owner: Blue", "q1")]);
    assert_eq!((w.outcomes(&session), w.open()), (vec!["q1=r aadmin".to_owned()], 0));
    // In a group a number may mean anything.
    w.ask("q2", &session);
    w.send(vec![w.message(8, "owner: 1")]);
    assert_eq!(w.open(), 1);
}

#[test]
fn who_says_something_else_or_stop_ends_the_question() {
    let (w, session) = asked("dm public a:all");
    w.send(vec![w.message(1, "zoe: green, please")]);
    assert_eq!(w.outcomes(&session), ["q1 withdrawn: the user has written a message instead"]);
    assert_eq!((w.open(), w.said()), (0, vec!["Which q1?: not answered".to_owned()]));
    w.ask("q2", &session);
    w.send(vec![w.message(2, "owner: /stop")]);
    assert!(w.outcomes(&session).contains(&"q2 withdrawn: you were stopped".to_owned()), "{:?}", w.outcomes(&session));
    let (row, _) = w.answers(&session).remove(0);
    assert_eq!(row.trigger, Trigger::Context, "it wakes nobody");
}

#[test]
fn after_its_time_a_question_takes_no_answer() {
    let (w, session) = asked("dm public a:all");
    let mut question = w.store.questions_of_session(&session.id).unwrap().remove(0);
    question.expires_at = Some(crate::time::now());
    w.store.put_question(&question).unwrap();
    w.send(vec![answering(&w, 1, "zoe: Red", "q1")]);
    assert_eq!(w.outcomes(&session).len(), 0);
    assert!(w.said()[0].contains("not open here"), "{:?}", w.said());
}
