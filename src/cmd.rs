//! The command line: its words, and which room does the work. Every command prints its result on
//! stdout and everything else on stderr.

mod chat;
mod doctor;
mod explain;
mod import;
mod init;
mod logs;
mod run;
mod service;
mod status;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use rustix::fs::{Access, access};
use serde::Serialize;

use crate::admin;
use crate::daemon::ContainersAtStop;
use crate::home::Home;
use crate::import::Mode;
use crate::store::{Store, StoreError};

pub use crate::process::{BrokenPipe, on_broken_pipe};

/// Something failed.
pub const FAILURE: u8 = 1;
/// The command line was not understood.
const USAGE: u8 = 2;
/// A daemon holds the home.
const HELD: u8 = 3;
/// No answer in time, or not all of them.
const NO_ANSWER: u8 = 4;

/// A personal-assistant host for a machine you own.
#[derive(Debug, Parser)]
#[command(name = "nanoclaw", version, disable_help_subcommand = true)]
struct Cli {
    /// The folder everything lives in [default: $NANOCLAW_HOME, else ~/.nanoclaw]
    #[arg(long, global = true, value_name = "DIR")]
    home: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon in the foreground; prints one line "ready ..." when it takes messages
    Run {
        /// Stop the containers too when the daemon stops, instead of leaving them to the next start
        #[arg(long)]
        stop_containers: bool,
    },
    /// One full cycle without a daemon, for cron: take messages, start what is due, deliver, stop
    ///
    /// Says nothing when there is nothing to do. Exits with 0 when everything is done, 3 when a daemon or another
    /// sweep holds the home (nothing is done then), 4 when the time was up with work left for the next one.
    Sweep {
        /// How long to wait for answers
        #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(..=86_400))]
        wait: u64,
    },
    /// Talk to your agent: send TEXT (or stdin) and print the answer, or chat on a terminal
    ///
    /// Exits with 0 when the turn is over, 4 when there was no answer in time.
    Chat(ChatArgs),
    /// Show the daemon, its sessions and their containers, memory and disk
    Status(JsonArgs),
    /// Check everything nanoclaw needs, each with its remedy; exits with 1 when something failed
    Doctor(JsonArgs),
    /// Say why a message was or was not answered, or what would become of one that never came
    ///
    /// Exits with 1 when nothing is known of the message.
    Explain(ExplainArgs),
    /// Show the host's log, or the kept container logs of a session
    Logs(LogsArgs),
    /// Set up the home: settings file, agent "main", the terminal
    Init(InitArgs),
    /// Take over an existing NanoClaw v2 install: its database, sessions and groups
    ///
    /// Nothing in DIR is changed. All or nothing: while a row is refused, nothing is imported (exit 1).
    Import {
        /// The folder of the old install, with `data/v2.db` in it
        dir: PathBuf,
        /// Only show what an import would do
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        json: JsonArgs,
    },
    /// Let systemd run it: a system unit for root, else a unit of your own
    #[command(subcommand)]
    Service(ServiceCommand),
    #[command(flatten)]
    Admin(admin::Command),
}

#[derive(Debug, Subcommand)]
enum ServiceCommand {
    /// Write the unit, enable and start it; each step is printed
    Install {
        /// Instead of the daemon, run `nanoclaw sweep` every minute
        #[arg(long)]
        timer: bool,
        #[command(flatten)]
        dry_run: DryRun,
    },
    /// Stop it and remove the unit; the home stays
    Uninstall(DryRun),
    /// Show what is installed and whether it runs
    Status,
}

