//! `read_file`, `write_file` and `edit_file`: relative paths are below the agent's own folder.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Take, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Access, access};
use serde::Deserialize;
use serde_json::json;

use super::{Effect, Output, Part, Tool, tool};
use crate::id;
use crate::provider::model::media;

/// Lines shown when no limit is given.
const DEFAULT_LINES: usize = 2_000;
/// Longest line that is shown whole. bytes
const MAX_LINE_BYTES: u64 = 2_000;
/// Most text in one answer. bytes
const MAX_SHOWN_BYTES: usize = 100_000;
/// Largest file that is read for its lines, and largest that is edited or the result of an edit. bytes
const MAX_READ_BYTES: u64 = 100 * 1024 * 1024;
const MAX_EDITED_BYTES: u64 = 4 * 1024 * 1024;

/// The three of them, for an agent that lives in `home`.
pub fn tools(home: &Path) -> Vec<Arc<dyn Tool>> {
    let below = format!("Relative paths are below {}.", home.display());
    let read = format!(
        "Reads a text file, each line behind its number and a tab, or shows a picture (PNG, JPEG, GIF, WebP) or a PDF. \
         {below}"
    );
    let write = format!("Writes a text file in place of what is there; folders are made as needed. {below}");
    let edit = "Replaces a piece of a text file. old_string must be in it exactly once, to the last space and without \
                the line numbers of read_file; with replace_all, once or more.";
    let lines = format!("How many lines; {DEFAULT_LINES} unless said.");
    let text = || json!({"type": "string"});
    let number = |description: &str| json!({"type": "integer", "minimum": 1, "description": description});
    let all = json!({"type": "boolean"});
    let (reader, writer, editor) = (home.to_owned(), home.to_owned(), home.to_owned());
    vec![
        tool(
            ("read_file", &read),
            (json!({"path": text(), "offset": number("First line."), "limit": number(&lines)}), &["path"]),
            Effect::Reads,
            |_| Duration::ZERO,
            move |input: ReadInput, _| read_file(reader.join(&input.path), &input),
        ),
        tool(
            ("write_file", &write),
            (json!({"path": text(), "content": text()}), &["path", "content"]),
            Effect::Changes,
            |_| Duration::ZERO,
            move |input: WriteInput, _| {
                let path = writer.join(&input.path);
                replace(&path, input.content.as_bytes())?;
                Ok(Output::text(format!("{} is written: {} bytes.", path.display(), input.content.len())))
            },
        ),
        tool(
            ("edit_file", edit),
            (
                json!({"path": text(), "old_string": text(), "new_string": text(), "replace_all": all}),
                &["path", "old_string", "new_string"],
            ),
            Effect::Changes,
            |_| Duration::ZERO,
            move |input: EditInput, _| edit_file(&editor.join(&input.path), &input),
        ),
    ]
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadInput {
    path: PathBuf,
    offset: Option<usize>,
    limit: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WriteInput {
    path: PathBuf,
    content: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EditInput {
    path: PathBuf,
    old_string: String,
    new_string: String,
    replace_all: Option<bool>,
}

/// Opens a file for reading, and says how long it is; a pipe or a device, which might hold us for ever, is none.
pub fn open(path: &Path) -> Result<(File, u64), String> {
    let fault = |e: io::Error| format!("{} cannot be read: {e}.", path.display());
    // Non-blocking, or the opening of a pipe would wait for a writer.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(fault)?;
    let meta = file.metadata().map_err(fault)?;
    match meta.file_type() {
        kind if kind.is_dir() => Err(format!("{} is a folder; `glob` lists what is in it.", path.display())),
        kind if !kind.is_file() => Err(format!("{} is a pipe, a socket or a device, not a file.", path.display())),
        _ => Ok((file, meta.len())),
    }
}

/// Opens one that is small enough to be read.
fn open_file(path: &Path, max_bytes: u64) -> Result<Take<File>, String> {
    match open(path)? {
        (_, bytes) if bytes > max_bytes => {
            Err(format!("{} is too large: more than {max_bytes} bytes; use bash.", path.display()))
        }
        (file, _) => Ok(file.take(max_bytes)),
    }
}

fn read_file(path: PathBuf, input: &ReadInput) -> Result<Output, String> {
    let mut reader = BufReader::new(open_file(&path, MAX_READ_BYTES)?);
    if let Some(media_type) = media::kind(&path) {
        let mut output = Output::text(format!("{} ({media_type})", path.display()));
        output.parts.push(Part::File { path, media_type: media_type.into() });
        return Ok(output);
    }
    let start = reader.fill_buf().map_err(|e| format!("{} cannot be read: {e}.", path.display()))?;
    if start.contains(&0) {
        return Err(format!(
            "{} is not text, nor a picture or PDF of at most {} bytes; look at it with bash.",
            path.display(),
            media::MAX_FILE_BYTES
        ));
    }
    text(&mut reader, input).map(Output::text).map_err(|e| format!("{}: {e}.", path.display()))
}

/// The lines that were asked for, as far as they fit, and where to go on.
fn text(reader: &mut impl BufRead, input: &ReadInput) -> io::Result<String> {
    let first = input.offset.unwrap_or(1).max(1);
    let last = first.saturating_add(input.limit.unwrap_or(DEFAULT_LINES).max(1) - 1);
    let (mut shown, mut line, mut number) = (String::new(), Vec::new(), 0);
    while reader.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line)? > 0 {
        let ended = line.ends_with(b"\n");
        let goes_on = !ended && reader.fill_buf()?.first().is_some_and(|next| *next != b'\n');
        if !ended {
            reader.skip_until(b'\n')?;
        }
        number += 1;
        if number > last || shown.len() > MAX_SHOWN_BYTES {
            return Ok(format!("{shown}[there is more: go on with offset {number}]"));
        }
        if number >= first {
            let text = String::from_utf8_lossy(&line);
            shown += &format!("{number:>6}\t{}", text.trim_end_matches('\n'));
            shown += if goes_on { " [... the line goes on]\n" } else { "\n" };
        }
        line.clear();
    }
    Ok(if shown.is_empty() { format!("[there are only {number} lines]") } else { shown })
}

fn edit_file(path: &Path, input: &EditInput) -> Result<Output, String> {
    let mut text = String::new();
    let read = open_file(path, MAX_EDITED_BYTES)?.read_to_string(&mut text);
    read.map_err(|e| format!("{} cannot be read as text: {e}.", path.display()))?;
    let (old, new) = (&input.old_string, &input.new_string);
    let count = text.matches(old).count();
    let wrong = match count {
        _ if old.is_empty() => "old_string is empty; a new file is made by write_file.".into(),
        _ if old == new => "old_string and new_string are the same.".into(),
        0 => "old_string is not in it. Read the file again: it must match to the last space.".into(),
        2.. if input.replace_all != Some(true) => {
            format!("old_string is in it {count} times. Make it longer until it is there once, or set replace_all.")
        }
        _ if text.len() + count * new.len() > MAX_EDITED_BYTES as usize => "it would become too large.".into(),
        _ => {
            replace(path, text.replace(old, new).as_bytes())?;
            return Ok(Output::text(format!("{} is changed in {count} place(s).", path.display())));
        }
    };
    Err(format!("{}: {wrong}", path.display()))
}

/// Puts `content` in the place of the file in one step: a reader sees the old one or the new one. The mode stays,
/// and a symlink goes on pointing to it.
fn replace(path: &Path, content: &[u8]) -> Result<(), String> {
    let fault = |e: io::Error| format!("{} cannot be written: {e}.", path.display());
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = target.parent().ok_or(format!("{} is a folder.", path.display()))?;
    let mode = if target.exists() {
        access(&target, Access::WRITE_OK).map_err(|e| fault(e.into()))?;
        let old = open_file(&target, u64::MAX)?.into_inner();
        Some(old.metadata().map_err(fault)?.permissions())
    } else {
        fs::create_dir_all(folder).map_err(fault)?;
        None
    };
    let draft = folder.join(format!(".nanoclaw-{}", id::random()));
    let written = (|| {
        let mut file = File::create_new(&draft)?;
        file.write_all(content)?;
        mode.map_or(Ok(()), |mode| file.set_permissions(mode))?;
        file.sync_data()?;
        fs::rename(&draft, &target)
    })();
    written.map_err(|e| {
        // It may not have been made.
        let _draft = fs::remove_file(&draft);
        fault(e)
    })
}
