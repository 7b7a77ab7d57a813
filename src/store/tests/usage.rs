//! What turns cost: counted once, by day, and within bounds whatever a container says.

use nanoclaw_session::usage::{MAX_TOKENS, Usage};

use super::*;

fn session(id: &str) -> Session {
    Session::new(id, "main", None, None, noon())
}

fn used(model: &str, input_tokens: u64) -> Usage {
    let provider = "anthropic".into();
    Usage { provider, model: model.into(), input_tokens, output_tokens: 1, cost_usd: Some(0.25), ..Usage::default() }
}

fn sums(store: &Store) -> Vec<(String, String, i64, i64)> {
    let sums = store.usage_since("", None).unwrap();
    sums.into_iter()
        .filter(|sum| sum.day != "total")
        .map(|sum| (sum.day, sum.model, sum.turns, sum.input_tokens))
        .collect()
}

#[test]
fn a_row_counts_once_and_a_session_that_is_gone_keeps_its_sums() {
    let home = Home::furnished();
    let store = &home.store;
    let first = [(1, used("opus", 10)), (3, used("haiku", 5))];
    store.count_usage(&session("s1"), "2026-04-16", &first).unwrap();
    // Read again after a crash, over midnight, with one that is new.
    let again = [first[0].clone(), first[1].clone(), (7, used("opus", 100))];
    store.count_usage(&session("s1"), "2026-04-17", &again).unwrap();
    store.count_usage(&session("s2"), "2026-04-17", &[(1, used("opus", 1_000))]).unwrap();
    store.delete_session("s1").unwrap();
    let expected = [("2026-04-16", "haiku", 1, 5), ("2026-04-16", "opus", 1, 10), ("2026-04-17", "opus", 2, 1_100)];
    assert_eq!(sums(store), expected.map(|(day, model, n, tokens)| (day.into(), model.into(), n, tokens)));
    let late = store.usage_since("2026-04-17", Some("main")).unwrap();
    let total = late.iter().map(|sum| (sum.day.as_str(), sum.turns, sum.cost_usd)).collect::<Vec<_>>();
    assert_eq!(total, [("2026-04-17", 2, Some(0.5)), ("total", 2, Some(0.5))]);
    assert_eq!(store.usage_since("2026-04-17", Some("other")).unwrap(), []);
}

#[test]
fn a_container_that_lies_spoils_its_own_sums_and_no_more() {
    let home = Home::furnished();
    let store = &home.store;
    let mut seq = 0;
    let mut count = |session_id: &str, model: &str, tokens| {
        seq += 2;
        store.count_usage(&session(session_id), "2026-04-16", &[(seq, used(model, tokens))]).unwrap();
    };
    for _ in 0..3 {
        count("liar", "opus", MAX_TOKENS);
    }
    for n in 0..100 {
        count("liar", &format!("model-{n}"), 1);
    }
    count("liar", "opus", 1);
    count("honest", "sonnet", 7);
    let sums = sums(store);
    assert!(sums.len() <= 22, "{} rows", sums.len());
    let of = |model: &str| sums.iter().find(|sum| sum.1 == model).map(|sum| (sum.2, sum.3));
    assert_eq!((of("opus"), of("sonnet")), (Some((4, MAX_TOKENS as i64)), Some((1, 7))));
    assert_eq!(of("(others)"), Some((81, 81)));
}
