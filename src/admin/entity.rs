//! What all resources with rows of their own have in common: finding the row that a word means,
//! `list`, `get` and `delete`, and how an update runs.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::{Args, Subcommand};
use serde_json::json;

use super::{Admin, Answer, Column, Verbs, note};
use crate::home::Home;
use crate::store::{self, Dependent, Row, Session, Store};

/// How many rows an error lists.
const MAX_LISTED: usize = 20;

/// A kind of row with an id, which can be shown and deleted.
pub trait Entity: Row {
    /// What else can be done with it.
    type Verb: Subcommand;
    const KIND: Kind<Self>;

    fn run(verb: Self::Verb, admin: &Admin<'_>) -> Result<Answer>;
}

/// What the common verbs must know of a kind of row.
pub struct Kind<E> {
    pub all: fn(&Store) -> store::Result<Vec<E>>,
    /// Deletes a row with its dependents.
    pub delete: fn(&Store, &E) -> Result<()>,
    /// What it is called besides its id: a kind of name at each place, the most telling first.
    pub names: fn(&E) -> Vec<&str>,
    /// Whether the start of its id will do, because nobody types such an id.
    pub abbreviated: bool,
    pub dependents: fn(&Store, &E) -> store::Result<Vec<Dependent>>,
    /// Whether its dependents are deleted only when that is asked for.
    pub needs_cascade: bool,
    /// Whether a session is deleted with it.
    pub takes_along: fn(&E, &Session) -> bool,
    /// Its own folder, which a deletion leaves.
    pub folder: fn(&Home, &E) -> Option<PathBuf>,
    /// What a list shows besides the columns.
    pub column: Option<Column<E>>,
}

impl<E> Kind<E> {
    /// A kind with no other names, no dependents and no folder.
    pub const fn new(all: fn(&Store) -> store::Result<Vec<E>>, delete: fn(&Store, &E) -> Result<()>) -> Kind<E> {
        Kind {
            all,
            delete,
            names: |_| Vec::new(),
            abbreviated: false,
            dependents: |_, _| Ok(Vec::new()),
            needs_cascade: true,
            takes_along: |_, _| false,
            folder: |_, _| None,
            column: None,
        }
    }
}

#[derive(Debug, Subcommand, Default)]
pub enum Verb<E: Entity> {
    /// List all
    #[default]
    List,
    /// Show one, by its id or a name that only one has
    Get { id: String },
    #[command(flatten)]
    Own(E::Verb),
    /// Delete one; folders stay
    Delete(Delete),
}

/// The arguments of `delete`.
#[derive(Debug, Args)]
pub struct Delete {
    /// Its id, or a name that only one has
    id: String,
    #[command(flatten)]
    dry_run: DryRun,
    /// Delete what depends on it, too
    #[arg(long)]
    cascade: bool,
}

#[derive(Debug, Args)]
pub struct DryRun {
    /// Only say what would be deleted
    #[arg(long)]
    dry_run: bool,
}

impl<E: Entity> Verbs for Verb<E> {
    fn run(self, admin: &Admin<'_>) -> Result<Answer> {
        match self {
            Verb::List => Answer::list(&admin.store, &(E::KIND.all)(&admin.store)?, E::KIND.column),
            Verb::Get { id } => Ok(Answer::one(&admin.find::<E>(&id)?)),
            Verb::Own(verb) => E::run(verb, admin),
            Verb::Delete(args) => args.run::<E>(admin),
        }
    }
}

impl Delete {
    fn run<E: Entity>(&self, admin: &Admin<'_>) -> Result<Answer> {
        let kind = E::KIND;
        let row = admin.find::<E>(&self.id)?;
        let dependents = (kind.dependents)(&admin.store, &row)?;
        if kind.needs_cascade && !self.cascade && !dependents.is_empty() {
            bail!("{} `{}` is in use by {}; --cascade deletes them too", E::NOUN, row.name(), joined(&dependents));
        }
        let mut sessions = admin.store.sessions()?;
        sessions.retain(|session| (kind.takes_along)(&row, session));
        let folder = |session: &Session| admin.home.session(&session.agent_group_id, &session.id).root().to_owned();
        let folders = sessions.iter().map(folder).chain((kind.folder)(admin.home, &row));
        let kept = folders.filter(|path| path.exists()).map(|path| path.display().to_string()).collect();
        self.dry_run.delete(&row, dependents, kept, || {
            let runs = admin.containers_of(&sessions)?;
            admin.change(|| (kind.delete)(&admin.store, &row))?;
            // The rows are gone: what is not stopped now is an orphan, which the next start removes.
            if let Err(e) = admin.stop(&runs) {
                note(&format!("a container still runs, until the daemon starts again: {e:#}"));
            }
            Ok(())
        })
    }
}

impl DryRun {
    /// Deletes a row on which nothing depends.
    pub fn remove(&self, row: &impl Row, work: impl FnOnce() -> Result<()>) -> Result<Answer> {
        self.delete(row, Vec::new(), Vec::new(), work)
    }

