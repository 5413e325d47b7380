//! What a newcomer sees first.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::{Instant, timeout};

use crate::common::Event;

#[tokio::test]
async fn the_demo_shows_events_soon_ends_by_itself_and_has_told_every_change() {
    let begun = Instant::now();
    let mut demo = Command::new(env!("CARGO_BIN_EXE_ibvwatch"))
        .arg("demo")
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    let mut stderr = demo.stderr.take().unwrap();
    let words = tokio::spawn(async move {
        let mut text = String::new();
        stderr.read_to_string(&mut text).await.map(|_| text)
    });
    let first = timeout(Duration::from_secs(10), lines.next_line()).await.unwrap().unwrap();
    let mut events = vec![Event::parse(&first.unwrap()).unwrap()];
    let whole = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            events.push(Event::parse(&line).unwrap());
        }
        demo.wait().await.unwrap()
    };
    let status = timeout(Duration::from_secs(60), whole).await.unwrap();
    let words = words.await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0), "{words}");
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());

    let told = |words: &str| -> Option<(u32, u32)> {
        let line = words.lines().find(|line| line.contains("changed state at the counters"))?;
        let mut numbers = line.split([' ', ',']).filter_map(|word| word.parse().ok());
        Some((numbers.next()?, numbers.next()?))
    };
    let (happened, told) = told(&words).unwrap_or_else(|| panic!("no summary in {words}"));
    assert!(happened > 10, "{words}");
    assert_eq!(happened, told, "{words}");
    assert!(words.contains("kill -9"), "{words}");
    let ended: Vec<&str> = events
        .iter()
        .filter(|event| event.kind() == "session.ended")
        .map(|event| event.text("reason"))
        .collect();
    assert!(ended.contains(&"completed") && ended.contains(&"expired"), "{ended:?}");
    assert!(!words.contains('\u{1b}'), "colours in a pipe: {words}");
}
