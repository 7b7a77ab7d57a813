//! Who hears what, from a message on the terminal's socket to the prompt of an agent, set up by the
//! commands an owner uses.
//!
//! A chat of the channel `cli` stands for a group on a platform: what is said in it with `to` is
//! judged like any message, and answers in it come back.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nanoclaw::store::{ContainerStatus, EndReason};
use nanoclaw_session::layout::SessionDir;
use rustix::fs::{CWD, Mode, mkfifoat};
use serde_json::{Value, json};

use crate::messages_api::{MessagesApi, Request, Script};
use crate::support::docker::inspect;
use crate::support::wait::{DEADLINE, wait_for, wait_until};
use crate::support::{Client, Host, sqlite, texts};

/// A home that is set up and not started; its agents talk to `api`.
fn with_model(api: &MessagesApi) -> Host {
    let mut host = Host::new();
    host.set("ANTHROPIC_API_KEY", "sk-test");
    host.set("ANTHROPIC_BASE_URL", api.address());
    assert_eq!(host.run(&["init", "--yes"]).code, Some(0));
    host
}

/// A group chat of its own, under this policy; its id.
fn group_chat(host: &Host, platform_id: &str, policy: &str) -> String {
    let made = host.json(
        &[
            &["chats", "create", "--channel", "cli", "--platform-id", platform_id, "--name", platform_id][..],
            &["--is-group", "true", "--unknown-sender-policy", policy],
        ]
        .concat(),
    );
    made["id"].as_str().unwrap().to_owned()
}

/// What `sender` says in a group chat.
struct Said<'a> {
    id: &'a str,
    chat: &'a str,
    sender: &'a str,
    text: &'a str,
    addressed: bool,
}

impl Said<'_> {
    fn to(&self, client: &mut Client) {
        client.send(&json!({
            "id": self.id, "text": self.text, "sender": self.sender, "senderId": self.sender,
            "to": {"channelType": "cli", "platformId": self.chat}, "isGroup": true, "isMention": self.addressed,
        }));
    }
}

/// Everything that comes of a message: its lines up to the last of its acceptance, the end of its
/// turn, and this many texts.
#[track_caller]
fn outcome(client: &Client, id: &str, expected: usize) -> Vec<String> {
    let (mut accepted, mut ended, mut said) = (false, false, 0);
    texts(&client.until(&format!("outcome of {id}"), |line| {
        match line["type"].as_str() {
            Some("accepted") => accepted |= line["id"] == id,
            Some("turn_end") => ended |= line["messageIds"].as_array().unwrap().contains(&json!(id)),
            Some("text") => said += 1,
            _ => {}
        }
        accepted && ended && said >= expected
    }))
}

/// `(id, trigger, status, text)` of a session's inbound rows.
fn rows(dir: &SessionDir) -> Vec<[String; 4]> {
    let sql = "SELECT id, trigger, status, json_extract(content, '$.text') FROM messages_in ORDER BY seq";
    let rows = sqlite::query(&dir.inbound_db(), sql).unwrap();
    rows.into_iter().map(|row| row.try_into().unwrap()).collect()
}

#[track_caller]
fn wait_rows(dir: &SessionDir, expected: &[[&str; 4]]) {
    let mut last = Vec::new();
    let done = wait_until(DEADLINE, &[dir.root()], || {
        last = rows(dir);
        (last == expected).then_some(())
    });
    assert!(done.is_some(), "{last:#?}\nis not\n{expected:#?}");
}

fn system(request: &Request) -> &str {
    request.body["system"][0]["text"].as_str().unwrap()
}

/// Which of these texts are in the request's last message, in their order there.
fn heard<'a>(request: &Request, texts: &[&'a str]) -> Vec<&'a str> {
    let prompt = request.last();
    let mut found: Vec<(usize, &str)> = texts.iter().filter_map(|text| Some((prompt.find(text)?, *text))).collect();
    found.sort_unstable();
    found.into_iter().map(|(_, text)| text).collect()
}

