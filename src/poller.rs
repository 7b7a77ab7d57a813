//! The poller: one thread per channel that brings messages in.
//!
//! It owns its channel's cursor, and moves it only after the router said that the batch is on
//! disk: a crash in between brings the batch again, and repeated messages are absorbed.

use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};

use crate::channel::{Inbound, PollError, Polled, Ready, Stop};
use crate::delivery;
use crate::router;
use crate::store::Store;
use crate::thread;

/// First wait after a failed poll; doubled for each further one.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// Longest such wait.
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// How often a wait for the router looks whether to stop.
const ACCEPT_TICK: Duration = Duration::from_millis(500);

/// What a poller works with.
pub struct Poller {
    pub channel: &'static str,
    pub inbound: Box<dyn Inbound>,
    pub store: Store,
    pub router: Sender<router::Event>,
    pub delivery: Sender<delivery::Event>,
    pub stop: Stop,
    /// In a cycle: dropped once the channel was asked for all it had.
    pub polled: Option<Sender<bool>>,
}

/// Whether the poller goes on.
enum Flow {
    Continue,
    /// Not all of a batch could be stored: it comes again.
    Rejected,
    Stop,
}

impl Poller {
    /// The thread's body: returns when told to stop, or when the channel cannot go on.
    pub fn run(mut self) {
        let account = self.inbound.account();
        let mut cursor = match self.store.cursor(&account) {
            Ok(cursor) => cursor,
            Err(e) => return log::error!("A channel's cursor could not be read channel={} error={e}", self.channel),
        };
        let mut failures = 0u32;
        loop {
            let tick = thread::beat();
            let limit = if self.polled.is_some() { Some(Duration::ZERO) } else { tick };
            match self.inbound.poll(cursor.as_deref(), &self.stop.within(limit)) {
                Ok(polled) => {
                    let brought = !polled.messages.is_empty();
                    match self.hand_over(polled, &account, &mut cursor) {
                        Flow::Stop => return,
                        Flow::Rejected => self.failed(&mut failures, "its messages could not be stored"),
                        Flow::Continue if failures > 0 => {
                            log::info!("Channel recovered channel={} after_errors={failures}", self.channel);
                            failures = 0;
                        }
                        Flow::Continue => {}
                    }
                    self.polled.take_if(|_| !brought);
                }
                Err(PollError::Transient(why)) => self.failed(&mut failures, &why),
                Err(PollError::Fatal(why)) => {
                    // The others go on: this thread waits for the end.
                    log::error!("Channel stopped channel={} error={why}", self.channel);
                    self.polled = None;
                    return self.rest(Duration::MAX);
                }
            }
            if matches!(self.stop.wait(Duration::ZERO), Ok(true)) {
                return;
            }
        }
    }

    /// Rests after one more failure in a row. A cycle does not wait for the next try.
    fn failed(&mut self, failures: &mut u32, why: &str) {
        *failures = failures.saturating_add(1);
        let wait = (FIRST_BACKOFF * 2u32.pow((*failures - 1).min(10))).min(MAX_BACKOFF);
        log::warn!("Channel failed channel={} wait_s={} error={why}", self.channel, wait.as_secs());
        self.polled = None;
        self.rest(wait);
    }

    /// Waits so long, or until told to stop.
    fn rest(&self, wait: Duration) {
        let started = Instant::now();
        while let Some(left) = wait.checked_sub(started.elapsed()) {
            if !matches!(self.stop.wait(left.min(thread::beat().unwrap_or(MAX_BACKOFF))), Ok(false)) {
                return;
            }
        }
    }

