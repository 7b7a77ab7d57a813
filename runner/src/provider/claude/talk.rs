//! A turn as the CLI's lines tell it. Pure: lines in, steps out.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::protocol::{self, Call, Line, Request, Tokens};
use crate::gateway::SILENCE_TIMEOUT;
use crate::provider::{ErrorClass, TurnError, TurnEvent};

/// How long the CLI lets a command run that names no time itself.
const BASH_TIMEOUT: Duration = Duration::from_secs(120);
/// The most a command may ask for.
const MAX_BASH_TIMEOUT: Duration = Duration::from_secs(600);
/// A pause between two tries that a user should know of.
const LONG_PAUSE: Duration = Duration::from_secs(15);

/// Tools that would hang with nobody at the terminal, or for which we have our own; and what to do instead.
const REFUSED: [(&[&str], &str); 4] = [
    (
        &["AskUserQuestion", "EnterPlanMode", "ExitPlanMode"],
        "Use mcp__nanoclaw__ask_user_question, or ask in your answer: nobody sits at this terminal.",
    ),
    (
        &["CronCreate", "CronDelete", "CronList", "ScheduleWakeup"],
        "Use mcp__nanoclaw__schedule_task and the tools beside it: what they schedule outlives this session.",
    ),
    (
        &["EnterWorktree", "ExitWorktree"],
        "Work in /workspace/agent. With git worktree in Bash you can have further folders there.",
    ),
    (&["SendMessage"], "Use mcp__nanoclaw__send_message."),
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
    session: Option<String>,
    /// Calls that run.
    calls: Vec<String>,
    /// When a limit is renewed that is used up. seconds since 1970
    pub limited_until: Option<i64>,
    /// Why there was no answer, in the CLI's word.
    fault: Option<String>,
    /// The user was told that it takes long.
    told: bool,
}

impl Talk {
    pub fn new(continuation: Option<String>) -> Talk {
        Talk { continuation, ..Talk::default() }
    }

    pub fn apply(&mut self, line: Line, now: Timestamp) -> Vec<Step> {
        let waiting = |pause| Step::Emit(TurnEvent::Waiting { until: now + SILENCE_TIMEOUT + pause });
        let activity = Step::Emit(TurnEvent::Activity);
        match (line.kind.as_str(), line.subtype.as_deref()) {
            ("system", Some("init")) => {
                self.active = true;
                self.session = line.session_id;
                vec![waiting(Duration::ZERO)]
            }
            // The model is asked when its calls have ended, also those of which we were not told.
            ("system", Some("status")) => {
                let ended = !std::mem::take(&mut self.calls).is_empty();
                let ended = ended.then_some(Step::Emit(TurnEvent::ToolEnded));
                [waiting(Duration::ZERO)].into_iter().chain(ended).collect()
            }
            // The CLI would try for three minutes.
            ("system", Some("api_retry")) if matches!(line.error_status, Some(401 | 403)) => {
                vec![failed(ErrorClass::Auth, "The model refused the key. The owner has to set a valid one.".into())]
            }
            ("system", Some("api_retry")) => {
                let delay = Duration::from_millis(line.retry_delay_ms.unwrap_or_default() as u64);
                let mut steps = vec![waiting(delay)];
                if delay >= LONG_PAUSE && !self.told {
                    self.told = true;
                    let text = "The model cannot be reached right now. I keep trying for some minutes.".into();
                    steps.push(Step::Emit(TurnEvent::Notice(text)));
                }
                steps
            }
            ("rate_limit_event", _) => {
                let limit = line.rate_limit_info.filter(|limit| limit.status.as_deref() == Some("rejected"));
                self.limited_until = limit.and_then(|limit| limit.resets_at);
                Vec::new()
            }
            ("control_request", _) => match (line.request, line.request_id) {
                (Some(Request { input: Some(call), .. }), Some(request)) => self.hook(&request, call),
                (Some(Request { message: Some(message), .. }), Some(request)) => vec![Step::Call { request, message }],
                _ => Vec::new(),
            },
            ("result", _) => self.end(line),
            ("assistant", _) if line.error.is_some() => {
                self.fault = line.error;
                Vec::new()
            }
            ("assistant", _) if line.parent_tool_use_id.is_none() && line.message.is_some_and(|m| m.is_a_models()) => {
                self.announce().into_iter().chain([activity]).collect()
            }
            _ => vec![activity],
        }
    }

