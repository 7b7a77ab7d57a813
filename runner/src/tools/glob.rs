//! File name patterns, as regular expressions.

use regex_lite::Regex;

/// A compiled pattern: `*`, `?`, `**`, `[...]`, `{a,b}` and `\` before what is meant as it is.
#[derive(Debug)]
pub struct Glob {
    regex: Regex,
    /// Without a slash it is about the name alone, in any folder.
    name_only: bool,
}

impl Glob {
    pub fn new(pattern: &str) -> Result<Glob, String> {
        let wrong = |why: &str| format!("{pattern:?} is no file name pattern: {why}.");
        let pattern_below = pattern.strip_prefix("./").unwrap_or(pattern);
        if pattern_below.starts_with('/') {
            return Err(wrong("it is matched below `path`, so it cannot begin with a slash"));
        }
        let regex = Regex::new(&translate(pattern_below)).map_err(|e| wrong(&e.to_string()))?;
        Ok(Glob { regex, name_only: !pattern_below.contains('/') })
    }

    /// Whether it matches a path below the folder that is searched.
    pub fn matches(&self, path: &str) -> bool {
        let name = if self.name_only { path.rsplit('/').next().unwrap_or(path) } else { path };
        self.regex.is_match(name)
    }
}

fn translate(glob: &str) -> String {
    let mut regex = String::from("^(?s:");
    let (mut rest, mut braces) = (glob, 0);
    while let Some(c) = rest.chars().next() {
        let (used, piece) = match c {
            _ if rest.starts_with("**/") => (3, "(?:.*/)?"),
            _ if rest.starts_with("**") => (2, ".*"),
            '*' => (1, "[^/]*"),
            '?' => (1, "[^/]"),
            '{' => (1, "(?:"),
            '}' if braces > 0 => (1, ")"),
            ',' if braces > 0 => (1, "|"),
            '[' if rest.starts_with("[!") => (2, "[^"),
            '[' | ']' => (1, &rest[..1]),
            _ => (0, ""),
        };
        match c {
            '{' => braces += 1,
            '}' if braces > 0 => braces -= 1,
            _ => {}
        }
        if used > 0 {
            regex += piece;
            rest = &rest[used..];
        } else {
            let literal = rest.strip_prefix('\\').filter(|after| !after.is_empty()).unwrap_or(rest);
            let end = literal.chars().next().map_or(0, char::len_utf8);
            regex += &regex_lite::escape(&literal[..end]);
            rest = &literal[end..];
        }
    }
    regex + ")$"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, yes, no) in [
            ("*.md", "notes/a.md", "a.mdx"),
            ("notes/*.md", "notes/a.md", "notes/b/a.md"),
            ("notes/**/*.md", "notes/a.md", "other/notes/a.md"),
            ("**/*.{rs,toml}", "src/x/main.rs", "src/main.c"),
            ("./a?.txt", "ab.txt", "abc.txt"),
            ("[!a-c].x", "d.x", "a.x"),
            ("a\\*(1)+.txt", "a*(1)+.txt", "ab(1)+.txt"),
            ("docs/**", "docs/a/b", "doc/a"),
            ("приве?.txt", "я/привет.txt", "привет.md"),
            ("a,}b", "a,}b", "a"),
        ] {
            let glob = Glob::new(pattern).unwrap();
            assert!(glob.matches(yes), "{pattern} {yes}");
            assert!(!glob.matches(no), "{pattern} {no}");
        }
        assert!(Glob::new("/etc/*").unwrap_err().contains("slash"));
        assert!(Glob::new("{a").is_err());
    }
}
