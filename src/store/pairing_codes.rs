//! Pairing codes: with one, a person claims ownership from a private chat. At most one is open.

use jiff::{SignedDuration, Timestamp};

use super::{Result, Store};

/// How long a code may be used.
pub const PAIRING_VALID_MINUTES: i64 = 10;

table! {
    /// A row of `pairing_codes`.
    pub struct PairingCode in "pairing_codes" as "pairing code", key 1 {
        code: String,
        created_at: Timestamp,
        expires_at: Timestamp,
        used_by: Option<String>,
        used_at: Option<Timestamp>,
    }
}

/// What a code was worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redeemed {
    Now,
    /// The same user used it already: their message came again.
    Before,
    /// It is unknown, expired or somebody else's.
    Invalid,
}

impl Store {
    /// Opens a code and forgets every earlier one.
    pub fn create_pairing_code(&self, code: &str, now: Timestamp) -> Result<PairingCode> {
        let row = PairingCode {
            code: code.to_owned(),
            created_at: now,
            expires_at: now + SignedDuration::from_mins(PAIRING_VALID_MINUTES),
            used_by: None,
            used_at: None,
        };
        self.transaction(|| {
            self.delete::<PairingCode>("", &[])?;
            self.insert(&row)
        })?;
        Ok(row)
    }

    /// Uses a code up.
    pub fn redeem_pairing_code(&self, code: &str, user_id: &str, now: Timestamp) -> Result<Redeemed> {
        self.transaction(|| {
            let Some(row) = self.find::<PairingCode>("WHERE code = ?1", &[&code])? else {
                return Ok(Redeemed::Invalid);
            };
            match row.used_by.as_deref() {
                Some(user) if user == user_id => Ok(Redeemed::Before),
                Some(_) => Ok(Redeemed::Invalid),
                None if row.expires_at < now => Ok(Redeemed::Invalid),
                None => {
                    self.update(&PairingCode { used_by: Some(user_id.to_owned()), used_at: Some(now), ..row })?;
                    Ok(Redeemed::Now)
                }
            }
        })
    }
}
