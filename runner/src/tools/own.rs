//! Tools about nanoclaw itself: to whom the agent may write, sending before the end of a turn, the time.

use std::sync::Arc;

use jiff::tz::TimeZone;
use nanoclaw_session::config::ContainerConfig;
use nanoclaw_session::content::Outbound;
use serde::Deserialize;
use serde_json::json;

use super::create_agent::create_agent;
use super::{Context, Effect, Output, SLACK, Tool, tool};
use crate::destinations::Destinations;
use crate::provider::{Outgoing, TurnEvent};
use crate::{id, time};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    to: Option<String>,
    text: String,
}

/// All that this agent has. `zone` is the user's.
pub fn tools(config: &ContainerConfig, zone: &TimeZone) -> Vec<Arc<dyn Tool>> {
    let zone = zone.clone();
    let mut tools = vec![
        tool(
            (
                "send_message",
                "Sends a message now, before your turn ends: word that something takes long, or a message to somebody \
                 else. What you send here need not be in your final text.",
            ),
            (
                json!({
                    "to": {"type": "string", "description": "Name of a destination; without it, this conversation."},
                    "text": {"type": "string"},
                }),
                &["text"],
            ),
            Effect::Changes,
            |_: &Message| SLACK,
            send_message,
        ),
        tool(
            ("list_destinations", "Lists the names you may write to."),
            (json!({}), &[]),
            Effect::Reads,
            |_: &Nothing| SLACK,
            |_, context| Ok(Output::text(names(&context.destinations))),
        ),
        tool(
            ("get_time", "Says what time it is for the people you work for."),
            (json!({}), &[]),
            Effect::Reads,
            |_: &Nothing| SLACK,
            move |_, _| Ok(Output::text(format!("{} ({})", time::local(time::now(), &zone), time::zone_name(&zone)))),
        ),
    ];
    tools.extend(config.may_create_agents.then(create_agent));
    tools
}

fn names(destinations: &Destinations) -> String {
    let line = |peer: &nanoclaw_session::row::Destination| match &peer.display_name {
        Some(title) => format!("{} ({title})", peer.name),
        None => peer.name.clone(),
    };
    destinations.peers().iter().map(line).collect::<Vec<_>>().join("\n")
}

fn send_message(message: Message, context: &Context) -> Result<Output, String> {
    let Message { to, text } = message;
    if text.trim().is_empty() {
        return Err("The text is empty.".into());
    }
    if let Some(name) = to.as_deref().filter(|name| context.destinations.by_name(name).is_none()) {
        let names = names(&context.destinations);
        return Err(format!("You have no destination {name:?}. You have:\n{names}"));
    }
    let message = Outbound::Text { text, files: Vec::new() };
    let outgoing = Outgoing { id: id::message(time::now()), to, message };
    match context.events.send(TurnEvent::Send(outgoing)) {
        Ok(()) => Ok(Output::text("Sent.")),
        Err(_) => Err("Nobody takes messages any more.".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destinations::tests::three;
    use crate::stop;
    use crate::tools::Outcome;

    #[test]
    fn a_message_goes_to_a_name_there_is_and_to_no_other() {
        let (_stopper, stop) = stop::pair();
        let (events, sent) = crossbeam_channel::unbounded();
        let context = Context { stop, events, destinations: Arc::new(three()) };
        let config = ContainerConfig::default();
        let tools = tools(&config, &TimeZone::UTC);
        assert!(tools.iter().all(|tool| tool.spec().name != "create_agent"), "hidden from the others");
        let privileged = ContainerConfig { may_create_agents: true, ..config };
        assert!(super::tools(&privileged, &TimeZone::UTC).iter().any(|tool| tool.spec().name == "create_agent"));
        let call = |name: &str, input| tools.iter().find(|t| t.spec().name == name).unwrap().call(&input, &context);
        assert_eq!(call("send_message", json!({"to": "OPS", "text": "hi"})), Output::text("Sent."));
        let Ok(TurnEvent::Send(Outgoing { to, .. })) = sent.try_recv() else { panic!("nothing was sent") };
        assert_eq!(to.as_deref(), Some("OPS"));
        for wrong in [json!({"to": "nobody", "text": "hi"}), json!({"text": " "}), json!({"to": "ops"})] {
            assert_eq!(call("send_message", wrong.clone()).outcome, Outcome::Failed, "{wrong}");
        }
        assert!(sent.try_recv().is_err());
        assert_eq!(call("list_destinations", json!({})), Output::text("family (Family chat)\nops\nwork (Work)"));
        let crate::tools::Part::Text(time) = &call("get_time", json!({})).parts[0] else { panic!() };
        assert!(time.ends_with("(UTC)"), "{time}");
    }
}
