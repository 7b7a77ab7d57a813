//! Pending questions: what an agent asked a person and waits for. A row goes when it is answered.

use jiff::Timestamp;
use nanoclaw_session::time::comparable;
use serde_json::Value;

use super::{Result, Store};

table! {
    /// A row of `pending_questions`.
    pub struct Question in "pending_questions" as "question", key 1 {
        question_id: String,
        session_id: String,
        message_out_id: String,
        platform_id: Option<String>,
        channel_type: Option<String>,
        thread_id: Option<String>,
        title: String,
        options_json: Value,
        created_at: Timestamp,
        expires_at: Option<Timestamp>,
    }
}

impl Store {
    /// Records a question; one with the same id (a delivery that is retried) is replaced.
    pub fn put_question(&self, question: &Question) -> Result<()> {
        self.put(question)
    }

    pub fn find_question(&self, question_id: &str) -> Result<Option<Question>> {
        self.find("WHERE question_id = ?1", &[&question_id])
    }

    pub fn questions(&self) -> Result<Vec<Question>> {
        self.all("ORDER BY rowid", &[])
    }

    /// Removes the question and returns it: to the first who answers, and to nobody else.
    pub fn take_question(&self, question_id: &str) -> Result<Option<Question>> {
        Ok(self.take("WHERE question_id = ?1", &[&question_id])?.pop())
    }

    /// Removes and returns the questions that nobody answered in time.
    pub fn take_expired_questions(&self, now: Timestamp) -> Result<Vec<Question>> {
        let tail = format!("WHERE {} <= {}", comparable("expires_at"), comparable("?1"));
        self.take(&tail, &[&now])
    }
}
