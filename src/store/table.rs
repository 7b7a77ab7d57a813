//! The database edge: how a Rust value becomes a column, and a struct a row.
//!
//! `text_enum!` is the one parse/format table of a state; `table!` declares a row whose fields
//! are the columns. Text that no table knows is an error naming table, row and column.

use std::fmt;

use jiff::Timestamp;
use jiff::civil::Date;
use nanoclaw_session::row::{DestinationType, OutKind};
use nanoclaw_session::time::{format_utc, parse_utc};
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use serde_json::Value;

use super::error::{Result, StoreError};

/// A value that can be written to a column.
pub trait ToColumn {
    fn to_column(&self) -> ToSqlOutput<'_>;

    /// The value as a program reads it in `--json` output.
    fn to_json(&self) -> Value;
}

/// A value that can be read from a column. The error says what is wrong with the stored value.
pub trait FromColumn: Sized {
    fn from_column(value: ValueRef<'_>) -> Result<Self, String>;
}

/// A typed row, whose fields are the columns, the key first.
pub trait Row: Sized {
    const TABLE: &'static str;
    /// What people call it.
    const NOUN: &'static str;
    /// How many leading columns identify the row.
    const KEY: usize;
    const COLUMNS: &'static [&'static str];

    fn read(fields: &mut Fields<'_>) -> Result<Self>;
    fn columns(&self) -> Vec<&dyn ToColumn>;

    /// The key as text.
    fn name(&self) -> String {
        let key: Vec<_> = self.columns()[..Self::KEY]
            .iter()
            .map(|column| match column.to_json() {
                Value::String(text) => text,
                Value::Null => "-".to_owned(),
                other => other.to_string(),
            })
            .collect();
        key.join("/")
    }

    /// The row as an object with a field per column.
    fn to_json(&self) -> Value {
        let values = self.columns().into_iter().map(ToColumn::to_json);
        let names = Self::COLUMNS.iter().map(|name| (*name).to_owned());
        Value::Object(names.zip(values).collect())
    }
}

/// A cursor over the columns of one row.
pub struct Fields<'a> {
    row: &'a rusqlite::Row<'a>,
    table: &'static str,
    names: &'static [&'static str],
    key: usize,
    next: usize,
}

impl<'a> Fields<'a> {
    pub(super) fn of<T: Row>(row: &'a rusqlite::Row<'a>) -> Fields<'a> {
        Fields { row, table: T::TABLE, names: T::COLUMNS, key: T::KEY, next: 0 }
    }

    pub(super) fn next<T: FromColumn>(&mut self) -> Result<T> {
        let index = self.next;
        self.next += 1;
        T::from_column(self.row.get_ref(index)?).map_err(|problem| StoreError::Corrupt {
            table: self.table,
            row: self.key(),
            column: self.names[index],
            problem,
        })
    }

    fn key(&self) -> String {
        let parts: Vec<_> = (0..self.key)
            .map(|index| match self.row.get_ref(index) {
                Ok(ValueRef::Text(text)) => String::from_utf8_lossy(text).into_owned(),
                Ok(ValueRef::Integer(number)) => number.to_string(),
                _ => "-".to_owned(),
            })
            .collect();
        parts.join("/")
    }
}

/// A column value as a statement's parameter.
pub struct Bound<'a>(pub &'a dyn ToColumn);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.0.to_column())
    }
}

/// Text that is none of the words a state has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownText {
    pub text: String,
    pub allowed: Vec<&'static str>,
}

impl fmt::Display for UnknownText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is none of {}", self.text, self.allowed.join(", "))
    }
}

impl std::error::Error for UnknownText {}

/// The written form of a type, which is the same in a column and in JSON.
macro_rules! written {
    ($type:ty, |$value:ident| $written:expr) => {
        impl $crate::store::table::ToColumn for $type {
            fn to_column(&self) -> rusqlite::types::ToSqlOutput<'_> {
                let $value = self;
                $written.into()
            }
            fn to_json(&self) -> serde_json::Value {
                let $value = self;
                $written.into()
            }
        }
    };
}

/// The column form of a type with `ALL`, `as_str` and `parse`.
macro_rules! text_column {
    ($name:ident) => {
        written!($name, |state| state.as_str());

        impl $crate::store::table::FromColumn for $name {
            fn from_column(value: rusqlite::types::ValueRef<'_>) -> Result<Self, String> {
                let text = $crate::store::table::text(value)?;
                $name::parse(text).ok_or_else(|| {
                    let allowed = $name::ALL.iter().map(|known| known.as_str()).collect();
                    $crate::store::table::UnknownText { text: text.to_owned(), allowed }.to_string()
                })
            }
        }
    };
}

