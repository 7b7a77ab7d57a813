//! A port on the loopback interface that leads to the gateway's socket: the CLI speaks HTTP to an address only.
//! Bytes pass as they are.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;

use crate::provider::STACK_BYTES;

/// Opens the port; it stays open as long as the process lives.
///
/// # Errors
/// No port or no thread is to be had.
pub fn open(socket: PathBuf) -> io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    spawn(move || {
        for client in listener.incoming().flatten() {
            // The client sees a closed connection, and tries again by its own rules.
            if let Err(e) = relay(client, &socket) {
                eprintln!("Gateway not reached error={e}");
            }
        }
    })?;
    Ok(port)
}

fn relay(client: TcpStream, socket: &Path) -> io::Result<()> {
    let gateway = UnixStream::connect(socket)?;
    client.set_nodelay(true)?;
    let (to_gateway, to_client) = (gateway.try_clone()?, client.try_clone()?);
    spawn(move || pass(client, &to_gateway, || to_gateway.shutdown(Shutdown::Both)))?;
    spawn(move || pass(gateway, &to_client, || to_client.shutdown(Shutdown::Both)))
}

/// Passes bytes on until one side is gone, then lets the other one know.
fn pass(mut from: impl Read, mut to: impl Write, close: impl FnOnce() -> io::Result<()>) {
    // Both fail only for what is gone already, which is how every connection ends.
    let _gone = io::copy(&mut from, &mut to);
    let _closed = close();
}

fn spawn(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name("relay".into()).stack_size(STACK_BYTES).spawn(work).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn bytes_pass_both_ways_and_an_end_is_passed_on_too() {
        let tmp = tempfile::tempdir().unwrap();
        let socket = tmp.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let port = open(socket).unwrap();
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
