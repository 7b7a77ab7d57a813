//! A turn as the CLI's lines tell it. Pure: lines in, steps out.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::protocol::{self, HookEvent, Line, Outcome};
use crate::gateway::SILENCE_TIMEOUT;
use crate::provider::{ErrorClass, TurnError, TurnEvent};

/// How long the CLI lets a command run that names no time itself.
const BASH_TIMEOUT: Duration = Duration::from_secs(120);
/// The most a command may ask for.
const MAX_BASH_TIMEOUT: Duration = Duration::from_secs(600);
/// A pause between two tries that a user should know of.
const LONG_PAUSE: Duration = Duration::from_secs(15);

const UNAUTHORIZED: u16 = 401;
const FORBIDDEN: u16 = 403;

const SCHEDULE: &str =
    "Use mcp__nanoclaw__schedule_task and the tools beside it: what they schedule outlives this session.";
const QUESTION: &str = "Use mcp__nanoclaw__ask_user_question, or ask in your answer: nobody sits at this terminal.";
const WORKTREE: &str = "Work in /workspace/agent. With git worktree in Bash you can have further folders there.";
const MESSAGE: &str = "Use mcp__nanoclaw__send_message.";

/// Tools that would hang with nobody at the terminal, or for which we have our own; and what to do instead.
const REFUSED: [(&str, &str); 10] = [
    ("AskUserQuestion", QUESTION),
    ("EnterPlanMode", QUESTION),
    ("ExitPlanMode", QUESTION),
    ("CronCreate", SCHEDULE),
    ("CronDelete", SCHEDULE),
    ("CronList", SCHEDULE),
    ("ScheduleWakeup", SCHEDULE),
    ("EnterWorktree", WORKTREE),
    ("ExitWorktree", WORKTREE),
    ("SendMessage", MESSAGE),
];

/// What a line asks for.
#[derive(Debug)]
pub enum Step {
    Emit(TurnEvent),
    /// To the CLI.
    Write(Value),
    /// A call of one of our own tools.
    Call {
        request: String,
        message: Value,
    },
    /// Everything is answered.
    Done,
    Failed(TurnError),
}

/// Something said to the CLI that it has not answered yet.
#[derive(Debug, Clone)]
pub struct Asked {
    pub uuid: String,
    pub text: String,
}

/// A turn under way, and what is known of its conversation.
#[derive(Debug, Default)]
pub struct Talk {
    /// The conversation as it can be resumed; `None` until the model has answered in a new one.
    pub continuation: Option<String>,
    /// In order.
    pub asked: Vec<Asked>,
    /// The answers so far.
    pub texts: Vec<String>,
    /// The CLI is in a turn.
    pub active: bool,
    /// Tasks that go on in the background.
    pub background: usize,
    session: Option<String>,
    /// Calls that run.
    calls: Vec<String>,
    limited_until: Option<Timestamp>,
    /// Why there was no answer, in the CLI's word.
    fault: Option<String>,
    /// The user was told that it takes long.
    told: bool,
}

impl Talk {
    pub fn new(continuation: Option<String>, background: usize) -> Talk {
        Talk { continuation, background, ..Talk::default() }
    }

    pub fn apply(&mut self, line: Line, now: Timestamp) -> Vec<Step> {
        let waiting = |pause| Step::Emit(TurnEvent::Waiting { until: now + SILENCE_TIMEOUT + pause });
        match line {
            Line::Init { session } => {
                self.active = true;
                self.session = Some(session);
                vec![waiting(Duration::ZERO)]
            }
            // The model is asked when its calls have ended, also those of which we were not told.
            Line::Busy => {
                let ended = !std::mem::take(&mut self.calls).is_empty();
                let ended = ended.then_some(Step::Emit(TurnEvent::ToolEnded));
                [waiting(Duration::ZERO)].into_iter().chain(ended).collect()
            }
            Line::Progress => vec![Step::Emit(TurnEvent::Activity)],
            Line::Answered => self.announce().into_iter().chain([Step::Emit(TurnEvent::Activity)]).collect(),
            Line::Fault { kind } => {
                self.fault = Some(kind);
                Vec::new()
            }
            // The CLI would try for three minutes.
            Line::Retry { status: Some(UNAUTHORIZED | FORBIDDEN), .. } => {
                vec![failed(ErrorClass::Auth, "The model refused the key. The owner has to set a valid one.".into())]
            }
            Line::Retry { delay, .. } => {
                let mut steps = vec![waiting(delay)];
                if delay >= LONG_PAUSE && !self.told {
                    self.told = true;
                    let text = "The model cannot be reached right now. I keep trying for some minutes.".into();
                    steps.push(Step::Emit(TurnEvent::Notice(text)));
                }
                steps
            }
            Line::Limited { until } => {
                self.limited_until = until;
                Vec::new()
            }
            Line::Background(tasks) => {
                self.background = tasks;
                Vec::new()
            }
            Line::Hook { request, event } => self.hook(&request, event),
            Line::Mcp { request, message } => vec![Step::Call { request, message }],
            Line::Request { request, kind } => vec![Step::Write(protocol::refusal(&request, &kind))],
            Line::Result(outcome) => self.end(*outcome),
        }
    }

