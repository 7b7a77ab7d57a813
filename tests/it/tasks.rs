//! Scheduled tasks in real containers: asked for in a chat, run when due, with the daemon and without.

use serde_json::json;

use crate::support::wait::wait_for;
use crate::support::{Host, sqlite};

const REMINDER: &str = "reminder: water the plants";

fn has_said(host: &Host, text: &str) -> Option<()> {
    host.replies().iter().any(|reply| reply == text).then_some(())
}

fn outcomes(host: &Host) -> Vec<String> {
    sqlite::column(&host.home().store(), "SELECT outcome FROM task_runs").unwrap()
}

#[test]
fn a_reminder_asked_for_in_the_chat_comes_when_it_is_due_and_is_remembered() {
    let host = Host::started();
    let mut client = host.client();
    let said = client.ask("m1", "remind me in 1 second to water the plants").remove(0);
    assert!(said.starts_with("Done: schedule_task task-"), "{said}");
    wait_for("the reminder", &[], || has_said(&host, REMINDER));
    wait_for("its end", &[], || (outcomes(&host) == ["completed"]).then_some(()));
    assert_eq!(host.json(&["tasks", "list"]), json!([]));
}

#[test]
fn a_task_is_listed_for_the_agent_and_its_owner_who_runs_it_now_or_cancels_it() {
    let host = Host::started();
    let mut client = host.client();
    client.ask("m1", "remind me in 20 hours to water the plants");
    let id = host.json(&["tasks"])[0]["id"].as_str().unwrap().to_owned();
    assert!(client.ask("m2", "list my tasks")[0].starts_with(&id));
    assert_eq!(host.json(&["tasks", "run", &id])["id"], *id);
    wait_for("the reminder", &[], || has_said(&host, REMINDER));
    client.ask("m3", "remind me in 20 hours to feed the cat");
    wait_for("the end of the first", &[], || (outcomes(&host) == ["completed"]).then_some(()));
    let tasks = host.json(&["tasks"]);
    assert_eq!(tasks.as_array().unwrap().len(), 1);
    assert_eq!(host.json(&["tasks", "cancel", tasks[0]["id"].as_str().unwrap()])["status"], "completed");
    assert_eq!(client.ask("m4", "list my tasks"), ["There are no tasks."]);
}

#[test]
fn cycles_without_a_daemon_run_what_is_due() {
    let mut host = Host::new();
    host.set("DOCKER", "/nonexistent/docker");
    host.start();
    let mut client = host.client();
    client.say("m1", "remind me in 1 second to water the plants");
    client.accepted("m1");
    host.kill9();
    host.unset("DOCKER");
    wait_for("the reminder", &[], || {
        assert_eq!(host.run(&["sweep"]).code, Some(0));
        has_said(&host, REMINDER)
    });
    assert_eq!(outcomes(&host), ["completed"]);
}
