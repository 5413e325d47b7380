//! The status page in a real browser, before the real daemon.

mod driver;

use std::path::Path;
use std::time::Duration;

use ibvwatch::domain::SessionId;
use ibvwatch::sim::{Requirement, Session};
use serde_json::{Value, json};

use self::driver::{Browser, DARK, LIGHT, LOOKS, Look, PHONE, browse};
use crate::common::{Daemon, Event, Home, Site};

/// A daemon that serves, with one session of which a label says `case`.
struct Watched {
    home: Home,
    daemon: Daemon,
    site: Site,
    id: SessionId,
}

impl Watched {
    async fn start() -> Self {
        let mut home = Home::new().await;
        home.serve_http();
        let id = tracked(&home, "A-17");
        let mut daemon = Daemon::start(&home);
        let site = daemon.site().await;
        daemon.event(|event| event.is("session.observed", id)).await;
        Self { home, daemon, site, id }
    }

    fn row(&self) -> String {
        format!("#session-{}", self.id)
    }
}

/// A new session that asks for three documents, in a file that gives it a label.
fn tracked(home: &Home, case: &str) -> SessionId {
    let id = home.create(Session::requiring(Requirement::three_documents()));
    let entry = json!({ "session_id": id, "labels": { "case": case } });
    home.put(&format!("{id}.json"), &entry.to_string());
    id
}

async fn assert_no_complaints(browser: &Browser) {
    assert_eq!(browser.complaints().await, [""; 0], "the browser complains");
}

#[tokio::test]
async fn a_document_is_seen_to_be_supplied_without_reloading() {
    let watched = Watched::start().await;
    browse(|browser| async move {
        // Events alone are to bring it about.
        browser.without_intervals().await;
        browser.open(&watched.site.url("/")).await;
        browser.shows("#health", "All is well").await;
        browser.shows("#live", "Live").await;
        let required = watched.row() + " .state.required";
        assert_eq!(browser.count(&required).await, 3);
        browser.run("window.sameDocument = true", &[]).await;
        let search = "document.getElementById('q')";
        browser.run(&format!("{search}.value = 'half a wo'; {search}.focus()"), &[]).await;

        watched.home.set_state(watched.id, 0, "COMPLETE").unwrap();
        browser.shows(&(watched.row() + " .state.complete"), "complete").await;
        assert_eq!(browser.count(&required).await, 2);
        browser.shows("#latest", "REQUIRED \u{2192} COMPLETE").await;
        browser.shows("#news", "state changed").await;

        let new = tracked(&watched.home, "B-2");
        browser.shows(&format!("#session-{new}"), "B-2").await;
        let kept = "return window.sameDocument === true && document.activeElement.value";
        assert_eq!(browser.run(kept, &[]).await, "half a wo", "the page was loaded anew");
        assert_no_complaints(&browser).await;
    })
    .await;
}

#[tokio::test]
async fn what_no_event_tells_of_is_seen_as_well() {
    let watched = Watched::start().await;
    browse(|browser| async move {
        browser.open(&watched.site.url("/")).await;
        browser.shows("#health", "All is well").await;
        watched.home.put("broken.json", "[");
        browser.shows("#health", "Working, with 1 warning").await;
        assert_no_complaints(&browser).await;
        watched.daemon.stop().await;
        browser.shows("#live", "Connection lost").await;
    })
    .await;
}

#[tokio::test]
async fn a_session_is_found_by_its_label_and_its_timeline_is_told() {
    let watched = Watched::start().await;
    let other = tracked(&watched.home, "B-2");
    browse(|browser| async move {
        browser.open(&watched.site.url("/")).await;
        browser.shows(&format!("#session-{other}"), "required").await;
        browser.type_into("#q", "a-1\u{e007}").await;
        browser.shows("#found", "\u{201c}a-1\u{201d}").await;
        browser.arrives_at("/?q=a-1").await;
        assert_eq!(browser.count("tbody tr").await, 1);
        browser.click(&(watched.row() + " a.id")).await;
        browser.shows("#session-heading", &watched.id.to_string()).await;
        browser.shows("#session", "0 of 3 supplied").await;
        assert_eq!(browser.count("#timeline li").await, 2);
        watched.home.set_state(watched.id, 1, "IN_PROGRESS").unwrap();
        browser.shows("#timeline li:first-child", "REQUIRED \u{2192} IN_PROGRESS").await;
        browser.shows("#session", "1 of 3 supplied").await;
        assert_no_complaints(&browser).await;
    })
    .await;
}

