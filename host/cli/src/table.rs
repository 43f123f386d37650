//! Plain tables: a header, rows, two spaces between columns, no frame, so that `awk` can read them.
//!
//! Knows widths and nothing of what stands in a cell.

use std::fmt::{self, Write as _};

use crate::output::Style;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
    style: Style,
}

impl Table {
    pub(crate) fn new(style: Style, columns: &[(&'static str, Align)]) -> Self {
        Self {
            columns: columns.to_vec(),
            rows: Vec::new(),
            style,
        }
    }

    /// Adds a row. An empty cell is shown as `-`, so that every row has as many words as the header.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        assert_eq!(N, self.columns.len(), "a cell for each column");
        self.rows.push(Vec::from(cells.map(|cell| clean(&cell))));
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|column| {
                let cells = self.rows.iter().map(|row| width(&row[column]));
                cells
                    .chain([width(self.columns[column].0)])
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let header: Vec<&str> = self.columns.iter().map(|(name, _)| *name).collect();
        let header = self.line(&header, &widths);
        writeln!(f, "{}", self.style.bold(&header))?;
        for row in &self.rows {
            let cells: Vec<&str> = row.iter().map(String::as_str).collect();
            writeln!(f, "{}", self.line(&cells, &widths))?;
        }
        Ok(())
    }
}

impl Table {
    fn line(&self, cells: &[&str], widths: &[usize]) -> String {
        let mut line = String::new();
        for (index, cell) in cells.iter().enumerate() {
            let pad = " ".repeat(widths[index] - width(cell));
            let written = match self.columns[index].1 {
                Align::Left => write!(line, "{cell}{pad}"),
                Align::Right => write!(line, "{pad}{cell}"),
            };
            written.expect("a String takes every write");
            if index + 1 < cells.len() {
                line.push_str("  ");
            }
        }
        line.truncate(line.trim_end().len());
        line
    }
}

/// Control characters in a name that came over the network must not reach a terminal.
fn clean(cell: &str) -> String {
    if cell.is_empty() {
        return "-".to_owned();
    }
    cell.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// Characters, not columns: names are ASCII, and a wide character elsewhere costs only alignment.
fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rows: &[[&str; 3]], expected: &str) {
        let columns = [
            ("name", Align::Left),
            ("requests", Align::Right),
            ("age", Align::Left),
        ];
        let mut table = Table::new(Style::plain(), &columns);
        for row in rows {
            table.row(row.map(str::to_owned));
        }
        assert_eq!(table.to_string(), expected);
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        check(&[], "name  requests  age\n");
        check(
            &[["digits", "12", "3m"], ["a", "1234567890", ""]],
            "name      requests  age\n\
             digits          12  3m\n\
             a       1234567890  -\n",
        );
    }

    #[test]
    fn escapes_do_not_reach_the_terminal() {
        check(
            &[["\u{1b}[2Jx", "é", "ü"]],
            "name   requests  age\n?[2Jx         é  ü\n",
        );
    }

    #[test]
    fn only_a_styled_header_has_escapes() {
        let mut table = Table::new(Style::styled(), &[("a", Align::Left)]);
        table.row(["b".to_owned()]);
        assert_eq!(table.to_string(), "\u{1b}[1ma\u{1b}[0m\nb\n");
    }
}
