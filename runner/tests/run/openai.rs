//! The `openai` provider against a strict stand-in for a chat-completions endpoint, in the manner of four servers.

use std::fs;

use nanoclaw_session::content::{Attachment, ChatIn};
use nanoclaw_session::row::{AckStatus, NewMessageIn};
use serde_json::{Value, json};

use crate::chat_api::{ChatApi, DIALECTS, Dialect, Request, Script};
use crate::session::{Runner, Session, message, now};

/// A session with the openai provider, and the API behind its gateway's socket.
fn session(dialect: Dialect) -> (Session, ChatApi) {
    let session = Session::new();
    session.configure(|c| {
        c.provider = "openai".into();
        c.model = Some("some-model".into());
    });
    let api = ChatApi::on_socket(&session.path("gateway.sock"), dialect);
    (session, api)
}

fn start(session: &Session, api: &ChatApi) -> Runner {
    session.start_with(&[("NANOCLAW_GATEWAY", api.address()), ("NANOCLAW_GATEWAY_TOKEN", "token-1")])
}

/// What people were told.
fn told(session: &Session) -> Vec<String> {
    session.texts().into_iter().filter(|text| !text.is_empty()).collect()
}

/// Says it and waits for the answer.
#[track_caller]
fn ask(session: &Session, id: &str, text: &str) -> String {
    session.say(id, text);
    session.wait_ack(id, AckStatus::Completed);
    told(session).pop().unwrap()
}

fn roles(request: &Request) -> Vec<String> {
    request.messages().into_iter().map(|(role, _)| role).collect()
}

fn status(code: u16, error: Value) -> Script {
    Script::Status { code, error, retry_after: None }
}

#[test]
fn every_server_s_answer_is_read_and_a_conversation_survives_the_container() {
    for dialect in DIALECTS {
        let (session, api) = session(dialect);
        let runner = start(&session, &api);
        assert_eq!(ask(&session, "m1", "my name is Ann"), "answer 1", "{dialect:?}");
        let first = api.request();
        assert_eq!(first.headers["authorization"], "Bearer token-1");
        assert_eq!((&first.body["model"], &first.body["reasoning_effort"]), (&json!("some-model"), &Value::Null));
        assert!(first.last().contains("my name is Ann"));
        runner.kill();

        let _runner = start(&session, &api);
        assert_eq!(ask(&session, "m2", "who am I?"), "answer 2", "{dialect:?}");
        let second = api.request();
        assert_eq!(roles(&second), ["user", "assistant", "user"]);
        assert_eq!(second.messages()[1].1, "answer 1");
        let cost = ask(&session, "m3", "/cost");
        let known = cost.contains("some-model: 12 in, 10 out, 8 read from the cache");
        assert_eq!(known, dialect != Dialect::LlamaCpp, "{dialect:?}: {cost}");
    }
}

#[test]
fn every_server_s_calls_are_answered_one_by_one() {
    for dialect in DIALECTS {
        let (session, api) = session(dialect);
        let _runner = start(&session, &api);
        let list = |text: &str| json!({"items": [{"text": text, "status": "open"}]}).to_string();
        let calls = vec![("todo", list("a")), ("functions.nothing", "{}".into()), ("todo", list("ü"))];
        api.script(Script::Call { text: "I look.", calls });
        api.script(Script::Call { text: "", calls: vec![("todo", "buy milk".into())] });
        assert_eq!(ask(&session, "m1", "plan"), "answer 1", "{dialect:?}");
        api.request();
        let second = api.request();
        assert_eq!(roles(&second), ["user", "assistant", "tool", "tool", "tool"], "{dialect:?}");
        let results = second.messages();
        assert_eq!(results[1].1, "I look.");
        assert!(results[3].1.contains("There is no tool \"functions_nothing\""), "{dialect:?}: {results:?}");
        for done in [&results[2].1, &results[4].1] {
            assert!(!done.starts_with("Error"), "{dialect:?}: {done}");
        }
        let mended = api.request().last();
        assert!(mended.starts_with("Error") && mended.contains("buy milk"), "{dialect:?}: {mended}");
        assert_eq!(ask(&session, "m2", "and now?"), "answer 2", "{dialect:?}: the same history once more");
        assert_eq!(roles(&api.request()).len(), 9);
        assert_eq!(api.requests_left(), 0);
    }
}

#[test]
fn what_passes_is_tried_again_and_the_user_sees_only_the_answer() {
    let (session, api) = session(Dialect::OpenRouter);
    let _runner = start(&session, &api);
    let troubles = [
        status(503, json!({"message": "Loading model", "type": "unavailable_error", "code": 503})),
        Script::Status { code: 429, error: json!({"message": "slow down"}), retry_after: Some(1) },
        Script::Cut("half".into()),
        Script::ErrorEvent(json!({"message": "Provider returned error", "code": 502})),
    ];
    for (i, trouble) in troubles.into_iter().enumerate() {
        api.script(trouble);
        ask(&session, &format!("m{i}"), "hello");
        assert_eq!(api.request().body, api.request().body, "the same request again");
    }
    assert_eq!(told(&session), ["answer 1", "answer 2", "answer 3", "answer 4"]);
}

