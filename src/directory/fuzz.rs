//! Laws of session files, for `crate::fuzzing`.

use std::collections::HashSet;
use std::path::Path;

use super::content::parse;
use super::syntax::Syntax;
use crate::domain::is_visible;

/// A session file: its first byte decides the syntax, by whether it is even.
pub(crate) fn session_file(data: &[u8]) {
    let Some((&first, bytes)) = data.split_first() else { return };
    let syntax = if first % 2 == 0 { Syntax::Json } else { Syntax::Toml };
    let path = Path::new("fuzzed");
    let lines = bytes.split(|&byte| byte == b'\n').count();
    let content = match parse(path, bytes, syntax) {
        Ok(content) => content,
        Err(problems) => {
            assert!((1..=21).contains(&problems.len()), "{} problems", problems.len());
            for problem in problems {
                assert!(problem.line.is_none_or(|line| (1..=lines).contains(&line)), "{problem:?}");
                let shown = problem.to_string();
                assert!(shown.chars().all(is_visible) && shown.len() < 2_000, "{shown:?}");
            }
            return;
        }
    };
    let ids: HashSet<_> = content.named.iter().map(|named| named.entry.session_id).collect();
    assert_eq!(ids.len(), content.named.len(), "an id stands twice: {content:?}");
    for named in &content.named {
        assert!((1..=lines).contains(&named.line), "{named:?} of {lines} lines");
        let written = super::edit::text(&named.entry).expect("an entry that can be written");
        let read = parse(path, &written, Syntax::Json).expect("what was written is well formed");
        assert_eq!(read.named[0].entry, named.entry, "it is not read as it was written");
    }
    if syntax.shows_its_end() {
        let whole = bytes.trim_ascii_end();
        for cut in [whole.len() - 1, whole.len() / 2, whole.len() / 3] {
            let part = parse(path, &whole[..cut], syntax);
            assert!(part.is_err(), "the first {cut} bytes are taken for the whole: {part:?}");
        }
    }
}
