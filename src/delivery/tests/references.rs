//! Edits and reactions: which message a number means, and whose.

use nanoclaw_session::content::Outbound as Content;
use nanoclaw_session::inbound::Intake;

use super::*;

const AGENT: &str = "telegram-0";

fn at(channel: &str, chat: &str) -> Address {
    Chat::new(channel, chat).address(None)
}

/// Agents with a chat each; [`AGENT`] may write into the chat of another one, too.
fn world() -> World {
    let w = World::new(2);
    w.store.grant_destination(AGENT, "other", Target::Channel("telegram-1"), w.now.wall).unwrap();
    w
}

impl World {
    fn wants(&mut self, address: Address, message: &Content) {
        self.writes_to(AGENT, address, None, message.to_row());
        self.step(Some(Event::Changed { session_id: AGENT.into() }));
    }

    fn edits(&mut self, address: Address, number: i64) {
        self.wants(address, &Content::Edit { message_id: number.to_string(), text: "new".into() });
    }

    fn reacts(&mut self, address: Address, number: i64) {
        self.wants(address, &Content::Reaction { message_id: number.to_string(), emoji: "👍".into() });
    }

    fn receives(&mut self, id: &str, kind: InKind, address: Address) -> i64 {
        let row = NewMessageIn { kind, ..NewMessageIn::chat(id.into(), self.now.wall, address, "{}".into()) };
        match self.inbound(AGENT).write(|tx| tx.insert(&row)).unwrap() {
            Intake::Stored { seq, .. } => seq,
            Intake::Absorbed { id } => panic!("{id}"),
        }
    }

    /// What was done to messages since the last call.
    fn changed(&mut self) -> Vec<(String, String, String)> {
        std::mem::take(&mut self.platform("telegram").changed)
    }

    /// The last thing the agent was told.
    #[track_caller]
    fn refused(&mut self, why: &str) {
        assert_eq!(self.changed(), [], "refused means that nothing was done");
        let notes = self.notes(AGENT);
        assert!(notes.last().is_some_and(|note| note.contains(why)), "{why}: {notes:?}");
    }
}

fn done(chat: &str, id: &str, new: &str) -> Vec<(String, String, String)> {
    vec![(chat.into(), id.into(), new.into())]
}

#[test]
fn a_message_is_changed_by_its_number_also_after_a_restart() {
    let mut w = world();
    w.says(AGENT, "helo", None);
    w.edits(Address::default(), 1);
    assert_eq!(w.changed(), done(AGENT, "p1", "new"));
    w.wants(at("telegram", "telegram-1"), &Content::Text { text: "there".into(), files: vec![] });
    w.restart();
    w.edits(at("telegram", "telegram-1"), 5);
    assert_eq!(w.changed(), done("telegram-1", "p2", "new"));
    w.reacts(at("telegram", AGENT), 1);
    assert_eq!(w.changed(), done(AGENT, "p1", "👍"));
    let asked = w.receives("77:telegram-0", InKind::Chat, at("telegram", AGENT));
    w.reacts(Address::default(), asked);
    assert_eq!(w.changed(), done(AGENT, "77", "👍"));
}

#[test]
fn messages_of_others_are_not_edited() {
    let mut w = world();
    let asked = w.receives("77:telegram-0", InKind::Chat, at("telegram", AGENT));
    w.edits(Address::default(), asked);
    w.refused(&format!("#{asked} is not yours to edit"));
    w.edits(Address::default(), 99);
    w.refused("there is no message #99");
    let forged = r#"{"operation":"edit","messageId":"p1","text":"x"}"#;
    w.writes_to(AGENT, Address::default(), None, (OutKind::Chat, forged.into()));
    w.step(Some(Event::Changed { session_id: AGENT.into() }));
    w.refused("there is no message #p1");
}

/// A platform's id means another message in another chat: the agent's row says where it was sent, and can be changed
/// after it was.
#[test]
fn a_number_means_nothing_in_another_chat_whatever_the_row_says() {
    let mut w = world();
    let id = w.says(AGENT, "mine", None);
    let other = at("telegram", "telegram-1");
    w.edits(other.clone(), 1);
    w.refused("there is no message #1 to edit in telegram:telegram-1");
    let db = rusqlite::Connection::open(w.home.session(AGENT, AGENT).outbound_db()).unwrap();
    let moved = "UPDATE messages_out SET channel_type = 'telegram', platform_id = 'telegram-1' WHERE id = ?1";
    db.execute(moved, [&id]).unwrap();
    drop(db);
    w.edits(other.clone(), 1);
    w.refused("there is no message #1 to edit in telegram:telegram-1");
    let asked = w.receives("77:telegram-0", InKind::Chat, at("telegram", AGENT));
    w.reacts(other, asked);
    w.refused("to react to in telegram:telegram-1");
    w.reacts(at("telegram", "telegram-9"), asked);
    w.refused("is not one of your destinations");
}

#[test]
fn what_nobody_sees_takes_no_sign() {
    let mut w = world();
    let task = w.receives("t", InKind::Task, at("telegram", AGENT));
    let note = w.receives("n", InKind::Chat, Address { channel_type: Some("agent".into()), ..Address::default() });
    for number in [task, note, -4] {
        w.reacts(Address::default(), number);
        w.refused("to react to");
    }
}
