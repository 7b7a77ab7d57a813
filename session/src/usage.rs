//! What a turn cost: the action `usage`, one row of `messages_out` for each model of the turn. The
//! runner writes it, the host counts it per session and day.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::content::Outbound;

/// Largest count that every JSON reader keeps exact. tokens
pub const MAX_TOKENS: u64 = 1 << 53;
/// Longest name of a provider or a model. bytes
const MAX_NAME_BYTES: usize = 128;
/// Largest cost of one turn. US dollars
const MAX_COST_USD: f64 = 1e6;

/// What one model took in one turn.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    pub provider: String,
    pub model: String,
    /// Those that no cache was used for. tokens
    pub input_tokens: u64,
    pub output_tokens: u64,
    #[serde(default)]
    pub cache_read_tokens: u64,
    #[serde(default)]
    pub cache_write_tokens: u64,
    /// As the provider says it, where it does. US dollars
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<f64>,
}

impl Usage {
    /// The action's name.
    pub const ACTION: &str = "usage";

    /// What the runner writes.
    pub fn to_action(&self) -> Outbound {
        let arguments = json!(self).as_object().cloned().unwrap_or_default();
        Outbound::Action { name: Usage::ACTION.to_owned(), arguments }
    }

    /// Reads the action's arguments.
    ///
    /// # Errors
    /// What is wrong with them, as a sentence's end.
    pub fn from_arguments(arguments: &Map<String, Value>) -> Result<Usage, &'static str> {
        let usage = Usage::deserialize(arguments)
            .map_err(|_| "usage needs provider and model, and counts of tokens that are not negative")?;
        let counts = [usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, usage.cache_write_tokens];
        let cost = usage.cost_usd.unwrap_or_default();
        if counts.iter().any(|count| *count > MAX_TOKENS) || !(0.0..=MAX_COST_USD).contains(&cost) {
            return Err("usage has a number that no turn comes to");
        }
        let is_name = |name: &String| (1..=MAX_NAME_BYTES).contains(&name.len()) && !name.contains(char::is_control);
        if !(is_name(&usage.provider) && is_name(&usage.model)) {
            return Err("usage has a provider or a model without a proper name");
        }
        Ok(usage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::OutKind;

    fn read(content: &str) -> Result<Usage, &'static str> {
        let Outbound::Action { name, arguments } = Outbound::parse(OutKind::System, content) else {
            panic!("{content} is no action")
        };
        assert_eq!(name, "usage");
        Usage::from_arguments(&arguments)
    }

    #[test]
    fn what_the_runner_writes_the_host_reads() {
        for cost_usd in [None, Some(0.0125)] {
            let usage = Usage {
                provider: "anthropic".into(),
                model: "m-1".into(),
                input_tokens: 1,
                output_tokens: MAX_TOKENS,
                cache_read_tokens: 3,
                cache_write_tokens: 4,
                cost_usd,
            };
            let (kind, content) = usage.to_action().to_row();
            assert_eq!(kind, OutKind::System);
            assert!(content.contains("cacheReadTokens") && content.contains("costUsd") == cost_usd.is_some());
            assert_eq!(read(&content), Ok(usage));
        }
    }

    #[test]
    fn numbers_and_names_that_cannot_be_are_refused() {
        let good = json!({"action": "usage", "provider": "p", "model": "m", "inputTokens": 1, "outputTokens": 2});
        assert_eq!(read(&good.to_string()).unwrap().cache_read_tokens, 0);
        for (key, value) in [
            ("inputTokens", json!(-1)),
            ("inputTokens", json!(MAX_TOKENS + 1)),
            ("outputTokens", json!("2")),
            ("outputTokens", json!(1e300)),
            ("cacheReadTokens", json!(0.5)),
            ("costUsd", json!(-0.01)),
            ("costUsd", json!(1e300)),
            ("model", json!("")),
            ("model", json!("m".repeat(129))),
            ("model", json!("m\u{1b}[2J")),
            ("provider", json!(null)),
        ] {
            let mut bad = good.clone();
            bad[key] = value;
            assert!(read(&bad.to_string()).is_err(), "{bad}");
        }
    }
}
