//! Text from outside, fit for a log line or a terminal.

use std::fmt::{self, Write};

/// Neither a control character nor one of those that reorder or hide what stands beside them.
#[must_use]
pub fn is_visible(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}')
        && !matches!(c, '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
        && !matches!(c, '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Shows a text on one line, with an escape like `\u{1b}` in the place of what is not visible.
#[derive(Debug, Clone, Copy)]
pub struct Visible<T>(pub T);

impl<T: fmt::Display> fmt::Display for Visible<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

struct Escaping<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for piece in text.split_inclusive(|c| !is_visible(c)) {
            let hidden = piece.chars().next_back().filter(|&c| !is_visible(c));
            let shown = piece.len() - hidden.map_or(0, char::len_utf8);
            self.0.write_str(&piece[..shown])?;
            if let Some(hidden) = hidden {
                write!(self.0, "{}", hidden.escape_unicode())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_steer_a_terminal_or_begin_a_line_is_shown_by_its_number() {
        let hostile = "a\n2026 ERROR\u{1b}[2J\u{9b}31m \u{202e}cod.json\u{e0041} é✓";
        assert_eq!(
            Visible(hostile).to_string(),
            "a\\u{a}2026 ERROR\\u{1b}[2J\\u{9b}31m \\u{202e}cod.json\\u{e0041} é✓"
        );
        assert!(Visible(hostile).to_string().chars().all(is_visible));
    }
}
