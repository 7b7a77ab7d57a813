//! `nanoclaw usage`: what models have taken, by day, agent and model. Nobody changes that.

use anyhow::Result;
use clap::Subcommand;
use jiff::ToSpan;

use super::{Admin, Answer, Verbs};
use crate::config::Settings;
use crate::store::AgentGroup;

/// How far back a list goes, today included. days
const DEFAULT_DAYS: u16 = 30;

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List by day, with a total
    List {
        /// Only this agent group, by id, folder or name
        #[arg(long)]
        group: Option<String>,
        /// So many days back, today included
        #[arg(long, default_value_t = DEFAULT_DAYS, value_parser = clap::value_parser!(u16).range(1..))]
        days: u16,
    },
}

impl Default for Verb {
    fn default() -> Verb {
        Verb::List { group: None, days: DEFAULT_DAYS }
    }
}

impl Verbs for Verb {
    fn run(self, admin: &Admin<'_>) -> Result<Answer> {
        let Verb::List { group, days } = self;
        let group = group.map(|word| admin.find::<AgentGroup>(&word)).transpose()?;
        let today = crate::time::day(admin.now, &Settings::load(admin.home)?.agents.timezone);
        let first = today.saturating_sub((i64::from(days) - 1).days()).to_string();
        let sums = admin.store.usage_since(&first, group.as_ref().map(|group| group.id.as_str()))?;
        let mut answer = Answer::list(&admin.store, &sums, None)?;
        // The total is for people: a program would count it, too.
        answer.json.as_array_mut().and_then(Vec::pop);
        Ok(answer)
    }
}
