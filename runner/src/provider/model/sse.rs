//! Server-sent events, as the bytes come in. Pure.
//! Format: <https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream>

use std::fmt;

/// Most bytes of one event; a real one has a few hundred.
const MAX_EVENT_BYTES: usize = 1024 * 1024;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SseEvent {
    pub name: String,
    pub data: String,
}

/// The event grew without end.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLong;

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an event of the answer is longer than {MAX_EVENT_BYTES} bytes")
    }
}

/// Keeps what is not yet whole.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    event: SseEvent,
    after_cr: bool,
}

impl Parser {
    /// Takes the next bytes; returns the events they complete.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Vec<SseEvent>, TooLong> {
        let mut events = Vec::new();
        for &byte in bytes {
            let line_feed_of_crlf = std::mem::replace(&mut self.after_cr, byte == b'\r') && byte == b'\n';
            match byte {
                b'\n' if line_feed_of_crlf => {}
                b'\n' | b'\r' => events.extend(self.end_of_line()),
                _ => self.line.push(byte),
            }
            if self.line.len() + self.event.data.len() > MAX_EVENT_BYTES {
                return Err(TooLong);
            }
        }
        Ok(events)
    }

    fn end_of_line(&mut self) -> Option<SseEvent> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            return (!event.data.is_empty()).then_some(event);
        }
        let line = String::from_utf8_lossy(&line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.event.name = value.to_owned(),
            "data" => {
                if !self.event.data.is_empty() {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            // Comments, ids and retry hints mean nothing here.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event(name: &str, data: &str) -> SseEvent {
        SseEvent { name: name.into(), data: data.into() }
    }

    #[test]
    fn events_are_read_in_every_line_ending() {
        for end in ["\n", "\r\n", "\r"] {
            let text = format!(": hi{end}event: a{end}data: 1{end}data:2{end}{end}data: ö{end}{end}event: b{end}{end}");
            assert_eq!(
                Parser::default().feed(text.as_bytes()).unwrap(),
                [event("a", "1\n2"), event("", "ö")],
                "{end:?}"
            );
        }
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut parser = Parser::default();
        assert_eq!(parser.feed(&vec![b'x'; MAX_EVENT_BYTES + 1]), Err(TooLong));
    }

    proptest! {
        #[test]
        fn where_the_bytes_are_cut_makes_no_difference(cuts in prop::collection::vec(1usize..9, 0..60)) {
            let text = "event: message_start\r\ndata: {\"ü\":1}\r\n\r\nevent: ping\ndata: {}\n\ndata: a\ndata: b\n\n";
            let whole = Parser::default().feed(text.as_bytes()).unwrap();
            let (mut parser, mut rest, mut parts) = (Parser::default(), text.as_bytes(), Vec::new());
            for cut in cuts {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                parts.extend(parser.feed(now).unwrap());
                rest = later;
            }
            parts.extend(parser.feed(rest).unwrap());
            prop_assert_eq!(parts, whole);
        }
    }
}
