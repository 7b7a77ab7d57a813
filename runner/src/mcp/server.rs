//! Our tools, for the models of other programs: what [`answer`]s a request, and what [`serve`]s a pipe with it.

use std::collections::HashMap;
use std::fs;
use std::io::{self, BufRead, Write};
use std::sync::{Arc, Mutex};
use std::thread;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crossbeam_channel::{Sender, bounded};
use serde_json::{Value, json};

use super::{lock, rpc};
use crate::provider::{STACK_BYTES, TurnEvent};
use crate::stop::{self, Stopper};
use crate::tools::{Context, Effect, Outcome, Output, Part, Tool};

/// Calls that may wait for the one that runs.
const MAX_CALLS_WAITING: usize = 32;

/// Serves `tools` to whoever has started this process. What calls report besides their results is for nobody.
///
/// # Errors
/// As [`serve`], and no thread can be started.
pub fn stdio(tools: &[Arc<dyn Tool>]) -> io::Result<()> {
    let (events, reports) = bounded(MAX_CALLS_WAITING);
    thread::Builder::new().name("mcp-reports".into()).spawn(move || reports.iter().for_each(drop))?;
    serve(tools, io::stdin().lock(), io::stdout(), &events)
}

/// Serves `tools` until `input` ends: calls one after another, everything else at once. `events` hears what the
/// calls report.
///
/// # Errors
/// `input` or `output` fail.
pub fn serve(
    tools: &[Arc<dyn Tool>],
    mut input: impl BufRead,
    output: impl Write + Send,
    events: &Sender<TurnEvent>,
) -> io::Result<()> {
    let output = Mutex::new(output);
    let write = |message: Value| {
        let mut output = lock(&output);
        output.write_all(format!("{message}\n").as_bytes())?;
        output.flush()
    };
    // By the id of the request; taken out, a call stops.
    let calls: Mutex<HashMap<String, Stopper>> = Mutex::default();
    let (queue, waiting) = bounded::<(Value, Context)>(MAX_CALLS_WAITING);
    thread::scope(|scope| {
        let worker = thread::Builder::new().name("mcp-calls".into()).stack_size(STACK_BYTES);
        let worker = worker.spawn_scoped(scope, || {
            for (request, context) in waiting {
                // Who has cancelled a call expects no answer.
                let answer = context.stop.check().ok().and_then(|()| answer(tools, &request, &context));
                if lock(&calls).remove(&request["id"].to_string()).is_some() {
                    answer.map_or(Ok(()), write)?;
                }
            }
            Ok(())
        })?;
        let outcome = loop {
            let request = match rpc::read(&mut input) {
                Ok(Some(Ok(request))) => request,
                Ok(Some(Err(e))) => match write(rpc::error(&Value::Null, rpc::PARSE_ERROR, &e.to_string())) {
                    Ok(()) => continue,
                    Err(e) => break Err(e),
                },
                Ok(None) => break Ok(()),
                Err(e) => break Err(e),
            };
            let (stopper, stop) = stop::pair();
            let context = Context { stop, events: events.clone(), destinations: Arc::default() };
            let written = match (request["method"].as_str(), &request["id"]) {
                (Some("notifications/cancelled"), _) => {
                    lock(&calls).remove(&request["params"]["requestId"].to_string());
                    Ok(())
                }
                (Some("tools/call"), id) if !id.is_null() => {
                    let id = id.clone();
                    lock(&calls).insert(id.to_string(), stopper);
                    queue.try_send((request, context)).or_else(|_| {
                        lock(&calls).remove(&id.to_string());
                        write(rpc::error(&id, rpc::INVALID_REQUEST, "too many calls at once"))
                    })
                }
                _ => answer(tools, &request, &context).map_or(Ok(()), write),
            };
            if written.is_err() {
                break written;
            }
        };
        drop(queue);
        lock(&calls).clear();
        outcome.and(worker.join().unwrap_or_else(|_| Err(io::Error::other("a tool has failed"))))
    })
}

