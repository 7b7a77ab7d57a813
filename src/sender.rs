//! The sender: one thread per channel that brings messages out. It may block on its platform;
//! nothing else waits for it.

use crossbeam_channel::{Receiver, Sender};

use crate::channel::{Outbound, OutboundItem};
use crate::delivery;
use crate::thread;

/// The thread's body: returns when delivery is gone.
pub fn run(mut outbound: Box<dyn Outbound>, items: &Receiver<OutboundItem>, delivery: &Sender<delivery::Event>) {
    while let Ok(item) = thread::next(items, None) {
        let Some(item) = item else { continue };
        let outcome = outbound.send(&item);
        if delivery.send(delivery::Event::Outcome { chat: item.chat, outcome }).is_err() {
            return;
        }
    }
}
