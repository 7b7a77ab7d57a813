//! From an agent's final text to what is sent: `<message to="name">` blocks, `<internal>` parts,
//! and the rules for text outside of blocks. Pure.
//!
//! Markup inside code - fenced blocks and inline backticks - is text. A model's slips are read
//! kindly where nothing can go to the wrong place (an unclosed block ends with the text), and
//! safely where it matters (an unclosed `<internal>` hides the rest).

use std::collections::HashSet;

use crate::destinations::Destinations;

/// A final text, taken apart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reply {
    pub messages: Vec<Addressed>,
    /// What stands outside of blocks, trimmed.
    pub bare: String,
}

/// A text for the destination called `to`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Addressed {
    pub to: String,
    pub text: String,
}

/// What a turn has sent so far, by tools and by earlier texts.
#[derive(Debug, Clone, Default)]
pub struct Sent {
    texts: HashSet<Addressed>,
    others: usize,
}

impl Sent {
    /// A text went to `to`.
    pub fn text(&mut self, to: &str, text: &str) {
        self.texts.insert(Addressed { to: to.to_owned(), text: text.trim().to_owned() });
    }

    /// Something that is no text was sent: a reaction, a file.
    pub fn other(&mut self) {
        self.others += 1;
    }

    pub fn is_empty(&self) -> bool {
        self.texts.is_empty() && self.others == 0
    }

    fn contains(&self, message: &Addressed) -> bool {
        self.texts.contains(message)
    }
}

/// What becomes of a reply.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// To be sent; each `to` is the name of a destination.
    pub sends: Vec<Addressed>,
    /// What the agent must be told, if it may still be told something in this turn.
    pub nudge: Option<String>,
}

/// Decides what of `reply` is sent, given what the turn has sent already.
pub fn route(reply: Reply, destinations: &Destinations, sent: &Sent) -> Outcome {
    let mut sends: Vec<Addressed> = Vec::new();
    let mut unknown: Vec<String> = Vec::new();
    let mut repeated = 0;
    for message in reply.messages {
        match destinations.by_name(&message.to) {
            None => unknown.push(message.to),
            Some(peer) => {
                let message = Addressed { to: peer.name.clone(), text: message.text };
                if sent.contains(&message) || sends.contains(&message) {
                    repeated += 1;
                } else {
                    sends.push(message);
                }
            }
        }
    }
    let nothing_sent = sends.is_empty() && repeated == 0 && sent.is_empty();
    let mut nudge = Vec::new();
    if !unknown.is_empty() {
        nudge.push(format!("There is no destination called {}, so that was not sent.", quoted(&unknown)));
    }
    if nothing_sent && !reply.bare.is_empty() {
        match destinations.only() {
            Some(peer) => sends.push(Addressed { to: peer.name.clone(), text: reply.bare }),
            None => nudge.push("Your text was sent to nobody, because it did not say to whom.".into()),
        }
    }
    let nudge = (!nudge.is_empty()).then(|| {
        let names: Vec<String> = destinations.peers().iter().map(|peer| peer.name.clone()).collect();
        nudge.push(format!(
            "To send something, write <message to=\"name\">text</message>; the names are {}. \
             If nothing needs to be sent, answer with nothing.",
            quoted(&names)
        ));
        nudge.join(" ")
    });
    Outcome { sends, nudge }
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
}

impl Reply {
    /// Takes the texts of a turn apart; they stay in order.
    pub fn of(texts: &[String]) -> Reply {
        let mut whole = Reply::default();
        for text in texts {
            let reply = Reply::parse(text);
            whole.messages.extend(reply.messages);
            if !whole.bare.is_empty() && !reply.bare.is_empty() {
                whole.bare.push_str("\n\n");
            }
            whole.bare.push_str(&reply.bare);
        }
        whole
    }

    /// Takes one final text apart.
    pub fn parse(text: &str) -> Reply {
        let mut reply = Reply::default();
        let mut open: Option<Addressed> = None;
        let mut at = 0;
        while at < text.len() || open.is_some() {
            let (place, said) = match &mut open {
                Some(message) => (Place::Message, &mut message.text),
                None => (Place::Outside, &mut reply.bare),
            };
            let (tag, start, end) = next_tag(text, at, place).unwrap_or_else(|| last_tag(text, at, place));
            said.push_str(&text[at..start]);
            at = end;
            match tag {
                Tag::Internal => at = end_of_internal(text, end, place),
                // Where nothing is open, an end means nothing.
                Tag::EndOfInternal => {}
                Tag::EndOfMessage => reply.close(open.take()),
                // It also closes one that was never closed.
                Tag::Message(to) => reply.close(open.replace(Addressed { to, text: String::new() })),
            }
        }
        reply.bare = reply.bare.trim().to_owned();
        reply
    }

