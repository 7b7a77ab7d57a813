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
use crate::tools::{Context, Outcome, Output, Part, Tool};

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
            let context = Context { stop, events: events.clone() };
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
    let Some(method) = request["method"].as_str() else {
        // An answer to something we never asked is none of our business.
        let is_answer = request.get("result").or(request.get("error")).is_some();
        return (!is_answer).then(|| rpc::error(id, rpc::INVALID_REQUEST, "this is no request"));
    };
    if id.is_null() {
        return None;
    }
    let revision = params["_meta"][rpc::META_VERSION].as_str();
    if revision.is_some_and(|revision| revision != rpc::VERSION) {
        let mut error = rpc::error(id, rpc::UNSUPPORTED_VERSION, "this revision is not supported");
        error["error"]["data"] = json!({"supported": [rpc::VERSION], "requested": revision});
        return Some(error);
    }
    let capabilities = json!({"tools": {}});
    let mut result = match method {
        "initialize" => {
            let wanted = params["protocolVersion"].as_str();
            let known = rpc::HANDSHAKE_VERSIONS.into_iter().find(|version| Some(*version) == wanted);
            json!({"protocolVersion": known.unwrap_or(rpc::HANDSHAKE_VERSIONS[0]), "capabilities": capabilities,
                "serverInfo": rpc::implementation()})
        }
        "server/discover" => json!({"supportedVersions": [rpc::VERSION], "capabilities": capabilities}),
        "ping" => json!({}),
        "tools/list" => json!({"tools": tools.iter().map(|tool| described(tool.as_ref())).collect::<Vec<_>>()}),
        "tools/call" => match tools.iter().find(|tool| params["name"] == *tool.spec().name) {
            Some(tool) => result(tool.call(params.get("arguments").unwrap_or(&json!({})), context)),
            None => return Some(rpc::error(id, rpc::INVALID_PARAMS, "there is no such tool")),
        },
        _ => return Some(rpc::error(id, rpc::METHOD_NOT_FOUND, "there is no such method")),
    };
    if revision.is_some() || method == "server/discover" {
        result["resultType"] = "complete".into();
        if method != "tools/call" {
            (result["ttlMs"], result["cacheScope"]) = (0.into(), "private".into());
        }
        result["_meta"] = json!({"io.modelcontextprotocol/serverInfo": rpc::implementation()});
    }
    Some(rpc::result(id, result))
}

fn described(tool: &dyn Tool) -> Value {
    let spec = tool.spec();
    let reads = tool.effect() == crate::tools::Effect::Reads;
    json!({"name": spec.name, "description": spec.description, "inputSchema": spec.schema,
        "annotations": {"readOnlyHint": reads}})
}

/// What a call came to, as the protocol says it.
fn result(output: Output) -> Value {
    let content: Vec<Value> = output.parts.iter().map(block).collect();
    json!({"content": content, "isError": output.outcome == Outcome::Failed})
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