/// The answer to one message; `None` when it asks for none. Runs the tool when it is a call.
pub fn answer(tools: &[Arc<dyn Tool>], request: &Value, context: &Context) -> Option<Value> {
    let (id, params) = (&request["id"], &request["params"]);
    let method = request["method"].as_str().filter(|_| !id.is_null())?;
    let result = match method {
        "initialize" => {
            let wanted = params["protocolVersion"].as_str();
            let known = rpc::VERSIONS.into_iter().find(|version| Some(*version) == wanted);
            json!({"protocolVersion": known.unwrap_or(rpc::VERSIONS[0]), "capabilities": {"tools": {}},
                "serverInfo": rpc::implementation()})
        }
        "ping" => json!({}),
        "tools/list" => json!({"tools": tools.iter().map(|tool| described(tool.as_ref())).collect::<Vec<_>>()}),
        "tools/call" => match tools.iter().find(|tool| params["name"] == *tool.spec().name) {
            Some(tool) => {
                let Output { parts, outcome } = tool.call(params.get("arguments").unwrap_or(&json!({})), context);
                json!({"content": parts.iter().map(block).collect::<Vec<_>>(), "isError": outcome == Outcome::Failed})
            }
            None => return Some(rpc::error(id, rpc::INVALID_PARAMS, "there is no such tool")),
        },
        _ => return Some(rpc::error(id, rpc::METHOD_NOT_FOUND, "there is no such method")),
    };
    Some(rpc::result(id, result))
}

fn described(tool: &dyn Tool) -> Value {
    let spec = tool.spec();
    json!({"name": spec.name, "description": spec.description, "inputSchema": spec.schema,
        "annotations": {"readOnlyHint": tool.effect() == Effect::Reads}})
}

