//! Finding the one row that a word on the command line means.

use anyhow::{Result, bail};

use crate::store::Row;

/// How many rows an error lists.
const MAX_LISTED: usize = 20;

/// The row with the id `word`, else the only one with that name (the first kind of name that fits
/// any row decides), else the only one whose id begins so.
pub fn pick<T: Row>(mut rows: Vec<T>, word: &str, names: impl Fn(&T) -> Vec<&str>) -> Result<T> {
    let id = |row: &T| row.name();
    let kinds = rows.iter().map(|row| names(row).len()).max().unwrap_or(0);
    let matching = |fits: &dyn Fn(&T) -> bool| -> Vec<usize> {
        rows.iter().enumerate().filter(|(_, row)| fits(row)).map(|(n, _)| n).collect()
    };
    let mut found = matching(&|row| id(row) == word);
    for kind in 0..kinds {
        if found.is_empty() {
            found = matching(&|row| names(row).get(kind) == Some(&word));
        }
    }
    if found.is_empty() && !word.is_empty() {
        found = matching(&|row| id(row).starts_with(word));
    }
    let described = |row: &T| match names(row).first() {
        Some(name) if **name != *id(row) => format!("{} ({name})", id(row)),
        _ => id(row),
    };
    let noun = T::NOUN;
    match found[..] {
        [n] => Ok(rows.swap_remove(n)),
        [] if rows.is_empty() => bail!("there is no {noun} `{word}`; there are none at all"),
        [] => {
            let mut known: Vec<_> = rows.iter().take(MAX_LISTED).map(described).collect();
            if rows.len() > MAX_LISTED {
                known.push(format!("and {} more", rows.len() - MAX_LISTED));
            }
            bail!("there is no {noun} `{word}`; there are: {}", known.join(", "))
        }
        _ => {
            let meant: Vec<_> = found.iter().map(|n| described(&rows[*n])).collect();
            bail!("`{word}` may be several: {}; give the id", meant.join(", "))
        }
    }
}
