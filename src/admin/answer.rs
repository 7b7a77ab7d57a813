//! What a verb answers with, and how it is printed: one JSON document, or aligned text.

use std::collections::HashMap;
use std::io::{self, Write};

use serde_json::{Value, json};

use crate::store::Row;

/// Columns a list does not need; `get` shows them.
const LEFT_OUT_OF_LISTS: &[&str] = &["created_at", "added_at", "granted_at", "updated_at"];
/// Between two columns.
const GAP: &str = "  ";

/// What a verb came to. Rows have a field per column.
#[derive(Debug)]
pub enum Answer {
    List {
        /// What they are called, in the plural.
        noun: String,
        columns: Vec<&'static str>,
        rows: Vec<Value>,
    },
    One {
        columns: Vec<&'static str>,
        row: Value,
    },
    Done {
        text: String,
        json: Value,
    },
}

impl Answer {
    pub fn list<T: Row>(rows: &[T]) -> Answer {
        Answer::List {
            noun: format!("{}s", T::NOUN),
            columns: T::COLUMNS.to_vec(),
            rows: rows.iter().map(Row::to_json).collect(),
        }
    }

    pub fn one<T: Row>(row: &T) -> Answer {
        Answer::One { columns: T::COLUMNS.to_vec(), row: row.to_json() }
    }

    /// A list with a column that is no column of the table.
    pub fn with(mut self, column: &'static str, value: impl Fn(&Value) -> Value) -> Answer {
        if let Answer::List { columns, rows, .. } = &mut self {
            columns.push(column);
            rows.iter_mut().for_each(|row| row[column] = value(row));
        }
        self
    }

    pub fn into_json(self) -> Value {
        match self {
            Answer::List { rows, .. } => Value::Array(rows),
            Answer::One { row, .. } => row,
            Answer::Done { json, .. } => json,
        }
    }

    /// Prints it for a person. `labels` are the ids that have a better name.
    pub fn write_text(&self, labels: &HashMap<String, String>, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Answer::Done { text, .. } => writeln!(out, "{text}"),
            Answer::List { noun, rows, .. } if rows.is_empty() => writeln!(out, "there are no {noun}"),
            Answer::List { columns, rows, .. } => {
                let told = |column: &&str| {
                    !LEFT_OUT_OF_LISTS.contains(column) && rows.iter().any(|row| !row[*column].is_null())
                };
                let columns: Vec<&str> = columns.iter().copied().filter(told).collect();
                let mut lines = vec![columns.iter().map(|column| heading(column)).collect::<Vec<_>>()];
                lines.extend(rows.iter().map(|row| {
                    let label = |column: &str| match row[column].as_str().and_then(|id| labels.get(id)) {
                        Some(label) if column != "id" => cell(&json!(label)),
                        _ => cell(&row[column]),
                    };
                    columns.iter().map(|column| label(column)).collect()
                }));
                write_aligned(&lines, out)
            }
            Answer::One { columns, row } => {
                let lines: Vec<_> = columns.iter().map(|column| vec![heading(column), cell(&row[*column])]).collect();
                write_aligned(&lines, out)
            }
        }
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

fn write_aligned(lines: &[Vec<String>], out: &mut dyn Write) -> io::Result<()> {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |n: usize| lines.iter().map(|line| line[n].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for line in lines {
        let padded: Vec<_> = line.iter().zip(&widths).map(|(text, width)| format!("{text:width$}")).collect();
        writeln!(out, "{}", padded.join(GAP).trim_end())?;
    }
    Ok(())
}
