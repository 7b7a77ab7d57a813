//! `glob` and `grep`, by ripgrep: the image has it for the agent's own use too.
//!
//! Unlike on a command line everything is searched: hidden files, and what a `.gitignore` names; but not `.git`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::running::{End, Running};
use super::{Context, Effect, Output, Tool, tool};
use crate::process;

/// Longest search.
const MAX_TIME: Duration = Duration::from_secs(30);
/// Lines of an answer when no limit is given, and at most.
const DEFAULT_LINES: usize = 200;
const MAX_LINES: usize = 2_000;
const MAX_CONTEXT: usize = 20;
/// `$1` is for sed, which ends ripgrep when there are enough lines; the rest is for ripgrep. Ripgrep's code is the
/// result, but for the signal it then ends by.
const SCRIPT: &str = r#"limit=$1; shift; rg "$@" | LC_ALL=C sed "$limit"; exit "${PIPESTATUS[0]}""#;
/// Codes of ripgrep; the last is bash's for one that sed has cut off.
const FOUND: [Option<i32>; 2] = [Some(0), Some(128 + libc::SIGPIPE)];
const NOT_FOUND: Option<i32> = Some(1);
/// Also when there are no such files.
const FAULT: Option<i32> = Some(2);
/// What any search is given, after what was asked for. Lines that are longer than this many bytes are cut.
const EVERYWHERE: &str = "--no-config --no-messages --hidden --no-ignore --color=never --max-columns=500 \
                          --max-columns-preview --max-filesize=100M --glob=!.git";

/// The two of them, for an agent that lives in `home`; long outputs are kept in `outputs`.
pub fn tools(home: &Path, outputs: &Path) -> Vec<Arc<dyn Tool>> {
    let find = format!(
        "Finds files by name, the newest first. `*` and `?` stay within a folder, `**/` is any folder, `{{a,b}}` and \
         `[a-z]` are choices; a pattern without a slash is matched in every folder. At most {DEFAULT_LINES} are named."
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
        "ignore_case": {"type": "boolean"},
        "context": number("Lines to show around each match."),
        "head_limit": number(&format!("Most lines of the answer; {DEFAULT_LINES} unless said.")),
    });
    let search = Search { home: home.to_owned(), outputs: outputs.to_owned() };
    let globber = search.clone();
    vec![
        tool(
            ("glob", &find),
            (
                json!({"pattern": text("Such as **/*.md"), "path": text("The folder; your own unless said.")}),
                &["pattern"],
            ),
            Effect::Reads,
            |_| MAX_TIME,
            move |input: GlobInput, context| {
                let glob = format!("--glob={}", input.pattern);
                let args = ["--files", "--sortr=modified", &glob].map(str::to_owned);
                globber.run(args.into(), input.path.as_deref(), DEFAULT_LINES, context)
            },
        ),
        tool(
            ("grep", "Finds text in files, line by line."),
            (grep_properties, &["pattern"]),
            Effect::Reads,
            |_| MAX_TIME,
            move |input: GrepInput, context| {
                let limit = input.head_limit.unwrap_or(DEFAULT_LINES);
                search.run(input.args(), input.path.as_deref(), limit, context)
            },
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

#[derive(Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    #[default]
    Content,
    FilesWithMatches,
    Count,
}

impl GrepInput {
    fn args(&self) -> Vec<String> {
        let around = self.context.unwrap_or(0).min(MAX_CONTEXT);
        let mode = match self.output_mode {
            Mode::Content => format!("--context={around}"),
            Mode::FilesWithMatches => "--files-with-matches".into(),
            Mode::Count => "--count".into(),
        };
        let mut args: Vec<String> =
            ["--no-heading", "--with-filename", "--line-number", "--sort=path"].map(String::from).into();
        args.extend([mode, format!("--regexp={}", self.pattern)]);
        args.extend(self.glob.as_ref().map(|glob| format!("--glob={glob}")));
        args.extend((self.ignore_case == Some(true)).then(|| "--ignore-case".into()));
        args
    }
}

#[derive(Clone)]
struct Search {
    home: PathBuf,
    outputs: PathBuf,
}

impl Search {
    /// Runs ripgrep. Names are below the agent's folder, or whole where another path was asked for.
    fn run(&self, args: Vec<String>, path: Option<&Path>, lines: usize, context: &Context) -> Result<Output, String> {
        let root = path.map_or(self.home.clone(), |path| self.home.join(path));
        let fault = |e| format!("{} cannot be searched: {e}.", root.display());
        // Patterns are below the folder that is searched.
        let folder = if root.metadata().map_err(fault)?.is_dir() { &root } else { &self.home };
        let lines = lines.clamp(1, MAX_LINES);
        let mut bash = process::command("bash");
        bash.args(["-c", SCRIPT, "bash"]).arg(format!("{}{{s/.*/[there is more: narrow the search]/;q}}", lines + 1));
        bash.args(args).args(EVERYWHERE.split(' ')).current_dir(folder);
        if path.is_some() {
            bash.arg("--").arg(&root);
        }
        let mut running = Running::start(bash, &self.outputs).map_err(fault)?;
        let end = running.finish(MAX_TIME, &context.stop).map_err(fault)?;
        if running.drained() {
            running.output.forget_if_short();
        }
        let text = running.output.text();
        Ok(match end {
            End::ByItself(status) if FOUND.contains(&status.code()) => Output::text(text),
            End::ByItself(status) if status.code() == NOT_FOUND => Output::text("[nothing found]"),
            End::ByItself(status) if status.code() == FAULT && text.is_empty() => {
                Output::text("[nothing found in what could be searched]")
            }
            // What is wrong with the pattern; or a part could not be read, and the text is what was found besides.
            End::ByItself(_) => Output::failed(text + "[not all could be searched]"),
            End::Stopped => Output::failed(text + "[stopped]"),
            End::TimedOut(_) => Output::failed(text + "[not finished: it took too long; narrow the search]"),
        })
    }
}
