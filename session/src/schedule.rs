//! Tasks: what an agent may ask for, checked by the same code on both sides, and when they run.
//!
//! Cron expressions and times without an offset are of the task's own zone; what is stored is UTC.

use croner::Cron;
use croner::parser::{CronParser, Seconds};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::content::Outbound;
use crate::row::{Address, InStatus};
use crate::time::format_utc;

/// Live tasks of one session.
pub const MAX_TASKS: usize = 200;
/// How many of the next runs the agent is shown.
pub const SHOWN_RUNS: usize = 3;
/// Longest prompt. bytes
const MAX_PROMPT_BYTES: usize = 32 * 1024;
/// Longest id, cron expression or name of a zone. bytes
const MAX_WORD_BYTES: usize = 128;
/// How far back missed runs are made up for, where all of them are.
const MAX_MADE_UP: SignedDuration = SignedDuration::from_hours(7 * 24);
/// A run may end by a clock that was set back a little since it began; one cron can name is never nearer.
const CLOCK_SLACK: SignedDuration = SignedDuration::from_secs(60);
/// A run that was to be skipped when missed counts as missed when it is later than this: a host that only
/// runs from cron is some minutes late.
const MISSED_AFTER: SignedDuration = SignedDuration::from_mins(30);

/// What becomes of runs that were due while nobody was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Missed {
    /// One is made up for.
    #[default]
    Latest,
    /// Each is, one after the other.
    All,
    /// None is.
    Skip,
}

/// The content of a row of kind `task`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Content {
    pub prompt: String,
    /// NanoClaw's; kept, not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<String>,
    /// An IANA name; `None`: the user's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    #[serde(default)]
    pub missed: Missed,
}

impl Content {
    /// Reads the column. What cannot be read is a prompt, as everywhere.
    pub fn parse(content: &str) -> Content {
        let plain = || Content { prompt: content.to_owned(), ..Content::default() };
        serde_json::from_str(content).unwrap_or_else(|_| plain())
    }

    pub fn to_json(&self) -> String {
        json!(self).to_string()
    }
}

/// A task as its live occurrence says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Of the series: what the agent and people call it.
    pub id: String,
    /// The live row.
    pub row_id: String,
    /// `Pending` or `Paused`.
    pub status: InStatus,
    /// `None`: at once.
    pub due: Option<Timestamp>,
    /// When the occurrence was to be; a try that failed puts only `due` off.
    pub planned: Option<Timestamp>,
    /// A cron expression; `None`: it runs once.
    pub recurrence: Option<String>,
    pub address: Address,
    pub content: Content,
}

impl Task {
    /// One line for the agent, in words of the task's zone (else `zone`).
    pub fn line(&self, zone: &str) -> String {
        let Content { prompt, timezone, missed, .. } = &self.content;
        let zone = timezone.as_deref().unwrap_or(zone);
        let next = self.due.map_or("now".to_owned(), |at| local(at, zone));
        let repeats = self.recurrence.as_ref().map(|cron| format!("; repeats {cron:?} ({zone})")).unwrap_or_default();
        let missed = match missed {
            Missed::Latest => "",
            Missed::All => "; missed runs: all",
            Missed::Skip => "; missed runs: skipped",
        };
        let paused = if self.status == InStatus::Paused { "; PAUSED" } else { "" };
        format!("{}: {next}{repeats}{missed}{paused}: {prompt}", self.id)
    }

    /// Whether this occurrence was missed and is not to be made up for.
    pub fn is_skipped(&self, now: Timestamp) -> bool {
        let late = |planned: Timestamp| now.duration_since(planned) > MISSED_AFTER;
        self.content.missed == Missed::Skip && self.status == InStatus::Pending && self.planned.is_some_and(late)
    }

    /// When the occurrence after this one is, which ends `now`; `Ok(None)` when it does not repeat.
    ///
    /// # Errors
    /// Why its expression leads nowhere.
    pub fn following(&self, zone: &str, now: Timestamp) -> Result<Option<Timestamp>, String> {
        let Some(cron) = &self.recurrence else { return Ok(None) };
        let planned = self.planned.unwrap_or(now);
        let after = match self.content.missed {
            Missed::All => planned.clamp(now - MAX_MADE_UP, now + CLOCK_SLACK),
            Missed::Latest | Missed::Skip if planned.duration_since(now) < CLOCK_SLACK => planned.max(now),
            Missed::Latest | Missed::Skip => now,
        };
        next(cron, self.content.timezone.as_deref().unwrap_or(zone), after).map(Some)
    }
}

