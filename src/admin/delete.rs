//! What all deletions have in common: `--dry-run`, `--cascade`, and saying what goes and what stays.

use anyhow::{Result, bail};
use clap::Args;
use serde_json::json;

use super::Answer;
use crate::store::{Dependent, Row, StoreError};

/// The arguments of `delete`.
#[derive(Debug, Args)]
pub struct Delete {
    /// Its id, or a name that only one has
    pub id: String,
    #[command(flatten)]
    pub dry_run: DryRun,
    /// Delete what depends on it, too
    #[arg(long)]
    pub cascade: bool,
}

#[derive(Debug, Args)]
pub struct DryRun {
    /// Only say what would be deleted
    #[arg(long)]
    pub dry_run: bool,
}

/// What a deletion takes along, and what it leaves behind.
#[derive(Debug, Default)]
pub struct Extent {
    pub dependents: Vec<Dependent>,
    /// Such as folders.
    pub kept: Vec<String>,
}

impl Delete {
    /// Runs `work` unless others depend on `row` and may not go.
    pub fn run<T: Row>(&self, row: &T, extent: Extent, work: impl FnOnce() -> Result<()>) -> Result<Answer> {
        if !extent.dependents.is_empty() && !self.cascade {
            let in_use = StoreError::InUse { noun: T::NOUN, id: row.name(), by: extent.dependents };
            bail!("{in_use}; --cascade deletes them too");
        }
        self.dry_run.run(row, extent, work)
    }
}

impl DryRun {
    pub fn run<T: Row>(&self, row: &T, extent: Extent, work: impl FnOnce() -> Result<()>) -> Result<Answer> {
        if !self.dry_run {
            work()?;
        }
        let mut text =
            format!("{} {} `{}`", if self.dry_run { "would delete" } else { "deleted" }, T::NOUN, row.name());
        for (n, dependent) in extent.dependents.iter().enumerate() {
            text.push_str(if n == 0 { " with " } else { ", " });
            text.push_str(&dependent.to_string());
        }
        for kept in &extent.kept {
            text.push_str(&format!("\nleft as it is: {kept}"));
        }
        let dependents: Vec<_> =
            extent.dependents.iter().map(|d| json!({ "noun": d.noun, "count": d.count })).collect();
        let json = json!({
            "deleted": !self.dry_run,
            "row": row.to_json(),
            "dependents": dependents,
            "kept": extent.kept,
        });
        Ok(Answer::Done { text, json })
    }
}
