//! What the model reads: a batch of rows as a prompt, and the system prompt. Pure.

pub mod format;
pub mod skills;
pub mod system;

/// Escapes text between tags.
fn text(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    for c in raw.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            c => out.push(c),
        }
    }
    out
}

/// Escapes the value of an attribute in double quotes; it stays on its line.
fn attribute(raw: &str) -> String {
    text(raw).replace('"', "&quot;").replace('\n', "&#10;").replace('\r', "&#13;")
}

/// Undoes [`text`] and [`attribute`].
pub fn unescape(escaped: &str) -> String {
    escaped
        .replace("&#10;", "\n")
        .replace("&#13;", "\r")
        .replace("&quot;", "\"")
        .replace("&gt;", ">")
        .replace("&lt;", "<")
        .replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    mod golden;

    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn escaping_round_trips_and_leaves_no_markup(raw in "[a&;#<>\"\n]{0,20}|.{0,40}") {
            prop_assert_eq!(unescape(&text(&raw)), raw.clone());
            prop_assert_eq!(unescape(&attribute(&raw)), raw.clone());
            prop_assert!(!text(&raw).contains(['<', '>']));
            prop_assert!(!attribute(&raw).contains(['<', '>', '"', '\n', '\r']));
        }
    }
}
