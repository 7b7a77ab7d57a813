//! The time format of the contract (rule 5): UTC text in two spellings, `2026-04-16T14:37:00Z` and
//! `2026-04-16 14:37:00`. SQL compares them through [`comparable`], never as text.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// Formats `t` the way this crate writes every timestamp: ISO-8601, milliseconds, `Z`.
pub fn format_utc(t: Timestamp) -> String {
    t.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

/// Formats `t` the way SQLite's `datetime('now')` does. NanoClaw compares `deliver_after`
/// with that as text, so a column an older reader looks at keeps this form.
pub fn format_utc_sqlite(t: Timestamp) -> String {
    t.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// Reads either spelling; text without a zone is UTC. `None` when it is not a time.
pub fn parse_utc(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    if let Ok(t) = text.parse::<Timestamp>() {
        return Some(t);
    }
    let civil: DateTime = text.parse().ok()?;
    civil.to_zoned(TimeZone::UTC).ok().map(|z| z.timestamp())
}

/// The SQL expression that makes a stored time comparable with another, to the millisecond.
/// It is NULL when the text is not a time.
pub fn comparable(expression: &str) -> String {
    format!("strftime('%Y-%m-%dT%H:%M:%fZ', {expression})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_are_the_same_instant() {
        let iso = parse_utc("2026-04-16T14:37:00Z").unwrap();
        let sqlite = parse_utc("2026-04-16 14:37:00").unwrap();
        assert_eq!(iso, sqlite);
        assert_eq!(format_utc(iso), "2026-04-16T14:37:00.000Z");
        assert_eq!(format_utc_sqlite(iso), "2026-04-16 14:37:00");
    }

    #[test]
    fn zones_are_honoured_and_rubbish_is_not_a_time() {
        assert_eq!(parse_utc("2026-04-16T16:37:00+02:00"), parse_utc("2026-04-16T14:37:00.000Z"));
        for bad in ["", "soon", "2026-13-01T00:00:00Z", "12"] {
            assert_eq!(parse_utc(bad), None, "{bad}");
        }
    }

    #[test]
    fn sql_sees_the_spellings_as_equal_and_keeps_milliseconds() {
        let db = rusqlite::Connection::open_in_memory().unwrap();
        let q = |a: &str, b: &str| -> Option<bool> {
            let sql = format!("SELECT {} < {}", comparable("?1"), comparable("?2"));
            db.query_row(&sql, [a, b], |r| r.get(0)).unwrap()
        };
        assert_eq!(q("2026-04-16T14:37:00Z", "2026-04-16 14:37:00"), Some(false));
        assert_eq!(q("2026-04-16 14:37:00", "2026-04-16T14:37:00.001Z"), Some(true));
        assert_eq!(q("rubbish", "2026-04-16 14:37:00"), None);
    }
}
