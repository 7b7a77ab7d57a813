//! A conversation on disk: one JSON line per message, appended.
//!
//! Owned by the turn's thread for the length of a turn. The user's line is written before the
//! request, and a line knows the rows it was made of, so a turn that was killed leaves a line that
//! the same rows, asked again, replace. A torn last line is cut off. One fsync, at the turn's end.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::Prompt;
use crate::id;

/// Who said it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    User,
    Assistant,
}

/// A message as the API takes it: roles alternate, and the user's is first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    pub role: Role,
    pub content: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    role: Role,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ids: Vec<String>,
    content: String,
}

/// See the module.
#[derive(Debug)]
pub struct History {
    name: String,
    path: PathBuf,
    file: File,
    lines: Vec<Line>,
    /// Where each line begins. bytes
    starts: Vec<u64>,
    end: u64,
    /// Lines that were there before this turn.
    past: usize,
    announced: bool,
}

impl History {
    /// A new conversation in `folder`.
    pub fn create(folder: &Path) -> io::Result<History> {
        fs::create_dir_all(folder)?;
        let name = id::random();
        let path = path_of(folder, &name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        Ok(History::empty(name, path, file))
    }

    fn empty(name: String, path: PathBuf, file: File) -> History {
        History { name, path, file, lines: Vec::new(), starts: Vec::new(), end: 0, past: 0, announced: false }
    }

    /// The conversation called `name`; `None` when there is no such one.
    pub fn open(folder: &Path, name: &str) -> io::Result<Option<History>> {
        // It was stored by us, but perhaps by another provider before: not every text is a file name.
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Ok(None);
        }
        let path = path_of(folder, name);
        let mut file = match OpenOptions::new().read(true).write(true).open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let whole = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |i| i + 1);
        let mut history = History { announced: true, ..History::empty(name.to_owned(), path, file) };
        for text in bytes[..whole].split_inclusive(|&b| b == b'\n') {
            // A line that cannot be read is skipped: the rest is still worth having.
            if let Ok(line) = serde_json::from_slice(text) {
                history.lines.push(line);
                history.starts.push(history.end);
            }
            history.end += text.len() as u64;
        }
        if whole < bytes.len() {
            history.file.set_len(history.end)?;
        }
        history.past = history.lines.len();
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

    /// Begins a turn with `prompt`. What an unfinished turn left of the same rows is dropped.
    pub fn begin(&mut self, prompt: &Prompt) -> io::Result<()> {
        let again = |line: &Line| line.ids.iter().any(|id| prompt.message_ids.contains(id));
        if let Some(first) = self.lines.iter().position(again) {
            self.truncate(first)?;
        }
        self.past = self.lines.len();
        self.append(Role::User, &prompt.message_ids, &prompt.text)
    }

    /// Adds a message. An empty one is no message: the API refuses it.
    pub fn append(&mut self, role: Role, ids: &[String], content: &str) -> io::Result<()> {
        if content.trim().is_empty() {
            return Ok(());
        }
        let line = Line { role, ids: ids.to_vec(), content: content.to_owned() };
        let mut text = serde_json::to_vec(&line)?;
        text.push(b'\n');
        self.file.seek(SeekFrom::Start(self.end))?;
        self.file.write_all(&text)?;
        self.starts.push(self.end);
        self.end += text.len() as u64;
        self.lines.push(line);
        Ok(())
    }

    /// The conversation as the API takes it.
    pub fn messages(&self) -> Vec<Message> {
        let mut messages: Vec<Message> = Vec::new();
        for line in self.lines.iter().skip_while(|line| line.role == Role::Assistant) {
            match messages.last_mut() {
                Some(last) if last.role == line.role => {
                    last.content.push_str("\n\n");
                    last.content.push_str(&line.content);
                }
                _ => messages.push(Message { role: line.role, content: line.content.clone() }),
            }
        }
        messages
    }

    /// Makes the turn survive a power loss.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Forgets this turn. Best effort: lines that stay are replaced or read as context.
    pub fn roll_back(mut self) {
        let result = if self.past == 0 { fs::remove_file(&self.path) } else { self.truncate(self.past) };
        if let Err(e) = result {
            eprintln!("History not rolled back file={} error={e}", self.path.display());
        }
    }

    fn truncate(&mut self, lines: usize) -> io::Result<()> {
        if let Some(&start) = self.starts.get(lines) {
            self.file.set_len(start)?;
            self.end = start;
            self.lines.truncate(lines);
            self.starts.truncate(lines);
        }
        Ok(())
    }
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
        history.messages().into_iter().map(|m| (m.role, m.content)).collect()
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
        h.append(Role::Assistant, &[], "ONE").unwrap();
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
        h.append(Role::User, &["m3".into()], "three").unwrap();
        assert_eq!(said(&h), [user("one"), model("ONE"), user("two\n\nthree")]);
    }

    #[test]
    fn a_prompt_asked_again_replaces_what_its_first_try_left() {
        let tmp = tempfile::tempdir().unwrap();
        let name = begun(tmp.path());
        let mut killed = History::open(tmp.path(), &name).unwrap().unwrap();
        killed.begin(&prompt(&["m2", "m3"], "two")).unwrap();
        killed.append(Role::Assistant, &[], "TWO").unwrap();
        killed.append(Role::User, &["m4".into()], "four").unwrap();
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
        h.roll_back();
        assert_eq!(fs::read(path_of(tmp.path(), &name)).unwrap(), before);

        let mut new = History::create(tmp.path()).unwrap();
        assert!(new.announce() && !new.announce());
        new.begin(&prompt(&["m2"], "two")).unwrap();
        let path = new.path.clone();
        new.roll_back();
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
        h.append(Role::Assistant, &[], " ").unwrap();
        assert_eq!(said(&h), [user("two")]);
    }
}
