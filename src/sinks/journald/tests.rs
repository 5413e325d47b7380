use std::collections::HashSet;
use std::io::{IoSliceMut, Read, Seek};
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::*;

const SESSION: &str = "3fa85f64-5717-4562-b3fc-2c963f66afa6";

fn record(sequence: u64, kind: &str, data: &str) -> Record {
    Record {
        sequence,
        id: format!("{SESSION}/{sequence}"),
        source: "ibvwatch".to_owned(),
        kind: kind.to_owned(),
        subject: (!kind.starts_with("ibvwatch.api.")).then(|| SESSION.parse().unwrap()),
        time: "2026-11-23T10:15:30.123Z".parse().unwrap(),
        data: serde_json::value::RawValue::from_string(data.to_owned()).unwrap(),
    }
}

fn changed(sequence: u64) -> Record {
    record(
        sequence,
        "ibvwatch.resource.state_changed",
        r#"{"resource":{"type":"ID_DOCUMENT","id":"x","ordinal":0},"from":"REQUIRED","to":"ODD\nSYSLOG_IDENTIFIER=other"}"#,
    )
}

/// The fields of an entry, read as journald reads them.
fn fields(mut entry: &[u8]) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    while !entry.is_empty() {
        let end = entry.iter().position(|byte| *byte == b'\n').unwrap();
        let (line, rest) = (&entry[..end], &entry[end + 1..]);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        if let Some(at) = line.iter().position(|byte| *byte == b'=') {
            fields.push((text(&line[..at]), text(&line[at + 1..])));
            entry = rest;
        } else {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap());
            let length = usize::try_from(length).unwrap();
            fields.push((text(line), text(&rest[8..8 + length])));
            assert_eq!(rest[8 + length], b'\n');
            entry = &rest[8 + length + 1..];
        }
    }
    fields
}

fn sequence(entry: &[u8]) -> u64 {
    let fields = fields(entry);
    fields.iter().find(|(name, _)| name == "IBVWATCH_SEQUENCE").unwrap().1.parse().unwrap()
}

struct Journal {
    home: tempfile::TempDir,
    socket: std::os::unix::net::UnixDatagram,
}

impl Journal {
    fn new() -> (Self, Journald) {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("socket");
        let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        (Self { home, socket }, Journald::listening_at(path))
    }

    /// The next entry, and whether it came in a file.
    fn next(&self) -> (Vec<u8>, bool) {
        let mut bytes = vec![0; 1 << 20];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut iov = [IoSliceMut::new(&mut bytes)];
        let got = recvmsg(&self.socket, &mut iov, &mut control, RecvFlags::empty()).unwrap();
        let file = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut files) => files.next(),
            RecvAncillaryMessage::ScmCredentials(_) | _ => None,
        });
        let Some(file) = file else { return (bytes[..got.bytes].to_vec(), false) };
        assert_eq!(got.bytes, 0);
        let seals = rustix::fs::fcntl_get_seals(&file).unwrap();
        assert!(seals.contains(SealFlags::SEAL | SealFlags::WRITE | SealFlags::GROW));
        let (mut file, mut entry) = (std::fs::File::from(file), Vec::new());
        file.rewind().unwrap();
        file.read_to_end(&mut entry).unwrap();
        (entry, true)
    }
}

