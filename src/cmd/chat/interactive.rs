//! The conversation: a line editor with history for what you say, and what the agent says above
//! it as it comes. A line that ends in `\` goes on.

use std::io::{BufRead, BufReader};
use std::process::ExitCode;

use anyhow::Result;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Config, Editor, ExternalPrinter};

use super::{connect, describe, message, say};
use crate::channel::cli::wire::{FromClient, ToClient};
use crate::home::Home;
use crate::thread::spawn_worker;

/// Lines that are remembered.
const HISTORY_LINES: usize = 1_000;

pub fn run(home: &Home, chat: &str) -> Result<ExitCode> {
    let mut stream = connect(home)?;
    say(&mut stream, &FromClient { listen: Some(chat.to_owned()), ..FromClient::default() })?;
    let config = Config::builder().max_history_size(HISTORY_LINES)?.auto_add_history(true).build();
    let mut editor: Editor<(), FileHistory> = Editor::with_config(config)?;
    let history = home.data().join("chat-history");
    // None on the first day.
    let _ = editor.load_history(&history);

    let printer = editor.create_external_printer()?;
    let lines = BufReader::new(stream.try_clone()?);
    let keeper = home.clone();
    spawn_worker("chat-output", move || print_lines(&keeper, lines, printer))?;

    println!("You are talking to your agent. Ctrl-D ends the chat; a line that ends in \\ goes on.");
    let mut text = String::new();
    loop {
        match editor.readline(if text.is_empty() { "> " } else { "… " }) {
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
            Err(e) => return Err(e.into()),
        }
    }
    editor.save_history(&history)?;
    Ok(ExitCode::SUCCESS)
}

fn print_lines(home: &Home, lines: impl BufRead, mut printer: impl ExternalPrinter) {
    // The chat is over when its terminal cannot be written to: nothing is left to report to.
    let mut show = |text: String| printer.print(text + "\n").is_ok();
    for line in lines.lines() {
        let Ok(line) = line else { break };
        let texts = match serde_json::from_str::<ToClient>(&line) {
            Ok(line) => describe(home, &line).unwrap_or_else(|e| vec![format!("[error] {e:#}")]),
            Err(_) => vec![line],
        };
        for text in texts {
            if !show(text) {
                return;
            }
        }
    }
    show("[nanoclaw went away; your messages are kept. Ctrl-D, then start it again]".to_owned());
}
