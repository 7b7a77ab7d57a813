//! `nanoclaw sessions`: conversations. The router makes them; here they are looked at, closed and deleted.

use anyhow::{Result, ensure};
use clap::Subcommand;

use super::{Admin, Answer, Entity, Kind, note, optional, words};
use crate::config::PROVIDERS;
use crate::store::{Session, SessionStatus, Store};

#[derive(Debug, Subcommand)]
pub enum Verb {
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
}

impl Entity for Session {
    type Verb = Verb;
    const KIND: Kind<Session> = Kind {
        abbreviated: true,
        takes_along: |this, session| session.id == this.id,
        ..Kind::new(Store::sessions, |store, session| Ok(store.delete_session(&session.id)?))
    };

    fn run(verb: Verb, admin: &Admin<'_>) -> Result<Answer> {
        let store = &admin.store;
        let Verb::Update { id, status, provider } = verb;
        admin.update(&id, (status, provider), |session: &mut Session, (status, provider)| {
            if let Some(status) = status {
                let (chat, thread) = (session.messaging_group_id.as_deref(), session.thread_id.as_deref());
                if let Some(live) = store.find_session(&session.agent_group_id, chat, thread)? {
                    let two = status == SessionStatus::Active && live.id != session.id;
                    ensure!(!two, "`{}` goes on in its place: close that one first", live.id);
                }
                store.set_session_status(&session.id, status)?;
            }
            if let Some(provider) = provider {
                store.set_session_provider(&session.id, checked_provider(provider)?.as_deref())?;
                note("the provider changes when its container starts again");
            }
            *session = store.session(&session.id)?;
            Ok(())
        })
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
