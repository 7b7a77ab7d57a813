//! The credential gateway: the one socket a container may reach. It carries model traffic, never
//! messages.
//!
//! A container asks with its session's token; the gateway puts the real key in its place and
//! passes the request on to the model's API, Anthropic's or one of OpenAI's kind, and the answer
//! back as it comes, unbuffered. The key never enters a container, an argument list or a log line.
//!
//! Why it is a Unix socket, in a folder that is mounted: docs/ARCHITECTURE.md, "Decisions of ours".
//!
//! One listener thread, and a short-lived thread per connection, at most [`MAX_CONNECTIONS`].

mod http;

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use crate::channel::Stop;
use crate::config::{Credential, GatewaySettings, Scheme, Upstream};
use crate::home::listen;
use crate::store::Store;
use crate::thread::{self, pause, spawn_worker};
use crate::watch::{timespec, wait_readable};
use http::Request;

/// Name of the socket in the gateway's folder.
pub const SOCKET_NAME: &str = "gateway.sock";

/// Most requests under way at once.
const MAX_CONNECTIONS: usize = 64;
/// The pause after a connection that could not be taken.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// How long a container may take to send a request, or between two on one connection.
const REQUEST_DEADLINE: Duration = Duration::from_secs(120);
/// How long the model may take to its first byte; it may think for minutes.
const FIRST_BYTE_DEADLINE: Duration = Duration::from_secs(15 * 60);
/// How long a whole answer may take.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60 * 60);
/// The beta under which the Messages API takes a subscription's token.
/// Source: the Claude Code CLI's own requests.
const OAUTH_BETA: &str = "oauth-2025-04-20";

/// The listener's state.
pub struct Gateway {
    listener: UnixListener,
    shared: Arc<Shared>,
}

/// What connections share, read-only.
struct Shared {
    store: PathBuf,
    settings: GatewaySettings,
    agent: ureq::Agent,
}

impl Gateway {
    /// Opens the socket in `folder`.
    pub fn open(folder: &Path, store: &Path, settings: GatewaySettings) -> Result<Gateway> {
        // Any container user may connect; who asks is decided by the token. The home is closed to
        // everyone else.
        let listener = listen(&folder.join(SOCKET_NAME), 0o666)?;
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(Duration::from_secs(15)))
            .timeout_recv_response(Some(FIRST_BYTE_DEADLINE))
            .timeout_recv_body(Some(ANSWER_DEADLINE))
            .build()
            .new_agent();
        let shared = Shared { store: store.to_owned(), settings, agent };
        Ok(Gateway { listener, shared: Arc::new(shared) })
    }

    /// The thread's body: returns when told to stop. Requests under way end with the process.
    pub fn run(self, stop: &Stop) {
        if let Err(e) = self.serve(stop) {
            log::error!("The gateway stopped error={e}");
        }
    }

    fn serve(&self, stop: &Stop) -> io::Result<()> {
        use rustix::event::{PollFd, PollFlags, poll};
        loop {
            let mut fds = [PollFd::new(stop, PollFlags::IN), PollFd::new(&self.listener, PollFlags::IN)];
            match poll(&mut fds, thread::beat().map(timespec).as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            if !fds[0].revents().is_empty() {
                return Ok(());
            }
            if fds[1].revents().is_empty() {
                continue;
            }
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(e) => {
                    // No descriptors left, most likely: those under way give theirs back.
                    log::warn!("The gateway could not take a connection error={e}");
                    pause(ACCEPT_AGAIN);
                    continue;
                }
            };
            // Each connection holds one reference, and so do we.
            if Arc::strong_count(&self.shared) > MAX_CONNECTIONS {
                log::warn!("The gateway is full; a request was turned away");
                continue; // dropping it is the answer; the runner tries again
            }
            let shared = Arc::clone(&self.shared);
            let spawned = spawn_worker("gateway-request", move || {
                if let Err(e) = shared.connection(stream) {
                    log::debug!("A gateway connection ended error={e}");
                }
            });
            if let Err(e) = spawned {
                log::error!("No thread for a gateway request error={e}");
            }
        }
    }
}