    fn close(&mut self, message: Option<Addressed>) {
        let trimmed = message.map(|m| Addressed { text: m.text.trim().to_owned(), ..m });
        self.messages.extend(trimmed.filter(|m| !m.text.is_empty()));
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Tag {
    Message(String),
    EndOfMessage,
    Internal,
    EndOfInternal,
}

/// Where the scanner is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Outside,
    Message,
}

const END_OF_MESSAGE: &str = "</message>";
const INTERNAL: &str = "<internal>";
const END_OF_INTERNAL: &str = "</internal>";

/// What ends a place without a tag outside of code: the code was never closed, or the block was not.
fn last_tag(text: &str, from: usize, place: Place) -> (Tag, usize, usize) {
    match (text[from..].find(END_OF_MESSAGE), place) {
        (Some(i), Place::Message) => (Tag::EndOfMessage, from + i, from + i + END_OF_MESSAGE.len()),
        _ => (Tag::EndOfMessage, text.len(), text.len()),
    }
}

/// Where the text after an internal part goes on. Unclosed, it hides the rest of its place.
fn end_of_internal(text: &str, from: usize, place: Place) -> usize {
    let rest = &text[from..];
    match (rest.find(END_OF_INTERNAL), place) {
        (Some(i), _) => from + i + END_OF_INTERNAL.len(),
        (None, Place::Message) => rest.find(END_OF_MESSAGE).map_or(text.len(), |i| from + i),
        (None, Place::Outside) => text.len(),
    }
}

/// The next tag outside of code, with its range.
fn next_tag(text: &str, from: usize, place: Place) -> Option<(Tag, usize, usize)> {
    let bytes = text.as_bytes();
    let mut at = from;
    // A fence may follow its opening tag on the same line.
    let mut fence_may_begin = true;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'\n' => {
                fence_may_begin = true;
                at += 1;
                let indent = bytes[at..].iter().take(3).take_while(|&&b| b == b' ').count();
                at += indent;
                continue;
            }
            b'`' | b'~' => {
                let run = run_length(bytes, at);
                at = match fence_may_begin && run >= 3 {
                    true => end_of_fence(text, at, run).unwrap_or(match place {
                        Place::Outside => text.len(),
                        Place::Message => at + run,
                    }),
                    false if byte == b'`' => end_of_inline(bytes, at, run),
                    false => at + run,
                };
            }
            b'<' => match tag_at(&text[at..]) {
                Some((tag, length)) => return Some((tag, at, at + length)),
                None => at += 1,
            },
            _ => at += 1,
        }
        fence_may_begin = false;
    }
    None
}

fn run_length(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().take_while(|&&b| b == bytes[at]).count()
}

/// Where the line after the fence that opens at `at` ends its code: behind a run of the same
/// character, at least as long, alone on its line but for a tag.
fn end_of_fence(text: &str, at: usize, run: usize) -> Option<usize> {
    let mark = text.as_bytes()[at];
    let mut line = at + text[at..].find('\n')? + 1;
    loop {
        let end = text[line..].find('\n').map_or(text.len(), |i| line + i);
        let content = text[line..end].trim_start_matches(' ');
        let closing = content.bytes().take_while(|&b| b == mark).count();
        let rest = content[closing..].trim();
        if closing >= run && (rest.is_empty() || rest.starts_with(END_OF_MESSAGE) || rest.starts_with(END_OF_INTERNAL))
        {
            return Some(end - content.len() + closing);
        }
        if end == text.len() {
            return None;
        }
        line = end + 1;
    }
}

/// Behind the inline code that opens at `at`; behind the opening run when the line does not close it.
fn end_of_inline(bytes: &[u8], at: usize, run: usize) -> usize {
    let mut i = at + run;
    while i < bytes.len() && bytes[i] != b'\n' {
        if bytes[i] == b'`' {
            let closing = run_length(bytes, i);
            i += closing;
            if closing == run {
                return i;
            }
        } else {
            i += 1;
        }
    }
    at + run
}

/// The tag `rest` begins with, and its length.
fn tag_at(rest: &str) -> Option<(Tag, usize)> {
    for (literal, tag) in
        [(END_OF_MESSAGE, Tag::EndOfMessage), (INTERNAL, Tag::Internal), (END_OF_INTERNAL, Tag::EndOfInternal)]
    {
        if rest.starts_with(literal) {
            return Some((tag, literal.len()));
        }
    }
    let mut attributes = rest.strip_prefix("<message")?;
    let mut to = None;
    loop {
        let trimmed = attributes.trim_start();
        if let Some(after) = trimmed.strip_prefix('>') {
            return Some((Tag::Message(to?), rest.len() - after.len()));
        }
        if trimmed.len() == attributes.len() {
            return None;
        }
        let (name, value) = trimmed.split_once('=')?;
        let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        let (value, after) = value[1..].split_once(quote)?;
        if name.trim_end() == "to" {
            to = Some(value.trim().to_owned());
        }
        attributes = after;
    }
}

#[cfg(test)]
mod tests;