/// One answers when it is addressed and forgets the rest, one answers to its name and remembers all.
#[test]
fn two_agents_in_one_group_chat_hear_what_their_wirings_say() {
    let api = MessagesApi::on_port();
    let mut host = with_model(&api);
    for (name, told) in [("Secretary", "You are the secretary."), ("Scribe", "You are the scribe.")] {
        let group = host.json(&["groups", "create", "--name", name]);
        fs::write(host.home().instructions().join(format!("{}.md", group["folder"].as_str().unwrap())), told).unwrap();
    }
    let chat = group_chat(&host, "family", "strict");
    host.json(&["wirings", "create", "--chat", &chat, "--group", "secretary", "--engage-mode", "mention"]);
    let pattern = ["--engage-pattern", "(?i)^scribe\\b", "--ignored-message-policy", "accumulate"];
    host.json(&[&["wirings", "create", "--chat", "family", "--group", "scribe"], &pattern[..]].concat());
    for group in ["secretary", "scribe"] {
        host.json(&["members", "add", "--user", "cli:ann", "--group", group]);
    }
    host.start();
    let mut client = host.client();
    let texts_said = ["milk is out", "and bread", "what is missing?", "Scribe, write it down", "Scribe and you both"];
    let mut say = |id: &str, sender: &str, text: &str, addressed: bool, answers: usize| {
        Said { id, chat: "family", sender, text, addressed }.to(&mut client);
        outcome(&client, id, answers)
    };

    // Nobody answers: what one agent forgets, the other one keeps without waking.
    for (id, sender, text) in
        [("m1", "ann", texts_said[0]), ("x1", "eve", "a stranger's words"), ("m2", "ann", texts_said[1])]
    {
        assert_eq!(say(id, sender, text, false, 0), [""; 0], "{id} is answered");
    }
    let store = host.store();
    assert_eq!(store.active_sessions_of("secretary").unwrap(), [], "nothing was for it");
    let scribe = host.session_of("scribe");
    let scribe_dir = host.dir_of(&scribe);
    let context = [["m1:scribe", "0", "pending", texts_said[0]], ["m2:scribe", "0", "pending", texts_said[1]]];
    assert_eq!(rows(&scribe_dir), context, "nothing of a stranger under the policy `strict`");

    // Addressed: the secretary wakes, and knows only that.
    assert_eq!(say("m3", "ann", texts_said[2], true, 1), ["answer 1"]);
    let request = api.request();
    assert!(system(&request).contains("You are the secretary."), "{request:#?}");
    assert_eq!(heard(&request, &texts_said), [texts_said[2]], "{request:#?}");
    let secretary = host.session_of("secretary");
    let secretary_dir = host.dir_of(&secretary);
    wait_rows(&secretary_dir, &[["m3:secretary", "1", "completed", texts_said[2]]]);
    let [one, two] = context;
    wait_rows(&scribe_dir, &[one, two, ["m3:scribe", "0", "pending", texts_said[2]]]);
    assert_eq!(store.session(&scribe.id).unwrap().container_status, ContainerStatus::Stopped);

    // By its name: the scribe wakes, and knows all that was said before.
    assert_eq!(say("m4", "ann", texts_said[3], false, 1), ["answer 2"]);
    let request = api.request();
    assert!(system(&request).contains("You are the scribe."), "{request:#?}");
    assert_eq!(heard(&request, &texts_said), texts_said[..4], "{request:#?}");
    assert!(!request.last().contains("a stranger's words"), "{request:#?}");
    let mut scribe_rows = vec![
        ["m1:scribe", "0", "completed", texts_said[0]],
        ["m2:scribe", "0", "completed", texts_said[1]],
        ["m3:scribe", "0", "completed", texts_said[2]],
        ["m4:scribe", "1", "completed", texts_said[3]],
    ];
    wait_rows(&scribe_dir, &scribe_rows);
    assert_eq!(rows(&secretary_dir).len(), 1, "what it ignores, it drops");

    // Both at once, in their own sessions and running containers.
    Said { id: "m5", chat: "family", sender: "ann", text: texts_said[4], addressed: true }.to(&mut client);
    let mut both = [api.request(), api.request()];
    both.sort_by_key(|request| !system(request).contains("You are the secretary."));
    for (request, name) in both.iter().zip(["secretary", "scribe"]) {
        assert!(system(request).contains(&format!("You are the {name}.")), "{request:#?}");
        assert_eq!(heard(request, &texts_said), [texts_said[4]], "{request:#?}");
    }
    let answers = [client.text(), client.text()];
    assert!(answers.contains(&"answer 3".to_owned()) && answers.contains(&"answer 4".to_owned()), "{answers:?}");
    scribe_rows.push(["m5:scribe", "1", "completed", texts_said[4]]);
    wait_rows(&scribe_dir, &scribe_rows);
    wait_rows(
        &secretary_dir,
        &[["m3:secretary", "1", "completed", texts_said[2]], ["m5:secretary", "1", "completed", texts_said[4]]],
    );

    let woken: Vec<Value> =
        host.events().started(2).iter().map(|c| inspect(c)["Config"]["Labels"]["nanoclaw.session"].take()).collect();
    assert_eq!(woken, [json!(secretary.id), json!(scribe.id)], "each was started once, when it was meant");
    assert_eq!(api.requests_left(), 0);
    let why = |id: &str| -> Vec<(Value, Value)> {
        let mut found = host.json(&["explain", id]);
        let findings = found["findings"].as_array_mut().unwrap();
        findings.iter_mut().map(|f| (f["agent"].take(), f["reason"].take())).collect()
    };
    let reason = |agent: &str, reason: &str| (json!(agent), json!(reason));
    assert!(why("m1").contains(&reason("secretary", "mode_not_met")), "{:?}", why("m1"));
    assert!(why("m4").contains(&reason("secretary", "mode_not_met")), "{:?}", why("m4"));
    host.assert_no_complaint();
}

