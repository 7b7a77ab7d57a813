//! Counts what becomes of each message while things die: how often it was accepted, stored,
//! answered by its agent, and heard by its client. It knows nothing of how that is done.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Value, json};

use super::{Host, sqlite};

/// See the module.
pub struct Oracle {
    /// Platform ids of the terminal's chats, each wired to an agent of its own.
    chats: Vec<String>,
    messages: Vec<Message>,
    /// Every text that came, in order.
    heard: Vec<Heard>,
    /// The life of the host: counted by its kills.
    life: usize,
    container_kills: usize,
}

struct Message {
    chat: usize,
    text: String,
    answer: Answer,
    accepted: bool,
}

/// How the demo provider answers, so that the message can be told by it.
enum Answer {
    /// With these words in it.
    Quoting(String),
    Exactly(String),
}

struct Heard {
    chat: usize,
    row: String,
    text: String,
    life: usize,
}

/// What a message came to.
#[derive(Default)]
struct Counts {
    rows: usize,
    failed: usize,
    replies: BTreeSet<String>,
}

/// The result of a run.
pub struct Report {
    pub messages: usize,
    pub once: usize,
    pub duplicates: usize,
    /// Given up after too many tries, and the user was told.
    pub told: usize,
    pub host_kills: usize,
    pub container_kills: usize,
    /// Everything that must not be; empty, or the run has failed.
    pub violations: Vec<String>,
}

impl Oracle {
    pub fn new(chats: &[&str]) -> Oracle {
        let chats = chats.iter().map(|c| (*c).to_owned()).collect();
        Oracle { chats, messages: Vec::new(), heard: Vec::new(), life: 0, container_kills: 0 }
    }

    /// The next message to a chat, as a line for the socket.
    pub fn message(&mut self, chat: usize) -> Value {
        let words = format!("message {}.", self.messages.len());
        self.push(chat, words.clone(), Answer::Quoting(format!("\"{words}\"")))
    }

    /// The same, with a turn that takes a while: longer for each one in this chat.
    pub fn slow_message(&mut self, chat: usize) -> Value {
        let slow = |m: &&Message| m.chat == chat && matches!(m.answer, Answer::Exactly(_));
        let to = self.messages.iter().filter(slow).count() + 2;
        let count: Vec<String> = (1..=to).map(|n| n.to_string()).collect();
        self.push(chat, format!("count to {to} slowly"), Answer::Exactly(count.join(", ")))
    }

    fn push(&mut self, chat: usize, text: String, answer: Answer) -> Value {
        self.messages.push(Message { chat, text, answer, accepted: false });
        self.line(self.messages.len() - 1)
    }

    fn line(&self, n: usize) -> Value {
        let Message { chat, text, .. } = &self.messages[n];
        json!({"id": format!("m{n}"), "text": text, "to": {"channelType": "cli", "platformId": self.chats[*chat]}})
    }

    /// What a platform brings again after a crash: all that was never acknowledged, some of which
    /// may be on disk.
    pub fn unaccepted(&self) -> Vec<Value> {
        (0..self.messages.len()).filter(|n| !self.messages[*n].accepted).map(|n| self.line(n)).collect()
    }

    /// A line of the host's.
    pub fn hear(&mut self, line: &Value) {
        let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        match line["type"].as_str() {
            Some("accepted") => {
                let n = text("id").strip_prefix('m').and_then(|n| n.parse::<usize>().ok()).expect("an id of ours");
                self.messages[n].accepted = true;
            }
            Some("text") => {
                let chat = self.chats.iter().position(|c| line["platformId"] == c.as_str()).expect("a chat of ours");
                self.heard.push(Heard { chat, row: text("id"), text: text("text"), life: self.life });
            }
            Some("error") => panic!("the host refused something: {line}"),
            _ => {}
        }
    }

    /// Whether all messages so far were accepted.
    pub fn all_accepted(&self) -> bool {
        self.messages.iter().all(|m| m.accepted)
    }

    /// Whether all messages were answered, or their failure was told.
    pub fn all_answered(&self) -> bool {
        let failures = self.heard.iter().filter(|h| h.text.starts_with(FAILED)).count();
        self.messages.iter().filter(|m| !self.heard.iter().any(|h| m.is_answered_by(h))).count() <= failures
    }

    /// Answers heard in a chat so far.
    pub fn answers_in(&self, chat: usize) -> usize {
        self.heard.iter().filter(|h| h.chat == chat).count()
    }

    pub fn host_was_killed(&mut self) {
        self.life += 1;
    }

    pub fn container_was_killed(&mut self) {
        self.container_kills += 1;
    }

    pub fn host_kills(&self) -> usize {
        self.life
    }

