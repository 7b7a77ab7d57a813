//! The tool that asks the host for another agent. Only agents of a privileged group have it.

use std::sync::Arc;

use nanoclaw_session::create_agent::CreateAgent;
use serde::Deserialize;
use serde_json::json;

use super::{Context, Effect, Output, SLACK, Tool, tool};
use crate::provider::{Outgoing, TurnEvent};
use crate::{id, time};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    name: String,
    instructions: Option<String>,
}

/// See the module.
pub fn create_agent() -> Arc<dyn Tool> {
    tool(
        (
            CreateAgent::ACTION,
            "Creates another agent, with a folder, a memory and a conversation of its own, for work that is not yours \
             to do. You are told under which name you can write to it, and it can write to you.",
        ),
        (
            json!({
                "name": {"type": "string", "description": "What people call it."},
                "instructions": {
                    "type": "string",
                    "description": "What it is there for and how it works; it always has this before its eyes.",
                },
            }),
            &["name"],
        ),
        Effect::Changes,
        |_: &Asked| SLACK,
        ask,
    )
}

fn ask(asked: Asked, context: &Context) -> Result<Output, String> {
    let asked = CreateAgent { name: asked.name, instructions: asked.instructions };
    let asked = asked.checked().map_err(|why| format!("Not created: {why}."))?;
    let outgoing = Outgoing { id: id::message(time::now()), to: None, message: asked.to_action() };
    match context.events.send(TurnEvent::Send(outgoing)) {
        Ok(()) => Ok(Output::text("Asked for. A note tells you the name to write to, or why there is none.")),
        Err(_) => Err("Nobody takes requests any more.".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stop;
    use crate::tools::Outcome;
    use nanoclaw_session::content::Outbound;

    #[test]
    fn what_can_be_an_agent_is_asked_for_and_nothing_else() {
        let (_stopper, stop) = stop::pair();
        let (events, sent) = crossbeam_channel::unbounded();
        let context = Context { stop, events, destinations: Arc::default() };
        let call = |input| create_agent().call(&input, &context);
        for wrong in [json!({}), json!({"name": "/"}), json!({"name": "a", "folder": "b"}), json!({"name": 1})] {
            assert_eq!(call(wrong.clone()).outcome, Outcome::Failed, "{wrong}");
        }
        assert!(sent.try_recv().is_err());
        assert_eq!(call(json!({"name": " Helper ", "instructions": "Help."})).outcome, Outcome::Done);
        let Ok(TurnEvent::Send(Outgoing { message: Outbound::Action { name, arguments }, .. })) = sent.try_recv()
        else {
            panic!("nothing was asked for")
        };
        assert_eq!(name, "create_agent");
        let read = CreateAgent::from_arguments(&arguments).unwrap();
        assert_eq!((read.name.as_str(), read.instructions.as_deref()), ("Helper", Some("Help.")));
    }
}