    /// Says once what a later turn can resume.
    fn announce(&mut self) -> Option<Step> {
        let session = self.session.clone().filter(|s| self.continuation.as_ref() != Some(s))?;
        self.continuation = Some(session.clone());
        Some(Step::Emit(TurnEvent::Init { continuation: session }))
    }

    fn hook(&mut self, request: &str, call: Call) -> Vec<Step> {
        let (verdict, event) = if call.hook_event_name != "PreToolUse" {
            self.calls.retain(|running| *running != call.tool_use_id);
            (json!({}), self.calls.is_empty().then_some(TurnEvent::ToolEnded))
        } else if let Some((_, hint)) = REFUSED.iter().find(|(names, _)| names.contains(&&*call.tool_name)) {
            let reason = format!("{} is not available here. {hint}", call.tool_name);
            let verdict = json!({"hookEventName": "PreToolUse", "permissionDecision": "deny",
                "permissionDecisionReason": reason});
            (json!({"hookSpecificOutput": verdict}), None)
        } else {
            self.calls.push(call.tool_use_id);
            let asked = call.tool_input.and_then(|input| input.timeout?.as_u64()).map(Duration::from_millis);
            let deadline = asked.unwrap_or(BASH_TIMEOUT).min(MAX_BASH_TIMEOUT);
            let deadline = (call.tool_name == "Bash").then_some(deadline);
            (json!({}), Some(TurnEvent::ToolStarted { name: call.tool_name, deadline }))
        };
        let event = event.map(Step::Emit);
        [Step::Write(protocol::answer(request, verdict))].into_iter().chain(event).collect()
    }

    /// The CLI's turn has ended, and ours if everything is answered.
    fn end(&mut self, mut line: Line) -> Vec<Step> {
        self.active = false;
        self.calls.clear();
        let usage = line.model_usage_since_last_result.take().into_iter().flatten();
        let cost = |(model, tokens): (String, Tokens)| Step::Emit(TurnEvent::Cost { model, usage: tokens.into() });
        let mut steps: Vec<Step> = usage.map(cost).collect();
        let has_failed = line.is_error == Some(true) || line.stop_reason.as_deref() == Some("refusal");
        let text = line.result.take().unwrap_or_else(|| line.errors.take().unwrap_or_default().join("; "));
        let fault = self.fault.take();
        if has_failed && line.origin.is_none() {
            steps.push(self.failure(&line, &text, fault.as_deref()));
            return steps;
        }
        if has_failed {
            // Nobody waits for it, and the model has the task's output all the same.
            eprintln!("Background turn failed error={text:?}");
        } else {
            steps.extend(self.announce());
            let done = line.local_command.take().map(|command| format!("Done: /{command}."));
            self.texts.extend(Some(text).filter(|text| !text.trim().is_empty()).or(done));
        }
        let answered = line.user_message_uuids.unwrap_or_default();
        self.asked.retain(|asked| !answered.contains(&asked.uuid));
        if self.asked.is_empty() {
            steps.push(Step::Done);
        }
        steps
    }

    fn failure(&self, line: &Line, text: &str, fault: Option<&str>) -> Step {
        if line.stop_reason.as_deref() == Some("refusal") {
            return failed(ErrorClass::Refused, "The model declined to answer that.".into());
        }
        if text.contains("No conversation found") || text.contains("--resume requires") {
            return failed(ErrorClass::StaleContinuation, "I lost our conversation.".into());
        }
        let reset = self.limited_until.and_then(|reset| Timestamp::from_second(reset).ok());
        let class = match (line.terminal_reason.as_deref(), fault, reset) {
            (Some("prompt_too_long" | "blocking_limit"), ..) | (_, Some("invalid_request"), _) => {
                // Perhaps because of what was said before.
                if self.continuation.is_some() { ErrorClass::StaleContinuation } else { ErrorClass::InvalidRequest }
            }
            (_, Some("model_not_found"), _) => ErrorClass::InvalidRequest,
            (_, Some("authentication_failed" | "billing_error" | "oauth_org_not_allowed"), _) => ErrorClass::Auth,
            (_, Some("rate_limit"), Some(reset)) => ErrorClass::Quota { reset },
            _ => ErrorClass::Transient,
        };
        failed(class, format!("The model gave no answer: {text}"))
    }
}

fn failed(class: ErrorClass, sentence: String) -> Step {
    Step::Failed(TurnError { class, sentence })
}
