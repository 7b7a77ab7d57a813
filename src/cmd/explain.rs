//! `nanoclaw explain`: why a message was or was not answered; the daemon need not run.

use std::process::ExitCode;

use anyhow::Result;
use nanoclaw_session::content::ChatIn;
use serde_json::json;

use super::{ExplainArgs, FAILURE, open_store};
use crate::channel::{Chat, ChatKind, InboundMessage, Mention, Threads, user_id};
use crate::config::Settings;
use crate::explain::{self, Finding};
use crate::home::Home;
use crate::memory;
use crate::sweep::decide::Room;

pub fn run(home: &Home, args: &ExplainArgs) -> Result<ExitCode> {
    let store = open_store(home)?;
    let findings = match &args.message_id {
        Some(id) => {
            let room = Room::of(&Settings::load(home)?.containers, 0, memory::available());
            explain::past(&store, home, room, id, crate::time::now())?
        }
        None => explain::dry_run(&store, &message(args))?,
    };
    let document = json!({"messageId": args.message_id, "dryRun": args.message_id.is_none(), "findings": findings});
    args.json.print(&document, || findings.iter().for_each(print))?;
    if findings.is_empty() {
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
fn message(args: &ExplainArgs) -> InboundMessage {
    let channel_type = args.channel.clone().unwrap_or_default();
    InboundMessage {
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
        answers: None,
        reply_to: None,
        chat: Chat { channel_type, platform_id: args.chat.clone().unwrap_or_default() },
    }
}
