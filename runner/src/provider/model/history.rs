//! A conversation on disk: one JSON line per message, only ever appended to.
//!
//! Owned by the turn's thread for the length of a turn. The user's line is written before the request, and a line
//! knows the rows it was made of, so a turn that was killed leaves lines that the same rows, asked again, replace -
//! unless tools have run by then: what they did is done, so the turn goes on after them. A torn last line is cut off.
//! One fsync, at the turn's end. A summary takes the place of the lines before it, but for those it says it keeps.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

use super::message::{Block, Message, Role};
use crate::id;
use crate::provider::{Prompt, Usage};

/// A careful guess for text in any language.
const BYTES_PER_TOKEN: u64 = 3;
/// What stands before a prompt that is asked again although tools had run for it.
const INTERRUPTED_NOTE: &str =
    "[You were interrupted in the middle of this and started again. What you did before stands above.]";

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Line {
    role: Role,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ids: Vec<String>,
    #[serde(deserialize_with = "text_or_blocks")]
    content: Vec<Block>,
}

/// What stands for everything before it but the last `keep` lines.
#[derive(Debug, Serialize, Deserialize)]
struct Summary {
    summary: String,
    keep: usize,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Stored {
    Line(Line),
    Summary(Summary),
}

/// The first version stored plain text.
fn text_or_blocks<'de, D: Deserializer<'de>>(content: D) -> Result<Vec<Block>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Content {
        Text(String),
        Blocks(Vec<Block>),
    }
    Ok(match Content::deserialize(content)? {
        Content::Text(text) => vec![Block::Text { text }],
        Content::Blocks(blocks) => blocks,
    })
}

/// A line, and where it begins in the file. bytes
#[derive(Debug)]
struct Entry {
    start: u64,
    line: Line,
}

/// See the module.
#[derive(Debug)]
pub struct History {
    name: String,
    /// `None` is a conversation that is not kept: a sub-agent's.
    file: Option<(PathBuf, File)>,
    entries: Vec<Entry>,
    end: u64,
    /// Lines that were there before this turn.
    past: usize,
    announced: bool,
    /// What the first so many lines were last known to fill of the window. tokens
    measured: Option<(u64, usize)>,
}

