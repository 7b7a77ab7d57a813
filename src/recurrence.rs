//! What repeats: when a task's next occurrence is due, and its row. Runs in whatever transaction
//! ends the one before, so a series has one live occurrence, however that one ended.

use croner::parser::{CronParser, Seconds};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use nanoclaw_session::inbound::{InboundTx, Series};
use nanoclaw_session::row::{InStatus, NewMessageIn, Trigger};

use crate::id::new_id;

/// Ends a row, and arms the next occurrence if it repeats. `zone`: an IANA name, for tasks that name none.
pub fn finish(tx: &InboundTx<'_>, id: &str, status: InStatus, now: Timestamp, zone: &str) -> rusqlite::Result<()> {
    let series = tx.series_of(id)?;
    tx.finish(id, status)?;
    let Some(series) = series else { return Ok(()) };
    let content: serde_json::Value = serde_json::from_str(&series.content).unwrap_or_default();
    match next(&series.recurrence, content["timezone"].as_str().unwrap_or(zone), now) {
        Ok(due) => tx.insert(&occurrence(series, due, now)).map(drop),
        Err(why) => {
            log::error!(
                "A task does not repeat any more series={} recurrence={:?} error={why}",
                series.id,
                series.recurrence
            );
            Ok(())
        }
    }
}

fn occurrence(series: Series, due: Timestamp, now: Timestamp) -> NewMessageIn {
    NewMessageIn {
        kind: series.kind,
        process_after: Some(due),
        recurrence: Some(series.recurrence),
        series_id: Some(series.id),
        trigger: Trigger::Wake,
        source_session_id: series.source_session_id,
        ..NewMessageIn::chat(new_id("task"), now, series.address, series.content)
    }
}

/// The first time after `now` that a cron expression (five fields, names, `@daily` ...) means in a zone.
fn next(expression: &str, zone: &str, now: Timestamp) -> Result<Timestamp, String> {
    let cron =
        CronParser::builder().seconds(Seconds::Disallowed).build().parse(expression).map_err(|e| e.to_string())?;
    let zone = TimeZone::get(zone).map_err(|e| e.to_string())?;
    let next = cron.find_next_occurrence(&now.to_zoned(zone), false).map_err(|e| e.to_string())?;
    Ok(next.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nanoclaw_session::inbound::{Durability, InboundDb};
    use nanoclaw_session::layout::SessionDir;
    use nanoclaw_session::row::{Address, InKind, MessageIn};

    fn at(time: &str) -> Timestamp {
        time.parse().unwrap()
    }

    #[test]
    fn the_next_occurrence_is_in_the_zone_of_the_task() {
        for (expression, zone, now, expected) in [
            ("0 8 * * *", "Europe/Berlin", "2026-11-21T12:00:00Z", "2026-11-22T07:00:00Z"),
            ("0 8 * * *", "UTC", "2026-11-21T08:00:00Z", "2026-11-22T08:00:00Z"),
            ("*/15 9-17 * * MON-FRI", "UTC", "2026-11-21T12:00:00Z", "2026-11-23T09:00:00Z"),
            ("@daily", "America/New_York", "2026-11-21T12:00:00Z", "2026-11-22T05:00:00Z"),
            // The clocks go forward over it: once, just after.
            ("30 2 * * *", "Europe/Berlin", "2027-03-27T12:00:00Z", "2027-03-28T01:00:00Z"),
            // They go back over it: the first time, and not the second.
            ("30 2 * * *", "Europe/Berlin", "2027-10-30T12:00:00Z", "2027-10-31T00:30:00Z"),
            ("30 2 * * *", "Europe/Berlin", "2027-10-31T00:30:00Z", "2027-11-01T01:30:00Z"),
        ] {
            assert_eq!(next(expression, zone, at(now)), Ok(at(expected)), "{expression} in {zone} after {now}");
        }
        for (expression, zone) in [("every day", "UTC"), ("0 8 * * *", "Mars/Base"), ("0 0 30 2 *", "UTC"), ("", "UTC")]
        {
            assert!(next(expression, zone, at("2026-11-21T12:00:00Z")).is_err(), "{expression} {zone}");
        }
    }

    struct Task {
        _folder: tempfile::TempDir,
        db: InboundDb,
    }

    const NOW: &str = "2026-11-21T12:00:00Z";

    impl Task {
        fn new(recurrence: &str) -> Task {
            let folder = tempfile::tempdir().unwrap();
            let dir = SessionDir::new(folder.path());
            dir.prepare().unwrap();
            let content = r#"{"prompt":"water the plants","timezone":"Europe/Berlin"}"#;
            let row = NewMessageIn {
                kind: InKind::Task,
                recurrence: Some(recurrence.into()),
                ..NewMessageIn::chat("t1".into(), at(NOW), Address::default(), content.into())
            };
            let mut db = InboundDb::open(&dir, Durability::Normal).unwrap();
            db.write(|tx| tx.insert(&row)).unwrap();
            Task { _folder: folder, db }
        }

        fn end(&mut self, id: &str, status: InStatus) -> Vec<MessageIn> {
            self.db.write(|tx| finish(tx, id, status, at(NOW), "UTC")).unwrap();
            self.db.unfinished().unwrap()
        }
    }

    #[test]
    fn each_end_arms_the_next_occurrence_and_only_one() {
        for status in [InStatus::Completed, InStatus::Failed] {
            let mut task = Task::new("0 8 * * *");
            let live = task.end("t1", status);
            assert_eq!(live.len(), 1, "{status:?}");
            assert_eq!((live[0].process_after, live[0].kind), (Some(at("2026-11-22T07:00:00Z")), InKind::Task));
            assert!(live[0].content.contains("water the plants"));
            assert_eq!(task.end("t1", status), live, "an end that is heard of twice is one");
            let next = task.end(&live[0].id, status);
            assert!(next.len() == 1 && next[0].id != live[0].id, "and so on: {next:?}");
        }
    }

    #[test]
    fn what_does_not_repeat_or_cannot_ends() {
        for recurrence in ["", "every day"] {
            assert_eq!(Task::new(recurrence).end("t1", InStatus::Completed), [], "{recurrence:?}");
        }
    }
}
