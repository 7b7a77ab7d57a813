//! The action `create_agent`: an agent asks the host for another one, which it can write to from then on.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::content::Outbound;

/// Longest name of an agent. characters
const MAX_NAME_CHARS: usize = 64;
/// Longest instructions. bytes
const MAX_INSTRUCTIONS_BYTES: usize = 32 * 1024;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateAgent {
    /// What people call it; its folder and the names it goes by are made of this.
    pub name: String,
    /// What it is there for: it reads this before everything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
}

impl CreateAgent {
    /// The action's name.
    pub const ACTION: &str = "create_agent";

    /// What the runner writes.
    pub fn to_action(&self) -> Outbound {
        let arguments = json!(self).as_object().cloned().unwrap_or_default();
        Outbound::Action { name: CreateAgent::ACTION.to_owned(), arguments }
    }

    /// Reads the action's arguments.
    ///
    /// # Errors
    /// What is wrong with them, as a sentence's end.
    pub fn from_arguments(arguments: &Map<String, Value>) -> Result<CreateAgent, &'static str> {
        CreateAgent::deserialize(arguments).map_err(|_| "create_agent needs a name, as text")?.checked()
    }

    /// The same with a trimmed name and without empty instructions.
    ///
    /// # Errors
    /// As of [`CreateAgent::from_arguments`].
    pub fn checked(self) -> Result<CreateAgent, &'static str> {
        let name = self.name.trim();
        let instructions = self.instructions.filter(|text| !text.trim().is_empty());
        if name.chars().count() > MAX_NAME_CHARS
            || name.contains(char::is_control)
            || !name.contains(char::is_alphanumeric)
        {
            return Err("the name of an agent is one line of up to 64 characters, with a letter or a digit in it");
        }
        if instructions.as_ref().is_some_and(|text| text.len() > MAX_INSTRUCTIONS_BYTES) {
            return Err("the instructions of an agent have at most 32 KiB");
        }
        Ok(CreateAgent { name: name.to_owned(), instructions })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::OutKind;

    fn read(content: &str) -> Result<CreateAgent, &'static str> {
        let Outbound::Action { name, arguments } = Outbound::parse(OutKind::System, content) else {
            panic!("{content} is no action")
        };
        assert_eq!(name, "create_agent");
        CreateAgent::from_arguments(&arguments)
    }

    #[test]
    fn what_the_runner_writes_the_host_reads() {
        for instructions in [None, Some("Answer in rhymes.".to_owned())] {
            let asked = CreateAgent { name: "Élise 2".into(), instructions };
            assert_eq!(read(&asked.to_action().to_row().1), Ok(asked));
        }
    }

    #[test]
    fn names_and_instructions_that_cannot_be_are_refused() {
        let long = "x".repeat(MAX_INSTRUCTIONS_BYTES + 1);
        for wrong in [
            json!({}),
            json!({"name": 7}),
            json!({"name": " "}),
            json!({"name": "../.."}),
            json!({"name": "a\nb"}),
            json!({"name": "x".repeat(65)}),
            json!({"name": "a", "instructions": ["b"]}),
            json!({"name": "a", "instructions": long}),
        ] {
            let mut row = wrong.clone();
            row["action"] = "create_agent".into();
            assert!(read(&row.to_string()).is_err(), "{wrong}");
        }
        let trimmed = read(r#"{"action":"create_agent","name":" a ","instructions":" "}"#).unwrap();
        assert_eq!(trimmed, CreateAgent { name: "a".into(), instructions: None });
    }
}