impl Shared {
    /// Serves requests on one connection until either side closes it.
    fn connection(&self, mut stream: UnixStream) -> io::Result<()> {
        stream.set_read_timeout(Some(REQUEST_DEADLINE))?;
        stream.set_write_timeout(Some(REQUEST_DEADLINE))?;
        let mut buffer = Vec::new();
        while !buffer.is_empty() || wait_readable(&stream, REQUEST_DEADLINE)? {
            let Some(mut request) = http::read_head(&mut stream, &mut buffer)? else { return Ok(()) };
            // Before its body is read: a stranger's costs no memory.
            let session_id = match self.session_of(&request) {
                Ok(Some(session_id)) => session_id,
                Ok(None) => {
                    let why = "this session's token is not known";
                    return refuse(&mut stream, &request, 401, "authentication_error", why);
                }
                Err(e) => {
                    log::error!("The gateway could not check a token error={e}");
                    let why = "the gateway could not check the session's token";
                    return refuse(&mut stream, &request, 503, "api_error", why);
                }
            };
            http::read_body(&mut stream, &mut buffer, &mut request)?;
            self.answer(&session_id, &request, &mut stream)?;
        }
        Ok(())
    }

    fn answer(&self, session_id: &str, request: &Request, stream: &mut UnixStream) -> io::Result<()> {
        let Some((provider, upstream, path)) = self.route(request) else {
            let why = "the gateway passes on POST /v1/messages and /v1/chat/completions only";
            return refuse(stream, request, 404, "not_found_error", why);
        };
        if let Some(missing) = self.settings.missing(provider) {
            let why = format!("no model key is set: put {missing} into .env and restart nanoclaw");
            return refuse(stream, request, 401, "authentication_error", &why);
        }
        let headers = onward_headers(request, upstream.credential.as_ref());
        let onward = self.agent.post(format!("{}{path}", upstream.base_url));
        let onward = headers.into_iter().fold(onward, |onward, (name, value)| onward.header(name, value));
        match onward.send(&request.body[..]) {
            Ok(response) => {
                log::debug!("Model request session={session_id} status={}", response.status().as_u16());
                pass_back(response, stream)
            }
            Err(e) => {
                log::warn!("The model could not be reached session={session_id} error={e}");
                refuse(stream, request, 502, "api_error", &format!("the model could not be reached: {e}"))
            }
        }
    }

    /// The provider of a request, its API, and the path there. To the letter: a path that only begins like one
    /// of these could be normalised into another one, with the owner's key.
    fn route<'r>(&'r self, request: &'r Request) -> Option<(&'static str, &'r Upstream, &'r str)> {
        let GatewaySettings { anthropic, openai } = &self.settings;
        let path = request.path.as_str();
        match path.strip_suffix("?beta=true").unwrap_or(path) {
            _ if request.method != "POST" => None,
            "/v1/messages" | "/v1/messages/count_tokens" => Some(("anthropic", anthropic, path)),
            "/v1/chat/completions" => Some(("openai", openai, "/chat/completions")),
            _ => None,
        }
    }

    fn session_of(&self, request: &Request) -> crate::store::Result<Option<String>> {
        let bearer = request.header("authorization").and_then(|v| v.strip_prefix("Bearer "));
        let key = request.header("x-api-key").filter(|key| !key.is_empty());
        let Some(token) = key.or(bearer) else { return Ok(None) };
        let store = Store::open_read_only(&self.store)?;
        Ok(store.find_gateway_token(token)?.map(|found| found.session_id))
    }
}

/// The headers of a request that mean something to the model's API, and the credential. Everything
/// else, the token above all, stays here.
fn onward_headers(request: &Request, credential: Option<&Credential>) -> Vec<(String, String)> {
    let passes_on = |name: &str| {
        matches!(name, "content-type" | "accept" | "user-agent" | "x-app") || name.starts_with("anthropic-")
    };
    let passing = request.headers.iter().filter(|(name, _)| passes_on(name)).cloned();
    let (own, mut headers): (Vec<_>, Vec<_>) = passing.partition(|(name, _)| name == "anthropic-beta");
    let mut betas: Vec<&str> = own.iter().flat_map(|(_, value)| value.split(',')).map(str::trim).collect();
    // It belongs to the credential, and the container does not know which one that is.
    betas.retain(|beta| !beta.is_empty() && *beta != OAUTH_BETA);
    betas.extend(credential.filter(|c| c.scheme == Scheme::OAuth).map(|_| OAUTH_BETA));
    if !betas.is_empty() {
        headers.push(("anthropic-beta".to_owned(), betas.join(",")));
    }
    headers.extend(credential.map(|Credential { scheme, secret, .. }| match scheme {
        Scheme::ApiKey => ("x-api-key".to_owned(), secret.clone()),
        Scheme::Bearer | Scheme::OAuth => ("authorization".to_owned(), format!("Bearer {secret}")),
    }));
    headers
}

