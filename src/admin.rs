//! Administration: `nanoclaw <resource> <verb>`, a file per resource.
//!
//! Runs in the command's own process, on its only thread, with the daemon up or down: what it
//! changes is rows in the central database, which the daemon reads for every message. What an agent
//! may write to changes through `Admin::change`, so that live sessions know at once.
//!
//! A resource answers its `Verbs` with an `Answer`; rows with an id are an `Entity` and share
//! `list`, `get` and `delete`. Flags are the columns, foreign keys by their noun. On failure nothing
//! is changed, and the error says what there is or what is allowed.

mod answer;
mod chats;
mod destinations;
mod dropped;
mod entity;
mod groups;
mod members;
mod roles;
mod sessions;
mod tasks;
mod usage;
mod users;
mod wirings;

#[cfg(test)]
mod tests;

use std::io::{IsTerminal, Write};

use anyhow::Result;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use jiff::Timestamp;

use crate::channel::cli::LOCAL_USER;
use crate::config::Settings;
use crate::container::docker::Docker;
use crate::home::Home;
use crate::store::{AgentGroup, ContainerRun, DroppedSender, Ensured, MessagingGroup, Session, Store, User, Wiring};
use answer::{Answer, Column};
pub use entity::find;
use entity::{DryRun, Entity, Kind, Verb};

/// What can be administered.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Agent groups: an agent with its folder, memory and settings
    Groups(Resource<Verb<AgentGroup>>),
    /// Chats on their platforms, wired to an agent or not
    Chats(Resource<Verb<MessagingGroup>>),
    /// Wirings: which agent hears which chat, and what makes it answer
    Wirings(Resource<Verb<Wiring>>),
    /// Users: whoever wrote, or was named here
    Users(Resource<Verb<User>>),
    /// Roles: who owns the install, who administers it or one agent group
    Roles(Resource<roles::Verb>),
    /// Members: whom an agent group knows
    Members(Resource<members::Verb>),
    /// Destinations: where an agent may write to, under which name
    Destinations(Resource<destinations::Verb>),
    /// Sessions: conversations of an agent
    Sessions(Resource<Verb<Session>>),
    /// Tasks: what agents have scheduled
    Tasks(Resource<tasks::Verb>),
    /// Dropped messages: who was not heard, and why
    Dropped(Resource<Verb<DroppedSender>>),
    /// Usage: what models have taken, by day, agent and model
    Usage(Resource<usage::Verb>),
}

/// A resource's command line. Without a verb it lists.
#[derive(Debug, Args)]
pub struct Resource<V: Subcommand> {
    /// One JSON document on stdout
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: Option<V>,
}

/// The verbs of a resource; the default one lists.
trait Verbs: Subcommand + Default {
    fn run(self, admin: &Admin<'_>) -> Result<Answer>;
}

/// Runs a command and prints what it came to.
pub fn run(home: &Home, store: Store, command: Command, out: &mut dyn Write) -> Result<()> {
    let admin = Admin { home, store, now: crate::time::now() };
    match command {
        Command::Groups(resource) => admin.answer(resource, out),
        Command::Chats(resource) => admin.answer(resource, out),
        Command::Wirings(resource) => admin.answer(resource, out),
        Command::Users(resource) => admin.answer(resource, out),
        Command::Roles(resource) => admin.answer(resource, out),
        Command::Members(resource) => admin.answer(resource, out),
        Command::Destinations(resource) => admin.answer(resource, out),
        Command::Sessions(resource) => admin.answer(resource, out),
        Command::Tasks(resource) => admin.answer(resource, out),
        Command::Dropped(resource) => admin.answer(resource, out),
        Command::Usage(resource) => admin.answer(resource, out),
    }
}

/// What the verbs work with.
pub struct Admin<'a> {
    home: &'a Home,
    store: Store,
    now: Timestamp,
}

impl Admin<'_> {
    fn answer<V: Verbs>(&self, resource: Resource<V>, out: &mut dyn Write) -> Result<()> {
        let Answer { text, json } = resource.verb.unwrap_or_default().run(self)?;
        let text = if resource.json { serde_json::to_string_pretty(&json)? } else { text };
        Ok(writeln!(out, "{text}")?)
    }

    /// The user meant; a full id that nobody has yet is recorded, for who has not written yet.
    fn user_or_new(&self, word: &str) -> Result<User> {
        let Some((kind, _)) = word.split_once(':') else { return self.find(word) };
        let user = User { id: word.to_owned(), kind: kind.to_owned(), display_name: None, created_at: self.now };
        let user = self.store.ensure_user(&user)?;
        if matches!(user, Ensured::Created(_)) {
            note(&format!("{word} has not written yet; recorded"));
        }
        Ok(user.into_inner())
    }

    /// In whose name this is done, where the terminal's user is known.
    fn acting(&self) -> Result<Option<String>> {
        Ok(self.store.find_user(LOCAL_USER)?.map(|user| user.id))
    }

    /// [`destinations::change`](crate::destinations::change), with what it could not do said.
    fn change<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let changed = crate::destinations::change(&self.store, self.home, work)?;
        for (session, error) in changed.untold {
            note(&format!("session {} learns of it at its next start: {error:#}", session.id));
        }
        Ok(changed.value)
    }

    /// The containers that run for these sessions, as far as the store knows.
    fn containers_of(&self, sessions: &[Session]) -> Result<Vec<ContainerRun>> {
        let mut runs = self.store.open_container_runs()?;
        runs.retain(|run| sessions.iter().any(|session| session.id == run.session_id));
        Ok(runs)
    }

    /// Stops containers. A daemon notices, and records how each ended; without one the next start does.
    fn stop(&self, runs: &[ContainerRun]) -> Result<()> {
        if runs.is_empty() {
            return Ok(());
        }
        let docker = Docker::new(&Settings::load(self.home)?.containers.docker);
        for run in runs {
            // One that ended meanwhile is stopped.
            if docker.inspect(&run.container_name)?.is_some() {
                docker.stop(&run.container_name)?;
            }
        }
        Ok(())
    }
}

/// Tells a person something that is no part of the result.
fn note(text: &str) {
    if std::io::stderr().is_terminal() {
        eprintln!("{text}");
    }
}

/// Reads one of a state's words, which `--help` then lists.
fn words<T>(all: &'static [T], as_str: fn(T) -> &'static str) -> impl TypedValueParser<Value = T>
where
    T: Copy + Send + Sync + 'static,
{
    PossibleValuesParser::new(all.iter().map(move |word| as_str(*word))).map(move |text| {
        all.iter().copied().find(|word| as_str(*word) == text).expect("clap lets only the listed words through")
    })
}

/// What an optional column becomes: empty text clears it.
fn optional(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// For an error: what there is.
fn listed(items: &[String]) -> String {
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}
