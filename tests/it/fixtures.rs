//! Session folders written by NanoClaw v2 itself.

use std::fs;
use std::path::Path;

use nanoclaw::setup::wire_terminal;
use nanoclaw::store::{AgentGroup, ContainerConfig, Session};
use serde_json::json;

use crate::support::wait::{now, wait_for};
use crate::support::{Host, sqlite, texts};

const ROWS_IN: &str =
    "SELECT id, seq, kind, timestamp, trigger, platform_id, channel_type, content FROM messages_in ORDER BY seq";
const ROWS_OUT: &str =
    "SELECT id, seq, in_reply_to, timestamp, kind, platform_id, channel_type, content FROM messages_out ORDER BY seq";

#[test]
fn a_session_of_nanoclaw_v2_is_converted_and_goes_on() {
    let mut host = Host::new();
    assert_eq!(host.run(&["init", "--yes"]).code, Some(0));
    let store = host.store();
    let group = AgentGroup {
        id: "ag-bench".into(),
        name: "Bench".into(),
        folder: "bench".into(),
        agent_provider: None,
        created_at: now(),
    };
    store.create_agent_group(&group).unwrap();
    // Its own was NanoClaw's mock.
    let config = store.container_config("ag-bench").unwrap();
    store.put_container_config(&ContainerConfig { provider: Some("demo".into()), ..config }).unwrap();
    wire_terminal(&store, "chat-0", &group).unwrap();
    let chat = store.find_messaging_group("cli", "chat-0").unwrap().unwrap();
    let session = Session::new("sess-v2", "ag-bench", Some(&chat.id), None, now());
    store.ensure_session(&session).unwrap();
    drop(store);

    let dir = host.dir_of(&session);
    fs::create_dir_all(dir.root()).unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/nanoclaw-v2/session");
    for name in ["inbound.db", "outbound.db", "container.json", ".heartbeat"] {
        fs::copy(fixture.join(name), dir.root().join(name)).unwrap();
    }
    let old_in = sqlite::query(&dir.inbound_db(), ROWS_IN).unwrap();
    let old_out = sqlite::query(&dir.root().join("outbound.db"), ROWS_OUT).unwrap();
    assert_eq!((old_in.len(), old_out.len()), (6, 6));
    let delivered = sqlite::query(&dir.inbound_db(), "SELECT * FROM delivered ORDER BY 1").unwrap();

    host.start();
    let mut client = host.client();
    client.send(&json!({"id": "new", "text": "do you remember?",
        "to": {"channelType": "cli", "platformId": "chat-0"}}));
    let heard = texts(&client.turn("new"));
    assert_eq!(heard.len(), 1, "only the new answer: {heard:?}");
    assert!(heard[0].contains("You said: \"do you remember?\""), "{heard:?}");

    for (link, target) in
        [("outbound.db", "out/outbound.db"), ("outbox", "out/outbox"), (".heartbeat", "out/heartbeat")]
    {
        assert_eq!(fs::read_link(dir.root().join(link)).unwrap(), Path::new(target));
    }
    let rows = sqlite::query(&dir.outbound_db(), ROWS_OUT).unwrap();
    assert_eq!(rows[..6], old_out[..], "old rows are as they were");
    assert_eq!(rows.len(), 7);
    let seq: i64 = rows[6][1].parse().unwrap();
    assert!(seq % 2 == 1 && seq > 13, "{seq}");
    let rows = sqlite::query(&dir.inbound_db(), ROWS_IN).unwrap();
    assert_eq!(rows[..6], old_in[..]);
    let seq: i64 = rows[6][1].parse().unwrap();
    assert!(seq % 2 == 0 && seq > 12, "{seq}");

    // What had been answered is known to be, and nothing is delivered a second time.
    wait_for("all statuses", &[dir.root()], || {
        let open = sqlite::column(&dir.inbound_db(), "SELECT id FROM messages_in WHERE status <> 'completed'");
        open.is_ok_and(|open| open.is_empty()).then_some(())
    });
    let now_delivered = sqlite::query(&dir.inbound_db(), "SELECT * FROM delivered ORDER BY 1").unwrap();
    assert_eq!(now_delivered.len(), 7);
    // Our columns come after those that were there.
    let is_kept = |old: &Vec<String>| now_delivered.iter().any(|row| row.starts_with(old));
    assert!(delivered.iter().all(is_kept));
    let again = {
        client.send(&json!({"id": "next", "text": "more", "to": {"channelType": "cli", "platformId": "chat-0"}}));
        texts(&client.turn("next"))
    };
    assert!(again.len() == 1 && again[0].contains("turn 2"), "{again:?}");
    let state = sqlite::column(&dir.outbound_db(), "SELECT key FROM session_state ORDER BY key").unwrap();
    assert_eq!(state, ["continuation:demo", "continuation:mock"], "each provider keeps its own thread");
    host.assert_no_complaint();
}
