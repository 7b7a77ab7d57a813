//! The credential gateway: the one socket a container may reach. It carries model traffic, never
//! messages.
//!
//! A container asks with its session's token; the gateway puts the real key in its place and
//! passes the request on, and the answer back as it comes, unbuffered. The key never enters a
//! container, an argument list or a log line.
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
use crate::config::GatewaySettings;
use crate::home::listen;
use crate::store::Store;
use crate::thread::{self, spawn_worker};
use crate::watch::{timespec, wait_readable};
use http::Request;

/// Name of the socket in the gateway's folder.
pub const SOCKET_NAME: &str = "gateway.sock";

/// Most requests under way at once.
const MAX_CONNECTIONS: usize = 64;
/// How long a container may take to send a request, or between two on one connection.
const REQUEST_DEADLINE: Duration = Duration::from_secs(120);
/// How long the model may take to its first byte; it may think for minutes.
const FIRST_BYTE_DEADLINE: Duration = Duration::from_secs(15 * 60);
/// How long a whole answer may take.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60 * 60);
/// What is reached through here, to the letter: a path that only begins like this could be
/// normalised into another one, with the owner's key.
const ALLOWED_PATHS: [&str; 2] = ["/v1/messages", "/v1/messages/count_tokens"];

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
    ///
    /// # Errors
    /// The socket cannot be made.
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
            let (stream, _) = self.listener.accept()?;
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
                    return refuse(&mut stream, 401, "authentication_error", "this session's token is not known");
                }
                Err(e) => {
                    log::error!("The gateway could not check a token error={e}");
                    return refuse(&mut stream, 503, "api_error", "the gateway could not check the session's token");
                }
            };
            http::read_body(&mut stream, &mut buffer, &mut request)?;
            self.answer(&session_id, &request, &mut stream)?;
        }
        Ok(())
    }

    fn answer(&self, session_id: &str, request: &Request, stream: &mut UnixStream) -> io::Result<()> {
        let path = request.path.split('?').next().unwrap_or_default();
        if request.method != "POST" || !ALLOWED_PATHS.contains(&path) {
            return refuse(stream, 404, "not_found_error", "the gateway passes on POST /v1/messages only");
        }
        let Some(key) = &self.settings.anthropic_api_key else {
            let why = "no model key is set: put ANTHROPIC_API_KEY into .env and restart nanoclaw";
            return refuse(stream, 401, "authentication_error", why);
        };
        let url = format!("{}{}", self.settings.anthropic_base_url, request.path);
        let mut onward = self.agent.post(&url).header("x-api-key", key);
        for (name, value) in request.headers.iter().filter(|(name, _)| passes_on(name)) {
            onward = onward.header(name, value);
        }
        match onward.send(&request.body[..]) {
            Ok(response) => {
                log::debug!("Model request session={session_id} status={}", response.status().as_u16());
                pass_back(response, stream)
            }
            Err(e) => {
                log::warn!("The model could not be reached session={session_id} error={e}");
                refuse(stream, 502, "api_error", &format!("the model could not be reached: {e}"))
            }
        }
    }

    fn session_of(&self, request: &Request) -> crate::store::Result<Option<String>> {
        let bearer = request.header("authorization").and_then(|v| v.strip_prefix("Bearer "));
        let Some(token) = request.header("x-api-key").or(bearer) else { return Ok(None) };
        let store = Store::open_read_only(&self.store)?;
        Ok(store.find_gateway_token(token)?.map(|found| found.session_id))
    }
}

/// Request headers that mean something to the model's API. Everything else, the token above all,
/// stays here.
fn passes_on(name: &str) -> bool {
    matches!(name, "content-type" | "accept" | "user-agent") || name.starts_with("anthropic-")
}

/// Passes status, headers and body back; each piece of the body as it comes.
fn pass_back(mut response: ureq::http::Response<ureq::Body>, stream: &mut UnixStream) -> io::Result<()> {
    let mut head = format!("HTTP/1.1 {} \r\ntransfer-encoding: chunked\r\n", response.status().as_u16());
    for (name, value) in response.headers() {
        let name = name.as_str();
        let wanted = matches!(name, "content-type" | "retry-after" | "request-id")
            || name.starts_with("anthropic-")
            || name.starts_with("x-should-retry");
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

/// Answers with an error in the shape of the model's API.
fn refuse(stream: &mut UnixStream, status: u16, kind: &str, message: &str) -> io::Result<()> {
    let body = json!({"type": "error", "error": {"type": kind, "message": message}}).to_string();
    let head =
        format!("HTTP/1.1 {status} \r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}
