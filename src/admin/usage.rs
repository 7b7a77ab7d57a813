//! `nanoclaw usage`: what models have taken, by day, agent and model. Nobody changes that.

use anyhow::Result;
use clap::Subcommand;
use jiff::ToSpan;
use serde_json::Value;

use super::{Admin, Answer, Column, Verbs};
use crate::config::Settings;
use crate::store::{AgentGroup, UsageSum};

/// How far back a list goes, today included. days
const DEFAULT_DAYS: u16 = 30;
/// Whether a cost is known depends on the provider.
const COST: Column<UsageSum> = ("cost_usd", |_, sum| match sum.cost_microusd {
    0 => Ok(Value::Null),
    cost => Ok(Value::from(cost as f64 / 1e6)),
});

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
        let mut sums = admin.store.usage_since(&first, group.as_ref().map(|group| group.id.as_str()))?;
        let Answer { text, json } = Answer::list(&admin.store, &sums, Some(COST))?;
        if sums.is_empty() {
            return Ok(Answer { text, json });
        }
        let total = |of: fn(&UsageSum) -> i64| sums.iter().map(of).fold(0, i64::saturating_add);
        sums.push(UsageSum {
            day: "total".to_owned(),
            agent_group_id: String::new(),
            provider: String::new(),
            model: String::new(),
            turns: total(|sum| sum.turns),
            input_tokens: total(|sum| sum.input_tokens),
            output_tokens: total(|sum| sum.output_tokens),
            cache_read_tokens: total(|sum| sum.cache_read_tokens),
            cache_write_tokens: total(|sum| sum.cache_write_tokens),
            cost_microusd: total(|sum| sum.cost_microusd),
        });
        Ok(Answer { text: Answer::list(&admin.store, &sums, Some(COST))?.text, json })
    }
}
