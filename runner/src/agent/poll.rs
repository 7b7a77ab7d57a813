//! Looking: which rows are new, and what becomes of them - a turn, a follow-up, a command.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nanoclaw_session::content::{Answer, ChatIn, Control, Inbound, System};
use nanoclaw_session::inbound::is_transient;
use nanoclaw_session::inbound::reader::{InboundView, look};
use nanoclaw_session::outbound::continuation_key;
use nanoclaw_session::question::Outcome;
use nanoclaw_session::row::{AckStatus, InKind, MessageIn, Trigger};

use super::{Agent, Work};
use crate::batch::{self, Gate, Poll};
use crate::command::{self, Command};
use crate::destinations::Destinations;
use crate::prompt::format;
use crate::provider::{self, TurnHandle, TurnRequest};
use crate::turn::{Asked, Share, Turn};
use crate::{id, time};

/// First pause before a look that found the file in the middle of something; it doubles.
const LOOK_AGAIN: Duration = Duration::from_millis(3);
const LOOK_AGAIN_MAX: Duration = Duration::from_millis(200);
/// Due times are compared in milliseconds; waking a little late saves a second look.
const DUE_MARGIN: Duration = Duration::from_millis(2);

/// What one look at `inbound.db` showed.
struct Seen {
    max_seq: i64,
    next_due: Option<jiff::Timestamp>,
    controls: Vec<(String, Control)>,
    /// For tools that wait.
    answers: Vec<(String, Answer)>,
    /// What became of questions nobody waits for any more, and was no answer.
    stale: Vec<String>,
    rows: Vec<MessageIn>,
    destinations: Arc<Destinations>,
}

impl Agent {
    /// Looks at `inbound.db` and acts on what is new.
    pub(super) fn look(&mut self) -> Result<()> {
        let seen = match look(&self.dir, |view| self.read(view)) {
            Ok(seen) => seen,
            Err(e) if is_transient(&e) => {
                let pause = self.busy.map_or(LOOK_AGAIN, |last| (last * 2).min(LOOK_AGAIN_MAX));
                self.busy = Some(pause);
                self.look_at = Some(Instant::now() + pause);
                return Ok(());
            }
            Err(e) => return Err(e).with_context(|| format!("read {}", self.dir.inbound_db().display())),
        };
        self.busy = None;
        self.poll = Poll::Later;
        self.seen_seq = self.seen_seq.max(seen.max_seq);
        self.look_at = seen.next_due.map(|due| {
            let wait = due.duration_since(time::now());
            Instant::now() + Duration::try_from(wait).unwrap_or(Duration::ZERO) + DUE_MARGIN
        });
        for (id, control) in seen.controls {
            self.obey(&id, control)?;
        }
        if !seen.stale.is_empty() {
            let stale = || seen.stale.iter().map(String::as_str);
            self.write(|tx| tx.acknowledge(stale(), AckStatus::Completed, time::now()))?;
        }
        for (id, answer) in seen.answers {
            self.hand_over(id, answer)?;
        }
        let was_woken = std::mem::take(&mut self.woken);
        let mut rows = seen.rows;
        let command = command_alone(&mut rows);
        if rows.is_empty() {
            return match self.work {
                // What the provider has to say answers no row.
                Work::Idle if was_woken => {
                    self.start_turn(Share::new(&[], String::new(), Vec::new()), seen.destinations)
                }
                _ => Ok(()),
            };
        }
        let text = format::batch(&rows, &seen.destinations, &self.zone, self.dir.root());
        let share = Share::new(&rows, text, format::files(&rows, self.dir.root()));
        match (&self.work, command) {
            (Work::Idle, Some(command)) => self.command(command, share, seen.destinations),
            (_, Some(_)) | (Work::Stopping(_) | Work::Parked { .. }, None) => Ok(()),
            (Work::Idle, None) => {
                self.claim(&share.prompt.message_ids)?;
                self.start_turn(share, seen.destinations)
            }
            (Work::Turn(turn), None) if turn.asked == Asked::Command => Ok(()),
            (Work::Turn(_), None) => self.push(share, seen.destinations),
        }
    }

    /// Everything a look needs, of one moment.
    fn read(&self, view: &InboundView) -> rusqlite::Result<Seen> {
        let now = time::now();
        let mut pending = Vec::new();
        for row in view.pending(now)? {
            if self.outbound.ack(&row.id)?.is_none() {
                pending.push(row);
            }
        }
        let (mut controls, mut answers, mut stale) = (Vec::new(), Vec::new(), Vec::new());
        for row in pending.iter_mut().filter(|row| row.kind == InKind::System) {
            let content = view.message(&row.id)?.map(|m| Inbound::parse(m.kind, &m.content));
            match content {
                Some(Inbound::System(Some(System::Control(control)))) => controls.push((row.id.clone(), control)),
                Some(Inbound::System(Some(System::Answer(answer)))) => match &answer.outcome {
                    _ if self.awaits(&answer) => answers.push((row.id.clone(), answer)),
                    // Somebody has chosen, and is not to be ignored.
                    Outcome::Chosen { .. } => row.kind = InKind::Chat,
                    Outcome::Expired | Outcome::Withdrawn { .. } => stale.push(row.id.clone()),
                },
                _ => {}
            }
        }
        let gate = match self.work {
            Work::Idle => Gate::NeedsTrigger,
            Work::Turn(_) | Work::Stopping(_) | Work::Parked { .. } => Gate::Open,
        };
        let max = self.config.max_messages_per_prompt as usize;
        let mut rows = Vec::new();
        for row in batch::select(&pending, max, self.poll, gate) {
            rows.extend(view.message(&row.id)?.map(late_answer));
        }
        let destinations =
            if rows.is_empty() && !self.woken { Destinations::default() } else { read_destinations(view)? };
        let (max_seq, next_due) = (view.max_seq()?, view.next_due(now)?);
        Ok(Seen { max_seq, next_due, controls, answers, stale, rows, destinations: Arc::new(destinations) })
    }