impl History {
    /// A new conversation in `folder`.
    pub fn create(folder: &Path) -> io::Result<History> {
        fs::create_dir_all(folder)?;
        let name = id::random();
        let path = path_of(folder, &name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        Ok(History { file: Some((path, file)), name, announced: false, ..History::unkept() })
    }

    /// A new conversation that is forgotten with its value.
    pub fn unkept() -> History {
        History {
            name: String::new(),
            file: None,
            entries: Vec::new(),
            end: 0,
            past: 0,
            announced: true,
            measured: None,
        }
    }

    /// The conversation called `name`; `None` when there is no such one.
    pub fn open(folder: &Path, name: &str) -> io::Result<Option<History>> {
        // It was stored by us, but perhaps by another provider before: not every text is a file name.
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Ok(None);
        }
        let path = path_of(folder, name);
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let mut history = History { name: name.to_owned(), ..History::unkept() };
        let mut reader = BufReader::new(file);
        let mut text = Vec::new();
        // Line by line: what a summary stands for is never in memory as a whole.
        while reader.read_until(b'\n', &mut text)? > 0 && text.ends_with(b"\n") {
            match serde_json::from_slice(&text) {
                Ok(Stored::Line(line)) => history.entries.push(Entry { start: history.end, line }),
                Ok(Stored::Summary(summary)) => history.replace(summary),
                // The rest is still worth having.
                Err(_) => {}
            }
            history.end += text.len() as u64;
            text.clear();
        }
        let file = reader.into_inner();
        file.set_len(history.end)?;
        history.file = Some((path, file));
        history.past = history.entries.len();
        Ok(Some(history))
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether there was a conversation before this turn.
    pub fn has_past(&self) -> bool {
        self.past > 0
    }

    /// True once, for a new conversation: its name must be told.
    pub fn announce(&mut self) -> bool {
        !std::mem::replace(&mut self.announced, true)
    }

    /// Begins a turn with `prompt`, asked for the first time or again.
    pub fn begin(&mut self, prompt: &Prompt) -> io::Result<()> {
        let again = |entry: &Entry| entry.line.ids.iter().any(|id| prompt.message_ids.contains(id));
        let mut note = Vec::new();
        if let Some(first) = self.entries.iter().position(again) {
            if has_tools(&self.entries[first..]) {
                note.push(Block::Text { text: INTERRUPTED_NOTE.into() });
            } else {
                self.truncate(first)?;
            }
        }
        self.close_calls("It was interrupted: nobody knows how far it came.")?;
        self.past = self.entries.len();
        note.extend(blocks_of(prompt));
        self.append(Role::User, &prompt.message_ids, note)
    }

    /// A follow-up, in the middle of a turn.
    pub fn follow_up(&mut self, prompt: &Prompt) -> io::Result<()> {
        self.append(Role::User, &prompt.message_ids, blocks_of(prompt))
    }

    /// Adds to the conversation. What is empty is no message: the APIs refuse it.
    pub fn push(&mut self, role: Role, content: Vec<Block>) -> io::Result<()> {
        self.append(role, &[], content)
    }

    fn append(&mut self, role: Role, ids: &[String], mut content: Vec<Block>) -> io::Result<()> {
        content.retain(|block| !matches!(block, Block::Text { text } if text.trim().is_empty()));
        if content.iter().all(|block| matches!(block, Block::Opaque { .. })) {
            return Ok(());
        }
        let line = Line { role, ids: ids.to_vec(), content };
        let start = self.end;
        self.write(&line)?;
        self.entries.push(Entry { start, line });
        Ok(())
    }

    fn write(&mut self, line: &impl Serialize) -> io::Result<()> {
        let Some((_, file)) = &mut self.file else { return Ok(()) };
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        file.seek(SeekFrom::Start(self.end))?;
        file.write_all(&text)?;
        self.end += text.len() as u64;
        Ok(())
    }

    /// Gives every call of a tool that has no result this one.
    pub fn close_calls(&mut self, result: &str) -> io::Result<()> {
        let Some(Entry { line: Line { role: Role::Assistant, content, .. }, .. }) = self.entries.last() else {
            return Ok(());
        };
        let results = content.iter().filter_map(|block| match block {
            Block::ToolUse { id, .. } => Some(Block::ToolResult {
                tool_use_id: id.clone(),
                content: vec![Block::Text { text: result.into() }],
                is_error: true,
            }),
            _ => None,
        });
        let results = results.collect();
        self.push(Role::User, results)
    }

    /// The conversation as the APIs take it: roles alternate, the user's is first.
    pub fn messages(&self) -> Vec<Message> {
        let mut messages: Vec<Message> = Vec::new();
        let lines = self.entries.iter().map(|entry| &entry.line);
        for line in lines.skip_while(|line| line.role == Role::Assistant) {
            match messages.last_mut() {
                Some(last) if last.role == line.role => last.content.extend_from_slice(&line.content),
                _ => messages.push(Message { role: line.role, content: line.content.clone() }),
            }
        }
        messages
    }

    /// The lines one by one: what [`History::summarise`] counts.
    pub fn lines(&self) -> impl DoubleEndedIterator<Item = (Role, &[Block])> + ExactSizeIterator {
        self.entries.iter().map(|entry| (entry.line.role, entry.line.content.as_slice()))
    }

    /// Takes note of what the conversation fills of the model's window, as the API counted it. tokens
    pub fn measured(&mut self, usage: Usage) {
        let tokens = usage.input + usage.cache_read + usage.cache_write;
        self.measured = (tokens > 0).then_some((tokens, self.entries.len()));
    }

    /// What it fills now, about. tokens
    pub fn tokens(&self) -> u64 {
        let (counted, lines) = self.measured.unwrap_or_default();
        let since = self.entries[lines.min(self.entries.len())..].iter().flat_map(|entry| &entry.line.content);
        counted + tokens_of(since.map(Block::bytes).sum())
    }

    /// Puts `summary` in the place of all but the last `keep` lines, for good.
    pub fn summarise(&mut self, summary: String, keep: usize) -> io::Result<()> {
        let summary = Summary { summary, keep };
        let of_this_turn = self.entries.len() - self.past;
        self.write(&summary)?;
        self.replace(summary);
        self.past = self.entries.len() - of_this_turn.min(keep);
        self.sync()
    }

    fn replace(&mut self, Summary { summary, keep }: Summary) {
        self.entries.drain(..self.entries.len().saturating_sub(keep));
        self.measured = None;
        let line = Line { role: Role::User, ids: Vec::new(), content: vec![Block::Text { text: summary }] };
        self.entries.insert(0, Entry { start: self.end, line });
    }

    /// Makes the turn survive a power loss.
    pub fn sync(&self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), |(_, file)| file.sync_data())
    }

    /// Ends a turn that has failed: what its tools did is kept, with the reason; else it never was. Best effort:
    /// lines that stay are replaced or read as context.
    pub fn fail(&mut self, reason: &str) {
        let result = if has_tools(&self.entries[self.past..]) {
            self.close_calls("It was not run.")
                .and_then(|()| self.push(Role::Assistant, vec![Block::Text { text: format!("[{reason}]") }]))
                .and_then(|()| self.sync())
        } else if let (0, Some((path, _))) = (self.past, &self.file) {
            fs::remove_file(path)
        } else {
            self.truncate(self.past)
        };
        if let Err(e) = result {
            eprintln!("The end of a turn was not written conversation={} error={e}", self.name);
        }
    }

    /// Forgets the lines from this one on. They were written in this turn, or after the last summary at least.
    fn truncate(&mut self, lines: usize) -> io::Result<()> {
        if let Some(entry) = self.entries.get(lines) {
            self.end = entry.start;
            if let Some((_, file)) = &self.file {
                file.set_len(self.end)?;
            }
            self.entries.truncate(lines);
            self.measured = None;
        }
        Ok(())
    }
}

