//! The commands, through the command line, on a real home. No docker: nothing here has a container.

use std::ffi::OsString;
use std::path::Path;

use nanoclaw_session::inbound::{Durability, InboundDb};
use nanoclaw_session::schedule::Action;
use nanoclaw_session::usage::Usage;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::home::Home;
use crate::setup::ensure_defaults;
use crate::store::{DroppedSender, Redeemed, Session, Store};

struct Place {
    tmp: TempDir,
}

impl Place {
    /// A home as `nanoclaw init` leaves it: the agent `main`, and the terminal.
    fn new() -> Place {
        let place = Place { tmp: tempfile::tempdir().unwrap() };
        place.home().create().unwrap();
        let settings = crate::config::Settings::load(&place.home()).unwrap();
        ensure_defaults(&Store::open(&place.home().store(), crate::time::now()).unwrap(), &settings.agents).unwrap();
        place
    }

    fn home(&self) -> Home {
        Home::locate(Some(self.tmp.path())).unwrap()
    }

    fn store(&self) -> Store {
        Store::open_existing(&self.home().store(), crate::time::now()).unwrap()
    }

    /// What a command prints, or its error. The words are parted by spaces.
    fn try_text(&self, words: &str) -> Result<String, String> {
        let home = self.tmp.path().display();
        let args = format!("nanoclaw --home {home} {words}");
        let mut out = Vec::new();
        let code = crate::cmd::main(args.split(' ').map(OsString::from), &mut out);
        let code = code.map_err(|e| format!("{e:#}"))?;
        let text = String::from_utf8(out).unwrap();
        if format!("{code:?}").contains("(0)") { Ok(text) } else { Err(format!("usage {code:?}")) }
    }

    fn text(&self, words: &str) -> String {
        self.try_text(words).unwrap_or_else(|e| panic!("{words}: {e}"))
    }

    fn json(&self, words: &str) -> Value {
        let text = self.text(&format!("{words} --json"));
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{words}: {e}: {text}"))
    }

    fn error(&self, words: &str) -> String {
        self.try_text(words).expect_err(words)
    }

    /// The id of a row that a command creates.
    fn id(&self, words: &str) -> String {
        self.json(words)["id"].as_str().unwrap().to_owned()
    }

    /// A session with its folder, as the router makes it.
    fn live_session(&self, group: &str) -> Session {
        self.live_session_in(group, None)
    }

    fn live_session_in(&self, group: &str, thread: Option<&str>) -> Session {
        let session = Session::new(&crate::id::new_id("sess"), group, None, thread, crate::time::now());
        let session = self.store().ensure_session(&session).unwrap().into_inner();
        let dir = self.home().session(group, &session.id);
        dir.prepare().unwrap();
        InboundDb::open(&dir, Durability::Normal).unwrap();
        session
    }

    /// What a session's agent may write to: name and display name.
    fn known_to(&self, session: &Session) -> Vec<(String, Option<String>)> {
        let path = self.home().session(&session.agent_group_id, &session.id).inbound_db();
        let db = rusqlite::Connection::open(path).unwrap();
        let mut names = db.prepare("SELECT name, display_name FROM destinations ORDER BY name").unwrap();
        let rows = names.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.map(Result::unwrap).collect()
    }
}

const TEAM: &str = "chats create --channel telegram --platform-id telegram:-100 --name Team --is-group true";

#[test]
fn every_resource_lists_as_text_and_as_one_json_document() {
    let place = Place::new();
    for resource in [
        "groups",
        "chats",
        "wirings",
        "users",
        "roles",
        "members",
        "destinations",
        "sessions",
        "tasks",
        "dropped",
        "usage",
    ] {
        assert!(!place.text(resource).is_empty());
        assert_eq!(place.text(resource), place.text(&format!("{resource} list")));
        assert!(place.json(&format!("{resource} list")).is_array(), "{resource}");
    }
    let groups = place.text("groups");
    let lines: Vec<_> = groups.lines().collect();
    let column = |line: &str, word: &str| line.find(word).unwrap();
    assert_eq!(lines.len(), 2, "{groups}");
    assert_eq!(column(lines[0], "name"), column(lines[1], "Claw"), "columns are aligned:\n{groups}");
    assert_eq!(place.text("members"), "there are no members\n");
}

