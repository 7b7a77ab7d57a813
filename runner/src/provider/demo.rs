//! A provider that needs no key and no network: it says what it received, and on simple phrases
//! does what a model would do by the very same paths. Deterministic.
//!
//! Its continuation is the number of its turns, so that continuity can be seen.

mod hearing;

use std::fs;
use std::io;
use std::time::Duration;

use nanoclaw_session::content::{Outbound, QuestionOption};
use nanoclaw_session::layout::SessionDir;

use self::hearing::Heard;
use super::{Outgoing, Prompt, Provider, TurnEvent, TurnHandle, TurnPort, TurnRequest};
use crate::stop::Stopped;
use crate::tools::question::{self, Ask};
use crate::{id, time};

pub const NAME: &str = "demo";

const CONTINUATION_PREFIX: &str = "demo-";
/// Between two numbers of a slow count.
const COUNT_STEP: Duration = Duration::from_millis(200);
const MAX_COUNT: u32 = 1_000;
const FILE_NAME: &str = "demo.txt";

/// See the module.
#[derive(Debug)]
pub struct Demo {
    dir: SessionDir,
}

impl Demo {
    pub fn new(dir: SessionDir) -> Demo {
        Demo { dir }
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
        let turn = Turn { dir: self.dir.clone(), number: number_after(request.continuation.as_deref()) };
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
        let text = if phrase.contains("send me a file") {
            return self.send_file(port, heard);
        } else if phrase.contains("react to that") {
            let message = Outbound::Reaction { message_id: heard.id.clone(), emoji: "👍".into() };
            send(port, heard, id::message(time::now()), message)?;
            return Ok(None);
        } else if phrase.contains("ask me a question") {
            match question::ask(colour(), port.stop(), &port.events()) {
                Ok(said) | Err(said) => said,
            }
        } else if phrase.contains("remind me") {
            "I am the demo provider and cannot set reminders yet.".into()
        } else if let Some(limit) = slow_count(&phrase) {
            count(port, limit)?
        } else if hearing::is_greeting(&phrase) {
            format!("Hello! I am the demo provider (turn {}). {}", self.number, HOW_TO_GET_A_MODEL)
        } else {
            format!("Demo provider, turn {}. You said: \"{}\". {}", self.number, heard.text, HOW_TO_GET_A_MODEL)
        };
        Ok(Some(heard.addressed(&text)))
    }

    fn send_file(&self, port: &TurnPort, heard: &Heard) -> Result<Option<String>, Stopped> {
        let id = id::message(time::now());
        let folder = self.dir.outbox(&id);
        let content = format!("A file from the demo provider, turn {}.\nYou said: {}\n", self.number, heard.text);
        match fs::create_dir_all(&folder).and_then(|()| fs::write(folder.join(FILE_NAME), content)) {
            Ok(()) => {
                let text = "Here is the file you asked for.".into();
                send(port, heard, id, Outbound::Text { text, files: vec![FILE_NAME.into()] })?;
                Ok(None)
            }
            Err(e) => Ok(Some(heard.addressed(&format!("I could not write the file: {e}.")))),
        }
    }
}

const HOW_TO_GET_A_MODEL: &str = "For a real model, set ANTHROPIC_API_KEY.";

fn send(port: &TurnPort, heard: &Heard, id: String, message: Outbound) -> Result<(), Stopped> {
    port.emit(TurnEvent::Send(Outgoing { id, to: heard.from.clone(), message }))
}

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
    fn a_slow_count_is_understood() {
        assert_eq!(slow_count("please count to 12 slowly!"), Some(12));
        assert_eq!(slow_count("count to 999999 slowly"), Some(MAX_COUNT));
        assert_eq!(slow_count("count to ten slowly"), None);
    }
}
