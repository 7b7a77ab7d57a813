//! Whom the agent may write to: names on its side, addresses on the host's.
//!
//! Built anew from every look at `inbound.db`, because grants change while a container runs. The
//! host checks each destination again at delivery; nothing here is a permission.

use std::sync::{Arc, Mutex, PoisonError};

use nanoclaw_session::row::{Address, Destination, DestinationType};

/// What the agent calls the session's own chat when the host gave it no name.
const UNNAMED_OWN_CHAT: &str = "here";

/// Every peer of this session, and the chat it lives in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Destinations {
    /// Each with the chat and channel it is reached through, and no thread.
    peers: Vec<Destination>,
    /// The session's own chat with the thread a reply belongs to; empty when it has none.
    own: Address,
    /// The same with the session's own thread.
    routing: Address,
}

impl Destinations {
    /// `routing` is the session's own chat, `latest_thread` the thread of the latest row from it.
    /// The own chat is always a destination: without a row of its own, under a name of ours.
    pub fn new(mut peers: Vec<Destination>, routing: Address, latest_thread: Option<String>) -> Destinations {
        for peer in &mut peers {
            if peer.kind == DestinationType::Agent {
                peer.address.channel_type = Some("agent".into());
                peer.address.platform_id = peer.agent_group_id.take();
            }
            peer.address.thread_id = None;
        }
        let own = Address { thread_id: latest_thread.or_else(|| routing.thread_id.clone()), ..routing.clone() };
        let named = peers.iter().any(|peer| same_chat(&peer.address, &own));
        if peers.is_empty() || (own.platform_id.is_some() && !named) {
            peers.push(Destination {
                name: UNNAMED_OWN_CHAT.into(),
                display_name: None,
                kind: DestinationType::Channel,
                address: Address { thread_id: None, ..own.clone() },
                agent_group_id: None,
            });
        }
        Destinations { peers, own, routing }
    }

    pub fn peers(&self) -> &[Destination] {
        &self.peers
    }

    /// The one destination, when there is exactly one.
    pub fn only(&self) -> Option<&Destination> {
        match self.peers.as_slice() {
            [peer] => Some(peer),
            _ => None,
        }
    }

    /// The peer the agent means; models are not careful with case.
    pub fn by_name(&self, name: &str) -> Option<&Destination> {
        let exact = self.peers.iter().find(|peer| peer.name == name);
        exact.or_else(|| self.peers.iter().find(|peer| peer.name.eq_ignore_ascii_case(name)))
    }

    /// What the agent calls the chat a row came from.
    pub fn name_of(&self, chat: &Address) -> Option<&str> {
        chat.platform_id.as_ref()?;
        self.peers.iter().find(|peer| same_chat(&peer.address, chat)).map(|peer| peer.name.as_str())
    }

    /// The session's own chat as a peer; `None` when it has none.
    pub fn own(&self) -> Option<&Destination> {
        self.peers.iter().find(|peer| self.is_own(peer))
    }

    /// Where cards and questions for the session's own chat go: to its own thread.
    pub fn routing(&self) -> Address {
        self.routing.clone()
    }

    pub fn is_own(&self, peer: &Destination) -> bool {
        same_chat(&peer.address, &self.own)
    }

    /// Where a message to `peer` goes: in the own chat (`None`, too) to the thread of the latest row
    /// from it, anywhere else to no thread.
    pub fn address(&self, peer: Option<&Destination>) -> Address {
        peer.filter(|peer| !self.is_own(peer)).map_or(&self.own, |peer| &peer.address).clone()
    }
}

/// The destinations as of the latest look that saw something new: they change while a turn runs.
#[derive(Debug, Clone, Default)]
pub struct Current(Arc<Mutex<Arc<Destinations>>>);

impl Current {
    pub fn get(&self) -> Arc<Destinations> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set(&self, destinations: Arc<Destinations>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = destinations;
    }
}