/// About how many tokens a text of so many bytes is.
pub fn tokens_of(bytes: usize) -> u64 {
    bytes as u64 / BYTES_PER_TOKEN
}

fn blocks_of(prompt: &Prompt) -> Vec<Block> {
    let files = prompt.files.iter().map(|f| Block::File { path: f.path.clone(), media_type: f.media_type.clone() });
    std::iter::once(Block::Text { text: prompt.text.clone() }).chain(files).collect()
}

fn has_tools(entries: &[Entry]) -> bool {
    entries.iter().flat_map(|entry| &entry.line.content).any(|block| matches!(block, Block::ToolUse { .. }))
}

fn path_of(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.jsonl"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(ids: &[&str], text: &str) -> Prompt {
        Prompt { message_ids: ids.iter().map(|id| (*id).to_owned()).collect(), text: text.into(), files: Vec::new() }
    }

    fn said(history: &History) -> Vec<(Role, String)> {
        let text = |block: Block| match block {
            Block::Text { text } => text,
            other => format!("{other:?}"),
        };
        let joined = |m: Message| m.content.into_iter().map(text).collect::<Vec<_>>().join("\n\n");
        history.messages().into_iter().map(|m| (m.role, joined(m))).collect()
    }

    fn said_text(text: &str) -> Vec<Block> {
        vec![Block::Text { text: text.into() }]
    }

    fn user(text: &str) -> (Role, String) {
        (Role::User, text.into())
    }

    fn model(text: &str) -> (Role, String) {
        (Role::Assistant, text.into())
    }

    /// A conversation of one exchange.
    fn begun(folder: &Path) -> String {
        let mut h = History::create(folder).unwrap();
        h.begin(&prompt(&["m1"], "one")).unwrap();
        h.push(Role::Assistant, said_text("ONE")).unwrap();
        h.sync().unwrap();
        h.name().to_owned()
    }

    #[test]
    fn a_conversation_goes_on_where_it_ended() {
        let tmp = tempfile::tempdir().unwrap();
        let name = begun(tmp.path());
        let mut h = History::open(tmp.path(), &name).unwrap().unwrap();
        assert!(h.has_past());
        assert!(!h.announce());
        h.begin(&prompt(&["m2"], "two")).unwrap();
        h.follow_up(&prompt(&["m3"], "three")).unwrap();
        assert_eq!(said(&h), [user("one"), model("ONE"), user("two\n\nthree")]);
    }

    #[test]
    fn a_prompt_asked_again_replaces_what_its_first_try_left() {
        let tmp = tempfile::tempdir().unwrap();
        let name = begun(tmp.path());
        let mut killed = History::open(tmp.path(), &name).unwrap().unwrap();
        killed.begin(&prompt(&["m2", "m3"], "two")).unwrap();
        killed.push(Role::Assistant, said_text("TWO")).unwrap();
        killed.follow_up(&prompt(&["m4"], "four")).unwrap();
        drop(killed);
        let mut h = History::open(tmp.path(), &name).unwrap().unwrap();
        h.begin(&prompt(&["m3", "m4"], "three and four")).unwrap();
        assert_eq!(said(&h), [user("one"), model("ONE"), user("three and four")]);
        drop(h);
        let h = History::open(tmp.path(), &name).unwrap().unwrap();
        assert_eq!(said(&h), [user("one"), model("ONE"), user("three and four")]);
    }

    #[test]
    fn a_torn_last_line_is_cut_off_and_a_broken_one_skipped() {
        let tmp = tempfile::tempdir().unwrap();
        let name = begun(tmp.path());
        let path = path_of(tmp.path(), &name);
        let whole = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("rubbish\n{whole}{{\"role\":\"user\",\"cont")).unwrap();
        let mut h = History::open(tmp.path(), &name).unwrap().unwrap();
        assert_eq!(said(&h), [user("one"), model("ONE")]);
        h.begin(&prompt(&["m2"], "two")).unwrap();
        drop(h);
        let h = History::open(tmp.path(), &name).unwrap().unwrap();
        assert_eq!(said(&h), [user("one"), model("ONE"), user("two")]);
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 4);
    }

    #[test]
    fn a_failed_turn_leaves_no_trace() {
        let tmp = tempfile::tempdir().unwrap();
        let name = begun(tmp.path());
        let before = fs::read(path_of(tmp.path(), &name)).unwrap();
        let mut h = History::open(tmp.path(), &name).unwrap().unwrap();
        h.begin(&prompt(&["m2"], "two")).unwrap();
        h.fail("no");
        assert_eq!(fs::read(path_of(tmp.path(), &name)).unwrap(), before);

        let mut new = History::create(tmp.path()).unwrap();
        assert!(new.announce() && !new.announce());
        new.begin(&prompt(&["m2"], "two")).unwrap();
        let path = path_of(tmp.path(), new.name());
        new.fail("no");
        assert!(!path.exists());
    }

    #[test]
    fn what_was_never_ours_is_not_a_conversation() {
        let tmp = tempfile::tempdir().unwrap();
        for name in ["", "../../etc/passwd", "missing", "a.b"] {
            assert!(History::open(tmp.path(), name).unwrap().is_none(), "{name}");
        }
    }

    #[test]
    fn empty_answers_and_a_missing_beginning_still_make_a_valid_request() {
        let tmp = tempfile::tempdir().unwrap();
        let name = begun(tmp.path());
        let path = path_of(tmp.path(), &name);
        let whole = fs::read_to_string(&path).unwrap();
        fs::write(&path, whole.lines().nth(1).unwrap().to_owned() + "\n").unwrap();
        let mut h = History::open(tmp.path(), &name).unwrap().unwrap();
        h.begin(&prompt(&["m2"], "two")).unwrap();
        h.push(Role::Assistant, said_text(" ")).unwrap();
        assert_eq!(said(&h), [user("two")]);
    }
}
