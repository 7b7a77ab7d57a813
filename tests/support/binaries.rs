//! The binaries under test: those of `make build`, and only when they are newer than their source.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::SystemTime;

/// The folder that holds `nanoclaw` and `nanoclaw-runner`.
///
/// # Panics
/// When one is missing or older than its source.
#[track_caller]
pub fn folder() -> &'static Path {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match FOUND.get_or_init(find) {
        Ok(folder) => folder,
        Err(why) => panic!("{why}"),
    }
}

fn find() -> Result<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let given = std::env::var_os("NANOCLAW_BIN_DIR").map(PathBuf::from);
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let folder = given.clone().unwrap_or_else(|| target.join("release"));
    for (name, sources) in [("nanoclaw", ["src", "session/src"]), ("nanoclaw-runner", ["runner/src", "session/src"])] {
        let binary = folder.join(name);
        let Some(built) = modified(&binary) else {
            return Err(format!("{} is not there: run `make build`", binary.display()));
        };
        if given.is_some() {
            continue; // whoever names a folder means what is in it
        }
        // A runner that came out the same is not copied again: what counts is when it was built.
        let built = built.max(newest_build(&target, name).unwrap_or(built));
        let newest = sources.iter().filter_map(|s| newest_source(&root.join(s))).max();
        if let Some((at, path)) = newest.filter(|(at, _)| *at > built) {
            let age = at.duration_since(built).unwrap_or_default().as_secs();
            return Err(format!(
                "{} is {age} s older than {}: run `make build`",
                binary.display(),
                path.strip_prefix(root).unwrap_or(&path).display()
            ));
        }
    }
    Ok(folder)
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|m| m.modified()).ok()
}

/// When `target/<triple>/release/<name>` was built, for any triple.
fn newest_build(target: &Path, name: &str) -> Option<SystemTime> {
    let entries = fs::read_dir(target).ok()?;
    entries.flatten().filter_map(|e| modified(&e.path().join("release").join(name))).max()
}

/// The newest file that is not only a unit test's.
fn newest_source(folder: &Path) -> Option<(SystemTime, PathBuf)> {
    let entries = fs::read_dir(folder).ok()?.flatten();
    entries
        .filter_map(|entry| {
            let path = entry.path();
            match path.file_name()?.to_str()? {
                "tests" | "tests.rs" => None,
                _ if path.is_dir() => newest_source(&path),
                name if name.ends_with(".rs") || name.ends_with(".sql") => Some((modified(&path)?, path)),
                _ => None,
            }
        })
        .max()
}
