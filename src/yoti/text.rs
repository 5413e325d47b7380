//! What of the server's own words may go on into logs and events: short, printable, one line,
//! and nothing that looks like a credential. A server or a proxy may echo the request back.

use crate::domain::is_visible;

/// Longest free text taken over, in characters.
const LONGEST_LINE: usize = 200;
/// Longest code or request id taken over, in characters.
const LONGEST_IDENTIFIER: usize = 64;
/// No word of a message is longer, in bytes; digests, tokens and signed URLs are.
const LONGEST_WORD: usize = 80;
const CUT: &str = "...";
const REDACTED: &str = "[redacted]";

/// The text as one clean line, unless nothing is left of it.
pub(super) fn one_line(text: &str) -> Option<String> {
    let mut line = String::new();
    let words = text.split(|c: char| c.is_whitespace() || !is_visible(c));
    for word in words.filter(|word| !word.is_empty()) {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(if is_credential(word) { REDACTED } else { word });
        if line.chars().count() > LONGEST_LINE {
            line = line.chars().take(LONGEST_LINE - CUT.len()).collect();
            line.push_str(CUT);
            break;
        }
    }
    (!line.is_empty()).then_some(line)
}

/// The text as a code or an id, unless nothing is left of it.
pub(super) fn identifier(text: &str) -> Option<String> {
    let allowed = |c: &char| c.is_ascii_alphanumeric() || "_-.:".contains(*c);
    let kept: String = text.chars().filter(allowed).take(LONGEST_IDENTIFIER).collect();
    (!kept.is_empty()).then_some(kept)
}

fn is_credential(word: &str) -> bool {
    word.len() > LONGEST_WORD || word.contains('=') && word.contains(['?', '&'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_without_control_characters() {
        let line = one_line("  a\r\nb\t\u{1b}[31mc\u{202e}d\0 ");
        assert_eq!(line.as_deref(), Some("a b [31mc d"));
        assert_eq!(one_line(" \n\u{200b}"), None);
    }

    #[test]
    fn a_long_text_is_cut_at_200_characters() {
        for text in ["wörter ".repeat(100_000), "é é ".repeat(99) + "last word"] {
            let line = one_line(&text).unwrap();
            assert!(line.chars().count() <= 200, "{} characters", line.chars().count());
            assert!(line.ends_with("..."), "{line}");
        }
    }

    #[test]
    fn an_echoed_request_or_token_is_not_repeated() {
        let echo = format!(
            "bad GET&/sessions/1?sdkId=me&nonce=1&timestamp=2 nonce=1&timestamp=2 {}",
            "A".repeat(344)
        );
        assert_eq!(one_line(&echo).as_deref(), Some("bad [redacted] [redacted] [redacted]"));
    }

    #[test]
    fn an_identifier_keeps_only_what_identifiers_are_made_of() {
        assert_eq!(identifier("BAD_TOKEN").as_deref(), Some("BAD_TOKEN"));
        assert_eq!(identifier("<b>A b\n\u{e9}</b>").as_deref(), Some("bAbb"));
        assert_eq!(identifier(&"A".repeat(1000)).unwrap().len(), 64);
        assert_eq!(identifier("\u{1b}\n"), None);
    }
}