#[test]
fn a_home_that_was_not_set_up_is_an_error_with_the_remedy() {
    let tmp = tempfile::tempdir().unwrap();
    let args = ["nanoclaw", "--home", tmp.path().to_str().unwrap(), "groups"].map(OsString::from);
    let error = crate::cmd::main(args, &mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("nanoclaw init"), "{error}");
    assert_eq!(tmp.path().read_dir().unwrap().count(), 0, "nothing was made");
}

#[test]
fn a_group_is_created_with_its_folder_found_by_any_name_and_updated() {
    let place = Place::new();
    let group = place.json("groups create --name Familie --provider demo");
    assert_eq!((group["id"].as_str(), group["folder"].as_str()), (Some("familie"), Some("familie")));
    assert!(place.home().group("familie").is_dir());
    assert_eq!(place.id("groups create --name Familie"), "familie-2", "names need not be unique");
    assert_eq!(place.id("groups create --name X --folder 2_Work"), "agent-2-work", "an id begins with a letter");
    assert_eq!(place.json("groups get 2_Work")["id"], "agent-2-work");
    assert_eq!(place.json("groups update X --name Work --provider anthropic")["agent_provider"], "anthropic");
    assert_eq!(place.json("groups update Work --provider=")["agent_provider"], Value::Null);
    let error = place.error("groups get Familie");
    assert!(error.contains("several") && error.contains("familie-2"), "{error}");
}

#[test]
fn a_group_is_refused_with_what_is_allowed() {
    let place = Place::new();
    for (words, says) in [
        ("groups create --name X --folder ../x", "a folder is"),
        ("groups create --name X --folder global", "`global` is taken"),
        ("groups create --name X --folder main", "that of agent group `main`"),
        ("groups create --name X --id UP", "an id is"),
        ("groups create --name X --provider grok", "allowed is one of anthropic, openai, claude, demo"),
        ("groups create --name ???", "give --folder"),
        ("groups update main", "nothing to change"),
        ("groups get nobody", "there are: main"),
        ("groups create", "usage"),
    ] {
        let error = place.error(words);
        assert!(error.contains(says), "{words}: {error}");
    }
    assert_eq!(place.json("groups").as_array().unwrap().len(), 1);
    assert_eq!(place.home().groups().read_dir().unwrap().count(), 1, "only the shared folder, no other was made");
}

#[test]
fn deleting_a_group_names_its_dependents_wants_cascade_and_leaves_its_folder() {
    let place = Place::new();
    place.text("groups create --name Ops");
    place.text(TEAM);
    place.text("wirings create --chat Team --group ops");
    let session = place.live_session("ops");
    let main = place.live_session("main");
    place.text("destinations add --group main --name ops --to-group ops");
    assert!(place.known_to(&main).iter().any(|(name, _)| name == "ops"));

    let error = place.error("groups delete ops");
    assert!(error.contains("1 session, 1 wiring, 2 destinations") && error.contains("--cascade"), "{error}");
    let dry = place.json("groups delete ops --cascade --dry-run");
    assert_eq!((dry["deleted"].as_bool(), dry["dependents"].as_array().unwrap().len()), (Some(false), 3));
    assert_eq!(place.json("groups").as_array().unwrap().len(), 2, "a dry run deletes nothing");

    let said = place.text("groups delete ops --cascade");
    assert!(said.contains("left as it is") && said.contains("groups/ops") && said.contains(&session.id), "{said}");
    assert!(place.home().group("ops").is_dir());
    assert_eq!(place.json("groups").as_array().unwrap().len(), 1);
    assert!(!place.known_to(&main).iter().any(|(name, _)| name == "ops"), "the other agent's name went at once");
}

