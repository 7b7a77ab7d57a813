//! What an import did, or would do: every row of every table has exactly one [`Fate`].

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
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Account {
    pub name: String,
    /// Rows in the source: the sum of the next four.
    pub found: u64,
    pub imported: u64,
    pub already_there: u64,
    pub dropped: u64,
    pub refused: u64,
    /// Rows that the source lacks and the home needs.
    pub added: u64,
    pub problems: Vec<Problem>,
}

/// Why a row did not come along.
#[derive(Debug, Serialize)]
pub struct Problem {
    /// Its key; `*` for all of them.
    pub row: String,
    pub reason: String,
}

/// What became of one row.
#[derive(Debug, Clone)]
pub enum Fate {
    Imported,
    /// The home has it.
    AlreadyThere,
    /// Left behind, for this reason.
    Dropped(String),
    /// Broken, in this way: while there are any, nothing is imported.
    Refused(String),
}

/// A heading, and what is below it.
type Column = (&'static str, fn(&Account) -> u64);

/// The columns of the report for people.
const COLUMNS: [Column; 6] = [
    ("found", |a| a.found),
    ("imported", |a| a.imported),
    ("already there", |a| a.already_there),
    ("dropped", |a| a.dropped),
    ("refused", |a| a.refused),
    ("added", |a| a.added),
];

impl Account {
    pub fn new(name: impl Into<String>) -> Account {
        Account { name: name.into(), ..Account::default() }
    }

    /// Enters `rows` rows of one fate, called `row`.
    pub fn enter(&mut self, rows: u64, row: impl Into<String>, fate: Fate) {
        self.found += rows;
        let (count, reason) = match fate {
            Fate::Imported => (&mut self.imported, None),
            Fate::AlreadyThere => (&mut self.already_there, None),
            Fate::Dropped(reason) => (&mut self.dropped, Some(reason)),
            Fate::Refused(reason) => (&mut self.refused, Some(reason)),
        };
        *count += rows;
        self.problems.extend(reason.map(|reason| Problem { row: row.into(), reason }));
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
        let mut text = format!("{:width$}", "table");
        for (heading, _) in COLUMNS {
            text += &format!("  {heading:>6}");
        }
        for account in &self.tables {
            text += &format!("\n{:width$}", account.name);
            for (heading, count) in COLUMNS {
                text += &format!("  {:>1$}", count(account), heading.len().max(6));
            }
        }
        text.push('\n');
        for account in &self.tables {
            for problem in &account.problems {
                text += &format!("{} {}: {}\n", account.name, problem.row, problem.reason);
            }
        }
        for note in &self.notes {
            text += &format!("note: {note}\n");
        }
        text
    }
}
