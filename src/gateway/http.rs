//! The server's half of HTTP/1.1 that the gateway needs: read one request whole. Parsing of the
//! head is `httparse`'s; bodies are framed as RFC 9112 section 6 says.

use std::io::{self, Read, Write};

/// Longest head of a request. bytes
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Longest body: the API itself takes 32 MB. bytes
const MAX_BODY_BYTES: usize = 40 * 1024 * 1024;
/// Most header fields.
const MAX_HEADERS: usize = 64;

/// A request, whole.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    /// With its query.
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    /// The first value of a header; `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// Reads the head of a request. `buffer` holds what came before and keeps what comes after it.
/// `None` when the other side closed between two requests.
pub fn read_head(stream: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<Option<Request>> {
    let (request, head_bytes) = loop {
        if let Some(parsed) = parse_head(buffer)? {
            break parsed;
        }
        if buffer.len() > MAX_HEAD_BYTES {
            return Err(invalid("the head is too long"));
        }
        if fill(stream, buffer)? == 0 {
            return if buffer.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
    };
    buffer.drain(..head_bytes);
    Ok(Some(request))
}

/// Reads the body that belongs to a head.
pub fn read_body(stream: &mut (impl Read + Write), buffer: &mut Vec<u8>, request: &mut Request) -> io::Result<()> {
    let framing = request.headers.iter().filter(|(n, _)| n == "content-length" || n == "transfer-encoding");
    if framing.count() > 1 {
        // Two readers could disagree where the request ends.
        return Err(invalid("ambiguous framing"));
    }
    if request.header("expect").is_some_and(|v| v.eq_ignore_ascii_case("100-continue")) {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    request.body = match (request.header("transfer-encoding"), request.header("content-length")) {
        (Some(encoding), None) if encoding.eq_ignore_ascii_case("chunked") => read_chunked(stream, buffer)?,
        (None, Some(length)) => {
            let length = length.parse().map_err(|_| invalid("content-length is no number"))?;
            read_exactly(stream, buffer, length)?
        }
        (None, None) => Vec::new(),
        _ => return Err(invalid("an unknown transfer-encoding")),
    };
    Ok(())
}

fn parse_head(buffer: &[u8]) -> io::Result<Option<(Request, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(buffer) {
        Ok(httparse::Status::Partial) => Ok(None),
        Ok(httparse::Status::Complete(length)) => {
            let headers = parsed
                .headers
                .iter()
                .map(|h| {
                    let value = std::str::from_utf8(h.value).map_err(|_| invalid("a header is not UTF-8"))?;
                    Ok((h.name.to_ascii_lowercase(), value.trim().to_owned()))
                })
                .collect::<io::Result<_>>()?;
            let text = |part: Option<&str>| part.unwrap_or_default().to_owned();
            let request = Request { method: text(parsed.method), path: text(parsed.path), headers, body: Vec::new() };
            Ok(Some((request, length)))
        }
        Err(e) => Err(invalid(&e.to_string())),
    }
}

fn read_exactly(stream: &mut impl Read, buffer: &mut Vec<u8>, length: usize) -> io::Result<Vec<u8>> {
    if length > MAX_BODY_BYTES {
        return Err(invalid("the body is too long"));
    }
    while buffer.len() < length {
        if fill(stream, buffer)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let rest = buffer.split_off(length);
    Ok(std::mem::replace(buffer, rest))
}

fn read_chunked(stream: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let (line_bytes, size) = loop {
            match httparse::parse_chunk_size(buffer) {
                Ok(httparse::Status::Complete((line_bytes, size))) => break (line_bytes, size),
                Ok(httparse::Status::Partial) if buffer.len() <= MAX_HEAD_BYTES => {
                    if fill(stream, buffer)? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                _ => return Err(invalid("a chunk size is not understood")),
            }
        };
        buffer.drain(..line_bytes);
        let size = usize::try_from(size).map_err(|_| invalid("a chunk is too long"))?;
        if size > MAX_BODY_BYTES - body.len() {
            return Err(invalid("the body is too long"));
        }
        // Its line end too. After the last one come trailers, which nobody sends us.
        let mut chunk = read_exactly(stream, buffer, size + 2)?;
        chunk.truncate(size);
        if size == 0 {
            return Ok(body);
        }
        body.append(&mut chunk);
    }
}

fn fill(stream: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let mut chunk = [0; 8 * 1024];
    let n = stream.read(&mut chunk)?;
    buffer.extend_from_slice(&chunk[..n]);
    Ok(n)
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream that hands out one byte at a time, as a slow client would.
    struct Trickle<'a>(&'a [u8], Vec<u8>);

    impl Read for Trickle<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let n = self.0.len().min(1);
            out[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    impl Write for Trickle<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1.write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn read_request(stream: &mut (impl Read + Write), buffer: &mut Vec<u8>) -> io::Result<Option<Request>> {
        let Some(mut request) = read_head(stream, buffer)? else { return Ok(None) };
        read_body(stream, buffer, &mut request)?;
        Ok(Some(request))
    }

    #[test]
    fn two_requests_on_one_connection_in_both_framings() {
        let raw = b"POST /v1/messages?beta=true HTTP/1.1\r\nX-Api-Key: t\r\nContent-Length: 2\r\n\r\nhi\
            POST /v1/messages HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n";
        let mut stream = Trickle(raw, Vec::new());
        let mut buffer = Vec::new();
        let first = read_request(&mut stream, &mut buffer).unwrap().unwrap();
        assert_eq!(
            (first.path.as_str(), first.header("x-api-key"), &first.body[..]),
            ("/v1/messages?beta=true", Some("t"), &b"hi"[..])
        );
        let second = read_request(&mut stream, &mut buffer).unwrap().unwrap();
        assert_eq!(second.body, b"abcde");
        assert_eq!(read_request(&mut stream, &mut buffer).unwrap(), None);
    }

    #[test]
    fn what_is_ambiguous_cut_or_too_long_is_an_error() {
        for raw in [
            "POST / HTTP/1.1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhiya",
            "POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nabc",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
            "not http at all\r\n\r\n",
        ] {
            assert!(read_request(&mut Trickle(raw.as_bytes(), Vec::new()), &mut Vec::new()).is_err(), "{raw}");
        }
    }

    #[test]
    fn expect_is_answered() {
        let raw = b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n";
        let mut stream = Trickle(raw, Vec::new());
        read_request(&mut stream, &mut Vec::new()).unwrap();
        assert_eq!(stream.1, b"HTTP/1.1 100 Continue\r\n\r\n");
    }
}
