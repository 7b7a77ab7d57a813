//! Tests of the store on real files. Here: what the tests share.

mod access;
mod deletion;
mod file;
mod migrations;
mod outbox;
mod records;
mod rows;
mod sessions;
mod usage;
mod waiting;
mod wirings;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tempfile::TempDir;

use super::host_outbox::OutboxStatus;
use super::records::MAX_DECISIONS;
use super::runs::MAX_RUNS_PER_SESSION;
use super::sessions::Due;
use super::waiting::ApprovalStatus;
use super::*;

impl Store {
    /// The newest decisions, the newest first.
    pub fn decisions(&self, limit: u32) -> Result<Vec<Decision>> {
        self.all("ORDER BY seq DESC LIMIT ?1", &[&limit])
    }
}

/// A store of its own, with the agent group `main`, the chat `family`, the user `telegram:1` and
/// the session `s1` that joins them.
struct Home {
    folder: TempDir,
    store: Store,
}

impl Home {
    fn empty() -> Home {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("v2.db"), noon()).unwrap();
        Home { folder, store }
    }

    fn furnished() -> Home {
        let home = Home::empty();
        let store = &home.store;
        store.create_agent_group(&group("main")).unwrap();
        store.create_messaging_group(&chat("family")).unwrap();
        store.create_user(&user("telegram:1")).unwrap();
        store.ensure_session(&Session::new("s1", "main", Some("family"), None, noon())).unwrap();
        home
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("v2.db")
    }

    /// Another connection to the same file.
    fn another(&self) -> Store {
        Store::open(&self.path(), noon()).unwrap()
    }
}

fn noon() -> Timestamp {
    "2026-04-16T12:00:00Z".parse().unwrap()
}

/// `seconds` after noon.
fn later(seconds: i64) -> Timestamp {
    noon() + SignedDuration::from_secs(seconds)
}

fn group(id: &str) -> AgentGroup {
    AgentGroup {
        id: id.to_owned(),
        name: id.to_uppercase(),
        folder: id.to_owned(),
        agent_provider: None,
        created_at: noon(),
    }
}

fn chat(id: &str) -> MessagingGroup {
    MessagingGroup {
        id: id.to_owned(),
        channel_type: "telegram".to_owned(),
        platform_id: format!("telegram:{id}"),
        name: Some(id.to_owned()),
        is_group: true,
        unknown_sender_policy: UnknownSenderPolicy::Strict,
        denied_at: None,
        created_at: noon(),
    }
}

fn user(id: &str) -> User {
    User { id: id.to_owned(), kind: "telegram".to_owned(), display_name: None, created_at: noon() }
}

fn wiring(id: &str, chat_id: &str, group_id: &str) -> Wiring {
    Wiring::defaults(id, &chat(chat_id), Threads::Absent, group_id, noon())
}

fn run(id: &str) -> ContainerRun {
    ContainerRun {
        id: id.to_owned(),
        session_id: "s1".to_owned(),
        container_name: format!("nanoclaw-main-{id}"),
        container_id: None,
        image: "nanoclaw-agent:latest".to_owned(),
        started_at: noon(),
        start_reason: StartReason::Message,
        ended_at: None,
        end_reason: None,
        exit_code: None,
        oom: false,
    }
}

fn question(id: &str) -> Question {
    Question {
        question_id: id.to_owned(),
        session_id: "s1".to_owned(),
        message_out_id: "m1".to_owned(),
        platform_id: None,
        channel_type: None,
        thread_id: None,
        title: "Which?".to_owned(),
        options_json: json!([{"label": "This"}]),
        created_at: noon(),
        expires_at: None,
    }
}

fn approval(id: &str) -> Approval {
    Approval {
        approval_id: id.to_owned(),
        session_id: Some("s1".to_owned()),
        request_id: format!("request-{id}"),
        action: "install_packages".to_owned(),
        payload: json!({"apt": ["jq"]}),
        agent_group_id: Some("main".to_owned()),
        channel_type: None,
        platform_id: None,
        platform_message_id: None,
        approver_user_id: Some("telegram:1".to_owned()),
        title: "Install jq".to_owned(),
        options_json: json!([]),
        status: ApprovalStatus::Pending,
        created_at: noon(),
        expires_at: None,
        decided_by: None,
        decided_at: None,
    }
}

fn sender_approval(id: &str, sender: &str) -> SenderApproval {
    SenderApproval {
        id: id.to_owned(),
        messaging_group_id: "family".to_owned(),
        agent_group_id: "main".to_owned(),
        sender_identity: sender.to_owned(),
        sender_name: None,
        original_message: json!({"text": "hello"}),
        approver_user_id: "telegram:1".to_owned(),
        title: "A stranger".to_owned(),
        options_json: json!([]),
        platform_message_id: None,
        created_at: noon(),
        expires_at: None,
    }
}

fn channel_approval() -> ChannelApproval {
    ChannelApproval {
        messaging_group_id: "family".to_owned(),
        agent_group_id: "main".to_owned(),
        original_message: json!({"text": "hello"}),
        approver_user_id: "telegram:1".to_owned(),
        title: "A new chat".to_owned(),
        options_json: json!([]),
        platform_message_id: None,
        created_at: noon(),
        expires_at: None,
    }
}

fn notice(id: &str) -> HostMessage {
    HostMessage::new(id, "telegram", "telegram:family", json!({"text": "no"}), noon())
}

fn decision(message_id: &str) -> Decision {
    Decision {
        message_id: message_id.to_owned(),
        at: noon(),
        channel_type: "telegram".to_owned(),
        platform_id: "telegram:family".to_owned(),
        thread_id: None,
        sender_id: None,
        agent_group_id: None,
        reason: "no_wiring".to_owned(),
        detail: None,
    }
}

fn dropped(platform_id: &str) -> DroppedSender {
    DroppedSender {
        channel_type: "telegram".to_owned(),
        platform_id: platform_id.to_owned(),
        user_id: None,
        sender_name: None,
        reason: "no_agent_wired".to_owned(),
        messaging_group_id: None,
        agent_group_id: None,
        message_count: 1,
        first_seen: noon(),
        last_seen: noon(),
    }
}

fn token(text: &str, run: &ContainerRun) -> GatewayToken {
    GatewayToken {
        token: text.to_owned(),
        session_id: run.session_id.clone(),
        container_name: run.container_name.clone(),
        created_at: noon(),
    }
}

fn grant(user_id: &str, role: Role, agent_group_id: Option<&str>) -> RoleGrant {
    RoleGrant {
        user_id: user_id.to_owned(),
        role,
        agent_group_id: agent_group_id.map(str::to_owned),
        granted_by: None,
        granted_at: noon(),
    }
}

fn member(user_id: &str, agent_group_id: &str) -> Member {
    Member { user_id: user_id.to_owned(), agent_group_id: agent_group_id.to_owned(), added_by: None, added_at: noon() }
}

fn dm(user_id: &str, messaging_group_id: &str) -> UserDm {
    UserDm {
        user_id: user_id.to_owned(),
        channel_type: "telegram".to_owned(),
        messaging_group_id: messaging_group_id.to_owned(),
        resolved_at: noon(),
    }
}