#[test]
fn a_first_token_that_is_late_is_waited_for_and_that_is_declared() {
    let (session, api) = session(Dialect::LlamaCpp);
    let _runner = start(&session, &api);
    api.script(Script::Late("at last".into()));
    session.say("m1", "hello");
    api.request();
    // The request may be here before the row is.
    session.wait_for("a declaration", || session.silent_until().filter(|t| *t > now()));
    assert_eq!(session.ack("m1"), Some(AckStatus::Processing));
    api.release();
    session.wait_ack("m1", AckStatus::Completed);
    assert_eq!(told(&session), ["at last"]);
}

#[test]
fn what_never_passes_is_a_plain_sentence_and_leaves_no_trace_in_the_history() {
    let (session, api) = session(Dialect::OpenAi);
    let _runner = start(&session, &api);
    let error = |text: &str| json!({"message": text, "type": "t", "param": null, "code": null});
    for (i, (script, sentence)) in [
        (status(401, error("Incorrect API key")), "The model refused the key (Incorrect API key)."),
        (status(402, error("no credits")), "The model's provider wants to be paid first (no credits)."),
        (
            status(429, json!({"message": "quota", "type": "insufficient_quota", "code": "insufficient_quota"})),
            "The model's provider wants to be paid first (quota).",
        ),
        (status(404, error("model \"some-model\" not found")), "The model was not found (model \"some-model\""),
        (status(400, error("bad")), "The model rejected the request: bad"),
        (status(500, error("image input is not supported")), "The model takes no pictures, or not this one"),
        (Script::End("half".into(), "content_filter"), "The model declined to answer that."),
    ]
    .into_iter()
    .enumerate()
    {
        api.script(script);
        let id = format!("m{i}");
        session.say(&id, "hello");
        api.request();
        session.wait_ack(&id, AckStatus::Failed);
        assert!(told(&session)[i].starts_with(sentence), "{:?}", told(&session));
    }
    session.say("last", "and now?");
    assert_eq!(api.request().messages().len(), 1);
    session.wait_ack("last", AckStatus::Completed);
    assert_eq!(api.requests_left(), 0);
}

#[test]
fn an_answer_that_reached_its_longest_length_is_gone_on_with() {
    let (session, api) = session(Dialect::Ollama);
    let _runner = start(&session, &api);
    api.script(Script::End("one, ".into(), "length"));
    api.script(Script::Say("two".into()));
    assert_eq!(ask(&session, "m1", "count"), "one, two");
}

#[test]
fn a_conversation_that_does_not_fit_is_shortened() {
    let (session, api) = session(Dialect::LlamaCpp);
    let _runner = start(&session, &api);
    ask(&session, "m1", "my name is Ann");
    api.request();
    let error = json!({"code": 400, "message": "request (4390 tokens) exceeds the available context size (4096 tokens)",
                       "type": "exceed_context_size_error", "n_prompt_tokens": 4390, "n_ctx": 4096});
    api.script(status(400, error));
    api.script(Script::Say("Her name is Ann.".into()));
    api.script(Script::Say("You are Ann.".into()));
    assert_eq!(ask(&session, "m2", "who am I?"), "You are Ann.");
    let (refused, summary, last) = (api.request(), api.request(), api.request());
    assert!(refused.last().contains("who am I?") && summary.last().contains("my name is Ann"));
    assert!(last.messages()[0].1.contains("Her name is Ann."), "{:?}", last.messages());
}

#[test]
fn a_picture_is_seen_and_a_pdf_is_told_of() {
    let (session, api) = session(Dialect::OpenAi);
    let _runner = start(&session, &api);
    let inbox = session.dir.inbox("m1");
    fs::create_dir_all(&inbox).unwrap();
    fs::write(inbox.join("cat.png"), b"\x89PNG\r\n\x1a\nnot really").unwrap();
    fs::write(inbox.join("paper.pdf"), b"%PDF-1.7 not really").unwrap();
    let attachment = |name: &str| Attachment {
        name: name.into(),
        local_path: Some(format!("inbox/m1/{name}")),
        ..Attachment::default()
    };
    let attachments = vec![attachment("cat.png"), attachment("paper.pdf")];
    let chat = ChatIn { text: "look".into(), attachments, ..ChatIn::default() };
    session.insert(&NewMessageIn { content: chat.to_json(), ..message("m1", "") });
    let request = api.request();
    let parts = request.body["messages"].as_array().unwrap().last().unwrap()["content"].as_array().unwrap().clone();
    let kinds: Vec<&str> = parts.iter().map(|part| part["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["text", "image_url", "text"]);
    assert!(parts[2]["text"].as_str().unwrap().contains("paper.pdf; read it with your tools"), "{}", parts[2]);
    session.wait_ack("m1", AckStatus::Completed);
}