#[test]
fn container_settings_are_set_checked_and_cleared() {
    let place = Place::new();
    let set = "groups config set main --model big --memory 1g --cpus 1.5 --pids 99 --network bridge --skills a,b \
               --packages-apt ffmpeg,g++ --cli-scope disabled --mcp-servers {\"x\":{\"command\":\"y\"}}";
    let config = place.json(set);
    assert_eq!((config["model"].as_str(), config["pids"].as_u64()), (Some("big"), Some(99)));
    assert_eq!(config["skills"], serde_json::json!(["a", "b"]));
    assert_eq!(config["mcp_servers"]["x"]["command"], "y");
    assert_eq!(place.json("groups config get main"), config);
    let cleared = place.json("groups config set main --model= --skills all --network= --pids= --packages-apt=");
    assert_eq!((&cleared["model"], &cleared["network"], &cleared["pids"]), (&Value::Null, &Value::Null, &Value::Null));
    assert_eq!((cleared["skills"].as_str(), cleared["memory"].as_str()), (Some("all"), Some("1g")));
    for (flag, says) in [
        ("--memory 1", "at least 32m"),
        ("--cpus -1", "usage"),
        ("--cpus none", "above 0"),
        ("--pids 0", "above 0"),
        ("--network host", "none, bridge"),
        ("--cli-scope all", "usage"),
        ("--packages-apt a;rm", "no package"),
        ("--packages-apt=-o", "no package"),
        ("--additional-mounts {}", "an array"),
        ("--provider x", "allowed is one of"),
    ] {
        let error = place.error(&format!("groups config set main {flag}"));
        assert!(error.contains(says), "{flag}: {error}");
    }
    assert_eq!(place.json("groups config get main")["memory"], "1g", "a refused change changes nothing");
    assert!(place.error("groups config set main").contains("nothing to change"));
}

#[test]
fn restarting_a_group_without_containers_says_so() {
    let place = Place::new();
    place.live_session("main");
    assert_eq!(place.text("groups restart main"), "no container of `main` runs\n");
    assert_eq!(place.json("groups restart Claw")["stopped"], serde_json::json!([]));
}

#[test]
fn a_chat_is_strict_unless_said_otherwise_and_shows_who_hears_it() {
    let place = Place::new();
    let id = place.id(TEAM);
    let chat = place.json("chats get telegram:-100");
    assert_eq!((chat["id"].as_str(), chat["unknown_sender_policy"].as_str()), (Some(id.as_str()), Some("strict")));
    assert_eq!(chat["is_group"], true);
    let agents = |n: usize| place.json("chats")[n]["agents"].clone();
    assert_eq!((agents(0), agents(1)), (serde_json::json!(["main"]), serde_json::json!([])));
    let changed = place.json("chats update Team --unknown-sender-policy public --name= --denied true");
    assert_eq!((changed["unknown_sender_policy"].as_str(), &changed["name"]), (Some("public"), &Value::Null));
    assert!(changed["denied_at"].is_string());
    assert!(place.error(TEAM).contains(&id), "the same chat again names the one that is there");
    assert!(place.error("chats get Team").contains("telegram:-100"), "what there is");
    assert!(place.error("chats update local").contains("nothing to change"));
    assert!(place.error("chats update local --unknown-sender-policy open").contains("usage"));
}

#[test]
fn deleting_a_chat_takes_its_wirings_and_destinations_only_with_cascade() {
    let place = Place::new();
    let session = place.live_session("main");
    place.text(TEAM);
    place.text("wirings create --chat Team --group main");
    assert_eq!(place.known_to(&session).len(), 2);
    let error = place.error("chats delete Team");
    assert!(error.contains("1 wiring, 1 destination"), "{error}");
    assert_eq!(place.known_to(&session).len(), 2);
    place.text("chats delete Team --cascade");
    assert_eq!(place.known_to(&session).len(), 1, "only the terminal is left");
}

#[test]
fn a_wiring_creates_its_destination_and_live_sessions_learn_of_it_at_once() {
    let place = Place::new();
    let session = place.live_session("main");
    assert_eq!(place.known_to(&session), [], "nothing was projected yet");
    place.text(TEAM);
    let wiring = place.id("wirings create --chat Team --group main");
    let named = |name: &str, shown: &str| (name.to_owned(), Some(shown.to_owned()));
    let terminal = named("terminal", "terminal");
    assert_eq!(place.known_to(&session), [named("team", "Team"), terminal.clone()]);
    place.text("chats update Team --name Crew");
    assert_eq!(place.known_to(&session), [named("team", "Crew"), terminal.clone()], "a rename reaches it too");
    assert!(place.text(&format!("wirings delete {wiring} --dry-run")).contains("1 destination"));
    assert_eq!(place.known_to(&session).len(), 2);
    place.text(&format!("wirings delete {wiring}"));
    assert_eq!(place.known_to(&session), [terminal]);
}

#[test]
fn a_session_that_cannot_be_told_does_not_stop_the_change() {
    let place = Place::new();
    let (deaf, hears) = (place.live_session("main"), place.live_session_in("main", Some("t")));
    std::fs::write(place.home().session("main", &deaf.id).inbound_db(), "not a database, and long enough to tell")
        .unwrap();
    place.text(TEAM);
    place.text("destinations add --group main --name crew --chat Team");
    assert_eq!(place.known_to(&hears).len(), 2);
    assert!(place.json("destinations").as_array().unwrap().iter().any(|row| row["local_name"] == "crew"));
}

