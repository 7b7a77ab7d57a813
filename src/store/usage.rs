//! What models have taken, by session, day, provider and model. It stays when its session goes.
//!
//! The numbers are a container's word: it can spoil its own session's sums and nothing else.

use nanoclaw_session::usage::{MAX_TOKENS, Usage};

use super::{Result, Session, Store};

/// Models of one session and day that are kept apart; what further ones took is counted together.
const MAX_MODELS: i64 = 20;
/// The name under which that is.
const OTHER_MODELS: &str = "(others)";

table! {
    /// What all sessions of a group have had from a model on a day.
    pub struct UsageSum in "usage" as "recorded turn", key 4 {
        /// Of the owner's calendar, as `2026-11-21`.
        day: String,
        agent_group_id: String,
        provider: String,
        model: String,
        turns: i64,
        input_tokens: i64,
        output_tokens: i64,
        cache_read_tokens: i64,
        cache_write_tokens: i64,
        /// As far as providers say it. millionths of a US dollar
        cost_microusd: i64,
    }
}

impl Store {
    /// Adds what rows of a session's outbound.db say to `day`; `usage` has their seqs, in order. A
    /// row that is not above all that were counted was counted before.
    pub(crate) fn count_usage(&self, session: &Session, day: &str, usage: &[(i64, Usage)]) -> Result<()> {
        if usage.is_empty() {
            return Ok(());
        }
        let most = i64::try_from(MAX_TOKENS).unwrap_or(i64::MAX);
        let add = |column| format!("{column} = min({column} + excluded.{column}, {most})");
        let sums =
            ["turns", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "cost_microusd"];
        let sql = format!(
            "INSERT INTO usage (session_id, day, provider, model, agent_group_id, turns, input_tokens, output_tokens,
                                cache_read_tokens, cache_write_tokens, cost_microusd, last_seq)
             VALUES (?1, ?2, ?3, ?4, ?5, 1, ?6, ?7, ?8, ?9, ?10, ?11)
             ON CONFLICT (session_id, day, provider, model) DO UPDATE SET {}, last_seq = excluded.last_seq",
            sums.map(add).join(", ")
        );
        self.transaction(|| {
            let counted: Vec<i64> =
                self.column("SELECT coalesce(max(last_seq), 0) FROM usage WHERE session_id = ?1", &[&session.id])?;
            for (seq, usage) in usage.iter().filter(|(seq, _)| counted.iter().all(|counted| seq > counted)) {
                let Usage { provider, .. } = usage;
                let others: Vec<i64> = self.column(
                    "SELECT count(*) FROM usage
                     WHERE session_id = ?1 AND day = ?2 AND (provider, model) <> (?3, ?4) AND model <> ?5",
                    &[&session.id, &day, provider, &usage.model, &OTHER_MODELS],
                )?;
                let apart = others.iter().all(|others| *others < MAX_MODELS);
                let model = if apart { usage.model.as_str() } else { OTHER_MODELS };
                let tokens = |count: u64| i64::try_from(count).unwrap_or(most).min(most);
                let cost = (usage.cost_usd.unwrap_or_default() * 1e6).round() as i64; // saturates
                self.execute(
                    &sql,
                    &[
                        &session.id,
                        &day,
                        provider,
                        &model,
                        &session.agent_group_id,
                        &tokens(usage.input_tokens),
                        &tokens(usage.output_tokens),
                        &tokens(usage.cache_read_tokens),
                        &tokens(usage.cache_write_tokens),
                        &cost,
                        seq,
                    ],
                )?;
            }
            Ok(())
        })
    }

    /// What was used since `day`, by all groups or one, the oldest first.
    pub fn usage_since(&self, day: &str, agent_group_id: Option<&str>) -> Result<Vec<UsageSum>> {
        // `total` does not overflow, whatever containers said.
        let sum = |column: &&str| match *column {
            "day" | "agent_group_id" | "provider" | "model" => (*column).to_owned(),
            sum => format!("CAST(total({sum}) AS INTEGER) AS {sum}"),
        };
        let columns: Vec<_> = <UsageSum as super::Row>::COLUMNS.iter().map(sum).collect();
        let sql = format!(
            "SELECT {} FROM usage WHERE day >= ?1 AND (?2 IS NULL OR agent_group_id = ?2)
             GROUP BY day, agent_group_id, provider, model ORDER BY 1, 2, 3, 4",
            columns.join(", ")
        );
        self.rows(&sql, &[&day, &agent_group_id])
    }
}
