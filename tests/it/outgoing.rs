//! What an agent sends with tools, seen by whoever sits at the terminal.

use std::fs;

use serde_json::Value;

use crate::support::{Host, texts};

fn line<'l>(lines: &'l [Value], kind: &str) -> &'l Value {
    lines.iter().find(|l| l["type"] == kind).unwrap_or_else(|| panic!("no {kind} in {lines:#?}"))
}

#[test]
fn files_signs_changes_and_cards_are_seen_at_the_terminal() {
    let host = Host::started();
    let mut client = host.client();
    let mut say = |id: &str, text: &str| {
        client.say(id, text);
        client.turn(id)
    };
    let lines = say("m1", "send me a file");
    assert_eq!(line(&lines, "file")["name"], "demo.txt");
    let lines = say("m2", "react to that");
    assert_eq!(line(&lines, "reaction")["messageId"], "m2");
    let lines = say("m3", "edit that");
    let (text, edit) = (line(&lines, "text"), line(&lines, "edit"));
    assert_eq!(edit["messageId"], text["id"], "the change names what it changes");
    assert_ne!(edit["text"], text["text"]);
    let lines = say("m4", "show me a card");
    let card = texts(&lines);
    assert!(card[0].starts_with("A card of the demo provider\n\n") && card[0].contains("You said: show me a card"));
    host.wait_completed(4);
    host.assert_no_complaint();

    let printed = host.chat("send me a file");
    let path = printed.lines().find_map(|l| l.strip_prefix("[file] ")).unwrap_or_else(|| panic!("{printed}"));
    assert!(fs::read_to_string(path).unwrap().starts_with("A file from the demo provider, turn 5."));
    assert_eq!(host.chat("react to that").trim(), "[reaction] 👍");
    let printed = host.chat("edit that");
    assert_eq!(printed.lines().map(|l| l.starts_with("[edited] ")).collect::<Vec<_>>(), [false, true], "{printed}");
    assert!(host.chat("show me a card").starts_with("A card of the demo provider"));
}
