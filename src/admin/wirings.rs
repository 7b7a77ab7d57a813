//! `nanoclaw wirings`: which agent hears which chat, and what makes it answer.

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use regex_lite::Regex;

use super::{Admin, Answer, Entity, Kind, optional, words};
use crate::id::new_id;
use crate::store::{
    AgentGroup, Dependent, EngageMode, IgnoredMessagePolicy, MessagingGroup, SenderScope, SessionMode, Store, Target,
    Threads, Wiring,
};

/// Platforms whose groups have threads.
const THREADED: &[&str] = &["discord", "matrix", "slack"];

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Let an agent hear a chat, and write to it
    Create {
        /// The chat, by id, platform id or name
        #[arg(long)]
        chat: String,
        /// The agent group, by id, folder or name
        #[arg(long)]
        group: String,
        #[command(flatten)]
        flags: Flags,
    },
    /// Change one
    Update {
        id: String,
        #[command(flatten)]
        flags: Flags,
    },
}

#[derive(Debug, Args, PartialEq, Default)]
pub struct Flags {
    /// What makes the agent answer [default: mention-sticky in a group with threads, else pattern]
    #[arg(long, value_name = "MODE", value_parser = words(EngageMode::ALL, EngageMode::as_str))]
    engage_mode: Option<EngageMode>,
    /// The regular expression of the mode `pattern`; `.` is everything
    #[arg(long, value_name = "RE", allow_hyphen_values = true)]
    engage_pattern: Option<String>,
    /// Whose messages count [default: all]
    #[arg(long, value_name = "SCOPE", value_parser = words(SenderScope::ALL, SenderScope::as_str))]
    sender_scope: Option<SenderScope>,
    /// What becomes of messages it does not answer [default: drop]
    #[arg(long, value_name = "POLICY", value_parser = words(IgnoredMessagePolicy::ALL, IgnoredMessagePolicy::as_str))]
    ignored_message_policy: Option<IgnoredMessagePolicy>,
    /// Which conversations share a session [default: shared]
    #[arg(long, value_name = "MODE", value_parser = words(SessionMode::ALL, SessionMode::as_str))]
    session_mode: Option<SessionMode>,
    /// Higher is judged first [default: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    priority: Option<i64>,
}

impl Flags {
    fn apply(self, wiring: &mut Wiring) -> Result<()> {
        if let Some(pattern) = &self.engage_pattern {
            Regex::new(pattern).with_context(|| format!("--engage-pattern {pattern:?} is no regular expression"))?;
        }
        let mode = match (self.engage_mode, &self.engage_pattern) {
            (Some(mode), _) => mode,
            (None, Some(pattern)) if !pattern.is_empty() => EngageMode::Pattern,
            (None, _) => wiring.engage_mode,
        };
        if let Some(pattern) = self.engage_pattern {
            wiring.engage_pattern = optional(pattern);
        } else if mode != wiring.engage_mode {
            wiring.engage_pattern = None;
        }
        wiring.engage_mode = mode;
        if mode == EngageMode::Pattern && wiring.engage_pattern.is_none() {
            bail!("the engage mode `pattern` needs --engage-pattern; `.` is everything");
        }
        wiring.sender_scope = self.sender_scope.unwrap_or(wiring.sender_scope);
        wiring.ignored_message_policy = self.ignored_message_policy.unwrap_or(wiring.ignored_message_policy);
        wiring.session_mode = self.session_mode.unwrap_or(wiring.session_mode);
        wiring.priority = self.priority.unwrap_or(wiring.priority);
        Ok(())
    }
}

impl Entity for Wiring {
    type Verb = Verb;
    const KIND: Kind<Wiring> = Kind {
        abbreviated: true,
        dependents: |store, wiring| {
            let chat = Target::Channel(&wiring.messaging_group_id);
            let destination = store.find_destination_to(&wiring.agent_group_id, chat)?;
            Ok(destination.map(|_| Dependent { noun: "destinations", count: 1 }).into_iter().collect())
        },
        // The permission to write to the chat came with the wiring and goes with it.
        needs_cascade: false,
        ..Kind::new(Store::wirings, |store, wiring| Ok(store.delete_wiring(&wiring.id).map(drop)?))
    };

    fn run(verb: Verb, admin: &Admin<'_>) -> Result<Answer> {
        let store = &admin.store;
        match verb {
            Verb::Create { chat, group, flags } => {
                let (mut chat, group) = (admin.find::<MessagingGroup>(&chat)?, admin.find::<AgentGroup>(&group)?);
                if let Some(there) = store.find_wiring(&chat.id, &group.id)? {
                    bail!("`{}` hears this chat already, by wiring `{}`: update that one", group.folder, there.id);
                }
                let threads =
                    if THREADED.contains(&chat.channel_type.as_str()) { Threads::Supported } else { Threads::Absent };
                let mut wiring = Wiring::defaults(&new_id("wire"), &chat, threads, &group.id, admin.now);
                // An explicit `pattern` says which.
                if flags.engage_mode == Some(EngageMode::Pattern) {
                    wiring.engage_pattern = None;
                }
                flags.apply(&mut wiring)?;
                admin.change(|| {
                    store.create_wiring(&wiring)?;
                    store.forget_dropped(&chat.channel_type, &chat.platform_id)?;
                    if chat.denied_at.take().is_some() {
                        store.update_messaging_group(&chat)?;
                    }
                    Ok(())
                })?;
                Ok(Answer::one(&wiring))
            }
            Verb::Update { id, flags } => admin.update(&id, flags, |wiring, flags| {
                flags.apply(wiring)?;
                Ok(store.update_wiring(wiring)?)
            }),
        }
    }
}
