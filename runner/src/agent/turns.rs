//! Turns: how they begin, what is heard of them, and how they end.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use crossbeam_channel::Sender;
use nanoclaw_session::content::{Answer, Outbound, Question};
use nanoclaw_session::outbound::continuation_key;
use nanoclaw_session::row::{AckStatus, Address};

use super::books::{TOOL_MARGIN, silent};
use super::{Agent, Work};
use crate::destinations::Destinations;
use crate::prompt::system;
use crate::provider::{ErrorClass, Outgoing, Prompt, TurnError, TurnEvent, TurnHandle, TurnRequest, TurnResult};
use crate::reply::{Reply, route};
use crate::turn::{Asked, Attempt, Nudge, Share, Turn};
use crate::{id, memory, time};

/// Most that is read of the instructions, and of the agent's memory. bytes
const MAX_INSTRUCTIONS_BYTES: u64 = 256 * 1024;
/// Longest wait for a limit of the model: the host believes in no silence beyond two hours (rule 9).
const MAX_PARKED: Duration = Duration::from_secs(110 * 60);

impl Agent {
    /// Starts a turn with rows that are claimed already.
    pub(super) fn start_turn(&mut self, share: Share, destinations: Arc<Destinations>) -> Result<()> {
        self.beat();
        let continuation = self.continuation()?;
        let handle = self.ask(share.prompt.clone(), &destinations, continuation)?;
        self.work = Work::Turn(Box::new(Turn::new(Asked::Prompt, handle, share, destinations)));
        Ok(())
    }

    fn ask(
        &self,
        prompt: Prompt,
        destinations: &Arc<Destinations>,
        continuation: Option<String>,
    ) -> Result<TurnHandle> {
        self.provider.start(self.request(prompt, destinations, continuation)?).context("start a turn")
    }

    pub(super) fn request(
        &self,
        prompt: Prompt,
        destinations: &Arc<Destinations>,
        continuation: Option<String>,
    ) -> Result<TurnRequest> {
        let instructions = read_or_empty(&self.dir.instructions())?;
        let memory = read_or_empty(&self.dir.memory())?;
        let system = system::prompt(&instructions, &memory, destinations);
        self.destinations.set(destinations.clone());
        let destinations = self.destinations.clone();
        Ok(TurnRequest { prompt, command: None, system, destinations, continuation })
    }

    /// The running turn, which the caller ends or puts back; `None` leaves everything as it is.
    pub(super) fn take_turn(&mut self) -> Option<Box<Turn>> {
        match std::mem::replace(&mut self.work, Work::Idle) {
            Work::Turn(turn) | Work::Parked { turn, .. } => Some(turn),
            other => {
                self.work = other;
                None
            }
        }
    }

    pub(super) fn on_turn_event(&mut self, event: TurnEvent) -> Result<()> {
        self.beat();
        if !matches!(self.work, Work::Turn(_)) {
            return Ok(());
        }
        match event {
            TurnEvent::Activity => Ok(()),
            TurnEvent::Init { continuation } => {
                let key = continuation_key(self.provider.name());
                self.write(|tx| tx.set_state(&key, &continuation, time::now()))
            }
            TurnEvent::Waiting { until } => {
                if self.silent_until.is_some_and(|declared| declared >= until) {
                    return Ok(());
                }
                self.silent_until = Some(until);
                self.write(|tx| tx.set_container_state(&silent(until), time::now()))
            }
            TurnEvent::ToolStarted { name, deadline } => self.tool_started(name, deadline),
            TurnEvent::ToolEnded => self.tool_ended(),
            TurnEvent::Cost { model, usage } => {
                if let Work::Turn(turn) = &mut self.work {
                    *turn.costs.entry(model).or_default() += usage;
                }
                Ok(())
            }
            TurnEvent::Send(outgoing) => self.send(outgoing).map(drop),
            TurnEvent::SendNumbered(outgoing, number) => {
                if let Some(seq) = self.send(outgoing)? {
                    // Who asked may be gone.
                    let _gone = number.send(seq);
                }
                Ok(())
            }
            TurnEvent::Ask { question, answer } => self.ask_people(question, answer),
            TurnEvent::Notice(text) => self.notice(text),
            TurnEvent::Result(result) => self.finish(result),
            TurnEvent::Error(error) => self.fail(error),
        }
    }

