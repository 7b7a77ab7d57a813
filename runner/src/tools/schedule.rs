//! Scheduled tasks: what the agent asks of the host is checked here with the host's own code, so that
//! what is wrong is said at once. `list_tasks` reads what the host has written.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use nanoclaw_session::inbound::{is_transient, reader};
use nanoclaw_session::layout::SessionDir;
use nanoclaw_session::row::DeliveryStatus;
use nanoclaw_session::schedule::{Action, Plan, Task, Verb, Wish, local};
use serde_json::{Map, Value, json};

use super::{Context, Effect, Output, SLACK, Tool, tool};
use crate::provider::{Outgoing, TurnEvent};
use crate::{id, time};

/// How long the host may take to do what is asked; then the call ends without its word.
const HOST_DEADLINE: Duration = Duration::from_secs(5);
/// Between two looks whether it has.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// A model takes a while to say when "now" is.
const PAST_TOLERATED: SignedDuration = SignedDuration::from_mins(5);

const TIMES: &str =
    "Times and cron expressions are of the task's zone, which is the user's unless `timezone` says otherwise.";

/// All of them. `zone` is the user's.
pub fn tools(dir: &SessionDir, zone: &TimeZone) -> Vec<Arc<dyn Tool>> {
    let desk = Desk { dir: dir.clone(), zone: time::zone_name(zone).to_owned() };
    let id = json!({"taskId": {"type": "string", "description": "As list_tasks says it."}});
    let with_id = |properties: Value| -> Value {
        let both = [&id, &properties].into_iter().filter_map(Value::as_object).flatten();
        both.map(|(name, schema)| (name.clone(), schema.clone())).collect::<Map<_, _>>().into()
    };
    let wish = json!({
        "prompt": {"type": "string", "description": "What you are to do then, to be understood without this conversation."},
        "processAfter": {"type": "string", "description": "When it runs (first): 2026-11-22T08:00:00, or with an offset or Z."},
        "recurrence": {"type": "string", "description": "When it runs again: a cron expression of five fields, or @daily and the like."},
        "timezone": {"type": "string", "description": "Such as Europe/Berlin, if not the user's."},
        "missed": {"enum": ["latest", "all", "skip"], "description":
            "What becomes of runs that were due while this machine was off: one is made up for (latest, the default), all, or none."},
    });
    let schedule = format!(
        "Schedules a task: when its time has come you get its prompt, and your answer goes to this conversation. It needs \
         processAfter, recurrence or both. {TIMES}"
    );
    let update = format!("Changes a task; what you do not give stays. An empty recurrence ends its repeating. {TIMES}");
    let asks: [(&'static str, &str, Value, &[&str]); 5] = [
        (Action::SCHEDULE, &schedule, wish.clone(), &["prompt"]),
        (Action::UPDATE, &update, with_id(wish), &["taskId"]),
        (Action::CANCEL, "Ends a task for good.", id.clone(), &["taskId"]),
        (Action::PAUSE, "Keeps a task from running until it is resumed.", id.clone(), &["taskId"]),
        (Action::RESUME, "Lets a paused task run again.", id.clone(), &["taskId"]),
    ];
    let mut tools: Vec<Arc<dyn Tool>> = Vec::new();
    for (name, description, properties, required) in asks {
        let desk = desk.clone();
        let ask = move |input: Map<String, Value>, context: &Context| desk.ask(name, input, context);
        let longest = |_: &Map<String, Value>| HOST_DEADLINE;
        tools.push(tool((name, description), (properties, required), Effect::Changes, longest, ask));
    }
    tools.push(tool(
        ("list_tasks", "Lists the tasks of this conversation with their ids, the next one first."),
        (json!({}), &[]),
        Effect::Reads,
        |_: &super::own::Nothing| SLACK,
        move |_, _| {
            let lines: Vec<String> = desk.tasks()?.iter().map(|task| task.line(&desk.zone)).collect();
            Ok(Output::text(if lines.is_empty() { "There are no tasks.".to_owned() } else { lines.join("\n") }))
        },
    ));
    tools
}

#[derive(Clone)]
struct Desk {
    dir: SessionDir,
    /// The user's.
    zone: String,
}

impl Desk {
    fn look<T>(&self, f: impl Fn(&reader::InboundView) -> rusqlite::Result<T>) -> Result<T, String> {
        let until = Instant::now() + HOST_DEADLINE;
        loop {
            match reader::look(&self.dir, &f) {
                // The host is writing.
                Err(e) if is_transient(&e) && Instant::now() < until => std::thread::yield_now(),
                other => return other.map_err(|e| format!("The tasks cannot be read: {e}.")),
            }
        }
    }

    fn tasks(&self) -> Result<Vec<Task>, String> {
        self.look(|inbound| inbound.tasks())
    }

    fn ask(&self, name: &str, mut input: Map<String, Value>, context: &Context) -> Result<Output, String> {
        let sentence = |why: String| format!("It was not done: {why}.");
        let tasks = self.tasks()?;
        if name == Action::SCHEDULE {
            if input.insert("taskId".into(), format!("task-{}", id::random()).into()).is_some() {
                return Err("Wrong input: a new task has no taskId yet; update_task changes one.".into());
            }
            // The user may move; the task is meant as it was said.
            input.entry("timezone").or_insert_with(|| self.zone.clone().into());
        }
        let old = tasks.iter().find(|task| input.get("taskId").and_then(Value::as_str) == Some(&task.id));
        let zone = old.and_then(|task| task.content.timezone.as_deref()).unwrap_or(&self.zone);
        let action = Action::parse(name, &input, zone).map_err(sentence)?;
        let now = time::now();
        let plan = match &action.verb {
            Verb::Schedule(wish) => Some(checked(wish, None, zone, now).map_err(sentence)?),
            _ if old.is_none() => return Err(missing(&action.task_id, &tasks, zone)),
            Verb::Update(wish) => Some(checked(wish, old, zone, now).map_err(sentence)?),
            Verb::Cancel | Verb::Pause | Verb::Resume => None,
        };
        let outgoing = Outgoing { id: id::message(now), to: None, message: action.to_action() };
        let row_id = outgoing.id.clone();
        context.events.send(TurnEvent::Send(outgoing)).map_err(|_| "Nobody takes requests any more.")?;
        let done = match self.outcome(&row_id, context)? {
            Some(DeliveryStatus::Delivered) => "Done",
            Some(DeliveryStatus::Failed) => return Err("The host refused; a message from `system` says why.".into()),
            None => "Asked for, but the host has not answered yet",
        };
        let runs = plan.map(|plan| format!(" It runs: {}.", plan.runs().join("; "))).unwrap_or_default();
        Ok(Output::text(format!("{done}: {name} {}.{runs}", action.task_id)))
    }

    /// What the host made of it, once it is known.
    fn outcome(&self, row_id: &str, context: &Context) -> Result<Option<DeliveryStatus>, String> {
        let until = Instant::now() + HOST_DEADLINE;
        loop {
            let outcome = self.look(|inbound| inbound.outcome(row_id))?;
            if outcome.is_some() || Instant::now() >= until {
                return Ok(outcome);
            }
            context.stop.wait(LOOK_AGAIN).map_err(|_| "Stopped.")?;
        }
    }
}

/// A plan that can be carried out. The host knows no past: what it reads late runs late.
fn checked(wish: &Wish, old: Option<&Task>, zone: &str, now: Timestamp) -> Result<Plan, String> {
    match wish.at {
        Some(at) if now.duration_since(at) > PAST_TOLERATED => {
            Err(format!("{} is over; it is {}", local(at, zone), local(now, zone)))
        }
        _ => wish.plan(old, zone, now),
    }
}

fn missing(id: &str, tasks: &[Task], zone: &str) -> String {
    let there: Vec<String> = tasks.iter().map(|task| task.line(zone)).collect();
    let there = if there.is_empty() { "There are no tasks.".to_owned() } else { there.join("\n") };
    format!("There is no task {id:?}, or it is over. {there}")
}

#[cfg(test)]
mod tests;
