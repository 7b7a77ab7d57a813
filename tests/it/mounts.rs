//! What lies in a container beside the session: the owner's folders, instructions, skills, memory.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use serde_json::{Value, json};

use crate::messages_api::MessagesApi;
use crate::support::Host;
use crate::support::docker::{attempt, docker, inspect};

fn put(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Runs a line in the container's shell; what it printed.
#[track_caller]
fn inside(container: &str, line: &str) -> String {
    docker(&["exec", container, "sh", "-c", line])
}

#[track_caller]
fn fails_inside(container: &str, line: &str) {
    let tried = attempt(&["exec", container, "sh", "-c", line]);
    assert_ne!(tried.code, Some(0), "{line}: {tried:?}");
}

#[test]
fn an_agent_gets_the_folders_the_owner_allows_and_no_other() {
    let mut host = Host::new();
    let user = host.scratch().to_owned(); // where `~` leads in this test
    put(&user.join("projects/notes/plan.txt"), "water the plants");
    put(&user.join("projects/shared/list.txt"), "milk");
    put(&user.join("projects/.ssh/id_ed25519"), "a key");
    put(&user.join("projects/clients/salaries/2026.csv"), "1,2,3");
    put(&user.join("library/book.txt"), "a book");
    put(&user.join("private/diary.txt"), "dear diary");
    symlink(user.join("private"), user.join("projects/harmless")).unwrap();
    // A root host's containers have a user of their own: what keeps that one out is to be the mount.
    for folder in ["projects/notes", "projects/shared", "library"] {
        fs::set_permissions(user.join(folder), fs::Permissions::from_mode(0o777)).unwrap();
    }
    let list = json!({
        "allowedRoots": [{"path": "~/projects", "allowReadWrite": true}, {"path": 7}, {"path": "~/library"}],
        "blockedPatterns": ["salaries"],
    });
    put(&user.join(".config/nanoclaw/mount-allowlist.json"), &list.to_string());
    assert_eq!(host.run(&["init", "--yes"]).code, Some(0));
    let mounts = json!([
        {"hostPath": "~/projects/notes"},
        {"hostPath": "~/projects/shared", "containerPath": "ours", "readonly": false},
        {"hostPath": "~/library", "readonly": false},
        {"hostPath": "~/projects/.ssh", "containerPath": "keys"},
        {"hostPath": "~/projects/clients/salaries"},
        {"hostPath": "~/projects/harmless"},
        {"hostPath": "~/private"},
        {"hostPath": "~/projects/nowhere"},
        {"hostPath": host.home().root()},
        "nonsense",
    ]);
    host.json(&["groups", "config", "set", "main", "--additional-mounts", &mounts.to_string()]);
    host.start();
    assert!(host.chat("hello").contains("Hello!"), "what is refused stops nothing else");

    let container = host.container();
    assert_eq!(inside(&container, "ls -A /workspace/extra"), "library\nnotes\nours");
    assert_eq!(inside(&container, "cat /workspace/extra/notes/plan.txt"), "water the plants");
    inside(&container, "echo bread >/workspace/extra/ours/new.txt");
    assert_eq!(fs::read_to_string(user.join("projects/shared/new.txt")).unwrap(), "bread\n");
    for denied in [
        "echo x >/workspace/extra/notes/new.txt",
        "echo x >/workspace/extra/library/new.txt", // its root does not allow it
        "mkdir /workspace/extra/mine",
        "rmdir /workspace/extra/ours",
    ] {
        fails_inside(&container, denied);
    }
    let sources = inspect(&container)["Mounts"].to_string();
    for kept_out in ["/.ssh", "/clients", "/private", "/harmless"] {
        assert!(!sources.contains(kept_out), "{kept_out}: {sources}");
    }
    let shown: Value = serde_json::from_str(&inside(&container, "cat /workspace/container.json")).unwrap();
    let told = [("notes", true), ("ours", false), ("library", true)]
        .map(|(name, readonly)| json!({"containerPath": format!("/workspace/extra/{name}"), "readonly": readonly}));
    assert_eq!(shown["additionalMounts"], json!(told), "and not where it lies on the machine");
    assert_eq!(host.logged("Additional mount refused"), 8, "seven mounts, and one entry of the list");

    // Taken away again, nothing is left of it.
    host.json(&["groups", "config", "set", "main", "--additional-mounts", ""]);
    host.json(&["groups", "restart", "main"]);
    host.wait_run_ended(1);
    assert!(host.chat("and now?").contains("turn 2."));
    assert_eq!(inside(&host.container(), "ls -A /workspace/extra"), "");
    assert!(user.join("projects/notes/plan.txt").exists(), "the owner's own folders stay");
}

#[test]
fn instructions_skills_and_memory_reach_the_agent() {
    let api = MessagesApi::on_port();
    let mut host = Host::new();
    let shared = host.scratch().join("shared");
    put(&shared.join("CLAUDE.md"), "The base of all agents.\n\n");
    put(&shared.join("skills/tone/CLAUDE.md"), "Be brief.\n");
    put(&shared.join("skills/maps/SKILL.md"), "---\nname: maps\ndescription: Find the way.\n---\n# Maps\n");
    put(&shared.join("skills/unused/CLAUDE.md"), "Nobody chose this.\n");
    host.set("NANOCLAW_SHARED", shared.display().to_string());
    host.set("ANTHROPIC_API_KEY", "sk-test");
    host.set("ANTHROPIC_BASE_URL", api.address());
    assert_eq!(host.run(&["init", "--yes"]).code, Some(0));
    host.json(&["groups", "config", "set", "main", "--skills", "tone,maps"]);
    put(&host.home().instructions().join("main.md"), "You work for Ann.\n");
    put(&host.home().group("main").join("CLAUDE.local.md"), "Ann likes tea.\n");
    put(&host.home().group("global").join("house.md"), "The bins go out on Monday.\n");
    host.start();
    host.chat("hello");

    let composed = "The base of all agents.\n\n\
         Be brief.\n\nYou work for Ann.";
    let container = host.container();
    assert_eq!(inside(&container, "cat /workspace/CLAUDE.md"), composed);
    let request = api.request();
    let system = request.body["system"][0]["text"].as_str().unwrap();
    assert!(system.starts_with(composed), "{system}");
    assert_eq!(system.matches("Find the way.").count(), 1, "{system}");
    assert!(system.contains("Ann likes tea.") && !system.contains("Nobody chose this."), "{system}");

    assert_eq!(inside(&container, "ls -A /workspace/skills"), "maps\ntone");
    assert_eq!(inside(&container, "readlink /workspace/skills/maps"), "/app/skills/maps");
    assert!(inside(&container, "cat /workspace/skills/maps/SKILL.md").ends_with("# Maps"));
    assert_eq!(inside(&container, "cat /workspace/global/house.md"), "The bins go out on Monday.");
    for denied in [
        "echo x >>/workspace/global/house.md",
        "echo x >>/workspace/CLAUDE.md",
        "echo x >/workspace/skills/mine",
        "echo x >>/workspace/skills/maps/SKILL.md",
    ] {
        fails_inside(&container, denied);
    }
    let mounts = inspect(&container)["Mounts"].to_string();
    assert!(!mounts.contains(&host.home().instructions().display().to_string()), "{mounts}");

    // The memory is the agent's, in its working directory, and it is given what it wrote.
    assert_eq!(inside(&container, "pwd"), "/workspace/agent");
    inside(&container, "echo 'Ann likes coffee.' >CLAUDE.local.md");
    let memory = fs::read_to_string(host.home().group("main").join("CLAUDE.local.md")).unwrap();
    assert_eq!(memory, "Ann likes coffee.\n");
    host.chat("what do I like?");
    let request = api.request();
    let system = request.body["system"][0]["text"].as_str().unwrap();
    assert!(system.contains("Ann likes coffee.") && !system.contains("Ann likes tea."), "{system}");
    assert_eq!(host.events().started(1).len(), 1, "in the same container");
    host.assert_no_complaint();
}