    /// Whether a tool of the running turn waits for this.
    fn awaits(&self, answer: &Answer) -> bool {
        matches!(&self.work, Work::Turn(turn) if turn.questions.contains_key(&answer.question_id))
    }

    /// Gives a tool the answer it waits for. The row stays claimed until the end of the turn: a successor of ours finds
    /// it again.
    fn hand_over(&mut self, row_id: String, answer: Answer) -> Result<()> {
        let Work::Turn(turn) = &mut self.work else { return Ok(()) };
        let Some(waiting) = turn.questions.remove(&answer.question_id) else { return Ok(()) };
        if waiting.try_send(answer).is_err() {
            // It has just given up. To the next look, nobody waits.
            self.look_at = Some(Instant::now());
            return Ok(());
        }
        turn.answers.push(row_id.clone());
        self.claim(&[row_id])
    }

    fn claim(&mut self, ids: &[String]) -> Result<()> {
        self.write(|tx| tx.acknowledge(ids.iter().map(String::as_str), AckStatus::Processing, time::now()))
    }

    /// Answers a slash command, in a turn of its own.
    fn command(&mut self, command: Command, share: Share, destinations: Arc<Destinations>) -> Result<()> {
        self.claim(&share.prompt.message_ids)?;
        let continuation = self.continuation()?;
        let text = match command {
            Command::Provider(command) if continuation.is_some() => {
                let request = self.request(share.prompt.clone(), &destinations, continuation)?;
                let handle = self.provider.start(TurnRequest { command: Some(command), ..request });
                return self.run_command(handle, share, destinations);
            }
            Command::Provider(_) => "We have no conversation yet.".into(),
            Command::Clear => {
                let key = continuation_key(self.provider.name());
                self.write(|tx| tx.forget_state(&key))?;
                "I have forgotten our conversation; my files and my memory are as they were.".into()
            }
            Command::Cost => self.spent()?.shown(),
            Command::Files => command::files(&self.dir.root().join("agent")),
        };
        self.run_command(provider::say(text), share, destinations)
    }

    fn run_command(
        &mut self,
        handle: std::io::Result<TurnHandle>,
        share: Share,
        destinations: Arc<Destinations>,
    ) -> Result<()> {
        let handle = handle.context("start a turn")?;
        self.work = Work::Turn(Box::new(Turn::new(Asked::Command, handle, share, destinations)));
        Ok(())
    }

    /// Hands new rows to the running turn; what it does not take stays pending for the next one.
    pub(super) fn push(&mut self, share: Share, destinations: Arc<Destinations>) -> Result<()> {
        let Work::Turn(turn) = &mut self.work else { return Ok(()) };
        if !turn.handle.push(share.prompt.clone()) {
            return Ok(());
        }
        self.destinations.set(destinations.clone());
        turn.destinations = destinations;
        let ids = share.prompt.message_ids.clone();
        turn.pushed.push(share);
        self.claim(&ids)?;
        // There may be more than one batch.
        self.look()
    }

    fn obey(&mut self, id: &str, control: Control) -> Result<()> {
        let Control::Stop = control;
        let Some(mut turn) = self.take_turn() else {
            return self.write(|tx| tx.acknowledge([id], AckStatus::Completed, time::now()));
        };
        eprintln!("Turn stopped");
        let rows = [turn.text_row(id::message(time::now()), None, "Stopped.".into())];
        let claims: Vec<String> = turn.claim_ids().chain([id.to_owned()]).collect();
        let costs = std::mem::take(&mut turn.costs);
        self.work = Work::Stopping(turn.handle.stop());
        self.end_rows(&rows, &claims, AckStatus::Completed, None, costs)
    }
}

/// A command stands alone: what came before it is answered first, and what came after it next. `Some` leaves nothing
/// but its row.
fn command_alone(rows: &mut Vec<MessageIn>) -> Option<Command> {
    let (at, command) = rows.iter().enumerate().find_map(|(at, row)| Some((at, command::of(row)?)))?;
    if rows[..at].iter().any(|row| row.trigger == Trigger::Wake) {
        rows.truncate(at);
        return None;
    }
    rows.swap(0, at);
    rows.truncate(1);
    Some(command)
}

/// An answer nobody waits for is a message like any: who chose says what.
fn late_answer(row: MessageIn) -> MessageIn {
    let Inbound::System(Some(System::Answer(Answer { title, outcome: Outcome::Chosen { option, by }, .. }))) =
        Inbound::parse(row.kind, &row.content)
    else {
        return row;
    };
    let text = format!("(In answer to your earlier question {title:?}:) {option}");
    let content = ChatIn { text, sender: by, ..ChatIn::default() }.to_json();
    MessageIn { kind: InKind::Chat, content, ..row }
}

fn read_destinations(view: &InboundView) -> rusqlite::Result<Destinations> {
    let routing = view.routing()?;
    let thread = match (&routing.channel_type, &routing.platform_id) {
        (Some(channel), Some(platform)) => view.latest_thread(channel, platform)?,
        _ => None,
    };
    Ok(Destinations::new(view.destinations()?, routing, thread))
}
