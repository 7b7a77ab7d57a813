//! Which pending rows make the next prompt. Pure; the rule is the contract's "The container's
//! poll", and the properties below compare it with the plainest reading of that text.

use nanoclaw_session::inbound::reader::PendingRow;
use nanoclaw_session::row::{Audience, InKind, Trigger};

/// Which look this is. Rows marked `on_wake` belong to a fresh container's first one, so that a
/// dying container cannot take what is meant for its successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Poll {
    First,
    Later,
}

/// What may be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// No turn runs: one starts only for a row that may wake the agent.
    NeedsTrigger,
    /// A turn runs: whatever is new is pushed into it.
    Open,
}

/// Chooses at most `max` (at least one) of `rows`: those that wake, oldest first, then the newest
/// context; in order of seq. `rows` are due, pending and not acknowledged. Rows of kind `system`
/// are never chosen.
pub fn select(rows: &[PendingRow], max: usize, poll: Poll, gate: Gate) -> Vec<&PendingRow> {
    let eligible =
        |row: &&PendingRow| row.kind != InKind::System && (row.audience == Audience::AnyPoll || poll == Poll::First);
    let (mut chosen, mut context): (Vec<_>, Vec<_>) =
        rows.iter().filter(eligible).partition(|row| row.trigger == Trigger::Wake);
    if chosen.is_empty() && gate == Gate::NeedsTrigger {
        return Vec::new();
    }
    chosen.sort_by_key(|row| row.seq);
    chosen.truncate(max.max(1));
    context.sort_by_key(|row| std::cmp::Reverse(row.seq));
    context.truncate(max.max(1) - chosen.len());
    chosen.append(&mut context);
    chosen.sort_by_key(|row| row.seq);
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row(seq: i64, kind: InKind, trigger: Trigger, audience: Audience) -> PendingRow {
        PendingRow { id: format!("m{seq}"), seq, kind, trigger, audience }
    }

    fn seqs(rows: &[&PendingRow]) -> Vec<i64> {
        rows.iter().map(|r| r.seq).collect()
    }

    /// Rows with different seqs, in any order.
    fn any_rows() -> impl Strategy<Value = Vec<PendingRow>> {
        let kinds = prop::sample::select(InKind::ALL.to_vec());
        let triggers = prop::sample::select(vec![Trigger::Context, Trigger::Wake]);
        let audiences = prop::sample::select(vec![Audience::AnyPoll, Audience::FreshContainer]);
        prop::collection::btree_map(0i64..60, (kinds, triggers, audiences), 0..25)
            .prop_map(|rows| rows.into_iter().map(|(seq, (k, t, a))| row(seq, k, t, a)).collect::<Vec<_>>())
            .prop_shuffle()
    }

    /// The contract, row by row: is this row in the batch?
    fn belongs(row: &PendingRow, rows: &[PendingRow], max: usize, poll: Poll, gate: Gate) -> bool {
        let may = |r: &PendingRow| {
            r.kind != InKind::System && !(r.audience == Audience::FreshContainer && poll == Poll::Later)
        };
        let wakes = |r: &PendingRow| may(r) && r.trigger == Trigger::Wake;
        if !may(row) || (gate == Gate::NeedsTrigger && !rows.iter().any(wakes)) {
            return false;
        }
        let waking = rows.iter().filter(|r| wakes(r)).count();
        if wakes(row) {
            rows.iter().filter(|r| wakes(r) && r.seq < row.seq).count() < max
        } else {
            let newer = rows.iter().filter(|r| may(r) && !wakes(r) && r.seq > row.seq).count();
            newer < max.saturating_sub(waking)
        }
    }

    proptest! {
        #[test]
        fn a_batch_is_what_the_contract_says(
            rows in any_rows(),
            max in 1usize..12,
            poll in prop::sample::select(vec![Poll::First, Poll::Later]),
            gate in prop::sample::select(vec![Gate::NeedsTrigger, Gate::Open]),
        ) {
            let mut expected: Vec<i64> =
                rows.iter().filter(|r| belongs(r, &rows, max, poll, gate)).map(|r| r.seq).collect();
            expected.sort_unstable();
            prop_assert_eq!(seqs(&select(&rows, max, poll, gate)), expected);
        }

        #[test]
        fn repeated_batches_take_every_row_that_may_be_taken(rows in any_rows(), max in 1usize..12) {
            let mut left = rows.clone();
            loop {
                let taken = seqs(&select(&left, max, Poll::First, Gate::Open));
                if taken.is_empty() {
                    break;
                }
                left.retain(|r| !taken.contains(&r.seq));
            }
            prop_assert!(left.iter().all(|r| r.kind == InKind::System));
        }
    }

    #[test]
    fn context_alone_starts_nothing_and_rides_along_with_the_next_trigger() {
        let context = row(2, InKind::Chat, Trigger::Context, Audience::AnyPoll);
        let wake = row(4, InKind::Chat, Trigger::Wake, Audience::AnyPoll);
        let rows = [context.clone()];
        assert!(select(&rows, 10, Poll::Later, Gate::NeedsTrigger).is_empty());
        assert_eq!(seqs(&select(&rows, 10, Poll::Later, Gate::Open)), [2]);
        assert_eq!(seqs(&select(&[wake, context], 10, Poll::Later, Gate::NeedsTrigger)), [2, 4]);
    }

    #[test]
    fn what_waits_for_a_fresh_container_is_left_to_it() {
        let rows = [row(2, InKind::Chat, Trigger::Wake, Audience::FreshContainer)];
        assert!(select(&rows, 10, Poll::Later, Gate::NeedsTrigger).is_empty());
        assert!(select(&rows, 10, Poll::Later, Gate::Open).is_empty());
        assert_eq!(seqs(&select(&rows, 10, Poll::First, Gate::NeedsTrigger)), [2]);
    }

    #[test]
    fn a_limit_of_nothing_still_makes_progress() {
        let rows = [row(2, InKind::Chat, Trigger::Wake, Audience::AnyPoll)];
        assert_eq!(select(&rows, 0, Poll::Later, Gate::NeedsTrigger).len(), 1);
    }
}
