//! When a container does not start, or a message cannot be answered: what is wrong, what helps,
//! and telling the person who waits, once.

use std::fmt;

use anyhow::Result;

use super::Actor;
use super::decide::Wait;
use crate::config::Settings;
use crate::container::docker::{Docker, DockerError};
use crate::delivery;
use crate::destinations;
use crate::notice::{self, Repeat};
use crate::store::{EndReason, Inserted, Session};
use crate::thread::tell;

/// Containers that die without having taken a message before their user is told.
pub const CRASHES_BEFORE_NOTICE: u32 = 3;

/// Why an agent cannot be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartFault {
    /// The engine or its CLI is not there.
    Engine(DockerError),
    ImageMissing(String),
    RunnerMissing(String),
    /// The engine refused this container.
    Refused(String),
    /// There is no room for it now.
    NoRoom(Wait),
    /// Our own preparations failed.
    Setup(String),
    /// It starts and dies, over and over.
    Crashing(EndReason),
}

/// What is said once, until it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// Containers do not start; over with the first that does.
    Start,
    /// They start and die; over with the first that lives to do something.
    Crash,
    /// There was no room; over with the first that starts.
    Wait,
}

impl FaultKind {
    /// The key under which the notice is said; it is released when the fault is over.
    pub fn key(self, session_id: &str) -> String {
        match self {
            FaultKind::Start => format!("start-fault:{session_id}"),
            FaultKind::Crash => format!("crash-loop:{session_id}"),
            FaultKind::Wait => format!("no-room:{session_id}"),
        }
    }
}

impl fmt::Display for StartFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartFault::Engine(e @ DockerError::NotInstalled { .. }) => write!(f, "{e}"),
            StartFault::Engine(e) => {
                let e = e.to_string();
                write!(
                    f,
                    "the container engine is not usable ({}): `nanoclaw doctor` checks it, `make run` starts it",
                    e.trim_end_matches('.')
                )
            }
            StartFault::ImageMissing(image) => write!(f, "there is no image {image}: build it with `make image`"),
            StartFault::RunnerMissing(path) => write!(f, "there is no runner at {path}: build it with `make build`"),
            StartFault::Refused(words) => write!(f, "the container engine refused to start it: {words}"),
            StartFault::NoRoom(wait) => write!(f, "{wait}"),
            StartFault::Setup(why) => write!(f, "its files could not be prepared: {why}"),
            StartFault::Crashing(EndReason::Oom) => {
                f.write_str("it runs out of memory each time it starts: raise CONTAINER_MEMORY")
            }
            StartFault::Crashing(_) => f.write_str("it ends each time it starts: `nanoclaw logs` shows its last words"),
        }
    }
}

impl StartFault {
    fn kind(&self) -> FaultKind {
        match self {
            StartFault::Crashing(_) => FaultKind::Crash,
            StartFault::NoRoom(_) => FaultKind::Wait,
            _ => FaultKind::Start,
        }
    }

    /// Finds out what a failed `docker run` was about, by asking about each thing it needs: the
    /// CLI has one exit code for all of them. Worker thread.
    pub fn diagnose(docker: &Docker, settings: &Settings, image: &str, error: DockerError) -> StartFault {
        let runner = &settings.containers.runner;
        match error {
            DockerError::Failed(words) => {
                if !runner.is_file() {
                    return StartFault::RunnerMissing(runner.display().to_string());
                }
                match docker.image_id(image) {
                    Ok(Some(_)) => StartFault::Refused(words),
                    Ok(None) => StartFault::ImageMissing(image.to_owned()),
                    Err(e) => StartFault::Engine(e),
                }
            }
            other => StartFault::Engine(other),
        }
    }
}

impl Actor {
    /// Tells the user of a session why nothing happens, once until it works again.
    pub(super) fn tell_waiting(&self, session_id: &str, fault: &StartFault) -> Result<()> {
        let session = self.parts.store.session(session_id)?;
        let text = format!("I cannot start right now: {fault}. Your message is kept, and I keep trying.");
        self.tell(&session, &text, Repeat::OncePer(&fault.kind().key(session_id)))
    }

    /// That works again: the next fault of this kind is news.
    pub(super) fn clear_faults(&self, session_id: &str, kind: FaultKind) -> Result<()> {
        Ok(self.parts.store.release_dedup_key(&kind.key(session_id))?)
    }

    /// Tells the user that a message is given up.
    pub(super) fn tell_failed(&self, session: &Session, message_id: &str) -> Result<()> {
        let quoted = self.open_inbound(session)?.message(message_id)?.map(|m| excerpt(&m.kind, &m.content));
        let about = quoted.filter(|q| !q.is_empty()).map_or(String::new(), |q| format!(" (\"{q}\")"));
        let tries = super::decide::MAX_TRIES;
        let text = format!(
            "I could not answer your message{about}: I tried {tries} times, and each time my container ended before I was done. Please send it again or put it differently."
        );
        self.tell(session, &text, Repeat::OncePer(&format!("failed:{}:{message_id}", session.id)))
    }

    fn tell(&self, session: &Session, text: &str, repeat: Repeat<'_>) -> Result<()> {
        let Some(chat) = destinations::own_chat(&self.parts.store, session)? else { return Ok(()) };
        if notice::post(&self.parts.store, &chat, session.thread_id.as_deref(), text, repeat)? == Inserted::New {
            tell(&self.parts.delivery, delivery::Event::HostOutbox);
        }
        Ok(())
    }
}

fn excerpt(kind: &nanoclaw_session::row::InKind, content: &str) -> String {
    use nanoclaw_session::content::Inbound;
    const MAX_CHARS: usize = 60;
    let text = match Inbound::parse(*kind, content) {
        Inbound::Chat(chat) => chat.text,
        Inbound::Task(task) => task.prompt,
        Inbound::Webhook(hook) => hook.event,
        Inbound::System(_) => String::new(),
    };
    let mut cut: String = text.chars().take(MAX_CHARS).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    cut
}