    /// Runs `work` when it is meant, and says what goes and what is kept.
    fn delete<T: Row>(
        &self,
        row: &T,
        dependents: Vec<Dependent>,
        kept: Vec<String>,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<Answer> {
        if !self.dry_run {
            work()?;
        }
        let done = if self.dry_run { "would delete" } else { "deleted" };
        let mut text = format!("{done} {} `{}`", T::NOUN, row.name());
        if !dependents.is_empty() {
            text.push_str(&format!(" with {}", joined(&dependents)));
        }
        for path in &kept {
            text.push_str(&format!("\nleft as it is: {path}"));
        }
        let dependents: Vec<_> = dependents.iter().map(|d| json!({ "noun": d.noun, "count": d.count })).collect();
        let json = json!({ "deleted": !self.dry_run, "row": row.to_json(), "dependents": dependents, "kept": kept });
        Ok(Answer { text, json })
    }
}

impl Admin<'_> {
    pub fn find<E: Entity>(&self, word: &str) -> Result<E> {
        find(&self.store, word)
    }

    /// Lets `apply` change and store the row that `word` means, with the flags that were given.
    pub fn update<E: Entity, F: Default + PartialEq>(
        &self,
        word: &str,
        flags: F,
        apply: impl FnOnce(&mut E, F) -> Result<()>,
    ) -> Result<Answer> {
        ensure!(flags != F::default(), "nothing to change: give a flag, see --help");
        let row = self.change(|| {
            let mut row = self.find(word)?;
            apply(&mut row, flags)?;
            Ok(row)
        })?;
        Ok(Answer::one(&row))
    }
}

/// The row with the id `word`, else the only one with that name (the first kind of name that fits
/// any row decides), else, where ids are abbreviated, the only one whose id begins so.
pub fn find<E: Entity>(store: &Store, word: &str) -> Result<E> {
    let mut rows = (E::KIND.all)(store)?;
    let matching = |fits: &dyn Fn(&E) -> bool| -> Option<Vec<usize>> {
        let found: Vec<_> = (0..rows.len()).filter(|n| fits(&rows[*n])).collect();
        (!found.is_empty()).then_some(found)
    };
    let Kind { names, abbreviated, .. } = E::KIND;
    let kinds = rows.iter().map(|row| names(row).len()).max().unwrap_or(0);
    let found = matching(&|row| row.name() == word)
        .or_else(|| (0..kinds).find_map(|kind| matching(&|row| names(row).get(kind) == Some(&word))))
        .or_else(|| matching(&|row| abbreviated && !word.is_empty() && row.name().starts_with(word)))
        .unwrap_or_default();
    let described = |row: &E| match names(row).first() {
        Some(name) if *name != row.name() => format!("{} ({name})", row.name()),
        _ => row.name(),
    };
    match found[..] {
        [n] => Ok(rows.swap_remove(n)),
        [] if rows.is_empty() => bail!("there is no {} `{word}`; there are none at all", E::NOUN),
        [] => {
            let mut known: Vec<_> = rows.iter().take(MAX_LISTED).map(described).collect();
            if rows.len() > MAX_LISTED {
                known.push(format!("and {} more", rows.len() - MAX_LISTED));
            }
            bail!("there is no {} `{word}`; there are: {}", E::NOUN, known.join(", "))
        }
        _ => {
            let meant: Vec<_> = found.iter().map(|n| described(&rows[*n])).collect();
            bail!("`{word}` may be several: {}; give the id", meant.join(", "))
        }
    }
}

fn joined(dependents: &[Dependent]) -> String {
    dependents.iter().map(Dependent::to_string).collect::<Vec<_>>().join(", ")
}
