//! Words, numbers and shapes that several parts of a page show.

use maud::{Markup, PreEscaped, html};

use crate::domain::{Phase, PhaseName, Progress, Resource, ResourceState, Timestamp, Visible};
use crate::view::relative;

/// A time of day with its date in the markup; the script tells nothing but the present from it.
pub(super) fn clock(at: Timestamp) -> Markup {
    let text = at.floor_seconds().to_string();
    let time = text.get(11..19).unwrap_or(&text);
    html! { time datetime=(at) { (time) } }
}

/// A date and a time of day, to the second.
pub(super) fn moment(at: Timestamp) -> Markup {
    let text = at.floor_seconds().to_string();
    let (date, time) = (text.get(..10).unwrap_or(&text), text.get(11..19).unwrap_or_default());
    html! { time datetime=(at) { (date) " " (time) } }
}

/// How far a time lies from now; the script keeps it true.
pub(super) fn from_now(at: Timestamp, now: Timestamp) -> Markup {
    relative_time(at, now, "")
}

/// How far off a time is, which is "due" once it has come.
pub(super) fn until(at: Timestamp, now: Timestamp) -> Markup {
    relative_time(at, now, "due")
}

fn relative_time(at: Timestamp, now: Timestamp, once_past: &str) -> Markup {
    html! {
        time datetime=(at) title=(at.floor_seconds()) data-relative=(once_past) {
            (relative(at, now))
        }
    }
}

/// 1,234,567
pub(super) fn count(number: usize) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// So many of something: "1 session", "2,000 sessions".
pub(super) fn many(number: usize, one: &str, more: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { more })
}

/// `ID_DOCUMENT` as people read it.
pub(super) fn resource_kind(kind: &str) -> String {
    let words: Vec<String> = kind
        .split('_')
        .map(|word| if word == "ID" { word.to_owned() } else { word.to_lowercase() })
        .collect();
    let text = words.join(" ");
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    Visible(first + letters.as_str()).to_string()
}

fn state_in_words(state: &ResourceState) -> String {
    match state {
        ResourceState::Required => "required".to_owned(),
        ResourceState::InProgress => "in progress".to_owned(),
        ResourceState::Complete => "complete".to_owned(),
        // Not known to us, so it is shown as it came.
        ResourceState::Other(other) => Visible(other).to_string(),
    }
}

/// A resource with its state: in words, by a shape and by a colour.
pub(super) fn resource(resource: &Resource) -> Markup {
    let (class, shape) = match resource.state {
        ResourceState::Required => ("required", RING),
        ResourceState::InProgress => ("progress", HALF),
        ResourceState::Complete => ("complete", CHECK),
        ResourceState::Other(_) => ("other", DIAMOND),
    };
    html! {
        span class={ "state " (class) } title=(Visible(&resource.key)) {
            (PreEscaped(shape))
            span { (resource_kind(&resource.key.kind)) " " b { (state_in_words(&resource.state)) } }
        }
    }
}

pub(super) fn phase(phase: Phase) -> Markup {
    let text = match phase {
        Phase::Ended(reason) => format!("ended: {}", reason.as_str().replace('_', " ")),
        Phase::Pending | Phase::Quiet | Phase::Active | Phase::Failing => phase.as_str().to_owned(),
    };
    let shape = phase_shape(phase.name());
    html! { span class={ "phase " (phase.as_str()) } { (shape) (text) } }
}

pub(super) const fn phase_shape(phase: PhaseName) -> PreEscaped<&'static str> {
    PreEscaped(match phase {
        PhaseName::Pending => HALF,
        PhaseName::Quiet => RING,
        PhaseName::Active => DOT,
        PhaseName::Failing => TRIANGLE,
        PhaseName::Ended => SQUARE,
    })
}

/// How many have been supplied, of how many.
pub(super) fn supplied(progress: Progress) -> String {
    format!("{} of {} supplied", progress.total - progress.required, progress.total)
}

pub(super) const RING: &str = r#"<svg class="shape" viewBox="0 0 16 16" aria-hidden="true"><circle cx="8" cy="8" r="5.5" fill="none" stroke="currentColor" stroke-width="2"/></svg>"#;
pub(super) const HALF: &str = r#"<svg class="shape" viewBox="0 0 16 16" aria-hidden="true"><circle cx="8" cy="8" r="5.5" fill="none" stroke="currentColor" stroke-width="2"/><path d="M8 2.5a5.5 5.5 0 0 1 0 11z" fill="currentColor"/></svg>"#;
pub(super) const DOT: &str = r#"<svg class="shape" viewBox="0 0 16 16" aria-hidden="true"><circle cx="8" cy="8" r="5" fill="currentColor"/></svg>"#;
pub(super) const CHECK: &str = r#"<svg class="shape" viewBox="0 0 16 16" aria-hidden="true"><circle cx="8" cy="8" r="6.5" fill="currentColor"/><path class="cut" d="M4.8 8.3l2.2 2.2 4.2-4.6" fill="none" stroke-width="1.8"/></svg>"#;
pub(super) const DIAMOND: &str = r#"<svg class="shape" viewBox="0 0 16 16" aria-hidden="true"><path d="M8 1.8L14.2 8 8 14.2 1.8 8z" fill="none" stroke="currentColor" stroke-width="2"/></svg>"#;
pub(super) const TRIANGLE: &str = r#"<svg class="shape" viewBox="0 0 16 16" aria-hidden="true"><path d="M8 2l6.5 12h-13z" fill="currentColor"/><path class="cut" d="M8 6.2v3.6M8 11.4v.8" fill="none" stroke-width="1.6"/></svg>"#;
pub(super) const SQUARE: &str = r#"<svg class="shape" viewBox="0 0 16 16" aria-hidden="true"><rect x="3.5" y="3.5" width="9" height="9" rx="1.5" fill="currentColor"/></svg>"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        let grouped = [0, 999, 1_000, 100_000, 1_234_567].map(count);
        assert_eq!(grouped, ["0", "999", "1,000", "100,000", "1,234,567"]);
    }

    #[test]
    fn resource_types_read_as_words_and_hide_nothing() {
        let words = ["ID_DOCUMENT", "FACE_CAPTURE", "a\u{202e}b", ""].map(resource_kind);
        assert_eq!(words, ["ID document", "Face capture", "A\\u{202e}b", ""]);
    }
}
