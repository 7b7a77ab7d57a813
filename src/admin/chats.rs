//! `nanoclaw chats`: one chat on one platform each, whether an agent hears it or not.

use anyhow::{Result, ensure};
use clap::{Args, Subcommand};
use serde_json::json;

use super::delete::{Delete, Extent};
use super::{Admin, Answer, Verbs, note, optional, words};
use crate::id::new_id;
use crate::store::{MessagingGroup, UnknownSenderPolicy};

/// Platforms whose ids begin with their own name.
const PREFIXED: &[&str] = &["telegram", "matrix", "discord", "slack"];

#[derive(Debug, Subcommand, Default)]
pub enum Verb {
    /// List all, with the agents that hear them
    #[default]
    List,
    /// Show one
    Get { id: String },
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
    /// Delete one, and with --cascade its wirings, sessions and destinations
    Delete(Delete),
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

impl Verbs for Verb {
    fn run(self, admin: &Admin<'_>) -> Result<Answer> {
        let store = &admin.store;
        match self {
            Verb::List => {
                let (chats, wirings) = (store.messaging_groups()?, store.wirings()?);
                let agents = |chat: &MessagingGroup| {
                    let of_chat = wirings.iter().filter(|wiring| wiring.messaging_group_id == chat.id);
                    json!(of_chat.map(|wiring| wiring.agent_group_id.as_str()).collect::<Vec<_>>())
                };
                Ok(Answer::list(&chats).with("agents", chats.iter().map(agents).collect()))
            }
            Verb::Get { id } => Ok(Answer::one(&admin.chat(&id)?)),
            Verb::Create { channel, platform_id, flags } => {
                ensure!(!channel.is_empty() && !platform_id.is_empty(), "--channel and --platform-id may not be empty");
                if PREFIXED.contains(&channel.as_str()) && !platform_id.starts_with(&format!("{channel}:")) {
                    note(&format!("ids of {channel} are `{channel}:<native id>`; is `{platform_id}` what you mean?"));
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
                if let Some(there) = store.find_messaging_group(&chat.channel_type, &chat.platform_id)? {
                    anyhow::bail!(
                        "chat `{}` on {} is there already: `{}`",
                        chat.platform_id,
                        chat.channel_type,
                        there.id
                    );
                }
                store.create_messaging_group(&chat)?;
                Ok(Answer::one(&chat))
            }
            Verb::Update { id, flags, denied } => {
                ensure!(flags != Flags::default() || denied.is_some(), "nothing to change: give a flag, see --help");
                let chat = admin.change(|| {
                    let mut chat = admin.chat(&id)?;
                    flags.apply(&mut chat);
                    if let Some(denied) = denied {
                        chat.denied_at = denied.then_some(chat.denied_at.unwrap_or(admin.now));
                    }
                    store.update_messaging_group(&chat)?;
                    Ok(chat)
                })?;
                Ok(Answer::one(&chat))
            }
            Verb::Delete(args) => {
                let chat = admin.chat(&args.id)?;
                let mut sessions = store.sessions()?;
                sessions.retain(|session| session.messaging_group_id.as_ref() == Some(&chat.id));
                let extent =
                    Extent { dependents: store.dependents_of_chat(&chat.id)?, kept: admin.folders_of(&sessions) };
                args.run(&chat, extent, || {
                    admin.delete_with_containers(&sessions, || {
                        Ok(store.delete_messaging_group_cascade(&chat.id).map(drop)?)
                    })
                })
            }
        }
    }
}