/// Passes status, headers and body back; each piece of the body as it comes.
fn pass_back(mut response: ureq::http::Response<ureq::Body>, stream: &mut UnixStream) -> io::Result<()> {
    let mut head = format!("HTTP/1.1 {} \r\ntransfer-encoding: chunked\r\n", response.status().as_u16());
    for (name, value) in response.headers() {
        let name = name.as_str();
        let wanted = matches!(name, "content-type" | "retry-after" | "request-id" | "x-request-id" | "x-should-retry")
            || name.starts_with("anthropic-")
            || name.starts_with("x-ratelimit-");
        if let (true, Ok(value)) = (wanted, value.to_str()) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    let mut body = response.body_mut().as_reader();
    let mut chunk = [0; 8 * 1024];
    loop {
        match body.read(&mut chunk) {
            Ok(0) => return stream.write_all(b"0\r\n\r\n"),
            Ok(n) => {
                let mut piece = format!("{n:x}\r\n").into_bytes();
                piece.extend_from_slice(&chunk[..n]);
                piece.extend_from_slice(b"\r\n");
                stream.write_all(&piece)?;
            }
            // No end mark: the runner must see that the answer was cut, not that it is whole.
            Err(e) => return Err(e),
        }
    }
}

/// Answers with an error in the shape of the model's API. A program that only asks for the head
/// would take a body for the next answer.
fn refuse(stream: &mut UnixStream, request: &Request, status: u16, kind: &str, message: &str) -> io::Result<()> {
    let body = json!({"type": "error", "error": {"type": kind, "message": message}}).to_string();
    let head =
        format!("HTTP/1.1 {status} \r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
    let body = if request.method == "HEAD" { "" } else { &body };
    stream.write_all(format!("{head}{body}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)]) -> Request {
        let headers = headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Request { method: "POST".into(), path: "/v1/messages".into(), headers, body: Vec::new() }
    }

    #[test]
    fn the_credential_takes_the_tokens_place_and_brings_its_beta() {
        let request = request(&[
            ("authorization", "Bearer session-token"),
            ("x-api-key", "session-token"),
            ("cookie", "c"),
            ("connection", "keep-alive"),
            ("transfer-encoding", "chunked"),
            ("host", "gateway"),
            ("anthropic-version", "2023-06-01"),
            ("anthropic-beta", "claude-code-20250219, oauth-2025-04-20"),
            ("anthropic-beta", "interleaved-thinking-2025-05-14"),
            ("user-agent", "claude-cli/2"),
        ]);
        let kept = ["anthropic-version: 2023-06-01", "user-agent: claude-cli/2"];
        let betas = "anthropic-beta: claude-code-20250219,interleaved-thinking-2025-05-14";
        for (scheme, betas, secret) in [
            (Scheme::ApiKey, betas.to_owned(), "x-api-key: s"),
            (Scheme::Bearer, betas.to_owned(), "authorization: Bearer s"),
            (Scheme::OAuth, format!("{betas},{OAUTH_BETA}"), "authorization: Bearer s"),
        ] {
            let credential = Credential { setting: "S", scheme, secret: "s".into() };
            let sent = onward_headers(&request, Some(&credential));
            let sent: Vec<String> = sent.iter().map(|(name, value)| format!("{name}: {value}")).collect();
            assert_eq!(sent, [kept[0], kept[1], &betas, secret]);
        }
        let bare = onward_headers(&super::tests::request(&[("authorization", "Bearer session-token")]), None);
        assert_eq!(bare, [], "a server that wants no key is not given the token");
    }
}
