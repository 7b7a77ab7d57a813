//! One answer of a model, however many requests that takes.

use std::io::Read;
use std::time::{Duration, Instant};

use ureq::Body;
use ureq::http::{Response, StatusCode};

use super::api::{Answer, Failure, Reader, Request, Step};
use super::engine::{Ended, Engine, error};
use super::message::Message;
use super::retry::{LONGEST_PAUSE, Retry};
use super::{media, sse};
use crate::gateway::SILENCE_TIMEOUT;
use crate::provider::{ErrorClass, TurnEvent};
use crate::stop::Stopped;
use crate::time;
use crate::tools::Spec;

/// Least time between two reports that something arrives.
const REPORT_STEP: Duration = Duration::from_millis(100);
/// Longest `retry-after` that is believed: a month.
const MAX_RETRY_AFTER_SECONDS: u64 = 31 * 24 * 3_600;
const MAX_ERROR_BODY_BYTES: u64 = 64 * 1024;
const READ_BYTES: usize = 8 * 1024;

/// Why a model gave no answer.
pub enum Unanswered {
    Ended(Ended),
    /// The conversation does not fit its window.
    TooLong(String),
    /// The request is at fault: perhaps the history.
    Invalid(String),
}

/// Why one request got none.
enum Missed {
    Stopped,
    Failure(Failure, Option<Duration>, StatusCode),
}

impl From<Stopped> for Missed {
    fn from(_: Stopped) -> Missed {
        Missed::Stopped
    }
}

impl From<Stopped> for Unanswered {
    fn from(stopped: Stopped) -> Unanswered {
        Unanswered::Ended(stopped.into())
    }
}

fn again(why: String) -> Missed {
    Missed::Failure(Failure::Again { why }, None, StatusCode::OK)
}

impl Engine {
    /// Asks until there is an answer. `said` holds what came of the last one, whole or not. `begun` is called
    /// when an answer begins.
    pub(super) fn ask(
        &self,
        mut messages: Vec<Message>,
        tools: &[Spec],
        said: &mut Answer,
        mut begun: impl FnMut() -> Result<(), Stopped>,
    ) -> Result<(), Unanswered> {
        media::fit(&mut messages);
        let request = Request {
            model: &self.model,
            effort: self.effort.as_deref(),
            system: &self.system,
            messages: &messages,
            tools,
        };
        let body = self.api.body(&request);
        drop(messages);
        let mut retry = Retry::new(Instant::now());
        self.emit(TurnEvent::Waiting { until: time::now() + SILENCE_TIMEOUT })?;
        loop {
            *said = Answer::default();
            let (failure, retry_after, status) = match self.attempt(&body, said, &mut begun) {
                Ok(()) => {
                    self.emit(TurnEvent::Cost { model: self.model.clone(), usage: said.usage })?;
                    return Ok(());
                }
                Err(Missed::Stopped) => return Err(Stopped.into()),
                Err(Missed::Failure(failure, retry_after, status)) => (failure, retry_after, status),
            };
            // What looks like a fault of the network may be the word to stop.
            self.stop.check()?;
            let why = match failure {
                Failure::TooLong { why } => return Err(Unanswered::TooLong(why)),
                Failure::Final { class: ErrorClass::InvalidRequest, sentence } if status == StatusCode::BAD_REQUEST => {
                    return Err(Unanswered::Invalid(sentence));
                }
                Failure::Final { class, sentence } => return Err(Unanswered::Ended(error(class, sentence).into())),
                Failure::Limited { why } => match retry_after {
                    Some(pause) if pause > LONGEST_PAUSE => {
                        let class = ErrorClass::Quota { reset: time::now() + pause };
                        return Err(Unanswered::Ended(error(class, why).into()));
                    }
                    _ => why,
                },
                Failure::Again { why } => why,
            };
            let Some(pause) = retry.next(Instant::now(), retry_after) else {
                let sentence = format!("The model could not be reached; I tried for a while. ({why})");
                return Err(Unanswered::Ended(error(ErrorClass::Transient, sentence).into()));
            };
            eprintln!("Request failed, trying again error={why:?} in_ms={}", pause.as_millis());
            self.emit(TurnEvent::Waiting { until: time::now() + pause + SILENCE_TIMEOUT })?;
            self.stop.wait(pause)?;
        }
    }

    /// One request.
    fn attempt(
        &self,
        body: &[u8],
        said: &mut Answer,
        begun: &mut impl FnMut() -> Result<(), Stopped>,
    ) -> Result<(), Missed> {
        let mut request = self
            .client
            .post(self.gateway.url(self.api.path()))
            .header("content-type", "application/json")
            .header("accept", "text/event-stream");
        for (name, value) in self.api.headers(self.gateway.token()) {
            request = request.header(name, value);
        }
        let response = request.send(body).map_err(|e| again(format!("no connection: {e}")))?;
        if response.status() != StatusCode::OK {
            return Err(self.refusal(response));
        }
        begun()?;
        let mut reader = self.api.reader();
        let read = self.read_answer(reader.as_mut(), response.into_body().into_reader());
        *said = std::mem::take(reader.answer());
        read
    }

    /// Reads the stream to its end.
    fn read_answer(&self, reader: &mut dyn Reader, mut body: impl Read) -> Result<(), Missed> {
        let mut parser = sse::Parser::default();
        let mut reported: Option<Instant> = None;
        let mut buffer = [0; READ_BYTES];
        loop {
            let n = body.read(&mut buffer).map_err(|e| again(format!("the answer broke off: {e}")))?;
            if n == 0 {
                return match reader.end_of_body() {
                    Ok(Step::Done) => Ok(()),
                    Ok(Step::More) => Err(again("the answer broke off".into())),
                    Err(failure) => Err(Missed::Failure(failure, None, StatusCode::OK)),
                };
            }
            for event in parser.feed(&buffer[..n]).map_err(|e| again(e.to_string()))? {
                match reader.event(&event.name, &event.data) {
                    Ok(Step::More) => {}
                    Ok(Step::Done) => return Ok(()),
                    Err(failure) => return Err(Missed::Failure(failure, None, StatusCode::OK)),
                }
            }
            if reported.is_none_or(|at| at.elapsed() >= REPORT_STEP) {
                reported = Some(Instant::now());
                self.emit(TurnEvent::Activity)?;
            }
        }
    }

    /// What an answer that is not 200 means.
    fn refusal(&self, response: Response<Body>) -> Missed {
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
        Missed::Failure(self.api.refusal(status.as_u16(), &body), retry_after, status)
    }
}
