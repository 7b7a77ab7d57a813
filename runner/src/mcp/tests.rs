//! The client against servers in a few lines of shell, and against a real one.

mod public;

use std::fs;

use crossbeam_channel::bounded;

use super::*;
use crate::stop::{self, Stopper};
use crate::tools::{Outcome, Part};

/// Longest wait for anything that should come.
const DEADLINE: Duration = Duration::from_secs(30);

/// What the shell servers have in common: ids are counted from 1 by the client.
const SHELL: &str = r#"
    ok() { printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$1" "$2"; }
    say() { printf '{"jsonrpc":"2.0","method":"%s","params":%s}\n' "$1" "$2"; }
    tool() { printf '{"name":"%s","description":"d","inputSchema":{"type":"object"}}' "$1"; }
    text() { printf '{"content":[{"type":"text","text":"%s"}]}' "$1"; }
    greet() { read -r hello; ok 1 '{"protocolVersion":"2024-11-05","capabilities":{}}'; read -r initialized; }
    begin() { greet; read -r list; ok 2 "{\"tools\":[$(tool "$1")]}"; }
    log() { cat >"$LOG"; }
"#;

/// A folder, the servers of a group in it, and a turn that uses them.
struct World {
    tmp: tempfile::TempDir,
    servers: Servers,
    context: Context,
    stopper: Option<Stopper>,
}

impl World {
    /// Each script is a server; it finds the path of a file in `LOG`, named after the server, and one in `PIPE`.
    fn new(scripts: &[(&str, &str)], patience: Patience) -> World {
        let tmp = tempfile::tempdir().unwrap();
        let config = scripts.iter().map(|(name, script)| {
            let env = ["LOG", "PIPE"].map(|var| {
                let path = tmp.path().join(format!("{}.{}", plain(name), var.to_lowercase()));
                (var.to_owned(), path.to_str().unwrap().to_owned())
            });
            let args = vec!["-c".into(), format!("{SHELL}{script}")];
            ((*name).to_owned(), McpServer { command: "sh".into(), args, env: env.into() })
        });
        World::with(config.collect(), tmp, patience)
    }

    fn with(config: BTreeMap<String, McpServer>, tmp: tempfile::TempDir, patience: Patience) -> World {
        let servers = Servers::patient(&config, tmp.path().join("files"), patience);
        let (stopper, stop) = stop::pair();
        let context = Context { stop, events: bounded(0).0, destinations: Default::default() };
        World { tmp, servers, context, stopper: Some(stopper) }
    }

    /// The tools of a group all of whose servers work.
    fn tools(&self) -> Vec<Arc<dyn Tool>> {
        let (tools, complaints) = self.servers.tools(&self.context.stop);
        assert_eq!(complaints, [""; 0]);
        tools
    }

    fn names(&self) -> Vec<String> {
        self.tools().iter().map(|tool| tool.spec().name).collect()
    }

    fn complaints(&self) -> Vec<String> {
        self.servers.tools(&self.context.stop).1
    }

    /// Calls the only tool.
    fn call(&self, input: Value) -> Output {
        self.tools()[0].call(&input, &self.context)
    }

    /// The log of the server `s`, when it is complete: its writer has closed it.
    fn log(&self) -> Vec<Value> {
        let path = self.tmp.path().join("s.log");
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn plain(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).collect()
}

fn patient() -> Patience {
    Patience { start: DEADLINE, call: DEADLINE }
}

/// The text of an output that is nothing else.
fn text(output: &Output) -> (&str, Outcome) {
    let [Part::Text(text)] = &output.parts[..] else { panic!("{output:?}") };
    (text, output.outcome)
}

#[test]
fn a_call_arrives_under_the_real_name_and_its_text_comes_back() {
    let world = World::new(
        &[(
            "s",
            r#"begin 'get it!'; read -r call; printf '%s\n' "$hello" "$call" >"$LOG"
        ok 3 "$(text hi)"; cat"#,
        )],
        patient(),
    );
    let tools = world.tools();
    assert_eq!(tools[0].spec().name, "mcp__s__get_it_");
    assert_eq!(tools[0].effect(), Effect::Changes);
    assert_eq!(text(&tools[0].call(&json!({"a": 1}), &world.context)), ("hi", Outcome::Done));
    let log = world.log();
    assert_eq!(log[0]["params"]["protocolVersion"], "2025-11-25");
    assert_eq!(log[1]["method"], "tools/call");
    assert_eq!(log[1]["params"], json!({"name": "get it!", "arguments": {"a": 1}}));
}

#[test]
fn servers_start_side_by_side_and_one_that_cannot_costs_a_sentence() {
    // Each of the two waits for the other.
    let meet = r#"pipe=${PIPE%/*}/meet; mkfifo "$pipe" 2>/dev/null; "#;
    let world = World::new(
        &[
            ("a", &format!("{meet} echo >\"$pipe\"; begin one; cat")),
            ("b", &format!("{meet} read -r _ <\"$pipe\"; begin two; cat")),
            ("broken", "exit 3"),
        ],
        patient(),
    );
    let mut config = BTreeMap::new();
    config.insert("none".into(), McpServer { command: "no-such-program".into(), ..McpServer::default() });
    let none = World::with(config, tempfile::tempdir().unwrap(), patient());
    let (tools, complaints) = world.servers.tools(&world.context.stop);
    assert_eq!(tools.iter().map(|t| t.spec().name).collect::<Vec<_>>(), ["mcp__a__one", "mcp__b__two"]);
    assert_eq!(complaints, [r#"The MCP server "broken" cannot be used: it ended."#]);
    assert_eq!(none.complaints(), [r#"The MCP server "none" cannot be used: there is no program "no-such-program"."#]);
}

#[test]
fn a_server_that_does_not_start_is_not_tried_again_at_once() {
    let patience = Patience { start: Duration::from_secs(2), call: DEADLINE };
    let world = World::new(&[("s", r#"echo x >>"$LOG"; cat >/dev/null"#)], patience);
    let sentence = [r#"The MCP server "s" cannot be used: it did not answer in time."#];
    assert_eq!(world.complaints(), sentence);
    assert_eq!(world.complaints(), sentence);
    assert_eq!(fs::read_to_string(world.tmp.path().join("s.log")).unwrap(), "x\n");
}

#[test]
fn a_server_that_crashed_is_started_again_on_the_next_use() {
    let world = World::new(&[("s", r#"echo x >>"$LOG"; begin t; read -r call; exit 1"#)], patient());
    let tool = &world.tools()[0];
    for _ in 0..2 {
        let output = tool.call(&json!({}), &world.context);
        assert!(text(&output).0.contains("did not do this: it ended."), "{output:?}");
    }
    assert_eq!(world.names(), ["mcp__s__t"]);
    assert_eq!(fs::read_to_string(world.tmp.path().join("s.log")).unwrap(), "x\n".repeat(3));
}

#[test]
fn a_changed_list_is_read_again_before_the_next_turn_and_if_that_fails_before_the_one_after() {
    let world = World::new(
        &[(
            "s",
            r#"begin old; read -r call; say notifications/tools/list_changed '{}'; ok 3 "$(text done)"
        read -r list; echo '{"jsonrpc":"2.0","id":4,"error":{"code":-32603,"message":"not now"}}'
        read -r list; ok 5 "{\"tools\":[$(tool new)]}"; cat"#,
        )],
        patient(),
    );
    assert_eq!(world.names(), ["mcp__s__old"]);
    assert_eq!(text(&world.call(json!({}))).0, "done");
    assert_eq!(world.complaints(), [r#"The MCP server "s" cannot be used: it answered: not now (-32603)."#]);
    assert_eq!(world.names(), ["mcp__s__new"]);
    assert_eq!(world.names(), ["mcp__s__new"]);
}

#[test]
fn a_list_has_pages() {
    let world = World::new(
        &[(
            "s",
            r#"greet; read -r list; ok 2 "{\"tools\":[$(tool a)],\"nextCursor\":\"p2\"}"
        read -r list; printf '%s\n' "$list" >"$LOG"; ok 3 "{\"tools\":[$(tool b)]}"; cat"#,
        )],
        patient(),
    );
    assert_eq!(world.names(), ["mcp__s__a", "mcp__s__b"]);
    assert_eq!(world.log()[0]["params"], json!({"cursor": "p2"}));
}

#[test]
fn tools_with_descriptions_beyond_all_measure_are_left_out() {
    let script = r#"greet; read -r list; long=$(printf %0300000d 0)
        ok 2 "{\"tools\":[$(tool a),$(tool "b$long"),$(tool "c$long"),$(tool d)]}"; cat"#;
    let names = World::new(&[("s", script)], patient()).names();
    assert_eq!(names.iter().map(|name| &name[..9]).collect::<Vec<_>>(), ["mcp__s__a", "mcp__s__b", "mcp__s__d"]);
}

#[test]
fn a_list_without_an_end_is_cut() {
    let world = World::new(
        &[(
            "s",
            r#"greet; n=1; while read -r list; do n=$((n+1))
        ok $n "{\"tools\":[$(tool a),$(tool a)],\"nextCursor\":\"x\"}"; done"#,
        )],
        patient(),
    );
    let names = world.names();
    assert_eq!((names.len(), names[199].as_str()), (200, "mcp__s__a_200"));
}

#[test]
fn a_call_that_takes_too_long_is_cancelled_and_its_late_answer_is_nobodys() {
    let patience = Patience { start: DEADLINE, call: Duration::from_secs(3) };
    let world = World::new(
        &[(
            "s",
            r#"begin t; read -r call; read -r cancelled; printf '%s\n' "$cancelled" >"$LOG"
        ok 3 "$(text late)"; read -r call; ok 4 "$(text fresh)"; cat"#,
        )],
        patience,
    );
    let output = world.call(json!({}));
    assert_eq!(output.outcome, Outcome::Failed);
    assert!(text(&output).0.contains("did not answer in time"));
    assert_eq!(text(&world.call(json!({}))), ("fresh", Outcome::Done));
    assert_eq!(world.log()[0]["method"], "notifications/cancelled");
    assert_eq!(world.log()[0]["params"]["requestId"], 3);
}

#[test]
fn a_stop_is_heard_within_two_seconds_whatever_the_server_does() {
    // One reads the beginning of a call that is larger than a pipe, one reads and does not answer.
    let reads = [r#"dd bs=1 count=9 of=/dev/null 2>/dev/null"#, "read -r call"];
    for (read, input) in reads.into_iter().zip(["x".repeat(1_000_000), "x".into()]) {
        let script = format!(r#"mkfifo "$PIPE"; begin t; {read}; echo >"$PIPE"; while :; do sleep 1; done"#);
        let mut world = World::new(&[("s", &script)], patient());
        let tool = world.tools().remove(0);
        let stopper = world.stopper.take();
        thread::scope(|scope| {
            let call = scope.spawn(|| tool.call(&json!({"x": input}), &world.context));
            assert_eq!(fs::read_to_string(world.tmp.path().join("s.pipe")).unwrap(), "\n");
            let said = Instant::now();
            drop(stopper);
            assert!(text(&call.join().unwrap()).0.contains("it was stopped"));
            assert!(said.elapsed() < Duration::from_secs(2));
        });
        let said = Instant::now();
        drop(world);
        assert!(said.elapsed() < Duration::from_secs(2));
    }
}

#[test]
fn a_stop_ends_a_start() {
    let mut world = World::new(&[("s", "cat >/dev/null")], patient());
    let stopper = world.stopper.take();
    thread::scope(|scope| {
        let start = scope.spawn(|| world.complaints());
        drop(stopper);
        assert_eq!(start.join().unwrap(), [r#"The MCP server "s" cannot be used: it was stopped."#]);
    });
    // That was not the server's fault.
    assert!(matches!(*lock(&world.servers.servers[0].state), State::Off));
}

#[test]
fn a_server_that_says_too_much_at_once_is_given_up() {
    let world = World::new(&[("s", r#"begin t; read -r call; yes | tr -d '\n' | head -c 100000000; cat"#)], patient());
    let output = world.call(json!({}));
    assert!(text(&output).0.contains("a message is too large"), "{output:?}");
    assert_eq!(world.names(), ["mcp__s__t"]);
}

#[test]
fn a_server_that_asks_us_is_answered_and_noise_is_passed_over() {
    let world = World::new(
        &[(
            "s",
            r#"begin t; read -r call; echo 'Listening...'; say notifications/new '{}'; echo '[1]'
        echo '"a"'; echo '{"id":99,"result":{}}'
        echo '{"jsonrpc":"2.0","id":"p","method":"ping"}'; read -r pong
        echo '{"jsonrpc":"2.0","id":7,"method":"roots/list"}'; read -r refused
        printf '%s\n' "$pong" "$refused" >"$LOG"; ok 3 "$(text hi)"; cat"#,
        )],
        patient(),
    );
    assert_eq!(text(&world.call(json!({}))), ("hi", Outcome::Done));
    assert_eq!(world.log()[0], json!({"jsonrpc": "2.0", "id": "p", "result": {}}));
    assert_eq!((&world.log()[1]["id"], &world.log()[1]["error"]["code"]), (&json!(7), &json!(-32601)));
}

#[test]
fn names_are_what_an_api_takes_and_unlike_each_other() {
    let world = World::new(
        &[(
            "ä/..;",
            r#"greet; read -r list; ok 2 "{\"tools\":[$(tool 'a b'),$(tool 'a.b'),
        $(tool '\u0000\u001b[31m'),$(tool ''),{\"description\":1},3,$(tool "$(printf %0200d 0)"),
        $(tool "$(printf %0201d 0)")]}" | tr -d '\n'; echo; cat"#,
        )],
        patient(),
    );
    let tools = world.tools();
    let names: Vec<String> = tools.iter().map(|tool| tool.spec().name).collect();
    assert_eq!(names[..2], ["mcp_________a_b", "mcp_________a_b_2"]);
    assert_eq!(names.len(), 6);
    assert_eq!(names.iter().collect::<HashSet<_>>().len(), 6);
    let fits = |name: &String| {
        (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
    };
    assert!(names.iter().all(fits), "{names:?}");
}

#[test]
fn servers_are_gone_when_they_are_dropped_and_know_no_token() {
    let script = r#"mkfifo "$PIPE"; (exec 3>"$PIPE"; sleep 1000) & begin "${NANOCLAW_GATEWAY_TOKEN-none}"; cat"#;
    let world = World::new(&[("s", script)], patient());
    assert_eq!(world.names(), ["mcp__s__none"]);
    let pipe = world.tmp.path().join("s.pipe");
    // It ends when the last process that holds it is gone.
    let mut held = fs::File::open(&pipe).unwrap();
    drop(world.servers);
    assert_eq!(std::io::Read::read(&mut held, &mut [0]).unwrap(), 0);
}
