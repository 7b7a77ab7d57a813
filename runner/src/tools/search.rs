//! `glob` and `grep`, by a walk of our own: an image need not have anything for it.
//!
//! Memory is bounded by the depth of the folders and by what is shown; time by a deadline, after which what was
//! found so far is the answer, and it says so. Symlinks are not followed, and `.git` is not entered.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::fs::{self, File, ReadDir};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use regex_lite::{Regex, RegexBuilder};
use serde::Deserialize;
use serde_json::json;

use super::glob::Glob;
use super::{Context, Effect, Output, Tool, next_line, open_file, tool};
use crate::stop::Stop;

/// Longest search.
const MAX_TIME: Duration = Duration::from_secs(30);
/// Deepest folder that is entered; each level holds a descriptor.
const MAX_DEPTH: usize = 64;
/// Most files `glob` names.
const MAX_FILES: usize = 200;
/// Most matches, files or counts `grep` shows when no limit is given.
const DEFAULT_MATCHES: usize = 200;
/// Most text in an answer. bytes
const MAX_SHOWN_BYTES: usize = 50_000;
/// How much of a line is searched, and how much is shown. bytes
const MAX_LINE_BYTES: usize = 16 * 1024;
const MAX_SHOWN_LINE_BYTES: usize = 500;
const MAX_CONTEXT: usize = 20;
/// Larger files are not searched. bytes
const MAX_SEARCHED_BYTES: u64 = 100 * 1024 * 1024;
/// Largest compiled expression: with the longest line it bounds how long a stop may wait. bytes
const MAX_REGEX_BYTES: usize = 128 * 1024;