#[test]
fn a_wiring_has_the_defaults_of_its_chat_and_says_what_it_needs() {
    let place = Place::new();
    place.text(TEAM);
    place.text("chats create --channel discord --platform-id discord:1:2 --name Guild --is-group true");
    place.text("chats create --channel discord --platform-id discord:@me:3 --name Direct");
    for (chat, mode) in [("Team", "pattern"), ("Guild", "mention-sticky"), ("Direct", "pattern")] {
        let wiring = place.json(&format!("wirings create --chat {chat} --group main"));
        assert_eq!(wiring["engage_mode"], mode, "{chat}");
        assert_eq!((wiring["sender_scope"].as_str(), wiring["session_mode"].as_str()), (Some("all"), Some("shared")));
    }
    let all = place.json("wirings");
    let guild = all.as_array().unwrap().iter().find(|w| w["engage_mode"] == "mention-sticky").unwrap();
    let id = guild["id"].as_str().unwrap();
    for (words, says) in [
        ("wirings create --chat Guild --group main".to_owned(), id),
        (format!("wirings update {id} --engage-mode pattern"), "needs --engage-pattern"),
        (format!("wirings update {id} --engage-pattern ("), "no regular expression"),
        (format!("wirings update {id} --engage-mode always"), "usage"),
        (format!("wirings update {id}"), "nothing to change"),
        ("wirings create --chat nowhere --group main".to_owned(), "telegram:-100"),
        ("wirings create --chat Guild --group nobody".to_owned(), "there are: main"),
        ("wirings get wire".to_owned(), "give the id"),
    ] {
        let error = place.error(&words);
        assert!(error.contains(says), "{words}: {error}");
    }
    let words = "--engage-pattern ^hey --sender-scope known --ignored-message-policy accumulate --priority -3";
    let changed = place.json(&format!("wirings update {id} {words} --session-mode per-thread"));
    assert_eq!((changed["engage_mode"].as_str(), changed["engage_pattern"].as_str()), (Some("pattern"), Some("^hey")));
    assert_eq!((changed["priority"].as_i64(), changed["session_mode"].as_str()), (Some(-3), Some("per-thread")));
    let back = place.json(&format!("wirings update {id} --engage-mode mention"));
    assert_eq!((back["engage_mode"].as_str(), &back["engage_pattern"]), (Some("mention"), &Value::Null));
}

#[test]
fn wiring_a_chat_forgives_and_forgets() {
    let place = Place::new();
    place.text(TEAM);
    place.text("chats update Team --denied true");
    let now = crate::time::now();
    let dropped = DroppedSender {
        channel_type: "telegram".to_owned(),
        platform_id: "telegram:-100".to_owned(),
        user_id: None,
        sender_name: Some("\u{1b}[31mEve".to_owned()),
        reason: "no wiring".to_owned(),
        messaging_group_id: None,
        agent_group_id: None,
        message_count: 1,
        first_seen: now,
        last_seen: now,
    };
    place.store().record_dropped(&dropped).unwrap();
    assert!(!place.text("dropped").contains('\u{1b}'), "a stranger's name does not write to the terminal");
    assert_eq!(place.json("dropped get telegram:-100")["message_count"], 1);
    place.text("wirings create --chat Team --group main");
    assert_eq!(place.json("dropped"), serde_json::json!([]));
    assert_eq!(place.json("chats get Team")["denied_at"], Value::Null);
    place.store().record_dropped(&dropped).unwrap();
    place.text("dropped delete telegram:-100");
    assert_eq!(place.json("dropped"), serde_json::json!([]));
}

#[test]
fn users_are_added_named_and_deleted() {
    let place = Place::new();
    let user = place.json("users create --id telegram:42 --display-name Ada");
    assert_eq!((user["kind"].as_str(), user["display_name"].as_str()), (Some("telegram"), Some("Ada")));
    assert_eq!(place.json("users get Ada")["id"], "telegram:42");
    assert_eq!(place.json("users update Ada --display-name=")["display_name"], Value::Null);
    assert!(place.error("users create --id ada").contains("<channel>:<handle>"));
    assert!(place.error("users create --id telegram:42").contains("already taken"));
    assert!(place.error("users get telegram:4").contains("there is no user"), "nobody is meant by the start of an id");
    let member = place.json("members add --user telegram:4 --group main");
    assert_eq!(member["user_id"], "telegram:4", "and nobody else is let in");
    place.text("members add --user telegram:42 --group main");
    assert!(place.error("users delete telegram:42").contains("1 member"));
    place.text("users delete telegram:42 --cascade");
    assert!(place.error("users get telegram:42").contains("cli:local"));
    assert!(place.error("users delete cli:local --cascade").contains("last owner"));
}

