//! Skills: folders under `container/skills/`, of which each agent group has some or all. What an agent
//! is told of them is part of its instructions.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Mutex;

use anyhow::{Context, Result};

use crate::store::Skills;

/// Longest name. bytes
const MAX_NAME_BYTES: usize = 64;
/// Most of a skill's file that goes into the instructions. bytes
const MAX_FRAGMENT_BYTES: u64 = 64 << 10;

/// Unknown skills that were logged: groups start containers all day.
static LOGGED: Mutex<BTreeSet<(String, String)>> = Mutex::new(BTreeSet::new());

/// A skill that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skill {
    /// Of its folder.
    pub name: String,
    /// What its `CLAUDE.md` says, else what its `SKILL.md` calls itself.
    told: Told,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    Fragment(String),
    Description(String),
}

/// The chosen skills in the order of their names. One that is not there is logged once and left out.
///
/// # Errors
/// A skill cannot be read.
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
            None if matches!(wanted, Skills::Named(_)) => log_once(group, &name),
            None => {}
        }
    }
    Ok(skills)
}

/// What the agent is told of its skills: a list, then the fragments.
pub fn instructions(skills: &[Skill]) -> Vec<String> {
    let mut list = String::new();
    let mut parts = Vec::new();
    for skill in skills {
        match &skill.told {
            Told::Description(text) => list += &format!("\n- `/app/skills/{}/SKILL.md`: {text}", skill.name),
            Told::Fragment(text) => parts.push(text.clone()),
        }
    }
    if !list.is_empty() {
        parts.insert(0, format!("## Skills\n\nHow to do some tasks well; read the file before such a task.\n{list}"));
    }
    parts
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
    let told = match file(&folder.join(name).join("CLAUDE.md"))? {
        Some(fragment) => Some(Told::Fragment(fragment.trim_end().to_owned())),
        None => file(&folder.join(name).join("SKILL.md"))?
            .map(|skill| Told::Description(description(&skill).unwrap_or("see there").to_owned())),
    };
    Ok(told.map(|told| Skill { name: name.to_owned(), told }))
}

fn file(path: &Path) -> io::Result<Option<String>> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_file() && meta.len() <= MAX_FRAGMENT_BYTES => fs::read_to_string(path).map(Some),
        Ok(_) => Ok(None),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The `description` of a front matter: one line between two lines of `---`.
fn description(skill: &str) -> Option<&str> {
    let front = skill.strip_prefix("---\n")?.split_once("\n---")?.0;
    let text = front.lines().find_map(|line| line.strip_prefix("description:"))?.trim();
    (!text.is_empty()).then_some(text)
}

fn log_once(group: &str, name: &str) {
    // A poisoned list is still a list.
    let mut logged = LOGGED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if logged.insert((group.to_owned(), name.to_owned())) {
        log::warn!("A chosen skill is not installed and left out group={group} skill={name:?}");
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
        put("tone/SKILL.md", "---\nname: tone\ndescription: Not shown.\n---\n");
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
        let told = instructions(&skills);
        assert!(told[0].ends_with("- `/app/skills/maps/SKILL.md`: Find the way."), "{told:?}");
        assert_eq!(told[1], "## Tone\n\nBe brief.");
        assert_eq!(told.len(), 2);
    }

    #[test]
    fn a_chosen_skill_that_is_not_there_is_left_out_and_names_are_confined() {
        let tmp = folder();
        fs::write(tmp.path().join("SKILL.md"), "---\ndescription: outside\n---\n").unwrap();
        let wanted = ["gone", "..", "../maps", "maps", "", "/etc"].map(str::to_owned).to_vec();
        let skills = chosen(tmp.path(), &Skills::Named(wanted), "main").unwrap();
        assert_eq!(names(&skills), ["maps"]);
        assert!(chosen(&tmp.path().join("none"), &Skills::All, "main").unwrap().is_empty());
        assert!(instructions(&[]).is_empty());
    }
}
