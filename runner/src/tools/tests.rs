//! The tools, each as a model calls it.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener};
use std::ops::Add;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use crossbeam_channel::unbounded;
use tempfile::TempDir;

use super::*;
use crate::stop::{Stopper, pair};

/// An agent with its tools in a folder of its own.
struct Desk {
    tools: Vec<Arc<dyn Tool>>,
    context: Context,
    stopper: Option<Stopper>,
    dir: TempDir,
}

fn desk() -> Desk {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("agent")).unwrap();
    let mut tools = builtin(&SessionDir::new(dir.path()));
    tools.retain(|t| t.spec().name != "web_fetch");
    tools.push(web_fetch::tool(|ip| ip == IpAddr::from([127, 0, 0, 1])));
    let (stopper, stop) = pair();
    let context = Context { stop, events: unbounded().0, destinations: Default::default() };
    Desk { tools, context, stopper: Some(stopper), dir }
}

impl Desk {
    fn tool(&self, name: &str) -> &Arc<dyn Tool> {
        self.tools.iter().find(|t| t.spec().name == name).unwrap()
    }

    fn output(&self, name: &str, input: Value) -> Output {
        self.tool(name).call(&input, &self.context)
    }

    /// The text of a call that is to go well.
    fn done(&self, name: &str, input: Value) -> String {
        let output = self.output(name, input);
        assert_eq!(output.outcome, Outcome::Done, "{output:?}");
        words(&output)
    }

    /// The text of a call that is to fail.
    fn fails(&self, name: &str, input: Value) -> String {
        let output = self.output(name, input);
        assert_eq!(output.outcome, Outcome::Failed, "{output:?}");
        words(&output)
    }

    fn home(&self) -> PathBuf {
        self.dir.path().join("agent")
    }

    /// Runs a call, stops it once `begun` exists, and returns how long it took from then on.
    fn stopped(&mut self, name: &str, input: Value, begun: impl Fn(&Path) -> bool + Send) -> (Output, Duration) {
        let (stopper, home) = (self.stopper.take(), self.home());
        thread::scope(|scope| {
            let when = scope.spawn(move || {
                until(|| begun(&home));
                drop(stopper);
                Instant::now()
            });
            let output = self.output(name, input);
            (output, when.join().unwrap().elapsed())
        })
    }
}

fn words(output: &Output) -> String {
    match &output.parts[0] {
        Part::Text(text) => text.clone(),
        other @ Part::File { .. } => panic!("{other:?}"),
    }
}

/// Waits for a condition.
fn until(condition: impl Fn() -> bool) {
    let (_stopper, stop) = pair();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "it never came true");
        stop.wait(Duration::from_millis(5)).unwrap();
    }
}

fn alive(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{}/stat", pid.trim())).is_ok_and(|s| !s.contains(") Z "))
}

fn mib_at_most() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

#[test]
fn every_schema_is_what_its_handler_takes() {
    let desk = desk();
    let names: Vec<String> = desk.tools.iter().map(|t| t.spec().name).collect();
    assert_eq!(names, ["bash", "read_file", "write_file", "edit_file", "glob", "grep", "web_fetch"]);
    for tool in &desk.tools {
        let Spec { name, schema, .. } = tool.spec();
        let properties = schema["properties"].as_object().unwrap();
        assert_eq!(schema["additionalProperties"], false);
        let full = |with: &dyn Fn(&str, &Value) -> Value| -> Value {
            properties.iter().map(|(key, property)| (key.clone(), with(key, property))).collect()
        };
        let sample = |_: &str, property: &Value| match property["type"].as_str().unwrap() {
            "string" => property["enum"].get(0).cloned().unwrap_or(json!("x")),
            "integer" => json!(1),
            "boolean" => json!(true),
            other => panic!("{other}"),
        };
        let refusal = |input: Value| {
            let text = desk.fails(&name, input.clone());
            assert!(text.starts_with("Wrong input: ") && text.contains("\"properties\""), "{name} {input}: {text}");
            text
        };
        // The handler knows the same names: it lists them when it meets another.
        let text = refusal(json!({"no_such": 1}));
        let mut known: Vec<&str> = text.split(". It must").next().unwrap().split('`').skip(3).step_by(2).collect();
        let mut expected: Vec<&str> = properties.keys().map(String::as_str).collect();
        known.sort_unstable();
        expected.sort_unstable();
        assert_eq!(known, expected, "{text}");
        for key in properties.keys() {
            refusal(full(&|k, p| if k == key { json!([1]) } else { sample(k, p) }));
            let mut without = full(&sample);
            without.as_object_mut().unwrap().remove(key);
            if schema["required"].as_array().unwrap().contains(&json!(key)) {
                assert!(refusal(without).contains("missing field"));
            }
        }
        refusal(json!("text"));
        // Deadlines are read from inputs that are taken.
        assert!(tool.deadline(&full(&sample)) >= SLACK);
    }
    assert_eq!(desk.tool("bash").deadline(&json!({"command": "x"})), Duration::from_secs(130));
    assert_eq!(desk.tool("bash").deadline(&json!({"command": "x", "timeout": 9_999_999})), Duration::from_secs(610));
}