    pub(super) fn on_turn_closed(&mut self) -> Result<()> {
        if let Work::Turn(_) = self.work {
            let sentence = "My provider broke off without an answer.".into();
            return self.fail(TurnError { class: ErrorClass::Transient, sentence });
        }
        self.rest()
    }

    /// Writes what the agent sends in the middle of a turn, and returns its number.
    fn send(&mut self, outgoing: Outgoing) -> Result<Option<i64>> {
        let Work::Turn(turn) = &mut self.work else { return Ok(None) };
        let Outgoing { id, to, message } = outgoing;
        let destinations = turn.destinations.clone();
        let peer = to.as_deref().and_then(|name| destinations.by_name(name));
        if let (Some(name), None) = (&to, peer) {
            eprintln!("Message dropped reason=unknown-destination to={name:?}");
            return Ok(None);
        }
        match (&message, peer) {
            // Asked of the host: nobody has read anything.
            (Outbound::Action { .. }, _) => {}
            (Outbound::Text { text, files }, Some(peer)) if files.is_empty() => turn.sent.text(&peer.name, text),
            _ => turn.sent.other(),
        }
        let address = match (&message, peer) {
            (Outbound::Card { .. } | Outbound::Question(_), None) => destinations.routing(),
            _ => destinations.address(peer),
        };
        let row = turn.row(id, address, &message);
        let seen_seq = self.seen_seq;
        self.write(|tx| tx.insert(&row, seen_seq, time::now())).map(Some)
    }

    /// Writes a question; where the session's own chat is, the host knows best.
    fn ask_people(&mut self, question: Question, answer: Sender<Answer>) -> Result<()> {
        let Work::Turn(turn) = &mut self.work else { return Ok(()) };
        turn.questions.insert(question.question_id.clone(), answer);
        let row = turn.row(id::message(time::now()), Address::default(), &Outbound::Question(question));
        let seen_seq = self.seen_seq;
        self.write(|tx| tx.insert(&row, seen_seq, time::now()).map(drop))
    }

    /// Tells the user something in the middle of a turn, on the runner's own account.
    fn notice(&mut self, text: String) -> Result<()> {
        let Work::Turn(turn) = &self.work else { return Ok(()) };
        let row = turn.text_row(id::message(time::now()), None, text);
        let seen_seq = self.seen_seq;
        self.write(|tx| tx.insert(&row, seen_seq, time::now()).map(drop))
    }

    /// A turn has ended well - unless the agent must be told that something was not sent.
    fn finish(&mut self, result: TurnResult) -> Result<()> {
        let Some(mut turn) = self.take_turn() else { return Ok(()) };
        turn.answered(result.follow_ups_taken);
        if turn.asked == Asked::Command {
            let row = turn.text_row(id::message(time::now()), None, result.texts.join("\n\n"));
            let claims: Vec<String> = turn.claim_ids().collect();
            self.end_rows(&[row], &claims, AckStatus::Completed, result.continuation, turn.costs)?;
            return self.rest();
        }
        let outcome = route(Reply::of(&result.texts), &turn.destinations, &turn.sent);
        for message in outcome.sends {
            turn.sent.text(&message.to, &message.text);
            let row = turn.text_row(id::message(time::now()), Some(&message.to), message.text);
            turn.outbox.push(row);
        }
        match (outcome.nudge, turn.nudge) {
            (Some(note), Nudge::Unused) => return self.nudge(turn, note, result.continuation),
            (Some(note), Nudge::Used) => eprintln!("Agent not told again note={note:?}"),
            (None, _) => {}
        }
        let answers = std::mem::take(&mut turn.answers);
        let claims: Vec<String> = turn.given.claims.iter().map(|c| c.id.clone()).chain(answers).collect();
        let costs = std::mem::take(&mut turn.costs);
        self.end_rows(&turn.outbox, &claims, AckStatus::Completed, result.continuation, costs)?;
        match Share::joined(turn.pushed) {
            // They came too late for this turn, and are claimed already.
            Some(late) => self.start_turn(late, turn.destinations),
            None => self.rest(),
        }
    }