    fn hand_over(&mut self, polled: Polled, account: &str, cursor: &mut Option<String>) -> Flow {
        if polled.ready == Ready::NowReachable
            && self.delivery.send(delivery::Event::Ready { channel: self.channel }).is_err()
        {
            return Flow::Stop;
        }
        if !polled.messages.is_empty() {
            let (accepted, on_disk) = bounded(1);
            if self.router.send(router::Event::Batch { messages: polled.messages, accepted }).is_err() {
                return Flow::Stop;
            }
            loop {
                match thread::next(&on_disk, Some(Instant::now() + ACCEPT_TICK)) {
                    Ok(Some(())) => break,
                    Ok(None) => {
                        if matches!(self.stop.wait(Duration::ZERO), Ok(true)) {
                            return Flow::Stop;
                        }
                    }
                    // The cursor stays.
                    Err(_) => {
                        self.inbound.rejected();
                        return Flow::Rejected;
                    }
                }
            }
            self.inbound.accepted();
        }
        if let Some(next) = polled.cursor {
            if let Err(e) = self.store.set_cursor(account, &next, crate::time::now()) {
                log::error!("A cursor could not be stored; messages may come again channel={} error={e}", self.channel);
            }
            *cursor = Some(next);
        }
        Flow::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::{Chat, ChatKind, InboundMessage, Mention, Threads};
    use crossbeam_channel::{Receiver, unbounded};
    use nanoclaw_session::content::ChatIn;

    /// A platform that has one message behind no cursor; it says from where it was asked.
    struct Feed {
        asked_from: Sender<Option<String>>,
    }

    impl Inbound for Feed {
        fn account(&self) -> String {
            "bot".into()
        }

        fn poll(&mut self, cursor: Option<&str>, stop: &Stop) -> Result<Polled, PollError> {
            let _ = self.asked_from.send(cursor.map(str::to_owned));
            if cursor.is_some() {
                let _ = stop.wait(Duration::from_secs(60));
                return Ok(Polled::default());
            }
            let message = InboundMessage {
                id: "m1".into(),
                chat: Chat { channel_type: "feed".into(), platform_id: "1".into() },
                thread_id: None,
                threads: Threads::Absent,
                kind: ChatKind::Direct,
                mention: Mention::NotAddressed,
                timestamp: crate::time::now(),
                content: ChatIn::default(),
                attachments: Vec::new(),
                answers: None,
                reply_to: None,
            };
            Ok(Polled { messages: vec![message], cursor: Some("1".into()), ready: Ready::Unchanged })
        }

        fn accepted(&mut self) {}

        fn rejected(&mut self) {}
    }

    #[test]
    fn the_cursor_moves_only_once_the_messages_are_on_disk() {
        let tmp = tempfile::tempdir().unwrap();
        let open = || Store::open(&tmp.path().join("v2.db"), crate::time::now()).unwrap();
        let (router, batches) = bounded(1);
        let (asked_from, asked) = unbounded();
        let stop = Stop::new().unwrap();
        let poller = Poller {
            channel: "feed",
            inbound: Box::new(Feed { asked_from }),
            store: open(),
            router,
            delivery: unbounded().0,
            stop: stop.clone(),
            polled: None,
        };
        let thread = std::thread::spawn(move || poller.run());
        let store = open();
        let take = |batches: &Receiver<router::Event>| {
            let router::Event::Batch { messages, accepted } = batches.recv().unwrap() else { panic!("a batch") };
            (messages, accepted)
        };

        assert_eq!(asked.recv().unwrap(), None);
        let (_, accepted) = take(&batches);
        let rejected = Instant::now();
        drop(accepted); // it could not be stored
        assert_eq!(asked.recv().unwrap(), None, "it is asked for again");
        assert!(rejected.elapsed() >= FIRST_BACKOFF, "and not in a loop");
        let (messages, accepted) = take(&batches);
        assert_eq!(messages[0].id, "m1");
        assert_eq!(store.cursor("bot").unwrap(), None, "a crash here brings it again");
        accepted.send(()).unwrap();
        assert_eq!(asked.recv().unwrap().as_deref(), Some("1"));
        assert_eq!(store.cursor("bot").unwrap().as_deref(), Some("1"));
        stop.now();
        thread.join().unwrap();
    }
}
