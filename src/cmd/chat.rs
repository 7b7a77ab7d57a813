//! `nanoclaw chat`: a client of the terminal's socket; one message and its answer, or a
//! conversation.

mod interactive;

use std::fs;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use nanoclaw_session::layout::confined_file_name;

use super::{ChatArgs, NO_ANSWER};
use crate::admin;
use crate::channel::TurnResult;
use crate::channel::cli::wire::{FromClient, ToClient, WireAddress};
use crate::channel::cli::{CHANNEL, LOCAL_CHAT};
use crate::destinations;
use crate::home::Home;
use crate::setup;
use crate::store::AgentGroup;

pub fn run(home: &Home, args: &ChatArgs) -> Result<ExitCode> {
    let chat = chat_for(home, args.to.as_deref())?;
    let text = match (args.text.is_empty(), io::stdin().is_terminal()) {
        (false, _) => args.text.join(" "),
        (true, false) => {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).context("cannot read stdin")?;
            text.trim_end().to_owned()
        }
        (true, true) => return interactive::run(home, &chat),
    };
    if text.is_empty() {
        bail!("there is nothing to say: give TEXT, pipe something in, or run it on a terminal");
    }
    one_turn(home, &chat, text, args)
}

/// The terminal chat that reaches a group: the usual one for the group it is wired to, otherwise
/// one of its own.
fn chat_for(home: &Home, group: Option<&str>) -> Result<String> {
    let Some(word) = group else { return Ok(LOCAL_CHAT.to_owned()) };
    let store = super::open_store(home)?;
    let group: AgentGroup = admin::find(&store, word)?;
    if let Some(local) = store.find_messaging_group(CHANNEL, LOCAL_CHAT)? {
        if store.find_wiring(&local.id, &group.id)?.is_some() {
            return Ok(LOCAL_CHAT.to_owned());
        }
    }
    let chat = format!("{LOCAL_CHAT}:{}", group.folder);
    let wired = destinations::change(&store, home, || setup::wire_terminal(&store, &chat, &group))?;
    for (session, error) in wired.untold {
        eprintln!("session {} learns of this chat at its next start: {error:#}", session.id);
    }
    Ok(chat)
}

/// The socket of the running daemon.
fn connect(home: &Home) -> Result<UnixStream> {
    let path = home.cli_socket();
    UnixStream::connect(&path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            anyhow::anyhow!(
                "nanoclaw does not run on {}: start it with `nanoclaw run` (or `make run`)",
                home.root().display()
            )
        }
        _ => anyhow::Error::from(e).context(format!("cannot connect to {}", path.display())),
    })
}

fn message(chat: &str, id: &str, text: String) -> FromClient {
    FromClient {
        text: Some(text),
        id: Some(id.to_owned()),
        to: (chat != LOCAL_CHAT).then(|| WireAddress {
            channel_type: CHANNEL.to_owned(),
            platform_id: chat.to_owned(),
            thread_id: None,
        }),
        sender: std::env::var("USER").ok().filter(|u| !u.is_empty()),
        ..FromClient::default()
    }
}

fn say(stream: &mut impl Write, line: &FromClient) -> Result<()> {
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    Ok(stream.write_all(&bytes)?)
}

fn one_turn(home: &Home, chat: &str, text: String, args: &ChatArgs) -> Result<ExitCode> {
    let mut stream = connect(home)?;
    let id = crate::id::new_id("chat");
    say(&mut stream, &message(chat, &id, text))?;
    let mut until = Instant::now() + Duration::from_secs(args.timeout);
    let mut lines = BufReader::new(stream.try_clone()?);
    let mut accepted = false;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let mut line = String::new();
        match lines.read_line(&mut line) {
            Ok(0) if accepted => bail!("nanoclaw went away; your message is kept"),
            Ok(0) => bail!("nanoclaw went away before it took your message"),
            Ok(_) => {}
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                eprintln!("no answer in {} s; it will be shown when you come back", args.timeout);
                return Ok(ExitCode::from(NO_ANSWER));
            }
            Err(e) => return Err(e.into()),
        }
        let message = serde_json::from_str(&line)?;
        if args.json && !matches!(message, ToClient::Typing { .. }) {
            write!(io::stdout(), "{line}")?;
            io::stdout().flush()?;
        }
        match message {
            ToClient::Accepted { .. } => accepted = true,
            ToClient::Error { message } => bail!(message),
            ToClient::TurnEnd { message_ids, result } if message_ids.contains(&id) => {
                return Ok(ExitCode::from(u8::from(result == TurnResult::Failed)));
            }
            other if !args.json => {
                for text in describe(home, &other)? {
                    writeln!(io::stdout(), "{text}")?;
                }
                io::stdout().flush()?;
                // Nobody is there to be asked otherwise.
                if matches!(other, ToClient::Question { .. }) && io::stdin().is_terminal() {
                    let mut answer = String::new();
                    io::stdin().read_line(&mut answer)?;
                    until = Instant::now() + Duration::from_secs(args.timeout);
                    if !answer.trim().is_empty() {
                        say(&mut stream, &self::message(chat, &crate::id::new_id("chat"), answer.trim().to_owned()))?;
                    }
                }
            }
            _ => {}
        }
    }
}

/// What a line says, for a person. A file is kept in the home's `received` folder.
fn describe(home: &Home, line: &ToClient) -> Result<Vec<String>> {
    let mut texts = match line {
        ToClient::Text { text, .. } => vec![text.clone()],
        ToClient::File { name, data, .. } => vec![format!("[file] {}", keep_file(home, name, data)?.display())],
        ToClient::Edit { text, .. } => vec![format!("[edited] {text}")],
        ToClient::Reaction { emoji, .. } => vec![format!("[reaction] {emoji}")],
        ToClient::Question { question, .. } => {
            let mut lines = vec![question.title.clone()];
            lines.extend((!question.question.is_empty()).then(|| question.question.clone()));
            lines.extend(question.options.iter().enumerate().map(|(i, o)| format!("  {}. {}", i + 1, o.label)));
            lines.push("Answer with a number or a label.".to_owned());
            lines
        }
        ToClient::Error { message } => vec![format!("[error] {message}")],
        ToClient::Accepted { .. } | ToClient::Typing { .. } | ToClient::TurnEnd { .. } => Vec::new(),
    };
    // What an agent repeats may come from strangers, who may not steer our terminal.
    let harmful = |c: char| c.is_control() && c != '\n' && c != '\t';
    texts.iter_mut().for_each(|text| *text = text.replace(harmful, "\u{fffd}"));
    Ok(texts)
}

fn keep_file(home: &Home, name: &str, data: &str) -> Result<PathBuf> {
    let folder = home.root().join("received");
    fs::create_dir_all(&folder)?;
    let path = folder.join(confined_file_name(name, |n| Path::new(&folder).join(n).exists()));
    fs::write(&path, BASE64.decode(data).context("a file came damaged")?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_says_does_not_steer_the_terminal() {
        let home = Home::locate(Some(Path::new("/nowhere"))).unwrap();
        let text = "one\n\ttwo\x1b]52;c;cm0gLXJm\x07\u{9b}2J\r".to_owned();
        let line = ToClient::Edit { id: String::new(), message_id: String::new(), text };
        let harmless = "[edited] one\n\ttwo\u{fffd}]52;c;cm0gLXJm\u{fffd}\u{fffd}2J\u{fffd}";
        assert_eq!(describe(&home, &line).unwrap(), [harmless]);
    }
}
