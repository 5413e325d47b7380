//! Tables that fit a terminal.

use std::io::{self, IsTerminal, Write};

use anstyle::{AnsiColor, Style};

use crate::domain::{Phase, ResourceState, is_visible};

/// Rows of cells; the widest column gives way when the terminal is too narrow.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<Cell>>,
}

#[derive(Debug, Clone)]
pub(super) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    pub(super) fn styled(text: impl Into<String>, style: Style) -> Self {
        // Labels and states come from outside; they must not steer a terminal.
        let text =
            text.into().chars().map(|c| if is_visible(c) { c } else { '\u{fffd}' }).collect();
        Self { text, style }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::styled(text, Style::new())
    }
}

pub(super) const DIM: Style = Style::new().dimmed();
pub(super) const BOLD: Style = Style::new().bold();
pub(super) const GREEN: Style = AnsiColor::Green.on_default();
pub(super) const YELLOW: Style = AnsiColor::Yellow.on_default();
pub(super) const RED: Style = AnsiColor::Red.on_default();
pub(super) const CYAN: Style = AnsiColor::Cyan.on_default();

const GAP: usize = 2;
const NARROWEST: usize = 8;

impl Table {
    pub(super) fn new(header: &[&str]) -> Self {
        Self { rows: vec![header.iter().map(|&name| Cell::styled(name, DIM)).collect()] }
    }

    /// A table without a header.
    pub(super) const fn bare() -> Self {
        Self { rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// Writes the table, no wider than `width` if that is given.
    pub(super) fn write(&self, out: &mut impl Write, width: Option<usize>) -> io::Result<()> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let mut widths: Vec<usize> = (0..columns)
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                cells.map(|cell| cell.text.chars().count()).max().unwrap_or(0)
            })
            .collect();
        if let Some(width) = width {
            narrow(&mut widths, width);
        }
        for row in &self.rows {
            for (column, cell) in row.iter().enumerate() {
                let text = shortened(&cell.text, widths[column]);
                let padding = if column + 1 == row.len() {
                    0
                } else {
                    widths[column] - text.chars().count() + GAP
                };
                write!(out, "{}{text}{:#}{:padding$}", cell.style, cell.style, "")?;
            }
            writeln!(out)?;
        }
        Ok(())
    }
}

fn narrow(widths: &mut [usize], width: usize) {
    let gaps = GAP * widths.len().saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > width {
        // Ids come first and are no use cut off, so the others give way before them.
        let last_widest = widths.iter().enumerate().skip(1).max_by_key(|(_, width)| **width);
        let Some((column, &widest)) = last_widest.filter(|(_, width)| **width > NARROWEST) else {
            return;
        };
        widths[column] = widest - 1;
    }
}

pub(super) fn shortened(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['\u{2026}']).collect()
}

/// JSON as it is to be printed: on a terminal, what could steer it is written as JSON's own escape,
/// which means the same.
pub(super) fn printable_json(json: String) -> String {
    json_for(io::stdout().is_terminal(), json)
}

/// Between its strings JSON holds nothing that is not visible but white space.
fn json_for(is_terminal: bool, json: String) -> String {
    let hidden = |c: char| !is_visible(c) && !c.is_ascii_whitespace();
    if !is_terminal || !json.contains(hidden) {
        return json;
    }
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        if hidden(c) {
            let mut units = [0; 2];
            escaped.extend(c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
        } else {
            escaped.push(c);
        }
    }
    escaped
}

/// The terminal's width; `None` where standard output is not one, and nothing is cut.
pub(super) fn terminal_width() -> Option<usize> {
    if !io::stdout().is_terminal() {
        return None;
    }
    terminal_size::terminal_size().map(|(width, _)| usize::from(width.0))
}

pub(super) const fn phase_style(phase: Phase) -> Style {
    match phase {
        Phase::Pending => CYAN,
        Phase::Quiet => Style::new(),
        Phase::Active => GREEN,
        Phase::Failing => RED,
        Phase::Ended(_) => DIM,
    }
}

pub(super) const fn state_style(state: &ResourceState) -> Style {
    match state {
        ResourceState::Required => YELLOW,
        ResourceState::InProgress => CYAN,
        ResourceState::Complete => GREEN,
        ResourceState::Other(_) => Style::new().bold(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(table: &Table, width: Option<usize>) -> String {
        let mut out = anstream::StripStream::new(Vec::new());
        table.write(&mut out, width).unwrap();
        String::from_utf8(out.into_inner()).unwrap()
    }

    #[test]
    fn columns_align_and_the_widest_gives_way_but_never_the_first() {
        let mut table = Table::new(&["ID", "PHASE", "LAST ERROR"]);
        table.row(vec!["0123456789".into(), "quiet".into(), "something went wrong".into()]);
        assert_eq!(
            render(&table, None),
            "ID          PHASE  LAST ERROR\n0123456789  quiet  something went wrong\n"
        );
        assert_eq!(
            render(&table, Some(32)),
            "ID          PHASE  LAST ERROR\n0123456789  quiet  something we\u{2026}\n"
        );
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let mut table = Table::new(&["ID"]);
        table.row(vec!["a\u{1b}[31mb".into()]);
        assert!(!render(&table, None).contains('\u{1b}'));
    }

    #[test]
    fn json_on_a_terminal_means_the_same_and_steers_nothing() {
        let value = serde_json::json!({ "a\u{9b}31m\u{7f}": "\u{202e}\u{e0041}\u{1b}[2J é" });
        let json = format!("{value}\n");
        assert_eq!(json_for(false, json.clone()), json);
        let shown = json_for(true, json);
        assert!(shown.trim_end().chars().all(is_visible), "{shown:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
    }
}
