//! A client of the terminal's socket that speaks its lines, as a set-up script would.

use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::wait::DEADLINE;

/// A connection. Dropping it is leaving.
pub struct Client {
    stream: UnixStream,
    lines: Receiver<Value>,
}

impl Client {
    pub fn connect(socket: &Path) -> Client {
        let stream = UnixStream::connect(socket).unwrap_or_else(|e| panic!("{}: {e}", socket.display()));
        let reader = BufReader::new(stream.try_clone().expect("a second handle"));
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or_else(|e| panic!("no JSON ({e}): {line}"));
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Client { stream, lines }
    }

    /// Writes a line.
    #[track_caller]
    pub fn send(&mut self, line: &Value) {
        self.stream.write_all(format!("{line}\n").as_bytes()).expect("the host reads");
    }

    /// Asks for the replies of the terminal's own chat.
    pub fn listen(&mut self) {
        self.send(&json!({"listen": "local"}));
    }

    /// Says something in the terminal's own chat.
    pub fn say(&mut self, id: &str, text: &str) {
        self.send(&json!({"id": id, "text": text}));
    }

    /// The next line.
    #[track_caller]
    pub fn next(&self) -> Value {
        self.within(DEADLINE).expect("a line from the host")
    }

    /// The next line, if one comes within `limit`.
    ///
    /// # Panics
    /// When the host is gone.
    #[track_caller]
    pub fn within(&self, limit: Duration) -> Option<Value> {
        match self.lines.recv_timeout(limit) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => panic!("the host closed the connection"),
        }
    }

    /// The next line of those a host that is gone had written; none at their end.
    pub fn rest(&self) -> Option<Value> {
        self.lines.recv_timeout(DEADLINE).ok()
    }

    /// The lines up to the first one of this kind, which is the last.
    #[track_caller]
    pub fn until(&self, what: &str, mut is_it: impl FnMut(&Value) -> bool) -> Vec<Value> {
        let mut lines = Vec::new();
        loop {
            match self.within(DEADLINE) {
                Some(line) => lines.push(line),
                None => panic!("no {what}; the host said {lines:#?}"),
            }
            if is_it(lines.last().expect("one was pushed")) {
                return lines;
            }
        }
    }

    /// Waits until this message is on disk.
    #[track_caller]
    pub fn accepted(&self, id: &str) {
        self.until("acceptance", |l| l["type"] == "accepted" && l["id"] == id);
    }

    /// The lines up to the end of the turn that answers this message.
    #[track_caller]
    pub fn turn(&self, id: &str) -> Vec<Value> {
        self.until(&format!("end of the turn of {id}"), |l| {
            l["type"] == "turn_end" && l["messageIds"].as_array().is_some_and(|ids| ids.iter().any(|i| i == id))
        })
    }

    /// Says something and gives the texts of the answer.
    #[track_caller]
    pub fn ask(&mut self, id: &str, text: &str) -> Vec<String> {
        self.say(id, text);
        texts(&self.turn(id))
    }

    /// The next text, whatever else comes before it.
    #[track_caller]
    pub fn text(&self) -> String {
        let lines = self.until("text", |l| l["type"] == "text");
        texts(&lines).pop().expect("the last line is one")
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // The reader thread holds a second handle; gone already is as good.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// The texts among the lines.
pub fn texts(lines: &[Value]) -> Vec<String> {
    lines.iter().filter(|l| l["type"] == "text").filter_map(|l| Some(l["text"].as_str()?.to_owned())).collect()
}
