//! Groups, chats, wirings and destinations.

use super::*;

#[test]
fn ids_and_folders_are_safe_names() {
    let long = "a".repeat(50);
    for good in ["a", "main", "ag-1", long.as_str()] {
        validate_agent_group_id(good).unwrap();
    }
    let too_long = "a".repeat(51);
    for bad in ["", "1a", "-a", "A", "a_b", "a.b", "a/b", "ä", "a\n", too_long.as_str()] {
        assert!(validate_agent_group_id(bad).is_err(), "{bad:?}");
    }
    for good in ["main", "Main_2", "2-x"] {
        validate_folder(good).unwrap();
    }
    for bad in ["", ".", "..", "a/b", "-a", "_a", "a b", "global", "a.b"] {
        assert!(validate_folder(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn the_first_group_is_privileged_and_the_next_is_not() {
    let home = Home::furnished();
    home.store.create_agent_group(&group("second")).unwrap();
    assert_eq!(home.store.container_config("main").unwrap().cli_scope, CliScope::Global);
    assert_eq!(home.store.container_config("second").unwrap().cli_scope, CliScope::Group);
}

#[test]
fn a_chat_met_twice_is_one_row() {
    let home = Home::furnished();
    let again = MessagingGroup { id: "other".to_owned(), ..chat("family") };
    assert_eq!(home.store.ensure_messaging_group(&again).unwrap(), Ensured::Existing(chat("family")));
    assert_eq!(home.store.ensure_messaging_group(&chat("new")).unwrap(), Ensured::Created(chat("new")));
    assert_eq!(home.store.messaging_groups().unwrap().len(), 2);
}

#[test]
fn an_agent_answers_everything_but_in_a_group_with_threads() {
    let mode = |channel: &str, is_group, threads| {
        let chat = MessagingGroup { channel_type: channel.to_owned(), is_group, ..chat("x") };
        let wiring = Wiring::defaults("w", &chat, threads, "main", noon());
        (wiring.engage_mode, wiring.engage_pattern)
    };
    let everything = (EngageMode::Pattern, Some(".".to_owned()));
    assert_eq!(mode("discord", false, Threads::Supported), everything);
    assert_eq!(mode("telegram", true, Threads::Absent), everything);
    assert_eq!(mode("cli", true, Threads::Supported), everything);
    assert_eq!(mode("discord", true, Threads::Supported), (EngageMode::MentionSticky, None));
    let rest = Wiring::defaults("w", &chat("x"), Threads::Supported, "main", noon());
    assert_eq!(
        (rest.sender_scope, rest.ignored_message_policy, rest.session_mode),
        (SenderScope::All, IgnoredMessagePolicy::Drop, SessionMode::Shared)
    );
}

#[test]
fn a_pattern_wiring_without_a_pattern_is_refused() {
    let home = Home::furnished();
    for pattern in [None, Some(String::new())] {
        let wiring = Wiring { engage_pattern: pattern, ..wiring("w", "family", "main") };
        assert!(matches!(home.store.create_wiring(&wiring), Err(StoreError::Invalid { .. })));
    }
    home.store.create_wiring(&wiring("w", "family", "main")).unwrap();
    let changed = Wiring { engage_pattern: None, ..wiring("w", "family", "main") };
    assert!(matches!(home.store.update_wiring(&changed), Err(StoreError::Invalid { .. })));
    home.store.update_wiring(&Wiring { engage_mode: EngageMode::Mention, ..changed }).unwrap();
}

#[test]
fn a_wiring_comes_with_its_destination_and_leaves_with_it() {
    let home = Home::furnished();
    let store = &home.store;
    let Ensured::Created(destination) = store.create_wiring(&wiring("w", "family", "main")).unwrap() else {
        panic!("the destination was not there");
    };
    assert_eq!((destination.local_name.as_str(), destination.target_id.as_str()), ("family", "family"));
    assert_eq!(store.destinations_of("main").unwrap(), std::slice::from_ref(&destination));

    let twice = store.create_wiring(&wiring("w2", "family", "main")).unwrap_err();
    assert!(matches!(twice, StoreError::Conflict { noun: "wiring", .. }), "{twice:?}");

    store.delete_wiring("w").unwrap();
    assert_eq!(store.wirings().unwrap(), []);
    assert_eq!(store.destinations().unwrap(), []);
}

#[test]
fn a_wiring_uses_a_destination_that_is_there() {
    let home = Home::furnished();
    let store = &home.store;
    let granted = store.grant_destination("main", "home", Target::Channel("family"), noon()).unwrap().into_inner();
    assert_eq!(store.create_wiring(&wiring("w", "family", "main")).unwrap(), Ensured::Existing(granted));
    assert_eq!(store.destinations().unwrap().len(), 1);
}

#[test]
fn a_wiring_that_cannot_be_made_leaves_no_destination() {
    let home = Home::furnished();
    assert!(home.store.create_wiring(&wiring("w", "nowhere", "main")).is_err());
    assert_eq!(home.store.destinations().unwrap(), []);
}

#[test]
fn names_of_destinations_are_normalised_and_suffixed_when_taken() {
    for (wanted, name) in [
        ("Zoe DM", Some("zoe-dm")),
        ("  --Ops / Alerts!! ", Some("ops-alerts")),
        ("family", Some("family")),
        ("家族", None),
        ("", None),
    ] {
        assert_eq!(local_name(wanted).as_deref(), name, "{wanted:?}");
    }
    let home = Home::furnished();
    let store = &home.store;
    let long = "x".repeat(60);
    for (id, name) in [("a", "Ops"), ("b", "ops!"), ("c", "OPS"), ("d", "家族"), ("e", &long), ("f", &long)] {
        store.create_messaging_group(&MessagingGroup { name: Some(name.to_owned()), ..chat(id) }).unwrap();
        store.create_wiring(&wiring(&format!("w-{id}"), id, "main")).unwrap();
    }
    let names: Vec<_> = store.destinations_of("main").unwrap().into_iter().map(|row| row.local_name).collect();
    let cut = "x".repeat(40);
    assert_eq!(names, ["ops", "ops-2", "ops-3", "telegram", &cut, &format!("{cut}-2")]);
}

#[test]
fn a_grant_is_repeatable_but_never_redirected() {
    let home = Home::furnished();
    let store = &home.store;
    store.create_agent_group(&group("second")).unwrap();
    let target = Target::Agent("second");
    assert!(matches!(store.grant_destination("main", "helper", target, noon()), Ok(Ensured::Created(_))));
    assert!(matches!(store.grant_destination("main", "helper", target, later(1)), Ok(Ensured::Existing(_))));
    let redirected = store.grant_destination("main", "helper", Target::Channel("family"), noon());
    assert!(matches!(redirected, Err(StoreError::Conflict { .. })));
    for (name, target) in [("x", Target::Agent("nobody")), ("x", Target::Channel("nowhere")), ("No Name", target)] {
        assert!(store.grant_destination("main", name, target, noon()).is_err(), "{name} {target:?}");
    }
    assert_eq!(store.find_destination_to("main", target).unwrap().unwrap().local_name, "helper");
    assert_eq!(store.find_destination_to("second", target).unwrap(), None);
    store.revoke_destination("main", "helper").unwrap();
    assert_eq!(store.find_destination_to("main", target).unwrap(), None);
    assert!(matches!(store.revoke_destination("main", "helper"), Err(StoreError::NotFound { .. })));
}

#[test]
fn wirings_of_a_chat_come_in_the_order_they_are_judged() {
    let home = Home::furnished();
    let store = &home.store;
    for (id, priority) in [("second", 0), ("third", 0), ("first", 9)] {
        store.create_agent_group(&group(id)).unwrap();
        store.create_wiring(&Wiring { priority, ..wiring(id, "family", id) }).unwrap();
    }
    let order: Vec<_> = store.wirings_of_chat("family").unwrap().into_iter().map(|wiring| wiring.id).collect();
    assert_eq!(order, ["first", "second", "third"]);
    assert_eq!(store.find_wiring("family", "third").unwrap().unwrap().id, "third");
}
