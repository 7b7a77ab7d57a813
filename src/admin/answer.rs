//! What a verb answers with: one JSON document, or the same as aligned text.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::store::Row;

/// Columns a list does not need; `get` shows them.
const LEFT_OUT_OF_LISTS: &[&str] = &["created_at", "added_at", "granted_at", "updated_at"];
/// Between two columns.
const GAP: &str = "  ";

/// What a verb came to: for a person, and for a program.
#[derive(Debug)]
pub struct Answer {
    pub text: String,
    pub json: Value,
}

impl Answer {
    /// Rows with a field per column. `labels` are the ids that a person knows by another name.
    pub fn list(noun: &str, columns: &[&str], rows: Vec<Value>, labels: &HashMap<String, String>) -> Answer {
        let shown =
            |column: &&&str| !LEFT_OUT_OF_LISTS.contains(column) && rows.iter().any(|row| !row[**column].is_null());
        let columns: Vec<&str> = columns.iter().filter(shown).copied().collect();
        let text = |row: &Value, column: &str| match row[column].as_str().and_then(|id| labels.get(id)) {
            Some(label) if column != "id" => cell(&json!(label)),
            _ => cell(&row[column]),
        };
        let mut lines = vec![columns.iter().map(|column| heading(column)).collect::<Vec<_>>()];
        lines.extend(rows.iter().map(|row| columns.iter().map(|column| text(row, column)).collect()));
        let text = if rows.is_empty() { format!("there are no {noun}s") } else { aligned(&lines) };
        Answer { text, json: Value::Array(rows) }
    }

    pub fn one<T: Row>(row: &T) -> Answer {
        let json = row.to_json();
        let lines: Vec<_> = T::COLUMNS.iter().map(|column| vec![heading(column), cell(&json[*column])]).collect();
        Answer { text: aligned(&lines), json }
    }
}

/// A column as its flag is called.
fn heading(column: &str) -> String {
    match column {
        "messaging_group_id" => "chat".to_owned(),
        "agent_group_id" => "group".to_owned(),
        "user_id" => "user".to_owned(),
        "agent_provider" => "provider".to_owned(),
        other => other.replace('_', "-"),
    }
}

fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if !items.is_empty() && items.iter().all(Value::is_string) => {
            items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
    };
    // Names come from strangers, who may not write to our terminal.
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn aligned(lines: &[Vec<String>]) -> String {
    let width = |n: usize| lines.iter().map(|line| line[n].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
    let padded = lines.iter().map(|line| {
        let cells: Vec<_> = line.iter().zip(&widths).map(|(text, width)| format!("{text:width$}")).collect();
        cells.join(GAP).trim_end().to_owned()
    });
    padded.collect::<Vec<_>>().join("\n")
}