#[test]
fn bash_returns_both_streams_in_order_and_the_code() {
    let desk = desk();
    assert_eq!(desk.done("bash", json!({"command": "echo a; echo b >&2; echo c"})), "a\nb\nc\n[exit code 0]");
    // No fault of the tool: `grep -q` and `diff` say so what they have found.
    assert_eq!(desk.done("bash", json!({"command": "printf x; exit 3"})), "x\n[exit code 3]");
    assert_eq!(desk.done("bash", json!({"command": "kill -9 $$"})), "[killed by signal 9]");
    assert!(desk.done("bash", json!({"command": "if then"})).contains("syntax error"));
    assert!(desk.fails("bash", json!({"command": "a\0b"})).contains("cannot be started"));
    let text = desk.done("bash", json!({"command": "cat; echo ${NANOCLAW_GATEWAY_TOKEN-none}; tty; true"}));
    assert_eq!(text, "none\nnot a tty\n[exit code 0]");
    assert_eq!(fs::read_dir(desk.dir.path().join("out/state/tool-output")).unwrap().count(), 0);
}

#[test]
fn bash_stays_in_the_folder_where_it_ended() {
    let desk = desk();
    let text = desk.done("bash", json!({"command": "mkdir -p 'a b' && cd 'a b' && echo /tmp && exit 0"}));
    assert!(text.starts_with("/tmp\n[exit code 0]\n[the folder is now ") && text.ends_with("/agent/a b]"), "{text}");
    assert!(desk.done("bash", json!({"command": "pwd; (cd /); exit 4"})).contains("/agent/a b\n[exit code 4]"));
    fs::remove_dir(desk.home().join("a b")).unwrap();
    let text = desk.fails("bash", json!({"command": "touch astray"}));
    assert!(text.contains("a b is gone, so nothing was run") && !desk.home().join("astray").exists(), "{text}");
    assert!(desk.done("bash", json!({"command": "pwd"})).ends_with("/agent\n[exit code 0]"));
    assert!(!desk.done("bash", json!({"command": "exec true"})).contains("folder"));
}

#[test]
fn a_timeout_ends_all_that_was_started() {
    let desk = desk();
    let command = "timeout 1000 sleep 1000 & echo $!; setsid sleep 1000 & echo $!; wait";
    let text = desk.fails("bash", json!({"command": command, "timeout": 300}));
    assert!(text.ends_with("[killed, with all it had started, after 300 ms: its timeout]"), "{text}");
    let pids: Vec<&str> = text.lines().take(2).collect();
    until(|| !pids.iter().any(|pid| alive(pid)));
}

#[test]
fn a_stop_ends_a_command_that_will_not_hear() {
    let mut desk = desk();
    let command = "trap '' TERM; echo $$ > pid.new; mv pid.new pid; while :; do sleep 1000; done";
    let (output, took) = desk.stopped("bash", json!({"command": command}), |home| home.join("pid").exists());
    assert_eq!(words(&output), "[stopped, with all it had started]");
    assert!(took < Duration::from_secs(2), "{took:?}");
    let pid = fs::read_to_string(desk.home().join("pid")).unwrap();
    until(|| !alive(&pid));
}

