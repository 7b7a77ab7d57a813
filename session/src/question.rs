//! A question to a person, with options to choose from, and what became of it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::content::text;
use crate::time::parse_utc;

/// Most options of a question.
pub const MAX_OPTIONS: usize = 10;
/// Longest id: it has to fit a button. bytes
const MAX_ID_BYTES: usize = 48;
/// Longest parts. characters
const MAX_TITLE_CHARS: usize = 200;
const MAX_QUESTION_CHARS: usize = 2_000;
const MAX_OPTION_CHARS: usize = 80;

/// A question with buttons.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Question {
    pub question_id: String,
    pub title: String,
    #[serde(default)]
    pub question: String,
    pub options: Vec<QuestionOption>,
    /// Nobody waits for the answer any more after this; the host has a limit of its own. (Ours.)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
}

/// One button: what it says, what it says once chosen, what the agent gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct QuestionOption {
    pub label: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selected_label: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

impl Question {
    /// What is wrong with it, in a sentence for who asks.
    ///
    /// # Errors
    /// That sentence.
    pub fn check(&self) -> Result<(), &'static str> {
        let id_char = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let fits = |text: &str, max| !text.trim().is_empty() && text.chars().count() <= max;
        let optional_fits = |text: &Option<String>| text.as_ref().is_none_or(|t| fits(t, MAX_OPTION_CHARS));
        let option_fits = |o: &QuestionOption| {
            fits(&o.label, MAX_OPTION_CHARS) && optional_fits(&o.selected_label) && optional_fits(&o.value)
        };
        let said_before = |(n, option): (usize, &QuestionOption)| {
            self.options[..n].iter().any(|earlier| same(&earlier.label, &option.label))
        };
        if self.question_id.is_empty()
            || self.question_id.len() > MAX_ID_BYTES
            || !self.question_id.chars().all(id_char)
        {
            Err("the questionId of a question has 1 to 48 letters, digits, - and _")
        } else if !fits(&self.title, MAX_TITLE_CHARS) {
            Err("a question needs a title of 1 to 200 characters")
        } else if self.question.chars().count() > MAX_QUESTION_CHARS {
            Err("a question has at most 2,000 characters")
        } else if self.options.is_empty() || self.options.len() > MAX_OPTIONS {
            Err("a question needs 1 to 10 options")
        } else if !self.options.iter().all(option_fits) {
            Err("label, selectedLabel and value of an option have 1 to 80 characters each")
        } else if self.options.iter().enumerate().any(said_before) {
            Err("two options of a question have the same label")
        } else {
            Ok(())
        }
    }

    /// When nobody waits any more, as far as who asked said so.
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.expires_at.as_deref().and_then(parse_utc)
    }
}

impl QuestionOption {
    /// What the agent gets.
    pub fn value(&self) -> &str {
        self.value.as_deref().unwrap_or(&self.label)
    }

    /// What the question shows once this was chosen.
    pub fn selected_label(&self) -> &str {
        self.selected_label.as_deref().unwrap_or(&self.label)
    }

    /// The option somebody means who says its label, its value or its number.
    pub fn chosen<'o>(options: &'o [QuestionOption], said: &str) -> Option<&'o QuestionOption> {
        let by_name =
            options.iter().find(|o| same(&o.label, said)).or_else(|| options.iter().find(|o| same(o.value(), said)));
        by_name.or_else(|| options.get(said.trim().parse::<usize>().ok()?.checked_sub(1)?))
    }
}

fn same(a: &str, b: &str) -> bool {
    a.trim().to_lowercase() == b.trim().to_lowercase()
}

/// What became of a question: a row of kind `system`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub question_id: String,
    /// Of the question, for an agent that has forgotten it.
    pub title: String,
    pub outcome: Outcome,
}

/// How a question ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Chosen {
        /// The option's value.
        option: String,
        /// The name of who chose it, where that is known.
        by: Option<String>,
    },
    /// Nobody answered in time.
    Expired,
    /// It is not asked any more, and why.
    Withdrawn { why: String },
}

impl Answer {
    /// The type of its content.
    pub(crate) const TYPE: &'static str = "question_response";

    /// The content of its row.
    pub fn to_json(&self) -> String {
        let mut content = json!({"type": Self::TYPE, "questionId": self.question_id, "title": self.title});
        match &self.outcome {
            Outcome::Chosen { option, by } => {
                content["status"] = "answered".into();
                content["selectedOption"] = option.as_str().into();
                content["sender"] = by.as_deref().into();
            }
            Outcome::Expired => content["status"] = "expired".into(),
            Outcome::Withdrawn { why } => {
                content["status"] = "withdrawn".into();
                content["result"] = why.as_str().into();
            }
        }
        content.to_string()
    }