#[test]
fn the_host_answers_commands_itself_and_only_those_who_may_give_them() {
    let host = Host::started();
    group_chat(&host, "team", "public");
    host.json(&["wirings", "create", "--chat", "team", "--group", "main", "--engage-pattern", "."]);
    host.json(&["members", "add", "--user", "cli:ann", "--group", "main"]);
    let mut client = host.client();
    let mut number = 0;
    let mut say = |sender: Option<&str>, text: &str| {
        number += 1;
        let id = format!("m{number}");
        let mut line = json!({"id": id, "text": text, "isGroup": true,
            "to": {"channelType": "cli", "platformId": "team"}});
        if let Some(sender) = sender {
            line["senderId"] = json!(sender);
        }
        client.send(&line);
        outcome(&client, &id, usize::from(text != "/help"))
    };

    for command in ["/status", "/clear", "/stop", "/restart", "/tasks"] {
        assert_eq!(say(Some("ann"), command), ["Permission denied"], "{command}");
    }
    assert!(say(None, "/status")[0].contains("nothing was said to it here yet"));
    assert!(say(None, "/tasks")[0].contains("no tasks"));
    assert!(say(None, "/stop")[0].contains("nothing runs here"));
    assert_eq!(say(None, "/help"), [""; 0], "it vanishes");
    assert_eq!(host.store().active_sessions().unwrap(), [], "nobody heard anything");
    assert_eq!(host.containers(), [""; 0]);

    assert!(say(Some("ann"), "good morning, team")[0].contains("turn 1. You said: \"good morning, team\""));
    host.wait_completed(1);
    let status = say(None, "/status");
    assert!(status[0].contains("nothing waits") && status[0].contains("its container"), "{status:?}");
    host.json(&["roles", "grant", "--user", "cli:ann", "--role", "admin", "--group", "main"]);
    let restarted = say(Some("ann"), "/restart");
    assert!(restarted[0].contains("fresh container"), "{restarted:?}");
    let run = host.wait_run_ended(1);
    assert_eq!(run.end_reason, Some(EndReason::Stopped));
    assert!(say(Some("ann"), "and again")[0].contains("turn 2. You said: \"and again\""));
    let started = host.events().started(2);
    assert_eq!(started.len(), 2, "one for each of the two messages: {started:?}");
    host.wait_completed(2);
    assert_eq!(host.inbound().len(), 2, "no command became a row");
    host.assert_no_complaint();
}

