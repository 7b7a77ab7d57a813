//! Slash commands that the runner answers. Who may give them was decided by the host.

use std::fs;
use std::path::Path;

use nanoclaw_session::content::Inbound;
use nanoclaw_session::row::MessageIn;

use crate::provider;

/// Most files that are listed.
const MAX_LISTED: usize = 100;

/// What a message commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Forget the conversation.
    Clear,
    /// Say what it has cost.
    Cost,
    /// List the agent's folder.
    Files,
    /// The provider's to answer.
    Provider(provider::Command),
}

/// The command a row is, if it is one.
pub fn of(row: &MessageIn) -> Option<Command> {
    let Inbound::Chat(chat) = Inbound::parse(row.kind, &row.content) else { return None };
    let word = chat.text.trim_start().strip_prefix('/')?.split(char::is_whitespace).next()?.split('@').next()?;
    match word.to_lowercase().as_str() {
        "clear" => Some(Command::Clear),
        "cost" => Some(Command::Cost),
        "files" => Some(Command::Files),
        "compact" => Some(Command::Provider(provider::Command::Compact)),
        "context" => Some(Command::Provider(provider::Command::Context)),
        _ => None,
    }
}

/// What lies in the agent's folder, as people read it.
pub fn files(folder: &Path) -> String {
    let mut found = Vec::new();
    list(folder, folder, &mut found);
    if found.is_empty() {
        return "My folder is empty.".into();
    }
    found.sort();
    let more = found.len().saturating_sub(MAX_LISTED);
    found.truncate(MAX_LISTED);
    if more > 0 {
        found.push(format!("... and {more} more"));
    }
    found.join("\n")
}

fn list(root: &Path, folder: &Path, found: &mut Vec<String>) {
    // What cannot be read is not listed. Ten times as many as are shown are counted.
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, Ok(meta)) = (entry.path(), entry.metadata()) else { continue };
        if found.len() > MAX_LISTED * 10 {
            return;
        }
        if meta.is_dir() {
            list(root, &path, found);
        } else {
            let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
            found.push(format!("{name} ({} bytes)", meta.len()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_listed_with_its_sizes() {
        let tmp = tempfile::tempdir().unwrap();
        assert_eq!(files(tmp.path()), "My folder is empty.");
        fs::create_dir(tmp.path().join("b")).unwrap();
        fs::write(tmp.path().join("b/c.txt"), "abc").unwrap();
        fs::write(tmp.path().join("a.txt"), "").unwrap();
        assert_eq!(files(tmp.path()), "a.txt (0 bytes)\nb/c.txt (3 bytes)");
        for n in 0..150 {
            fs::write(tmp.path().join(format!("n{n}")), "").unwrap();
        }
        assert!(files(tmp.path()).ends_with("\n... and 52 more"));
    }
}
