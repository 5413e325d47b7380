//! Events as entries of the journal, by journald's native protocol.
//!
//! Where standard output is the journal, lines written to it would be cut at 48 KiB and told
//! apart from diagnostics by nothing. Each event is an entry of its own instead, with fields to
//! select by. See <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>.

use std::io::{self, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstat, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::Deserialize;
use tokio::io::Interest;
use tokio::net::UnixDatagram;

use super::{Sink, SinkError};
use crate::domain::{EventKind, Record};

/// Sends each event to journald as one entry.
///
/// Once delivered, an event is with journald's socket. A journal that is slow is waited for; one
/// that is away is an error, and the event that met it is the first to be sent again.
#[derive(Debug)]
pub struct Journald {
    path: PathBuf,
    socket: Option<UnixDatagram>,
    /// The last event that was sent, so that of a batch which failed only the rest is repeated.
    sent: u64,
}

const SOCKET: &str = "/run/systemd/journal/socket";
const IDENTIFIER: &str = "ibvwatch-events";

impl Journald {
    /// The name that its cursor is kept under.
    pub const NAME: &'static str = "journald";

    /// Whether standard output is the journal: `JOURNAL_STREAM` says which stream that is, and
    /// is inherited by processes whose output goes elsewhere.
    #[must_use]
    pub fn is_standard_output() -> bool {
        let named = std::env::var("JOURNAL_STREAM");
        named.is_ok_and(|stream| is_stream(&stream, std::io::stdout().as_fd()))
    }

    /// The system's journal.
    #[must_use]
    pub fn new() -> Self {
        Self::listening_at(PathBuf::from(SOCKET))
    }

    fn listening_at(path: PathBuf) -> Self {
        Self { path, socket: None, sent: 0 }
    }

    async fn send(&mut self, entry: &[u8]) -> io::Result<()> {
        let socket = if let Some(socket) = &self.socket {
            socket
        } else {
            let socket = UnixDatagram::unbound()?;
            socket.connect(&self.path)?;
            self.socket.insert(socket)
        };
        match socket.send(entry).await {
            Ok(_) => Ok(()),
            Err(error) if too_long(&error) => {
                let file = sealed(entry)?;
                let pass = || pass(socket.as_fd(), file.as_fd());
                socket.async_io(Interest::WRITABLE, pass).await
            }
            Err(error) => Err(error),
        }
    }
}

impl Default for Journald {
    fn default() -> Self {
        Self::new()
    }
}

impl Sink for Journald {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    async fn deliver(&mut self, events: &[Record]) -> Result<(), SinkError> {
        for event in events {
            if event.sequence <= self.sent {
                continue;
            }
            let entry = entry(event).map_err(|error| SinkError::Failed(error.to_string()))?;
            if let Err(error) = self.send(&entry).await {
                // A journal that was started anew listens on a socket of its own.
                self.socket = None;
                let path = self.path.display();
                return Err(SinkError::Failed(format!("the journal at {path}: {error}")));
            }
            self.sent = event.sequence;
        }
        Ok(())
    }
}

fn is_stream(named: &str, output: BorrowedFd<'_>) -> bool {
    fstat(output).is_ok_and(|is| named == format!("{}:{}", is.st_dev, is.st_ino))
}

/// What `MESSAGE_ID` an event of that type has, for ever.
const fn message_id(kind: EventKind) -> &'static str {
    match kind {
        EventKind::SessionTracked => "9bf8c45d02b44026b2044d5048569233",
        EventKind::SessionObserved => "0ba61649940e421285208c808538edb1",
        EventKind::ResourceStateChanged => "b68979ad9cfe4f2a9d0ce2bb768f6380",
        EventKind::ResourceAdded => "3d3bbd4ce6d14a96ae96288052a35d14",
        EventKind::ResourceRemoved => "d20afe83940b421382cd200714fd9ea7",
        EventKind::SessionNothingRequired => "3bdba04c397a457eb2415e556eaeed4f",
        EventKind::SessionCompleted => "bd1ef25fcc264aba899fbf19998fa6c7",
        EventKind::SessionExpiring => "a9a76a34a26e4d50b71578d97871c0ae",
        EventKind::SessionEnded => "eac25684756549d9ba532bbe565f989c",
        EventKind::SessionPollFailing => "b1a25cfdf80d4b85b2a24d28773f3526",
        EventKind::SessionPollRecovered => "20a61497a2854f028c755b599cd36d86",
        EventKind::ApiUnavailable => "d327b2caae684467b89cdcdf60d5af2d",
        EventKind::ApiAvailable => "4d44051d6a9344268def7afa826efe36",
    }
}

