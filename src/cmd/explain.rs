//! `nanoclaw explain`: why a message was or was not answered; the daemon need not run.

use std::process::ExitCode;

use anyhow::Result;
use nanoclaw_session::content::ChatIn;
use serde_json::json;

use super::status::memory_available;
use super::{ExplainArgs, FAILURE, Format, open_store};
use crate::channel::{Chat, ChatKind, InboundMessage, Mention, Threads, user_id};
use crate::config::Settings;
use crate::explain::{self, Finding, Limits};
use crate::home::Home;
use crate::store::Store;

pub fn run(home: &Home, args: &ExplainArgs) -> Result<ExitCode> {
    let store = open_store(home)?;
    let findings = match &args.message_id {
        Some(id) => {
            let containers = Settings::load(home)?.containers;
            let limits = Limits {
                max_containers: containers.max_concurrent,
                memory_available: memory_available(),
                container_memory: bytes(&containers.memory),
            };
            explain::past(&store, home, limits, id, crate::time::now())?
        }
        None => explain::dry_run(&store, &message(&store, args)?)?,
    };
    let unknown = findings.is_empty();
    match Format::from(&args.json) {
        Format::Json => {
            let document =
                json!({"messageId": args.message_id, "dryRun": args.message_id.is_none(), "findings": findings});
            println!("{}", serde_json::to_string_pretty(&document)?);
        }
        Format::Text => findings.iter().for_each(print),
    }
    if unknown {
        eprintln!(
            "no trace of this message: it never came, or it was chatter in a chat nobody is wired to, or it is too old; `nanoclaw explain --channel C --chat P --text T` shows what would become of it"
        );
        return Ok(ExitCode::from(FAILURE));
    }
    Ok(ExitCode::SUCCESS)
}

fn print(finding: &Finding) {
    let about = match (&finding.agent, &finding.session) {
        (Some(agent), Some(session)) => format!("{agent} ({session})"),
        (Some(agent), None) => agent.clone(),
        (None, _) => "nobody".to_owned(),
    };
    let at = finding.at.as_deref().map_or(String::new(), |at| format!("  {at}"));
    println!("{about}  {}: {}{at}", finding.reason, finding.detail);
}

/// The message of a dry run.
fn message(store: &Store, args: &ExplainArgs) -> Result<InboundMessage> {
    let channel_type = args.channel.clone().unwrap_or_default();
    let said = args.chat.clone().unwrap_or_default();
    let prefixed = format!("{channel_type}:{said}");
    // The part after the channel will do.
    let platform_id = match store.find_messaging_group(&channel_type, &said)? {
        None if store.find_messaging_group(&channel_type, &prefixed)?.is_some() => prefixed,
        _ => said,
    };
    Ok(InboundMessage {
        id: "dry-run".to_owned(),
        thread_id: args.thread.clone(),
        threads: if args.thread.is_some() { Threads::Supported } else { Threads::Absent },
        kind: if args.group { ChatKind::Group } else { ChatKind::Direct },
        mention: if args.mention { Mention::Addressed } else { Mention::NotAddressed },
        timestamp: crate::time::now(),
        content: ChatIn {
            text: args.text.clone().unwrap_or_default(),
            sender_id: args.sender.as_deref().map(|sender| user_id(&channel_type, sender)),
            ..ChatIn::default()
        },
        attachments: Vec::new(),
        reply_to: None,
        chat: Chat { channel_type, platform_id },
    })
}

/// A size as docker takes it, such as `512m`.
fn bytes(size: &str) -> Option<u64> {
    let size = size.trim().to_ascii_lowercase();
    let number = size.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match size[number.len()..].trim_end_matches('b') {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_docker_reads_them() {
        assert_eq!(bytes("512m"), Some(512 << 20));
        assert_eq!(bytes("2GB"), Some(2 << 30));
        assert_eq!((bytes("1024"), bytes("x"), bytes("1.5g")), (Some(1024), None, None));
    }
}
