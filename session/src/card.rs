//! A card: a title, a text, fields and links, which a platform shows as it can. The runner makes it of what the agent
//! asks for; the row carries it with a text for where there are no cards.

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::content::Outbound;

/// Most fields; Discord's limit, the lowest of the platforms'.
const MAX_FIELDS: usize = 25;
const MAX_LINKS: usize = 10;
/// Longest title, name of a field, label or address. bytes
const MAX_LINE_BYTES: usize = 1_000;
/// Longest text, and value of a field. bytes
const MAX_TEXT_BYTES: usize = 16_000;

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    pub title: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<Field>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<Link>,
}

/// A line of a card: what it is about, and what is so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Field {
    pub name: String,
    pub value: String,
}

/// A button that opens an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    pub label: String,
    pub url: String,
}

impl Card {
    /// # Errors
    /// What no platform could show, as a sentence.
    pub fn check(&self) -> Result<(), String> {
        let is_line = |text: &str| {
            !text.trim().is_empty() && text.len() <= MAX_LINE_BYTES && !text.contains(|c: char| c.is_control())
        };
        let is_text = |text: &str| text.len() <= MAX_TEXT_BYTES;
        if !is_line(&self.title) {
            return Err(format!("A card needs a title: one line of at most {MAX_LINE_BYTES} bytes."));
        }
        if !is_text(&self.text) {
            return Err(format!("The text of a card has at most {MAX_TEXT_BYTES} bytes; send it as a message."));
        }
        if self.fields.len() > MAX_FIELDS || self.links.len() > MAX_LINKS {
            return Err(format!("A card has at most {MAX_FIELDS} fields and {MAX_LINKS} links."));
        }
        if let Some(field) = self.fields.iter().find(|f| !is_line(&f.name) || f.value.is_empty() || !is_text(&f.value))
        {
            return Err(format!("The field {:?} needs a name of one line, and a value.", field.name));
        }
        let leads = |url: &str| url.starts_with("https://") || url.starts_with("http://");
        match self.links.iter().find(|l| !(is_line(&l.label) && is_line(&l.url) && leads(&l.url))) {
            Some(link) => Err(format!(
                "The link {:?} needs a label of one line, and a URL that begins with https://.",
                link.label
            )),
            None => Ok(()),
        }
    }

    /// What it says where there are no cards.
    pub fn to_text(&self) -> String {
        let mut parts = vec![self.title.clone()];
        parts.extend((!self.text.is_empty()).then(|| self.text.clone()));
        let fields = self.fields.iter().map(|field| format!("{}: {}", field.name, field.value));
        let links = self.links.iter().map(|link| format!("{}: {}", link.label, link.url));
        let lines: Vec<String> = fields.chain(links).collect();
        parts.extend((!lines.is_empty()).then(|| lines.join("\n")));
        parts.join("\n\n")
    }

    /// What the runner writes.
    pub fn to_message(&self) -> Outbound {
        Outbound::Card { card: json!(self), fallback_text: self.to_text() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::OutKind;

    fn card() -> Card {
        Card {
            title: "Tonight".into(),
            text: "Bring a coat.".into(),
            fields: vec![Field { name: "When".into(), value: "19:30".into() }],
            links: vec![Link { label: "Tickets".into(), url: "https://example.org/t".into() }],
        }
    }

    #[test]
    fn a_card_goes_with_its_text() {
        assert_eq!(card().check(), Ok(()));
        let (kind, content) = card().to_message().to_row();
        let Outbound::Card { card: value, fallback_text } = Outbound::parse(kind, &content) else {
            panic!("{content}")
        };
        assert_eq!(kind, OutKind::Chat);
        assert_eq!(fallback_text, "Tonight\n\nBring a coat.\n\nWhen: 19:30\nTickets: https://example.org/t");
        assert_eq!(serde_json::from_value::<Card>(value).unwrap(), card());
        assert_eq!(Card { title: "Only this".into(), ..Card::default() }.to_text(), "Only this");
    }

    #[test]
    fn what_no_platform_could_show_is_refused_with_a_reason() {
        let refused = |change: fn(&mut Card), why: &str| {
            let mut bad = card();
            change(&mut bad);
            let said = bad.check().unwrap_err();
            assert!(said.contains(why), "{said}");
        };
        refused(|c| c.title = " ".into(), "needs a title");
        refused(|c| c.title = "two\nlines".into(), "needs a title");
        refused(|c| c.text = "x".repeat(MAX_TEXT_BYTES + 1), "as a message");
        refused(|c| c.fields = vec![c.fields[0].clone(); MAX_FIELDS + 1], "at most 25 fields");
        refused(|c| c.links = vec![c.links[0].clone(); MAX_LINKS + 1], "10 links");
        refused(|c| c.fields[0].value = String::new(), "The field \"When\"");
        refused(|c| c.links[0].url = "javascript:alert(1)".into(), "The link \"Tickets\"");
        refused(|c| c.links[0].label = String::new(), "The link \"\"");
    }
}