#[test]
fn roles_are_granted_and_revoked_and_the_last_owner_stays() {
    let place = Place::new();
    let grant = place.json("roles grant --user telegram:7 --role admin --group main");
    assert_eq!((grant["agent_group_id"].as_str(), grant["granted_by"].as_str()), (Some("main"), Some("cli:local")));
    assert!(place.json("users get telegram:7").is_object(), "who has not written yet is recorded");
    assert!(place.error("roles grant --user telegram:7 --role owner --group main").contains("leave --group out"));
    assert!(place.error("roles grant --user Nobody --role admin").contains("there is no user"));
    assert!(place.error("roles grant --user telegram:7 --role boss").contains("usage"));
    let error = place.error("roles revoke --user telegram:7 --role admin");
    assert!(error.contains("no admin of all") && error.contains("admin of main"), "{error}");
    assert!(place.error("roles revoke --user cli:local --role owner").contains("last owner"));
    place.text("roles grant --user telegram:7 --role owner");
    place.text("roles revoke --user cli:local --role owner --dry-run");
    assert_eq!(place.store().owners().unwrap().len(), 2, "a dry run revokes nothing");
    place.text("roles revoke --user cli:local --role owner");
    place.text("roles revoke --user telegram:7 --role admin --group main");
    let left = place.json("roles");
    assert_eq!((left.as_array().unwrap().len(), left[0]["user_id"].as_str()), (1, Some("telegram:7")));
}

#[test]
fn a_pairing_code_can_be_redeemed_and_replaces_the_one_before() {
    let place = Place::new();
    let code = place.json("roles pair")["code"].as_str().unwrap().to_owned();
    assert!(place.text("roles pair").contains("minutes"));
    let (store, now) = (place.store(), crate::time::now());
    assert_eq!(store.redeem_pairing_code(&code, "telegram:1", now).unwrap(), Redeemed::Invalid, "it was replaced");
    let code = place.json("roles pair")["code"].as_str().unwrap().to_owned();
    assert_eq!(store.redeem_pairing_code(&code, "telegram:1", now).unwrap(), Redeemed::Now);
}

#[test]
fn members_are_added_and_removed() {
    let place = Place::new();
    let member = place.json("members add --user telegram:9 --group Claw");
    assert_eq!((member["user_id"].as_str(), member["agent_group_id"].as_str()), (Some("telegram:9"), Some("main")));
    assert_eq!(place.json("members add --user telegram:9 --group main"), member, "again changes nothing");
    place.text("members remove --user telegram:9 --group main --dry-run");
    assert_eq!(place.json("members").as_array().unwrap().len(), 1);
    place.text("members remove --user telegram:9 --group main");
    assert!(place.error("members remove --user telegram:9 --group main").contains("no member of `main`"));
}

#[test]
fn destinations_are_added_and_removed_under_names_that_are_free() {
    let place = Place::new();
    place.text("groups create --name Ops");
    let row = place.json("destinations add --group main --name helper --to-group ops");
    assert_eq!((row["target_type"].as_str(), row["target_id"].as_str()), (Some("agent"), Some("ops")));
    assert_eq!(place.json("destinations add --group main --name helper --to-group ops"), row);
    for (words, says) in [
        ("destinations add --group main --name helper --chat local", "leads elsewhere"),
        ("destinations add --group main --name Big --chat local", "1 to 50 of a-z"),
        ("destinations add --group main --name x", "usage"),
        ("destinations add --group main --name x --chat local --to-group ops", "usage"),
        ("destinations remove --group main --name y", "it has: helper, terminal"),
    ] {
        let error = place.error(words);
        assert!(error.contains(says), "{words}: {error}");
    }
    place.text("destinations remove --group main --name helper --dry-run");
    assert_eq!(place.json("destinations").as_array().unwrap().len(), 2);
    place.text("destinations remove --group main --name helper");
    assert_eq!(place.json("destinations").as_array().unwrap().len(), 1);
}

