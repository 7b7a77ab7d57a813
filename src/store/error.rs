//! What can go wrong with the central database, told apart where a caller does something else.
//!
//! This layer names the fault and the row; which chat, command or file it was about is added above.

use std::fmt;

use rusqlite::ffi;

use super::table::Row;

pub type Result<T, E = StoreError> = std::result::Result<T, E>;

#[derive(Debug)]
pub enum StoreError {
    /// There is no such row (or, for the noun `database`, no such file).
    NotFound { noun: &'static str, id: String },
    /// Another row has what must be unique: the id or, such as `agent_groups.folder`, what is `taken`.
    Conflict { noun: &'static str, id: String, taken: String },
    /// The row breaks a rule of its table.
    Invalid { noun: &'static str, id: String, problem: String },
    /// A stored value is none that this version knows.
    Corrupt { table: &'static str, row: String, column: &'static str, problem: String },
    /// The database's history is not, or not yet, ours; which, and what helps.
    Schema(String),
    /// The database file could not be created.
    Io(std::io::Error),
    /// Any other fault, in SQLite's words.
    Sqlite(rusqlite::Error),
}

impl StoreError {
    pub(super) fn not_found<T: Row>(id: &str) -> StoreError {
        StoreError::NotFound { noun: T::NOUN, id: id.to_owned() }
    }

    pub(super) fn invalid<T: Row>(id: &str, problem: impl Into<String>) -> StoreError {
        StoreError::Invalid { noun: T::NOUN, id: id.to_owned(), problem: problem.into() }
    }

    /// Names the row that a constraint refused. Other errors stay as they are.
    pub(super) fn about<T: Row>(self, row: &T) -> StoreError {
        let (code, message) = match &self {
            StoreError::Sqlite(rusqlite::Error::SqliteFailure(code, message)) => {
                (code.extended_code, message.clone().unwrap_or_default())
            }
            _ => return self,
        };
        match code {
            ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY => StoreError::Conflict {
                noun: T::NOUN,
                id: row.name(),
                taken: message.trim_start_matches("UNIQUE constraint failed: ").to_owned(),
            },
            ffi::SQLITE_CONSTRAINT_FOREIGNKEY => {
                StoreError::invalid::<T>(&row.name(), "it refers to a row that does not exist")
            }
            ffi::SQLITE_CONSTRAINT_CHECK | ffi::SQLITE_CONSTRAINT_NOTNULL => {
                StoreError::invalid::<T>(&row.name(), message)
            }
            _ => self,
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::NotFound { noun, id } => write!(f, "there is no {noun} `{id}`"),
            StoreError::Conflict { noun, id, taken } => write!(f, "{noun} `{id}`: already taken ({taken})"),
            StoreError::Invalid { noun, id, problem } => write!(f, "{noun} `{id}`: {problem}"),
            StoreError::Corrupt { table, row, column, problem } => {
                write!(f, "table {table}, row `{row}`, column {column}: {problem}")
            }
            StoreError::Schema(problem) => f.write_str(problem),
            StoreError::Io(_) => write!(f, "the database file cannot be created"),
            StoreError::Sqlite(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StoreError::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> StoreError {
        StoreError::Sqlite(error)
    }
}
