//! The tools of tasks, with a stand-in for the host.

use crossbeam_channel::unbounded;
use nanoclaw_session::inbound::{Delivered, Durability, InboundDb};
use nanoclaw_session::row::{Address, InKind, NewMessageIn};

use super::*;
use crate::stop;
use crate::tools::{Outcome, Part, Spec};

/// A session and the host of it, which does one thing: it says that everything is delivered.
struct Desk {
    folder: tempfile::TempDir,
    tools: Vec<Arc<dyn Tool>>,
}

impl Desk {
    fn new() -> Desk {
        let folder = tempfile::tempdir().unwrap();
        let dir = SessionDir::new(folder.path());
        dir.prepare().unwrap();
        let desk = Desk { tools: tools(&dir, &time::zone(["Europe/Berlin"])), folder };
        drop(desk.inbound());
        desk
    }

    fn inbound(&self) -> InboundDb {
        InboundDb::open(&SessionDir::new(self.folder.path()), Durability::Normal).unwrap()
    }

    fn has_task(&self, id: &str, recurrence: Option<&str>) {
        let content = r#"{"prompt":"water the plants","timezone":"Europe/Berlin"}"#.into();
        let due = time::now() + SignedDuration::from_hours(24);
        let row = NewMessageIn {
            kind: InKind::Task,
            process_after: Some(due),
            recurrence: recurrence.map(str::to_owned),
            ..NewMessageIn::chat(id.into(), due, Address::default(), content)
        };
        self.inbound().write(|tx| tx.insert(&row)).unwrap();
    }

    /// What a call says, and what it has asked of a host that answers so.
    fn call(&self, name: &str, input: Value, answer: DeliveryStatus) -> (Output, Vec<Action>) {
        let (_stopper, stop) = stop::pair();
        let (events, sent) = unbounded();
        let context = Context { stop, events, destinations: Default::default() };
        let tool = self.tools.iter().find(|tool| tool.spec().name == name).unwrap().clone();
        std::thread::scope(|scope| {
            let host = scope.spawn(|| {
                let mut asked = Vec::new();
                while let Ok(TurnEvent::Send(Outgoing { id, message, .. })) = sent.recv() {
                    let nanoclaw_session::content::Outbound::Action { name, arguments } = &message else { panic!() };
                    asked.push(Action::parse(name, arguments, "UTC").unwrap());
                    let done = Delivered {
                        message_out_id: id,
                        platform_message_id: None,
                        status: answer,
                        chat: Address::default(),
                    };
                    self.inbound().write(|tx| tx.mark_delivered(&done, time::now())).unwrap();
                }
                asked
            });
            let output = tool.call(&input, &context);
            drop(context);
            (output, host.join().unwrap())
        })
    }

    fn done(&self, name: &str, input: Value) -> (String, Vec<Action>) {
        let (output, asked) = self.call(name, input, DeliveryStatus::Delivered);
        assert_eq!(output.outcome, Outcome::Done, "{output:?}");
        (words(&output), asked)
    }

    fn fails(&self, name: &str, input: Value) -> String {
        let (output, asked) = self.call(name, input, DeliveryStatus::Delivered);
        assert_eq!((output.outcome, asked), (Outcome::Failed, vec![]), "{output:?}");
        words(&output)
    }
}

fn words(output: &Output) -> String {
    let [Part::Text(text)] = &output.parts[..] else { panic!("{output:?}") };
    text.clone()
}

#[test]
fn a_task_is_asked_for_in_the_users_zone_and_the_next_runs_are_said() {
    let desk = Desk::new();
    let (said, asked) = desk.done("schedule_task", json!({"prompt": "p", "recurrence": "0 8 * * *"}));
    let [Action { task_id, verb: Verb::Schedule(wish) }] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!(wish.timezone.as_deref(), Some("Europe/Berlin"));
    assert!(said.starts_with(&format!("Done: schedule_task {task_id}. It runs: ")), "{said}");
    assert_eq!(said.matches(", 08:00 CE").count(), 3, "{said}");
}

#[test]
fn what_is_wrong_is_said_and_never_asked() {
    let desk = Desk::new();
    desk.has_task("task-1", None);
    for (name, input, why) in [
        ("schedule_task", json!({"prompt": "p", "recurrence": "0 8 * *"}), "cron expression"),
        ("schedule_task", json!({"prompt": "p", "processAfter": "2020-01-01T08:00"}), "is over; it is"),
        ("schedule_task", json!({"prompt": "p", "recurrence": "@daily", "taskId": "task-9"}), "no taskId yet"),
        ("schedule_task", json!({"prompt": "p", "recurrence": "@daily", "script": "x"}), "unknown field `script`"),
        ("update_task", json!({"taskId": "task-1"}), "nothing is to be changed"),
        ("update_task", json!({"taskId": "task-1", "recurrence": "bad"}), "cron expression"),
        ("cancel_task", json!({"taskId": "task-2"}), "There is no task \"task-2\", or it is over. task-1: "),
        ("pause_task", json!({}), "needs the taskId"),
    ] {
        let said = desk.fails(name, input.clone());
        assert!(said.contains(why), "{name} {input}: {said}");
    }
}

#[test]
fn a_refusal_by_the_host_is_no_success() {
    let desk = Desk::new();
    desk.has_task("task-1", None);
    let (output, asked) = desk.call("cancel_task", json!({"taskId": "task-1"}), DeliveryStatus::Failed);
    assert_eq!((output.outcome, asked.len()), (Outcome::Failed, 1));
}

#[test]
fn tasks_are_listed_in_their_zone() {
    let desk = Desk::new();
    assert_eq!(desk.done("list_tasks", json!({})).0, "There are no tasks.");
    desk.has_task("task-1", Some("0 8 * * *"));
    let (said, _) = desk.done("list_tasks", json!({}));
    assert!(said.starts_with("task-1: ") && said.ends_with("water the plants"), "{said}");
    assert!(said.contains("repeats \"0 8 * * *\" (Europe/Berlin)"), "{said}");
}

#[test]
fn every_property_a_schema_has_is_read_and_no_other() {
    let desk = Desk::new();
    desk.has_task("task-1", Some("@daily"));
    let values = json!({"taskId": "task-1", "prompt": "p", "processAfter": "2999-01-01T08:00", "recurrence": "@daily",
        "timezone": "Asia/Tokyo", "missed": "skip"});
    for tool in &desk.tools {
        let Spec { name, schema, .. } = tool.spec();
        assert_eq!(schema["additionalProperties"], false);
        let properties = schema["properties"].as_object().unwrap().keys();
        let mut input: Map<_, _> = properties.map(|name| (name.clone(), values[name].clone())).collect();
        desk.done(&name, Value::Object(input.clone()));
        input.insert("further".into(), 1.into());
        let said = desk.fails(&name, Value::Object(input));
        assert!(said.contains("unknown field `further`"), "{name}: {said}");
    }
}
