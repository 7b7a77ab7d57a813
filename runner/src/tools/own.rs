//! Tools about nanoclaw itself. Here are those that only tell something.

use std::sync::Arc;

use jiff::tz::TimeZone;
use nanoclaw_session::config::ContainerConfig;
use nanoclaw_session::layout::SessionDir;
use serde::Deserialize;
use serde_json::json;

use super::create_agent::create_agent;
use super::{Effect, Output, SLACK, Tool, outgoing, question, schedule, tool};
use crate::destinations::Destinations;
use crate::time;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// All that this agent has. `zone` is the user's.
pub fn tools(config: &ContainerConfig, dir: &SessionDir, zone: &TimeZone) -> Vec<Arc<dyn Tool>> {
    let mut tools = about_here(zone.clone());
    tools.extend(schedule::tools(dir, zone));
    tools.extend(outgoing::tools(dir));
    tools.push(question::asking());
    tools.extend(config.may_create_agents.then(create_agent));
    tools
}

fn about_here(zone: TimeZone) -> Vec<Arc<dyn Tool>> {
    vec![
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
    ]
}

pub fn names(destinations: &Destinations) -> String {
    let line = |peer: &nanoclaw_session::row::Destination| match &peer.display_name {
        Some(title) => format!("{} ({title})", peer.name),
        None => peer.name.clone(),
    };
    destinations.peers().iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destinations::tests::three;
    use crate::stop;
    use crate::tools::Context;

    #[test]
    fn names_and_the_time_are_told() {
        let (_stopper, stop) = stop::pair();
        let events = crossbeam_channel::unbounded().0;
        let context = Context { stop, events, destinations: Arc::new(three()) };
        let (config, dir) = (ContainerConfig::default(), SessionDir::new("/nowhere"));
        let has = |config: &ContainerConfig| {
            tools(config, &dir, &TimeZone::UTC).iter().any(|tool| tool.spec().name == "create_agent")
        };
        assert!(!has(&config), "hidden from the others");
        assert!(has(&ContainerConfig { may_create_agents: true, ..config }));
        let tools = about_here(TimeZone::UTC);
        let call = |name: &str| tools.iter().find(|t| t.spec().name == name).unwrap().call(&json!({}), &context);
        assert_eq!(call("list_destinations"), Output::text("family (Family chat)\nops\nwork (Work)"));
        let crate::tools::Part::Text(time) = &call("get_time").parts[0] else { panic!() };
        assert!(time.ends_with("(UTC)"), "{time}");
    }
}