/// An enum stored as text: one table, both directions, all variants.
macro_rules! text_enum {
    ($(#[$meta:meta])* pub enum $name:ident {
        $($(#[$variant_meta:meta])* $variant:ident = $text:literal,)+
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_meta])* $variant,)+ }

        impl $name {
            /// Every value, in the order of declaration.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text,)+ }
            }

            pub fn parse(text: &str) -> Option<$name> {
                $name::ALL.iter().copied().find(|known| known.as_str() == text)
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::store::table::UnknownText;
            fn from_str(text: &str) -> Result<$name, Self::Err> {
                $name::parse(text).ok_or_else(|| $crate::store::table::UnknownText {
                    text: text.to_owned(),
                    allowed: vec![$($text),+],
                })
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        text_column!($name);
    };
}

/// A row: `pub struct Name in "table" as "noun", key N { columns }`.
macro_rules! table {
    ($(#[$meta:meta])* pub struct $name:ident in $table:literal as $noun:literal, key $key:literal {
        $($(#[$field_meta:meta])* $field:ident: $type:ty,)+
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name { $($(#[$field_meta])* pub $field: $type,)+ }

        impl $crate::store::table::Row for $name {
            const TABLE: &'static str = $table;
            const NOUN: &'static str = $noun;
            const KEY: usize = $key;
            const COLUMNS: &'static [&'static str] = &[$(stringify!($field)),+];

            fn read(
                fields: &mut $crate::store::table::Fields<'_>,
            ) -> $crate::store::error::Result<Self> {
                Ok($name { $($field: fields.next()?,)+ })
            }

            fn columns(&self) -> Vec<&dyn $crate::store::table::ToColumn> {
                vec![$(&self.$field),+]
            }
        }
    };
}

/// JSON text in a column, as one of the types serde reads and writes.
macro_rules! json_column {
    ($type:ty) => {
        impl $crate::store::table::ToColumn for $type {
            fn to_column(&self) -> rusqlite::types::ToSqlOutput<'_> {
                $crate::store::table::ToColumn::to_json(self).to_string().into()
            }
            fn to_json(&self) -> serde_json::Value {
                serde_json::json!(self)
            }
        }

        impl $crate::store::table::FromColumn for $type {
            fn from_column(value: rusqlite::types::ValueRef<'_>) -> Result<Self, String> {
                serde_json::from_str($crate::store::table::text(value)?).map_err(|error| error.to_string())
            }
        }
    };
}

written!(&str, |text| *text);
written!(String, |text| text.as_str());
written!(i64, |number| *number);
written!(u32, |number| *number);
written!(bool, |flag| *flag);
written!(Timestamp, |time| format_utc(*time));
written!(Date, |day| day.to_string());
text_column!(DestinationType);
text_column!(OutKind);
json_column!(Value);
json_column!(serde_json::Map<String, Value>);
json_column!(Vec<Value>);
json_column!(Vec<String>);

pub(super) fn text(value: ValueRef<'_>) -> Result<&str, String> {
    value.as_str().map_err(|error| error.to_string())
}

impl FromColumn for String {
    fn from_column(value: ValueRef<'_>) -> Result<Self, String> {
        text(value).map(str::to_owned)
    }
}

impl FromColumn for i64 {
    fn from_column(value: ValueRef<'_>) -> Result<Self, String> {
        value.as_i64().map_err(|error| error.to_string())
    }
}

impl FromColumn for u32 {
    fn from_column(value: ValueRef<'_>) -> Result<Self, String> {
        let number = i64::from_column(value)?;
        u32::try_from(number).map_err(|error| format!("{number}: {error}"))
    }
}

impl FromColumn for bool {
    fn from_column(value: ValueRef<'_>) -> Result<Self, String> {
        match i64::from_column(value)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(format!("{other} is neither 0 nor 1")),
        }
    }
}

impl FromColumn for Timestamp {
    fn from_column(value: ValueRef<'_>) -> Result<Self, String> {
        let text = text(value)?;
        parse_utc(text).ok_or_else(|| format!("`{text}` is not a time"))
    }
}

impl FromColumn for Date {
    fn from_column(value: ValueRef<'_>) -> Result<Self, String> {
        text(value)?.parse().map_err(|error: jiff::Error| error.to_string())
    }
}

impl<T: ToColumn> ToColumn for Option<T> {
    fn to_column(&self) -> ToSqlOutput<'_> {
        match self {
            Some(value) => value.to_column(),
            None => rusqlite::types::Null.into(),
        }
    }
    fn to_json(&self) -> Value {
        self.as_ref().map_or(Value::Null, ToColumn::to_json)
    }
}

impl<T: FromColumn> FromColumn for Option<T> {
    fn from_column(value: ValueRef<'_>) -> Result<Self, String> {
        match value {
            ValueRef::Null => Ok(None),
            value => T::from_column(value).map(Some),
        }
    }
}
