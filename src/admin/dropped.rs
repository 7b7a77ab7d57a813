//! `nanoclaw dropped`: who was not heard, and why. By the chat's platform id, the latest first.

use std::convert::Infallible;

use anyhow::Result;

use super::{Admin, Answer, Entity, Kind};
use crate::store::{DroppedSender, MAX_DROPPED_CHATS};

impl Entity for DroppedSender {
    type Verb = Infallible;
    const KIND: Kind<DroppedSender> = Kind {
        names: |dropped| vec![&dropped.platform_id],
        ..Kind::new(
            |store| store.dropped_senders(MAX_DROPPED_CHATS as u32),
            |store, dropped| Ok(store.forget_dropped(&dropped.channel_type, &dropped.platform_id)?),
        )
    };

    fn run(verb: Infallible, _admin: &Admin<'_>) -> Result<Answer> {
        match verb {}
    }
}
