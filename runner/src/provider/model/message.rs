//! A conversation as every API of ours understands it, and as it lies on disk.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Who said it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    User,
    Assistant,
}

/// A message. Roles alternate and the user's is first; results of tools come first in their message.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    pub role: Role,
    pub content: Vec<Block>,
}

/// The only key of a call's input when what the model wrote is no JSON object: its text, as it came.
pub const UNPARSED: &str = "_unparsed";

/// A piece of a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Block {
    Text {
        text: String,
    },
    /// A picture or a PDF; read when a request is made.
    File {
        path: PathBuf,
        media_type: String,
    },
    ToolUse {
        id: String,
        name: String,
        input: Value,
    },
    ToolResult {
        tool_use_id: String,
        /// Texts and files.
        content: Vec<Block>,
        is_error: bool,
    },
    /// What only the API that said it understands, such as thinking with its signature: sent back to it as it
    /// came, and to no other.
    Opaque {
        api: String,
        block: Value,
    },
}

impl Block {
    /// About how much of a request it makes. bytes
    pub fn bytes(&self) -> usize {
        /// A picture counts as about 1,600 tokens.
        const FILE_BYTES: usize = 5_000;
        match self {
            Block::Text { text } => text.len(),
            Block::File { .. } => FILE_BYTES,
            Block::ToolUse { input, .. } => input.to_string().len(),
            Block::ToolResult { content, .. } => content.iter().map(Block::bytes).sum(),
            Block::Opaque { block, .. } => block.to_string().len(),
        }
    }
}

/// The first `max_bytes` of a text, or a little less: whole characters.
pub fn head(text: &str, max_bytes: usize) -> &str {
    let end = (0..=max_bytes.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    &text[..end]
}
