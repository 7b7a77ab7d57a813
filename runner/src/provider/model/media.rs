//! Pictures and PDFs in a conversation: they lie on disk, and are read when a request is made.

use std::fs;
use std::io::Read;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::message::{Block, Message};

/// What a model may be shown: media types and the first bytes of such a file.
pub const KINDS: [(&str, &[u8]); 6] = [
    ("image/png", b"\x89PNG\r\n\x1a\n"),
    ("image/jpeg", b"\xff\xd8\xff"),
    ("image/gif", b"GIF8"),
    ("image/webp", b"RIFF"),
    ("application/pdf", b"%PDF-"),
    ("application/pdf", b"\xef\xbb\xbf%PDF-"),
];
/// Largest file that is shown: the APIs' own limit for a picture. bytes
pub const MAX_FILE_BYTES: u64 = 5 * 1024 * 1024;
/// Most of all files in one request. The runner's memory is small, and base64 makes it a third more. bytes
const MAX_TOTAL_BYTES: u64 = 8 * 1024 * 1024;

/// The media type of a file that a model can be shown.
pub fn kind(path: &Path) -> Option<&'static str> {
    let meta = fs::metadata(path).ok().filter(|m| m.is_file() && m.len() <= MAX_FILE_BYTES)?;
    let mut head = [0; 16];
    let n = fs::File::open(path).and_then(|mut file| file.read(&mut head)).ok()?;
    let is_kind = |(media_type, magic): &&(&str, &[u8])| {
        head[..n].starts_with(magic) && (*media_type != "image/webp" || &head[8..12] == b"WEBP")
    };
    KINDS.iter().find(is_kind).filter(|_| meta.len() > 0).map(|(media_type, _)| *media_type)
}

/// A file's content as the APIs take it; `None` when it cannot be read (any more).
pub fn base64(path: &Path) -> Option<String> {
    kind(path)?;
    fs::read(path).ok().map(|bytes| STANDARD.encode(bytes))
}

/// Leaves the newest files that fit one request, and a note in the place of each other.
pub fn fit(messages: &mut [Message]) {
    let mut left = MAX_TOTAL_BYTES;
    for block in messages.iter_mut().rev().flat_map(|message| message.content.iter_mut().rev()) {
        match block {
            Block::ToolResult { content, .. } => content.iter_mut().rev().for_each(|block| fit_one(block, &mut left)),
            other => fit_one(other, &mut left),
        }
    }
}

fn fit_one(block: &mut Block, left: &mut u64) {
    let Block::File { path, .. } = block else { return };
    let size = fs::metadata(&*path).map_or(0, |meta| meta.len());
    let note = match kind(path) {
        Some(_) if size <= *left => return *left -= size,
        Some(_) => "not shown again",
        None => "no longer there",
    };
    *block = Block::Text { text: format!("[{}: {note}]", path.display()) };
}

#[cfg(test)]
mod tests {
    use super::super::message::Role;
    use super::*;

    #[test]
    fn a_file_is_what_its_first_bytes_say() {
        let tmp = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = tmp.path().join(name);
            fs::write(&path, bytes).unwrap();
            path
        };
        assert_eq!(kind(&file("a.txt", b"\x89PNG\r\n\x1a\n....")), Some("image/png"));
        assert_eq!(kind(&file("a.webp", b"RIFF....WEBPVP8 ")), Some("image/webp"));
        assert_eq!(kind(&file("a.wav", b"RIFF....WAVEfmt ")), None);
        assert_eq!(kind(&file("a.png", b"hello")), None);
        assert_eq!(kind(tmp.path()), None);
    }

    #[test]
    fn the_newest_files_that_fit_are_shown() {
        let tmp = tempfile::tempdir().unwrap();
        let blocks = ["old", "middle", "new"].map(|name| {
            let path = tmp.path().join(name);
            fs::write(&path, [b"%PDF-".to_vec(), vec![0; 4_000_000]].concat()).unwrap();
            Block::File { path, media_type: "application/pdf".into() }
        });
        let gone = Block::File { path: tmp.path().join("gone"), media_type: "image/png".into() };
        let result =
            Block::ToolResult { tool_use_id: "1".into(), content: vec![blocks[2].clone(), gone], is_error: false };
        let content = vec![blocks[0].clone(), blocks[1].clone()];
        let mut messages = [Message { role: Role::User, content }, Message { role: Role::User, content: vec![result] }];
        fit(&mut messages);
        let text = |block: &Block| matches!(block, Block::Text { .. });
        assert!(text(&messages[0].content[0]) && !text(&messages[0].content[1]));
        let Block::ToolResult { content, .. } = &messages[1].content[0] else { panic!() };
        assert!(!text(&content[0]) && text(&content[1]));
    }
}
