//! What is kept for later: cursors, dropped senders, decisions, task runs, usage.

use super::*;

#[test]
fn each_account_has_its_own_cursor() {
    let home = Home::empty();
    let store = &home.store;
    store.set_cursor("telegram:991", "17", noon()).unwrap();
    store.set_cursor("telegram:991", "18", later(1)).unwrap();
    assert_eq!(store.cursor("telegram:991").unwrap().as_deref(), Some("18"));
    assert_eq!(store.cursor("telegram:992").unwrap(), None);
}

#[test]
fn dropped_messages_are_counted_per_chat() {
    let home = Home::empty();
    let store = &home.store;
    let eve = DroppedSender { sender_name: Some("Eve".to_owned()), ..dropped("telegram:8") };
    store.record_dropped(&eve).unwrap();
    let again = DroppedSender {
        reason: "unknown_sender".to_owned(),
        first_seen: later(5),
        last_seen: later(5),
        ..dropped("telegram:8")
    };
    store.record_dropped(&again).unwrap();
    store.record_dropped(&DroppedSender { last_seen: later(3), ..dropped("telegram:9") }).unwrap();
    let rows = store.dropped_senders(10).unwrap();
    assert_eq!(rows.len(), 2);
    let counted = &rows[0];
    assert_eq!((counted.message_count, counted.first_seen, counted.last_seen), (2, noon(), later(5)));
    assert_eq!((counted.sender_name.as_deref(), counted.reason.as_str()), (Some("Eve"), "unknown_sender"));
    store.forget_dropped("telegram", "telegram:8").unwrap();
    assert_eq!(store.dropped_senders(10).unwrap().len(), 1);
}

#[test]
fn the_chats_dropped_longest_ago_make_room() {
    let home = Home::empty();
    home.store
        .transaction(|| -> Result<()> {
            for n in 0..MAX_DROPPED_CHATS + 2 {
                home.store
                    .record_dropped(&DroppedSender { last_seen: later(n), ..dropped(&format!("telegram:{n}")) })?;
            }
            Ok(())
        })
        .unwrap();
    let rows = home.store.dropped_senders(5000).unwrap();
    assert_eq!(rows.len() as i64, MAX_DROPPED_CHATS);
    assert_eq!(rows.last().unwrap().platform_id, "telegram:2");
}

#[test]
fn the_newest_thousand_decisions_are_kept() {
    let home = Home::empty();
    home.store
        .transaction(|| -> Result<()> {
            for n in 0..MAX_DECISIONS + 3 {
                home.store.record_decision(&decision(&format!("m{}", n / 2)))?;
            }
            Ok(())
        })
        .unwrap();
    assert_eq!(home.store.decisions(5000).unwrap().len() as i64, MAX_DECISIONS);
    assert_eq!(home.store.decisions(1).unwrap()[0].message_id, "m501");
    assert_eq!(home.store.decisions_about("m0").unwrap(), []);
    assert_eq!(home.store.decisions_about("m1").unwrap().len(), 1);
    assert_eq!(home.store.decisions_about("m2").unwrap().len(), 2);
}

#[test]
fn a_run_of_a_task_is_one_row_and_a_series_keeps_its_newest() {
    let home = Home::furnished();
    let store = &home.store;
    for n in 0..MAX_RUNS_PER_SERIES + 2 {
        let id = format!("t{n}");
        store.record_task_run(&task_run(&id)).unwrap();
        let ended = TaskRun { ended_at: Some(later(n)), outcome: TaskOutcome::Completed, ..task_run(&id) };
        store.record_task_run(&ended).unwrap();
    }
    let runs = store.task_runs("daily", 1000).unwrap();
    assert_eq!(runs.len() as i64, MAX_RUNS_PER_SERIES);
    assert_eq!((runs[0].message_id.as_str(), runs[0].outcome), ("t101", TaskOutcome::Completed));
    assert_eq!(store.find_task_run("s1", "t0").unwrap(), None);
    assert_eq!(store.task_runs("daily", 1).unwrap().len(), 1);
}

#[test]
fn usage_adds_up_per_day_and_model() {
    let home = Home::furnished();
    let store = &home.store;
    for day in ["2026-04-15", "2026-04-16", "2026-04-16", "2026-04-17"] {
        store.add_usage(&usage(day)).unwrap();
    }
    store.add_usage(&Usage { model: "opus".to_owned(), ..usage("2026-04-16") }).unwrap();
    let day = usage("2026-04-16").day;
    let rows = store.usage_between(day, day).unwrap();
    assert_eq!(
        rows.iter().map(|row| (row.model.as_str(), row.turns)).collect::<Vec<_>>(),
        [("opus", 1), ("sonnet", 2)]
    );
    let both = Usage {
        turns: 2,
        input_tokens: 20,
        output_tokens: 40,
        cache_read_tokens: 60,
        cache_write_tokens: 80,
        cost_microusd: 100,
        ..usage("2026-04-16")
    };
    assert_eq!(rows[1], both);
    assert_eq!(store.usage_between(usage("2026-04-15").day, usage("2026-04-17").day).unwrap().len(), 4);
}
