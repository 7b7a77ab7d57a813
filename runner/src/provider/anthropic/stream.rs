//! What the events of a streamed answer add up to. Pure.
//! Events: <https://docs.anthropic.com/en/api/messages-streaming>; unknown ones are to be ignored.

use serde::Deserialize;

use super::CUT_OFF_NOTE;
use super::sse::SseEvent;

/// An answer as far as it has come.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    pub text: String,
    stop_reason: Option<String>,
}

/// Whether there is more to come.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    More,
    Done,
}

/// Why an answer is none.
#[derive(Debug, PartialEq, Eq)]
pub enum Fault {
    /// The model declined.
    Refused,
    /// The server says that something went wrong.
    Reported { kind: String, message: String },
    /// The stream is not what the API describes.
    Unreadable(String),
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Event {
    ContentBlockStart {
        content_block: Block,
    },
    ContentBlockDelta {
        delta: Block,
    },
    MessageDelta {
        delta: Delta,
    },
    MessageStop,
    Error {
        error: Reported,
    },
    /// `ping`, `message_start`, `content_block_stop`, and what is added in later years.
    #[serde(other)]
    Other,
}

/// A block or a piece of one: `text` and `text_delta` have text, others nothing for us.
#[derive(Deserialize)]
struct Block {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    text: String,
}

#[derive(Deserialize)]
struct Delta {
    stop_reason: Option<String>,
}

#[derive(Deserialize)]
struct Reported {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    message: String,
}

impl Answer {
    /// Takes the next event.
    pub fn apply(&mut self, event: &SseEvent) -> Result<Step, Fault> {
        let event = serde_json::from_str(&event.data)
            .map_err(|e| Fault::Unreadable(format!("event {:?} of the answer: {e}", event.name)))?;
        match event {
            Event::ContentBlockStart { content_block: block } | Event::ContentBlockDelta { delta: block } => {
                if matches!(block.kind.as_str(), "text" | "text_delta") {
                    self.text.push_str(&block.text);
                }
            }
            Event::MessageDelta { delta } => self.stop_reason = delta.stop_reason.or(self.stop_reason.take()),
            Event::MessageStop if self.stop_reason.as_deref() == Some("refusal") => return Err(Fault::Refused),
            Event::MessageStop => return Ok(Step::Done),
            Event::Error { error } => return Err(Fault::Reported { kind: error.kind, message: error.message }),
            Event::Other => {}
        }
        Ok(Step::More)
    }

    /// The text for the user; that it is not whole is never kept from them.
    pub fn with_note(self) -> String {
        match self.stop_reason.as_deref() {
            Some("max_tokens" | "model_context_window_exceeded") => format!("{}\n\n{CUT_OFF_NOTE}", self.text),
            _ => self.text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(events: &[&str]) -> (Answer, Result<Step, Fault>) {
        let mut answer = Answer::default();
        let mut last = Ok(Step::More);
        for data in events {
            last = answer.apply(&SseEvent { name: "e".into(), data: (*data).to_owned() });
        }
        (answer, last)
    }

    const TEXT: &str = r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"hi"}}"#;

    #[test]
    fn text_adds_up_and_the_rest_is_ignored() {
        let (answer, last) = applied(&[
            r#"{"type":"message_start","message":{"id":"m","usage":{}}}"#,
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#,
            r#"{"type":"ping"}"#,
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"x"}}"#,
            TEXT,
            r#"{"type":"something_new","x":1}"#,
            TEXT,
            r#"{"type":"content_block_stop","index":0}"#,
            r#"{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":2}}"#,
            r#"{"type":"message_stop"}"#,
        ]);
        assert_eq!((last, answer.with_note().as_str()), (Ok(Step::Done), "hihi"));
    }

    #[test]
    fn an_answer_that_is_cut_off_says_so() {
        let (answer, _) = applied(&[TEXT, r#"{"type":"message_delta","delta":{"stop_reason":"max_tokens"}}"#]);
        assert!(answer.with_note().ends_with(CUT_OFF_NOTE));
    }

    #[test]
    fn faults_are_told_apart() {
        let refused =
            [TEXT, r#"{"type":"message_delta","delta":{"stop_reason":"refusal"}}"#, r#"{"type":"message_stop"}"#];
        assert_eq!(applied(&refused).1, Err(Fault::Refused));
        let error = r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;
        let reported = Fault::Reported { kind: "overloaded_error".into(), message: "Overloaded".into() };
        assert_eq!(applied(&[error]).1, Err(reported));
        assert!(matches!(applied(&["{"]).1, Err(Fault::Unreadable(_))));
    }
}