/// The same chat, whatever the thread.
pub fn same_chat(a: &Address, b: &Address) -> bool {
    a.channel_type == b.channel_type && a.platform_id == b.platform_id
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn chat(channel: &str, id: &str, thread: Option<&str>) -> Address {
        Address {
            channel_type: Some(channel.into()),
            platform_id: Some(id.into()),
            thread_id: thread.map(str::to_owned),
        }
    }

    pub fn channel(name: &str, display: &str, address: Address) -> Destination {
        Destination {
            name: name.into(),
            display_name: Some(display.into()),
            kind: DestinationType::Channel,
            address,
            agent_group_id: None,
        }
    }

    pub fn agent(name: &str, group: &str) -> Destination {
        Destination {
            name: name.into(),
            display_name: None,
            kind: DestinationType::Agent,
            address: Address::default(),
            agent_group_id: Some(group.into()),
        }
    }

    /// `family` is the own chat, `work` another, `ops` an agent.
    pub fn three() -> Destinations {
        let rows = vec![
            channel("family", "Family chat", chat("telegram", "1", None)),
            agent("ops", "ag-2"),
            channel("work", "Work", chat("slack", "C1", None)),
        ];
        Destinations::new(rows, chat("telegram", "1", None), Some("t9".into()))
    }

    pub fn one() -> Destinations {
        let rows = vec![channel("family", "Family chat", chat("telegram", "1", None))];
        Destinations::new(rows, chat("telegram", "1", None), None)
    }

    #[test]
    fn the_own_chat_gets_the_latest_thread_and_the_others_none() {
        let d = three();
        let address = |name| d.address(d.by_name(name));
        assert_eq!(address("family"), chat("telegram", "1", Some("t9")));
        assert_eq!(address("WORK"), chat("slack", "C1", None));
        assert_eq!(address("ops"), chat("agent", "ag-2", None));
        assert_eq!(d.by_name("nobody"), None);
    }

    #[test]
    fn without_a_latest_thread_the_session_s_own_one_is_taken() {
        let d = Destinations::new(vec![], chat("slack", "C1", Some("t1")), None);
        assert_eq!(d.address(d.only()), chat("slack", "C1", Some("t1")));
    }

    #[test]
    fn the_own_chat_is_a_peer_and_has_a_thread_for_what_is_no_reply() {
        let d = Destinations::new(vec![agent("ops", "ag-2")], chat("slack", "C1", Some("t1")), Some("t2".into()));
        assert_eq!(d.own().map(|p| p.name.as_str()), Some("here"));
        assert_eq!((d.address(None), d.routing()), (chat("slack", "C1", Some("t2")), chat("slack", "C1", Some("t1"))));
        assert_eq!(Destinations::new(vec![agent("ops", "ag-2")], Address::default(), None).own(), None);
    }

    #[test]
    fn rows_are_named_by_where_they_came_from() {
        let d = three();
        assert_eq!(d.name_of(&chat("telegram", "1", Some("other"))), Some("family"));
        assert_eq!(d.name_of(&chat("agent", "ag-2", None)), Some("ops"));
        assert_eq!(d.name_of(&chat("telegram", "2", None)), None);
        assert_eq!(d.name_of(&Address::default()), None);
    }

    #[test]
    fn an_own_chat_without_a_row_is_a_destination_all_the_same() {
        let own = chat("cli", "local", None);
        let alone = Destinations::new(vec![], own.clone(), None);
        assert_eq!(alone.only().map(|p| p.name.as_str()), Some("here"));
        let beside = Destinations::new(vec![agent("ops", "ag-2")], own.clone(), None);
        assert_eq!(beside.peers().len(), 2);
        assert_eq!(beside.address(beside.by_name("here")), own);
        let nowhere = Destinations::new(vec![], Address::default(), None);
        assert_eq!(nowhere.address(nowhere.only()), Address::default());
        let agents_only = Destinations::new(vec![agent("ops", "ag-2")], Address::default(), None);
        assert_eq!(agents_only.only().map(|p| p.name.as_str()), Some("ops"));
    }
}