    /// Tells the agent, in the same turn, what became of its answer.
    fn nudge(&mut self, mut turn: Box<Turn>, note: String, continuation: Option<String>) -> Result<()> {
        let continuation = if continuation.is_some() { continuation } else { self.continuation()? };
        let prompt = Prompt { text: format!("A note from your runner: {note}"), ..Prompt::default() };
        turn.handle = self.ask(prompt, &turn.destinations, continuation)?;
        turn.nudge = Nudge::Used;
        if let Some(late) = Share::joined(std::mem::take(&mut turn.pushed)) {
            // A fresh turn has room for one. If it is gone already, nothing counts as answered.
            turn.handle.push(late.prompt.clone());
            turn.pushed.push(late);
        }
        self.work = Work::Turn(turn);
        Ok(())
    }

    /// A turn has failed: once more without the continuation if that was at fault, else the user
    /// is told.
    fn fail(&mut self, error: TurnError) -> Result<()> {
        let Some(mut turn) = self.take_turn() else { return Ok(()) };
        eprintln!("Turn failed class={:?} error={:?}", error.class, error.sentence);
        if error.class == ErrorClass::StaleContinuation && turn.attempt == Attempt::Continued {
            turn.gather();
            turn.handle = self.ask(turn.given.prompt.clone(), &turn.destinations, None)?;
            turn.attempt = Attempt::Afresh;
            self.work = Work::Turn(turn);
            return Ok(());
        }
        if let ErrorClass::Quota { reset } = error.class {
            let wait = Duration::try_from(reset.duration_since(time::now())).unwrap_or_default();
            let nothing_said = turn.asked == Asked::Prompt && turn.outbox.is_empty() && !turn.given.claims.is_empty();
            if wait <= MAX_PARKED && nothing_said {
                return self.park(turn, reset, wait);
            }
        }
        let claims: Vec<String> = turn.claim_ids().collect();
        // What was answered before a nudge is an answer all the same.
        let status = if turn.outbox.is_empty() { AckStatus::Failed } else { AckStatus::Completed };
        if turn.outbox.is_empty() {
            let row = turn.text_row(id::message(time::now()), None, self.sentence(error));
            turn.outbox.push(row);
        }
        let costs = std::mem::take(&mut turn.costs);
        self.end_rows(&turn.outbox, &claims, status, None, costs)?;
        self.rest()
    }

    /// The model's limit is used up: the user is told once, and the turn waits.
    fn park(&mut self, mut turn: Box<Turn>, reset: jiff::Timestamp, wait: Duration) -> Result<()> {
        let sentence = format!("{} I will go on then.", self.used_up(reset));
        let row = turn.text_row(id::message(time::now()), None, sentence);
        let first = !std::mem::replace(&mut turn.parked, true);
        let seen_seq = self.seen_seq;
        self.silent_until = Some(reset + TOOL_MARGIN);
        let state = silent(reset + TOOL_MARGIN);
        self.write(|tx| {
            if first {
                tx.insert(&row, seen_seq, time::now())?;
            }
            tx.set_container_state(&state, time::now())
        })?;
        self.work = Work::Parked { turn, until: Instant::now() + wait };
        Ok(())
    }

    /// Asks again what was parked, when it is time.
    pub(super) fn unpark(&mut self) -> Result<()> {
        if !matches!(self.work, Work::Parked { until, .. } if until <= Instant::now()) {
            return Ok(());
        }
        let Some(mut turn) = self.take_turn() else { return Ok(()) };
        let continuation = self.continuation()?;
        turn.gather();
        turn.handle = self.ask(turn.given.prompt.clone(), &turn.destinations, continuation)?;
        self.work = Work::Turn(turn);
        Ok(())
    }

    fn used_up(&self, reset: jiff::Timestamp) -> String {
        format!("The model's limit is used up until {}.", time::local(reset, &self.zone))
    }

    fn sentence(&self, error: TurnError) -> String {
        match error.class {
            ErrorClass::Quota { reset } => format!("{} Please write again then.", self.used_up(reset)),
            _ => error.sentence,
        }
    }

    /// No turn runs any more: what came meanwhile is next.
    fn rest(&mut self) -> Result<()> {
        self.work = Work::Idle;
        self.idle_since = Instant::now();
        memory::trim();
        self.look()
    }
}

/// The start of a text file; empty when there is none. The agent may have written anything into
/// its memory, so it is cut rather than refused.
fn read_or_empty(path: &Path) -> Result<String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(String::new()),
        Err(e) => return Err(e).with_context(|| format!("read {}", path.display())),
    };
    let mut bytes = Vec::new();
    file.take(MAX_INSTRUCTIONS_BYTES).read_to_end(&mut bytes).with_context(|| format!("read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
