//! An install of NanoClaw v2, taken over by `nanoclaw import` and going on in a container of ours.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::docker::docker;
use crate::support::wait::wait_for;
use crate::support::{Host, files_below, sqlite};

const ROWS_IN: &str = "SELECT id, seq, kind, timestamp, trigger, content FROM messages_in ORDER BY seq";
const ROWS_OUT: &str = "SELECT id, seq, in_reply_to, timestamp, kind, content FROM messages_out ORDER BY seq";

/// An install as its host left it: a database, one session with history, a group folder.
fn old_install(at: &Path) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/nanoclaw-v2");
    let session = at.join("data/v2-sessions/ag-1/sess-1");
    fs::create_dir_all(session.join("outbox/msg-1")).unwrap();
    fs::create_dir_all(at.join("groups/andy")).unwrap();
    fs::copy(fixtures.join("v2-08-engage-modes.db"), at.join("data/v2.db")).unwrap();
    for file in ["inbound.db", "outbound.db", "container.json", ".heartbeat"] {
        fs::copy(fixtures.join("session").join(file), session.join(file)).unwrap();
    }
    fs::write(session.join("outbox/msg-1/report.txt"), "sent long ago").unwrap();
    fs::write(at.join("groups/andy/CLAUDE.local.md"), "Zoe likes tea.").unwrap();
}

fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> =
        files_below(folder).into_iter().map(|path| (path.display().to_string(), fs::read(path).unwrap())).collect();
    files.sort();
    files
}

#[test]
fn an_imported_session_goes_on_in_a_container_of_ours() {
    let mut host = Host::new();
    let old = host.scratch().join("old");
    old_install(&old);
    let before = contents(&old);
    let told = host.json(&["import", old.to_str().unwrap(), "--dry-run"]);
    assert!(!host.home().store().exists(), "a dry run makes nothing");
    let report = host.json(&["import", old.to_str().unwrap()]);
    assert_eq!(told["tables"], report["tables"]);
    let imported = |name: &str| -> Value {
        let tables = report["tables"].as_array().unwrap();
        tables.iter().find(|t| t["name"] == name).unwrap_or_else(|| panic!("{report:#}"))["imported"].clone()
    };
    assert_eq!((imported("sessions"), imported("v2-sessions/"), imported("groups/")), (3.into(), 1.into(), 1.into()));

    let dir = host.home().session("ag-1", "sess-1");
    let fixture = old.join("data/v2-sessions/ag-1/sess-1");
    let old_in = sqlite::query(&fixture.join("inbound.db"), ROWS_IN).unwrap();
    let old_out = sqlite::query(&fixture.join("outbound.db"), ROWS_OUT).unwrap();
    assert_eq!((old_in.len(), old_out.len()), (6, 6));
    for (link, target) in
        [("outbound.db", "out/outbound.db"), ("outbox", "out/outbox"), (".heartbeat", "out/heartbeat")]
    {
        assert_eq!(fs::read_link(dir.root().join(link)).unwrap(), Path::new(target), "{link}");
    }
    // The old install's own provider is none of ours.
    host.json(&["groups", "config", "set", "andy", "--provider", "demo"]);
    host.start();
    assert_eq!(host.containers(), [""; 0], "what was answered wakes nobody");

    // Zoe, its owner, writes where she always did; the answer comes to the terminal, which the old
    // install had wired to that agent.
    let mut client = host.client();
    client.send(&json!({
        "id": "new", "text": "do you remember?", "sender": "Zoe", "senderId": "6037840640",
        "to": {"channelType": "telegram", "platformId": "telegram:6037840640"},
        "reply_to": {"channelType": "cli", "platformId": "local"},
    }));
    let heard = client.text();
    assert!(heard.contains("turn 1. You said: \"do you remember?\""), "only the new answer: {heard}");
    let container = host.container();
    let label = docker(&["inspect", "--format", "{{index .Config.Labels \"nanoclaw.session\"}}", &container]);
    assert_eq!(label, "sess-1", "in the session it always was");
    let inside = |path: &str| docker(&["exec", &container, "cat", path]);
    assert_eq!(inside("/workspace/agent/CLAUDE.local.md"), "Zoe likes tea.");
    assert_eq!(inside("/workspace/out/outbox/msg-1/report.txt"), "sent long ago");

    wait_for("all statuses", &[dir.root()], || {
        let open = sqlite::column(&dir.inbound_db(), "SELECT id FROM messages_in WHERE status <> 'completed'");
        open.is_ok_and(|open| open.is_empty()).then_some(())
    });
    let mut rows = sqlite::query(&dir.inbound_db(), ROWS_IN).unwrap();
    // The old install's open question: Zoe has written something else.
    rows.retain(|row| row[0] != "q-1:withdrawn");
    assert_eq!((&rows[..6], rows[6][0].as_str(), rows.len()), (&old_in[..], "new:ag-1", 7));
    let rows = sqlite::query(&dir.outbound_db(), ROWS_OUT).unwrap();
    assert_eq!((&rows[..6], rows[6][2].as_str(), rows.len()), (&old_out[..], "new:ag-1", 7));
    wait_for("the answer to be on record as sent", &[dir.root()], || {
        let delivered = sqlite::column(&dir.inbound_db(), "SELECT status FROM delivered").ok()?;
        (delivered == ["delivered"; 7]).then_some(())
    });
    assert_eq!(contents(&old), before, "nothing in the old install is changed");
    // That the question is over cannot be shown where it was asked: there is no such channel here.
    let complaints = host.log().into_iter().filter(|line| line.contains(" WARN ") || line.contains(" ERROR "));
    let others: Vec<String> = complaints.filter(|line| !line.contains("no channel \"telegram\" is set up")).collect();
    assert_eq!(others, [""; 0]);
}
