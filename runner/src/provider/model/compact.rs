//! Shortening a conversation before it fills the model's window: a summary takes the place of all but its latest
//! lines, and the whole of it goes to a file the agent and its owner can read.

use std::fmt::Write as _;
use std::fs;

use super::api::Answer;
use super::ask::Unanswered;
use super::engine::{Ended, Engine, error, text_of};
use super::history::History;
use super::message::{Block, Message, Role, head};
use super::todo;
use crate::provider::ErrorClass;
use crate::time;

/// The part of the window a conversation may fill. percent
const FULL_PERCENT: u64 = 80;
/// What is kept word for word of the latest lines. bytes
const KEPT_BYTES: usize = 48 * 1024;
/// Longest piece of a tool's input or result in the text that is summarised. bytes
const SUMMARISED_RESULT_BYTES: usize = 2_000;
/// The same in the archive. bytes
const ARCHIVED_RESULT_BYTES: usize = 20_000;
/// What of the window the text to summarise may fill, at three bytes a token. bytes per token
const SUMMARISED_BYTES_PER_TOKEN: u64 = 2;

/// A record that is no longer than this is not cut for a small window. bytes
const LEAST_SUMMARISED_BYTES: usize = 4_000;

const INSTRUCTION: &str = "\
Below is the record of a conversation between you and the people you work for, with the tools you used. It has become \
too long and will be replaced by what you write now. Write down everything you need to go on as if you still had it: \
who asked for what and what was agreed, facts and numbers, names of files and what is in them, what was done and how it \
came out, what is under way and what comes next, and how people want things done. Leave out what nobody will need. \
Write only this record, in plain text.";

/// Whether the conversation fills so much of the window that it must be shortened.
pub fn is_due(history: &History, engine: &Engine) -> bool {
    history.tokens() > engine.api.window(&engine.model) * FULL_PERCENT / 100
}

impl Engine {
    /// Shortens it now.
    pub fn compact(&self, history: &mut History) -> Result<(), Ended> {
        let lines: Vec<(Role, &[Block])> = history.lines().collect();
        let kept = [KEPT_BYTES, 0].into_iter().map(|bytes| kept(&lines, bytes)).find(|kept| *kept < lines.len());
        let Some(kept) = kept else {
            let sentence = "This message is longer than what the model takes at once.";
            return Err(error(ErrorClass::InvalidRequest, sentence).into());
        };
        let old = &lines[..lines.len() - kept];
        let archived = self.archived(history.name(), &transcript(old, ARCHIVED_RESULT_BYTES));
        let room = (self.api.window(&self.model) * SUMMARISED_BYTES_PER_TOKEN) as usize;
        let mut record = transcript(old, SUMMARISED_RESULT_BYTES);
        if record.len() > room {
            cut_off(&mut record, room);
        }
        let mut text = self.summary(record)?;
        text.insert_str(0, "[What was said before, as you wrote it down:]\n\n");
        if let Some(path) = archived {
            let _infallible = write!(text, "\n\n[The whole of it is in {path}.]");
        }
        if let Some(open) = todo::open(&self.todo) {
            let _infallible = write!(text, "\n\n[Your list of things to do:]\n{open}");
        }
        eprintln!("Conversation shortened lines={} kept={kept}", lines.len());
        history.summarise(text, kept)?;
        Ok(())
    }

    fn summary(&self, mut record: String) -> Result<String, Ended> {
        loop {
            let content = vec![Block::Text { text: format!("{INSTRUCTION}\n\n{record}") }];
            let mut said = Answer::default();
            match self.ask(vec![Message { role: Role::User, content }], &[], &mut said, || Ok(())) {
                Ok(()) => return Ok(text_of(&said.blocks)),
                Err(Unanswered::Ended(ended)) => return Err(ended),
                // The window is smaller than we thought.
                Err(Unanswered::TooLong(_)) if record.len() > LEAST_SUMMARISED_BYTES => {
                    let half = record.len() / 2;
                    cut_off(&mut record, half);
                }
                Err(Unanswered::TooLong(why) | Unanswered::Invalid(why)) => {
                    let sentence = format!("Our conversation became too long, and could not be shortened: {why}");
                    return Err(error(ErrorClass::StaleContinuation, sentence).into());
                }
            }
        }
    }

    /// Writes a record to the agent's own folder; its path. Without, the summary has to do.
    fn archived(&self, name: &str, record: &str) -> Option<String> {
        let day = time::now().strftime("%Y-%m-%d-%H%M%S");
        let path = self.archive.join(format!("{day}-{}.md", if name.is_empty() { "helper" } else { name }));
        match fs::create_dir_all(&self.archive).and_then(|()| fs::write(&path, record)) {
            Ok(()) => Some(path.display().to_string()),
            Err(e) => {
                eprintln!("A conversation was not archived file={} error={e}", path.display());
                None
            }
        }
    }
}

/// Leaves about the last `room` bytes of a record.
fn cut_off(record: &mut String, room: usize) {
    let from = head(record, record.len().saturating_sub(room)).len();
    record.replace_range(..from, "[...]\n");
}

/// How many of the last lines are kept: at most `bytes` of them, at least one, and no result without its call.
fn kept(lines: &[(Role, &[Block])], bytes: usize) -> usize {
    let is_result = |(_, blocks): &(Role, &[Block])| blocks.iter().any(|b| matches!(b, Block::ToolResult { .. }));
    let (mut kept, mut sum) = (0, 0);
    for (n, line) in lines.iter().rev().enumerate() {
        sum += line.1.iter().map(Block::bytes).sum::<usize>();
        if sum > bytes && kept > 0 {
            break;
        }
        if !is_result(line) {
            kept = n + 1;
        }
    }
    kept.max(1)
}

/// A conversation as people read it.
fn transcript(lines: &[(Role, &[Block])], max_result_bytes: usize) -> String {
    let mut out = String::new();
    let mut last = None;
    for (role, blocks) in lines {
        for block in *blocks {
            let (who, text) = match block {
                Block::Text { text } if *role == Role::User => ("To you", text.clone()),
                Block::Text { text } => ("You", text.clone()),
                Block::File { path, .. } => ("To you", format!("[file {}]", path.display())),
                Block::ToolUse { name, input, .. } => ("Your tool", format!("{name} {input}")),
                Block::ToolResult { content, .. } => ("Its result", text_of(content)),
                Block::Opaque { .. } => continue,
            };
            if last != Some(who) {
                let _infallible = write!(out, "\n## {who}\n\n");
                last = Some(who);
            }
            let is_tool = matches!(block, Block::ToolUse { .. } | Block::ToolResult { .. });
            let max = if is_tool { max_result_bytes } else { usize::MAX };
            out.push_str(head(&text, max));
            out.push_str(if text.len() > max { " [...]\n" } else { "\n" });
        }
    }
    out
}