/// An agent may answer before the engine's program has said that its container runs.
#[test]
fn a_restart_of_a_container_that_still_starts_is_obeyed() {
    let mut host = Host::new();
    let (wrapper, gate) = (host.scratch().join("docker"), host.scratch().join("gate"));
    mkfifoat(CWD, &gate, Mode::RWXU).unwrap();
    let hold = format!("if [ \"$1\" = run ] && [ -p '{0}' ]; then cat '{0}'; fi", gate.display());
    fs::write(&wrapper, format!("#!/bin/sh\ndocker \"$@\"\ncode=$?\n{hold}\nexit $code\n")).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    host.set("DOCKER", wrapper.display().to_string());
    host.start();
    let mut client = host.client();
    assert!(client.ask("m1", "hello")[0].contains("turn 1"));
    client.say("m2", "/restart");
    assert!(outcome(&client, "m2", 1)[0].contains("fresh container"));
    drop(fs::OpenOptions::new().write(true).open(&gate).unwrap()); // once the program stands there
    fs::remove_file(&gate).unwrap();
    assert_eq!(host.wait_run_ended(1).end_reason, Some(EndReason::Stopped));
    assert!(client.ask("m3", "and now?")[0].contains("turn 2"));
    assert_eq!(host.events().started(2).len(), 2);
}

#[test]
fn a_stop_becomes_a_control_row_that_is_no_message() {
    let host = Host::started();
    let mut client = host.client();
    client.say("m1", "count to 5 slowly");
    host.events().wait("start", 1);
    client.say("m2", "/stop");
    client.accepted("m2");
    let dir = host.dir();
    let sql = "SELECT kind, trigger, content FROM messages_in WHERE id = 'm2:main'";
    let row = sqlite::query(&dir.inbound_db(), sql).unwrap();
    let [kind, trigger, content] = <[String; 3]>::try_from(row[0].clone()).unwrap();
    assert_eq!((kind.as_str(), trigger.as_str()), ("system", "0"));
    assert_eq!(serde_json::from_str::<Value>(&content).unwrap(), json!({"type": "control", "action": "stop"}));
    let later = client.ask("m3", "good night, all");
    assert!(later.iter().any(|text| text.contains("You said: \"good night, all\"")), "{later:?}");
    assert!(host.replies().iter().all(|reply| !reply.contains("/stop")), "the agent was not told of it");
}

/// Says something as a person on a platform whose answers are to come to the terminal.
fn from_telegram(client: &mut Client, id: &str, user: &str, text: &str) {
    client.send(&json!({
        "id": id, "text": text, "sender": user, "senderId": user,
        "to": {"channelType": "telegram", "platformId": format!("telegram:{user}")},
        "reply_to": {"channelType": "cli", "platformId": "local"},
    }));
}