fn block(part: &Part) -> Value {
    let (path, media_type) = match part {
        Part::Text(text) => return json!({"type": "text", "text": text}),
        Part::File { path, media_type } => (path, media_type),
    };
    match fs::read(path).map(|bytes| STANDARD.encode(bytes)) {
        Ok(data) if media_type.starts_with("image/") => json!({"type": "image", "data": data, "mimeType": media_type}),
        Ok(data) => json!({"type": "resource", "resource":
            {"uri": format!("file://{}", path.display()), "mimeType": media_type, "blob": data}}),
        Err(e) => json!({"type": "text", "text": format!("[{}: {e}]", path.display())}),
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;
    use crate::tools::Spec;

    /// Says what it was given; waits for its stop when it was given `"wait"`.
    struct Echo;

    impl Tool for Echo {
        fn spec(&self) -> Spec {
            Spec { name: "echo".into(), description: "says it".into(), schema: json!({"type": "object"}) }
        }

        fn effect(&self) -> Effect {
            Effect::Reads
        }

        fn deadline(&self, _: &Value) -> Duration {
            Duration::from_secs(1)
        }

        fn call(&self, input: &Value, context: &Context) -> Output {
            match input["say"].as_str() {
                Some("wait") => {
                    context.events.send(TurnEvent::Activity).unwrap();
                    context.stop.wait(Duration::from_secs(30)).unwrap_err();
                    Output::text("stopped")
                }
                Some(text) => Output::text(text),
                None => Output::failed("say what?"),
            }
        }
    }

    fn tools() -> [Arc<dyn Tool>; 1] {
        [Arc::new(Echo)]
    }

    /// What is answered to these requests, each of which is complete before the next.
    fn answers(requests: &[Value]) -> Vec<Value> {
        let (_stopper, stop) = stop::pair();
        let context = Context { stop, events: bounded(1).0, destinations: Arc::default() };
        requests.iter().filter_map(|request| answer(&tools(), request, &context)).collect()
    }

    fn request(id: impl Into<Value>, method: &str, params: Value) -> Value {
        json!({"jsonrpc": "2.0", "id": id.into(), "method": method, "params": params})
    }

    fn say(id: u64, text: &str) -> Value {
        request(id, "tools/call", json!({"name": "echo", "arguments": {"say": text}}))
    }

    #[test]
    fn a_client_is_greeted_in_its_own_revision_or_in_our_newest() {
        let hello = |version: &str| request(1, "initialize", json!({"protocolVersion": version}));
        let said = answers(&[hello("2025-06-18"), hello("1999-01-01")]);
        assert_eq!(said[0]["result"]["protocolVersion"], "2025-06-18");
        assert_eq!(said[1]["result"]["protocolVersion"], "2025-11-25");
        assert_eq!(said[0]["result"]["capabilities"], json!({"tools": {}}));
    }

    #[test]
    fn tools_are_listed_and_called() {
        let said = answers(&[
            request("l", "tools/list", json!({})),
            say(2, "hi"),
            request(3, "tools/call", json!({"name": "echo"})),
            request(4, "tools/call", json!({"name": "other"})),
            request(5, "ping", Value::Null),
        ]);
        assert_eq!(
            said[0]["result"]["tools"],
            json!([{"name": "echo", "description": "says it",
            "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": true}}])
        );
        assert_eq!(said[1]["result"], json!({"content": [{"type": "text", "text": "hi"}], "isError": false}));
        assert_eq!(said[2]["result"], json!({"content": [{"type": "text", "text": "say what?"}], "isError": true}));
        assert_eq!((&said[3]["id"], &said[3]["error"]["code"]), (&json!(4), &json!(-32602)));
        assert_eq!(said[4], json!({"jsonrpc": "2.0", "id": 5, "result": {}}));
    }

    #[test]
    fn an_unknown_request_is_refused_and_what_is_none_is_not_answered() {
        let said = answers(&[
            request(1, "server/discover", json!({})),
            json!({"id": 2}),
            json!([1]),
            json!({"jsonrpc": "2.0", "method": "notifications/new"}),
            json!({"jsonrpc": "2.0", "id": 3, "result": {}}),
        ]);
        assert_eq!(said.iter().map(|s| s["error"]["code"].clone()).collect::<Vec<_>>(), [-32601]);
    }

    #[test]
    fn a_picture_and_a_pdf_are_handed_over_with_their_content() {
        let tmp = tempfile::tempdir().unwrap();
        let part = |name: &str, media_type: &str| {
            fs::write(tmp.path().join(name), "x").unwrap();
            Part::File { path: tmp.path().join(name), media_type: media_type.into() }
        };
        let (picture, pdf) = (part("a", "image/png"), part("b", "application/pdf"));
        assert_eq!(block(&picture), json!({"type": "image", "data": "eA==", "mimeType": "image/png"}));
        assert_eq!(block(&pdf)["resource"]["blob"], "eA==");
        drop(tmp);
        assert_eq!(block(&picture)["type"], "text");
    }

    /// A client of a [`serve`] that runs.
    struct Client {
        to: UnixStream,
        from: BufReader<UnixStream>,
    }

    impl Client {
        fn send(&mut self, message: &Value) {
            writeln!(self.to, "{message}").unwrap();
        }

        fn hear(&mut self) -> Value {
            rpc::read(&mut self.from).unwrap().unwrap().unwrap()
        }
    }

    /// Talks to a server until its input ends; `talk` also gets what calls report.
    fn served(talk: impl FnOnce(&mut Client, &crossbeam_channel::Receiver<TurnEvent>)) -> io::Result<()> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let (events, reports) = bounded(8);
        thread::scope(|scope| {
            let input = BufReader::new(theirs.try_clone().unwrap());
            let server = scope.spawn(move || serve(&tools(), input, theirs, &events));
            let mut client = Client { to: ours.try_clone().unwrap(), from: BufReader::new(ours) };
            talk(&mut client, &reports);
            client.to.shutdown(std::net::Shutdown::Write).unwrap();
            server.join().unwrap()
        })
    }

    #[test]
    fn a_call_does_not_hold_up_others_and_can_be_cancelled() {
        let outcome = served(|client, reports| {
            client.send(&say(1, "wait"));
            reports.recv_timeout(Duration::from_secs(30)).unwrap();
            client.send(&say(2, "next"));
            client.send(&request(3, "ping", json!({})));
            assert_eq!(client.hear()["id"], 3);
            client.send(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}));
            let next = client.hear();
            assert_eq!((&next["id"], &next["result"]["content"][0]["text"]), (&json!(2), &json!("next")));
        });
        outcome.unwrap();
    }

    #[test]
    fn the_end_of_its_input_stops_a_server_in_the_middle_of_a_call() {
        let outcome = served(|client, reports| {
            client.send(&say(1, "wait"));
            reports.recv_timeout(Duration::from_secs(30)).unwrap();
        });
        outcome.unwrap();
    }

    #[test]
    fn what_is_no_json_is_answered_and_what_is_too_large_ends_it() {
        let outcome = served(|client, _| {
            client.to.write_all(b"{\n").unwrap();
            let answer = client.hear();
            assert_eq!((&answer["id"], &answer["error"]["code"]), (&Value::Null, &json!(-32700)));
            client.send(&request(1, "ping", json!({})));
            assert_eq!(client.hear()["result"], json!({}));
            client.send(&json!(vec![0; 100_000]));
        });
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
