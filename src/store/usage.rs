//! Usage: what the turns of a session cost, added up by day and model. It outlives the session.

use jiff::civil::Date;

use super::{Result, Store};

table! {
    /// A row of `usage`.
    pub struct Usage in "usage" as "usage", key 4 {
        session_id: String,
        /// In the user's zone.
        day: Date,
        provider: String,
        model: String,
        agent_group_id: String,
        turns: i64,
        input_tokens: i64,
        output_tokens: i64,
        cache_read_tokens: i64,
        cache_write_tokens: i64,
        /// Millionths of a dollar.
        cost_microusd: i64,
    }
}

impl Store {
    /// Adds to what the session has used that day.
    pub fn add_usage(&self, usage: &Usage) -> Result<()> {
        self.insert_or(
            usage,
            "ON CONFLICT(session_id, day, provider, model) DO UPDATE SET
               turns = turns + excluded.turns,
               input_tokens = input_tokens + excluded.input_tokens,
               output_tokens = output_tokens + excluded.output_tokens,
               cache_read_tokens = cache_read_tokens + excluded.cache_read_tokens,
               cache_write_tokens = cache_write_tokens + excluded.cache_write_tokens,
               cost_microusd = cost_microusd + excluded.cost_microusd",
        )?;
        Ok(())
    }

    /// What was used from `first` to `last`, both included, day by day.
    pub fn usage_between(&self, first: Date, last: Date) -> Result<Vec<Usage>> {
        self.all(
            "WHERE day BETWEEN ?1 AND ?2 ORDER BY day, agent_group_id, session_id, provider, model",
            &[&first, &last],
        )
    }
}
