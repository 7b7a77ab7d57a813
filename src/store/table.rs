//! The database edge: how a Rust value becomes a column, and a struct a row.
//!
//! `text_enum!` is the one parse/format table of a state; `table!` declares a row whose fields
//! are the columns. Text that no table knows is an error naming table, row and column.

use jiff::Timestamp;
use nanoclaw_session::row::{DestinationType, InKind, OutKind};
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

impl ToSql for dyn ToColumn + '_ {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.to_column())
    }
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

    fn read(row: &rusqlite::Row<'_>) -> Result<Self>;
    fn columns(&self) -> Vec<&dyn ToColumn>;

    /// The key as text.
    fn name(&self) -> String {
        let key = self.columns().into_iter().take(Self::KEY).map(|column| match column.to_json() {
            Value::String(text) => text,
            Value::Null => "-".to_owned(),
            other => other.to_string(),
        });
        key.collect::<Vec<_>>().join("/")
    }

    /// The row as an object with a field per column.
    fn to_json(&self) -> Value {
        let values = self.columns().into_iter().map(ToColumn::to_json);
        let names = Self::COLUMNS.iter().map(|name| (*name).to_owned());
        Value::Object(names.zip(values).collect())
    }
}

/// Reads the column `name` of a row of `T`.
pub fn read_column<T: Row, V: FromColumn>(row: &rusqlite::Row<'_>, name: &'static str) -> Result<V> {
    V::from_column(row.get_ref(name)?).map_err(|problem| {
        let key = T::COLUMNS.iter().take(T::KEY).map(|column| row.get(*column).unwrap_or_else(|_| "-".to_owned()));
        StoreError::Corrupt { table: T::TABLE, row: key.collect::<Vec<_>>().join("/"), column: name, problem }
    })
}

/// The state of `all` that `text` spells.
pub fn spelled<T: Copy>(text: &str, all: &[T], as_str: fn(T) -> &'static str) -> Result<T, String> {
    all.iter().copied().find(|known| as_str(*known) == text).ok_or_else(|| {
        let allowed: Vec<_> = all.iter().map(|known| as_str(*known)).collect();
        format!("`{text}` is none of {}", allowed.join(", "))
    })
}

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

/// The reading of a type that rusqlite reads as we want it.
macro_rules! read_by_rusqlite {
    ($($type:ty),+) => {$(
        impl FromColumn for $type {
            fn from_column(value: ValueRef<'_>) -> Result<Self, String> {
                <$type as rusqlite::types::FromSql>::column_result(value).map_err(|error| error.to_string())
            }
        }
    )+};
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
        }

        impl std::str::FromStr for $name {
            type Err = anyhow::Error;
            fn from_str(text: &str) -> anyhow::Result<$name> {
                $crate::store::table::spelled(text, $name::ALL, $name::as_str).map_err(anyhow::Error::msg)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        written!($name, |state| state.as_str());

        impl $crate::store::table::FromColumn for $name {
            fn from_column(value: rusqlite::types::ValueRef<'_>) -> Result<Self, String> {
                $crate::store::table::spelled($crate::store::table::text(value)?, $name::ALL, $name::as_str)
            }
        }
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

            fn read(row: &rusqlite::Row<'_>) -> $crate::store::error::Result<Self> {
                Ok($name { $($field: $crate::store::table::read_column::<Self, _>(row, stringify!($field))?,)+ })
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
written!(f64, |number| *number);
written!(bool, |flag| *flag);
written!(Timestamp, |time| format_utc(*time));
written!(DestinationType, |kind| kind.as_str());
written!(OutKind, |kind| kind.as_str());
written!(InKind, |kind| kind.as_str());
read_by_rusqlite!(String, i64, u32, f64, bool, DestinationType, OutKind, InKind);
json_column!(Value);
json_column!(serde_json::Map<String, Value>);
json_column!(Vec<Value>);
json_column!(Vec<String>);

pub fn text(value: ValueRef<'_>) -> Result<&str, String> {
    value.as_str().map_err(|error| error.to_string())
}

impl FromColumn for Timestamp {
    fn from_column(value: ValueRef<'_>) -> Result<Self, String> {
        let text = text(value)?;
        parse_utc(text).ok_or_else(|| format!("`{text}` is not a time"))
    }
}

impl<T: ToColumn> ToColumn for Option<T> {
    fn to_column(&self) -> ToSqlOutput<'_> {
        self.as_ref().map_or_else(|| rusqlite::types::Null.into(), ToColumn::to_column)
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
