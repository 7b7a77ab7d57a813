//! A provider that needs no key and no network: it says what it received, and on simple phrases
//! calls the tools a model would call. Deterministic.
//!
//! Its continuation is the number of its turns, so that continuity can be seen.

mod hearing;

use std::fs;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use nanoclaw_session::content::QuestionOption;
use nanoclaw_session::layout::SessionDir;
use nanoclaw_session::time::format_utc;
use serde_json::{Value, json};

use self::hearing::Heard;
use super::{Prompt, Provider, TurnEvent, TurnHandle, TurnPort, TurnRequest};
use crate::destinations::Destinations;
use crate::stop::Stopped;
use crate::time;
use crate::tools::question::{self, Ask};
use crate::tools::{Context, Outcome, Output, Part, Tool};

pub const NAME: &str = "demo";

const CONTINUATION_PREFIX: &str = "demo-";
/// Between two numbers of a slow count.
const COUNT_STEP: Duration = Duration::from_millis(200);
const MAX_COUNT: u32 = 1_000;
/// What a reminder begins with, in lower case.
const REMINDER: &str = "reminder: ";
const FILE_NAME: &str = "demo.txt";

/// See the module.
pub struct Demo {
    dir: SessionDir,
    tools: Vec<Arc<dyn Tool>>,
}

impl Demo {
    /// `tools`: those about nanoclaw itself.
    pub fn new(dir: SessionDir, tools: Vec<Arc<dyn Tool>>) -> Demo {
        Demo { dir, tools }
    }
}

impl Provider for Demo {
    fn name(&self) -> &str {
        NAME
    }

    fn start(&self, request: TurnRequest) -> io::Result<TurnHandle> {
        if request.command.is_some() {
            return super::say("The demo provider remembers nothing but the number of its turns.".into());
        }
        let number = number_after(request.continuation.as_deref());
        let (dir, tools) = (self.dir.clone(), self.tools.clone());
        let turn = Turn { dir, tools, destinations: request.destinations.get(), number };
        super::spawn(|| (), move |port| turn.run(port, request.prompt))
    }
}

/// The number of the turn after the one that handed out `continuation`.
fn number_after(continuation: Option<&str>) -> u64 {
    let turns = continuation.and_then(|c| c.strip_prefix(CONTINUATION_PREFIX)).and_then(|n| n.parse().ok());
    turns.unwrap_or(0u64).saturating_add(1)
}

struct Turn {
    dir: SessionDir,
    tools: Vec<Arc<dyn Tool>>,
    destinations: Arc<Destinations>,
    number: u64,
}

impl Turn {
    fn run(self, mut port: TurnPort, prompt: Prompt) -> Result<(), Stopped> {
        let mut texts = Vec::new();
        let mut prompts = vec![prompt];
        while !prompts.is_empty() {
            for prompt in prompts {
                for heard in hearing::messages(&prompt.text) {
                    texts.extend(self.answer(&mut port, &heard)?);
                }
            }
            prompts = port.take_follow_ups()?;
        }
        port.finish(texts, Some(format!("{CONTINUATION_PREFIX}{}", self.number)))
    }

    /// The text that answers one message, unless something else answers it.
    fn answer(&self, port: &mut TurnPort, heard: &Heard) -> Result<Option<String>, Stopped> {
        let phrase = heard.text.to_lowercase();
        let done = if phrase.contains("send me a file") {
            Some(self.send_file(port, heard)?)
        } else if phrase.contains("react to that") {
            Some(self.call(port, "add_reaction", json!({"messageId": heard.id, "emoji": "👍"}))?)
        } else if phrase.contains("edit that") {
            Some(self.edit(port, heard)?)
        } else if phrase.contains("show me a card") {
            Some(self.call(port, "send_card", card(&heard.text))?)
        } else {
            None
        };
        if let Some(done) = done {
            // A model would read what was wrong, too.
            return Ok((done.outcome == Outcome::Failed).then(|| heard.addressed(&words(&done))));
        }
        let text = if phrase.contains("ask me a question") {
            match question::ask(colour(), port.stop(), &port.events()) {
                Ok(said) | Err(said) => said,
            }
        } else if phrase.starts_with(REMINDER) {
            // A task came in no conversation: it is told in the session's own.
            let from = heard.from.clone().or_else(|| self.destinations.own().map(|own| own.name.clone()));
            return Ok(Some(Heard { from, ..heard.clone() }.addressed(&heard.text)));
        } else if let Some((wait, what)) = reminder(&heard.text) {
            let at = format_utc(time::now().saturating_add(wait).unwrap_or(Timestamp::MAX));
            let task = json!({"prompt": format!("{REMINDER}{what}"), "processAfter": at});
            words(&self.call(port, "schedule_task", task)?)
        } else if phrase.contains("list my tasks") {
            words(&self.call(port, "list_tasks", json!({}))?)
        } else if let Some(limit) = slow_count(&phrase) {
            count(port, limit)?
        } else if hearing::is_greeting(&phrase) {
            format!("Hello! I am the demo provider (turn {}). {}", self.number, HOW_TO_GET_A_MODEL)
        } else {
            format!("Demo provider, turn {}. You said: \"{}\". {}", self.number, heard.text, HOW_TO_GET_A_MODEL)
        };
        Ok(Some(heard.addressed(&text)))
    }