#[test]
fn a_session_is_closed_given_a_provider_and_deleted_without_its_folder() {
    let place = Place::new();
    let session = place.live_session("main");
    let start = &session.id[..10];
    assert_eq!(place.json(&format!("sessions get {start}"))["id"].as_str(), Some(session.id.as_str()));
    let changed = place.json(&format!("sessions update {start} --status closed --provider anthropic"));
    assert_eq!((changed["status"].as_str(), changed["agent_provider"].as_str()), (Some("closed"), Some("anthropic")));
    place.live_session("main");
    let error = place.error(&format!("sessions update {} --status active", session.id));
    assert!(error.contains("in its place"), "{error}");
    assert!(place.error(&format!("sessions update {start} --provider x")).contains("allowed is one of"));
    let said = place.json(&format!("sessions delete {}", session.id));
    let kept = said["kept"][0].as_str().unwrap();
    assert!(Path::new(kept).join("inbound.db").exists(), "{said}");
    assert!(place.error(&format!("sessions get {}", session.id)).contains("there is no session"));
}

#[test]
fn usage_is_listed_by_day_with_a_total_and_cannot_be_changed() {
    let place = Place::new();
    let (store, session) = (place.store(), place.live_session("main"));
    let now = crate::time::now();
    let day = |days: i64| crate::time::day(now - jiff::SignedDuration::from_hours(24 * days), "UTC").to_string();
    for (seq, days, input_tokens, cost_usd) in [(1, 40, 9_000, None), (3, 1, 100, None), (5, 0, 20, Some(0.5))] {
        let (provider, model) = ("anthropic".to_owned(), "opus".to_owned());
        let usage = Usage { provider, model, input_tokens, output_tokens: 7, cost_usd, ..Usage::default() };
        store.count_usage(&session, &day(days), &[(seq, usage)]).unwrap();
    }
    let text = place.text("usage list");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert!(lines[0].contains("input-tokens") && lines[0].contains("cost-usd"), "{text}");
    assert!(lines[3].starts_with("total") && lines[3].contains("120") && lines[3].contains("0.5"), "{text}");
    let rows = place.json("usage");
    assert_eq!((rows[0]["input_tokens"].as_i64(), rows[1]["cost_usd"].as_f64()), (Some(100), Some(0.5)));
    assert_eq!(rows.as_array().unwrap().len(), 2, "the total is for people");
    assert_eq!(place.json("usage list --days 60 --group main").as_array().unwrap().len(), 3);
    place.text("groups create --name Ops");
    assert_eq!(place.json("usage list --group ops"), Value::Array(vec![]));
    assert!(place.error("usage list --group nobody").contains("nobody"));
    for verb in ["delete", "update", "create"] {
        assert!(place.error(&format!("usage {verb} main")).contains("usage"));
    }
}

#[test]
fn tasks_are_listed_paused_resumed_run_and_cancelled_by_the_start_of_their_id() {
    let place = Place::new();
    let session = place.live_session("main");
    let dir = place.home().session(&session.agent_group_id, &session.id);
    let wish =
        json!({"taskId": "task-abc", "prompt": "water the plants", "recurrence": "0 8 * * *", "timezone": "UTC"});
    let action = Action::parse(Action::SCHEDULE, wish.as_object().unwrap(), "UTC").unwrap();
    let open = || InboundDb::open(&dir, Durability::Normal).unwrap();
    open().write(|tx| crate::tasks::act(tx, &action, crate::time::now(), "UTC")).unwrap().unwrap();
    let listed = place.json("tasks list --group main");
    assert_eq!((&listed[0]["id"], &listed[0]["prompt"]), (&json!("task-abc"), &json!("water the plants")));
    assert_eq!(place.json("tasks pause task-a")["status"], "paused");
    assert!(place.error("tasks run task-a").contains("resume it first"));
    assert_eq!(place.json("tasks resume task-a")["status"], "pending");
    place.text("tasks run task-a");
    assert!(open().tasks().unwrap()[0].due.unwrap() <= crate::time::now());
    assert!(place.store().find_due(&session.id).unwrap().is_some());
    assert_eq!(place.json("tasks cancel task-a")["status"], "completed");
    assert_eq!(place.json("tasks"), json!([]));
    assert!(place.error("tasks cancel task-a").contains("there is no task `task-a`; there are: none"));
    assert_eq!(place.json("tasks runs task-abc"), json!([]));
}
