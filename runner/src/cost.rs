//! What models cost: reported to the host at the end of each turn, and summed for `/cost`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::Timestamp;
use nanoclaw_session::row::{Address, NewMessageOut};
use serde_json::json;

use crate::id;
use crate::provider::Usage;

/// Tokens by model, since the session began.
#[derive(Debug, Default)]
pub struct Spent(BTreeMap<String, Usage>);

impl Spent {
    /// Where it lies in `session_state`.
    pub fn key(provider: &str) -> String {
        format!("usage:{provider}")
    }

    /// What was stored; nothing, when that cannot be read.
    pub fn parse(json: Option<&str>) -> Spent {
        Spent(json.and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default())
    }

    pub fn to_json(&self) -> String {
        json!(self.0).to_string()
    }

    pub fn plus(mut self, costs: &BTreeMap<String, Usage>) -> Spent {
        for (model, usage) in costs {
            *self.0.entry(model.clone()).or_default() += *usage;
        }
        self
    }

    /// For people.
    pub fn shown(&self) -> String {
        if self.0.is_empty() {
            return "Nothing was spent in this session yet.".into();
        }
        let mut out = String::from("Tokens in this session:");
        for (model, Usage { input, output, cache_read, cache_write }) in &self.0 {
            let _infallible = write!(
                out,
                "\n{model}: {input} in, {output} out, {cache_read} read from the cache, {cache_write} written to it"
            );
        }
        out
    }
}

/// The rows that tell the host.
pub fn reports(provider: &str, costs: &BTreeMap<String, Usage>, now: Timestamp) -> Vec<NewMessageOut> {
    let row = |(model, usage): (&String, &Usage)| {
        let report = nanoclaw_session::usage::Usage {
            provider: provider.to_owned(),
            model: model.clone(),
            input_tokens: usage.input,
            output_tokens: usage.output,
            cache_read_tokens: usage.cache_read,
            cache_write_tokens: usage.cache_write,
            cost_usd: None,
        };
        let (kind, content) = report.to_action().to_row();
        let id = id::message(now);
        NewMessageOut { id, in_reply_to: None, deliver_after: None, kind, address: Address::default(), content }
    };
    costs.iter().map(row).collect()
}