/// Something an agent asks for about a task.
#[derive(Debug, Clone, PartialEq)]
pub struct Action {
    pub task_id: String,
    pub verb: Verb,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Verb {
    Schedule(Wish),
    Update(Wish),
    Cancel,
    Pause,
    Resume,
}

/// What a task is to be like; what is not said stays.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wish {
    pub prompt: Option<String>,
    pub at: Option<Timestamp>,
    /// Empty: it does not repeat any more.
    pub recurrence: Option<String>,
    pub timezone: Option<String>,
    pub missed: Option<Missed>,
}

/// The arguments as they are written.
#[derive(Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Arguments {
    #[serde(default)]
    task_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    process_after: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recurrence: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timezone: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    missed: Option<Missed>,
}

impl Action {
    pub const SCHEDULE: &str = "schedule_task";
    pub const UPDATE: &str = "update_task";
    pub const CANCEL: &str = "cancel_task";
    pub const PAUSE: &str = "pause_task";
    pub const RESUME: &str = "resume_task";
    /// All of them.
    pub const NAMES: [&str; 5] = [Action::SCHEDULE, Action::UPDATE, Action::CANCEL, Action::PAUSE, Action::RESUME];

    /// Reads an action's arguments; a time without an offset is of their zone, else of `zone`.
    ///
    /// # Errors
    /// What is wrong with them, as a sentence's end.
    pub fn parse(name: &str, arguments: &Map<String, Value>, zone: &str) -> Result<Action, String> {
        let mut arguments = arguments.clone();
        arguments.remove("action");
        let arguments = Arguments::deserialize(arguments).map_err(|e| format!("{name}: {e}"))?;
        let Arguments { task_id, prompt, process_after, recurrence, timezone, missed } = arguments;
        let is_word = |word: &String| word.len() <= MAX_WORD_BYTES && !word.contains(char::is_control);
        if task_id.is_empty() || !is_word(&task_id) {
            return Err(format!("{name} needs the taskId of a task; list_tasks says them"));
        }
        if ![&recurrence, &timezone].into_iter().flatten().all(is_word) {
            return Err(format!("{name}: recurrence is a cron expression, timezone a name such as Europe/Berlin"));
        }
        if prompt.as_ref().is_some_and(|p| p.len() > MAX_PROMPT_BYTES) {
            return Err(format!(
                "the prompt is longer than {MAX_PROMPT_BYTES} bytes; write it to a file and name that"
            ));
        }
        let zone = timezone.as_deref().unwrap_or(zone);
        let at = process_after.map(|text| time(&text, zone)).transpose()?;
        let wish = Wish { prompt, at, recurrence, timezone, missed };
        let verb = match name {
            Action::SCHEDULE => Verb::Schedule(wish),
            Action::UPDATE if wish == Wish::default() => return Err("nothing is to be changed".into()),
            Action::UPDATE => Verb::Update(wish),
            _ if wish != Wish::default() => return Err(format!("{name} takes a taskId and nothing else")),
            Action::CANCEL => Verb::Cancel,
            Action::PAUSE => Verb::Pause,
            Action::RESUME => Verb::Resume,
            _ => return Err(format!("there is no action {name:?} about tasks")),
        };
        Ok(Action { task_id, verb })
    }

    /// What the runner writes.
    pub fn to_action(&self) -> Outbound {
        let (name, wish) = match &self.verb {
            Verb::Schedule(wish) => (Action::SCHEDULE, wish.clone()),
            Verb::Update(wish) => (Action::UPDATE, wish.clone()),
            Verb::Cancel => (Action::CANCEL, Wish::default()),
            Verb::Pause => (Action::PAUSE, Wish::default()),
            Verb::Resume => (Action::RESUME, Wish::default()),
        };
        let Wish { prompt, at, recurrence, timezone, missed } = wish;
        let (task_id, process_after) = (self.task_id.clone(), at.map(format_utc));
        let arguments = json!(Arguments { task_id, prompt, process_after, recurrence, timezone, missed });
        Outbound::Action { name: name.to_owned(), arguments: arguments.as_object().cloned().unwrap_or_default() }
    }
}