    pub(crate) fn from_object(o: &Map<String, Value>) -> Option<Answer> {
        let (status, result) = (text(o, "status"), text(o, "result"));
        let outcome = match (status.as_deref(), text(o, "selectedOption")) {
            (Some("expired"), _) => Outcome::Expired,
            (Some("withdrawn"), _) => Outcome::Withdrawn { why: result.unwrap_or_default() },
            (_, option) => Outcome::Chosen { option: option.or(result)?, by: text(o, "sender") },
        };
        Some(Answer { question_id: text(o, "questionId")?, title: text(o, "title").unwrap_or_default(), outcome })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{Inbound, Outbound, System};
    use crate::row::{InKind, OutKind};

    fn option(label: &str, value: Option<&str>) -> QuestionOption {
        QuestionOption { label: label.into(), selected_label: None, value: value.map(str::to_owned) }
    }

    fn question() -> Question {
        Question {
            question_id: "q-1".into(),
            title: "Which?".into(),
            question: String::new(),
            options: vec![option("Red", Some("r")), option("Blue", None)],
            expires_at: None,
        }
    }

    #[test]
    fn an_option_is_meant_by_its_label_its_value_or_its_number() {
        let options = question().options;
        let chosen = |said| QuestionOption::chosen(&options, said).map(QuestionOption::value);
        for said in ["Red", " red ", "R", "1"] {
            assert_eq!(chosen(said), Some("r"), "{said:?}");
        }
        assert_eq!(chosen("2"), Some("Blue"));
        for said in ["", "0", "3", "-1", "red or blue", "2.0"] {
            assert_eq!(chosen(said), None, "{said:?}");
        }
        // What it says counts more than where it stands.
        let numbers = [option("2", None), option("1", None)];
        assert_eq!(QuestionOption::chosen(&numbers, "1").map(QuestionOption::value), Some("1"));
    }

    #[test]
    fn a_question_without_a_title_with_no_options_or_with_two_alike_is_invalid() {
        assert_eq!(question().check(), Ok(()));
        let long = "x".repeat(MAX_OPTION_CHARS + 1);
        let wrong = [
            Question { title: " ".into(), ..question() },
            Question { title: "x".repeat(MAX_TITLE_CHARS + 1), ..question() },
            Question { question: "x".repeat(MAX_QUESTION_CHARS + 1), ..question() },
            Question { options: vec![], ..question() },
            Question { options: vec![option("a", None), option("A ", None)], ..question() },
            Question { options: vec![option("", None)], ..question() },
            Question { options: vec![option(&long, None)], ..question() },
            Question { options: vec![option("a", Some(&long))], ..question() },
            Question { options: (0..=MAX_OPTIONS).map(|n| option(&n.to_string(), None)).collect(), ..question() },
            Question { question_id: String::new(), ..question() },
            Question { question_id: "a b".into(), ..question() },
            Question { question_id: "x".repeat(MAX_ID_BYTES + 1), ..question() },
        ];
        for wrong in wrong {
            let why = wrong.check().unwrap_err();
            let (kind, content) = Outbound::Question(wrong).to_row();
            assert_eq!(Outbound::parse(kind, &content), Outbound::Invalid(why));
        }
        let untitled = r#"{"type":"ask_question","questionId":"q","options":[{"label":"a"}]}"#;
        assert!(matches!(Outbound::parse(OutKind::Chat, untitled), Outbound::Invalid(_)));
    }

    #[test]
    fn an_answer_round_trips_and_an_older_host_s_is_understood() {
        let outcomes = [
            Outcome::Chosen { option: "r".into(), by: Some("Ann".into()) },
            Outcome::Chosen { option: "r".into(), by: None },
            Outcome::Expired,
            Outcome::Withdrawn { why: "it rains".into() },
        ];
        for outcome in outcomes {
            let answer = Answer { question_id: "q".into(), title: "Which?".into(), outcome };
            let read = Inbound::parse(InKind::System, &answer.to_json());
            assert_eq!(read, Inbound::System(Some(System::Answer(answer))));
        }
        let older = r#"{"type":"question_response","questionId":"q","status":"answered","result":"r"}"#;
        let outcome = Outcome::Chosen { option: "r".into(), by: None };
        let answer = Answer { question_id: "q".into(), title: String::new(), outcome };
        assert_eq!(Inbound::parse(InKind::System, older), Inbound::System(Some(System::Answer(answer))));
        for nothing in [r#"{"type":"question_response"}"#, r#"{"type":"question_response","questionId":"q"}"#] {
            assert_eq!(Inbound::parse(InKind::System, nothing), Inbound::System(None));
        }
    }
}
