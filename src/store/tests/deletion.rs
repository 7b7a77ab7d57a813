//! Deleting what others depend on.

use super::*;

/// A home in which something of every kind depends on `main`, `family` and `telegram:1`, and a
/// second agent group that knows all of them.
fn entangled() -> Home {
    let home = Home::furnished();
    let store = &home.store;
    store.create_agent_group(&group("second")).unwrap();
    store.create_wiring(&wiring("w1", "family", "main")).unwrap();
    store.create_wiring(&wiring("w2", "family", "second")).unwrap();
    store.grant_destination("second", "boss", Target::Agent("main"), noon()).unwrap();
    store.grant_destination("main", "helper", Target::Agent("second"), noon()).unwrap();
    store.grant_role(&grant("telegram:1", Role::Owner, None)).unwrap();
    store.create_user(&user("telegram:2")).unwrap();
    let granted =
        RoleGrant { granted_by: Some("telegram:1".to_owned()), ..grant("telegram:2", Role::Admin, Some("main")) };
    store.grant_role(&granted).unwrap();
    store.add_member(&member("telegram:1", "main")).unwrap();
    store.put_user_dm(&dm("telegram:1", "family")).unwrap();
    store.insert(&approval("a1")).unwrap();
    store.insert(&sender_approval("p1", "telegram:3")).unwrap();
    store.insert(&channel_approval()).unwrap();
    store.put_question(&question("q1")).unwrap();
    store.begin_container_run(&run("r1")).unwrap();
    store.create_gateway_token(&token("secret", &run("r1"))).unwrap();
    store.set_due("s1", Some(noon())).unwrap();
    store
        .connection
        .execute_batch(
            "INSERT INTO task_runs VALUES
               ('s1', 't1', 'daily', '2026-04-16T12:00:00.000Z', '2026-04-16T12:00:09.000Z', 'completed');
             INSERT INTO usage VALUES ('s1', '2026-04-16', 'anthropic', 'sonnet', 'main', 1, 10, 20, 30, 40, 50, 7);",
        )
        .unwrap();
    home
}

fn words(dependents: Vec<Dependent>) -> Vec<String> {
    dependents.iter().map(Dependent::to_string).collect()
}

fn count(store: &Store, table: &str) -> i64 {
    store.column(&format!("SELECT count(*) FROM {table}"), &[]).unwrap()[0]
}

#[test]
fn whatever_depends_on_a_row_is_counted() {
    let store = entangled().store;
    assert_eq!(
        words(store.dependents_of_group("main").unwrap()),
        [
            "1 approval",
            "1 sender approval",
            "1 channel approval",
            "1 session",
            "1 wiring",
            "1 member",
            "1 role",
            "3 destinations",
        ]
    );
    assert_eq!(
        words(store.dependents_of_chat("family").unwrap()),
        ["1 sender approval", "1 channel approval", "1 session", "2 wirings", "1 direct chat", "2 destinations"]
    );
    assert_eq!(words(store.dependents_of_user("telegram:1").unwrap()), ["1 role", "1 member", "1 direct chat"]);
}

#[test]
fn a_group_goes_with_everything_that_depends_on_it_except_what_was_spent() {
    let home = entangled();
    let store = &home.store;
    store.delete_agent_group_cascade("main").unwrap();

    assert_eq!(store.dependents_of_group("main").unwrap(), []);
    assert!(matches!(store.agent_group("main"), Err(StoreError::NotFound { .. })));
    assert!(matches!(store.container_config("main"), Err(StoreError::NotFound { .. })));
    assert_eq!(store.sessions().unwrap(), []);
    assert_eq!(store.open_container_runs().unwrap(), []);
    assert_eq!(store.next_due().unwrap(), None);
    for (table, left) in [("pending_questions", 0), ("gateway_tokens", 0), ("task_runs", 0), ("usage", 1)] {
        assert_eq!(count(store, table), left, "{table}");
    }
    assert_eq!(store.wirings().unwrap().len(), 1, "the second group keeps its own");
    let left = store.destinations().unwrap();
    assert_eq!(left.iter().map(|row| row.local_name.as_str()).collect::<Vec<_>>(), ["family"]);
    assert_eq!(left[0].agent_group_id, "second");
    assert_eq!(store.integrity_problems().unwrap(), Vec::<String>::new());
    store.create_agent_group(&group("main")).unwrap();
}

#[test]
fn a_chat_goes_with_everything_that_depends_on_it() {
    let home = entangled();
    let store = &home.store;
    store.delete_messaging_group_cascade("family").unwrap();
    assert_eq!(store.destinations().unwrap().len(), 2, "those to the two agents");
    assert_eq!(store.dependents_of_chat("family").unwrap(), []);
    assert_eq!(store.messaging_groups().unwrap(), []);
    assert_eq!(store.integrity_problems().unwrap(), Vec::<String>::new());
}

#[test]
fn a_user_goes_with_roles_and_memberships_and_what_they_granted_stays() {
    let home = entangled();
    let store = &home.store;
    store.delete_user_cascade("telegram:1").unwrap();
    assert_eq!(store.dependents_of_user("telegram:1").unwrap(), []);
    assert_eq!(store.roles_of_user("telegram:2").unwrap(), [grant("telegram:2", Role::Admin, Some("main"))]);
}

#[test]
fn a_cascade_that_fails_deletes_nothing() {
    let home = entangled();
    let store = &home.store;
    store
        .connection
        .execute_batch("CREATE TRIGGER refuse BEFORE DELETE ON agent_groups BEGIN SELECT RAISE(ABORT, 'no'); END")
        .unwrap();
    let before = store.dependents_of_group("main").unwrap();
    assert!(store.delete_agent_group_cascade("main").is_err());
    assert_eq!(store.dependents_of_group("main").unwrap(), before);
}

#[test]
fn deleting_what_is_not_there_is_an_error() {
    let store = Home::empty().store;
    for error in [
        store.delete_agent_group_cascade("x").unwrap_err(),
        store.delete_messaging_group_cascade("x").unwrap_err(),
        store.delete_user_cascade("x").unwrap_err(),
        store.delete_wiring("x").unwrap_err(),
        store.delete_session("x").unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::NotFound { .. }), "{error:?}");
    }
}