#[tokio::test]
async fn an_event_is_an_entry_with_the_fields_that_apply() {
    let (journal, mut sink) = Journal::new();
    let event = changed(42);
    let unavailable = record(43, "ibvwatch.api.unavailable", r#"{"cause":"unauthorized"}"#);
    let gone = record(44, "ibvwatch.session.vanished", "{}");
    sink.deliver(&[event.clone(), unavailable, gone]).await.unwrap();

    let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let expected = [
        field("SYSLOG_IDENTIFIER", "ibvwatch-events"),
        field("PRIORITY", "6"),
        field("MESSAGE_ID", "b68979ad9cfe4f2a9d0ce2bb768f6380"),
        field("IBVWATCH_EVENT_TYPE", "ibvwatch.resource.state_changed"),
        field("IBVWATCH_SESSION_ID", SESSION),
        field("IBVWATCH_SEQUENCE", "00000000000000000042"),
        field("IBVWATCH_RESOURCE_TYPE", "ID_DOCUMENT"),
        field("IBVWATCH_FROM", "REQUIRED"),
        field("IBVWATCH_TO", "ODD\nSYSLOG_IDENTIFIER=other"),
        field("MESSAGE", event.to_line().unwrap().trim_end()),
    ];
    assert_eq!(fields(&journal.next().0), expected);
    let names = |entry: &[u8]| fields(entry).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    let common = ["IBVWATCH_EVENT_TYPE", "IBVWATCH_SEQUENCE", "MESSAGE"];
    let of_api = names(&journal.next().0);
    assert_eq!(of_api[..3], ["SYSLOG_IDENTIFIER", "PRIORITY", "MESSAGE_ID"]);
    assert_eq!(of_api[3..], common);
    let of_gone = names(&journal.next().0);
    assert!(!of_gone.contains(&"MESSAGE_ID".to_owned()), "{of_gone:?}");
}

#[tokio::test]
async fn an_event_too_large_for_a_datagram_comes_in_a_sealed_file() {
    let (journal, mut sink) = Journal::new();
    let large = format!(r#"{{"labels":{{"a":"{}"}}}}"#, "x".repeat(2 << 20));
    let events = [changed(1), record(2, "ibvwatch.session.tracked", &large), changed(3)];
    sink.deliver(&events).await.unwrap();
    let came: Vec<_> = (0..3).map(|_| journal.next()).collect();
    assert_eq!(came.iter().map(|(_, file)| *file).collect::<Vec<_>>(), [false, true, false]);
    let message = fields(&came[1].0).pop().unwrap();
    assert_eq!(message, ("MESSAGE".to_owned(), events[1].to_line().unwrap().trim_end().to_owned()));
}

#[tokio::test]
async fn a_journal_that_does_not_read_is_waited_for() {
    let (journal, mut sink) = Journal::new();
    // More than the socket takes.
    let events: Vec<_> = (1..=2_000).map(changed).collect();
    let mut delivery = tokio::spawn(async move {
        sink.deliver(&events).await.unwrap();
    });
    let full = tokio::time::timeout(Duration::from_millis(200), &mut delivery).await;
    assert!(full.is_err(), "the socket takes everything, which tests nothing");
    let reading = tokio::task::spawn_blocking(move || {
        (1..=2_000).for_each(|wanted| assert_eq!(sequence(&journal.next().0), wanted));
    });
    delivery.await.unwrap();
    reading.await.unwrap();
}

#[tokio::test]
async fn after_the_journal_was_away_the_rest_is_sent_and_nothing_twice() {
    let (journal, mut sink) = Journal::new();
    sink.deliver(&[changed(1)]).await.unwrap();
    let path = sink.path.clone();
    let Journal { home, socket } = journal;
    drop(socket);
    let batch = [changed(1), changed(2)];
    let error = sink.deliver(&batch).await.unwrap_err().to_string();
    assert!(error.contains(&path.display().to_string()), "{error}");

    std::fs::remove_file(&path).unwrap();
    sink.deliver(&batch).await.unwrap_err();
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    let journal = Journal { home, socket };
    sink.deliver(&batch).await.unwrap();
    assert_eq!(sequence(&journal.next().0), 2);
}

#[test]
fn only_the_stream_that_is_named_is_the_journal() {
    let (reader, writer) = std::io::pipe().unwrap();
    let (other, _writer) = std::io::pipe().unwrap();
    let is = fstat(&writer).unwrap();
    let named = format!("{}:{}", is.st_dev, is.st_ino);
    assert!(is_stream(&named, writer.as_fd()) && is_stream(&named, reader.as_fd()));
    assert!(!is_stream(&named, other.as_fd()));
    assert!(!is_stream("", writer.as_fd()));
}

#[test]
fn every_type_has_an_id_of_its_own_that_the_reference_tells() {
    let reference = include_str!("../../../docs/EVENTS.md");
    let ids: HashSet<_> = EventKind::ALL.map(message_id).into();
    assert_eq!(ids.len(), EventKind::ALL.len());
    for kind in EventKind::ALL {
        let (id, priority) = (message_id(kind), priority(kind));
        uuid::Uuid::try_parse(id).unwrap();
        let row = format!("| `{kind}` | `{id}` | {priority} |");
        assert!(reference.contains(&row), "docs/EVENTS.md has no row {row}");
    }
}
