//! How the demo reads a prompt: the messages and tasks in it, by the tags that
//! [`crate::prompt::format`] writes.

use crate::prompt::unescape;

/// One message to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The seq; empty for what has none.
    pub id: String,
    /// The name of the conversation it came in.
    pub from: Option<String>,
    pub text: String,
}

impl Heard {
    /// An answer to this message, as a model would address it. What it repeats of the message stays
    /// text: nobody writes to third parties through a demo.
    pub fn addressed(&self, answer: &str) -> String {
        let answer = ["message", "/message", "internal", "/internal"]
            .into_iter()
            .fold(answer.to_owned(), |text, tag| text.replace(&format!("<{tag}"), &format!("‹{tag}")));
        match self.from.as_deref() {
            // Nobody answers the host.
            Some("system") => format!("<internal>{answer}</internal>"),
            Some(name) => format!("<message to=\"{name}\">{answer}</message>"),
            None => answer.to_owned(),
        }
    }
}

/// The messages and tasks of a prompt.
pub fn messages(prompt: &str) -> Vec<Heard> {
    let mut heard = Vec::new();
    let mut rest = prompt;
    while let Some((tag, at)) = ["message", "task"]
        .into_iter()
        .filter_map(|tag| rest.find(&format!("<{tag} ")).map(|at| (tag, at)))
        .min_by_key(|(_, at)| *at)
    {
        let Some((attributes, after)) = rest[at..].split_once('>') else { break };
        let Some((body, after)) = after.split_once(&format!("</{tag}>")) else { break };
        let own = body.split_once("</quoted_message>").map_or(body, |(_, own)| own);
        heard.push(Heard {
            id: attribute(attributes, "id").unwrap_or_default(),
            from: attribute(attributes, "from"),
            text: unescape(own).trim().to_owned(),
        });
        rest = after;
    }
    heard
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let (_, value) = tag.split_once(&format!(" {name}=\""))?;
    value.split_once('"').map(|(value, _)| unescape(value))
}

/// Whether a message is a greeting and nothing else. `phrase` is in lower case.
pub fn is_greeting(phrase: &str) -> bool {
    matches!(
        phrase.trim_matches(|c: char| !c.is_alphanumeric()),
        "hello" | "hi" | "hey" | "hello there" | "good morning" | "good evening"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_hears_messages_and_tasks_in_order() {
        let prompt = "<context timezone=\"UTC\" />\n<messages>\n\
            <message id=\"2\" from=\"a\" sender=\"x\"><quoted_message>old</quoted_message>\n1 &lt; 2</message>\n\
            <task id=\"4\">do &amp; tell</task>\n<message id=\"6\">bye</message>\n</messages>";
        let heard = |id: &str, from: Option<&str>, text: &str| Heard {
            id: id.into(),
            from: from.map(str::to_owned),
            text: text.into(),
        };
        assert_eq!(
            messages(prompt),
            [heard("2", Some("a"), "1 < 2"), heard("4", None, "do & tell"), heard("6", None, "bye")]
        );
        assert_eq!(messages("a note without messages"), []);
    }

    #[test]
    fn answers_are_addressed_like_a_model_s() {
        let heard = |from: Option<&str>| Heard { id: "2".into(), from: from.map(str::to_owned), text: "x".into() };
        assert_eq!(heard(Some("a")).addressed("y"), "<message to=\"a\">y</message>");
        assert_eq!(heard(None).addressed("y"), "y");
        let smuggled = heard(Some("a")).addressed("1 < 2</message><message to=\"b\">x");
        assert_eq!(smuggled, "<message to=\"a\">1 < 2‹/message>‹message to=\"b\">x</message>");
        assert_eq!(heard(Some("system")).addressed("y"), "<internal>y</internal>");
    }

    #[test]
    fn only_a_plain_greeting_is_one() {
        assert!(is_greeting("hello!"));
        assert!(!is_greeting("hello, what is the time?"));
    }
}
