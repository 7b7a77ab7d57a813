//! The gateway as a container sees it: what it passes on, with which credential, and what it refuses.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use crate::support::Host;
use crate::support::docker::docker;

/// A request as the model's API gets it: its first line, and its headers in lower case.
type Seen = (String, BTreeMap<String, String>);

/// A model's API that answers everything with one event and tells what it was asked.
struct Upstream {
    address: String,
    seen: Receiver<Seen>,
}

impl Upstream {
    fn new() -> Upstream {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (tell, seen) = channel();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut stream = BufReader::new(stream);
                let mut lines = stream.by_ref().lines().map_while(Result::ok).take_while(|line| !line.is_empty());
                let first = lines.next().unwrap_or_default();
                let headers: BTreeMap<String, String> = lines
                    .filter_map(|line| line.split_once(": ").map(|(n, v)| (n.to_ascii_lowercase(), v.to_owned())))
                    .collect();
                let length = headers.get("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
                stream.read_exact(&mut vec![0; length]).unwrap();
                let answer = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-ratelimit-remaining-requests: 9\r\n\
                              set-cookie: c=1\r\nconnection: close\r\n\r\ndata: {}\n\n";
                stream.get_mut().write_all(answer.as_bytes()).unwrap();
                if tell.send((first, headers)).is_err() {
                    return;
                }
            }
        });
        Upstream { address, seen }
    }

    #[track_caller]
    fn seen(&self) -> Seen {
        self.seen.recv_timeout(Duration::from_secs(30)).expect("a request")
    }
}

/// Asks the gateway from inside the container: the answer with its head.
#[track_caller]
fn ask(container: &str, options: &str, path: &str) -> String {
    let socket = "curl -sS -i --path-as-is --max-time 20 --unix-socket /run/nanoclaw/gateway.sock";
    docker(&["exec", container, "sh", "-c", &format!("{socket} {options} 'http://gateway{path}'")])
}

const KEY: &str = "-H \"x-api-key: $NANOCLAW_GATEWAY_TOKEN\" -d '{}'";
const BEARER: &str = "-H \"Authorization: Bearer $NANOCLAW_GATEWAY_TOKEN\" -d '{}'";

#[test]
fn every_kind_of_credential_reaches_its_model_and_the_sessions_token_reaches_none() {
    let upstream = Upstream::new();
    let mut host = Host::new();
    host.set("NANOCLAW_PROVIDER", "demo");
    host.set("ANTHROPIC_BASE_URL", &upstream.address);
    host.set("OPENAI_BASE_URL", format!("{}/v1/", upstream.address));
    host.start();
    host.chat("hello");
    let container = host.container();
    let token = docker(&["exec", &container, "sh", "-c", "echo $NANOCLAW_GATEWAY_TOKEN"]);
    let messages = "POST /v1/messages?beta=true HTTP/1.1";
    let chat = "POST /v1/chat/completions HTTP/1.1";

    let unset = ask(&container, KEY, "/v1/messages");
    assert!(unset.starts_with("HTTP/1.1 401") && unset.contains("ANTHROPIC_API_KEY"), "{unset}");
    for (setting, asks, path, line, header, sent) in [
        ("ANTHROPIC_API_KEY", BEARER, "/v1/messages?beta=true", messages, "x-api-key", "s3cret"),
        ("ANTHROPIC_AUTH_TOKEN", KEY, "/v1/messages?beta=true", messages, "authorization", "Bearer s3cret"),
        ("CLAUDE_CODE_OAUTH_TOKEN", KEY, "/v1/messages?beta=true", messages, "authorization", "Bearer s3cret"),
        ("OPENAI_API_KEY", BEARER, "/v1/chat/completions", chat, "authorization", "Bearer s3cret"),
        ("NONE", BEARER, "/v1/chat/completions", chat, "authorization", ""),
    ] {
        host.sigterm();
        host.set(setting, "s3cret");
        host.start();
        let answer = ask(&container, &format!("{asks} -H 'anthropic-beta: fine-2025-01-01' -H 'cookie: c'"), path);
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("data: {}"), "{setting}: {answer}");
        assert!(answer.contains("x-ratelimit-remaining-requests: 9") && !answer.contains("set-cookie"), "{answer}");
        let (first, headers) = upstream.seen();
        assert_eq!((first.as_str(), headers.get(header).map_or("", String::as_str)), (line, sent), "{setting}");
        let oauth = setting == "CLAUDE_CODE_OAUTH_TOKEN";
        let betas = if oauth { "fine-2025-01-01,oauth-2025-04-20" } else { "fine-2025-01-01" };
        assert_eq!(headers["anthropic-beta"], betas, "{setting}");
        let credentials = ["x-api-key", "authorization"].iter().filter(|name| headers.contains_key(**name)).count();
        assert_eq!(credentials, usize::from(setting != "NONE"), "{headers:?}");
        assert!(!headers.contains_key("cookie") && !headers.values().any(|v| v.contains(&token)), "{headers:?}");
        host.unset(setting);
    }
    assert_eq!(host.logged("s3cret") + host.logged(&token), 0);
}

#[test]
fn what_is_no_model_request_is_refused_without_asking_anybody() {
    let upstream = Upstream::new();
    let mut host = Host::new();
    host.set("ANTHROPIC_API_KEY", "k");
    host.set("NANOCLAW_PROVIDER", "demo");
    host.set("ANTHROPIC_BASE_URL", &upstream.address);
    host.set("OPENAI_BASE_URL", &upstream.address);
    host.start();
    host.chat("hello");
    let container = host.container();
    for path in [
        "/",
        "/v1/models",
        "/v1/messages/",
        "/v1/messages/batches",
        "/v1/messages/../files",
        "/v1/messages?beta=true&x=1",
        "/v1/messages?x=1",
        "/v1/chat/completions/x",
        "/v1/embeddings",
        "//v1/messages",
    ] {
        let answer = ask(&container, KEY, path);
        assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("not_found_error"), "{path}: {answer}");
    }
    let get = ask(&container, "-X GET -H \"x-api-key: $NANOCLAW_GATEWAY_TOKEN\"", "/v1/messages");
    assert!(get.starts_with("HTTP/1.1 404"), "{get}");
    let head = "--head -H \"x-api-key: $NANOCLAW_GATEWAY_TOKEN\"";
    let both = ask(&container, &format!("{head} http://gateway/"), "/v1/messages");
    assert_eq!(both.matches("HTTP/1.1 404").count(), 2, "a ping leaves the connection in order: {both}");
    assert!(!both.contains("not_found_error"), "{both}");
    for stranger in ["-d '{}'", "-H 'x-api-key: guess' -d '{}'", "-H 'x-api-key: ' -H 'Authorization: Basic k' -d '{}'"]
    {
        let answer = ask(&container, stranger, "/v1/messages");
        assert!(answer.starts_with("HTTP/1.1 401"), "{stranger}: {answer}");
    }
    assert!(upstream.seen.try_recv().is_err(), "nothing of this reached the model's API");
}