    /// Calls a tool as a model would.
    fn call(&self, port: &TurnPort, name: &str, input: Value) -> Result<Output, Stopped> {
        let Some(tool) = self.tools.iter().find(|tool| tool.spec().name == name) else {
            return Ok(Output::failed(format!("I have no tool {name:?}.")));
        };
        port.emit(TurnEvent::ToolStarted { name: name.into(), deadline: Some(tool.deadline(&input)) })?;
        let (stop, events) = (port.stop().clone(), port.events());
        let output = tool.call(&input, &Context { stop, events, destinations: self.destinations.clone() });
        port.emit(TurnEvent::ToolEnded)?;
        Ok(output)
    }

    fn send_file(&self, port: &TurnPort, heard: &Heard) -> Result<Output, Stopped> {
        let path = self.dir.state().join(FILE_NAME);
        let content = format!("A file from the demo provider, turn {}.\nYou said: {}\n", self.number, heard.text);
        if let Err(e) = fs::write(&path, content) {
            return Ok(Output::failed(format!("I could not write the file: {e}.")));
        }
        let text = "Here is the file you asked for.";
        self.call(port, "send_file", json!({"to": heard.from, "path": path, "text": text}))
    }

    /// Says something, and then something else in its place.
    fn edit(&self, port: &TurnPort, heard: &Heard) -> Result<Output, Stopped> {
        let said = self.call(port, "send_message", json!({"to": heard.from, "text": "I had this to say."}))?;
        let words = words(&said);
        let number = words.split('#').nth(1).and_then(|rest| rest.split('.').next());
        match (said.outcome, number) {
            (Outcome::Done, Some(number)) => {
                let text = format!("I have this to say instead (turn {}).", self.number);
                self.call(port, "edit_message", json!({"messageId": number, "text": text}))
            }
            _ => Ok(said),
        }
    }
}

fn card(said: &str) -> Value {
    json!({
        "title": "A card of the demo provider",
        "text": "This is what a card looks like here.",
        "fields": [{"name": "You said", "value": said}],
        "links": [{"label": "NanoClaw", "url": "https://github.com/qwibitai/nanoclaw"}],
    })
}

fn words(output: &Output) -> String {
    let text = |part: &Part| match part {
        Part::Text(text) => Some(text.clone()),
        Part::File { .. } => None,
    };
    output.parts.iter().filter_map(text).collect::<Vec<_>>().join("\n")
}

const HOW_TO_GET_A_MODEL: &str = "For a real model, set ANTHROPIC_API_KEY.";

fn colour() -> Ask {
    let option = |label: &str, value: &str| QuestionOption {
        label: label.into(),
        selected_label: Some(format!("{label} it is")),
        value: Some(value.into()),
    };
    Ask {
        title: "A question from the demo provider".into(),
        question: "Which colour do you like best?".into(),
        options: vec![option("Red", "red"), option("Green", "green"), option("Blue", "blue")],
        timeout: None,
    }
}

/// `remind me in 10 seconds to water the plants`
fn reminder(text: &str) -> Option<(SignedDuration, &str)> {
    let at = text.to_ascii_lowercase().find("remind me in ")?;
    let mut words = text[at..].splitn(6, ' ').skip(3);
    let count: u32 = words.next()?.parse().ok()?;
    let seconds = match words.next()?.trim_end_matches('s') {
        "second" => 1,
        "minute" => 60,
        "hour" => 3600,
        _ => return None,
    };
    let what = words.next()?;
    Some((SignedDuration::from_secs(i64::from(count) * seconds), what.strip_prefix("to ").unwrap_or(what)))
}

/// `count to 10 slowly`
fn slow_count(phrase: &str) -> Option<u32> {
    let (number, _) = phrase.split_once("count to ")?.1.split_once(" slowly")?;
    Some(number.trim().parse::<u32>().ok()?.min(MAX_COUNT))
}

fn count(port: &mut TurnPort, limit: u32) -> Result<String, Stopped> {
    let mut numbers = Vec::new();
    for n in 1..=limit {
        port.stop().wait(COUNT_STEP)?;
        numbers.push(n.to_string());
        port.emit(TurnEvent::Activity)?;
    }
    Ok(numbers.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_counted_through_the_continuation() {
        assert_eq!(number_after(None), 1);
        assert_eq!(number_after(Some("demo-41")), 42);
        assert_eq!(number_after(Some("mock-session-1")), 1);
    }

    #[test]
    fn a_reminder_is_understood() {
        let of = |text| reminder(text).map(|(wait, what)| (wait.as_secs(), what));
        assert_eq!(of("please remind me in 2 seconds to Water the plants"), Some((2, "Water the plants")));
        assert_eq!(of("Remind me in 1 hour: tea"), None);
        assert_eq!(of("Remind me in 3 minutes tea is up"), Some((180, "tea is up")));
        for no in ["remind me tomorrow to x", "remind me in two seconds to x", "remind me in 2 seconds"] {
            assert_eq!(of(no), None, "{no}");
        }
    }

    #[test]
    fn a_slow_count_is_understood() {
        assert_eq!(slow_count("please count to 12 slowly!"), Some(12));
        assert_eq!(slow_count("count to 999999 slowly"), Some(MAX_COUNT));
        assert_eq!(slow_count("count to ten slowly"), None);
    }
}
