//! `nanoclaw users`: whoever wrote, or was named by an admin.

use anyhow::Result;
use clap::Subcommand;

use super::{Admin, Answer, Entity, Kind, optional, roles};
use crate::store::{Store, User};

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Add one who has not written yet
    Create {
        /// <channel>:<native user id>
        #[arg(long)]
        id: String,
        /// What to call them
        #[arg(long, value_name = "NAME")]
        display_name: Option<String>,
    },
    /// Change one
    Update {
        id: String,
        /// What to call them (empty: nothing)
        #[arg(long, value_name = "NAME")]
        display_name: Option<String>,
    },
}

impl Entity for User {
    type Verb = Verb;
    const KIND: Kind<User> = Kind {
        names: |user| user.display_name.as_deref().into_iter().collect(),
        dependents: |store, user| store.dependents_of_user(&user.id),
        ..Kind::new(Store::users, |store, user| {
            roles::keep_an_owner(store, &user.id)?;
            Ok(store.delete_user_cascade(&user.id)?)
        })
    };

    fn run(verb: Verb, admin: &Admin<'_>) -> Result<Answer> {
        let store = &admin.store;
        match verb {
            Verb::Create { id, display_name } => {
                let kind = id.split_once(':').map_or("", |(kind, _)| kind).to_owned();
                let display_name = display_name.and_then(optional);
                let user = User { id, kind, display_name, created_at: admin.now };
                store.create_user(&user)?;
                Ok(Answer::one(&user))
            }
            Verb::Update { id, display_name } => admin.update(&id, display_name, |user: &mut User, name| {
                user.display_name = name.and_then(optional);
                Ok(store.update_user(user)?)
            }),
        }
    }
}
