//! Users, roles, members and private chats.

use super::*;

#[test]
fn a_user_has_a_namespaced_id_and_keeps_the_newest_name() {
    let home = Home::furnished();
    let store = &home.store;
    for bad in ["", "zoe", ":1", "telegram:"] {
        assert!(matches!(store.create_user(&user(bad)), Err(StoreError::Invalid { .. })), "{bad:?}");
    }
    let named = |name: Option<&str>| User { display_name: name.map(str::to_owned), ..user("matrix:@zoe:home") };
    assert_eq!(store.ensure_user(&named(None)).unwrap(), Ensured::Created(named(None)));
    assert_eq!(store.ensure_user(&named(Some("Zoe"))).unwrap(), Ensured::Existing(named(Some("Zoe"))));
    assert_eq!(store.ensure_user(&named(None)).unwrap(), Ensured::Existing(named(Some("Zoe"))));
    assert_eq!(store.find_user("telegram:9").unwrap(), None);
}

#[test]
fn an_owner_is_global_and_a_role_is_held_once() {
    let home = Home::furnished();
    let store = &home.store;
    let scoped = store.grant_role(&grant("telegram:1", Role::Owner, Some("main")));
    assert!(matches!(scoped, Err(StoreError::Invalid { .. })));
    let owner = grant("telegram:1", Role::Owner, None);
    assert_eq!(store.grant_role(&owner).unwrap(), Inserted::New);
    assert_eq!(store.grant_role(&owner).unwrap(), Inserted::AlreadyThere);
    assert_eq!(store.owners().unwrap(), std::slice::from_ref(&owner));
    assert_eq!(store.roles_of_user("telegram:1").unwrap(), [owner]);
    store.revoke_role("telegram:1", Role::Owner, None).unwrap();
    let error = store.revoke_role("telegram:1", Role::Owner, None).unwrap_err();
    assert!(matches!(error, StoreError::NotFound { noun: "role", .. }));
}

#[test]
fn whoever_has_a_role_over_a_group_is_its_member() {
    let home = Home::furnished();
    let store = &home.store;
    store.create_agent_group(&group("second")).unwrap();
    for id in ["telegram:2", "telegram:3"] {
        store.create_user(&user(id)).unwrap();
    }
    assert!(!store.is_member("telegram:1", "main").unwrap());
    assert_eq!(store.add_member(&member("telegram:1", "main")).unwrap(), Inserted::New);
    assert_eq!(store.add_member(&member("telegram:1", "main")).unwrap(), Inserted::AlreadyThere);
    store.grant_role(&grant("telegram:2", Role::Admin, Some("main"))).unwrap();
    store.grant_role(&grant("telegram:3", Role::Owner, None)).unwrap();

    let members =
        |group: &str| ["telegram:1", "telegram:2", "telegram:3"].map(|user| store.is_member(user, group).unwrap());
    assert_eq!(members("main"), [true, true, true]);
    assert_eq!(members("second"), [false, false, true]);
    assert_eq!(store.members_of("main").unwrap().len(), 1);
    store.remove_member("telegram:1", "main").unwrap();
    assert_eq!(members("main"), [false, true, true]);
    assert!(matches!(store.remove_member("telegram:1", "main"), Err(StoreError::NotFound { .. })));
}

#[test]
fn a_private_chat_is_remembered_per_channel() {
    let home = Home::furnished();
    let store = &home.store;
    store.create_messaging_group(&chat("other")).unwrap();
    store.put_user_dm(&dm("telegram:1", "family")).unwrap();
    store.put_user_dm(&UserDm { resolved_at: later(1), ..dm("telegram:1", "other") }).unwrap();
    store.put_user_dm(&UserDm { channel_type: "matrix".to_owned(), ..dm("telegram:1", "family") }).unwrap();
    let found = store.find_user_dm("telegram:1", "telegram").unwrap().unwrap();
    assert_eq!(found.messaging_group_id, "other");
    let found = store.find_user_dm("telegram:1", "matrix").unwrap().unwrap();
    assert_eq!(found.messaging_group_id, "family");
    assert_eq!(store.find_user_dm("telegram:2", "telegram").unwrap(), None);
}
