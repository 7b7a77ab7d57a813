//! What a person would read of an HTML page, as Markdown-like text. One pass, and no page makes it fail: what is no
//! HTML comes out as text.

use ureq::http::Uri;

/// Elements whose content nobody reads.
const HIDDEN: [&str; 6] = ["script", "style", "template", "svg", "noscript", "iframe"];
/// Elements that are on lines of their own, and such as begin and end a paragraph.
const LINES: [&str; 6] = ["br", "li", "dt", "dd", "tr", "option"];
const BLOCKS: &str = "p div section article header footer main nav aside ul ol dl table form blockquote figure title \
                      head body hr details h1 h2 h3 h4 h5 h6";
/// Characters that have names in most pages; others stay as they are written.
const ENTITIES: &str = "amp=& lt=< gt=> quot=\" apos=' nbsp=\u{a0} ndash=– mdash=— hellip=… rsquo=’ ldquo=“ rdquo=”";

/// The text of `page`, or not much more than its first `max` bytes. It came from `url`: links are made whole with it.
pub fn text(page: &str, url: &Uri, max: usize) -> String {
    let mut out = Text { written: String::new(), pre: false, link: None };
    let mut rest = page;
    while let Some(at) = rest.find('<').filter(|_| out.written.len() < max) {
        out.words(&rest[..at]);
        rest = &rest[at..];
        if let Some(comment) = rest.strip_prefix("<!--") {
            rest = comment.split_once("-->").map_or("", |(_, after)| after);
        } else if let Some(tag) = Tag::read(rest) {
            rest = tag.after;
            if !tag.closes && HIDDEN.contains(&&*tag.name) {
                rest = after_end(rest, &tag.name);
            } else {
                out.tag(&tag, url);
            }
        } else {
            out.words("<");
            rest = &rest[1..];
        }
    }
    if out.written.len() < max {
        out.words(rest);
    }
    out.written
}

struct Tag<'a> {
    /// In lower case.
    name: String,
    closes: bool,
    attributes: &'a str,
    after: &'a str,
}

impl<'a> Tag<'a> {
    /// The tag that `text` begins with.
    fn read(text: &'a str) -> Option<Tag<'a>> {
        let inner = text.strip_prefix('<')?;
        let (closes, inner) = inner.strip_prefix('/').map_or((false, inner), |inner| (true, inner));
        inner.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '!' | '?')).then_some(())?;
        let name_end = inner.find(|c: char| c.is_whitespace() || matches!(c, '>' | '/')).unwrap_or(inner.len());
        let (name, rest) = inner.split_at(name_end);
        // A `>` in quotes does not end a tag.
        let mut quote = None;
        let end = rest.find(|c| match quote {
            Some(q) => {
                quote = (c != q).then_some(q);
                false
            }
            None => {
                quote = matches!(c, '"' | '\'').then_some(c);
                c == '>'
            }
        });
        let (attributes, after) = end.map_or((rest, ""), |end| (&rest[..end], &rest[end + 1..]));
        Some(Tag { name: name.to_ascii_lowercase(), closes, attributes, after })
    }

    fn href(&self) -> Option<String> {
        const NAME: &str = "href=";
        let lower = self.attributes.to_ascii_lowercase();
        let mut places = lower.match_indices(NAME).filter(|(at, _)| lower[..*at].ends_with(char::is_whitespace));
        let value = &self.attributes[places.next()?.0 + NAME.len()..];
        let value = match value.strip_prefix(['"', '\'']) {
            Some(quoted) => quoted.split(&value[..1]).next(),
            None => value.split(char::is_whitespace).next(),
        };
        value.map(|value| decode(value.trim()))
    }
}

/// What follows the end tag of an element whose content is no HTML.
fn after_end<'a>(text: &'a str, name: &str) -> &'a str {
    let ends = text.match_indices("</").map(|(at, _)| &text[at..]);
    let mut ends = ends.filter(|end| end.get(2..2 + name.len()).is_some_and(|n| n.eq_ignore_ascii_case(name)));
    ends.next().and_then(|end| end.split_once('>')).map_or("", |(_, after)| after)
}