    pub fn container_kills(&self) -> usize {
        self.container_kills
    }

    /// Looks into the files of every session and adds up.
    pub fn report(&self, host: &Host) -> Report {
        let files = self.count(host);
        let mut violations = Vec::new();
        let (mut once, mut duplicates, mut told) = (0, 0, 0);
        for (n, message) in self.messages.iter().enumerate() {
            let counts = &files[&n];
            let deliveries: Vec<&Heard> = self.heard.iter().filter(|h| message.is_answered_by(h)).collect();
            let mut wrong = |what: String| violations.push(format!("message {n} ({:?}): {what}", message.text));
            if !message.accepted || counts.rows != 1 {
                wrong(format!("accepted: {}, stored {} times", message.accepted, counts.rows));
            }
            match (counts.replies.len(), deliveries.as_slice()) {
                (0, []) if counts.failed == 1 => told += 1,
                (0, _) => wrong("LOST: never answered".into()),
                (1, []) => wrong("LOST: its answer was never delivered".into()),
                (1, [_]) => once += 1,
                (1, several) => match self.undocumented(several) {
                    None => duplicates += 1,
                    Some(why) => wrong(format!("delivered {} times: {why}", several.len())),
                },
                (replies, _) => wrong(format!("seen by its agent {replies} times")),
            }
        }
        let failures: BTreeSet<&str> =
            self.heard.iter().filter(|h| h.text.starts_with(FAILED)).map(|h| h.row.as_str()).collect();
        if failures.len() != told {
            violations.push(format!("{told} messages failed, and {} failures were told", failures.len()));
        }
        Report {
            messages: self.messages.len(),
            once,
            duplicates,
            told,
            host_kills: self.life,
            container_kills: self.container_kills,
            violations,
        }
    }

    /// Why a row that was delivered again should not have been. Allowed is the one that was in
    /// flight when its host was killed: the last one of its chat in that life.
    fn undocumented(&self, deliveries: &[&Heard]) -> Option<String> {
        deliveries.windows(2).find_map(|pair| {
            let (first, second) = (pair[0], pair[1]);
            let last = self.heard.iter().rev().find(|h| h.chat == first.chat && h.life == first.life)?;
            if first.life == second.life {
                Some(format!("twice in life {}", first.life))
            } else if last.row != first.row {
                Some(format!("it was not in flight at the end of life {}: {:?} came after it", first.life, last.text))
            } else {
                None
            }
        })
    }

    /// What the sessions' files say of each message.
    fn count(&self, host: &Host) -> BTreeMap<usize, Counts> {
        let mut counts: BTreeMap<usize, Counts> = (0..self.messages.len()).map(|n| (n, Counts::default())).collect();
        for session in host.store().active_sessions().expect("sessions") {
            let dir = host.dir_of(&session);
            let own = host.chat_of(&session);
            let chat = self.chats.iter().position(|c| *c == own).expect("a session of ours");
            let mine = || self.messages.iter().enumerate().filter(|(_, m)| m.chat == chat);
            let rows = "SELECT json_extract(content, '$.text'), status FROM messages_in";
            for row in sqlite::query(&dir.inbound_db(), rows).expect("inbound.db") {
                for (n, _) in mine().filter(|(_, m)| m.text == row[0]) {
                    let counts = counts.get_mut(&n).expect("all are there");
                    counts.rows += 1;
                    counts.failed += usize::from(row[1] == "failed");
                }
            }
            let rows = "SELECT id, json_extract(content, '$.text') FROM messages_out";
            for row in sqlite::query(&dir.outbound_db(), rows).expect("outbound.db") {
                for (n, _) in mine().filter(|(_, m)| m.answer.is(&row[1])) {
                    counts.get_mut(&n).expect("all are there").replies.insert(row[0].clone());
                }
            }
        }
        counts
    }
}

/// How the host begins when it tells that a message is given up.
const FAILED: &str = "I could not answer your message";

impl Message {
    fn is_answered_by(&self, heard: &Heard) -> bool {
        heard.chat == self.chat && self.answer.is(&heard.text)
    }
}

impl Answer {
    fn is(&self, text: &str) -> bool {
        match self {
            Answer::Quoting(words) => text.contains(words),
            Answer::Exactly(words) => text == words,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lost = self.violations.iter().filter(|v| v.contains("LOST")).count();
        write!(
            f,
            "{} messages, {} answered exactly once, {} documented duplicates (the row in flight at a host kill, on a \
             channel without idempotency), {} failed and told, {lost} lost, {} other violations, over {} host kills and {} container kills",
            self.messages,
            self.once,
            self.duplicates,
            self.told,
            self.violations.len() - lost,
            self.host_kills,
            self.container_kills
        )
    }
}
