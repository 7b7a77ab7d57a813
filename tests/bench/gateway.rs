//! The gateway: how much later a model's first byte comes through it than without it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nanoclaw::channel::Stop;
use nanoclaw::config::{Credential, GatewaySettings, Scheme, Upstream};
use nanoclaw::gateway::{Gateway, SOCKET_NAME};
use nanoclaw::id::new_id;
use nanoclaw::setup::MAIN;
use nanoclaw::store::{GatewayToken, Session};
use nanoclaw::time::now;

use crate::Effort;
use crate::host::Place;
use crate::report::{Report, Weight};
use crate::samples::Samples;

const MAX_ADDED_MS: f64 = 2.0;
/// A conversation with tools. bytes
const REQUEST_BYTES: usize = 64 * 1024;
const WARM_UPS: usize = 5;
/// What the model begins with; the end follows when it was seen.
const FIRST: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\ndata: \r\n";
const REST: &[u8] = b"2\r\n{}\r\n0\r\n\r\n";
/// How long the rest is held back, so that a gateway that waited for it would be seen.
const PAUSE: Duration = Duration::from_millis(5);

pub fn measure(report: &mut Report, effort: Effort) -> Result<()> {
    let place = Place::new()?;
    let store = place.store()?;
    let session = store.ensure_session(&Session::new(&new_id("sess"), MAIN, None, None, now()))?.into_inner();
    let (token, container_name) = ("bench-token".to_owned(), "none".to_owned());
    store.create_gateway_token(&GatewayToken { token, session_id: session.id, container_name, created_at: now() })?;

    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || model(stream));
        }
    });
    let credential = Credential { setting: "ANTHROPIC_API_KEY", scheme: Scheme::ApiKey, secret: "key".to_owned() };
    let upstream = Upstream { base_url: format!("http://{address}"), credential: Some(credential) };
    let settings = GatewaySettings { anthropic: upstream.clone(), openai: upstream };
    let folder = place.home.gateway_dir();
    let gateway = Gateway::open(&folder, &place.home.store(), settings)?;
    let stop = Stop::new()?;
    let told = stop.clone();
    let gateway = thread::spawn(move || gateway.run(&told));

    let mut straight = TcpStream::connect(address)?;
    straight.set_nodelay(true)?;
    let mut through = UnixStream::connect(folder.join(SOCKET_NAME))?;
    let (mut direct, mut gated) = (Samples::default(), Samples::default());
    for n in 0..WARM_UPS + effort.pick(300, 30) {
        let (first, second) = (ask(&mut straight)?, ask(&mut through)?);
        if n >= WARM_UPS {
            direct.push(first);
            gated.push(second);
        }
    }
    stop.now();
    drop(through);
    ensure!(gateway.join().is_ok(), "the gateway has panicked");
    let (without, with) = (direct.median_ms(), gated.median_ms());
    let note = format!(
        "N={}; p50 {with:.2} ms through it, {without:.2} ms without; p95 {:.2} and {:.2}",
        gated.len(),
        gated.quantile_ms(0.95),
        direct.quantile_ms(0.95),
    );
    report.at_most("gateway: first byte, added", with - without, "ms", MAX_ADDED_MS, Weight::Informs, note);
    Ok(())
}

/// A request, and how long its answer's first piece takes.
fn ask(stream: &mut (impl Read + Write)) -> Result<Duration> {
    let mut request = format!(
        "POST /v1/messages HTTP/1.1\r\nhost: model\r\nx-api-key: bench-token\r\ncontent-length: {REQUEST_BYTES}\r\n\r\n"
    )
    .into_bytes();
    request.resize(request.len() + REQUEST_BYTES, b'x');
    let started = Instant::now();
    stream.write_all(&request)?;
    let mut answer = Vec::new();
    read_until(stream, &mut answer, b"data: ")?;
    let first = started.elapsed();
    read_until(stream, &mut answer, b"0\r\n\r\n")?;
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    Ok(first)
}

/// Answers every request on a connection, the end of each answer a while after its beginning.
fn model(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let mut request = Vec::new();
        let head = read_until(&mut stream, &mut request, b"\r\n\r\n")?;
        let missing = (head + REQUEST_BYTES).saturating_sub(request.len());
        stream.read_exact(&mut vec![0; missing])?;
        stream.write_all(FIRST)?;
        thread::sleep(PAUSE);
        stream.write_all(REST)?;
    }
}

/// Reads until `mark` has come; where it ends.
fn read_until(stream: &mut impl Read, read: &mut Vec<u8>, mark: &[u8]) -> Result<usize> {
    let mut chunk = [0; 16 * 1024];
    loop {
        if let Some(at) = read.windows(mark.len()).position(|w| w == mark) {
            return Ok(at + mark.len());
        }
        let n = stream.read(&mut chunk)?;
        ensure!(n > 0, "the answer ended early: {}", String::from_utf8_lossy(read));
        read.extend_from_slice(&chunk[..n]);
    }
}
