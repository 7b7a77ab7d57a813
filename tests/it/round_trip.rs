//! A message in, an answer out.

use std::fs;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::support::process::run;
use crate::support::{Host, docker::docker, sqlite, texts};

#[test]
fn a_piped_hello_prints_the_answer() {
    let host = Host::started();
    let output = run(&mut host.nanoclaw(&["chat"]), "hello\n");
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""));
    assert!(output.stdout.starts_with("Hello! I am the demo provider (turn 1)."), "{output:?}");
    assert_eq!(host.inbound().len(), 1);
    assert_eq!(docker(&["inspect", "--format", "{{.State.Running}}", &host.container()]), "true");
    host.assert_no_complaint();
}

#[test]
fn a_conversation_goes_on_in_one_container() {
    let host = Host::started();
    for turn in 1..=3 {
        assert!(host.chat(&format!("message {turn}")).contains(&format!("turn {turn}. You said: \"message {turn}\"")));
    }
    assert_eq!(host.events().started(1).len(), 1);
    host.wait_completed(3);
}

#[test]
fn piped_lines_are_one_message() {
    let host = Host::started();
    let output = run(&mut host.nanoclaw(&["chat"]), "first line\n\n  second line\n");
    assert!(output.stdout.contains("You said: \"first line\n\n  second line\""), "{output:?}");
    host.wait_completed(1);
}

#[test]
fn files_with_hostile_names_are_confined_and_readable_in_the_container() {
    let host = Host::started();
    let mut client = host.client();
    let long = format!("{}.png", "x".repeat(300));
    let names = [
        "../../../etc/passwd",
        "/etc/shadow",
        "photo.jpg",
        "photo.jpg",
        ".env",
        "a\\..\\b.txt",
        "n\u{0}l\n.md",
        "",
        &long,
    ];
    let content = |i: usize| format!("content {i} \u{1f980}\n");
    let attachments: Vec<Value> = (0..)
        .zip(names)
        .map(|(i, name)| json!({"name": name, "mimeType": "image/png", "data": BASE64.encode(content(i))}))
        .collect();
    client.send(&json!({"id": "m1", "text": "what is this?", "attachments": attachments}));
    let answer = texts(&client.turn("m1"));
    assert!(answer[0].contains("what is this?"), "the text arrives: {answer:?}");

    let dir = host.dir();
    let row = sqlite::column(&dir.inbound_db(), "SELECT content FROM messages_in").unwrap();
    let row: Value = serde_json::from_str(&row[0]).unwrap();
    let kept = row["attachments"].as_array().unwrap();
    assert_eq!(kept.len(), names.len());
    let mut paths = Vec::new();
    for (i, attachment) in kept.iter().enumerate() {
        let path = attachment["localPath"].as_str().unwrap_or_else(|| panic!("{attachment}"));
        let (folder, name) = path.rsplit_once('/').unwrap();
        assert_eq!(folder, "inbox/m1:main", "confined: {path}");
        assert!(!name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0', '\n']), "{name:?}");
        assert_eq!(fs::read_to_string(dir.root().join(path)).unwrap(), content(i), "{path}");
        let inside = docker(&["exec", &host.container(), "cat", &format!("/workspace/{path}")]);
        assert_eq!(inside, content(i).trim(), "{path}");
        assert_eq!(attachment["size"], content(i).len());
        paths.push(path.to_owned());
    }
    paths.sort();
    paths.dedup();
    assert_eq!(paths.len(), names.len(), "each has its own file: {paths:?}");
}

#[test]
fn a_picture_without_a_word_is_a_message() {
    let host = Host::started();
    let mut client = host.client();
    client.send(&json!({"id": "m1", "attachments": [{"name": "cat.png", "data": BASE64.encode("meow")}]}));
    assert_eq!(texts(&client.turn("m1")).len(), 1);
}

#[test]
fn a_file_of_the_agent_arrives_with_its_content() {
    let host = Host::started();
    let mut client = host.client();
    client.say("m1", "send me a file");
    let lines = client.turn("m1");
    let file = lines.iter().find(|l| l["type"] == "file").unwrap_or_else(|| panic!("no file in {lines:#?}"));
    assert_eq!(file["name"], "demo.txt");
    let bytes = BASE64.decode(file["data"].as_str().unwrap()).unwrap();
    let expected = "A file from the demo provider, turn 1.\nYou said: send me a file\n";
    assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    assert_eq!(texts(&lines), ["Here is the file you asked for."]);

    let printed = host.chat("send me a file");
    let path = printed.lines().find_map(|l| l.strip_prefix("[file] ")).unwrap_or_else(|| panic!("{printed}"));
    assert!(fs::read_to_string(path).unwrap().starts_with("A file from the demo provider, turn 2."));
}

#[test]
fn a_reaction_names_the_message_it_is_for() {
    let host = Host::started();
    let mut client = host.client();
    client.ask("m1", "something else first");
    client.say("the-one", "react to that");
    let lines = client.turn("the-one");
    let reaction = lines.iter().find(|l| l["type"] == "reaction").unwrap_or_else(|| panic!("{lines:#?}"));
    assert_eq!((&reaction["messageId"], &reaction["emoji"]), (&json!("the-one"), &json!("👍")));
    assert!(texts(&lines).is_empty());
}

#[test]
fn a_line_that_is_not_understood_is_refused_and_the_next_one_taken() {
    let host = Host::started();
    let mut client = host.client();
    client.send(&json!({"id": "m1", "text": "x", "bcc": "everybody"}));
    let error = client.next();
    assert!(error["type"] == "error" && error["message"].as_str().unwrap().contains("bcc"), "{error}");
    assert_eq!(client.ask("m2", "hello").len(), 1);
    assert_eq!(host.inbound().len(), 1);
}

#[test]
fn the_same_message_twice_is_answered_once_and_another_text_under_its_id_too() {
    let host = Host::started();
    let mut client = host.client();
    client.ask("m1", "one");
    client.say("m1", "one");
    client.accepted("m1");
    let other = client.ask("m1", "two");
    assert_eq!(other.len(), 1, "only the new text is answered: {other:?}");
    assert!(other[0].contains("\"two\""));
    let ids: Vec<String> = host.inbound().into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, ["m1:main", "m1:main#2"]);
}

