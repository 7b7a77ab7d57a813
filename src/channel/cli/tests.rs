//! Tests of both halves over a real socket.

use super::*;
use std::io::{BufRead, BufReader, Write};

struct Terminal {
    write: UnixStream,
    read: BufReader<UnixStream>,
}

impl Terminal {
    fn connect(path: &Path) -> Terminal {
        let write = UnixStream::connect(path).unwrap();
        write.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        Terminal { read: BufReader::new(write.try_clone().unwrap()), write }
    }

    fn say(&mut self, line: &str) {
        writeln!(self.write, "{line}").unwrap();
    }

    fn hear(&mut self) -> ToClient {
        let mut line = String::new();
        self.read.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

fn fixture() -> (tempfile::TempDir, std::path::PathBuf, Channel, Stop) {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("cli.sock");
    let channel = open(&path).unwrap();
    (tmp, path, channel, Stop::new().unwrap())
}

fn text_for(platform_id: &str, text: &str) -> OutboundItem {
    OutboundItem {
        chat: Chat { channel_type: CHANNEL.into(), platform_id: platform_id.into() },
        thread_id: None,
        id: "out-1".into(),
        in_reply_to: Some("m1".into()),
        payload: Payload::Text { text: text.into(), files: vec![] },
    }
}

fn next_message(channel: &mut Channel, stop: &Stop) -> InboundMessage {
    loop {
        if let Some(message) = channel.inbound.poll(None, stop).unwrap().messages.pop() {
            return message;
        }
    }
}

#[test]
fn a_message_comes_in_and_is_acknowledged_only_once_it_is_accepted() {
    let (_tmp, path, mut channel, stop) = fixture();
    let mut terminal = Terminal::connect(&path);
    terminal.say(r#"{"text":"hello","id":"m1","attachments":[{"name":"a","data":"aGk="}]}"#);
    let message = next_message(&mut channel, &stop);
    assert_eq!((message.id.as_str(), message.content.text.as_str()), ("m1", "hello"));
    assert_eq!(message.content.sender_id.as_deref(), Some(LOCAL_USER));
    assert_eq!(message.attachments[0].bytes, b"hi");
    terminal.write.set_nonblocking(true).unwrap();
    assert!(terminal.read.fill_buf().is_err(), "nothing is said before it is on disk");
    terminal.write.set_nonblocking(false).unwrap();
    channel.inbound.accepted();
    assert_eq!(terminal.hear(), ToClient::Accepted { id: "m1".into() });
}

#[test]
fn an_answer_names_its_question_and_half_of_one_is_none() {
    let (_tmp, path, mut channel, stop) = fixture();
    let mut terminal = Terminal::connect(&path);
    for half in [r#"{"option":"Red"}"#, r#"{"questionId":"q1","text":"Red"}"#] {
        terminal.say(half);
    }
    terminal.say(r#"{"questionId":"q1","option":"Red"}"#);
    let message = next_message(&mut channel, &stop);
    assert_eq!((message.answers.as_deref(), message.content.text.as_str()), (Some("q1"), "Red"));
    for _ in 0..2 {
        assert!(matches!(terminal.hear(), ToClient::Error { .. }));
    }
}

#[test]
fn replies_wait_while_nobody_listens() {
    let (_tmp, path, mut channel, stop) = fixture();
    assert_eq!(channel.outbound.send(&text_for("local", "hi")), Outcome::Away);
    let mut terminal = Terminal::connect(&path);
    terminal.say(r#"{"listen":"local"}"#);
    assert_eq!(channel.inbound.poll(None, &stop).unwrap().ready, Ready::NowReachable);
    assert!(matches!(channel.outbound.send(&text_for("local", "hi")), Outcome::Sent { .. }));
    assert!(matches!(terminal.hear(), ToClient::Text { text, .. } if text == "hi"));
    assert_eq!(channel.outbound.send(&text_for("other", "hi")), Outcome::Away);
}

#[test]
fn with_to_a_message_comes_from_that_chat_and_no_replies_are_taken() {
    let (_tmp, path, mut channel, stop) = fixture();
    let mut terminal = Terminal::connect(&path);
    terminal.say(
        r#"{"text":"x","to":{"channelType":"telegram","platformId":"telegram:-1","threadId":"7"},"isMention":true,
            "isGroup":true,"sender":"Ann","senderId":"telegram:5"}"#
            .replace('\n', " ")
            .as_str(),
    );
    let message = next_message(&mut channel, &stop);
    assert_eq!(message.chat.to_string(), "telegram:telegram:-1");
    assert_eq!((message.kind, message.mention), (ChatKind::Group, Mention::Addressed));
    assert_eq!((message.thread_id.as_deref(), message.threads), (Some("7"), Threads::Supported));
    assert_eq!(channel.outbound.send(&text_for("local", "hi")), Outcome::Away);
}

#[test]
fn a_line_that_is_not_understood_is_answered_and_the_next_one_works() {
    let (_tmp, path, mut channel, stop) = fixture();
    let mut terminal = Terminal::connect(&path);
    terminal.say(r#"{"txet":"hello"}"#);
    terminal.say(r#"{"text":"hello"}"#);
    next_message(&mut channel, &stop);
    assert!(matches!(terminal.hear(), ToClient::Error { message } if message.contains("txet")));
}

#[test]
fn a_last_line_without_an_end_counts_and_a_client_that_left_is_forgotten() {
    let (_tmp, path, mut channel, stop) = fixture();
    let mut terminal = Terminal::connect(&path);
    write!(terminal.write, r#"{{"text":"bye"}}"#).unwrap();
    terminal.write.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(next_message(&mut channel, &stop).content.text, "bye");
    channel.inbound.accepted();
    assert!(matches!(terminal.hear(), ToClient::Accepted { .. }), "it says nothing more, and still listens");
    assert!(matches!(channel.outbound.send(&text_for("local", "hi")), Outcome::Sent { .. }));
    drop(terminal);
    assert_eq!(channel.outbound.send(&text_for("local", "hi")), Outcome::Away);
}

#[test]
fn a_message_that_was_not_stored_is_never_acknowledged() {
    let (_tmp, path, mut channel, stop) = fixture();
    let mut terminal = Terminal::connect(&path);
    terminal.say(r#"{"text":"lost","id":"m1"}"#);
    next_message(&mut channel, &stop);
    channel.inbound.rejected();
    assert!(matches!(terminal.hear(), ToClient::Error { message } if message.contains("m1")));
    terminal.say(r#"{"text":"kept","id":"m2"}"#);
    next_message(&mut channel, &stop);
    channel.inbound.accepted();
    assert_eq!(terminal.hear(), ToClient::Accepted { id: "m2".into() });
}

#[test]
fn a_poll_ends_when_told_to_stop() {
    let (_tmp, path, mut channel, stop) = fixture();
    let _terminal = Terminal::connect(&path);
    stop.now();
    assert!(channel.inbound.poll(None, &stop).unwrap().messages.is_empty());
}

#[test]
fn the_terminal_has_no_threads_and_a_bare_sender_gets_the_channel() {
    let (_tmp, path, mut channel, stop) = fixture();
    let mut terminal = Terminal::connect(&path);
    terminal.say(r#"{"text":"x","to":{"channelType":"discord","platformId":"discord:1:2"},"senderId":"5"}"#);
    let message = next_message(&mut channel, &stop);
    assert_eq!(message.content.sender_id.as_deref(), Some("discord:5"));
    assert_eq!(message.threads, Threads::Absent);
    assert_eq!(crate::channel::user_id("discord", "telegram:5"), "telegram:5");
}
