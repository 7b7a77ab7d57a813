//! Skills as our own loop offers them: their names and descriptions in the system prompt, their bodies read on demand.

use std::fs;

use nanoclaw_session::layout::SessionDir;

/// Longest description that is shown. characters
const MAX_DESCRIPTION_CHARS: usize = 1_024;

/// The part of the system prompt; empty when there are none.
pub fn prompt(dir: &SessionDir) -> String {
    let mut skills: Vec<String> = fs::read_dir(dir.skills())
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let path = entry.ok()?.path().join("SKILL.md");
            let (name, description) = head(&fs::read_to_string(&path).ok()?)?;
            Some(format!("- {name}: {description} ({})", path.display()))
        })
        .collect();
    if skills.is_empty() {
        return String::new();
    }
    skills.sort();
    format!(
        "## Skills\n\nBefore work that one of these is for, read its file and do as it says.\n\n{}",
        skills.join("\n")
    )
}

/// Name and description, from the lines between `---` at the top.
fn head(skill: &str) -> Option<(String, String)> {
    let (head, _) = skill.strip_prefix("---\n")?.split_once("\n---")?;
    let value = |key: &str| {
        let line = head.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        let value: String = line.trim().trim_matches(['"', '\'']).chars().take(MAX_DESCRIPTION_CHARS).collect();
        (!value.is_empty()).then_some(value)
    };
    Some((value("name")?, value("description")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skills_are_offered_by_name_and_description() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = SessionDir::new(tmp.path());
        assert_eq!(prompt(&dir), "");
        for (name, text) in [
            ("tea", "---\nname: tea\ndescription: \"How to make tea\"\nlicense: MIT\n---\n\n# Tea\n"),
            ("broken", "# no head\n"),
            ("nameless", "---\ndescription: x\n---\n"),
        ] {
            fs::create_dir_all(dir.skills().join(name)).unwrap();
            fs::write(dir.skills().join(name).join("SKILL.md"), text).unwrap();
        }
        let path = dir.skills().join("tea/SKILL.md");
        assert!(prompt(&dir).ends_with(&format!("\n\n- tea: How to make tea ({})", path.display())));
    }
}
