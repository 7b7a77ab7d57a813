//! `nanoclaw chats`: one chat on one platform each, whether an agent hears it or not.

use std::iter;

use anyhow::{Result, bail, ensure};
use clap::{Args, Subcommand};

use super::{Admin, Answer, Entity, Kind, optional, words};
use crate::id::new_id;
use crate::store::{MessagingGroup, Store, UnknownSenderPolicy};

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Add one that has not been heard of yet
    Create {
        /// Its platform, such as telegram
        #[arg(long)]
        channel: String,
        /// Its id there: <channel>:<native id>
        #[arg(long)]
        platform_id: String,
        #[command(flatten)]
        flags: Flags,
    },
    /// Change one
    Update {
        id: String,
        #[command(flatten)]
        flags: Flags,
        /// Whether nobody is to be asked about it any more
        #[arg(long, value_name = "BOOL")]
        denied: Option<bool>,
    },
}

#[derive(Debug, Args, PartialEq, Default)]
pub struct Flags {
    /// What to call it (empty: nothing)
    #[arg(long)]
    name: Option<String>,
    /// Whether several people are in it
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    is_group: Option<bool>,
    /// What happens to a message of somebody the agent does not know [default: strict]
    #[arg(long, value_name = "POLICY", value_parser = words(UnknownSenderPolicy::ALL, UnknownSenderPolicy::as_str))]
    unknown_sender_policy: Option<UnknownSenderPolicy>,
}

impl Flags {
    fn apply(self, chat: &mut MessagingGroup) {
        if let Some(name) = self.name {
            chat.name = optional(name);
        }
        chat.is_group = self.is_group.unwrap_or(chat.is_group);
        chat.unknown_sender_policy = self.unknown_sender_policy.unwrap_or(chat.unknown_sender_policy);
    }
}

impl Entity for MessagingGroup {
    type Verb = Verb;
    const KIND: Kind<MessagingGroup> = Kind {
        names: |chat| iter::once(&chat.platform_id).chain(&chat.name).map(String::as_str).collect(),
        dependents: |store, chat| store.dependents_of_chat(&chat.id),
        takes_along: |chat, session| session.messaging_group_id.as_ref() == Some(&chat.id),
        column: Some(("agents", |store, chat| {
            Ok(store.wirings_of_chat(&chat.id)?.into_iter().map(|wiring| wiring.agent_group_id).collect())
        })),
        ..Kind::new(Store::messaging_groups, |store, chat| {
            Ok(store.delete_messaging_group_cascade(&chat.id).map(drop)?)
        })
    };

    fn run(verb: Verb, admin: &Admin<'_>) -> Result<Answer> {
        let store = &admin.store;
        match verb {
            Verb::Create { channel, platform_id, flags } => {
                ensure!(!channel.is_empty() && !platform_id.is_empty(), "--channel and --platform-id may not be empty");
                if let Some(there) = store.find_messaging_group(&channel, &platform_id)? {
                    bail!("chat `{platform_id}` on {channel} is there already: `{}`", there.id);
                }
                let mut chat = MessagingGroup {
                    id: new_id("chat"),
                    channel_type: channel,
                    platform_id,
                    name: None,
                    is_group: false,
                    unknown_sender_policy: UnknownSenderPolicy::Strict,
                    denied_at: None,
                    created_at: admin.now,
                };
                flags.apply(&mut chat);
                store.create_messaging_group(&chat)?;
                Ok(Answer::one(&chat))
            }
            Verb::Update { id, flags, denied } => admin.update(&id, (flags, denied), |chat, (flags, denied)| {
                flags.apply(chat);
                if let Some(denied) = denied {
                    chat.denied_at = denied.then_some(chat.denied_at.unwrap_or(admin.now));
                }
                Ok(store.update_messaging_group(chat)?)
            }),
        }
    }
}
