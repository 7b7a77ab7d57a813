//! Asking the people of the session's own chat, and waiting for one of them.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded, select};
use nanoclaw_session::content::{Answer, Question, QuestionOption};
use nanoclaw_session::question::{MAX_OPTIONS, Outcome};
use nanoclaw_session::time::format_utc;
use serde::Deserialize;
use serde_json::json;

use super::{Context, Effect, Output, Tool, tool};
use crate::provider::TurnEvent;
use crate::stop::Stop;
use crate::{id, time};

/// How long an answer is waited for. seconds
const DEFAULT_SECONDS: u64 = 300;
/// The host believes in no silence beyond two hours (rule 9).
const MAX_SECONDS: u64 = 110 * 60;
/// What an answer that was given in time may take to arrive.
const GRACE: Duration = Duration::from_secs(3);

/// What is asked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    pub title: String,
    #[serde(default)]
    pub question: String,
    pub options: Vec<QuestionOption>,
    /// seconds
    pub timeout: Option<u64>,
}

impl Ask {
    fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout.unwrap_or(DEFAULT_SECONDS).clamp(1, MAX_SECONDS))
    }
}

pub fn asking() -> Arc<dyn Tool> {
    let text = |what: &str| json!({"type": "string", "description": what});
    let option = json!({
        "type": "object",
        "properties": {
            "label": text("What the button says."),
            "selectedLabel": text("What it says once it was chosen; without it, the label."),
            "value": text("What you get when it is chosen; without it, the label."),
        },
        "required": ["label"],
        "additionalProperties": false,
    });
    tool(
        (
            "ask_user_question",
            "Asks the people of this conversation to choose one of several options, and waits for the choice. Ends \
             without one when nobody chooses in time or somebody writes something else instead.",
        ),
        (
            json!({
                "title": text("The question in a few words."),
                "question": text("More about it, where the title does not say everything."),
                "options": {"type": "array", "minItems": 1, "maxItems": MAX_OPTIONS, "items": option},
                "timeout": {"type": "integer", "minimum": 1, "maximum": MAX_SECONDS,
                    "description": format!("Seconds to wait; {DEFAULT_SECONDS} without it.")},
            }),
            &["title", "options"],
        ),
        Effect::Changes,
        |asked: &Ask| asked.timeout() + GRACE,
        |asked, context: &Context| {
            if context.destinations.own().is_none() {
                return Err("This session has no chat of its own to ask in. Ask with `send_message`.".into());
            }
            ask(asked, &context.stop, &context.events).map(Output::text)
        },
    )
}

/// Asks, and waits for what comes of it: a sentence for the model.
///
/// # Errors
/// Nobody was asked, or nobody is to answer any more: such a sentence, too.
pub fn ask(asked: Ask, stop: &Stop, events: &Sender<TurnEvent>) -> Result<String, String> {
    let (now, timeout) = (time::now(), asked.timeout());
    let Ask { title, question, options, .. } = asked;
    let expires_at = Some(format_utc(now + timeout));
    let question = Question { question_id: format!("q-{}", id::random()), title, question, options, expires_at };
    question.check().map_err(|why| format!("Nobody was asked: {why}."))?;
    let (sender, answer) = bounded::<Answer>(1);
    let gone = |_| "Nobody can be asked here.".to_owned();
    events.send(TurnEvent::Waiting { until: now + timeout + GRACE }).map_err(gone)?;
    events.send(TurnEvent::Ask { question, answer: sender }).map_err(gone)?;
    let outcome = select! {
        recv(answer) -> answer => match answer {
            Ok(answer) => answer.outcome,
            Err(_) => return Err("The question is not waited for any more.".into()),
        },
        recv(stop.word()) -> _ => return Err("You were stopped.".into()),
        default(timeout + GRACE) => Outcome::Expired,
    };
    Ok(match outcome {
        Outcome::Chosen { option, by: Some(by) } => format!("{by} chose {option:?}."),
        Outcome::Chosen { option, by: None } => format!("The answer is {option:?}."),
        Outcome::Expired => format!("Nobody answered within {} seconds.", timeout.as_secs()),
        Outcome::Withdrawn { why } => format!("The question was withdrawn: {why}."),
    })
}

#[cfg(test)]
mod tests {
    use std::thread;

    use serde_json::Value;

    use super::*;
    use crate::destinations::Destinations;
    use crate::destinations::tests::three;
    use crate::stop;
    use crate::tools::Outcome as Ended;

