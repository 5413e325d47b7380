//! How a command that reads the database gets to see the present.
//!
//! A poll that finds nothing new is not written down, so what the database says of due times
//! and last polls grows old while the daemon runs. Beside the database there is a socket:
//! whoever connects to it has the daemon write down its schedule, and is let go once that is
//! done. The command then reads the database, which is the one way there is.

use std::future::Future;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;

/// Says that the schedule is written down; a connection closed without it says that it isn't.
const DONE: u8 = b'.';
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// Longer than a command waits, the daemon may take; it then reads what is there.
const PATIENCE: Duration = Duration::from_secs(2);

/// The socket that belongs to the database.
#[must_use]
pub fn socket_path(database: &Path) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(".sock");
    path.into()
}

/// Opens the socket, for who may read the database. The caller holds the database's lock, so
/// one that is there was left behind.
///
/// # Errors
/// The path is too long for a socket (108 bytes on Linux), or can't be written to.
pub fn listen(database: &Path) -> io::Result<Socket> {
    let path = socket_path(database);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let socket = Socket { listener: UnixListener::bind(&path)?, path };
    std::fs::set_permissions(&socket.path, std::fs::Permissions::from_mode(0o600))?;
    Ok(socket)
}

/// The open socket; gone from the file system when dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!("{} could not be removed: {error}", self.path.display());
        }
    }
}

/// Serves whoever asks, one after the other, for ever.
pub async fn serve<F, E>(socket: Socket, mut write_down: impl FnMut() -> F)
where
    F: Future<Output = Result<(), E>>,
    E: std::fmt::Display,
{
    let mut failing = false;
    loop {
        let mut asking = match socket.listener.accept().await {
            Ok((asking, _)) => {
                failing = false;
                asking
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!("a command could not be let in: {error}");
                }
                tokio::time::sleep(AFTER_FAILURE).await;
                continue;
            }
        };
        match write_down().await {
            // Who has gone meanwhile need not be told.
            Ok(()) => drop(asking.write_all(&[DONE]).await),
            Err(error) => {
                tracing::warn!("the schedule could not be written down for a command: {error}");
            }
        }
    }
}

/// What came of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refreshed {
    /// The database is up to date.
    Yes,
    /// No daemon runs with this database, or none that may be asked.
    NobodyThere,
    /// The daemon did not come round to it.
    NotInTime,
}

/// Has the daemon write down its schedule, and waits for it.
#[must_use]
pub fn ask(database: &Path) -> Refreshed {
    let Ok(mut daemon) = UnixStream::connect(socket_path(database)) else {
        return Refreshed::NobodyThere;
    };
    let mut answer = [0];
    let answered =
        daemon.set_read_timeout(Some(PATIENCE)).and_then(|()| daemon.read_exact(&mut answer));
    if answered.is_ok() && answer == [DONE] { Refreshed::Yes } else { Refreshed::NotInTime }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[tokio::test]
    async fn who_asks_is_let_go_once_it_is_written_down() {
        let home = tempfile::tempdir().unwrap();
        let database = home.path().join("ibvwatch.db");
        assert_eq!(ask(&database), Refreshed::NobodyThere);
        std::fs::write(socket_path(&database), "left behind").unwrap();
        for _ in 0..2 {
            let socket = listen(&database).unwrap();
            let (written, mut count) = tokio::sync::watch::channel(0);
            let serving = tokio::spawn(serve(socket, move || {
                written.send_modify(|count| *count += 1);
                std::future::ready(Ok::<(), Infallible>(()))
            }));
            let asked = database.clone();
            let refreshed = tokio::task::spawn_blocking(move || ask(&asked)).await.unwrap();
            assert_eq!(refreshed, Refreshed::Yes);
            assert_eq!(*count.borrow_and_update(), 1);
            serving.abort();
            assert!(serving.await.unwrap_err().is_cancelled());
            assert!(!socket_path(&database).exists());
        }
    }
}
