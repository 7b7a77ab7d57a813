//! What the tree must look like: ceilings, module docs, banned calls, and what may depend on what.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of Rust without tests, blank lines and documentation included. The aim is 20,000; the tree
/// has more since routing and administration came, and must not get further from it.
const MAX_LINES: usize = 31_700;
/// Lines in one file.
const MAX_LINES_PER_FILE: usize = 800;
/// Packages the binaries are built from.
const MAX_PACKAGES: usize = 150;
/// Packages with those only tests use.
const MAX_PACKAGES_WITH_DEV: usize = 220;
/// A stripped binary. bytes
const MAX_BINARY_BYTES: u64 = 5 * 1024 * 1024;

/// Files that may start child processes, wait by sleeping, or ask the clock: the places the rest
/// of the tree goes to.
const MAY_ALLOW_DISALLOWED: &[&str] =
    &["src/process.rs", "src/time.rs", "runner/src/process.rs", "runner/src/time.rs", "session/src/database.rs"];

struct Source {
    path: String,
    text: String,
}

impl Source {
    /// The part before the file's unit tests. (`mod tests;` is a line, and their file is a test.)
    fn production(&self) -> &str {
        let inline = |at: &usize| self.text[*at..].lines().nth(1).is_some_and(|line| line.ends_with('{'));
        let tests = self.text.match_indices("#[cfg(test)]\nmod ").map(|(at, _)| at).find(inline);
        &self.text[..tests.unwrap_or(self.text.len())]
    }

    fn is_test(&self) -> bool {
        self.path.split('/').any(|part| matches!(part, "tests" | "tests.rs"))
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<Source> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    for folder in ["src", "session", "runner", "tests"] {
        walk(&root().join(folder), &mut found);
    }
    found.sort();
    found
        .into_iter()
        .map(|path| Source {
            text: fs::read_to_string(&path).unwrap(),
            path: path.strip_prefix(root()).unwrap().to_string_lossy().into_owned(),
        })
        .collect()
}

fn none(what: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

#[test]
fn every_module_says_what_it_is() {
    let silent = sources().into_iter().filter(|s| !s.text.starts_with("//!")).map(|s| s.path).collect();
    none("without a //! at its top", silent);
}

#[test]
fn no_file_is_too_long_and_neither_is_the_whole() {
    let sources = sources();
    let long = sources.iter().filter(|s| s.text.lines().count() > MAX_LINES_PER_FILE);
    none("longer than one screen of headings can explain", long.map(|s| s.path.clone()).collect());
    let total: usize = sources.iter().filter(|s| !s.is_test()).map(|s| s.production().lines().count()).sum();
    println!("{total} lines without tests; the aim is 20,000");
    assert!(total <= MAX_LINES, "{total} lines without tests; at most {MAX_LINES}");
}

#[test]
fn banned_calls_stay_in_their_places() {
    let mut found = Vec::new();
    for source in sources().iter().filter(|s| !s.is_test()) {
        let production = source.production();
        let may = MAY_ALLOW_DISALLOWED.contains(&source.path.as_str());
        if !may && production.contains("clippy::disallowed_methods") {
            found.push(format!("{}: allows what clippy.toml forbids", source.path));
        }
        for word in ["todo!(", "unimplemented!(", "dbg!("] {
            if production.contains(word) {
                found.push(format!("{}: {word}", source.path));
            }
        }
        let speaks_sql = source.path.starts_with("src/") && !source.path.starts_with("src/store");
        if speaks_sql && (production.contains("rusqlite::Connection") || production.contains("Connection::open")) {
            found.push(format!("{}: opens a database by itself", source.path));
        }
    }
    none("banned", found);
}

#[test]
fn no_test_is_switched_off() {
    let switch = concat!("#[ign", "ore");
    let off = sources().into_iter().filter(|s| s.text.contains(switch)).map(|s| s.path).collect();
    none("ignored tests", off);
}

#[test]
fn crates_depend_on_what_they_may() {
    let manifest = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let session = manifest("session/Cargo.toml");
    for banned in ["ureq", "crossbeam", "signal-hook", "anyhow"] {
        assert!(!session.contains(banned), "the session crate depends on {banned}");
    }
    assert!(!manifest("runner/Cargo.toml").contains("\nnanoclaw = "), "the runner depends on the host");
    let host = manifest("Cargo.toml");
    let dependencies = &host[host.find("[dependencies]").unwrap()..];
    assert!(!dependencies.contains("nanoclaw-runner"), "the host depends on the runner");
    assert!(host.contains("rust-version = \"1.85\""), "Debian stable's toolchain must build this");
}

#[test]
fn the_dependency_tree_is_small_and_has_no_async_runtime() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let names = |key: &str| -> Vec<String> {
        lock.lines().filter_map(|l| l.strip_prefix(key)?.strip_suffix('"')).map(str::to_owned).collect()
    };
    let packages = names("name = \"");
    for banned in ["tokio", "async-std", "smol", "futures-executor", "hyper"] {
        assert!(!packages.iter().any(|p| p == banned), "{banned} is in Cargo.lock");
    }
    assert!(packages.len() <= MAX_PACKAGES_WITH_DEV, "{} packages in Cargo.lock", packages.len());
    let shipped = shipped_packages(&lock);
    println!("{} packages, {} of them shipped", packages.len(), shipped.len());
    assert!(shipped.len() <= MAX_PACKAGES, "{} packages are shipped", shipped.len());
}

/// What the workspace's own packages need without their dev-dependencies, on all targets.
fn shipped_packages(lock: &str) -> BTreeSet<String> {
    let mut needs = std::collections::BTreeMap::<String, Vec<String>>::new();
    for block in lock.split("[[package]]").skip(1) {
        let name = block.lines().find_map(|l| l.strip_prefix("name = \"")?.strip_suffix('"')).unwrap();
        let list = block.split_once("dependencies = [").map_or("", |(_, rest)| rest.split(']').next().unwrap());
        let names = list.split('"').skip(1).step_by(2).map(|d| d.split(' ').next().unwrap().to_owned());
        needs.entry(name.to_owned()).or_default().extend(names);
    }
    let dev: BTreeSet<&str> = ["proptest", "tempfile"].into();
    let mut shipped = BTreeSet::new();
    let mut open = vec!["nanoclaw".to_owned(), "nanoclaw-runner".to_owned()];
    while let Some(name) = open.pop() {
        if !dev.contains(name.as_str()) && shipped.insert(name.clone()) {
            open.extend(needs.get(&name).into_iter().flatten().cloned());
        }
    }
    shipped
}

#[test]
fn the_binaries_are_small_and_the_runner_is_static() {
    let folder = std::env::var_os("NANOCLAW_BIN_DIR").map_or(root().join("target/release"), PathBuf::from);
    for name in ["nanoclaw", "nanoclaw-runner"] {
        let path = folder.join(name);
        let bytes = fs::metadata(&path).unwrap_or_else(|e| panic!("{}: {e}; run `make build`", path.display())).len();
        println!("{name}: {bytes} bytes");
        assert!(bytes <= MAX_BINARY_BYTES, "{name} has {bytes} bytes; at most {MAX_BINARY_BYTES}");
    }
    // A program that needs a loader names it in a PT_INTERP segment.
    let runner = fs::read(folder.join("nanoclaw-runner")).unwrap();
    let loader = runner.windows(8).position(|w| w.starts_with(b"/lib") && w.ends_with(b"ld-l"));
    assert_eq!(loader, None, "the runner is linked dynamically");
}