/// Two clients at once, 50 messages: each is completed once, each answered once, in the order in
/// which they were written down.
#[test]
fn a_burst_is_answered_once_each_and_in_order() {
    const EACH: usize = 25;
    let host = Host::started();
    let mut clients = [host.client(), host.client()];
    for n in 0..EACH {
        for (c, client) in clients.iter_mut().enumerate() {
            client.say(&format!("m{c}-{n}"), &format!("burst {c}-{n}."));
        }
    }
    let mut heard = Vec::new();
    while heard.len() < 2 * EACH {
        heard.push(clients[0].text());
    }
    heard.extend(texts(&clients[0].turn(&last_id(&host))));
    host.wait_completed(2 * EACH);

    let dir = host.dir();
    let written =
        sqlite::column(&dir.inbound_db(), "SELECT json_extract(content, '$.text') FROM messages_in ORDER BY seq");
    let said = |text: &String| text.split('"').nth(1).map(str::to_owned);
    let answered: Vec<String> = heard.iter().filter_map(said).collect();
    assert_eq!(answered, written.unwrap(), "one answer each, in order");
    for c in 0..2 {
        let order: Vec<&String> = answered.iter().filter(|a| a.starts_with(&format!("burst {c}-"))).collect();
        let expected: Vec<String> = (0..EACH).map(|n| format!("burst {c}-{n}.")).collect();
        assert_eq!(order, expected.iter().collect::<Vec<_>>(), "each client's own order");
    }
    let seqs: Vec<i64> = sqlite::column(&dir.inbound_db(), "SELECT seq FROM messages_in ORDER BY seq")
        .unwrap()
        .iter()
        .map(|s| s.parse().unwrap())
        .collect();
    assert!(seqs.iter().all(|s| s % 2 == 0), "{seqs:?}");
    let ours = sqlite::column(&dir.outbound_db(), "SELECT seq FROM messages_out WHERE seq % 2 = 0").unwrap();
    assert!(ours.is_empty(), "{ours:?}");
    assert_eq!(host.events().started(1).len(), 1);
    host.assert_no_complaint();
}

/// The terminal's id of the last message written down.
fn last_id(host: &Host) -> String {
    let id = host.inbound().pop().unwrap().0;
    id.strip_suffix(":main").unwrap().to_owned()
}
