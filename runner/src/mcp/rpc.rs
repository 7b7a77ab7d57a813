//! JSON-RPC 2.0 as MCP speaks it over pipes: one message a line.

use std::io::{self, BufRead, ErrorKind, Read};

use serde_json::{Value, json};

/// Revisions of the protocol that we speak, newest first.
pub const VERSIONS: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];

pub const PARSE_ERROR: i64 = -32700;
pub const INVALID_REQUEST: i64 = -32600;
pub const METHOD_NOT_FOUND: i64 = -32601;
pub const INVALID_PARAMS: i64 = -32602;

/// Longest message. bytes
const MAX_LINE_BYTES: usize = 4 * 1024 * 1024;
/// Most values in one message: the smallest ones take a hundred times their text in memory.
const MAX_VALUES: usize = 50_000;

/// The next message; `None` at the end. What is no JSON costs only itself.
///
/// # Errors
/// Also a message that is too large: what follows it cannot be made sense of.
pub fn read(input: &mut impl BufRead) -> io::Result<Option<serde_json::Result<Value>>> {
    let mut line = Vec::new();
    loop {
        line.clear();
        if input.by_ref().take(MAX_LINE_BYTES as u64 + 1).read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        if line.len() > MAX_LINE_BYTES || values(&line) > MAX_VALUES {
            return Err(io::Error::new(ErrorKind::InvalidData, "a message is too large"));
        }
        if !line.trim_ascii().is_empty() {
            return Ok(Some(serde_json::from_slice(&line)));
        }
    }
}

/// About how many values a JSON text has.
fn values(json: &[u8]) -> usize {
    let (mut count, mut quoted, mut escaped) = (0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            b',' | b'[' | b'{' if !quoted => count += 1,
            _ => {}
        }
    }
    count
}

pub fn notification(method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "method": method, "params": params})
}

pub fn result(id: &Value, result: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": result})
}

pub fn error(id: &Value, code: i64, message: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}})
}

/// Who speaks, on either side.
pub fn implementation() -> Value {
    json!({"name": "nanoclaw", "version": env!("CARGO_PKG_VERSION")})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &[u8]) -> io::Result<Option<serde_json::Result<Value>>> {
        read(&mut io::BufReader::new(text))
    }

    #[test]
    fn messages_are_lines_and_what_is_not_json_costs_only_itself() {
        let mut input = io::BufReader::new(&b"\n{\"id\":1}\r\nhello\n{\"id\":2}"[..]);
        assert_eq!(read(&mut input).unwrap().unwrap().unwrap(), json!({"id": 1}));
        assert!(read(&mut input).unwrap().unwrap().is_err());
        assert_eq!(read(&mut input).unwrap().unwrap().unwrap(), json!({"id": 2}));
        assert!(read(&mut input).unwrap().is_none());
    }

    #[test]
    fn a_message_is_bounded_in_length_and_in_values() {
        let text = |n| [b"\"".to_vec(), vec![b','; n], b"\"".to_vec()].concat();
        assert!(one(&text(MAX_LINE_BYTES - 2)).unwrap().unwrap().is_ok());
        assert_eq!(one(&text(MAX_LINE_BYTES - 1)).unwrap_err().kind(), ErrorKind::InvalidData);
        let list = |n| format!("[{}0]", "0,".repeat(n)).into_bytes();
        assert!(one(&list(MAX_VALUES - 1)).unwrap().unwrap().is_ok());
        assert_eq!(one(&list(MAX_VALUES)).unwrap_err().kind(), ErrorKind::InvalidData);
        assert_eq!(values(br#"{"a\",\\": [1, ",,"]}"#), 3);
    }
}
