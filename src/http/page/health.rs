//! The first thing to see: whether it works, and if not, what to do.

use maud::{Markup, PreEscaped, html};

use super::words::{CHECK, DOT, TRIANGLE, count, many, moment};
use crate::domain::Visible;
use crate::status::{Condition, Severity, Stage, Trouble};
use crate::store::jetstream::Cluster;

/// The whole in one line.
pub(super) struct Summary {
    pub(super) heading: String,
    class: &'static str,
    shape: &'static str,
}

pub(super) fn summary(condition: &Condition) -> Summary {
    let of = |severity| condition.troubles.iter().filter(|t| t.severity == severity).count();
    let (critical, warnings) = (of(Severity::Critical), of(Severity::Warning));
    let (heading, class, shape) = if critical > 0 {
        (many(critical, "critical problem", "critical problems"), "critical", TRIANGLE)
    } else if warnings > 0 {
        (format!("Working, with {}", many(warnings, "warning", "warnings")), "warning", TRIANGLE)
    } else {
        match condition.stage {
            Stage::Starting => ("Starting".to_owned(), "waiting", DOT),
            Stage::Running => ("All is well".to_owned(), "well", CHECK),
            Stage::Draining => ("Stopping".to_owned(), "waiting", DOT),
        }
    };
    Summary { heading, class, shape }
}

pub(super) fn section(condition: &Condition) -> Markup {
    let Summary { heading, class, shape } = summary(condition);
    html! {
        section #health class={ "health " (class) } aria-labelledby="health-heading" data-live {
            div .verdict {
                (PreEscaped(shape))
                div {
                    h1 #health-heading { (heading) }
                    p { (in_a_sentence(condition)) }
                }
            }
            @if !condition.troubles.is_empty() {
                ul .troubles { @for trouble in &condition.troubles { (told(trouble)) } }
            }
            (figures(condition))
            @if let Some(cluster) = &condition.cluster { (nodes(cluster)) }
        }
    }
}

/// Who shares the work, and how much of it each does.
fn nodes(cluster: &Cluster) -> Markup {
    let polls: u64 = cluster.nodes.iter().map(|node| node.polls).sum();
    let number = |n: u64| count(usize::try_from(n).unwrap_or(usize::MAX));
    html! {
        h2 { (many(cluster.nodes.len(), "node", "nodes")) }
        ul {
            @for node in &cluster.nodes {
                li {
                    b { (Visible(&node.name)) } @if node.is_this { " (this one)" }
                    ", version " (Visible(&node.version)) ": " (number(node.polls))
                    " of " (number(polls)) " polls in the last minute, " (count(node.in_flight))
                    " under way, files of " (Visible(&node.owner))
                }
            }
        }
        dl .figures {
            div { dt { "Polls no node has taken up" } dd { (number(cluster.ticks_waiting)) } }
            div { dt { "Changes not heard of yet" } dd { (number(cluster.view_behind)) } }
            div { dt { "Messages in the stream" } dd { (number(cluster.messages)) } }
            div { dt { "Replicas behind" } dd { (count(cluster.replicas_behind)) } }
        }
    }
}

fn in_a_sentence(condition: &Condition) -> String {
    let live = condition.census.live();
    let watched = many(live, "session", "sessions");
    match condition.stage {
        Stage::Starting => "The session files have yet to be read.".to_owned(),
        Stage::Draining => "A stop is under way; what was begun is being finished.".to_owned(),
        Stage::Running if condition.stuck => format!("{watched} should be watched and are not."),
        Stage::Running if live == 0 => {
            "No session is watched yet: ibvwatch track ID begins with one.".to_owned()
        }
        Stage::Running if live == 1 => "1 session is being watched.".to_owned(),
        Stage::Running => format!("{watched} are being watched."),
    }
}

fn told(trouble: &Trouble) -> Markup {
    let (class, word) = match trouble.severity {
        Severity::Critical => ("critical", "Critical"),
        Severity::Warning => ("warning", "Warning"),
    };
    html! {
        li class={ "trouble " (class) } {
            h2 { span .severity { (PreEscaped(TRIANGLE)) (word) } " " (Visible(&trouble.what)) }
            @if let Some(place) = &trouble.place { p { code { (Visible(place)) } } }
            p { b { "What to do: " } (Visible(&trouble.remedy)) "." }
            @if let Some(since) = trouble.since { p .since { "Since " (moment(since)) } }
        }
    }
}

fn figures(condition: &Condition) -> Markup {
    let census = &condition.census;
    let api = match condition.poller.unavailable {
        Some((cause, _)) => cause.as_str().replace('_', " "),
        None => "usable".to_owned(),
    };
    let files = condition.directory.files;
    html! {
        dl .figures {
            div { dt { "Yoti API" } dd { (api) } }
            div { dt { "Polls under way" } dd { (count(condition.poller.in_flight)) } }
            div { dt { "Polls overdue" } dd { (count(census.overdue)) } }
            div { dt { "Resources required" } dd { (count(census.required)) } }
            div { dt { "Session files" } dd { (count(files)) } }
            @for sink in &condition.sinks {
                div {
                    dt { "Waiting for " (sink.name) }
                    dd { (count(usize::try_from(sink.undelivered).unwrap_or(usize::MAX))) }
                }
            }
        }
    }
}
