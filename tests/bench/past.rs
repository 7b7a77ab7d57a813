//! Sessions with rows behind them: every message answered, every answer delivered.

use anyhow::Result;
use nanoclaw::time::now;
use nanoclaw_session::content::ChatIn;
use nanoclaw_session::inbound::{Delivered, Durability, InboundDb};
use nanoclaw_session::layout::SessionDir;
use nanoclaw_session::outbound::OutboundDb;
use nanoclaw_session::row::{AckStatus, Address, DeliveryStatus, InStatus, NewMessageIn, NewMessageOut, OutKind};

/// Writes this many messages and their answers into a prepared folder; returns the container's
/// side of it, to go on with.
pub fn write(dir: &SessionDir, rows: usize) -> Result<OutboundDb> {
    let ids: Vec<String> = (0..rows).map(|n| format!("old-{n}")).collect();
    let mut outbound = OutboundDb::open(dir)?;
    let last = outbound.write(|tx| {
        tx.acknowledge(ids.iter().map(String::as_str), AckStatus::Completed, now())?;
        ids.iter().try_fold(0, |seen, id| tx.insert(&reply(id), seen, now()))
    })?;
    let content = ChatIn { text: "an old message".into(), ..ChatIn::default() }.to_json();
    InboundDb::open(dir, Durability::Normal)?.write(|tx| {
        for id in &ids {
            tx.insert(&NewMessageIn::chat(id.clone(), now(), Address::default(), content.clone()))?;
            tx.finish(id, InStatus::Completed)?;
            let outcome = Delivered {
                message_out_id: id.clone(),
                platform_message_id: None,
                status: DeliveryStatus::Delivered,
                chat: Default::default(),
            };
            tx.mark_delivered(&outcome, now())?;
        }
        tx.set_delivery_cursor(last)
    })?;
    Ok(outbound)
}

/// A row as a runner writes it, to the session's own chat.
pub fn reply(id: &str) -> NewMessageOut {
    NewMessageOut {
        id: id.to_owned(),
        in_reply_to: None,
        deliver_after: None,
        kind: OutKind::Chat,
        address: Address::default(),
        content: r#"{"text":"an answer of an ordinary length"}"#.into(),
    }
}
