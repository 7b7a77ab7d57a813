//! The agent's list of things to do: written by it as a whole, kept across turns, and shown to it when its
//! conversation was shortened.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nanoclaw_session::config::replace;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::tools::{Context, Effect, Output, Spec, Tool};

const MAX_ITEMS: usize = 100;
/// Writing a small file.
const DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    Open,
    InProgress,
    Done,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    text: String,
    status: Status,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    items: Vec<Item>,
}

/// See the module. The list lies at this path.
pub struct Todo(pub PathBuf);

impl Tool for Todo {
    fn spec(&self) -> Spec {
        Spec {
            name: "todo".into(),
            description:
                "Replaces your list of things to do. Use it for work of three steps and more, keep one item in \
                          progress, and mark what is done at once."
                    .into(),
            schema: json!({
                "type": "object",
                "properties": {"items": {"type": "array", "maxItems": MAX_ITEMS, "items": {
                    "type": "object",
                    "properties": {
                        "text": {"type": "string"},
                        "status": {"type": "string", "enum": ["open", "in_progress", "done"]},
                    },
                    "required": ["text", "status"],
                    "additionalProperties": false,
                }}},
                "required": ["items"],
                "additionalProperties": false,
            }),
        }
    }

    fn effect(&self) -> Effect {
        Effect::Changes
    }

    fn deadline(&self, _: &Value) -> Duration {
        DEADLINE
    }

    fn call(&self, input: &Value, _: &Context) -> Output {
        let list = match List::deserialize(input) {
            Ok(list) if list.items.len() <= MAX_ITEMS => list,
            Ok(_) => return Output::failed(format!("todo: at most {MAX_ITEMS} items.")),
            Err(e) => return Output::failed(format!("todo: {e}.")),
        };
        let written = serde_json::to_vec(&list).map_err(Into::into).and_then(|json| replace(&self.0, &json));
        match written {
            Ok(()) => Output::text(shown(&list)),
            Err(e) => Output::failed(format!("todo: the list could not be kept: {e}.")),
        }
    }
}

/// What is still open, for the agent; `None` when nothing is.
pub fn open(path: &Path) -> Option<String> {
    let list: List = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    list.items.iter().any(|item| item.status != Status::Done).then(|| shown(&list))
}

fn shown(list: &List) -> String {
    let line = |item: &Item| match item.status {
        Status::Open => format!("[ ] {}", item.text),
        Status::InProgress => format!("[~] {}", item.text),
        Status::Done => format!("[x] {}", item.text),
    };
    if list.items.is_empty() {
        return "The list is empty.".into();
    }
    list.items.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_kept_until_all_of_it_is_done() {
        let tmp = tempfile::tempdir().unwrap();
        let todo = Todo(tmp.path().join("todo.json"));
        let (_stopper, stop) = crate::stop::pair();
        let context = Context { stop, events: crossbeam_channel::unbounded().0, destinations: Default::default() };
        let item = |text, status| json!({"text": text, "status": status});
        let items = json!({"items": [item("a", "done"), item("b", "in_progress"), item("c", "open")]});
        assert_eq!(todo.call(&items, &context), Output::text("[x] a\n[~] b\n[ ] c"));
        assert_eq!(open(&todo.0).unwrap(), "[x] a\n[~] b\n[ ] c");
        assert_eq!(todo.call(&json!({"items": [item("a", "done")]}), &context), Output::text("[x] a"));
        assert_eq!(open(&todo.0), None);
        for wrong in [json!({}), json!({"items": [item("a", "late")]}), json!({"items": [], "x": 1})] {
            assert_eq!(todo.call(&wrong, &context).outcome, crate::tools::Outcome::Failed, "{wrong}");
        }
    }
}
