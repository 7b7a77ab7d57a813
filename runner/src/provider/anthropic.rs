//! The Messages API, streamed, through the host's gateway.
//!
//! The API is stateless: each request sends the whole history, and the continuation is the name of
//! its file. Follow-ups that came meanwhile are asked in the same turn. What is transient is retried
//! here, by the rule in [`retry`]. A turn that fails takes its lines back out of the history.
//!
//! A request that the API calls invalid may be so because of the history. With one, the turn is
//! reported as stale, which makes the agent ask once more without; the old history is given up
//! only when that works.

mod history;
mod request;
mod retry;
mod sse;
mod stream;

use std::io::{self, Read};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nanoclaw_session::layout::SessionDir;
use ureq::Body;
use ureq::http::{Response, StatusCode};

use self::history::{History, Role};
use self::retry::{LONGEST_PAUSE, Retry};
use self::stream::{Answer, Fault, Step};
use super::{ErrorClass, Prompt, Provider, Stopped, TurnError, TurnEvent, TurnHandle, TurnPort, TurnRequest};
use crate::gateway::{Gateway, SILENCE_TIMEOUT};
use crate::time;

pub const NAME: &str = "anthropic";

/// The model when `container.json` names none.
const DEFAULT_MODEL: &str = "claude-sonnet-5-5";
const API_VERSION: &str = "2023-06-01";
/// Least time between two reports that something arrives.
const REPORT_STEP: Duration = Duration::from_millis(100);
/// Longest `retry-after` that is believed: a month.
const MAX_RETRY_AFTER_SECONDS: u64 = 31 * 24 * 3_600;
const MAX_ERROR_BODY_BYTES: u64 = 64 * 1024;
const READ_BYTES: usize = 8 * 1024;

/// What stands in the history for a reply that was cut short by the user.
const STOPPED_NOTE: &str = "[The user stopped this reply.]";
/// What the user reads below a reply that the model could not end.
const CUT_OFF_NOTE: &str = "[The answer was cut off here: it reached the model's limit.]";

/// See the module.
#[derive(Debug, Clone)]
pub struct Anthropic {
    gateway: Gateway,
    model: String,
    /// Where the histories are.
    folder: PathBuf,
}

impl Anthropic {
    pub fn new(gateway: Gateway, model: Option<String>, dir: &SessionDir) -> Anthropic {
        let model = model.filter(|m| !m.trim().is_empty()).unwrap_or_else(|| DEFAULT_MODEL.into());
        Anthropic { gateway, model, folder: dir.state().join(NAME) }
    }
}

impl Provider for Anthropic {
    fn name(&self) -> &str {
        NAME
    }

    fn start(&self, request: TurnRequest) -> io::Result<TurnHandle> {
        let client = self.gateway.client();
        let interrupted = client.clone();
        let turn = Turn { client, provider: self.clone(), system: request.system.clone() };
        super::spawn(move || interrupted.shutdown(), move |port| turn.run(port, request))
    }
}

struct Turn {
    client: ureq::Agent,
    provider: Anthropic,
    system: String,
}

/// Why there is no answer.
enum Ended {
    Stopped,
    Failed(TurnError),
}

/// Why one request got none.
enum Missed {
    /// There will be none.
    Ended(Ended),
    /// Worth another try, after what the server asked for if it did.
    Again { why: String, retry_after: Option<Duration> },
}

impl From<Stopped> for Ended {
    fn from(_: Stopped) -> Ended {
        Ended::Stopped
    }
}

impl From<Stopped> for Missed {
    fn from(_: Stopped) -> Missed {
        Missed::Ended(Ended::Stopped)
    }
}

impl From<TurnError> for Missed {
    fn from(error: TurnError) -> Missed {
        Missed::Ended(Ended::Failed(error))
    }
}

fn error(class: ErrorClass, sentence: String) -> TurnError {
    TurnError { class, sentence }
}

fn disk_error(e: &io::Error) -> TurnError {
    error(ErrorClass::Transient, format!("I could not store our conversation: {e}."))
}

impl Turn {
    fn run(self, port: TurnPort, request: TurnRequest) -> Result<(), Stopped> {
        let opened = match request.continuation.as_deref() {
            None => History::create(&self.provider.folder).map(Some),
            Some(name) => History::open(&self.provider.folder, name),
        };
        let mut history = match opened {
            Ok(Some(history)) => history,
            Ok(None) => return port.fail(error(ErrorClass::StaleContinuation, "I lost our conversation.".into())),
            Err(e) => return port.fail(disk_error(&e)),
        };
        if let Err(e) = history.begin(&request.prompt) {
            return port.fail(disk_error(&e));
        }
        self.converse(port, history)
    }

    /// Asks until no follow-up is left.
    fn converse(self, mut port: TurnPort, mut history: History) -> Result<(), Stopped> {
        let mut texts = Vec::new();
        loop {
            let mut answer = Answer::default();
            match self.ask(&mut port, &mut history, &mut answer) {
                Ok(()) => {}
                Err(Ended::Stopped) => {
                    let said = format!("{}\n\n{STOPPED_NOTE}", answer.text);
                    if let Err(e) = history.append(Role::Assistant, &[], said.trim()).and_then(|()| history.sync()) {
                        eprintln!("History not written error={e}");
                    }
                    return Err(Stopped);
                }
                Err(Ended::Failed(error)) => {
                    history.roll_back();
                    return port.fail(error);
                }
            }
            let follow_ups = port.take_follow_ups()?;
            if let Err(e) = record(&mut history, &answer, &follow_ups) {
                return port.fail(disk_error(&e));
            }
            texts.push(answer.with_note());
            if follow_ups.is_empty() {
                return port.finish(texts, None);
            }
        }
    }

