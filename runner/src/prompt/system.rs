//! The system prompt: the host's instructions for this session, and to whom the agent may write.
//!
//! Made anew for every turn, because destinations change while a container runs.

use nanoclaw_session::row::{Destination, DestinationType};

use crate::destinations::Destinations;

/// `instructions` is `CLAUDE.md`, `memory` the agent's own `CLAUDE.local.md`; both may be empty.
pub fn prompt(instructions: &str, memory: &str, destinations: &Destinations) -> String {
    let mut parts = vec![instructions.trim().to_owned()];
    if !memory.trim().is_empty() {
        parts.push(format!("## Your memory (CLAUDE.local.md)\n\n{}", memory.trim()));
    }
    parts.push(addressing(destinations));
    parts.retain(|part| !part.is_empty());
    parts.join("\n\n")
}

fn addressing(destinations: &Destinations) -> String {
    let mut out = String::from("## Your destinations\n\n");
    match destinations.only() {
        Some(peer) => out.push_str(&format!(
            "You have one destination: {}. Your final text is sent there as it is. \
             `<message to=\"{}\">text</message>` works too; text outside of such blocks is then not sent.\n",
            described(peer, destinations),
            peer.name
        )),
        None => {
            for peer in destinations.peers() {
                out.push_str(&format!("- {}\n", described(peer, destinations)));
            }
            out.push_str(
                "\nSay where each part of your final text goes: `<message to=\"name\">text</message>`, once per \
                 message, with the names above. An answer normally goes to the name in the `from` of what it \
                 answers. Text outside of such blocks is sent to nobody.\n",
            );
        }
    }
    out.push_str("\nWhat you put into `<internal>...</internal>` is never sent.");
    out
}

/// `` `family` (Family chat, telegram; this conversation) ``
fn described(peer: &Destination, destinations: &Destinations) -> String {
    // Anybody may have titled that chat: it stays one short piece of text.
    let title = peer.display_name.as_deref().map(|t| t.replace(|c: char| c.is_control() || "`()".contains(c), " "));
    let title = title.as_deref().map(str::trim).filter(|t| !t.is_empty() && *t != peer.name);
    let mut notes: Vec<&str> = title.into_iter().collect();
    match peer.kind {
        DestinationType::Agent => notes.push("another agent"),
        DestinationType::Channel => notes.extend(peer.address.channel_type.as_deref()),
    }
    let mut notes = notes.join(", ");
    if destinations.is_own(peer) {
        notes.push_str(if notes.is_empty() { "this conversation" } else { "; this conversation" });
    }
    if notes.is_empty() { format!("`{}`", peer.name) } else { format!("`{}` ({notes})", peer.name) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destinations::tests::{one, three};

    #[test]
    fn several_destinations_are_listed_by_name() {
        assert_eq!(
            prompt("Be kind.\n", "", &three()),
            "Be kind.

## Your destinations

- `family` (Family chat, telegram; this conversation)
- `ops` (another agent)
- `work` (Work, slack)

Say where each part of your final text goes: `<message to=\"name\">text</message>`, once per message, with the names \
             above. An answer normally goes to the name in the `from` of what it answers. Text outside of such \
             blocks is sent to nobody.

What you put into `<internal>...</internal>` is never sent."
        );
    }

    #[test]
    fn a_single_destination_needs_no_address() {
        let text = prompt("", "likes tea\n", &one());
        assert!(
            text.starts_with("## Your memory (CLAUDE.local.md)\n\nlikes tea\n\n## Your destinations\n\nYou have one destination: `family` (Family chat, telegram; ")
        );
        assert!(text.contains("Your final text is sent there as it is."));
    }
}
