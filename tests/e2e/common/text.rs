use uuid::Uuid;

/// Text for people, with what differs from run to run replaced: ids by their number in order of
/// appearance, times by what they are, and gaps by two spaces.
pub(crate) fn redacted(text: &str) -> String {
    let mut ids: Vec<Uuid> = Vec::new();
    let mut lines = Vec::new();
    for line in text.lines() {
        let indent = &line[..line.len() - line.trim_start().len()];
        let mut cells: Vec<String> = Vec::new();
        for cell in line.trim().split("  ").map(str::trim).filter(|cell| !cell.is_empty()) {
            let mut words: Vec<String> =
                cell.split(' ').map(|word| redacted_word(word, &mut ids)).collect();
            words.dedup_by(|next, before| next == "<span>" && before == "<span>");
            cells.push(words.join(" "));
        }
        lines.push(format!("{indent}{}", cells.join("  ")));
    }
    lines.join("\n") + "\n"
}

fn redacted_word(word: &str, ids: &mut Vec<Uuid>) -> String {
    let core = word.trim_matches(['(', ')', ',']);
    let replacement = if let Ok(id) = Uuid::try_parse(core) {
        let number = ids.iter().position(|known| *known == id).unwrap_or_else(|| {
            ids.push(id);
            ids.len() - 1
        });
        format!("<id {}>", number + 1)
    } else if core.parse::<ibvwatch::domain::Timestamp>().is_ok() {
        "<moment>".to_owned()
    } else if is_span(core) {
        "<span>".to_owned()
    } else {
        return word.to_owned();
    };
    word.replacen(core, &replacement, 1)
}

fn is_span(word: &str) -> bool {
    let digits = word.trim_end_matches(['d', 'h', 'm', 's']);
    digits.len() + 1 == word.len()
        && !digits.is_empty()
        && digits.bytes().all(|b| b.is_ascii_digit())
}
