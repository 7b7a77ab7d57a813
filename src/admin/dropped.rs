//! `nanoclaw dropped`: who was not heard, and why.

use anyhow::Result;
use clap::Subcommand;

use super::delete::{Delete, Extent};
use super::{Admin, Answer, Verbs, pick};
use crate::store::MAX_DROPPED_CHATS;

#[derive(Debug, Subcommand, Default)]
pub enum Verb {
    /// List the chats, the latest first
    #[default]
    List,
    /// Show one, by its platform id
    Get { id: String },
    /// Forget one
    Delete(Delete),
}

impl Verbs for Verb {
    fn run(self, admin: &Admin<'_>) -> Result<Answer> {
        let store = &admin.store;
        let all = || store.dropped_senders(u32::try_from(MAX_DROPPED_CHATS)?).map_err(anyhow::Error::from);
        let one = |word: &str| pick(all()?, word, |dropped| vec![&dropped.platform_id]);
        match self {
            Verb::List => Ok(Answer::list(&all()?)),
            Verb::Get { id } => Ok(Answer::one(&one(&id)?)),
            Verb::Delete(args) => {
                let dropped = one(&args.id)?;
                args.run(&dropped, Extent::default(), || {
                    Ok(store.forget_dropped(&dropped.channel_type, &dropped.platform_id)?)
                })
            }
        }
    }
}