struct Text {
    written: String,
    /// In preformatted text, where spaces count.
    pre: bool,
    /// The open link: where its text begins, and where it leads.
    link: Option<(usize, String)>,
}

impl Text {
    fn words(&mut self, raw: &str) {
        let text = decode(raw);
        if self.pre {
            self.written += &text;
            return;
        }
        for word in text.split_inclusive(char::is_whitespace) {
            self.written += word.trim_end();
            if word.ends_with(char::is_whitespace) && !self.written.ends_with([' ', '\n']) && !self.written.is_empty() {
                self.written.push(' ');
            }
        }
    }

    /// Ends the line, or with 2 the paragraph.
    fn newlines(&mut self, wanted: usize) {
        let kept = self.written.trim_end_matches([' ', '\n']).len();
        let there = self.written[kept..].matches('\n').count();
        self.written.truncate(kept);
        if kept > 0 {
            self.written.extend(std::iter::repeat_n('\n', wanted.max(there).min(2)));
        }
    }

    fn tag(&mut self, tag: &Tag<'_>, url: &Uri) {
        let name = tag.name.as_str();
        if LINES.contains(&name) {
            self.newlines(1);
        } else if BLOCKS.split(' ').any(|block| block == name) {
            self.newlines(2);
        }
        match (name, tag.closes) {
            ("li", false) => self.written += "- ",
            ("td" | "th", true) => self.written += " | ",
            ("h1" | "h2" | "h3" | "h4" | "h5" | "h6", false) => {
                self.written.extend(std::iter::repeat_n('#', usize::from(name.as_bytes()[1] - b'0')));
                self.written.push(' ');
            }
            ("pre", closes) => {
                self.pre = !closes;
                self.newlines(1);
                self.written += "```\n";
            }
            ("a", false) => {
                self.link = tag.href().and_then(|href| absolute(&href, url)).map(|link| (self.written.len(), link));
            }
            ("a", true) => {
                let Some((start, link)) = self.link.take() else { return };
                // The text may have been cut back to a line's end since.
                let says = self.written.get(start..).map_or(0, |text| text.trim_start().len());
                if says > 0 {
                    self.written.insert(self.written.len() - says, '[');
                    self.written.truncate(self.written.trim_end().len());
                    self.written += &format!("]({link})");
                }
            }
            _ => {}
        }
    }
}

/// Where a link leads, if it leads to another page.
fn absolute(href: &str, url: &Uri) -> Option<String> {
    if href.split(['/', '?', '#']).next().is_some_and(|head| head.contains(':')) {
        return ["http:", "https:", "mailto:"].iter().any(|s| href.starts_with(s)).then(|| href.to_owned());
    }
    let (scheme, host, path) = (url.scheme_str()?, url.authority()?, url.path());
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    match href.chars().next()? {
        '#' => None,
        '/' if href.starts_with("//") => Some(format!("{scheme}:{href}")),
        '/' => Some(format!("{scheme}://{host}{href}")),
        '?' => Some(format!("{scheme}://{host}{path}{href}")),
        _ => Some(format!("{scheme}://{host}{folder}/{href}")),
    }
}

/// With the characters that `&name;` and `&#number;` stand for.
fn decode(text: &str) -> String {
    let mut pieces = text.split('&');
    let mut decoded = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        match piece.split_once(';').and_then(|(name, after)| Some((character(name)?, after))) {
            Some((character, after)) => {
                decoded.push(character);
                decoded += after;
            }
            None => decoded.extend(["&", piece]),
        }
    }
    decoded
}

