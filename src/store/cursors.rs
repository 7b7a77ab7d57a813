//! Channel cursors: how far each account has read its platform. Written after the batch is durable.

use jiff::Timestamp;

use super::{Result, Store};

table! {
    /// A row of `channel_cursors`.
    pub struct Cursor in "channel_cursors" as "cursor", key 1 {
        /// The channel and the account's own id: a new token does not inherit an old cursor.
        channel_account: String,
        cursor: String,
        updated_at: Timestamp,
    }
}

impl Store {
    pub fn cursor(&self, channel_account: &str) -> Result<Option<String>> {
        let row: Option<Cursor> = self.find("WHERE channel_account = ?1", &[&channel_account])?;
        Ok(row.map(|row| row.cursor))
    }

    pub fn set_cursor(&self, channel_account: &str, cursor: &str, now: Timestamp) -> Result<()> {
        self.put(&Cursor { channel_account: channel_account.to_owned(), cursor: cursor.to_owned(), updated_at: now })
    }
}
