//! What all pages have in common.

use maud::{DOCTYPE, Markup, html};

use super::Html;
use super::words::clock;
use crate::domain::{EventKind, Timestamp};
use crate::http::assets::{ICON, SCRIPT, STYLE};

/// A page that the script keeps up to date.
pub(super) struct Page<'a> {
    pub(super) title: &'a str,
    pub(super) at: Timestamp,
    /// The sequence of the last event that the page knows of.
    pub(super) last: u64,
    /// Links to what is further down.
    pub(super) places: Option<Markup>,
    pub(super) body: Markup,
}

impl Page<'_> {
    pub(super) fn render(self) -> Html {
        let Self { title, at, last, places, body } = self;
        let follow = format!("/api/v1/events?after={last}");
        let live = html! {
            p #live .live role="status" data-live {
                "As of " (clock(at))
                noscript { " · " a href="" { "Reload" } }
            }
        };
        frame(title, Some(&follow), places.as_ref(), &live, &body)
    }
}

pub(super) fn apology(title: &str, message: &str) -> Html {
    let body = html! {
        section .apology {
            h1 { (title) }
            p { (message) }
            p { a href="/" { "All sessions" } }
        }
    };
    frame(title, None, None, &html! {}, &body)
}

fn frame(
    title: &str,
    follow: Option<&str>,
    places: Option<&Markup>,
    live: &Markup,
    body: &Markup,
) -> Html {
    Html(html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · ibvwatch" }
                link rel="icon" type="image/svg+xml" href=(ICON.path);
                link rel="stylesheet" href=(STYLE.path);
                @if follow.is_some() { script src=(SCRIPT.path) defer {} }
            }
            body data-follow=[follow] {
                a .skip href="#main" { "Skip to content" }
                header .top {
                    a .brand href="/" {
                        img src=(ICON.path) alt="" width="28" height="28";
                        span { "ibvwatch" }
                    }
                    @if let Some(places) = places { (places) }
                    (live)
                }
                @if follow.is_some() { p #news .hidden role="status" {} }
                main #main tabindex="-1" { (body) }
                footer .foot {
                    p {
                        "ibvwatch " (env!("CARGO_PKG_VERSION"))
                        " · " a href="/metrics" { "Metrics" }
                        " · " a href="/api/v1/sessions" { "API" }
                        " · " "times are UTC"
                    }
                }
            }
        }
    })
}

/// An event's type as people are told of it.
pub(super) fn kind_in_words(kind: &str) -> String {
    let short = match EventKind::parse(kind) {
        Some(known) => known.short_name(),
        None => kind,
    };
    let (_, what) = short.split_once('.').unwrap_or(("", short));
    let what = what.replace('_', " ");
    if short.starts_with("api.") { format!("API {what}") } else { what }
}
