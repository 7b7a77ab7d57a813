//! Scheduled tasks, as rows of a session's inbound.db: what an agent or a person asks for about them, and
//! what follows when an occurrence ends. A series has one live occurrence, ever.
//!
//! Everything here runs in the transaction of whoever calls it: an action with the mark that it is done,
//! a new occurrence with the end of the one before.

use jiff::Timestamp;
use nanoclaw_session::inbound::InboundTx;
use nanoclaw_session::row::{InKind, InStatus, NewMessageIn, Trigger};
use nanoclaw_session::schedule::{Action, MAX_TASKS, Plan, Task, Verb};

use crate::id::new_id;
use crate::store::{TaskOutcome, TaskRun};

/// Ends a row, and arms the next occurrence if it is a task that repeats. Returns what to remember of
/// a task's run. `zone`: an IANA name, for tasks that name none.
///
/// # Errors
/// SQLite's.
pub fn finish(
    tx: &InboundTx<'_>,
    id: &str,
    status: InStatus,
    now: Timestamp,
    zone: &str,
) -> rusqlite::Result<Option<TaskRun>> {
    let task = tx.task_of_row(id)?;
    tx.finish(id, status)?;
    let outcome = if status == InStatus::Completed { TaskOutcome::Completed } else { TaskOutcome::Failed };
    task.map(|task| ended(tx, &task, outcome, now, zone)).transpose()
}

/// Ends what is missed and not to be made up for, and arms what follows.
///
/// # Errors
/// SQLite's.
pub fn skip_missed(tx: &InboundTx<'_>, now: Timestamp, zone: &str) -> rusqlite::Result<Vec<TaskRun>> {
    let missed = tx.tasks()?.into_iter().filter(|task| task.is_skipped(now));
    missed
        .map(|task| {
            tx.finish(&task.row_id, InStatus::Completed)?;
            ended(tx, &task, TaskOutcome::Skipped, now, zone)
        })
        .collect()
}

fn ended(
    tx: &InboundTx<'_>,
    task: &Task,
    outcome: TaskOutcome,
    now: Timestamp,
    zone: &str,
) -> rusqlite::Result<TaskRun> {
    match task.following(zone, now) {
        Ok(Some(at)) => arm(tx, task, Plan { at, recurrence: task.recurrence.clone(), content: task.content.clone() })?,
        Ok(None) => {}
        Err(why) => log::error!("A task does not repeat any more series={} error={why}", task.id),
    }
    Ok(TaskRun {
        message_id: task.row_id.clone(),
        series_id: task.id.clone(),
        planned_at: task.planned.unwrap_or(now),
        ended_at: now,
        outcome,
    })
}

/// The next occurrence of a series whose last one is over; as paused as that was.
fn arm(tx: &InboundTx<'_>, task: &Task, plan: Plan) -> rusqlite::Result<()> {
    let row = NewMessageIn { address: task.address.clone(), ..occurrence(new_id("task"), &task.id, &plan) };
    tx.insert(&row)?;
    match (task.status, tx.task_of_row(&row.id)?) {
        (InStatus::Paused, Some(next)) => tx.set_task(&Task { status: InStatus::Paused, ..next }),
        _ => Ok(()),
    }
}

fn occurrence(id: String, series: &str, plan: &Plan) -> NewMessageIn {
    NewMessageIn {
        kind: InKind::Task,
        process_after: Some(plan.at),
        recurrence: plan.recurrence.clone(),
        series_id: Some(series.to_owned()),
        trigger: Trigger::Wake,
        // The time it is planned for: that is what the agent reads, however late it runs.
        ..NewMessageIn::chat(id, plan.at, Default::default(), plan.content.to_json())
    }
}

/// Does what an agent asked for, or says why not.
///
/// # Errors
/// SQLite's.
pub fn act(tx: &InboundTx<'_>, action: &Action, now: Timestamp, zone: &str) -> rusqlite::Result<Result<(), String>> {
    let id = &action.task_id;
    let tasks = tx.tasks()?;
    if let Verb::Schedule(wish) = &action.verb {
        return Ok(match wish.plan(None, zone, now) {
            Err(why) => Err(why),
            Ok(_) if tasks.len() >= MAX_TASKS => Err(format!("there are {MAX_TASKS} tasks, and no more may be")),
            Ok(_) if tx.is_taken(id)? => Err(format!("there is or was a task {id:?} already")),
            Ok(plan) => {
                let row = occurrence(id.clone(), id, &plan);
                tx.insert(&NewMessageIn { address: tx.routing()?, ..row })?;
                Ok(())
            }
        });
    }
    let Some(task) = tasks.iter().find(|task| task.id == *id) else {
        return Ok(Err(format!("there is no task {id:?}, or it is over; list_tasks says what there is")));
    };
    match &action.verb {
        Verb::Update(wish) => match wish.plan(Some(task), zone, now) {
            Err(why) => return Ok(Err(why)),
            // The occurrence that runs may be the one that asks: a new time is a new occurrence.
            Ok(plan) if Some(plan.at) != task.due => {
                cancel(tx, task)?;
                arm(tx, task, plan)?;
            }
            Ok(Plan { recurrence, content, .. }) => tx.set_task(&Task { recurrence, content, ..task.clone() })?,
        },
        Verb::Cancel => cancel(tx, task)?,
        Verb::Pause => tx.set_task(&Task { status: InStatus::Paused, ..task.clone() })?,
        Verb::Resume => tx.set_task(&resumed(task, now, zone))?,
        Verb::Schedule(_) => {} // above
    }
    Ok(Ok(()))
}

/// Makes a task due at once; the times it runs at later stay.
///
/// # Errors
/// SQLite's.
pub fn run_now(tx: &InboundTx<'_>, task: &Task, now: Timestamp) -> rusqlite::Result<()> {
    tx.set_task(&Task { due: Some(now), ..task.clone() })
}

/// Without a recurrence no other reader of the file arms it again.
fn cancel(tx: &InboundTx<'_>, task: &Task) -> rusqlite::Result<()> {
    tx.set_task(&Task { recurrence: None, ..task.clone() })?;
    tx.finish(&task.row_id, InStatus::Completed)
}

/// What a series has missed while it was paused is not made up for.
fn resumed(task: &Task, now: Timestamp, zone: &str) -> Task {
    let past = task.due.is_none_or(|due| due < now);
    let from_now = Task { planned: None, ..task.clone() };
    let next = from_now.following(zone, now).ok().flatten().filter(|_| past);
    Task { status: InStatus::Pending, due: next.or(task.due), planned: next.or(task.planned), ..task.clone() }
}

#[cfg(test)]
mod tests;
