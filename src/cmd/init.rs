//! `nanoclaw init`: the first set-up of a home. Safe to repeat: what is there stays.

use std::fs::OpenOptions;
use std::io::{self, BufRead, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};

use super::InitArgs;
use crate::config::Settings;
use crate::home::Home;
use crate::setup;
use crate::store::Store;

pub fn run(home: &Home, args: &InitArgs) -> Result<ExitCode> {
    home.create()?;
    let env_file = home.env_file();
    if !env_file.exists() {
        let name = if args.yes || !io::stdin().is_terminal() { String::new() } else { ask()? };
        write_env(&env_file, name.trim())?;
        println!("wrote {}", env_file.display());
    }
    let settings = Settings::load(home)?;
    let store = Store::open(&home.store(), crate::time::now())
        .with_context(|| format!("cannot open {}", home.store().display()))?;
    for made in setup::ensure_defaults(&store, &settings.agents)? {
        println!("set up: {made}");
    }
    println!("the home is {}; agents use the provider {:?}", home.root().display(), settings.agents.provider);
    Ok(ExitCode::SUCCESS)
}

/// The question of a first set-up, what the assistant is called; Enter takes the default.
fn ask() -> Result<String> {
    print!("What is your assistant called? [Claw] ");
    io::stdout().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    println!("A model key is a secret: put it into .env yourself, as ANTHROPIC_API_KEY=...");
    println!("Without one the demo provider answers.");
    Ok(answer)
}

/// The new settings file: the answer, then a pointer to what else there is.
fn write_env(path: &Path, name: &str) -> Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.with_context(|| format!("cannot create {}", path.display()))?;
    writeln!(file, "# Settings of nanoclaw. All of them, with their defaults, are in .env.example.")?;
    match name {
        "" => writeln!(file, "#ASSISTANT_NAME=Claw")?,
        name => writeln!(file, "ASSISTANT_NAME=\"{}\"", name.replace('"', "'"))?,
    }
    writeln!(file, "#ANTHROPIC_API_KEY=")?;
    Ok(())
}
