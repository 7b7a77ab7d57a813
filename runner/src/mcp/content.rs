//! What a call of an MCP tool came to, as our own tools say it.

use std::fs;
use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::provider::model::media::KINDS;
use crate::tools::{Outcome, Output, Part};
use crate::{id, time};

/// Most text of one result that a model reads. characters
const MAX_TEXT_CHARS: usize = 100_000;
/// Most pieces of one result.
const MAX_PARTS: usize = 100;
/// Most files that are kept of all results: the oldest goes first. With the longest message, 300 MB at worst.
const MAX_FILES: usize = 100;

/// The result of `tools/call`. Pictures are put into `folder`.
pub fn output(mut result: Value, folder: &Path) -> Output {
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
    let known = KINDS.iter().find(|(kind, _)| *kind == media_type);
    let Some((_, ending)) = known.and_then(|(kind, _)| kind.split_once('/')) else {
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(output: &Output) -> Vec<&str> {
        fn text(part: &Part) -> &str {
            let Part::Text(text) = part else { panic!("{part:?}") };
            text
        }
        output.parts.iter().map(text).collect()
    }

    #[test]
    fn texts_links_and_resources_are_text_and_what_is_empty_is_left_out() {
        let output = output(
            json!({"isError": true, "structuredContent": {"a": 1}, "content": [
                {"type": "text", "text": "one"}, {"type": "text", "text": " "},
                {"type": "resource_link", "name": "log", "uri": "file:///log"},
                {"type": "resource", "resource": {"uri": "file:///a", "text": "two"}},
                {"type": "resource", "resource": {"uri": "file:///b"}},
                {"type": "audio", "data": "AAAA", "mimeType": "audio/wav"}, {"type": "hologram"}, 7]}),
            Path::new("/nonexistent"),
        );
        assert_eq!(output.outcome, Outcome::Failed);
        assert_eq!(
            texts(&output),
            [
                "one",
                "log file:///log",
                "file:///a:\ntwo",
                "[file:///b: empty]",
                "[data of the kind \"audio/wav\", which cannot be shown]",
                "[a piece of the unknown kind \"hologram\"]",
                "[a piece of the unknown kind \"\"]"
            ]
        );
    }

    #[test]
    fn structured_content_counts_when_there_is_no_other() {
        let nowhere = Path::new("/nonexistent");
        for content in [json!([]), json!(null), json!("odd")] {
            let output = output(json!({"content": content, "structuredContent": {"a": 1}}), nowhere);
            assert_eq!((texts(&output), output.outcome), (vec!["{\"a\":1}"], Outcome::Done));
        }
        for nothing in [json!({}), json!(null), json!([]), json!("odd")] {
            assert_eq!(texts(&output(nothing, nowhere)), ["(no output)"]);
        }
    }

    #[test]
    fn a_long_result_says_what_is_missing() {
        let long = json!({"type": "text", "text": "ä".repeat(MAX_TEXT_CHARS - 1)});
        let result = json!({"content": vec![long.clone(); 2]});
        let output = output(result, Path::new("/nonexistent"));
        let [first, second] = texts(&output)[..] else { panic!() };
        assert_eq!(first.chars().count(), MAX_TEXT_CHARS - 1);
        assert_eq!(second, "ä\n[cut off here: 199996 of 199998 bytes]");
        let many = super::output(json!({"content": vec![json!({"type": "text", "text": "a"}); 150]}), Path::new("/"));
        assert_eq!((many.parts.len(), texts(&many)[100]), (101, "[cut off here: 50 more pieces]"));
    }

    #[test]
    fn pictures_become_files_of_which_the_newest_are_kept() {
        let tmp = tempfile::tempdir().unwrap();
        let folder = tmp.path().join("state/mcp");
        let picture =
            || output(json!({"content": [{"type": "image", "mimeType": "image/png", "data": "iVBORw=="}]}), &folder);
        let oldest = folder.join("msg-1600000000000-x.png");
        fs::create_dir_all(&folder).unwrap();
        fs::write(&oldest, "").unwrap();
        for _ in 1..MAX_FILES {
            picture();
        }
        assert!(oldest.exists());
        let [Part::File { path, media_type }] = &picture().parts[..] else { panic!() };
        assert_eq!((fs::read(path).unwrap(), media_type.as_str()), (b"\x89PNG".to_vec(), "image/png"));
        assert_eq!((fs::read_dir(&folder).unwrap().count(), oldest.exists()), (MAX_FILES, false));
        let damaged = output(
            json!({"content": [{"type": "resource", "resource":
            {"uri": "x", "mimeType": "application/pdf", "blob": "???"}}]}),
            &folder,
        );
        assert!(texts(&damaged)[0].contains("could not be stored"));
    }
}
