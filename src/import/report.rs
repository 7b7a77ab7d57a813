//! What an import did, or would do: every row of every table is in exactly one column.

use serde::Serialize;

/// The account of one import.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Nothing was changed: it was asked what would happen.
    pub dry_run: bool,
    pub tables: Vec<Account>,
    /// What the owner should know.
    pub notes: Vec<String>,
}

/// The account of one table, or of a kind of folder (its name ends in `/`).
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Account {
    pub name: String,
    /// Rows in the source: the sum of the next four.
    pub found: u64,
    pub imported: u64,
    /// The home has it already.
    pub already_there: u64,
    /// Left behind; `problems` says why.
    pub dropped: u64,
    /// Broken: while there are any, nothing is imported.
    pub refused: u64,
    /// Rows that the source lacks and the home needs.
    pub added: u64,
    pub problems: Vec<Problem>,
}

/// Why a row did not come along.
#[derive(Debug, Clone, Serialize)]
pub struct Problem {
    /// Its key; `*` for all of them.
    pub row: String,
    pub reason: String,
}

/// What became of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Imported,
    AlreadyThere,
}

impl Account {
    pub fn new(name: impl Into<String>) -> Account {
        Account { name: name.into(), ..Account::default() }
    }

    pub fn count(&mut self, fate: Fate) {
        self.found += 1;
        match fate {
            Fate::Imported => self.imported += 1,
            Fate::AlreadyThere => self.already_there += 1,
        }
    }

    pub fn drop_row(&mut self, row: impl Into<String>, reason: impl ToString) {
        self.found += 1;
        self.dropped += 1;
        self.problems.push(Problem { row: row.into(), reason: reason.to_string() });
    }

    /// Drops a whole table for one reason.
    pub fn drop_all(&mut self, rows: u64, reason: &str) {
        self.found += rows;
        self.dropped += rows;
        if rows > 0 {
            self.problems.push(Problem { row: "*".to_owned(), reason: reason.to_owned() });
        }
    }

    pub fn refuse(&mut self, row: impl Into<String>, reason: impl ToString) {
        self.found += 1;
        self.refused += 1;
        self.problems.push(Problem { row: row.into(), reason: reason.to_string() });
    }
}

impl Report {
    /// How many rows are broken.
    pub fn refused(&self) -> u64 {
        self.tables.iter().map(|account| account.refused).sum()
    }

    /// The report for people.
    pub fn to_text(&self) -> String {
        let width = self.tables.iter().map(|account| account.name.len()).max().unwrap_or(0).max("table".len());
        let mut text = format!(
            "{:width$}  {:>6} {:>8} {:>13} {:>7} {:>7} {:>5}\n",
            "table", "found", "imported", "already there", "dropped", "refused", "added"
        );
        for a in &self.tables {
            text += &format!(
                "{:width$}  {:>6} {:>8} {:>13} {:>7} {:>7} {:>5}\n",
                a.name, a.found, a.imported, a.already_there, a.dropped, a.refused, a.added
            );
        }
        for a in &self.tables {
            for problem in &a.problems {
                text += &format!("{} {}: {}\n", a.name, problem.row, problem.reason);
            }
        }
        for note in &self.notes {
            text += &format!("note: {note}\n");
        }
        text
    }
}
