//! Events as people read them.

use maud::{Markup, html};

use super::layout::kind_in_words;
use super::words::moment;
use crate::domain::{Record, Timestamp, Visible};
use crate::store::EventPage;
use crate::view::{relative, said};

pub(super) fn latest(page: &EventPage, now: Timestamp) -> Markup {
    html! {
        section #events aria-labelledby="events-heading" {
            h2 #events-heading { "Latest events" }
            div #latest data-live {
                @if page.events.is_empty() {
                    p .empty { "Nothing has happened yet." }
                } @else {
                    ol .events { @for event in &page.events { (entry(event, now, true)) } }
                }
            }
        }
    }
}

pub(super) fn entry(event: &Record, now: Timestamp, names_session: bool) -> Markup {
    let said = said(event);
    html! {
        li id={ "event-" (event.sequence) } data-sequence=(event.sequence) {
            span .when { (moment(event.time)) span .ago { (relative(event.time, now)) } }
            span .what {
                b { (Visible(kind_in_words(&event.kind))) }
                @if !said.is_empty() { " " span .said { (Visible(said)) } }
            }
            @if names_session && let Some(id) = event.subject {
                " " a .id href={ "/sessions/" (id) } { (id) }
            }
        }
    }
}
