//! What is sent, and what is not, for texts as models write them.

use super::*;
use crate::destinations::tests::{one, three};
use proptest::prelude::*;

fn to(name: &str, text: &str) -> Addressed {
    Addressed { to: name.into(), text: text.into() }
}

fn parsed(text: &str) -> (Vec<Addressed>, String) {
    let reply = Reply::parse(text);
    (reply.messages, reply.bare)
}

#[test]
fn blocks_are_taken_out_of_the_text() {
    assert_eq!(
        parsed("Thinking.\n<message to=\"a\">one\ntwo</message>\nmore <message to='b' >three</message>"),
        (vec![to("a", "one\ntwo"), to("b", "three")], "Thinking.\n\nmore".into())
    );
    assert_eq!(parsed("<message to=\"a\">  </message>"), (vec![], String::new()));
}

#[test]
fn markup_in_code_is_text() {
    for text in [
        "```\n<message to=\"a\">x</message>\n```",
        "~~~xml\n<internal>x</internal>\n~~~",
        "Write `<message to=\"a\">x</message>` for that.",
        "Write ``<internal> ` </internal>`` for that.",
        "````\n```\n<message to=\"a\">x</message>\n````",
        "text\n```\n<message to=\"a\">never closed</message>",
    ] {
        assert_eq!(parsed(text), (vec![], text.into()));
    }
}

#[test]
fn code_inside_a_block_may_show_the_end_of_one() {
    assert_eq!(
        parsed("<message to=\"a\">Like this:\n```\n</message>\n```\nend</message>rest"),
        (vec![to("a", "Like this:\n```\n</message>\n```\nend")], "rest".into())
    );
}

#[test]
fn a_fence_may_touch_the_tags_of_its_block() {
    assert_eq!(
        parsed("<message to=\"a\">```rust\nfn x() {}\n```</message>\n<message to=\"b\">y</message>"),
        (vec![to("a", "```rust\nfn x() {}\n```"), to("b", "y")], String::new())
    );
}

#[test]
fn a_stray_backtick_hides_nothing_on_later_lines() {
    assert_eq!(parsed("a ` b\n<message to=\"a\">x ` y</message>"), (vec![to("a", "x ` y")], "a ` b".into()));
}

#[test]
fn unclosed_blocks_end_with_the_next_one_or_the_text() {
    assert_eq!(
        parsed("<message to=\"a\">one <message to=\"b\">two"),
        (vec![to("a", "one"), to("b", "two")], String::new())
    );
    assert_eq!(
        parsed("<message to=\"a\">```\nopen code</message> rest"),
        (vec![to("a", "```\nopen code")], "rest".into())
    );
}

#[test]
fn internal_parts_are_never_sent() {
    assert_eq!(
        parsed("<internal>plan <message to=\"a\">no</message></internal>yes<internal>again</internal>!"),
        (vec![], "yes!".into())
    );
    assert_eq!(
        parsed("<message to=\"a\">hi <internal>secret</internal>there</message>"),
        (vec![to("a", "hi there")], String::new())
    );
    assert_eq!(parsed("shown <internal>never closed\nat all"), (vec![], "shown".into()));
    assert_eq!(
        parsed("<message to=\"a\">hi <internal>never closed</message> bare"),
        (vec![to("a", "hi")], "bare".into())
    );
}

#[test]
fn what_is_no_tag_of_ours_stays() {
    for text in ["<message>x", "<message to=\"a\"/>", "<messages to=\"a\">", "<b>x</b> a < b", "<message to=a>"] {
        assert_eq!(parsed(text), (vec![], text.into()));
    }
}

fn outcome(text: &str, destinations: &Destinations) -> Outcome {
    route(Reply::parse(text), destinations, &Sent::default())
}

#[test]
fn bare_text_goes_to_the_only_destination_unless_something_else_was_sent() {
    assert_eq!(outcome("hello", &one()), Outcome { sends: vec![to("family", "hello")], nudge: None });
    assert_eq!(
        outcome("note <message to=\"family\">hello</message>", &one()),
        Outcome { sends: vec![to("family", "hello")], nudge: None }
    );
    let mut sent = Sent::default();
    sent.other();
    assert_eq!(route(Reply::parse("done"), &one(), &sent), Outcome::default());
}

#[test]
fn with_several_destinations_bare_text_is_a_scratchpad_with_one_nudge() {
    let nothing = outcome("hello", &three());
    assert_eq!(nothing.sends, vec![]);
    assert!(nothing.nudge.unwrap().contains("\"family\", \"ops\", \"work\""));
    let some = outcome("thinking <message to=\"work\">x</message>", &three());
    assert_eq!(some, Outcome { sends: vec![to("work", "x")], nudge: None });
}

#[test]
fn silence_is_an_answer() {
    assert_eq!(outcome("", &three()), Outcome::default());
    assert_eq!(outcome("<internal>nothing to say</internal>", &one()), Outcome::default());
}

#[test]
fn unknown_names_are_dropped_and_the_agent_is_told() {
    let result = outcome("<message to=\"mum\">x</message><message to=\"Work\">y</message>", &three());
    assert_eq!(result.sends, vec![to("work", "y")]);
    assert!(result.nudge.unwrap().contains("no destination called \"mum\""));
    assert_eq!(outcome("<message to=\"mum\">x</message>", &one()).sends, vec![]);
}

#[test]
fn the_same_text_is_sent_once_in_a_turn() {
    let mut sent = Sent::default();
    sent.text("work", "done\n");
    let text = "<message to=\"work\">done</message><message to=\"family\">done</message>";
    let again = format!("{text}{text}");
    let expected = Outcome { sends: vec![to("family", "done")], nudge: None };
    assert_eq!(route(Reply::parse(&again), &three(), &sent), expected);
}

#[test]
fn texts_of_one_turn_are_one_reply() {
    let reply = Reply::of(&["a".into(), "<message to=\"x\">m</message>".into(), "b".into()]);
    assert_eq!(reply, Reply { messages: vec![to("x", "m")], bare: "a\n\nb".into() });
}

proptest! {
    #[test]
    fn no_text_panics_and_plain_text_is_kept(text in "[a-z`~<>/ \n]{0,60}|.{0,60}") {
        let reply = Reply::parse(&text);
        if !text.contains("<message") && !text.contains("</message>") && !text.contains("internal>") {
            prop_assert_eq!(reply.bare, text.trim());
        }
    }

    #[test]
    fn tagged_text_in_any_order_never_leaks_what_is_internal(
        parts in prop::collection::vec(prop::sample::select(vec![
            "<internal>", "</internal>", "<message to=\"a\">", "</message>", "```\n", "\n", "`", "word ",
        ]), 0..12),
        tail in "[a-z]{1,4}",
    ) {
        let text = format!("{}<internal>SECRET{tail}", parts.concat().replace('`', ""));
        let reply = Reply::parse(&text);
        prop_assert!(!reply.bare.contains("SECRET"));
        prop_assert!(reply.messages.iter().all(|m| !m.text.contains("SECRET")));
    }
}
