//! Slash commands that never reach an agent, or not from everybody: the gate, pure.

/// What a known command is to the host. Every other `/word` is a message like any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Of the agent's own terminal, of no use in a chat: it vanishes.
    Filtered,
    /// For owners and admins: the agent runner gets it like a message.
    Runner,
    /// For owners and admins.
    Host(HostCommand),
}

/// Commands the host carries out without waking anyone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostCommand {
    /// Cancel the running turn.
    Stop,
    /// End the container; the next message starts a fresh one.
    Restart,
    /// Say what the agent is doing.
    Status,
    /// Say what is scheduled.
    Tasks,
}

const COMMANDS: &[(&str, Command)] = &[
    ("help", Command::Filtered),
    ("login", Command::Filtered),
    ("logout", Command::Filtered),
    ("doctor", Command::Filtered),
    ("config", Command::Filtered),
    ("remote-control", Command::Filtered),
    ("clear", Command::Runner),
    ("compact", Command::Runner),
    ("context", Command::Runner),
    ("cost", Command::Runner),
    ("files", Command::Runner),
    ("stop", Command::Host(HostCommand::Stop)),
    ("restart", Command::Host(HostCommand::Restart)),
    ("status", Command::Host(HostCommand::Status)),
    ("tasks", Command::Host(HostCommand::Tasks)),
];

/// The command a text is. `/stop@mybot`, as some platforms write it in groups, is `/stop`.
pub fn parse(text: &str) -> Option<Command> {
    let word = text.trim_start().strip_prefix('/')?.split(char::is_whitespace).next()?;
    let name = word.split('@').next()?;
    COMMANDS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, command)| *command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_known_first_word_is_a_command() {
        let stop = Some(Command::Host(HostCommand::Stop));
        for text in ["/stop", "  /STOP now", "/stop@mybot", "/stop\nplease"] {
            assert_eq!(parse(text), stop, "{text:?}");
        }
        for text in ["", "/", "/ stop", "stop", "say /stop", "/stopwatch", "//stop", "/usr/bin"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
        assert_eq!(parse("/remote-control"), Some(Command::Filtered));
        assert_eq!(parse("/clear"), Some(Command::Runner));
    }
}