fn character(name: &str) -> Option<char> {
    let Some(number) = name.strip_prefix('#') else {
        let mut entities = ENTITIES.split(' ').filter_map(|entity| entity.split_once('='));
        return entities.find(|(entity, _)| *entity == name)?.1.chars().next();
    };
    let code = match number.strip_prefix(['x', 'X']) {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => number.parse(),
    };
    char::from_u32(code.ok()?).filter(|c| *c != '\0')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(page: &str) -> String {
        text(page, &"https://example.org/docs/page?x=1".parse().unwrap(), 10_000_000)
    }

    #[test]
    fn a_page_is_read_as_a_person_would() {
        let page = r#"<!DOCTYPE html><html><head><title>News &amp; more</title><style>p > a {}</style>
            <script>if (a < b) document.write("<p>no</p>")</SCRIPT ></head><body><!-- <p>no</p> -->
            <h1>Hello,   <em>world</em></h1><p>One&nbsp;two<br/>three &#x263A; &#8364; &unknown; a < b & c</p>
            <ul><li>first <a class=x href="/a?b=1&amp;c=2"> link </a>.</li><li>second <a href='#top'>up</a></li></ul>
            <pre>  let x = 1;
  if x &lt; 2 {}</pre><p>Use <code>ls -l</code>: <a href="more.html" title="a > b">more</a></p>
            <table><tr><th>k</th><th>v</th></tr><tr><td>1</td><td>2</td></tr></table></body></html>"#;
        let wanted = "News & more\n\n# Hello, world\n\nOne two\nthree ☺ € &unknown; a < b & c\n\n\
            - first [link](https://example.org/a?b=1&c=2).\n- second up\n\n\
            ```\n  let x = 1;\n  if x < 2 {}\n```\n\n\
            Use ls -l: [more](https://example.org/docs/more.html)\n\nk | v |\n1 | 2 |\n\n";
        assert_eq!(read(page), wanted);
    }

    #[test]
    fn links_are_made_whole_or_left_out() {
        for (href, whole) in [
            ("https://a.b/c", Some("https://a.b/c")),
            ("//cdn.x/y", Some("https://cdn.x/y")),
            ("?y=2", Some("https://example.org/docs/page?y=2")),
            ("../up", Some("https://example.org/docs/../up")),
            ("javascript:alert(1)", None),
            ("data:text/html,x", None),
            ("#here", None),
        ] {
            assert_eq!(absolute(href, &"https://example.org/docs/page".parse().unwrap()).as_deref(), whole);
        }
    }

    #[test]
    fn broken_pages_come_out_as_text() {
        assert_eq!(read("1 < 2 and <b>bold</b> <"), "1 < 2 and bold <");
        assert_eq!(read("<p>a<script>never closed"), "a");
        assert_eq!(read("<!-- never closed"), "");
        assert_eq!(read("<a href=\"never closed>text"), "");
        assert_eq!(read("</a></li><a></a>x<a href==>y</a><a data-href=1>z</a>"), "x[y](https://example.org/docs/=)z");
    }

    #[test]
    fn a_hostile_page_takes_no_longer_than_its_size() {
        for piece in ["<a href=x>", "<", "</", "<p", "&", "<script>", "<!--", "<a = = =", "<li>", "\n ", "<a href='"] {
            let page = piece.repeat(1_000_000 / piece.len());
            let started = std::time::Instant::now();
            read(&page);
            assert!(started.elapsed().as_secs() < 30, "{piece}: {:?}", started.elapsed());
        }
    }

    #[test]
    fn a_page_that_would_grow_is_cut() {
        let url = format!("https://example.org/{}/", "x".repeat(5_000)).parse().unwrap();
        let cut = text(&"<a href=y>z</a>".repeat(100_000), &url, 100_000);
        assert!((100_000..110_000).contains(&cut.len()));
    }

    proptest! {
        #[test]
        fn no_page_makes_it_fail(parts in proptest::collection::vec(
            proptest::sample::select(vec!["<", ">", "a", "</a>", "<a href=", "\"", "'", "=", "&", "#", ";", " ", "é", "<pre>",
                "</pre>", "<li>", "<script>", "</script", "<!--", "-->", "<br>", "\n", "/", "<img alt="]), 0..60)) {
            read(&parts.concat());
        }
    }
}
