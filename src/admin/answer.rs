//! What a verb answers with: one JSON document, or the same as aligned text.

use std::collections::HashMap;

use anyhow::Result;
use serde_json::{Value, json};

use crate::store::{self, Row, Store};

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

/// A further column of a list: its name, and what it says of a row.
pub type Column<T> = (&'static str, fn(&Store, &T) -> store::Result<Value>);

impl Answer {
    pub fn one<T: Row>(row: &T) -> Answer {
        let json = row.to_json();
        let lines: Vec<_> = T::COLUMNS.iter().map(|column| vec![heading(column), cell(&json[*column])]).collect();
        Answer { text: aligned(&lines), json }
    }

    /// Rows with a field per column. A person knows a chat by its platform's id.
    pub fn list<T: Row>(store: &Store, rows: &[T], further: Option<Column<T>>) -> Result<Answer> {
        let mut values: Vec<_> = rows.iter().map(Row::to_json).collect();
        let mut columns = T::COLUMNS.to_vec();
        if let Some((name, of)) = further {
            columns.push(name);
            for (value, row) in values.iter_mut().zip(rows) {
                value[name] = of(store, row)?;
            }
        }
        columns
            .retain(|column| !LEFT_OUT_OF_LISTS.contains(column) && values.iter().any(|row| !row[*column].is_null()));
        let chats = store.messaging_groups()?.into_iter();
        let labels: HashMap<_, _> = chats.map(|chat| (chat.id, json!(chat.platform_id))).collect();
        let text = |row: &Value, column: &str| match row[column].as_str().and_then(|id| labels.get(id)) {
            Some(label) if column != "id" => cell(label),
            _ => cell(&row[column]),
        };
        let mut lines = vec![columns.iter().map(|column| heading(column)).collect::<Vec<_>>()];
        lines.extend(values.iter().map(|row| columns.iter().map(|column| text(row, column)).collect()));
        let text = if rows.is_empty() { format!("there are no {}s", T::NOUN) } else { aligned(&lines) };
        Ok(Answer { text, json: Value::Array(values) })
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
