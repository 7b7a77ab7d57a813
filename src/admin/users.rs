//! `nanoclaw users`: whoever wrote, or was named by an admin.

use anyhow::{Result, ensure};
use clap::Subcommand;

use super::delete::{Delete, Extent};
use super::{Admin, Answer, Verbs, optional, roles};
use crate::store::User;

#[derive(Debug, Subcommand, Default)]
pub enum Verb {
    /// List all
    #[default]
    List,
    /// Show one
    Get { id: String },
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
    /// Delete one, and with --cascade their roles and memberships
    Delete(Delete),
}

impl Verbs for Verb {
    fn run(self, admin: &Admin<'_>) -> Result<Answer> {
        let store = &admin.store;
        match self {
            Verb::List => Ok(Answer::list(&store.users()?)),
            Verb::Get { id } => Ok(Answer::one(&admin.user(&id)?)),
            Verb::Create { id, display_name } => {
                let kind = id.split_once(':').map_or("", |(kind, _)| kind).to_owned();
                let display_name = display_name.and_then(optional);
                let user = User { id, kind, display_name, created_at: admin.now };
                store.create_user(&user)?;
                Ok(Answer::one(&user))
            }
            Verb::Update { id, display_name } => {
                ensure!(display_name.is_some(), "nothing to change: give --display-name");
                let user = store.transaction(|| -> Result<User> {
                    let mut user = admin.user(&id)?;
                    user.display_name = display_name.and_then(optional);
                    store.update_user(&user)?;
                    Ok(user)
                })?;
                Ok(Answer::one(&user))
            }
            Verb::Delete(args) => {
                let user = admin.user(&args.id)?;
                let extent = Extent { dependents: store.dependents_of_user(&user.id)?, kept: Vec::new() };
                args.run(&user, extent, || {
                    store.transaction(|| {
                        roles::keep_an_owner(store, &user.id)?;
                        Ok(store.delete_user_cascade(&user.id)?)
                    })
                })
            }
        }
    }
}
