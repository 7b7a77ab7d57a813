//! Agents that talk to each other, each in a container of its own, with a model behind the gateway.

use serde_json::{Value, json};

use crate::messages_api::{MessagesApi, Request, Script};
use crate::support::wait::wait_for;
use crate::support::{Client, Host, sqlite};

fn start(api: &MessagesApi) -> Host {
    let mut host = Host::new();
    host.set("ANTHROPIC_API_KEY", "sk-the-real-key");
    host.set("ANTHROPIC_BASE_URL", api.address());
    host.start();
    host
}

fn send(to: &str, text: &str) -> Option<Script> {
    Some(Script::Say(format!("<message to=\"{to}\">{text}</message>")))
}

fn nothing_yet() -> Option<Script> {
    Some(Script::Say("<internal>nothing to say yet</internal>".into()))
}

fn is_told(request: &Request, words: &str) -> bool {
    request.body["system"].to_string().contains(words)
}

fn has_tool(request: &Request, name: &str) -> bool {
    request.body["tools"].as_array().is_some_and(|tools| tools.iter().any(|tool| tool["name"] == name))
}

/// Waits until somebody says this in a chat of the terminal.
fn heard(client: &Client, text: &str, chat: &str) -> Vec<Value> {
    client.until(text, |l| {
        l["type"] == "text" && l["platformId"] == chat && l["text"].as_str().is_some_and(|t| t.contains(text))
    })
}

fn say(client: &mut Client, id: &str, text: &str, chat: &str) {
    client.send(&json!({"id": id, "text": text, "to": {"channelType": "cli", "platformId": chat}}));
}

fn introduce(host: &Host, group: &str, to: &str) {
    let output = host.run(&["destinations", "add", "--group", group, "--name", to, "--to-group", to]);
    assert_eq!(output.code, Some(0), "{output:?}");
}

/// Ids of the sessions of a group.
fn sessions_of(host: &Host, group: &str) -> Vec<String> {
    host.store().active_sessions_of(group).unwrap().into_iter().map(|s| s.id).collect()
}

#[test]
fn an_agent_makes_another_one_asks_it_and_gets_the_answer_where_it_asked() {
    let api = MessagesApi::on_port();
    let host = start(&api);
    api.script_by(|request| {
        let last = request.last();
        if is_told(request, "You know the answer.") {
            assert!(!has_tool(request, "create_agent"), "hidden from who may not");
            return Some(Script::Say(if last.contains("from=\"parent\"") { "42 it is" } else { "who?" }.into()));
        }
        assert!(has_tool(request, "create_agent"));
        if last.contains("42 it is") {
            assert!(last.contains("from=\"helper\""), "{last}");
            send("terminal", "the helper says 42")
        } else if last.contains("writes to it as") {
            // Also when the note comes in the middle of the turn that asked.
            Some(Script::calls(&[("send_message", json!({"to": "helper", "text": "what is it?"}))]))
        } else if last.contains("make a helper") && !last.contains("Asked for.") {
            let asked = json!({"name": "Helper", "instructions": "You know the answer."});
            Some(Script::calls(&[("create_agent", asked)]))
        } else {
            nothing_yet()
        }
    });
    let mut client = host.client();
    client.say("m1", "make a helper");
    let lines = heard(&client, "the helper says 42", "local");
    let created = |l: &Value| l["text"].as_str().is_some_and(|t| t.contains("has created the agent \"Helper\""));
    assert!(lines.iter().any(created), "the owner hears of it: {lines:#?}");
    assert_eq!(api.violations(), Vec::<String>::new());
    assert_eq!((sessions_of(&host, "main").len(), sessions_of(&host, "helper").len()), (1, 1));
    host.assert_no_complaint();
}

#[test]
fn each_chat_gets_the_answers_to_its_own_questions_from_two_other_agents() {
    let api = MessagesApi::on_port();
    let host = start(&api);
    host.add_agent("bob");
    host.add_agent("cat");
    for (from, to) in [("main", "bob"), ("bob", "main"), ("bob", "cat"), ("cat", "bob")] {
        introduce(&host, from, to);
    }
    let store = host.store();
    nanoclaw::setup::wire_terminal(&store, "local:second", &store.agent_group("main").unwrap()).unwrap();
    // Main asks Bob, who asks Cat.
    api.script_by(|request| {
        let last = request.last();
        let number = last.split("number ").nth(1).map(|rest| rest.chars().take_while(char::is_ascii_digit).collect());
        let number: String = number.unwrap_or_default();
        let from = |name: &str| last.contains(&format!("from=\"{name}\""));
        if is_told(request, "`main` (") {
            let cat_answers = from("cat");
            return send(if cat_answers { "main" } else { "cat" }, &format!("cat says number {number}"));
        }
        match (is_told(request, "`terminal-2` ("), from("bob")) {
            (true, true) if is_told(request, "`terminal-2` (terminal, cli; this conversation)") => {
                send("terminal-2", &format!("found number {number}"))
            }
            (true, true) => send("terminal", &format!("found number {number}")),
            _ => send("bob", &format!("number {number}")),
        }
    });
    let mut client = host.client();
    client.send(&json!({"listen": "local:second"}));
    for (id, text, chat, found) in [
        ("m1", "number 1", "local", "found number 1"),
        ("m2", "number 2", "local:second", "found number 2"),
        ("m3", "number 3", "local", "found number 3"),
    ] {
        say(&mut client, id, text, chat);
        heard(&client, found, chat);
    }
    for (group, sessions) in [("main", 2), ("bob", 1), ("cat", 1)] {
        assert_eq!(sessions_of(&host, group).len(), sessions, "{group}");
    }
    host.assert_no_complaint();
}

#[test]
fn two_agents_that_never_stop_are_cut_and_the_owner_hears_of_it() {
    let api = MessagesApi::on_port();
    let host = start(&api);
    host.add_agent("bob");
    introduce(&host, "main", "bob");
    introduce(&host, "bob", "main");
    api.script_by(|request| {
        if is_told(request, "`main` (") {
            return send("main", "and you?");
        }
        match request.last() {
            last if last.contains("are you there") => send("terminal", "I am"),
            _ => send("bob", "fine, and you?"),
        }
    });
    let mut client = host.client();
    client.say("m1", "say hello to bob");
    heard(&client, "The agents bob and main have exchanged 16 messages in a row", "local");
    assert_eq!(host.logged("Message passed on"), 16);
    let bob = host.session_of("bob");
    let hops = sqlite::column(&host.dir_of(&bob).inbound_db(), "SELECT hops FROM messages_in ORDER BY seq").unwrap();
    assert_eq!(hops, ["1", "3", "5", "7", "9", "11", "13", "15"]);
    let main = host.session_of("main");
    wait_for("the note", &[], || {
        let sql = "SELECT content FROM messages_in WHERE content LIKE '%is cut until%'";
        sqlite::column(&host.dir_of(&main).inbound_db(), sql).is_ok_and(|rows| rows.len() == 1).then_some(())
    });
    client.say("m2", "are you there?");
    heard(&client, "I am", "local");
}