    fn input() -> Value {
        json!({"title": "Which?", "options": [{"label": "Red", "selectedLabel": "Red it is", "value": "r"}, {"label": "Blue"}], "timeout": 600})
    }

    /// What a call comes to; `host` hears what it asks.
    fn call(input: &Value, host: impl FnOnce(Question, Sender<Answer>, stop::Stopper) + Send) -> Output {
        let (stopper, stop) = stop::pair();
        let (events, asked) = bounded(8);
        let context = Context { stop, events, destinations: Arc::new(three()) };
        thread::scope(|scope| {
            scope.spawn(move || {
                let Ok(TurnEvent::Waiting { until }) = asked.recv() else { return };
                let Ok(TurnEvent::Ask { question, answer }) = asked.recv() else { panic!("nothing was asked") };
                assert!(question.expires_at().unwrap() < until);
                host(question, answer, stopper);
            });
            let output = asking().call(input, &context);
            drop(context);
            output
        })
    }

    fn answered(outcome: Outcome) -> Output {
        call(&input(), |question, answer, _stopper| {
            let answered = Answer { question_id: question.question_id, title: question.title, outcome };
            answer.send(answered).unwrap();
        })
    }

    #[test]
    fn what_became_of_a_question_is_said_in_a_sentence() {
        let chosen = |by: Option<&str>| Outcome::Chosen { option: "r".into(), by: by.map(str::to_owned) };
        assert_eq!(answered(chosen(Some("Ann"))), Output::text("Ann chose \"r\"."));
        assert_eq!(answered(chosen(None)), Output::text("The answer is \"r\"."));
        assert_eq!(answered(Outcome::Expired), Output::text("Nobody answered within 600 seconds."));
        let withdrawn = answered(Outcome::Withdrawn { why: "it rains".into() });
        assert_eq!(withdrawn, Output::text("The question was withdrawn: it rains."));
    }

    #[test]
    fn a_stop_and_a_turn_that_is_over_end_the_wait() {
        let stopped = call(&input(), |_, answer, stopper| {
            drop(stopper);
            // Kept until the other side is gone.
            while answer
                .send(Answer { question_id: String::new(), title: String::new(), outcome: Outcome::Expired })
                .is_ok()
            {}
        });
        assert_eq!(stopped.outcome, Ended::Failed);
        let over = call(&input(), |_, answer, _stopper| drop(answer));
        assert_eq!(over, Output::failed("The question is not waited for any more."));
    }

    #[test]
    fn a_wrong_question_is_never_asked() {
        let change = |key: &str, value: Value| {
            let mut input = input();
            input[key] = value;
            input
        };
        for wrong in [
            change("title", json!("")),
            change("title", Value::Null),
            change("options", json!([])),
            change("options", json!(["Red"])),
            change("options", json!([{"label": "a", "colour": "b"}])),
            change("options", json!([{"label": "a"}, {"label": "A"}])),
            change("colour", json!("blue")),
        ] {
            assert_eq!(call(&wrong, |_, _, _| panic!("asked")).outcome, Ended::Failed, "{wrong}");
        }
        let (_stopper, stop) = stop::pair();
        let (events, _asked) = bounded(8);
        let nowhere = Context { stop, events, destinations: Arc::new(Destinations::default()) };
        let Output { parts, outcome } = asking().call(&input(), &nowhere);
        assert!(outcome == Ended::Failed && format!("{parts:?}").contains("no chat of its own"), "{parts:?}");
    }

    #[test]
    fn every_property_of_the_schema_is_one_the_handler_takes_and_no_other() {
        let spec = asking().spec();
        let names = |schema: &Value| schema["properties"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&spec.schema), ["options", "question", "timeout", "title"]);
        assert_eq!(names(&spec.schema["properties"]["options"]["items"]), ["label", "selectedLabel", "value"]);
        let whole = json!({"title": "t", "question": "q", "timeout": 5, "options": [{"label": "l", "selectedLabel": "s", "value": "v"}]});
        assert_eq!(Ask::deserialize(&whole).unwrap().timeout(), Duration::from_secs(5));
        assert_eq!(asking().deadline(&whole), Duration::from_secs(5) + GRACE + crate::tools::SLACK);
        let endless = Ask { timeout: Some(u64::MAX), ..Ask::deserialize(&whole).unwrap() };
        assert_eq!(endless.timeout(), Duration::from_secs(MAX_SECONDS));
    }
}
