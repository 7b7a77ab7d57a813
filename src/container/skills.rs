//! Skills: folders under `container/skills/`, of which each agent group has some or all. What they are for is
//! offered by the runner; what one has in a `CLAUDE.md` is part of the agent's instructions.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, Result};

use crate::store::Skills;

/// Longest name. bytes
const MAX_NAME_BYTES: usize = 64;
/// Most of a skill's file that goes into the instructions. bytes
const MAX_FRAGMENT_BYTES: u64 = 64 << 10;

/// A skill that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skill {
    /// Of its folder.
    pub name: String,
    /// What its `CLAUDE.md` says.
    pub fragment: Option<String>,
}

/// The chosen skills in the order of their names. One that is not there is logged and left out.
pub fn chosen(folder: &Path, wanted: &Skills, group: &str) -> Result<Vec<Skill>> {
    let names: BTreeSet<String> = match wanted {
        Skills::Named(names) => names.iter().cloned().collect(),
        Skills::All => installed(folder).with_context(|| format!("cannot list {}", folder.display()))?,
    };
    let mut skills = Vec::new();
    for name in names {
        let read = if is_name(&name) { read(folder, &name) } else { Ok(None) };
        match read.with_context(|| format!("cannot read the skill {name}"))? {
            Some(skill) => skills.push(skill),
            None if *wanted == Skills::All => {}
            None => log::warn!("A chosen skill is not installed and left out group={group} skill={name:?}"),
        }
    }
    Ok(skills)
}

fn installed(folder: &Path) -> io::Result<BTreeSet<String>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(e) => Err(e),
    }
}

/// A name is one plain component.
fn is_name(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !name.is_empty() && name.len() <= MAX_NAME_BYTES && name.chars().all(legal)
}

/// A skill has a `CLAUDE.md`, a `SKILL.md` or both; `None` without either.
fn read(folder: &Path, name: &str) -> io::Result<Option<Skill>> {
    let fragment = file(&folder.join(name).join("CLAUDE.md"))?;
    let there = fragment.is_some() || file(&folder.join(name).join("SKILL.md"))?.is_some();
    Ok(there.then(|| Skill { name: name.to_owned(), fragment }))
}

fn file(path: &Path) -> io::Result<Option<String>> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_file() && meta.len() <= MAX_FRAGMENT_BYTES => fs::read_to_string(path).map(Some),
        Ok(_) => Ok(None),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        let tmp = tempfile::tempdir().unwrap();
        let put = |file: &str, text: &str| {
            let path = tmp.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("maps/SKILL.md", "---\nname: maps\ndescription: Find the way.\n---\n# Maps\n");
        put("tone/CLAUDE.md", "## Tone\n\nBe brief.\n");
        put("tone/SKILL.md", "---\nname: tone\ndescription: As well.\n---\n");
        put("README.md", "not a skill");
        put("empty/notes.txt", "");
        put("Odd_Name/SKILL.md", "");
        tmp
    }

    fn names(skills: &[Skill]) -> Vec<&str> {
        skills.iter().map(|skill| skill.name.as_str()).collect()
    }

    #[test]
    fn all_skills_are_those_that_say_something() {
        let tmp = folder();
        let skills = chosen(tmp.path(), &Skills::All, "main").unwrap();
        assert_eq!(names(&skills), ["maps", "tone"]);
        assert_eq!(
            skills.into_iter().map(|skill| skill.fragment).collect::<Vec<_>>(),
            [None, Some("## Tone\n\nBe brief.\n".into())]
        );
    }

    #[test]
    fn a_chosen_skill_that_is_not_there_is_left_out_and_names_are_confined() {
        let tmp = folder();
        fs::write(tmp.path().join("SKILL.md"), "---\ndescription: outside\n---\n").unwrap();
        let wanted = ["gone", "..", "../maps", "maps", "", "/etc"].map(str::to_owned).to_vec();
        let skills = chosen(tmp.path(), &Skills::Named(wanted), "main").unwrap();
        assert_eq!(names(&skills), ["maps"]);
        assert!(chosen(&tmp.path().join("none"), &Skills::All, "main").unwrap().is_empty());
    }
}
