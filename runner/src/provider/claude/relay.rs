//! A port on the loopback interface that leads to the gateway's socket: the CLI speaks HTTP to an address only.
//!
//! Bytes pass as they are. What the CLI does not tell, they do: until when a limit is used up.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use super::child::spawn;
use crate::time;

const BUFFER_BYTES: usize = 8 * 1024;
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Longest `retry-after` that is believed: a month. seconds
const MAX_RETRY_AFTER: i64 = 31 * 24 * 3_600;

/// Seconds since 1970; 0 when no limit is known to be used up.
pub type LimitedUntil = Arc<AtomicI64>;

/// Opens the port; it stays open as long as the process lives.
///
/// # Errors
/// No port or no thread is to be had.
pub fn open(socket: PathBuf, limit: LimitedUntil) -> io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    spawn(move || {
        for client in listener.incoming().flatten() {
            // The client sees a closed connection, and tries again by its own rules.
            if let Err(e) = relay(client, &socket, limit.clone()) {
                eprintln!("Gateway not reached error={e}");
            }
        }
    })?;
    Ok(port)
}

fn relay(client: TcpStream, socket: &Path, limit: LimitedUntil) -> io::Result<()> {
    let gateway = UnixStream::connect(socket)?;
    client.set_nodelay(true)?;
    let (to_gateway, to_client) = (gateway.try_clone()?, client.try_clone()?);
    spawn(move || pass(client, &to_gateway, |_| (), || to_gateway.shutdown(Shutdown::Both)))?;
    let mut head = Vec::new();
    let hear = move |piece: &[u8]| {
        if let Some(seconds) = retry_after(&mut head, piece) {
            limit.store(time::now().as_second() + seconds, Ordering::SeqCst);
        }
    };
    spawn(move || pass(gateway, &to_client, hear, || to_client.shutdown(Shutdown::Both)))
}

/// Passes bytes on until one side is gone, then lets the other one know.
fn pass(mut from: impl Read, mut to: impl Write, mut hear: impl FnMut(&[u8]), close: impl FnOnce() -> io::Result<()>) {
    let mut buffer = [0; BUFFER_BYTES];
    // Errors are ends too, and the most usual ones.
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        hear(&buffer[..n]);
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    // It fails only for what is gone already.
    let _closed = close();
}

/// How long to wait, of an answer that says so; `head` is what there is of its head. An answer begins with a piece: its
/// client asks nothing more before it has the whole of the one before.
fn retry_after(head: &mut Vec<u8>, piece: &[u8]) -> Option<i64> {
    if head.is_empty() && !piece.starts_with(b"HTTP/1.1") {
        return None;
    }
    head.extend_from_slice(piece);
    let end = head.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    if end.is_none() && head.len() < MAX_HEAD_BYTES {
        return None;
    }
    let head = String::from_utf8_lossy(&std::mem::take(head)[..end.unwrap_or_default()]).into_owned();
    let head = head.strip_prefix("HTTP/1.1 429")?;
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    let seconds =
        fields.filter(|(name, _)| name.eq_ignore_ascii_case("retry-after")).find_map(|(_, v)| v.trim().parse().ok());
    seconds.map(|seconds: i64| seconds.clamp(0, MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn an_answer_may_say_how_long_to_wait() {
        let head = "HTTP/1.1 429 Too Many\r\nContent-Length: 2\r\nRetry-After: 3600\r\n\r\nretry-after: 1\r\n";
        let said = |answer: String| {
            let (mut head, mut heard) = (Vec::new(), Vec::new());
            // In one piece, and torn in two.
            heard.extend(retry_after(&mut head, answer.as_bytes()));
            heard.extend(retry_after(&mut head, &answer.as_bytes()[..9]));
            heard.extend(retry_after(&mut head, &answer.as_bytes()[9..]));
            assert_eq!(retry_after(&mut head, b"retry-after: 7\r\n\r\n"), None, "this is no head");
            heard
        };
        assert_eq!(said(head.into()), [3_600, 3_600]);
        assert_eq!(said(head.replace("3600", "99999999999")), [MAX_RETRY_AFTER; 2]);
        assert!(said(head.replace("429", "200")).is_empty());
        assert!(said("HTTP/1.1 429 X\r\n\r\nretry-after: 1\r\n".into()).is_empty());
    }

    #[test]
    fn bytes_pass_both_ways_and_an_end_is_passed_on_too() {
        let tmp = tempfile::tempdir().unwrap();
        let socket = tmp.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let port = open(socket, LimitedUntil::default()).unwrap();
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        client.write_all(b"ask").unwrap();
        let (mut gateway, _) = listener.accept().unwrap();
        let mut bytes = [0; 3];
        gateway.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"ask");
        gateway.write_all(b"yes").unwrap();
        client.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"yes");
        drop(client);
        assert_eq!(gateway.read(&mut bytes).unwrap(), 0, "the gateway hears that its client left");

        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        drop(listener.accept().unwrap());
        assert_eq!(client.read(&mut bytes).unwrap(), 0, "the client hears that the gateway hung up");
    }
}
