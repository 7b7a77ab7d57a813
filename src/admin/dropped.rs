//! `nanoclaw dropped`: who was not heard, and why. By the chat's platform id, the latest first.

use std::convert::Infallible;

use anyhow::Result;

use super::{Admin, Answer, Entity};
use crate::store::{DroppedSender, MAX_DROPPED_CHATS, Store};

impl Entity for DroppedSender {
    type Verb = Infallible;

    fn all(store: &Store) -> Result<Vec<DroppedSender>> {
        Ok(store.dropped_senders(u32::try_from(MAX_DROPPED_CHATS)?)?)
    }

    fn run(verb: Infallible, _admin: &Admin<'_>) -> Result<Answer> {
        match verb {}
    }

    fn names(&self) -> Vec<&str> {
        vec![&self.platform_id]
    }

    fn delete(&self, store: &Store) -> Result<()> {
        Ok(store.forget_dropped(&self.channel_type, &self.platform_id)?)
    }
}