#[test]
fn a_grandchild_that_holds_the_pipe_does_not_hold_us() {
    let desk = desk();
    let started = Instant::now();
    let command = "(until [ -e go ]; do sleep 0.01; done; echo late) & echo early";
    let text = desk.done("bash", json!({"command": command}));
    assert!(started.elapsed() < Duration::from_secs(30));
    assert!(text.starts_with("early\n[exit code 0]\n[what it has left running writes to "), "{text}");
    let file = text.rsplit("writes to ").next().unwrap().trim_end_matches(']');
    fs::write(desk.home().join("go"), "").unwrap();
    until(|| fs::read_to_string(file).unwrap() == "early\nlate\n");
}

#[test]
fn a_flood_of_output_is_cut_and_does_not_grow_us() {
    let desk = desk();
    desk.done("bash", json!({"command": "true"}));
    let before = mib_at_most();
    let text =
        desk.done("bash", json!({"command": "echo start; head -c 200000000 /dev/zero | tr '\\0' x; echo; echo end"}));
    assert!(text.starts_with("start\nxxx") && text.ends_with("xxx\nend\n[exit code 0]") && text.len() < 31_000);
    let path = text.split(" bytes are in ").nth(1).unwrap().split(" ...]").next().unwrap();
    assert_eq!(fs::metadata(path).unwrap().len(), 50 * 1024 * 1024);
    // Other tests run beside this one.
    assert!(mib_at_most() < before + 100, "{before} {}", mib_at_most());
}

/// Starts a job; its process and the file of its output.
fn job(desk: &Desk, command: &str) -> (String, PathBuf) {
    let text = desk.done("bash", json!({"command": command, "run_in_background": true}));
    let piece = |start: &str, end: &str| text.split(start).nth(1).unwrap().split(end).next().unwrap().to_owned();
    (piece("process ", ":"), piece(" go to ", ".txt").add(".txt").into())
}

#[test]
fn a_background_job_leaves_its_output_and_its_code_in_a_file() {
    let desk = desk();
    let (_, file) = job(&desk, "echo one; until [ -e go ]; do sleep 0.01; done; echo two; exit 3");
    until(|| fs::read_to_string(&file).unwrap() == "one\n");
    fs::write(desk.home().join("go"), "").unwrap();
    until(|| fs::read_to_string(&file).unwrap() == "one\ntwo\n[exit code 3]\n");
}

#[test]
fn background_jobs_are_bounded_and_can_be_killed() {
    let desk = desk();
    let jobs: Vec<_> = (0..10).map(|_| job(&desk, "sleep 1000; true")).collect();
    let refused = desk.fails("bash", json!({"command": "touch astray", "run_in_background": true}));
    assert!(refused.starts_with("10 jobs are running"));
    for (id, file) in jobs {
        desk.done("bash", json!({"command": format!("kill -- -{id}")}));
        until(|| fs::read_to_string(&file).unwrap() == "[killed by signal 15]\n");
    }
    let text = || words(&desk.output("bash", json!({"command": "true", "run_in_background": true})));
    until(|| text().starts_with("Started as process "));
    assert!(!desk.home().join("astray").exists());
}

#[test]
fn a_file_is_read_in_numbered_parts() {
    let desk = desk();
    let text: String = (1..=2_500).map(|i| format!("line {i}\n")).collect();
    fs::write(desk.home().join("a.txt"), text).unwrap();
    let text = desk.done("read_file", json!({"path": "a.txt"}));
    assert!(text.starts_with("     1\tline 1\n     2\tline 2\n"));
    assert!(text.ends_with("  2000\tline 2000\n[there is more: go on with offset 2001]"));
    let text = desk.done("read_file", json!({"path": "a.txt", "offset": 2500, "limit": 9}));
    assert_eq!(text, "  2500\tline 2500\n");
    assert_eq!(desk.done("read_file", json!({"path": "a.txt", "offset": 2501})), "[there are only 2500 lines]");
    fs::write(desk.home().join("b.txt"), format!("{}\n{}\n\nlast", "é".repeat(1_500), "é".repeat(1_000))).unwrap();
    let text = desk.done("read_file", json!({"path": desk.home().join("b.txt")}));
    assert!(text.contains("é [... the line goes on]\n     2\té"), "{text}");
    assert!(text.ends_with("é\n     3\t\n     4\tlast\n"), "{text}");
    fs::File::create(desk.home().join("huge")).unwrap().set_len(1 << 40).unwrap();
    assert!(desk.fails("read_file", json!({"path": "huge"})).contains("too large"));
}