/// As syslog counts: 4 is a warning, 5 a notice, 6 for information.
const fn priority(kind: EventKind) -> &'static str {
    match kind {
        EventKind::SessionPollFailing | EventKind::ApiUnavailable => "4",
        EventKind::SessionExpiring => "5",
        EventKind::SessionTracked
        | EventKind::SessionObserved
        | EventKind::ResourceStateChanged
        | EventKind::ResourceAdded
        | EventKind::ResourceRemoved
        | EventKind::SessionNothingRequired
        | EventKind::SessionCompleted
        | EventKind::SessionEnded
        | EventKind::SessionPollRecovered
        | EventKind::ApiAvailable => "6",
    }
}

/// What of an event's data has a field of its own.
#[derive(Deserialize)]
struct Matter {
    resource: Option<Named>,
    from: Option<String>,
    to: Option<String>,
}

#[derive(Deserialize)]
struct Named {
    #[serde(rename = "type")]
    kind: String,
}

fn entry(event: &Record) -> Result<Vec<u8>, serde_json::Error> {
    let line = event.to_line()?;
    let matter: Matter = serde_json::from_str(event.data.get())?;
    // An older version's log may hold a type that is gone, which then has no id.
    let kind = EventKind::parse(&event.kind);
    let session = event.subject.map(|session| session.to_string());
    let sequence = format!("{:020}", event.sequence);
    let fields = [
        ("SYSLOG_IDENTIFIER", Some(IDENTIFIER)),
        ("PRIORITY", Some(kind.map_or("6", priority))),
        ("MESSAGE_ID", kind.map(message_id)),
        ("IBVWATCH_EVENT_TYPE", Some(&event.kind)),
        ("IBVWATCH_SESSION_ID", session.as_deref()),
        ("IBVWATCH_SEQUENCE", Some(&sequence)),
        ("IBVWATCH_RESOURCE_TYPE", matter.resource.as_ref().map(|resource| &*resource.kind)),
        ("IBVWATCH_FROM", matter.from.as_deref()),
        ("IBVWATCH_TO", matter.to.as_deref()),
        ("MESSAGE", Some(line.trim_end_matches('\n'))),
    ];
    let mut entry = Vec::with_capacity(line.len() + 512);
    for (name, value) in fields {
        if let Some(value) = value {
            append(&mut entry, name, value);
        }
    }
    Ok(entry)
}

/// A value with a line feed in it has its length stated, or its second line would be a field.
fn append(entry: &mut Vec<u8>, name: &str, value: &str) {
    entry.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}

fn too_long(error: &io::Error) -> bool {
    use rustix::io::Errno;
    Errno::from_io_error(error)
        .is_some_and(|error| [Errno::MSGSIZE, Errno::NOBUFS].contains(&error))
}

/// The entry in a file in memory that nobody can change any more, as journald demands.
fn sealed(entry: &[u8]) -> io::Result<OwnedFd> {
    let file = memfd_create("ibvwatch-event", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = std::fs::File::from(file);
    file.write_all(entry)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    fcntl_add_seals(&file, seals)?;
    Ok(file.into())
}

fn pass(socket: BorrowedFd<'_>, file: BorrowedFd<'_>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files = [file];
    if !control.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(io::Error::other("no room for the file descriptor of a large event"));
    }
    let none: &[IoSlice<'_>] = &[];
    sendmsg(socket, none, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

#[cfg(test)]
mod tests;
