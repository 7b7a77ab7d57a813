//! Questions on their way to a chat.

use nanoclaw_session::content::{Answer, Inbound, Outbound, Question as Asked, QuestionOption, System};
use nanoclaw_session::question::Outcome as Ended;
use nanoclaw_session::time::format_utc;

use super::*;

fn question(id: &str) -> Asked {
    let option = |label: &str| QuestionOption { label: label.into(), selected_label: None, value: None };
    Asked {
        question_id: id.into(),
        title: "Which?".into(),
        question: String::new(),
        options: vec![option("Red"), option("Blue")],
        expires_at: None,
    }
}

impl World {
    fn asks(&mut self, session: &str, question: Asked) -> String {
        let id = self.writes_row(session, Some("m1"), Outbound::Question(question).to_row());
        self.step(Some(Event::Changed { session_id: session.into() }));
        id
    }

    /// What waiting tools are told.
    fn withdrawn(&self, session: &str) -> Vec<(String, String)> {
        let rows = self.inbound(session).unfinished().unwrap().into_iter();
        let read = |row: MessageIn| match Inbound::parse(row.kind, &row.content) {
            Inbound::System(Some(System::Answer(Answer {
                question_id, outcome: Ended::Withdrawn { why }, ..
            }))) => Some((question_id, why)),
            _ => None,
        };
        rows.filter_map(read).collect()
    }

    fn status(&self, session: &str, row: &str) -> Option<DeliveryStatus> {
        self.inbound(session).delivered(row).unwrap().map(|d| d.status)
    }
}

#[test]
fn a_question_is_on_record_once_it_is_sent_and_its_message_shows_the_outcome() {
    let mut w = World::new(1);
    let out = w.asks("telegram-0", question("q1"));
    let known = w.store.find_question("q1").unwrap().unwrap();
    assert_eq!((known.session_id.as_str(), known.message_out_id.as_str()), ("telegram-0", out.as_str()));
    assert_eq!(known.platform_id.as_deref(), Some("telegram-0"));
    assert_eq!(crate::question::options(&known), question("q1").options);
    let life = known.expires_at.unwrap().duration_since(w.now.wall);
    assert!((86_398..=86_400).contains(&life.as_secs()), "for ever is a day: {life}");
    assert_eq!(w.platform("telegram").seen, [("telegram-0".into(), "?Which?".into())]);
    crate::question::end(&w.store, &known, "Red").unwrap();
    crate::question::end(&w.store, &known, "Blue").unwrap();
    w.step(Some(Event::HostOutbox));
    assert_eq!(w.platform("telegram").changed, [("telegram-0".into(), "p1".into(), "Which?: Red".into())]);
    assert_eq!(w.store.find_question("q1").unwrap(), None);
}

#[test]
fn a_question_without_a_title_is_an_error_to_the_agent_and_never_delivered() {
    let mut w = World::new(1);
    let out = w.asks("telegram-0", Asked { title: String::new(), ..question("q1") });
    assert_eq!(w.status("telegram-0", &out), Some(DeliveryStatus::Failed));
    assert!(w.notes("telegram-0")[0].contains("needs a title"), "{:?}", w.notes("telegram-0"));
    assert_eq!((w.platform("telegram").seen.len(), w.store.find_question("q1").unwrap()), (0, None));
}

#[test]
fn a_question_that_may_not_be_asked_comes_back_to_the_tool_that_waits() {
    let mut w = World::new(2);
    w.asks("telegram-0", question("q1"));
    // The id of another session's.
    let forged = w.asks("telegram-1", question("q1"));
    assert_eq!(w.status("telegram-1", &forged), Some(DeliveryStatus::Failed));
    assert_eq!(w.withdrawn("telegram-1"), [("q1".into(), "another question has this questionId".into())]);
    assert_eq!(w.store.find_question("q1").unwrap().unwrap().session_id, "telegram-0");
    // Another chat, although it is a destination or not.
    let (kind, content) = Outbound::Question(question("q2")).to_row();
    let row = NewMessageOut {
        id: "elsewhere".into(),
        in_reply_to: None,
        deliver_after: None,
        kind,
        address: Chat::new("telegram", "telegram-0").address(None),
        content,
    };
    let dir = w.home.session("telegram-1", "telegram-1");
    OutboundDb::open(&dir).unwrap().write(|tx| tx.insert(&row, 0, w.now.wall)).unwrap();
    w.step(Some(Event::Changed { session_id: "telegram-1".into() }));
    assert_eq!(w.status("telegram-1", "elsewhere"), Some(DeliveryStatus::Failed));
    // Too late before it was seen.
    let late = Asked { expires_at: Some(format_utc(w.now.wall)), ..question("q3") };
    w.asks("telegram-1", late);
    let said: Vec<String> = w.withdrawn("telegram-1").into_iter().map(|(id, _)| id).collect();
    assert_eq!(said, ["q1", "q2", "q3"]);
    // And too many.
    for n in 0..25 {
        w.asks("telegram-1", question(&format!("many-{n}")));
    }
    assert_eq!(w.store.questions_of_session("telegram-1").unwrap().len(), 20);
    assert_eq!(w.withdrawn("telegram-1").len(), 3 + 5);
    assert!(w.store.pending_host_messages(10).unwrap().is_empty(), "the agent says it, if it matters");
}
