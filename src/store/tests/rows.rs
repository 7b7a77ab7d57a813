//! The edge: rows and states go in and come out the same, and what cannot is named.

use std::fmt::Debug;
use std::str::FromStr;

use super::*;

/// Inserts `row`, reads it back, changes nothing by updating it, and deletes it.
fn round_trip<T: Row + PartialEq + Debug>(store: &Store, row: &T) {
    store.insert(row).unwrap();
    assert_eq!(store.take::<T>("WHERE 1", &[]).unwrap().last(), Some(row));
}

#[test]
fn every_row_with_all_its_columns_comes_back_as_it_was() {
    let home = Home::furnished();
    let store = &home.store;
    let text = || Some("text".to_owned());
    let time = Some("2026-04-16T14:37:00.123Z".parse().unwrap());

    round_trip(
        store,
        &Wiring { engage_pattern: Some("^@Andy\\b".to_owned()), priority: -3, ..wiring("w", "family", "main") },
    );
    round_trip(
        store,
        &RoleGrant { granted_by: Some("telegram:1".to_owned()), ..grant("telegram:1", Role::Admin, Some("main")) },
    );
    round_trip(store, &Member { added_by: Some("telegram:1".to_owned()), ..member("telegram:1", "main") });
    round_trip(store, &dm("telegram:1", "family"));
    round_trip(
        store,
        &PairingCode {
            code: "K7QM-2XRT".to_owned(),
            created_at: noon(),
            expires_at: later(600),
            used_by: text(),
            used_at: time,
        },
    );
    round_trip(store, &Due { session_id: "s1".to_owned(), next_due_at: noon() });
    round_trip(
        store,
        &Question { platform_id: text(), channel_type: text(), thread_id: text(), expires_at: time, ..question("q") },
    );
    round_trip(
        store,
        &Approval {
            channel_type: text(),
            platform_id: text(),
            platform_message_id: text(),
            expires_at: time,
            decided_by: text(),
            decided_at: time,
            ..approval("a")
        },
    );
    round_trip(
        store,
        &SenderApproval {
            sender_name: text(),
            platform_message_id: text(),
            expires_at: time,
            ..sender_approval("p", "telegram:2")
        },
    );
    round_trip(store, &ChannelApproval { platform_message_id: text(), expires_at: time, ..channel_approval() });
    round_trip(
        store,
        &DroppedSender {
            user_id: text(),
            sender_name: text(),
            messaging_group_id: text(),
            agent_group_id: text(),
            ..dropped("telegram:2")
        },
    );
    round_trip(
        store,
        &HostMessage {
            thread_id: text(),
            deliver_after: time,
            attempts: 7,
            first_attempt_at: time,
            next_attempt_at: time,
            last_error: text(),
            platform_message_id: text(),
            dedup_key: text(),
            ..notice("h")
        },
    );
    round_trip(
        store,
        &Decision { thread_id: text(), sender_id: text(), agent_group_id: text(), detail: text(), ..decision("m") },
    );
    let run = ContainerRun {
        container_id: text(),
        ended_at: time,
        end_reason: Some(EndReason::Oom),
        exit_code: Some(137),
        oom: true,
        ..run("r")
    };
    round_trip(store, &token("secret", &run));
    round_trip(store, &run);

    let full = ContainerConfig {
        provider: text(),
        model: text(),
        effort: text(),
        image_tag: text(),
        assistant_name: text(),
        max_messages_per_prompt: Some(3),
        skills: Skills::Named(vec!["welcome".to_owned()]),
        mcp_servers: serde_json::from_value(json!({"gh": {"command": "npx", "args": ["-y"]}})).unwrap(),
        packages_apt: vec!["jq".to_owned()],
        packages_npm: vec!["x".to_owned()],
        additional_mounts: vec![json!({"hostPath": "~/docs"}), json!("malformed")],
        memory: text(),
        cpus: text(),
        pids: Some(64),
        network: Some(NetworkMode::None),
        ..ContainerConfig::new("main", noon())
    };
    store.put_container_config(&full).unwrap();
    assert_eq!(store.container_config("main").unwrap(), full);

    let session =
        Session { thread_id: text(), agent_provider: text(), last_active: time, ..store.session("s1").unwrap() };
    store.update(&session).unwrap();
    assert_eq!(store.session("s1").unwrap(), session);
    let group = AgentGroup { agent_provider: text(), ..group("main") };
    store.update_agent_group(&group).unwrap();
    assert_eq!(store.agent_group("main").unwrap(), group);
    let chat = MessagingGroup { denied_at: time, name: None, is_group: false, ..chat("family") };
    store.update_messaging_group(&chat).unwrap();
    assert_eq!(store.messaging_group("family").unwrap(), chat);
    let user = User { display_name: text(), ..user("telegram:1") };
    store.update_user(&user).unwrap();
    assert_eq!(store.user("telegram:1").unwrap(), user);
}