#[tokio::test]
async fn a_bad_session_file_is_told_of_with_file_and_line() {
    let mut watched = Watched::start().await;
    watched.home.put("broken.json", "[\n  \"3fa85f64\"\n]\n");
    watched.daemon.logs("broken.json").await;
    browse(|browser| async move {
        browser.open(&watched.site.url("/")).await;
        let trouble = browser.text(".troubles").await;
        let place = watched.home.sessions().join("broken.json");
        assert!(trouble.contains(&format!("{}:2", place.display())), "{trouble}");
        assert!(trouble.contains("is not a session id; write the UUID"), "{trouble}");
        assert!(trouble.contains("What to do: correct it"), "{trouble}");
        assert_no_complaints(&browser).await;
    })
    .await;
}

#[tokio::test]
async fn without_a_script_nothing_is_missing_but_that_it_moves() {
    let watched = Watched::start().await;
    let other = tracked(&watched.home, "B-2");
    browse(|browser| async move {
        browser.without_scripts().await;
        browser.open(&watched.site.url("/")).await;
        let live = browser.text("#live").await;
        assert!(live.starts_with("As of ") && live.ends_with("Reload"), "{live}");
        browser.type_into("#q", "b-2").await;
        browser.click(".search button").await;
        browser.arrives_at("/?q=b-2").await;
        assert_eq!(browser.count("tbody tr").await, 1);
        browser.click(&format!("#session-{other} .labels a")).await;
        browser.arrives_at("/?label=case%3DB-2").await;
        assert_eq!(browser.count("tbody tr").await, 1);
        browser.click(".phases a[href*='phase=ended']").await;
        browser.arrives_at("/?phase=ended&label=case%3DB-2").await;
        assert!(browser.text("#found").await.contains("No session matches"));
        browser.click(".brand").await;
        browser.click(&(watched.row() + " a.id")).await;
        assert!(browser.text("#timeline").await.contains("observed"));
        assert_no_complaints(&browser).await;
    })
    .await;
}

#[tokio::test]
async fn labels_and_states_from_outside_are_text_and_nothing_else() {
    const MARKUP: &str = "<img src=x onerror=document.title='taken'>";
    let watched = Watched::start().await;
    let hostile = tracked(&watched.home, &format!("{MARKUP}\u{202e}\u{1b}"));
    watched.home.set_state(hostile, 0, &format!("<i>{MARKUP}")).unwrap();
    browse(|browser| async move {
        let address = watched.site.url("/");
        browser.open(&address).await;
        let row = format!("#session-{hostile}");
        for page in [address, watched.site.url(&format!("/sessions/{hostile}"))] {
            browser.open(&page).await;
            browser.shows("main", &format!("{MARKUP}\\u{{202e}}\\u{{1b}}")).await;
            browser.shows("main", &format!("<i>{MARKUP}")).await;
            assert_eq!(browser.count("main img, main i").await, 0);
        }
        browser.open(&watched.site.url("/?q=%3Cimg")).await;
        browser.shows(&row, MARKUP).await;
        assert_no_complaints(&browser).await;
    })
    .await;
}

/// What axe-core finds wrong with the page as it is.
async fn violations(browser: &Browser, axe: &str) -> Vec<String> {
    const RUN: &str = "return axe.run(document, { resultTypes: ['violations'] }).then(found => \
         found.violations.flatMap(rule => rule.nodes.map(node => \
         `${rule.id}: ${rule.help}: ${node.html}: ${node.failureSummary}`)))";
    browser.run(axe, &[]).await;
    let found = browser.run(RUN, &[]).await;
    let found = found.as_array().expect("a list").iter();
    found.map(|violation| violation.as_str().unwrap_or_default().to_owned()).collect()
}

/// axe-core's script, which tests/run puts there.
fn axe() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/axe/axe.min.js");
    std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; tests/run fetches it", path.display()))
}

/// A home in which there is something of everything to be seen.
async fn everything() -> (Home, Vec<SessionId>) {
    let mut home = Home::new().await;
    home.serve_http();
    home.set("poll.interval", "\"10s\"");
    home.set("poll.active_for", "\"1m\"");
    let ids: Vec<SessionId> = (0..40).map(|n| tracked(&home, &format!("A-{}", 100 + n))).collect();
    for ((n, &id), hours) in ids.iter().enumerate().zip((9..).step_by(31)) {
        for (index, state) in ["COMPLETE", "IN_PROGRESS", "UNDER_REVIEW"].iter().enumerate() {
            if n % 7 > index + 2 {
                home.set_state(id, index, state).expect("a session");
            }
        }
        home.set_ttl(id, Some(3_600 * hours)).expect("a session");
    }
    home.delete(ids[3]).expect("a session");
    (home, ids)
}

