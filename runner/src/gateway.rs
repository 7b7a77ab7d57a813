//! The way out: HTTP to the host's gateway, over its Unix socket.
//!
//! The gateway knows the session by its token and puts the real key in its place; neither the key
//! nor an address of the host ever reaches this process. For tests an `http://` URL will do.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, ShutdownHandle, Transport,
};

/// Where the gateway is when the environment does not say.
const DEFAULT_SOCKET: &str = "/run/nanoclaw/gateway.sock";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const SEND_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest silence of a server, before its first byte too.
pub const SILENCE_TIMEOUT: Duration = Duration::from_secs(600);
/// Longest answer.
const BODY_TIMEOUT: Duration = Duration::from_secs(3_600);

/// Where the gateway is and who we are to it.
#[derive(Debug, Clone)]
pub struct Gateway {
    base: String,
    socket: Option<PathBuf>,
    token: String,
}

impl Gateway {
    /// `address` is a socket's path or an `http://` URL.
    pub fn new(address: Option<&str>, token: Option<String>) -> Gateway {
        let address = address.filter(|a| !a.is_empty()).unwrap_or(DEFAULT_SOCKET);
        let (base, socket) = if address.starts_with("http://") {
            (address.trim_end_matches('/').to_owned(), None)
        } else {
            ("http://gateway".to_owned(), Some(PathBuf::from(address)))
        };
        Gateway { base, socket, token: token.unwrap_or_default() }
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// Its socket; `None` when [`Gateway::url`] can be reached as it is.
    pub fn socket(&self) -> Option<&Path> {
        self.socket.as_deref()
    }

    /// The session's own token, which stands for the key.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// A new HTTP client. Its connections end with it.
    pub fn client(&self) -> ureq::Agent {
        let config = Config::builder()
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_resolve(Some(CONNECT_TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_send_request(Some(SEND_TIMEOUT))
            .timeout_send_body(Some(SEND_TIMEOUT))
            .timeout_recv_response(Some(SILENCE_TIMEOUT))
            .timeout_recv_body(Some(BODY_TIMEOUT))
            .timeout_per_read(Some(SILENCE_TIMEOUT))
            .build();
        match &self.socket {
            Some(socket) => ureq::Agent::with_parts(config, SocketConnector { socket: socket.clone() }, NoResolver),
            None => ureq::Agent::new_with_config(config),
        }
    }
}

/// There is nothing to resolve.
#[derive(Debug)]
struct NoResolver;

impl Resolver for NoResolver {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut addresses = self.empty();
        addresses.push(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        Ok(addresses)
    }
}

/// Connects every request to one socket. A Unix socket connects at once or fails.
#[derive(Debug)]
struct SocketConnector {
    socket: PathBuf,
}

impl Connector for SocketConnector {
    type Out = SocketTransport;

    fn connect(&self, details: &ConnectionDetails, _: Option<()>) -> Result<Option<SocketTransport>, ureq::Error> {
        let stream = Arc::new(Stream(UnixStream::connect(&self.socket)?));
        let handle = Arc::downgrade(&stream) as Weak<dyn ShutdownHandle>;
        (details.register_shutdown)(handle)?;
        let buffers = LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(SocketTransport { stream, buffers }))
    }
}

struct Stream(UnixStream);

impl ShutdownHandle for Stream {
    fn shutdown(&self) {
        // It fails when the socket is closed already, which is what is wanted.
        let _closed = self.0.shutdown(Shutdown::Both);
    }
}

struct SocketTransport {
    stream: Arc<Stream>,
    buffers: LazyBuffers,
}

/// What is left of a timeout, as a socket takes it: `None` is no limit, and zero is refused by std.
fn left(timeout: NextTimeout) -> Result<Option<Duration>, ureq::Error> {
    if *timeout.after == Duration::ZERO {
        Err(ureq::Error::Timeout(timeout.reason))
    } else {
        Ok(timeout.not_zero().map(|t| *t))
    }
}

fn fault(error: io::Error, timeout: NextTimeout) -> ureq::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ureq::Error::Timeout(timeout.reason),
        _ => error.into(),
    }
}

impl Transport for SocketTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let timeout = timeout.for_write();
        let mut socket = &self.stream.0;
        socket.set_write_timeout(left(timeout)?)?;
        socket.write_all(&self.buffers.output()[..amount]).map_err(|e| fault(e, timeout))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let timeout = timeout.for_read();
        let mut socket = &self.stream.0;
        socket.set_read_timeout(left(timeout)?)?;
        let buffer = self.buffers.input_append_buf();
        let read = loop {
            match socket.read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other.map_err(|e| fault(e, timeout))?,
            }
        };
        self.buffers.input_appended(read);
        Ok(read > 0)
    }

    /// A connection is used again only when the other side is silent and there.
    fn is_open(&mut self) -> bool {
        let socket = &self.stream.0;
        let silent = |mut s: &UnixStream| {
            s.set_nonblocking(true)?;
            let read = s.read(&mut [0]);
            s.set_nonblocking(false)?;
            read
        };
        matches!(silent(socket), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }
}

impl fmt::Debug for SocketTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SocketTransport").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_url_or_a_socket() {
        let url = Gateway::new(Some("http://127.0.0.1:9/"), None);
        assert_eq!((url.url("/v1/messages").as_str(), url.socket), ("http://127.0.0.1:9/v1/messages", None));
        let socket = Gateway::new(Some(""), Some("t".into()));
        assert_eq!(socket.socket, Some(PathBuf::from(DEFAULT_SOCKET)));
        assert_eq!((socket.url("/x").as_str(), socket.token()), ("http://gateway/x", "t"));
    }
}
