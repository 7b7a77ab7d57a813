//! The conversation: a line editor with history for what you say, and what the agent says above
//! it as it comes. A line that ends in `\` goes on.
//!
//! The editor can print for other threads, but while it may, keys that come in one go (a slow
//! connection, a script) wait for the next key press. So the thread that prints does it by
//! itself, and draws anew the line that was being edited: [`Edited`] knows it.

use std::borrow::Cow;
use std::io::{self, BufRead, BufReader, Write};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::{CmdKind, Highlighter};
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{Config, Editor, Helper};

use super::{connect, describe, message, say};
use crate::channel::cli::wire::{FromClient, ToClient};
use crate::home::Home;
use crate::thread::spawn_worker;

/// Lines that are remembered.
const HISTORY_LINES: usize = 1_000;
const PROMPT: &str = "> ";
/// Of a line that goes on.
const CONTINUED: &str = "… ";

pub fn run(home: &Home, chat: &str) -> Result<ExitCode> {
    let mut stream = connect(home)?;
    println!("You are talking to your agent. Ctrl-D ends the chat; a line that ends in \\ goes on.");
    say(&mut stream, &FromClient { listen: Some(chat.to_owned()), ..FromClient::default() })?;
    let config = Config::builder().max_history_size(HISTORY_LINES)?.auto_add_history(true).build();
    let edited = Edited::default();
    let mut editor: Editor<Edited, FileHistory> = Editor::with_config(config)?;
    editor.set_helper(Some(edited.clone()));
    let history = home.data().join("chat-history");
    // None on the first day.
    let _ = editor.load_history(&history);

    let lines = BufReader::new(stream.try_clone()?);
    let (keeper, shown) = (home.clone(), edited.clone());
    spawn_worker("chat-output", move || print_lines(&keeper, lines, &shown))?;

    let mut text = String::new();
    loop {
        let prompt = if text.is_empty() { PROMPT } else { CONTINUED };
        edited.begin(prompt);
        let line = editor.readline(prompt);
        edited.end();
        match line {
            Ok(line) => {
                if let Some(begun) = line.strip_suffix('\\') {
                    text.push_str(begun);
                    text.push('\n');
                    continue;
                }
                text.push_str(&line);
                let whole = std::mem::take(&mut text);
                if !whole.trim().is_empty() {
                    say(&mut stream, &message(chat, &crate::id::new_id("chat"), whole))?;
                }
            }
            Err(ReadlineError::Interrupted) if !text.is_empty() => text.clear(),
            Err(ReadlineError::Interrupted | ReadlineError::Eof) => break,
            // The terminal is gone, and there is nowhere to say so.
            Err(e) if hung_up(&e) => break,
            Err(e) => return Err(e.into()),
        }
    }
    editor.save_history(&history)?;
    Ok(ExitCode::SUCCESS)
}

fn hung_up(error: &ReadlineError) -> bool {
    match error {
        ReadlineError::Errno(errno) => *errno as i32 == libc::EIO,
        ReadlineError::Io(e) => e.raw_os_error() == Some(libc::EIO),
        _ => false,
    }
}

fn print_lines(home: &Home, lines: impl BufRead, edited: &Edited) {
    for line in lines.lines() {
        let Ok(line) = line else { break };
        let texts = match serde_json::from_str::<ToClient>(&line) {
            Ok(line) => describe(home, &line).unwrap_or_else(|e| vec![format!("[error] {e:#}")]),
            Err(_) => vec![line],
        };
        for text in texts {
            if edited.show_above(&text).is_err() {
                return; // the terminal is gone, and with it whom to tell
            }
        }
    }
    // As above.
    let _ = edited.show_above("[nanoclaw went away; your messages are kept. Ctrl-D, then start it again]");
}

/// The line that is being edited, as the editor tells its highlighter at every key.
#[derive(Clone, Default)]
struct Edited {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Empty while no line is being edited.
    prompt: &'static str,
    line: String,
    /// Characters behind the cursor.
    behind: usize,
}

impl Edited {
    fn begin(&self, prompt: &'static str) {
        *self.lock() = State { prompt, ..State::default() };
    }

    fn end(&self) {
        *self.lock() = State::default();
    }

    fn record(&self, line: &str, cursor: usize) {
        let mut state = self.lock();
        state.line = line.to_owned();
        state.behind = line.get(cursor..).map_or(0, |rest| rest.chars().count());
    }

    /// Puts a text above the line, and the line below it again.
    fn show_above(&self, text: &str) -> io::Result<()> {
        let state = self.lock();
        let mut stdout = io::stdout().lock();
        // The terminal is in raw mode: a line feed alone does not return the carriage.
        let text = text.replace('\n', "\r\n");
        write!(stdout, "\r\x1b[J{text}\r\n{}{}", state.prompt, state.line)?;
        if state.behind > 0 {
            write!(stdout, "\x1b[{}D", state.behind)?;
        }
        stdout.flush()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while holding it leaves a line that is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Highlighter for Edited {
    fn highlight<'l>(&self, line: &'l str, cursor: usize) -> Cow<'l, str> {
        self.record(line, cursor);
        Cow::Borrowed(line)
    }

    fn highlight_char(&self, line: &str, cursor: usize, _kind: CmdKind) -> bool {
        self.record(line, cursor);
        false
    }
}

impl Completer for Edited {
    type Candidate = String;
}

impl Hinter for Edited {
    type Hint = String;
}

impl Validator for Edited {}
impl Helper for Edited {}