#[test]
fn pictures_and_pdfs_are_shown_and_other_bytes_are_not() {
    let desk = desk();
    for (name, start, media_type) in [
        ("a", &b"\x89PNG\r\n\x1a\n"[..], "image/png"),
        ("b", b"\xff\xd8\xff\xe0", "image/jpeg"),
        ("c", b"GIF89a", "image/gif"),
        ("d", b"RIFF\x24\0\0\0WEBPVP8 ", "image/webp"),
        ("e", b"%PDF-1.7", "application/pdf"),
    ] {
        let path = desk.home().join(name);
        fs::write(&path, start).unwrap();
        let output = desk.output("read_file", json!({"path": name}));
        assert_eq!(output.parts[1], Part::File { path, media_type: media_type.into() });
    }
    let large = fs::OpenOptions::new().append(true).open(desk.home().join("a")).unwrap();
    large.set_len(6 * 1024 * 1024).unwrap();
    assert!(desk.fails("read_file", json!({"path": "a"})).contains("PDF of at most 5242880 bytes"));
    fs::write(desk.home().join("bin"), b"ELF\0\x01").unwrap();
    assert!(desk.fails("read_file", json!({"path": "bin"})).contains("is not text"));
}

#[test]
fn what_is_no_file_is_refused_at_once() {
    let desk = desk();
    let fifo = desk.home().join("fifo");
    assert!(std::process::ExitStatus::success(&mkfifo(&fifo)));
    for tool in ["read_file", "edit_file", "write_file"] {
        let with = |path: &Path| match tool {
            "read_file" => json!({"path": path}),
            "write_file" => json!({"path": path, "content": "x"}),
            _ => json!({"path": path, "old_string": "a", "new_string": "b"}),
        };
        assert!(desk.fails(tool, with(&fifo)).contains("is a pipe"));
        assert!(desk.fails(tool, with(Path::new("/dev/zero"))).contains("device"));
        assert!(desk.fails(tool, with(Path::new("."))).contains("is a folder"));
    }
    assert!(desk.fails("read_file", json!({"path": "none"})).contains("No such file"));
    assert!(desk.fails("write_file", json!({"path": "/proc/x", "content": ""})).contains("/proc/x cannot be written"));
}

fn mkfifo(path: &Path) -> std::process::ExitStatus {
    let mut child = crate::process::spawn(crate::process::command("mkfifo").arg(path)).unwrap();
    child.wait(Duration::from_secs(20)).unwrap().unwrap()
}

#[test]
fn a_file_is_replaced_in_one_step_and_keeps_its_mode_and_its_links() {
    let desk = desk();
    assert_eq!(fs::read_dir(desk.home()).unwrap().count(), 0);
    desk.done("write_file", json!({"path": "deep/er/a.sh", "content": "one\n"}));
    let path = desk.home().join("deep/er/a.sh");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
    symlink(&path, desk.home().join("link")).unwrap();
    desk.done("write_file", json!({"path": "link", "content": "two\n"}));
    assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o750);
    assert!(fs::symlink_metadata(desk.home().join("link")).unwrap().is_symlink());
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn an_edit_is_exact_and_unique() {
    let desk = desk();
    let path = desk.home().join("a.txt");
    let edit = |old: &str, new: &str, all: Option<bool>| {
        let output = desk
            .output("edit_file", json!({"path": "a.txt", "old_string": old, "new_string": new, "replace_all": all}));
        (words(&output), fs::read_to_string(&path).unwrap())
    };
    fs::write(&path, "a\nb\na\n").unwrap();
    let (text, after) = edit("a", "x", None);
    assert!(text.contains("2 times") && after == "a\nb\na\n", "{text}");
    assert!(edit("c", "x", None).0.contains("is not in it"));
    assert!(edit("", "x", None).0.contains("empty"));
    assert!(edit("a", "a", None).0.contains("the same"));
    assert_eq!(edit("a\nb", "c\nd", None).1, "c\nd\na\n");
    fs::write(&path, "x $1 x\n").unwrap();
    assert_eq!(
        edit("x", "y", Some(true)),
        (format!("{} is changed in 2 place(s).", path.display()), "y $1 y\n".into())
    );
    fs::write(&path, "x".repeat(4_000_000)).unwrap();
    assert!(edit("x", &"y".repeat(1_000_000), Some(true)).0.contains("too large"));
    fs::write(&path, b"\xff\xfe").unwrap();
    assert!(
        desk.fails("edit_file", json!({"path": "a.txt", "old_string": "a", "new_string": "b"})).contains("as text")
    );
}