#[derive(Debug, Args)]
struct DryRun {
    /// Only show what would be done
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
struct ChatArgs {
    /// What to say; without it, stdin is sent when it is not a terminal
    text: Vec<String>,
    /// The agent group to talk to [default: the first one]
    #[arg(long, value_name = "GROUP")]
    to: Option<String>,
    /// How long to wait for the answer, in seconds
    #[arg(long, value_name = "S", default_value_t = 300)]
    timeout: u64,
    /// Print each line of the socket as it is
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct JsonArgs {
    /// One JSON document on stdout
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ExplainArgs {
    /// The platform's id of a message that came, or the id of its row
    #[arg(required_unless_present = "channel", conflicts_with = "channel")]
    message_id: Option<String>,
    /// Dry run: the channel, such as telegram
    #[arg(long, value_name = "C", requires = "chat")]
    channel: Option<String>,
    /// Dry run: the chat's platform id
    #[arg(long, value_name = "P", requires = "channel")]
    chat: Option<String>,
    /// Dry run: the thread, in a chat that has threads
    #[arg(long, value_name = "T", requires = "channel")]
    thread: Option<String>,
    /// Dry run: what it says
    #[arg(long, value_name = "T", requires = "channel")]
    text: Option<String>,
    /// Dry run: who says it, as <channel>:<native user id> [default: somebody unknown]
    #[arg(long, value_name = "U", requires = "channel")]
    sender: Option<String>,
    /// Dry run: the platform says that it addresses the assistant
    #[arg(long, requires = "channel")]
    mention: bool,
    /// Dry run: the chat is a group, where that is not on record
    #[arg(long, requires = "channel")]
    group: bool,
    #[command(flatten)]
    json: JsonArgs,
}

#[derive(Debug, Args)]
struct LogsArgs {
    /// A session's id, or the start of it
    session: Option<String>,
    /// Go on as the log grows
    #[arg(short, long)]
    follow: bool,
}

#[derive(Debug, Args)]
struct InitArgs {
    /// Ask nothing, take the defaults
    #[arg(long)]
    yes: bool,
}

impl JsonArgs {
    /// Prints a result as one JSON document, or as `text` does.
    fn print(&self, document: &impl Serialize, text: impl FnOnce()) -> Result<()> {
        if self.json {
            println!("{}", serde_json::to_string_pretty(document)?);
        } else {
            text();
        }
        Ok(())
    }
}

/// Reads the arguments and runs the command; what administration prints goes to `out`.
pub fn main(args: impl IntoIterator<Item = OsString>, out: &mut dyn Write) -> Result<ExitCode> {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) => {
            e.print()?;
            return Ok(ExitCode::from(if e.use_stderr() { USAGE } else { 0 }));
        }
    };
    let home = Home::locate(cli.home.as_deref())?;
    if matches!(cli.command, Command::Run { .. } | Command::Sweep { .. } | Command::Chat(_)) {
        on_broken_pipe(BrokenPipe::IsAnError);
    }
    match cli.command {
        Command::Run { stop_containers: true } => run::run(home, ContainersAtStop::Stop),
        Command::Run { stop_containers: false } => run::run(home, ContainersAtStop::LeaveRunning),
        Command::Sweep { wait } => run::sweep(home, Duration::from_secs(wait)),
        Command::Chat(args) => chat::run(&home, &args),
        Command::Status(args) => status::run(&home, &args),
        Command::Doctor(args) => doctor::run(&home, &args),
        Command::Explain(args) => explain::run(&home, &args),
        Command::Logs(args) => logs::run(&home, &args),
        Command::Init(args) => init::run(&home, &args),
        Command::Import { dir, dry_run: true, json } => import::run(&home, &dir, Mode::DryRun, &json),
        Command::Import { dir, dry_run: false, json } => import::run(&home, &dir, Mode::Real, &json),
        Command::Service(command) => service::run(&home, &command),
        Command::Admin(command) => admin::run(&home, open_store(&home)?, command, out).map(|()| ExitCode::SUCCESS),
    }
}

/// The central database of a home that was set up.
fn open_store(home: &Home) -> Result<Store> {
    match Store::open_existing(&home.store(), crate::time::now()) {
        Err(StoreError::NotFound { .. }) => {
            anyhow::bail!(
                "there is nothing at {} yet: `nanoclaw init` or `nanoclaw run` sets it up",
                home.root().display()
            )
        }
        other => other.with_context(|| match access(home.data(), Access::WRITE_OK) {
            Ok(()) => format!("cannot open {}", home.store().display()),
            Err(e) => format!("{} cannot be written ({e}), which is needed for reading, too", home.data().display()),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_unknown_word_gets_a_suggestion() {
        let error = Cli::try_parse_from(["nanoclaw", "statsu"]).unwrap_err().to_string();
        assert!(error.contains("status"), "{error}");
    }
}
