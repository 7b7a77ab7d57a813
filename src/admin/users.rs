//! `nanoclaw users`: whoever wrote, or was named by an admin.

use anyhow::Result;
use clap::Subcommand;

use super::{Admin, Answer, Entity, optional, roles};
use crate::store::{Dependent, Store, User};

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

    fn all(store: &Store) -> Result<Vec<User>> {
        Ok(store.users()?)
    }

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

    fn names(&self) -> Vec<&str> {
        self.display_name.as_deref().into_iter().collect()
    }

    fn dependents(&self, store: &Store) -> Result<Vec<Dependent>> {
        Ok(store.dependents_of_user(&self.id)?)
    }

    fn delete(&self, store: &Store) -> Result<()> {
        roles::keep_an_owner(store, &self.id)?;
        Ok(store.delete_user_cascade(&self.id)?)
    }
}