#[test]
fn glob_names_the_newest_first() {
    let desk = desk();
    for (age, name) in ["old.md", "sub/new.md", ".git/no.md", "sub/deep/x.txt"].iter().enumerate() {
        let path = desk.home().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "").unwrap();
        let time = std::time::UNIX_EPOCH + Duration::from_secs(1_000 * age as u64);
        fs::File::options().append(true).open(&path).unwrap().set_modified(time).unwrap();
    }
    symlink("/", desk.home().join("root")).unwrap();
    let text = |pattern: &str| desk.done("glob", json!({"pattern": pattern}));
    assert_eq!(text("*.md"), "sub/new.md\nold.md\n");
    assert_eq!(text("**/*"), "sub/deep/x.txt\nsub/new.md\nold.md\n");
    assert_eq!(text("sub/**"), "sub/deep/x.txt\nsub/new.md\n");
    assert_eq!(text("sub/*.{md,txt}"), "sub/new.md\n");
    assert_eq!(text("*.rs"), "[nothing found]");
    let whole = format!("{}\n", desk.home().join("sub/deep/x.txt").display());
    assert_eq!(desk.done("glob", json!({"pattern": "deep/x*", "path": "sub"})), whole);
    assert!(desk.fails("glob", json!({"pattern": "*", "path": "none"})).contains("No such file"));
    assert!(desk.fails("glob", json!({"pattern": "{a"})).contains("unclosed"));
    for i in 0..250 {
        fs::write(desk.home().join(format!("{i}.many")), "").unwrap();
    }
    let text = text("*.many");
    assert!(text.lines().count() == 201 && text.ends_with(".many\n[there is more: narrow the search]\n"), "{text}");
}

#[test]
fn grep_finds_lines_files_and_counts() {
    let desk = desk();
    fs::write(desk.home().join("a.txt"), "zero\nOne fish\ntwo\nthree\nfour fish\nfive\n").unwrap();
    fs::write(desk.home().join("bin"), b"\0fish").unwrap();
    fs::write(desk.home().join(".gitignore"), b"*").unwrap();
    assert!(mkfifo(&desk.home().join("fifo")).success());
    let text = |more: Value| {
        let mut input = json!({"pattern": "fish$"});
        input.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        desk.done("grep", input)
    };
    assert_eq!(text(json!({})), "a.txt:2:One fish\na.txt:5:four fish\n");
    let path = desk.home().join("a.txt");
    assert!(text(json!({"path": "a.txt"})).starts_with(&format!("{}:2:One fish\n", path.display())));
    assert_eq!(text(json!({"output_mode": "files_with_matches"})), "a.txt\n");
    assert_eq!(text(json!({"output_mode": "count"})), "a.txt:2\n");
    assert_eq!(text(json!({"pattern": "ONE", "ignore_case": true})), "a.txt:2:One fish\n");
    assert_eq!(text(json!({"glob": "*.md"})), "[nothing found in what could be searched]");
    assert_eq!(text(json!({"pattern": "-x"})), "[nothing found]");
    assert_eq!(text(json!({"pattern": "t.*e$", "context": 1})), "a.txt-3-two\na.txt:4:three\na.txt-5-four fish\n");
    assert_eq!(text(json!({"head_limit": 1})), "a.txt:2:One fish\n[there is more: narrow the search]\n");
    assert!(desk.fails("grep", json!({"pattern": "("})).contains("unclosed group"));
    fs::write(desk.home().join("long"), format!("{}fish", "é".repeat(500_000))).unwrap();
    let line = text(json!({"pattern": "é+fish", "glob": "lo*"}));
    assert!(line.len() < 1_100 && line.starts_with("long:1:éé"), "{line}");
}

#[test]
fn a_search_hears_a_stop() {
    let mut desk = desk();
    let path = desk.home().join("fifo");
    assert!(mkfifo(&path).success());
    // Whoever opens it waits for a writer: only ripgrep can be the reader we meet.
    let met = move |_: &Path| fs::OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&path).is_ok();
    let (output, took) = desk.stopped("grep", json!({"pattern": "x", "path": "fifo"}), met);
    assert!(words(&output).contains("[stopped]") && took < Duration::from_secs(2), "{took:?} {output:?}");
}

