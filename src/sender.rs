//! The sender: one thread per channel that brings messages out. It may block on its platform;
//! nothing else waits for it.

use crossbeam_channel::{Receiver, Sender};

use crate::channel::{Chat, Outbound, OutboundItem};
use crate::delivery;
use crate::thread;

/// What a sender is given to do.
#[derive(Debug)]
pub enum Task {
    Send(OutboundItem),
    /// Best effort, and unanswered.
    ShowTyping {
        chat: Chat,
        thread_id: Option<String>,
    },
}

/// The thread's body: returns when delivery is gone.
pub fn run(mut outbound: Box<dyn Outbound>, tasks: &Receiver<Task>, delivery: &Sender<delivery::Event>) {
    while let Ok(task) = thread::next(tasks, None) {
        match task {
            None => {}
            Some(Task::ShowTyping { chat, thread_id }) => outbound.show_typing(&chat, thread_id.as_deref()),
            Some(Task::Send(item)) => {
                let outcome = outbound.send(&item);
                if delivery.send(delivery::Event::Outcome { chat: item.chat, outcome }).is_err() {
                    return;
                }
            }
        }
    }
}
