//! The terminals that are connected, shared by the channel's two threads.
//!
//! This is the one place where two of our threads share a lock: both write whole lines to the
//! same sockets, and a line must not be torn by another one.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::wire::ToClient;

/// How long a terminal may not read before it counts as gone.
const WRITE_DEADLINE: Duration = Duration::from_secs(2);

/// Names a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(u64);

/// Everyone who is connected.
#[derive(Debug, Clone, Default)]
pub struct Clients {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    clients: BTreeMap<ClientId, Client>,
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    listens_to: BTreeSet<String>,
}

impl Clients {
    /// Adds a connection that listens to nothing yet.
    pub fn join(&self, stream: UnixStream) -> io::Result<ClientId> {
        stream.set_write_timeout(Some(WRITE_DEADLINE))?;
        let mut inner = self.lock();
        inner.next += 1;
        let id = ClientId(inner.next);
        inner.clients.insert(id, Client { stream, listens_to: BTreeSet::new() });
        Ok(id)
    }

    pub fn leave(&self, id: ClientId) {
        self.lock().clients.remove(&id);
    }

    /// The client wants the replies of this chat; true when it did not have them yet.
    pub fn listen(&self, id: ClientId, platform_id: &str) -> bool {
        match self.lock().clients.get_mut(&id) {
            Some(client) => client.listens_to.insert(platform_id.to_owned()),
            None => false,
        }
    }

    /// Writes a line to one client.
    pub fn write(&self, id: ClientId, line: &ToClient) {
        let mut inner = self.lock();
        if inner.clients.get_mut(&id).is_some_and(|client| client.write(&encoded(line)).is_err()) {
            inner.clients.remove(&id);
        }
    }

    /// Writes a line to everyone who listens to this chat; how many got it.
    pub fn write_to_listeners(&self, platform_id: &str, line: &ToClient) -> usize {
        let line = encoded(line);
        let mut reached = 0;
        self.lock().clients.retain(|_, client| {
            if !client.listens_to.contains(platform_id) {
                return true;
            }
            let written = client.write(&line).is_ok();
            reached += usize::from(written);
            written
        });
        reached
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while holding it leaves a map that is whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Client {
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let written = self.stream.write_all(line);
        if written.is_err() {
            // Half a line was written, or nobody reads: the poller's half must end, too.
            let _ = self.stream.shutdown(std::net::Shutdown::Both);
        }
        written
    }
}

fn encoded(line: &ToClient) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(line).expect("strings always serialise");
    bytes.push(b'\n');
    bytes
}