#[test]
fn a_pairing_code_makes_its_sender_an_owner_once() {
    let host = Host::started();
    let mut client = host.client();
    let code = host.json(&["roles", "pair"])["code"].as_str().unwrap().to_owned();
    let owners = || -> Vec<String> {
        let roles = host.json(&["roles", "list"]);
        let users = roles.as_array().unwrap().iter().filter(|r| r["role"] == "owner");
        users.map(|r| r["user_id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(owners(), ["cli:local"]);
    from_telegram(&mut client, "m1", "55", &format!(" {}\n", code.to_lowercase()));
    let welcome = outcome(&client, "m1", 1);
    assert!(welcome[0].contains("You are an owner of this assistant now."), "{welcome:?}");
    assert_eq!(owners(), ["cli:local", "telegram:55"]);
    assert_eq!(host.containers(), [""; 0], "no agent saw the code");

    // For anybody else it is a text, from somebody unknown in a chat of no agent.
    from_telegram(&mut client, "m2", "66", &code);
    let offer = outcome(&client, "m2", 1);
    assert!(offer[0].contains("no agent is wired") && offer[0].contains("telegram:66"), "{offer:?}");
    assert_eq!(owners(), ["cli:local", "telegram:55"]);

    // The new owner's chat is wired, and they may give commands there.
    from_telegram(&mut client, "m3", "55", "/status");
    assert!(outcome(&client, "m3", 1)[0].contains("nothing was said to it here yet"));
    from_telegram(&mut client, "m4", "55", "what a day");
    assert!(client.text().contains("You said: \"what a day\""));
    assert_eq!(host.session().agent_group_id, "main");
    host.assert_no_complaint();
}

#[test]
fn a_new_wiring_reaches_a_live_session_at_once() {
    let api = MessagesApi::on_port();
    let mut host = with_model(&api);
    host.start();
    let mut client = host.client();
    let mut ask = |id: &str| {
        // With several destinations an answer says to which.
        api.script(Script::Say("<message to=\"terminal\">yes</message>".into()));
        assert_eq!(client.ask(id, &format!("{id}: are you there?")), ["yes"]);
        api.request()
    };
    assert!(!system(&ask("m1")).contains("`plant-club`"));
    let container = host.container();
    let dir = host.dir();
    let names = || sqlite::column(&dir.inbound_db(), "SELECT name FROM destinations ORDER BY name").unwrap();
    let before = names();

    group_chat(&host, "plant club", "strict");
    assert_eq!(names(), before, "a chat alone is nowhere to write to");
    let wiring = host.json(&["wirings", "create", "--chat", "plant club", "--group", "main"]);
    assert_eq!(names(), [&["plant-club".to_owned()], &before[..]].concat());
    assert!(system(&ask("m2")).contains("`plant-club`"), "the agent is told");

    host.json(&["wirings", "delete", wiring["id"].as_str().unwrap()]);
    assert_eq!(names(), before);
    assert!(!system(&ask("m3")).contains("`plant-club`"));
    assert_eq!(host.container(), container, "all of it in one container");
    host.assert_no_complaint();
}

/// Its session is gone when its container ends, and that is as it should be.
#[test]
fn a_group_deleted_under_its_running_container_leaves_no_error() {
    let host = Host::started();
    host.json(&["groups", "create", "--name", "Second"]);
    assert_eq!(host.run(&["chat", "--to", "second", "hello"]).code, Some(0));
    let container = host.container();
    let refused = host.run(&["groups", "delete", "second"]);
    assert!(refused.code == Some(1) && refused.stderr.contains("--cascade"), "{refused:?}");
    assert_eq!(host.container(), container, "nothing happened to it");

    assert_eq!(host.json(&["groups", "delete", "second", "--cascade"])["deleted"], true);
    host.wait_log("Container ended", 1);
    wait_for("its container to be removed", &[], || host.containers().is_empty().then_some(()));
    // The thread that looks after containers is done with that one when it has started another.
    assert!(host.chat("hello").contains("Hello!"));
    assert_eq!(host.events().started(2).len(), 2);
    host.assert_no_complaint();
}

/// A session for all chats has none of its own; who waits in one of them still hears of the end.
#[test]
fn a_chat_with_an_agent_that_has_one_session_for_all_ends_with_its_answer() {
    let host = Host::started();
    let wirings = host.json(&["wirings", "list"]);
    host.json(&["wirings", "update", wirings[0]["id"].as_str().unwrap(), "--session-mode", "agent-shared"]);
    let output = host.run(&["chat", "--timeout", "10", "hello"]);
    assert!(output.stdout.contains("Hello!"), "{output:?}");
    assert_eq!(output.code, Some(0), "{output:?}");
    host.assert_no_complaint();
}
