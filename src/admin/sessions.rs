//! `nanoclaw sessions`: conversations. The router makes them; here they are looked at, closed and deleted.

use anyhow::{Result, ensure};
use clap::Subcommand;

use super::delete::{Delete, Extent};
use super::{Admin, Answer, Verbs, note, optional, pick, words};
use crate::config::PROVIDERS;
use crate::store::{Session, SessionStatus};

#[derive(Debug, Subcommand, Default)]
pub enum Verb {
    /// List all, closed ones too
    #[default]
    List,
    /// Show one, by its id or the start of it
    Get { id: String },
    /// Change one
    Update {
        id: String,
        /// A closed one hears nothing more: the next message starts another
        #[arg(long, value_parser = words(SessionStatus::ALL, SessionStatus::as_str))]
        status: Option<SessionStatus>,
        /// Another provider than its group's (empty: its group's)
        #[arg(long)]
        provider: Option<String>,
    },
    /// Delete one; its folder stays
    Delete(Delete),
}

impl Verbs for Verb {
    fn run(self, admin: &Admin<'_>) -> Result<Answer> {
        let store = &admin.store;
        let session = |word: &str| pick(store.sessions()?, word, |_| Vec::new());
        match self {
            Verb::List => Ok(Answer::list(&store.sessions()?)),
            Verb::Get { id } => Ok(Answer::one(&session(&id)?)),
            Verb::Update { id, status, provider } => {
                ensure!(status.is_some() || provider.is_some(), "nothing to change: give --status or --provider");
                let updated = store.transaction(|| -> Result<Session> {
                    let session = session(&id)?;
                    if let Some(status) = status {
                        let (chat, thread) = (session.messaging_group_id.as_deref(), session.thread_id.as_deref());
                        if let Some(live) = store.find_session(&session.agent_group_id, chat, thread)? {
                            let two = status == SessionStatus::Active && live.id != session.id;
                            ensure!(!two, "`{}` goes on in its place: close that one first", live.id);
                        }
                        store.set_session_status(&session.id, status)?;
                    }
                    if let Some(provider) = provider.clone() {
                        store.set_session_provider(&session.id, checked_provider(provider)?.as_deref())?;
                    }
                    Ok(store.session(&session.id)?)
                })?;
                if provider.is_some() {
                    note("the provider changes when its container starts again");
                }
                Ok(Answer::one(&updated))
            }
            Verb::Delete(args) => {
                let session = session(&args.id)?;
                let sessions = [session.clone()];
                let extent = Extent { dependents: Vec::new(), kept: admin.folders_of(&sessions) };
                args.run(&session, extent, || {
                    admin.delete_with_containers(&sessions, || Ok(store.delete_session(&session.id)?))
                })
            }
        }
    }
}

/// A provider this version has; empty is none.
pub fn checked_provider(name: String) -> Result<Option<String>> {
    ensure!(
        name.is_empty() || PROVIDERS.contains(&name.as_str()),
        "--provider {name:?}: allowed is one of {}",
        PROVIDERS.join(", ")
    );
    Ok(optional(name))
}
