//! `read_file`, `write_file` and `edit_file`: relative paths are below the agent's own folder.

use std::fs::{self, File, Permissions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Access, access};
use serde::Deserialize;
use serde_json::json;

use super::{Context, Effect, Output, Part, Tool, next_line, open_file, tool};
use crate::id;

/// Lines shown when no limit is given.
const DEFAULT_LINES: usize = 2_000;
/// Longest line that is shown whole. bytes
const MAX_LINE_BYTES: usize = 2_000;
/// Most text in one answer. bytes
const MAX_SHOWN_BYTES: usize = 100_000;
/// Largest file that is edited. bytes
const MAX_EDITED_BYTES: u64 = 4 * 1024 * 1024;
/// What a model can look at: how it begins, what it is, how large it may be. bytes
const VIEWABLE: [(&[u8], &str, u64); 6] = [
    (b"\x89PNG\r\n\x1a\n", "image/png", MAX_IMAGE_BYTES),
    (b"\xff\xd8\xff", "image/jpeg", MAX_IMAGE_BYTES),
    (b"GIF87a", "image/gif", MAX_IMAGE_BYTES),
    (b"GIF89a", "image/gif", MAX_IMAGE_BYTES),
    // RIFF, a length, WEBP; the length is not compared.
    (b"RIFF\0\0\0\0WEBP", "image/webp", MAX_IMAGE_BYTES),
    (b"%PDF-", "application/pdf", 20 * 1024 * 1024),
];
const MAX_IMAGE_BYTES: u64 = 5 * 1024 * 1024;

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
            move |input: ReadInput, context| read_file(reader.join(&input.path), &input, context),
        ),
        tool(
            ("write_file", &write),
            (json!({"path": text(), "content": text()}), &["path", "content"]),
            Effect::Changes,
            |_| Duration::ZERO,
            move |input: WriteInput, _| {
                let path = writer.join(&input.path);
                replace(&path, input.content.as_bytes(), &writer)?;
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
            move |input: EditInput, _| edit_file(&editor.join(&input.path), &input, &editor),
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

fn read_file(path: PathBuf, input: &ReadInput, context: &Context) -> Result<Output, String> {
    let (file, meta) = open_file(&path)?;
    let mut reader = BufReader::new(file);
    let start = reader.fill_buf().map_err(|e| format!("{} cannot be read: {e}.", path.display()))?;
    if let Some((_, media_type, max)) = VIEWABLE.iter().find(|(magic, ..)| begins(start, magic)) {
        return view(path, media_type, meta.len(), *max);
    }
    if start.contains(&0) {
        let (path, bytes) = (path.display(), meta.len());
        return Err(format!("{path} is not text ({bytes} bytes); look at it with bash, for instance with `file`."));
    }
    text(&mut reader, input, context).map(Output::text).map_err(|e| format!("{}: {e}.", path.display()))
}

fn begins(bytes: &[u8], magic: &[u8]) -> bool {
    bytes.len() >= magic.len() && bytes.iter().zip(magic).all(|(b, m)| b == m || *m == 0)
}

fn view(path: PathBuf, media_type: &str, bytes: u64, max: u64) -> Result<Output, String> {
    let name = format!("{} ({media_type}, {bytes} bytes)", path.display());
    if bytes > max {
        return Err(format!("{name} is too large to be shown; at most {max} bytes. Make a smaller one with bash."));
    }
    let mut output = Output::text(name);
    output.parts.push(Part::File { path, media_type: media_type.into() });
    Ok(output)
}

/// The lines that were asked for, as far as they fit, and where to go on.
fn text(reader: &mut impl BufRead, input: &ReadInput, context: &Context) -> Result<String, String> {
    let first = input.offset.unwrap_or(1).max(1);
    let last = first.saturating_add(input.limit.unwrap_or(DEFAULT_LINES).max(1) - 1);
    let (mut shown, mut line, mut number) = (String::new(), Vec::new(), 0);
    while let Some(left_out) = next_line(reader, &mut line, MAX_LINE_BYTES).map_err(|e| e.to_string())? {
        context.stop.check().map_err(|_| "stopped".to_owned())?;
        number += 1;
        if number > last || shown.len() > MAX_SHOWN_BYTES {
            return Ok(format!("{shown}[there is more: go on with offset {number}]"));
        }
        if number >= first {
            let text = String::from_utf8_lossy(&line);
            shown += &format!("{number:>6}\t{}", text.strip_suffix('\r').unwrap_or(&text));
            shown += &if left_out > 0 { format!(" [... {left_out} bytes more in this line]\n") } else { "\n".into() };
        }
    }
    match (number, shown.is_empty()) {
        (0, _) => Ok("[the file is empty]".into()),
        (_, true) => Err(format!("there are only {number} lines")),
        _ => Ok(shown),
    }
}

fn edit_file(path: &Path, input: &EditInput, home: &Path) -> Result<Output, String> {
    let (file, _) = open_file(path)?;
    let mut text = String::new();
    let read = file.take(MAX_EDITED_BYTES + 1).read_to_string(&mut text);
    read.map_err(|e| format!("{} cannot be read as text: {e}.", path.display()))?;
    if text.len() as u64 > MAX_EDITED_BYTES {
        return Err(format!("{} is larger than {MAX_EDITED_BYTES} bytes; use bash.", path.display()));
    }
    let (edited, count) = edit(&text, input).map_err(|e| format!("{}: {e}", path.display()))?;
    replace(path, edited.as_bytes(), home)?;
    Ok(Output::text(format!("{} is changed in {count} place(s).", path.display())))
}

/// The text after the edit, and in how many places it differs. A file whose lines end in CRLF keeps them so, and is
/// matched by an `old_string` without.
fn edit(text: &str, input: &EditInput) -> Result<(String, usize), String> {
    let (mut old, mut new) = (input.old_string.clone(), input.new_string.clone());
    if old.is_empty() {
        return Err("old_string is empty; a new file is made by write_file.".into());
    }
    if old == new {
        return Err("old_string and new_string are the same.".into());
    }
    if text.contains("\r\n") && !old.contains('\r') {
        let crlf = |s: &str| s.replace("\r\n", "\n").replace('\n', "\r\n");
        let converted = crlf(&old);
        if text.contains(&converted) {
            (old, new) = (converted, crlf(&new));
        }
    }
    match (text.matches(&old).count(), input.replace_all) {
        (0, _) => Err("old_string is not in it. Read the file again: it must match to the last space.".into()),
        (count @ 2.., None | Some(false)) => Err(format!(
            "old_string is in it {count} times. Make it longer until it is there once, or set replace_all."
        )),
        (count, _) => Ok((text.replace(&old, &new), count)),
    }
}

/// Puts `content` in the place of the file in one step: a reader sees the old one or the new one. The mode stays,
/// and a symlink goes on pointing to it.
fn replace(path: &Path, content: &[u8], home: &Path) -> Result<(), String> {
    let fault = |e: io::Error| match e.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            format!("{} is read-only for you; your own folder is {}.", path.display(), home.display())
        }
        _ => format!("{} cannot be written: {e}.", path.display()),
    };
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = target.parent().ok_or(format!("{} is no file.", path.display()))?;
    let mode = if target.exists() {
        let (_, meta) = open_file(&target)?;
        access(&target, Access::WRITE_OK).map_err(|e| fault(e.into()))?;
        Some(meta.permissions().mode())
    } else {
        fs::create_dir_all(folder).map_err(fault)?;
        None
    };
    let draft = folder.join(format!(".nanoclaw-{}", id::random()));
    let written = (|| {
        let mut file = File::create_new(&draft)?;
        file.write_all(content)?;
        if let Some(mode) = mode {
            file.set_permissions(Permissions::from_mode(mode))?;
        }
        file.sync_data()?;
        fs::rename(&draft, &target)
    })();
    written.map_err(|e| {
        // It may not have been made.
        let _draft = fs::remove_file(&draft);
        fault(e)
    })
}