    /// Says once what a later turn can resume.
    fn announce(&mut self) -> Option<Step> {
        let session = self.session.clone().filter(|s| self.continuation.as_ref() != Some(s))?;
        self.continuation = Some(session.clone());
        Some(Step::Emit(TurnEvent::Init { continuation: session }))
    }

    fn hook(&mut self, request: &str, event: HookEvent) -> Vec<Step> {
        let (verdict, event) = match event {
            HookEvent::Before { tool, call, timeout } => match REFUSED.iter().find(|(name, _)| *name == tool) {
                Some((_, hint)) => (
                    json!({"hookSpecificOutput": {"hookEventName": "PreToolUse", "permissionDecision": "deny",
                        "permissionDecisionReason": format!("{tool} is not available here. {hint}")}}),
                    None,
                ),
                None => {
                    self.calls.push(call);
                    let deadline = (tool == "Bash").then(|| timeout.unwrap_or(BASH_TIMEOUT).min(MAX_BASH_TIMEOUT));
                    (json!({}), Some(TurnEvent::ToolStarted { name: tool, deadline }))
                }
            },
            HookEvent::After { call } => {
                self.calls.retain(|running| *running != call);
                (json!({}), self.calls.is_empty().then_some(TurnEvent::ToolEnded))
            }
        };
        let event = event.map(Step::Emit);
        [Step::Write(protocol::answer(request, verdict))].into_iter().chain(event).collect()
    }

    fn end(&mut self, outcome: Outcome) -> Vec<Step> {
        self.active = false;
        self.calls.clear();
        let mut steps: Vec<Step> = Vec::new();
        steps.extend(
            outcome
                .usage
                .iter()
                .map(|(model, usage)| Step::Emit(TurnEvent::Cost { model: model.clone(), usage: *usage })),
        );
        let fault = self.fault.take();
        if outcome.unasked && outcome.failed {
            // Nobody waits for it, and the model has the task's output all the same.
            eprintln!("Background turn failed error={:?}", outcome.text);
        } else if outcome.failed || outcome.stop_reason.as_deref() == Some("refusal") {
            steps.push(self.failure(outcome, fault.as_deref()));
            return steps;
        } else {
            steps.extend(self.announce());
            self.texts.extend(Some(outcome.text).filter(|text| !text.trim().is_empty()));
        }
        self.asked.retain(|asked| !outcome.answers.contains(&asked.uuid));
        if self.asked.is_empty() {
            steps.push(Step::Done);
        }
        steps
    }

    fn failure(&self, outcome: Outcome, fault: Option<&str>) -> Step {
        let text = outcome.text;
        if outcome.stop_reason.as_deref() == Some("refusal") {
            return failed(ErrorClass::Refused, "The model declined to answer that.".into());
        }
        if text.contains("No conversation found") || text.contains("--resume requires") {
            return failed(ErrorClass::StaleContinuation, "I lost our conversation.".into());
        }
        let sentence = format!("The model gave no answer: {text}");
        match (outcome.reason.as_deref(), fault, self.limited_until) {
            (Some("prompt_too_long" | "blocking_limit"), ..) | (_, Some("invalid_request"), _) => {
                let stale = self.continuation.is_some();
                failed(if stale { ErrorClass::StaleContinuation } else { ErrorClass::InvalidRequest }, sentence)
            }
            (_, Some("model_not_found"), _) => failed(ErrorClass::InvalidRequest, sentence),
            (_, Some("authentication_failed" | "billing_error" | "oauth_org_not_allowed"), _) => {
                failed(ErrorClass::Auth, sentence)
            }
            (_, Some("rate_limit"), Some(reset)) => failed(ErrorClass::Quota { reset }, sentence),
            _ => failed(ErrorClass::Transient, sentence),
        }
    }
}

fn failed(class: ErrorClass, sentence: String) -> Step {
    Step::Failed(TurnError { class, sentence })
}