/// Checks the parse/format table of one state, and that the column takes every word of it.
macro_rules! state_test {
    ($store:expr, $state:ident, $table:literal, $column:literal) => {
        for known in $state::ALL {
            assert_eq!($state::from_str(known.as_str()).unwrap(), *known);
            let sql = concat!("UPDATE ", $table, " SET ", $column, " = ?1");
            let changed = $store.execute(sql, &[known]).unwrap_or_else(|error| panic!("{known:?}: {error}"));
            assert_eq!(changed, 1, "a row to try it on");
        }
        assert!($state::from_str("Nonsense").unwrap_err().to_string().contains($state::ALL[0].as_str()));
        let refused = $store.execute(concat!("UPDATE ", $table, " SET ", $column, " = 'Nonsense'"), &[]);
        assert!(refused.is_err(), concat!($table, ".", $column, " takes nonsense"));
    };
}

#[test]
fn every_state_round_trips_and_the_schema_knows_the_same_words() {
    let home = Home::furnished();
    let store = &home.store;
    store.insert(&wiring("w", "family", "main")).unwrap();
    store.grant_role(&grant("telegram:1", Role::Admin, None)).unwrap();
    store.insert(&approval("a")).unwrap();
    store.insert(&ContainerRun { ended_at: Some(noon()), end_reason: Some(EndReason::Exited), ..run("r") }).unwrap();
    store.enqueue_host_message(&notice("h")).unwrap();

    state_test!(store, UnknownSenderPolicy, "messaging_groups", "unknown_sender_policy");
    state_test!(store, EngageMode, "messaging_group_agents", "engage_mode");
    state_test!(store, SenderScope, "messaging_group_agents", "sender_scope");
    state_test!(store, IgnoredMessagePolicy, "messaging_group_agents", "ignored_message_policy");
    state_test!(store, SessionMode, "messaging_group_agents", "session_mode");
    state_test!(store, Role, "user_roles", "role");
    state_test!(store, SessionStatus, "sessions", "status");
    state_test!(store, ContainerStatus, "sessions", "container_status");
    state_test!(store, CliScope, "container_configs", "cli_scope");
    state_test!(store, NetworkMode, "container_configs", "network");
    state_test!(store, ApprovalStatus, "pending_approvals", "status");
    state_test!(store, StartReason, "container_runs", "start_reason");
    state_test!(store, EndReason, "container_runs", "end_reason");
    state_test!(store, OutboxStatus, "host_outbox", "status");
}

#[test]
fn a_value_that_no_table_knows_is_an_error_naming_table_row_and_column() {
    let home = Home::furnished();
    let spoil = |sql: &str| {
        home.store.connection.execute_batch(&format!("PRAGMA ignore_check_constraints = ON; {sql}")).unwrap();
    };
    spoil("UPDATE sessions SET status = 'asleep'");
    assert_eq!(
        home.store.session("s1").unwrap_err().to_string(),
        "table sessions, row `s1`, column status: `asleep` is none of active, closed"
    );
    spoil("UPDATE agent_groups SET created_at = 'soon'");
    assert_eq!(
        home.store.agent_group("main").unwrap_err().to_string(),
        "table agent_groups, row `main`, column created_at: `soon` is not a time"
    );
    spoil("UPDATE container_configs SET packages_apt = '{'");
    assert!(matches!(
        home.store.container_config("main"),
        Err(StoreError::Corrupt { table: "container_configs", column: "packages_apt", .. })
    ));
}

#[test]
fn a_row_that_cannot_be_read_is_not_lost_by_taking_it() {
    let home = Home::furnished();
    home.store.put_question(&question("q1")).unwrap();
    home.store.connection.execute_batch("UPDATE pending_questions SET created_at = 'soon'").unwrap();
    assert!(matches!(home.store.take_question("q1"), Err(StoreError::Corrupt { .. })));
    let left: Vec<i64> = home.store.column("SELECT count(*) FROM pending_questions", &[]).unwrap();
    assert_eq!(left, [1]);
}

#[test]
fn what_a_constraint_refuses_is_named() {
    let home = Home::furnished();
    let store = &home.store;
    let twin = AgentGroup { folder: "main".to_owned(), ..group("twin") };
    assert_eq!(
        store.create_agent_group(&twin).unwrap_err().to_string(),
        "agent group `twin`: already taken (agent_groups.folder)"
    );
    assert!(matches!(store.create_user(&user("telegram:1")), Err(StoreError::Conflict { noun: "user", .. })));
    assert_eq!(
        store.add_member(&member("telegram:9", "main")).unwrap_err().to_string(),
        "member `telegram:9/main`: it refers to a row that does not exist"
    );
    assert!(matches!(store.agent_group("nobody"), Err(StoreError::NotFound { noun: "agent group", .. })));
    assert!(matches!(store.update_agent_group(&group("nobody")), Err(StoreError::NotFound { .. })));
}

#[test]
fn a_row_as_json_has_a_field_per_column() {
    let home = Home::furnished();
    assert_eq!(
        home.store.messaging_group("family").unwrap().to_json(),
        json!({
            "id": "family", "channel_type": "telegram", "platform_id": "telegram:family", "name": "family",
            "is_group": true, "unknown_sender_policy": "strict", "denied_at": null,
            "created_at": "2026-04-16T12:00:00.000Z",
        })
    );
    let config = home.store.container_config("main").unwrap().to_json();
    assert_eq!((&config["skills"], &config["packages_apt"]), (&json!("all"), &json!([])));
}
