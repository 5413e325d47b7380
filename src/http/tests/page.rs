use std::collections::BTreeSet;

use super::*;
use crate::domain::{Entry, Labels, SessionId};
use crate::store::Store;

fn entry(n: u16) -> Entry {
    let mut bytes = [0; 16];
    bytes[14..].copy_from_slice(&n.to_be_bytes());
    let labels = Labels::new([("case".to_owned(), format!("A-{n} & \"b\""))].into()).unwrap();
    Entry { session_id: SessionId::from_bytes(bytes), labels, expires_at: None, interval: None }
}

async fn page_of(sessions: u16) -> (Server, SocketAddr) {
    let sources = sources();
    sources.store.track((1..=sessions).map(entry).collect()).await.unwrap();
    site(sources).await
}

fn rows(page: &str) -> usize {
    page.matches("id=\"session-0").count()
}

#[tokio::test]
async fn pages_of_sessions_lead_to_one_another() {
    let (_server, address) = page_of(60).await;
    let mut target = "/?q=A-&label=&phase=pending".to_owned();
    let mut seen = Vec::new();
    loop {
        let (status, page) = fetch(address, &target).await;
        assert_eq!(status, "200", "{page}");
        seen.push(rows(&page));
        let Some(next) = page.split("rel=\"next\" href=\"").nth(1) else { break };
        target = next.split('"').next().unwrap().replace("&amp;", "&");
        assert!(target.starts_with("/?q=A-&phase=pending&after="), "{target}");
    }
    assert_eq!(seen, [25, 25, 10]);
}

#[tokio::test]
async fn a_label_leads_to_its_sessions_whatever_stands_in_it() {
    let (_server, address) = page_of(3).await;
    let (_, page) = fetch(address, "/").await;
    let link = page.split("class=\"labels\"><li><a href=\"").nth(2).unwrap();
    let link = link.split('"').next().unwrap().replace("&amp;", "&");
    assert_eq!(link, "/?label=case%3DA-2+%26+%22b%22");
    let (_, found) = fetch(address, &link).await;
    assert_eq!(rows(&found), 1);
    assert!(found.contains("A-2 &amp; &quot;b&quot;"), "{found}");
}

#[tokio::test]
async fn a_mistake_and_what_is_not_there_are_pages_too() {
    let (_server, address) = page_of(1).await;
    for (target, expected, words) in [
        ("/?phase=over", "400", "write one of pending"),
        ("/?after=x", "400", "write a UUID"),
        ("/sessions/x", "400", "is not a session id"),
        ("/sessions/3fa85f64-5717-4562-b3fc-2c963f66afa6", "404", "is not known here"),
        ("/nothing", "404", "nothing at this address"),
    ] {
        let (status, page) = fetch(address, target).await;
        assert!(status == expected && page.contains(words), "{target}: {status} {page}");
        assert!(page.starts_with("<!DOCTYPE html>") && page.contains("<main"), "{page}");
    }
}

#[tokio::test]
async fn what_a_page_loads_is_there_and_may_be_kept_for_ever() {
    let (_server, address) = page_of(1).await;
    let (_, page) = fetch(address, "/").await;
    let linked = page.split('"').filter(|part| part.starts_with("/assets/"));
    let linked: BTreeSet<&str> = linked.collect();
    assert_eq!(linked.len(), 3, "{linked:?}");
    for target in linked {
        let answer = get_as(address, target, "Host: localhost\r\n").await;
        assert_eq!(status(&answer), "200", "{target}");
        assert!(answer.contains("cache-control: public, max-age=31536000, immutable\r\n"));
    }
    assert!(!page.contains("<script>") && !page.contains(" style=") && !page.contains(" onclick="));
    assert_eq!(fetch(address, "/assets/page.css").await.0, "404");
}

/// Whatever holds the poll loop up may hold the sessions too: the page that says so must not
/// ask for them.
#[tokio::test(start_paused = true)]
async fn a_poll_loop_that_stands_still_is_the_first_thing_to_be_seen() {
    let (_server, address) = page_of(1).await;
    let (_, page) = fetch(address, "/").await;
    assert_eq!(rows(&page), 1);
    tokio::time::advance(Status::STUCK_AFTER).await;
    let (status, page) = fetch(address, "/").await;
    assert_eq!(status, "200");
    assert!(page.contains("1 critical problem"), "{page}");
    assert!(page.contains("the poll loop has stood still"), "{page}");
    assert_eq!(rows(&page), 0);
    let id = entry(1).session_id;
    for target in
        [format!("/sessions/{id}"), format!("/api/v1/sessions/{id}"), "/api/v1/sessions".into()]
    {
        let (status, body) = fetch(address, &target).await;
        assert!(status == "503" && body.contains("the poll loop stands still"), "{target}: {body}");
    }
    assert_eq!(fetch(address, "/api/v1/events").await.0, "200");
}
