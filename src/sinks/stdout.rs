//! Events as NDJSON on standard output.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::Arc;

use super::{Sink, SinkError};
use crate::domain::Record;
use crate::failpoint::Failpoint;

/// Writes one line an event, unbuffered: once delivered, a line is with the kernel.
///
/// Lines go out in writes of whole lines that a pipe takes in one piece, so that a process
/// killed in between leaves no half of a line behind.
#[derive(Debug)]
pub struct Stdout {
    output: Arc<File>,
    /// The rest of a line whose writing failed half-way; it goes first next time.
    torn: Vec<u8>,
}

/// `PIPE_BUF` on Linux: what a pipe writes atomically.
const ATOMIC: usize = 4_096;

impl Stdout {
    /// The name that its cursor is kept under.
    pub const NAME: &'static str = "stdout";

    /// # Errors
    /// Standard output is closed.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self::writing_to(File::from(std::io::stdout().as_fd().try_clone_to_owned()?)))
    }

    fn writing_to(output: File) -> Self {
        Self { output: Arc::new(output), torn: Vec::new() }
    }
}

impl Sink for Stdout {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    async fn deliver(&mut self, events: &[Record]) -> Result<(), SinkError> {
        let failed = |error: &dyn std::fmt::Display| SinkError::Failed(error.to_string());
        let mut chunks = vec![std::mem::take(&mut self.torn)];
        for event in events {
            let line = event.to_line().map_err(|error| failed(&error))?;
            match chunks.last_mut() {
                Some(chunk) if chunk.len() + line.len() <= ATOMIC => {
                    chunk.extend_from_slice(line.as_bytes());
                }
                Some(_) | None => chunks.push(line.into_bytes()),
            }
        }
        let output = Arc::clone(&self.output);
        // A reader that doesn't read blocks the write, which must not block the runtime.
        let (torn, written) = tokio::task::spawn_blocking(move || write_chunks(&output, &chunks))
            .await
            .map_err(|error| failed(&error))?;
        self.torn = torn;
        written.map_err(|error| {
            if error.kind() == ErrorKind::BrokenPipe {
                SinkError::Closed
            } else {
                failed(&format_args!("standard output: {error}"))
            }
        })
    }
}

/// Writes the chunks; when that fails, returns what is left of the line it failed in.
fn write_chunks(mut output: &File, chunks: &[Vec<u8>]) -> (Vec<u8>, std::io::Result<()>) {
    for chunk in chunks {
        let mut rest = chunk.as_slice();
        while !rest.is_empty() {
            match output.write(rest) {
                Ok(0) => return (torn(chunk, rest), Err(ErrorKind::WriteZero.into())),
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Whoever started the daemon may have set the pipe not to block.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if let Err(error) = until_writable(output) {
                        return (torn(chunk, rest), Err(error));
                    }
                }
                Err(error) => return (torn(chunk, rest), Err(error)),
            }
        }
        Failpoint::Written.reached();
    }
    (Vec::new(), Ok(()))
}

fn until_writable(output: &File) -> std::io::Result<()> {
    use rustix::event::{PollFd, PollFlags, poll};
    match poll(&mut [PollFd::new(output, PollFlags::OUT)], None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn torn(chunk: &[u8], rest: &[u8]) -> Vec<u8> {
    let written = chunk.len() - rest.len();
    if written == 0 || chunk[written - 1] == b'\n' {
        return Vec::new();
    }
    let end = rest.iter().position(|&byte| byte == b'\n').map_or(rest.len(), |at| at + 1);
    rest[..end].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_rest_of_a_line_that_was_begun_is_kept() {
        let chunk = b"first\nsecond\n";
        assert_eq!(torn(chunk, chunk), b"");
        assert_eq!(torn(chunk, &chunk[3..]), b"st\n");
        assert_eq!(torn(chunk, &chunk[6..]), b"");
        assert_eq!(torn(chunk, &chunk[8..]), b"cond\n");
    }

    #[test]
    fn a_pipe_without_a_reader_is_an_error_and_not_a_signal() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = File::from(std::os::fd::OwnedFd::from(writer));
        let (torn, written) = write_chunks(&output, &[b"line\n".to_vec()]);
        assert_eq!(written.unwrap_err().kind(), ErrorKind::BrokenPipe);
        assert!(torn.is_empty());
    }
}
