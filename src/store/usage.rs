//! What models have taken, by session, day, provider and model. It stays when its session goes.
//!
//! The numbers are a container's word: it can spoil its own session's sums and nothing else.

use nanoclaw_session::usage::{MAX_TOKENS, Usage};

use super::{Result, Session, Store, ToColumn};

/// Models of one session and day that are kept apart; what further ones took is counted together.
const MAX_MODELS: i64 = 20;
/// The name under which that is.
const OTHER_MODELS: &str = "(others)";

/// The columns that add up.
const SUMS: [&str; 5] = ["turns", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens"];

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
        /// As far as providers say it. US dollars
        cost_usd: Option<f64>,
    }
}

impl Store {
    /// Adds what rows of a session's outbound.db say to `day`; `usage` has their seqs, in order. A
    /// row that is not above all that were counted was counted before.
    pub(crate) fn count_usage(&self, session: &Session, day: &str, usage: &[(i64, Usage)]) -> Result<()> {
        if usage.is_empty() {
            return Ok(());
        }
        let add = |column| format!("{column} = min({column} + excluded.{column}, {MAX_TOKENS})");
        let sql = format!(
            "INSERT INTO usage (session_id, day, provider, model, agent_group_id, last_seq, {}, cost_microusd)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1, ?7, ?8, ?9, ?10, ?11)
             ON CONFLICT (session_id, day, provider, model) DO UPDATE SET {}, {}, last_seq = excluded.last_seq",
            SUMS.join(", "),
            SUMS.map(add).join(", "),
            add("cost_microusd")
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
                let counts =
                    [usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, usage.cache_write_tokens];
                let [input, output, read, written] = counts.map(|count| count.min(MAX_TOKENS) as i64);
                let cost = (usage.cost_usd.unwrap_or_default() * 1e6).round() as i64; // saturates
                let (id, group) = (&session.id, &session.agent_group_id);
                let row: [&dyn ToColumn; 11] =
                    [id, &day, provider, &model, group, seq, &input, &output, &read, &written, &cost];
                self.execute(&sql, &row)?;
            }
            Ok(())
        })
    }

    /// What was used since `day`, by all groups or one, the oldest first; behind it, where there is any, the total.
    pub fn usage_since(&self, day: &str, agent_group_id: Option<&str>) -> Result<Vec<UsageSum>> {
        // `total` does not overflow, whatever containers said.
        let sums = SUMS.map(|sum| format!("CAST(total({sum}) AS INTEGER) AS {sum}")).join(", ");
        let select = |key| {
            format!(
                "SELECT {key}, {sums}, nullif(total(cost_microusd), 0) / 1e6 AS cost_usd FROM usage
                 WHERE day >= ?1 AND (?2 IS NULL OR agent_group_id = ?2)"
            )
        };
        let (each, all) = (select("day, agent_group_id, provider, model"), select("'total', '', '', ''"));
        let sql = format!("{each} GROUP BY 1, 2, 3, 4 UNION ALL {all} HAVING count(*) > 0 ORDER BY 1, 2, 3, 4");
        self.rows(&sql, &[&day, &agent_group_id])
    }
}
