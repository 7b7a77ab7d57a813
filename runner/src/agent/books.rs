//! Writing: everything that goes into `outbound.db`, and the heartbeat.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nanoclaw_session::alive::touch_heartbeat;
use nanoclaw_session::inbound::is_transient;
use nanoclaw_session::outbound::{OutboundTx, continuation_key};
use nanoclaw_session::row::{AckStatus, ContainerState, NewMessageOut};

use super::Agent;
use crate::cost::{self, Spent};
use crate::provider::Usage;
use crate::time;

/// Tries of one write; each waits for the lock as long as the session crate allows.
const MAX_WRITE_TRIES: u32 = 10;
/// Least time between two touches of the heartbeat.
const HEARTBEAT_STEP: Duration = Duration::from_secs(1);
/// What a tool may take beyond its declared time to be killed and to report.
pub(super) const TOOL_MARGIN: Duration = Duration::from_secs(10);

impl Agent {
    /// What this session has cost with this provider.
    pub(super) fn spent(&self) -> Result<Spent> {
        let stored = self.outbound.state(&Spent::key(self.provider.name())).context("read the usage")?;
        Ok(Spent::parse(stored.as_deref()))
    }

    pub(super) fn continuation(&mut self) -> Result<Option<String>> {
        self.outbound.continuation(self.provider.name(), time::now()).context("read the continuation")
    }

    /// The host holds us to what we declare here (rule 9).
    pub(super) fn tool_started(&mut self, name: String, deadline: Option<Duration>) -> Result<()> {
        let now = time::now();
        let silent_until = deadline.map(|d| now + d + TOOL_MARGIN);
        self.silent_until = self.silent_until.max(silent_until);
        let state = ContainerState {
            current_tool: Some(name),
            tool_declared_timeout_ms: deadline.map(|d| d.as_millis().try_into().unwrap_or(i64::MAX)),
            tool_started_at: Some(now),
            phase: Some("turn".into()),
            silent_until: self.silent_until,
        };
        self.write(|tx| tx.set_container_state(&state, now))
    }

    pub(super) fn tool_ended(&mut self) -> Result<()> {
        let state =
            ContainerState { phase: Some("turn".into()), silent_until: self.silent_until, ..Default::default() };
        self.write(|tx| tx.set_container_state(&state, time::now()))
    }

    /// The end of a turn in one transaction.
    pub(super) fn end_rows(
        &mut self,
        messages: &[NewMessageOut],
        claims: &[String],
        status: AckStatus,
        continuation: Option<String>,
        costs: BTreeMap<String, Usage>,
    ) -> Result<()> {
        let key = continuation_key(self.provider.name());
        let spent = if costs.is_empty() { None } else { Some(self.spent()?.plus(&costs)) };
        let (provider, spent_key) = (self.provider.name().to_owned(), Spent::key(self.provider.name()));
        let seen_seq = self.seen_seq;
        // What stays as it is costs no page: a turn writes little, since it may be an SD card.
        let stored = self.outbound.state(&key).context("read the continuation")?;
        let continuation = continuation.filter(|new| stored.as_ref() != Some(new));
        let was_silent = self.silent_until.is_some();
        self.write(|tx| {
            let now = time::now();
            for message in messages {
                tx.insert(message, seen_seq, now)?;
            }
            if let Some(spent) = &spent {
                for report in cost::reports(&provider, &costs, now) {
                    tx.insert(&report, seen_seq, now)?;
                }
                tx.set_state(&spent_key, &spent.to_json(), now)?;
            }
            tx.acknowledge(claims.iter().map(String::as_str), status, now)?;
            if let Some(continuation) = &continuation {
                tx.set_state(&key, continuation, now)?;
            }
            if was_silent { tx.set_container_state(&ContainerState::default(), now) } else { Ok(()) }
        })?;
        self.silent_until = None;
        self.beat();
        Ok(())
    }

    /// Writes to our own database. The host's readers take short locks, so a busy file is tried
    /// again; anything else is a fault.
    pub(super) fn write<T>(&mut self, f: impl Fn(&OutboundTx<'_>) -> rusqlite::Result<T>) -> Result<T> {
        let mut tries = 1;
        loop {
            match self.outbound.write(&f) {
                Err(e) if is_transient(&e) && tries < MAX_WRITE_TRIES => tries += 1,
                result => return result.with_context(|| format!("write {}", self.dir.outbound_db().display())),
            }
        }
    }

    /// Touches the heartbeat, at most once a second. A failure costs nothing but the sign of life.
    pub(super) fn beat(&mut self) {
        if self.heartbeat_at.is_some_and(|at| at.elapsed() < HEARTBEAT_STEP) {
            return;
        }
        self.heartbeat_at = Some(Instant::now());
        if let Err(e) = touch_heartbeat(&self.dir, time::now()) {
            eprintln!("Heartbeat not touched error={e}");
        }
    }
}

/// The state of a turn of which nothing will be heard before `until`.
pub(super) fn silent(until: jiff::Timestamp) -> ContainerState {
    ContainerState { phase: Some("turn".into()), silent_until: Some(until), ..ContainerState::default() }
}