/// Answers each connection with the next of `answers`, after a request was read; returns its address and, later,
/// what was asked.
fn server(answers: Vec<Vec<u8>>) -> (u16, thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = thread::spawn(move || {
        let mut asked = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            asked.push(String::from_utf8(request).unwrap());
            // A client that has seen enough closes.
            let _enough = stream.write_all(&answer);
        }
        asked
    });
    (port, asked)
}

fn answer(head: &str, body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 {head}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes(), body]
        .concat()
}

#[test]
fn a_page_is_fetched_as_text() {
    let page = b"<title>T</title><p>Hi <a href=/x>there</a>";
    let (port, asked) = server(vec![
        answer("302 Found\r\nlocation: /end?x=1", b""),
        answer("200 OK\r\ncontent-type: text/html; charset=utf-8", page),
        answer("200 OK\r\ncontent-type: application/json", b"{\"a\": \"<b>\"}"),
        answer("404 Not Found\r\ncontent-type: text/plain", b"no such page"),
        answer("200 OK\r\ncontent-type: image/png", b"\x89PNG"),
        answer("200 OK\r\ncontent-type: text/html; charset=ISO-8859-1", b"caf\xe9 &amp; cr\xe8me"),
        answer("200 OK\r\ncontent-type: text/html\r\ncontent-encoding: gzip", b"\x1f\x8b\x08\0"),
    ]);
    let (desk, url) = (desk(), format!("http://127.0.0.1:{port}"));
    let text = desk.done("web_fetch", json!({"url": format!("{url}/start")}));
    assert_eq!(text, format!("[{url}/end?x=1 answers 200 OK]\nT\n\nHi [there]({url}/x)"));
    let text = desk.done("web_fetch", json!({"url": format!("{url}/j"), "max_chars": 5}));
    assert_eq!(text, format!("[{url}/j answers 200 OK]\n{{\"a\":\n[there is more of it]"));
    assert!(desk.fails("web_fetch", json!({"url": url})).ends_with("answers 404 Not Found]\nno such page"));
    assert!(desk.fails("web_fetch", json!({"url": url})).contains("is no text but \"image/png\" (4 bytes"));
    assert!(desk.done("web_fetch", json!({"url": url})).ends_with("\ncafé & crème"));
    assert!(desk.fails("web_fetch", json!({"url": url})).contains("curl --compressed"));
    let asked = asked.join().unwrap();
    assert!(
        asked[1].starts_with("GET /end?x=1 HTTP/1.1\r\n") && asked[1].contains("user-agent: nanoclaw/"),
        "{asked:?}"
    );
}

#[test]
fn no_page_leads_to_a_private_address() {
    let (port, asked) = server(vec![answer("302 Found\r\nlocation: http://127.0.0.2:1/secret", b"")]);
    let desk = desk();
    let text = desk.fails("web_fetch", json!({"url": format!("http://127.0.0.1:{port}/")}));
    assert!(text.contains("127.0.0.2, which is not public"), "{text}");
    asked.join().unwrap();
    let product = builtin(&SessionDir::new(desk.dir.path())).pop().unwrap();
    for host in [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "169.254.169.254",
        "10.0.0.1",
        "0",
        "user@192.168.0.1",
    ] {
        let text = words(&product.call(&json!({"url": format!("http://{host}:{port}/")}), &desk.context));
        assert!(text.contains("which is not public"), "{host}: {text}");
    }
    for url in ["file:///etc/passwd", "ftp://a/b", "/x", "", "http://"] {
        desk.fails("web_fetch", json!({"url": url}));
    }
}

#[test]
fn a_page_is_read_up_to_a_size() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\n";
    let (port, _asked) = server(vec![[&head[..], &vec![b'x'; 12_000_000]].concat()]);
    let text = desk().done("web_fetch", json!({"url": format!("http://127.0.0.1:{port}/")}));
    assert!(text.ends_with("xxx\n[there is more of it]") && text.len() < 100_200, "{}", text.len());
}

#[test]
fn a_fetch_hears_a_stop() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let mut desk = desk();
    let (output, took) = desk.stopped("web_fetch", json!({"url": url}), move |_| listener.accept().is_ok());
    assert_eq!(words(&output), "stopped");
    assert!(took < Duration::from_secs(2), "{took:?}");
}
