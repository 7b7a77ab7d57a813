//! What is left behind by messages that no agent heard: decisions for `explain`, the audit of
//! dropped messages, and what the host says about it, in the chat or to the owner.
//!
//! Runs on the router's thread. Decisions and audit rows are collected and written once per
//! batch. Failure: what cannot be recorded is logged, and holds up nobody.

use std::collections::BTreeMap;

use anyhow::Result;
use jiff::Timestamp;
use nanoclaw_session::row::{NewMessageIn, OutKind};
use serde_json::json;

use super::judge::Why;
use crate::channel::{Chat, ChatKind, InboundMessage};
use crate::id::new_id;
use crate::notice::{self, Repeat};
use crate::store::{
    Decision, DroppedSender, HostMessage, Inserted, MessagingGroup, Store, UnknownSenderPolicy, User, Wiring,
};

/// Longest piece of somebody else's text in a notice. characters
const MAX_QUOTED_CHARS: usize = 80;

/// Whether the host has something to deliver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Posted {
    Something,
    Nothing,
}

/// The records of one batch.
pub struct Records<'a> {
    store: &'a Store,
    now: Timestamp,
    decisions: Vec<Decision>,
    dropped: BTreeMap<Chat, DroppedSender>,
    posted: Posted,
}

impl<'a> Records<'a> {
    pub fn new(store: &'a Store, now: Timestamp) -> Records<'a> {
        Records { store, now, decisions: Vec::new(), dropped: BTreeMap::new(), posted: Posted::Nothing }
    }

    /// Writes what was collected.
    pub fn finish(self) -> Posted {
        if let Err(e) = self.store.record_decisions(&self.decisions) {
            log::warn!("Decisions were not recorded count={} error={e}", self.decisions.len());
        }
        for dropped in self.dropped.values() {
            if let Err(e) = self.store.record_dropped(dropped) {
                log::warn!("A dropped message was not recorded chat={} error={e}", dropped.platform_id);
            }
        }
        self.posted
    }

    pub fn not_heard(&mut self, message: &InboundMessage, agent_group_id: Option<&str>, why: Why) {
        log::info!(
            "Message not heard message={} chat={} agent={} reason={}",
            message.id,
            message.chat,
            agent_group_id.unwrap_or("-"),
            why.as_str()
        );
        self.decisions.push(Decision {
            message_id: message.id.clone(),
            at: self.now,
            channel_type: message.chat.channel_type.clone(),
            platform_id: message.chat.platform_id.clone(),
            thread_id: message.thread_id.clone(),
            sender_id: message.content.sender_id.clone(),
            agent_group_id: agent_group_id.map(str::to_owned),
            reason: why.as_str().to_owned(),
            detail: Some(why.sentence().to_owned()),
        });
    }

    /// Counts a message in the audit of dropped ones.
    pub fn dropped(&mut self, message: &InboundMessage, chat: &MessagingGroup, wiring: Option<&Wiring>, why: Why) {
        let now = self.now;
        let row = self.dropped.entry(message.chat.clone()).or_insert_with(|| DroppedSender {
            channel_type: message.chat.channel_type.clone(),
            platform_id: message.chat.platform_id.clone(),
            user_id: None,
            sender_name: None,
            reason: String::new(),
            messaging_group_id: Some(chat.id.clone()),
            agent_group_id: None,
            message_count: 0,
            first_seen: now,
            last_seen: now,
        });
        row.user_id.clone_from(&message.content.sender_id);
        row.sender_name.clone_from(&message.content.sender);
        row.agent_group_id = wiring.map(|w| w.agent_group_id.clone());
        why.as_str().clone_into(&mut row.reason);
        row.message_count += 1;
    }

    /// Answers in the chat, once per message however often it comes.
    pub fn answer(&mut self, message: &InboundMessage, text: &str) -> Result<()> {
        let key = format!("answer:{}:{}", message.chat, message.id);
        let (chat, thread_id) = message.answer_to();
        let inserted = notice::post(self.store, chat, thread_id, text, Repeat::OncePer(&key))?;
        self.note(inserted);
        Ok(())
    }

    /// Asks the channel for all further messages of a thread, once.
    pub fn subscribe(&mut self, chat: &Chat, thread_id: &str) -> Result<()> {
        let content = json!({"action": SUBSCRIBE});
        let mut message = HostMessage::new(&new_id("sub"), &chat.channel_type, &chat.platform_id, content, self.now);
        message.kind = OutKind::System;
        message.thread_id = Some(thread_id.to_owned());
        message.dedup_key = Some(format!("subscribe:{chat}:{thread_id}"));
        let inserted = self.store.enqueue_host_message(&message)?;
        self.note(inserted);
        Ok(())
    }

    /// Offers an unwired chat to the owner.
    pub fn offer(&mut self, message: &InboundMessage, chat: &MessagingGroup) -> Result<()> {
        let place = match message.kind {
            ChatKind::Direct => "a private chat",
            ChatKind::Group => "a group",
        };
        let id = &chat.id;
        let agent = self.store.agent_groups()?.into_iter().next().map_or("GROUP".to_owned(), |g| g.folder);
        let text = format!(
            "{} wrote to me in {place} that no agent is wired to ({}): \"{}\"\n\
             To let an agent answer there: nanoclaw wirings create --chat {id} --group {agent}\n\
             To keep silent there: nanoclaw chats update {id} --denied true",
            who(message),
            message.chat.platform_id,
            quoted(&message.content.text),
        );
        self.tell_owner(&text, &format!("unwired:{id}"))
    }

    /// Tells the owner of somebody unknown, and how to let them in.
    pub fn stranger(&mut self, message: &InboundMessage, groups: &[&str]) -> Result<()> {
        let Some(first) = groups.first() else { return Ok(()) };
        let (key, help) = match &message.content.sender_id {
            Some(user) => {
                let commands: Vec<String> = groups
                    .iter()
                    .map(|group| format!("nanoclaw members add --user {} --group {group}", shell_word(user)))
                    .collect();
                (format!("stranger:{user}:{first}"), format!("To let them in: {}", commands.join("\n")))
            }
            None => (format!("stranger:{}:{first}", message.chat), "The platform does not say who that is.".to_owned()),
        };
        let text = format!(
            "{} wanted to talk to {} in {} and is unknown: \"{}\"\n{help}",
            who(message),
            groups.join(", "),
            message.chat.platform_id,
            quoted(&message.content.text),
        );
        self.tell_owner(&text, &key)
    }

    /// Tells the owner that a wiring answers everything, against what they meant.
    pub fn broken_pattern(&mut self, wiring: &Wiring, problem: &str) -> Result<()> {
        let pattern = wiring.engage_pattern.as_deref().unwrap_or_default();
        let text = format!(
            "The engage pattern of the wiring {} is no regular expression, so {} answers everything there:\n{}\n\
             To mend it: nanoclaw wirings update {} --engage-pattern 'PATTERN'",
            wiring.id,
            wiring.agent_group_id,
            problem.trim_end(),
            wiring.id,
        );
        self.tell_owner(&text, &format!("pattern:{}:{pattern}", wiring.id))
    }

    fn tell_owner(&mut self, text: &str, key: &str) -> Result<()> {
        let inserted = notice::tell_owner(self.store, text, key)?;
        self.note(inserted);
        Ok(())
    }

    fn note(&mut self, inserted: Inserted) {
        if inserted == Inserted::New {
            self.posted = Posted::Something;
        }
    }
}

/// The action of a host message that asks a channel to subscribe to its thread.
pub const SUBSCRIBE: &str = "subscribe";

/// The row of a chat that is on record for the first time.
pub fn chat_row(message: &InboundMessage, now: Timestamp) -> MessagingGroup {
    MessagingGroup {
        id: new_id("chat"),
        channel_type: message.chat.channel_type.clone(),
        platform_id: message.chat.platform_id.clone(),
        name: None,
        is_group: message.kind == ChatKind::Group,
        unknown_sender_policy: UnknownSenderPolicy::RequestApproval,
        denied_at: None,
        created_at: now,
    }
}

/// The row of somebody who wrote.
pub fn sender_row(message: &InboundMessage, id: &str, now: Timestamp) -> User {
    let kind = message.chat.channel_type.clone();
    User { id: id.to_owned(), kind, display_name: message.content.sender.clone(), created_at: now }
}

/// What is recorded of a row that was there already.
pub fn duplicate(row: &NewMessageIn, agent_group_id: &str) -> Decision {
    Decision {
        message_id: super::platform_id_of(&row.id, agent_group_id),
        at: crate::time::now(),
        channel_type: row.address.channel_type.clone().unwrap_or_default(),
        platform_id: row.address.platform_id.clone().unwrap_or_default(),
        thread_id: row.address.thread_id.clone(),
        sender_id: None,
        agent_group_id: Some(agent_group_id.to_owned()),
        reason: Why::Duplicate.as_str().to_owned(),
        detail: Some(Why::Duplicate.sentence().to_owned()),
    }
}

fn who(message: &InboundMessage) -> String {
    match (&message.content.sender, &message.content.sender_id) {
        (Some(name), Some(id)) => format!("{} ({})", quoted(name), quoted(id)),
        (Some(one), None) | (None, Some(one)) => quoted(one),
        (None, None) => "Somebody".to_owned(),
    }
}

/// Somebody else's words, fit for one line of a terminal.
pub fn quoted(text: &str) -> String {
    let mut chars = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut cut: String = chars.by_ref().take(MAX_QUOTED_CHARS).collect();
    if chars.next().is_some() {
        cut.push('…');
    }
    cut
}

/// A word that a shell takes as it is: it comes from a platform, and the owner may paste it.
fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./_-".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    let visible: String = word.chars().filter(|c| !c.is_control()).collect();
    format!("'{}'", visible.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_stranger_is_called_does_nothing_in_the_owners_terminal() {
        assert_eq!(quoted("a\u{1b}[2Jb\nc"), "a [2Jb c");
        assert_eq!(quoted(&"x".repeat(100)).chars().count(), MAX_QUOTED_CHARS + 1);
        assert_eq!(shell_word("matrix:@zoe:home"), "matrix:@zoe:home");
        assert_eq!(shell_word("t:1; rm -rf ~"), "'t:1; rm -rf ~'");
        assert_eq!(shell_word("t:'x"), r"'t:'\''x'");
    }
}