/// How a task will be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub at: Timestamp,
    pub recurrence: Option<String>,
    pub content: Content,
}

impl Wish {
    /// What becomes of `old`, or of nothing. `zone` is the user's.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence's end.
    pub fn plan(&self, old: Option<&Task>, zone: &str, now: Timestamp) -> Result<Plan, String> {
        let was = old.map(|task| task.content.clone()).unwrap_or_default();
        let prompt = self.prompt.clone().unwrap_or(was.prompt);
        if prompt.trim().is_empty() {
            return Err("the prompt is empty: it says what you are to do when the time has come".into());
        }
        let timezone = self.timezone.clone().or(was.timezone).unwrap_or_else(|| zone.to_owned());
        zone_of(&timezone)?;
        let recurrence = self.recurrence.clone().or_else(|| old?.recurrence.clone()).filter(|r| !r.trim().is_empty());
        let next = recurrence.as_ref().map(|cron| next(cron, &timezone, now)).transpose()?;
        let kept = old.filter(|_| self.recurrence.is_none() && self.timezone.is_none()).and_then(|task| task.due);
        let at = self.at.or(kept).or(next).or_else(|| old?.due);
        let at = at.ok_or("say when it is to run: processAfter, recurrence or both")?;
        let missed = self.missed.unwrap_or(was.missed);
        Ok(Plan { at, recurrence, content: Content { prompt, script: was.script, timezone: Some(timezone), missed } })
    }
}

impl Plan {
    /// The next runs, in the task's zone.
    pub fn runs(&self) -> Vec<String> {
        let zone = self.content.timezone.as_deref().unwrap_or("UTC");
        let following = |at: &Timestamp| next(self.recurrence.as_deref()?, zone, *at).ok();
        let runs = std::iter::successors(Some(self.at), following);
        runs.take(SHOWN_RUNS).map(|at| local(at, zone)).collect()
    }
}

/// A time as people write it, with its weekday: `Sun Nov 22, 2026, 08:00`.
pub fn local(at: Timestamp, zone: &str) -> String {
    at.to_zoned(zone_of(zone).unwrap_or(TimeZone::UTC)).strftime("%a %b %-d, %Y, %H:%M %Z").to_string()
}

/// The first time after `after` that a cron expression (five fields, names, `@daily` ...) means in a zone.
/// In the hour that a clock leaves out it is just after it, in one that comes twice the first time.
///
/// # Errors
/// What is wrong with it, as a sentence's end.
pub fn next(expression: &str, zone: &str, after: Timestamp) -> Result<Timestamp, String> {
    let wrong = |why: String| {
        format!(
            "{expression:?} is no cron expression that ever comes true ({why}); write minute, hour, day of month, \
             month and day of week, such as \"0 8 * * 1-5\" for working days at 8:00"
        )
    };
    let cron: Cron = CronParser::builder()
        .seconds(Seconds::Disallowed)
        .build()
        .parse(expression)
        .map_err(|e| wrong(e.to_string()))?;
    let next = cron.find_next_occurrence(&after.to_zoned(zone_of(zone)?), false).map_err(|e| wrong(e.to_string()))?;
    Ok(next.timestamp())
}

fn zone_of(name: &str) -> Result<TimeZone, String> {
    TimeZone::get(name).map_err(|_| format!("there is no time zone {name:?}; use a name such as Europe/Berlin"))
}

/// Reads a time: with an offset, or of `zone`.
fn time(text: &str, zone: &str) -> Result<Timestamp, String> {
    let text = text.trim();
    let in_zone = |time: DateTime| Some(time.to_zoned(zone_of(zone).ok()?).ok()?.timestamp());
    let time = text.parse().ok().or_else(|| in_zone(text.parse().ok()?));
    time.ok_or_else(|| {
        format!("{text:?} is no time; write 2026-11-22T08:00:00 (in the task's zone), or with an offset or Z")
    })
}

#[cfg(test)]
mod tests;
