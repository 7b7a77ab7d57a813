//! What a call of an MCP tool came to, as our own tools say it.

use std::fs;
use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::tools::{Outcome, Output, Part};
use crate::{id, time};

/// Most text of one result that a model reads. characters
const MAX_TEXT_CHARS: usize = 100_000;
/// Most pieces of one result.
const MAX_PARTS: usize = 100;
/// Most files that are kept of all results: the oldest goes first. With the longest message, 300 MB at worst.
const MAX_FILES: usize = 100;
/// What a model can be shown, and how such files are called.
const KINDS: [(&str, &str); 5] = [
    ("image/png", "png"),
    ("image/jpeg", "jpg"),
    ("image/gif", "gif"),
    ("image/webp", "webp"),
    ("application/pdf", "pdf"),
];

/// The result of `tools/call`. Pictures are put into `folder`.
pub fn output(mut result: Value, folder: &Path) -> Output {
    if result["resultType"] == "input_required" {
        return Output::failed("The tool wants to ask the user something, which it cannot do here.");
    }
    let outcome = if result["isError"] == true { Outcome::Failed } else { Outcome::Done };
    let blocks = result.get_mut("content").and_then(Value::as_array_mut).map(std::mem::take).unwrap_or_default();
    let count = blocks.len();
    let mut parts: Vec<Part> = blocks.into_iter().take(MAX_PARTS).map(|block| part(block, folder)).collect();
    if count > MAX_PARTS {
        parts.push(Part::Text(format!("[cut off here: {} more pieces]", count - MAX_PARTS)));
    }
    let mut left = MAX_TEXT_CHARS;
    parts.retain_mut(|part| {
        let Part::Text(text) = part else { return true };
        *text = cut(text, left);
        left = left.saturating_sub(text.chars().count());
        !text.trim().is_empty()
    });
    if parts.is_empty() {
        parts.push(Part::Text(match &result["structuredContent"] {
            Value::Null => "(no output)".into(),
            structured => cut(&structured.to_string(), MAX_TEXT_CHARS),
        }));
    }
    Output { parts, outcome }
}

fn part(mut block: Value, folder: &Path) -> Part {
    let word = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    match word(&block, "type").as_str() {
        "text" => Part::Text(word(&block, "text")),
        "image" | "audio" => file(&word(&block, "data"), word(&block, "mimeType"), folder),
        "resource" => {
            let resource = block["resource"].take();
            match (resource["text"].as_str(), resource["blob"].as_str()) {
                (Some(text), _) => Part::Text(format!("{}:\n{text}", word(&resource, "uri"))),
                (None, Some(blob)) => file(blob, word(&resource, "mimeType"), folder),
                (None, None) => Part::Text(format!("[{}: empty]", word(&resource, "uri"))),
            }
        }
        "resource_link" => {
            Part::Text(["name", "uri", "description"].map(|key| word(&block, key)).join(" ").trim().to_owned())
        }
        other => Part::Text(format!("[a piece of the unknown kind {other:?}]")),
    }
}

/// Data as a file, when it is of a kind a model can be shown.
fn file(data: &str, media_type: String, folder: &Path) -> Part {
    let Some((_, ending)) = KINDS.iter().find(|(kind, _)| *kind == media_type) else {
        return Part::Text(format!("[data of the kind {media_type:?}, which cannot be shown]"));
    };
    let stored = STANDARD.decode(data).map_err(io::Error::other).and_then(|bytes| {
        fs::create_dir_all(folder)?;
        make_room(folder)?;
        let path = folder.join(format!("{}.{ending}", id::message(time::now())));
        fs::write(&path, bytes)?;
        Ok(path)
    });
    match stored {
        Ok(path) => Part::File { path, media_type },
        Err(e) => Part::Text(format!("[a file of the kind {media_type} that could not be stored: {e}]")),
    }
}

/// Names begin with the time, so the first are the oldest.
fn make_room(folder: &Path) -> io::Result<()> {
    let mut files = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    files.sort();
    files.iter().rev().skip(MAX_FILES - 1).try_for_each(fs::remove_file)
}

/// The beginning of a text, and what was left out.
pub fn cut(text: &str, max_chars: usize) -> String {
    match text.char_indices().nth(max_chars) {
        Some((end, _)) => format!("{}\n[cut off here: {} of {} bytes]", &text[..end], text.len() - end, text.len()),
        None => text.to_owned(),
    }
}
