//! Answers to agents' questions: a message that chooses an option of an open one, from somebody the agent would hear.
//! Whoever says something else instead, or stops the agent, ends its questions.

use anyhow::Result;
use nanoclaw_session::content::{Answer, QuestionOption};
use nanoclaw_session::question::Outcome;

use super::judge::{Candidate, Subject, lets_in};
use super::{Batch, Router, command, row_id};
use crate::channel::{ChatKind, InboundMessage};
use crate::question::{answer_row, options};
use crate::store::{MessagingGroup, Question, Session};

/// A question that has ended once the batch is on disk.
pub struct Ended {
    question: Question,
    /// What its message says then.
    shown: String,
}

/// What a message is to the questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// It chose an option; the end of the agent's turn is told to who waits for it.
    Answers,
    /// It was meant as an answer, and is none.
    Astray,
    /// A message like any.
    No,
}

impl Router {
    /// Takes a message that answers a question.
    pub(super) fn answer(
        &self,
        message: &InboundMessage,
        subject: &Subject<'_>,
        chat: Option<&MessagingGroup>,
        candidates: &[Candidate<'_>],
        batch: &mut Batch<'_>,
    ) -> Result<Reply> {
        let open = match &message.answers {
            Some(id) => self.store.find_question(id)?.into_iter().collect(),
            // Where several people talk, a number may mean anything: there they have buttons.
            None if subject.kind == ChatKind::Direct
                && message.attachments.is_empty()
                && command::parse(subject.text).is_none() =>
            {
                self.store.questions_in_chat(&message.chat.channel_type, &message.chat.platform_id)?
            }
            None => Vec::new(),
        };
        for question in open {
            let place = (question.channel_type.as_deref(), question.platform_id.as_deref());
            let is_here = place == (Some(message.chat.channel_type.as_str()), Some(message.chat.platform_id.as_str()))
                && (message.answers.is_some() || question.thread_id.as_deref() == message.thread());
            let is_over = question.expires_at.is_some_and(|at| at <= crate::time::now()) || batch.has_ended(&question);
            let options = options(&question);
            let Some(option) = QuestionOption::chosen(&options, subject.text).filter(|_| is_here && !is_over) else {
                continue;
            };
            let session = self.store.session(&question.session_id)?;
            let agent = session.agent_group_id.as_str();
            let candidate = candidates.iter().find(|c| c.wiring.agent_group_id == agent);
            match chat.zip(candidate).map(|(chat, candidate)| lets_in(chat, candidate)) {
                Some(Ok(())) => {
                    self.remember_sender(message, batch)?;
                    self.choose(message, question, option, &session, batch);
                    return Ok(Reply::Answers);
                }
                Some(Err(why)) if message.answers.is_some() => {
                    batch.records.not_heard(message, Some(agent), why);
                    return Ok(Reply::Astray);
                }
                // As a message, it will be refused as any of theirs.
                Some(Err(_)) | None => {}
            }
        }
        if message.answers.is_none() {
            return Ok(Reply::No);
        }
        if chat.is_some_and(|chat| candidates.iter().any(|candidate| lets_in(chat, candidate).is_ok())) {
            batch.records.answer(message, "That question is not open here any more, or has no such option.")?;
        }
        Ok(Reply::Astray)
    }

    fn choose(
        &self,
        message: &InboundMessage,
        question: Question,
        option: &QuestionOption,
        session: &Session,
        batch: &mut Batch<'_>,
    ) {
        log::info!("Question answered question={} message={} session={}", question.question_id, message.id, session.id);
        let by = message.content.sender.clone();
        let answer = Answer {
            question_id: question.question_id.clone(),
            title: question.title.clone(),
            outcome: Outcome::Chosen { option: option.value().to_owned(), by },
        };
        let (chat, thread) = message.answer_to();
        let id = row_id(&message.id, &session.agent_group_id);
        batch.add(session.clone(), answer_row(id, message.timestamp, chat.address(thread), &answer));
        batch.ended.push(Ended { question, shown: option.selected_label().to_owned() });
    }

    /// Ends what a session has asked in the chat of this message, which is no answer.
    pub(super) fn withdraw(
        &self,
        message: &InboundMessage,
        session: &Session,
        why: &str,
        batch: &mut Batch<'_>,
    ) -> Result<()> {
        for question in self.store.questions_of_session(&session.id)? {
            if batch.has_ended(&question) || question.platform_id.as_ref() != Some(&message.chat.platform_id) {
                continue;
            }
            let answer = Answer {
                question_id: question.question_id.clone(),
                title: question.title.clone(),
                outcome: Outcome::Withdrawn { why: why.to_owned() },
            };
            let id = format!("{}:withdrawn", question.question_id);
            batch.add(session.clone(), answer_row(id, message.timestamp, message.chat.address(None), &answer));
            batch.ended.push(Ended { question, shown: "not answered".to_owned() });
        }
        Ok(())
    }

    /// What a batch on disk has ended is over.
    pub(super) fn end_questions(&self, ended: &[Ended]) {
        for Ended { question, shown } in ended {
            if let Err(e) = crate::question::end(&self.store, question, shown) {
                log::warn!("A question is still on record question={} error={e:#}", question.question_id);
            }
        }
        if !ended.is_empty() {
            crate::thread::tell(&self.delivery, crate::delivery::Event::HostOutbox);
        }
    }
}

impl Batch<'_> {
    fn has_ended(&self, question: &Question) -> bool {
        self.ended.iter().any(|ended| ended.question.question_id == question.question_id)
    }
}