    /// One answer to the history as it is, however many requests that takes.
    fn ask(&self, port: &mut TurnPort, history: &mut History, answer: &mut Answer) -> Result<(), Ended> {
        let body = request::body(&self.provider.model, &self.system, &history.messages());
        let mut retry = Retry::new(Instant::now());
        port.emit(TurnEvent::Waiting { until: time::now() + SILENCE_TIMEOUT })?;
        loop {
            *answer = Answer::default();
            let (why, retry_after) = match self.attempt(port, history, &body, answer) {
                Ok(()) => return Ok(()),
                Err(Missed::Ended(ended)) => return Err(ended),
                Err(Missed::Again { why, retry_after }) => (why, retry_after),
            };
            port.check()?;
            let Some(pause) = retry.next(Instant::now(), retry_after) else {
                let sentence = format!("The model could not be reached; I tried for a while. ({why})");
                return Err(Ended::Failed(error(ErrorClass::Transient, sentence)));
            };
            eprintln!("Request failed, trying again error={why:?} in_ms={}", pause.as_millis());
            port.emit(TurnEvent::Waiting { until: time::now() + pause + SILENCE_TIMEOUT })?;
            port.wait(pause)?;
        }
    }

    /// One request.
    fn attempt(&self, port: &TurnPort, history: &mut History, body: &[u8], answer: &mut Answer) -> Result<(), Missed> {
        let response = self
            .client
            .post(self.provider.gateway.url("/v1/messages"))
            .header("x-api-key", self.provider.gateway.token())
            .header("anthropic-version", API_VERSION)
            .header("content-type", "application/json")
            .header("accept", "text/event-stream")
            .send(body)
            .map_err(|e| again(format!("no connection: {e}")))?;
        if response.status() != StatusCode::OK {
            return Err(refusal(response, history));
        }
        if history.announce() {
            port.emit(TurnEvent::Init { continuation: history.name().to_owned() })?;
        }
        read_answer(port, response.into_body().into_reader(), answer)
    }
}

/// Writes down an answer and what the user said meanwhile; the last one also to the disk.
fn record(history: &mut History, answer: &Answer, follow_ups: &[Prompt]) -> io::Result<()> {
    history.append(Role::Assistant, &[], &answer.text)?;
    for prompt in follow_ups {
        history.append(Role::User, &prompt.message_ids, &prompt.text)?;
    }
    if follow_ups.is_empty() { history.sync() } else { Ok(()) }
}

fn again(why: String) -> Missed {
    Missed::Again { why, retry_after: None }
}

/// Reads the stream to its end. `answer` always holds what was said so far.
fn read_answer(port: &TurnPort, mut body: impl Read, answer: &mut Answer) -> Result<(), Missed> {
    let mut parser = sse::Parser::default();
    let mut reported: Option<Instant> = None;
    let mut buffer = [0; READ_BYTES];
    loop {
        let n = body.read(&mut buffer).map_err(|e| again(format!("the answer broke off: {e}")))?;
        if n == 0 {
            return Err(again("the answer broke off".into()));
        }
        for event in parser.feed(&buffer[..n]).map_err(|e| again(e.to_string()))? {
            match answer.apply(&event) {
                Ok(Step::More) => {}
                Ok(Step::Done) => return Ok(()),
                Err(Fault::Refused) => {
                    return Err(error(ErrorClass::Refused, "The model declined to answer that.".into()).into());
                }
                Err(Fault::Reported { kind, message }) => return Err(reported_fault(&kind, &message)),
                Err(Fault::Unreadable(why)) => return Err(again(why)),
            }
        }
        if reported.is_none_or(|at| at.elapsed() >= REPORT_STEP) {
            reported = Some(Instant::now());
            port.emit(TurnEvent::Activity)?;
        }
    }
}

/// An error in the middle of a stream.
fn reported_fault(kind: &str, message: &str) -> Missed {
    match kind {
        "invalid_request_error" | "not_found_error" | "request_too_large" => invalid(message).into(),
        "authentication_error" | "permission_error" => bad_key(message).into(),
        _ => again(format!("{kind}: {message}")),
    }
}

fn invalid(message: &str) -> TurnError {
    error(ErrorClass::InvalidRequest, format!("The model rejected the request: {message}"))
}

fn bad_key(message: &str) -> TurnError {
    error(ErrorClass::Auth, format!("The model refused the key ({message}). The owner has to set a valid one."))
}

/// What an answer that is not 200 means.
fn refusal(response: Response<Body>, history: &History) -> Missed {
    let status = response.status();
    let retry_after = response
        .headers()
        .get("retry-after")
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.trim().parse().ok())
        .map(|seconds: u64| Duration::from_secs(seconds.min(MAX_RETRY_AFTER_SECONDS)));
    let mut body = String::new();
    // What cannot be read of an error's text only makes the message poorer.
    let _partial = response.into_body().into_reader().take(MAX_ERROR_BODY_BYTES).read_to_string(&mut body);
    let message = request::error_message(&body).unwrap_or_else(|| format!("HTTP {status}"));
    match status.as_u16() {
        401 | 403 => bad_key(&message).into(),
        400 | 413 if history.has_past() => error(ErrorClass::StaleContinuation, invalid(&message).sentence).into(),
        429 => match retry_after {
            Some(pause) if pause > LONGEST_PAUSE => {
                error(ErrorClass::Quota { reset: time::now() + pause }, message).into()
            }
            _ => Missed::Again { why: message, retry_after },
        },
        code @ (408 | 409 | 500..=599) => Missed::Again { why: format!("{message} (HTTP {code})"), retry_after },
        _ => invalid(&message).into(),
    }
}
