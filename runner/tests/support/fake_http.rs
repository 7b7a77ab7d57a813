//! What stand-ins for a model's API share: HTTP/1.1 on a Unix socket or a TCP port, with plain threads and blocking
//! sockets.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

use serde_json::Value;

/// Where a stand-in listens.
pub enum Listener {
    Unix(UnixListener, String),
    Tcp(TcpListener),
}

impl Listener {
    /// A Unix socket at `path`.
    pub fn on_socket(path: &Path) -> Listener {
        Listener::Unix(UnixListener::bind(path).expect("bind the socket"), path.display().to_string())
    }

    /// A free port of the loopback interface.
    pub fn on_port() -> Listener {
        Listener::Tcp(TcpListener::bind(("127.0.0.1", 0)).expect("bind a port"))
    }

    /// The socket's path, or the URL.
    pub fn address(&self) -> String {
        match self {
            Listener::Unix(_, path) => path.clone(),
            Listener::Tcp(listener) => format!("http://{}", listener.local_addr().expect("an address")),
        }
    }

    /// Calls `serve_one` for each request of each connection, on threads that end with the process. It says `None`
    /// when the client has left.
    pub fn serve<F>(self, serve_one: F)
    where
        F: Fn(&mut BufReader<Stream>) -> io::Result<Option<Connection>> + Clone + Send + 'static,
    {
        thread::spawn(move || {
            loop {
                let stream = match &self {
                    Listener::Unix(listener, _) => listener.accept().map(|(stream, _)| Stream::Unix(stream)),
                    // Events are small, and each is to arrive at once.
                    Listener::Tcp(listener) => {
                        listener.accept().and_then(|(stream, _)| stream.set_nodelay(true).map(|()| Stream::Tcp(stream)))
                    }
                };
                let Ok(stream) = stream else { continue };
                let serve_one = serve_one.clone();
                thread::spawn(move || {
                    let mut stream = BufReader::new(stream);
                    // A connection ends when the client leaves, between requests or within an answer.
                    while let Ok(Some(Connection::Keep)) = serve_one(&mut stream) {}
                });
            }
        });
    }
}

/// Whether another request may come over it.
#[derive(PartialEq, Eq)]
pub enum Connection {
    Keep,
    Close,
}

/// One connection.
pub enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(s) => s.read(buffer),
            Stream::Tcp(s) => s.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(s) => s.write(bytes),
            Stream::Tcp(s) => s.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A request line, the headers with their names in lower case, and the body; `null` if that is no JSON.
pub type Parts = (String, BTreeMap<String, String>, Value);

/// The next request, or `None` when the client has left.
pub fn read_request(stream: &mut impl BufRead) -> io::Result<Option<Parts>> {
    let Some((line, headers)) = read_head(stream)? else { return Ok(None) };
    let length = headers.get("content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(Some((line, headers, serde_json::from_slice(&body).unwrap_or(Value::Null))))
}

fn read_head(stream: &mut impl BufRead) -> io::Result<Option<(String, BTreeMap<String, String>)>> {
    let mut first = String::new();
    if stream.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.insert(name.to_lowercase(), value.trim().to_owned()),
            None => return Ok(Some((first.trim_end().to_owned(), headers))),
        };
    }
}