/// The two of them, for an agent that lives in `home`.
pub fn tools(home: &Path) -> Vec<Arc<dyn Tool>> {
    let find = format!(
        "Finds files by name, the newest first. `*` and `?` stay within a folder, `**/` is any folder, `{{a,b}}` and \
         `[a-z]` are choices; a pattern without a slash is matched in every folder. At most {MAX_FILES} are named."
    );
    let text = |description: &str| json!({"type": "string", "description": description});
    let number = |description: &str| json!({"type": "integer", "minimum": 0, "description": description});
    let grep_properties = json!({
        "pattern": text("A regular expression, without lookaround and back-references."),
        "path": text("The file or folder to search; your own folder unless said."),
        "glob": text("Only files with such names, as for the tool glob."),
        "output_mode": {
            "type": "string", "enum": ["content", "files_with_matches", "count"],
            "description": "Lines with their numbers (unless said), names of files, or matching lines per file.",
        },
        "ignore_case": {"type": "boolean", "description": "For the letters A to Z."},
        "context": number("Lines to show around each match."),
        "head_limit": number(&format!("Most matches, files or counts to show; {DEFAULT_MATCHES} unless said.")),
    });
    let (globber, grepper) = (home.to_owned(), home.to_owned());
    vec![
        tool(
            ("glob", &find),
            (
                json!({"pattern": text("Such as **/*.md"), "path": text("The folder; your own unless said.")}),
                &["pattern"],
            ),
            Effect::Reads,
            |_| MAX_TIME,
            move |input: GlobInput, context| glob(&globber, &input, context),
        ),
        tool(
            ("grep", "Finds text in files, line by line."),
            (grep_properties, &["pattern"]),
            Effect::Reads,
            |_| MAX_TIME,
            move |input: GrepInput, context| grep(&grepper, &input, context),
        ),
    ]
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GlobInput {
    pattern: String,
    path: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GrepInput {
    pattern: String,
    path: Option<PathBuf>,
    glob: Option<String>,
    #[serde(default)]
    output_mode: Mode,
    ignore_case: Option<bool>,
    context: Option<usize>,
    head_limit: Option<usize>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    #[default]
    Content,
    FilesWithMatches,
    Count,
}

fn glob(home: &Path, input: &GlobInput, context: &Context) -> Result<Output, String> {
    let glob = Glob::new(&input.pattern)?;
    let mut walk = Walk::new(home, input.path.as_deref(), context)?;
    let (mut newest, mut found) = (BinaryHeap::new(), 0_usize);
    while let Some(path) = walk.next() {
        if glob.matches(&walk.below(&path)) {
            found += 1;
            let modified = fs::symlink_metadata(&path).and_then(|meta| meta.modified()).ok();
            newest.push(Reverse((modified, path)));
            if newest.len() > MAX_FILES {
                newest.pop();
            }
        }
    }
    let mut text: String = newest.into_sorted_vec().iter().map(|Reverse((_, p))| walk.name(p) + "\n").collect();
    text += &match found {
        0 => "[no file has such a name]".into(),
        n if n > MAX_FILES => format!("[the newest {MAX_FILES} of {n} files]"),
        n => format!("[{n} file(s)]"),
    };
    Ok(Output::text(text + &walk.caveats()))
}

fn grep(home: &Path, input: &GrepInput, context: &Context) -> Result<Output, String> {
    let regex = RegexBuilder::new(&input.pattern)
        .case_insensitive(input.ignore_case == Some(true))
        .size_limit(MAX_REGEX_BYTES)
        .build();
    let regex = regex.map_err(|e| format!("{:?} is no regular expression for this tool: {e}.", input.pattern))?;
    let glob = input.glob.as_deref().map(Glob::new).transpose()?;
    let mut walk = Walk::new(home, input.path.as_deref(), context)?;
    let mut hits = Hits {
        mode: input.output_mode,
        regex,
        around: input.context.unwrap_or(0).min(MAX_CONTEXT),
        left: input.head_limit.unwrap_or(DEFAULT_MATCHES).max(1),
        text: String::new(),
        more: false,
    };
    while let Some(path) = walk.next() {
        if glob.as_ref().is_some_and(|glob| !glob.matches(&walk.below(&path))) {
            continue;
        }
        match open_file(&path) {
            Ok((file, meta)) if meta.len() <= MAX_SEARCHED_BYTES => {
                hits.search(file, &walk.name(&path), &walk);
            }
            _ => walk.skipped += 1,
        }
        if hits.more {
            break;
        }
    }
    let end = match (hits.more, hits.text.is_empty()) {
        (true, _) => "[there is more: narrow the search, or raise head_limit]",
        (_, true) => "[nothing matches]",
        _ => "",
    };
    Ok(Output::text(hits.text + end + &walk.caveats()))
}

/// What `grep` has found.
struct Hits {
    mode: Mode,
    regex: Regex,
    /// Lines shown around each match.
    around: usize,
    /// How many more may be shown.
    left: usize,
    text: String,
    /// There is more than was shown.
    more: bool,
}

impl Hits {
    fn search(&mut self, file: File, name: &str, walk: &Walk<'_>) {
        let mut reader = BufReader::new(file);
        // Not text; or a file that ends by a fault of the disk: what was read of it counts.
        if !reader.fill_buf().is_ok_and(|start| !start.contains(&0)) {
            return;
        }
        let (mut line, mut number, mut count) = (Vec::new(), 0_usize, 0_usize);
        let (mut before, mut after, mut shown) = (VecDeque::new(), 0, 0);
        while let (None, Ok(Some(_))) = (walk.over(), next_line(&mut reader, &mut line, MAX_LINE_BYTES)) {
            number += 1;
            let text = String::from_utf8_lossy(&line);
            let matched = self.regex.is_match(text.trim_end_matches('\r'));
            if matched && count == 0 && self.mode != Mode::Content && self.is_full() {
                return;
            }
            count += usize::from(matched);
            match self.mode {
                Mode::Count => {}
                Mode::FilesWithMatches if matched => return self.show(format!("{name}\n")),
                Mode::FilesWithMatches => {}
                Mode::Content if matched => {
                    if self.is_full() {
                        return;
                    }
                    if self.around > 0 && !self.text.is_empty() && shown + 1 < number - before.len() {
                        self.text += "--\n";
                    }
                    self.text.extend(before.drain(..));
                    self.show(format!("{name}:{number}:{}\n", cut(&text)));
                    (after, shown) = (self.around, number);
                }
                Mode::Content if after > 0 => {
                    self.text += &format!("{name}-{number}-{}\n", cut(&text));
                    (after, shown) = (after - 1, number);
                }
                Mode::Content if self.around > 0 => {
                    if before.len() == self.around {
                        before.pop_front();
                    }
                    before.push_back(format!("{name}-{number}-{}\n", cut(&text)));
                }
                Mode::Content => {}
            }
        }
        if self.mode == Mode::Count && count > 0 {
            self.show(format!("{name}:{count}\n"));
        }
    }

    fn is_full(&mut self) -> bool {
        self.more |= self.left == 0 || self.text.len() > MAX_SHOWN_BYTES;
        self.more
    }

    fn show(&mut self, hit: String) {
        self.text += &hit;
        self.left -= 1;
    }
}

/// As much of a line as is shown.
fn cut(line: &str) -> &str {
    let line = line.trim_end_matches('\r');
    let ends = line.char_indices().map(|(at, c)| at + c.len_utf8());
    &line[..ends.take_while(|end| *end <= MAX_SHOWN_LINE_BYTES).last().unwrap_or(0)]
}

/// The files below a folder, or the one that is named.
struct Walk<'a> {
    home: &'a Path,
    /// What patterns are relative to.
    base: PathBuf,
    file: Option<PathBuf>,
    folders: Vec<ReadDir>,
    /// Files and folders that could not be read.
    skipped: usize,
    stop: &'a Stop,
    until: Instant,
}

impl<'a> Walk<'a> {
    fn new(home: &'a Path, path: Option<&Path>, context: &'a Context) -> Result<Walk<'a>, String> {
        let root = path.map_or(home.to_owned(), |path| home.join(path));
        let fault = |e: io::Error| format!("{} cannot be searched: {e}.", root.display());
        let is_folder = fs::metadata(&root).map_err(fault)?.is_dir();
        let folders = if is_folder { vec![fs::read_dir(&root).map_err(fault)?] } else { Vec::new() };
        let (base, file) = match root.parent() {
            Some(parent) if !is_folder => (parent.to_owned(), Some(root)),
            _ => (root, None),
        };
        let until = Instant::now() + MAX_TIME;
        Ok(Walk { home, base, file, folders, skipped: 0, stop: &context.stop, until })
    }

    /// Why the search must end.
    fn over(&self) -> Option<&'static str> {
        let late = Instant::now() > self.until;
        let late = late.then_some("not finished: it took too long; narrow the search");
        self.stop.check().map_or(Some("stopped"), |()| late)
    }

    fn next(&mut self) -> Option<PathBuf> {
        if let Some(file) = self.file.take() {
            return Some(file);
        }
        while let (None, Some(folder)) = (self.over(), self.folders.last_mut()) {
            let Some(entry) = folder.next() else {
                self.folders.pop();
                continue;
            };
            match entry.and_then(|entry| Ok((entry.file_type()?, entry))) {
                Ok((kind, entry)) if kind.is_file() => return Some(entry.path()),
                Ok((kind, entry)) if kind.is_dir() && entry.file_name() != ".git" => match fs::read_dir(entry.path()) {
                    Ok(inner) if self.folders.len() < MAX_DEPTH => self.folders.push(inner),
                    _ => self.skipped += 1,
                },
                Ok(_) => {}
                Err(_) => self.skipped += 1,
            }
        }
        None
    }

    /// What patterns are matched with.
    fn below<'p>(&self, path: &'p Path) -> Cow<'p, str> {
        path.strip_prefix(&self.base).unwrap_or(path).to_string_lossy()
    }

    /// What the model calls it.
    fn name(&self, path: &Path) -> String {
        path.strip_prefix(self.home).unwrap_or(path).to_string_lossy().into_owned()
    }

    /// What the answer does not hold.
    fn caveats(&self) -> String {
        let skipped = match self.skipped {
            0 => String::new(),
            n => format!("\n[{n} that cannot be read, or are too large or too deep, were left out]"),
        };
        skipped + &self.over().map_or(String::new(), |why| format!("\n[{why}]"))
    }
}