async fn observed(daemon: &mut Daemon, sessions: usize) {
    let baseline = |event: &&Event| event.kind() == "session.observed";
    daemon.until(|events| events.iter().filter(baseline).count() >= sessions).await;
}

#[tokio::test]
async fn every_page_is_accessible_by_axe_in_light_and_dark_and_fits_a_phone() {
    let axe = axe();
    let (home, ids) = everything().await;
    let mut daemon = Daemon::start(&home);
    let site = daemon.site().await;
    observed(&mut daemon, 39).await;
    home.set_state(ids[0], 0, "IN_PROGRESS").unwrap();
    home.put("broken.json", "[");
    daemon.logs("broken.json").await;
    browse(|browser| async move {
        let session = format!("/sessions/{}", ids[6]);
        for target in [
            "/",
            "/?phase=quiet&label=case%3DA-101",
            "/?q=nothing+matches",
            &session,
            "/nothing",
            "/?phase=x",
        ] {
            for look in LOOKS {
                browser.look(look).await;
                browser.open(&site.url(target)).await;
                assert_eq!(violations(&browser, &axe).await, [""; 0], "{target} {look:?}");
                let overflow = "return document.documentElement.scrollWidth - window.innerWidth";
                assert_eq!(
                    browser.run(overflow, &[]).await,
                    json!(0),
                    "{target} {look:?} is too wide"
                );
            }
        }
        // What a browser says of pages that are not there.
        let expected = |complaint: &String| complaint.contains("404") || complaint.contains("400");
        let complaints = browser.complaints().await;
        assert!(complaints.iter().all(expected), "{complaints:?}");
    })
    .await;
}

#[tokio::test]
async fn a_breach_of_the_policy_would_be_noticed_and_so_would_axe() {
    let axe = axe();
    let watched = Watched::start().await;
    browse(|browser| async move {
        browser.open(&watched.site.url("/")).await;
        let add = "document.body.insertAdjacentHTML('beforeend', arguments[0])";
        browser
            .run(add, &[Value::from("<p style='color: #eee'>pale</p><img src='/assets/none'>")])
            .await;
        let complaints = loop {
            let complaints = browser.complaints().await.concat();
            if complaints.contains("Content Security Policy") {
                break complaints;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert!(complaints.contains("style"), "{complaints}");
        let found = violations(&browser, &axe).await.concat();
        assert!(found.contains("image-alt"), "{found}");
    })
    .await;
}

/// Where to put screenshots, if they are wanted: `docs` puts those in place that the
/// documentation shows.
const SCREENSHOTS: &str = "SCREENSHOTS";

#[tokio::test]
async fn screenshots_are_taken_where_they_are_wanted() {
    let Some(directory) = std::env::var_os(SCREENSHOTS) else { return };
    let (home, ids) = everything().await;
    let mut daemon = Daemon::start(&home);
    let site = daemon.site().await;
    observed(&mut daemon, 39).await;
    for (index, state) in [(0, "IN_PROGRESS"), (0, "COMPLETE"), (1, "IN_PROGRESS")] {
        home.set_state(ids[1], index, state).unwrap();
        daemon.event(|event| event.tells(ids[1], state)).await;
    }
    browse(|browser| async move {
        let session = format!("/sessions/{}", ids[1]);
        let tall = |look: Look| Look { height: 900, ..look };
        let take = async |name: &str, target: &str, look: Look| {
            browser.look(look).await;
            browser.open(&site.url(target)).await;
            browser.shows("#live", "Live").await;
            let file = Path::new(&directory).join(format!("{name}.png"));
            std::fs::write(file, browser.screenshot().await).expect("a file that can be written");
        };
        take("status-light", "/", tall(LIGHT)).await;
        take("status-dark", "/", tall(DARK)).await;
        take("session-light", &session, tall(LIGHT)).await;
        take("session-dark", &session, tall(DARK)).await;
        home.put("sessions.json", "[\n  {\"session_id\": \"3fa85f64\"}\n]\n");
        browser.open(&site.url("/")).await;
        browser.shows("#health", "warning").await;
        take("trouble-light", "/", tall(LIGHT)).await;
        take("trouble-dark", "/", tall(DARK)).await;
        take("phone-light", "/", PHONE).await;
    })
    .await;
}
