//! `nanoclaw logs`: the host's log, or what the containers of a session printed.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::LogsArgs;
use crate::home::Home;

/// How much of the log is shown to begin with. bytes
const TAIL_BYTES: usize = 64 * 1024;
/// How often a followed file is looked at.
const FOLLOW_POLL: Duration = Duration::from_secs(1);

pub fn run(home: &Home, args: &LogsArgs) -> Result<ExitCode> {
    match &args.session {
        None => show(&home.log_file(), args.follow)?,
        Some(session) => {
            let files = container_logs(home, session)?;
            for path in &files {
                println!("==> {} <==", path.file_stem().unwrap_or_default().to_string_lossy());
                io::stdout().write_all(&fs::read(path)?)?;
            }
            if args.follow {
                bail!(
                    "the log of a running container is with the engine: `docker logs -f` shows it; what is kept here is of containers that ended"
                );
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show(path: &Path, follow: bool) -> Result<()> {
    let mut file = File::open(path)
        .with_context(|| format!("there is no log at {}: the daemon has not run with this home", path.display()))?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    let tail = text.len().saturating_sub(TAIL_BYTES);
    let mut start = text[..tail].iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
    let mut stdout = io::stdout();
    loop {
        stdout.write_all(&text[start..])?;
        stdout.flush()?;
        if !follow {
            return Ok(());
        }
        // Lines are appended to an open file, which no notification tells of.
        crossbeam_channel::after(FOLLOW_POLL).recv()?;
        (text, start) = (Vec::new(), 0);
        file.read_to_end(&mut text)?;
    }
}

fn container_logs(home: &Home, session: &str) -> Result<Vec<PathBuf>> {
    let root = home.container_logs("");
    let mut known = Vec::new();
    if root.is_dir() {
        for entry in fs::read_dir(&root)? {
            known.push(entry?.file_name().to_string_lossy().into_owned());
        }
    }
    let matching: Vec<&String> = known.iter().filter(|id| id.starts_with(session)).collect();
    let id = match matching[..] {
        [id] => id,
        [] if known.is_empty() => bail!("no container has ended yet, so no log is kept"),
        [] => bail!("no session {session:?} with kept logs; there are {}", known.join(", ")),
        _ => bail!("{session:?} is the start of several: {}", known.join(", ")),
    };
    let mut files: Vec<PathBuf> = fs::read_dir(root.join(id))?.map(|e| Ok(e?.path())).collect::<io::Result<_>>()?;
    files.sort_by_key(|path| fs::metadata(path).and_then(|m| m.modified()).ok());
    Ok(files)
}
