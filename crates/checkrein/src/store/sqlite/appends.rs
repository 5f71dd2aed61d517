//! Rows of numbered tables, collected and written several to a statement: half the cost of one by one.

use std::ops::Range;

use rusqlite::Connection;

use crate::store::durable::Table;

/// So many rows go into one statement.
const ROWS: usize = 8;
/// The tables whose rows are collected: nearly always new rows, and nearly never read in the transaction they are of.
const COLLECTED: [Table; 3] = [Table::Entry, Table::Salt, Table::Permit];

/// Rows that have been put and not been written.
#[derive(Debug, Default)]
pub(super) struct Appends {
    tables: [Rows; COLLECTED.len()],
}

#[derive(Debug, Default)]
struct Rows {
    rows: Vec<(i64, Range<usize>)>,
    bytes: Vec<u8>,
    /// The statements for several rows and for one.
    sql: [String; 2],
}

impl Appends {
    fn of(&mut self, table: Table) -> Option<&mut Rows> {
        let place = COLLECTED.iter().position(|other| *other == table)?;
        self.tables.get_mut(place)
    }

    /// Takes a row; `false` when this table's rows are not collected.
    pub(super) fn put(
        &mut self,
        connection: &Connection,
        table: Table,
        number: i64,
        row: &[u8],
    ) -> rusqlite::Result<bool> {
        let Some(rows) = self.of(table) else { return Ok(false) };
        // Of two rows under one key the later counts.
        if rows.rows.last().is_some_and(|(last, _)| *last >= number) && rows.has(number) {
            rows.write(connection, table)?;
        }
        let start = rows.bytes.len();
        rows.bytes.extend_from_slice(row);
        rows.rows.push((number, start..rows.bytes.len()));
        if rows.rows.len() >= ROWS {
            rows.write(connection, table)?;
        }
        Ok(true)
    }

    /// Writes what was collected of a table, before something else is done with it.
    pub(super) fn write(&mut self, connection: &Connection, table: Table) -> rusqlite::Result<()> {
        self.of(table).map_or(Ok(()), |rows| rows.write(connection, table))
    }

    /// Writes a row that is about to be removed, if it has not been.
    pub(super) fn before_delete(
        &mut self,
        connection: &Connection,
        table: Table,
        number: i64,
    ) -> rusqlite::Result<()> {
        match self.of(table) {
            Some(rows) if rows.has(number) => rows.write(connection, table),
            _ => Ok(()),
        }
    }

    /// Writes everything.
    pub(super) fn write_all(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        COLLECTED.into_iter().try_for_each(|table| self.write(connection, table))
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        for rows in &mut self.tables {
            rows.rows.clear();
            rows.bytes.clear();
        }
    }
}

impl Rows {
    fn has(&self, number: i64) -> bool {
        self.rows.iter().any(|(other, _)| *other == number)
    }

    fn write(&mut self, connection: &Connection, table: Table) -> rusqlite::Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let [several, one] = &mut self.sql;
        if several.is_empty() {
            let values: Vec<String> =
                (0..ROWS).map(|n| format!("(?{}, ?{})", 2 * n + 1, 2 * n + 2)).collect();
            let of = |values: &str| {
                let name = table.name();
                format!(
                    "INSERT INTO {name} (key, body) VALUES {values} ON CONFLICT (key) DO UPDATE SET body = excluded.body"
                )
            };
            (*several, *one) = (of(&values.join(", ")), of("(?1, ?2)"));
        }
        let mut rest = self.rows.as_slice();
        while !rest.is_empty() {
            let (sql, now) = if rest.len() >= ROWS { (&*several, ROWS) } else { (&*one, 1) };
            let (group, later) = rest.split_at_checked(now).unwrap_or((rest, &[]));
            let mut statement = connection.prepare_cached(sql)?;
            for ((number, range), at) in group.iter().zip((1..).step_by(2)) {
                statement.raw_bind_parameter(at, number)?;
                statement.raw_bind_parameter(at + 1, self.bytes.get(range.clone()).unwrap_or_default())?;
            }
            statement.raw_execute()?;
            rest = later;
        }
        self.rows.clear();
        self.bytes.clear();
        Ok(())
    }
}
