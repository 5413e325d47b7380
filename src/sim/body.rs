//! The body of an answer: whole, slow, cut off, or far too long.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use super::api::InFlight;

pub(super) struct Served {
    rest: Bytes,
    /// White space still to follow.
    padding: u64,
    pace: Option<Pace>,
    end: End,
    /// Says that the exchange is over, by being dropped.
    _in_flight: Option<InFlight>,
}

struct Pace {
    piece: usize,
    pause: Duration,
    waits: Option<Pin<Box<Sleep>>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Whole,
    /// To be cut off, once what came before has been handed to the socket.
    Unflushed,
    Cut,
}

impl Served {
    pub(super) const fn whole(body: Bytes) -> Self {
        Self { rest: body, padding: 0, pace: None, end: End::Whole, _in_flight: None }
    }

    pub(super) fn cut_after(mut body: Bytes, bytes: usize) -> Self {
        body.truncate(bytes);
        Self { end: End::Unflushed, ..Self::whole(body) }
    }

    pub(super) fn padded_to(body: Bytes, bytes: u64) -> Self {
        let padding = bytes.saturating_sub(body.len() as u64);
        Self { padding, ..Self::whole(body) }
    }

    /// About ten pieces a second, or one byte at a time where that is too many.
    pub(super) fn dripping(body: Bytes, bytes_per_second: u32) -> Self {
        let rate = bytes_per_second.max(1);
        let piece = (rate / 10).max(1);
        let pace = Pace {
            piece: usize::try_from(piece).unwrap_or(usize::MAX),
            pause: Duration::from_secs(1) * piece / rate,
            waits: None,
        };
        Self { pace: Some(pace), ..Self::whole(body) }
    }

    pub(super) fn until_sent(self, in_flight: InFlight) -> Self {
        Self { _in_flight: Some(in_flight), ..self }
    }

    fn next_piece(&mut self) -> Option<Bytes> {
        static BLANK: [u8; 64 * 1024] = [b' '; 64 * 1024];
        if !self.rest.is_empty() {
            let most = self.pace.as_ref().map_or(usize::MAX, |pace| pace.piece);
            return Some(self.rest.split_to(self.rest.len().min(most)));
        }
        let blank = usize::try_from(self.padding).unwrap_or(usize::MAX).min(BLANK.len());
        self.padding -= blank as u64;
        (blank > 0).then(|| Bytes::from_static(&BLANK[..blank]))
    }
}

impl Body for Served {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Some(pace) = &mut self.pace
            && let Some(waits) = &mut pace.waits
        {
            ready!(waits.as_mut().poll(cx));
            pace.waits = None;
        }
        if let Some(piece) = self.next_piece() {
            if let Some(pace) = &mut self.pace {
                pace.waits = Some(Box::pin(tokio::time::sleep(pace.pause)));
            }
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match self.end {
            End::Whole => Poll::Ready(None),
            End::Unflushed => {
                self.end = End::Cut;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            End::Cut => Poll::Ready(Some(Err(io::Error::other("cut off on purpose")))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.padding == 0 && self.end == End::Whole
    }

    /// Stated only where it is to be: a padded body goes out chunked, and a cut one has its
    /// `Content-Length` from whoever promised it.
    fn size_hint(&self) -> SizeHint {
        if self.padding == 0 && self.end == End::Whole {
            SizeHint::with_exact(self.rest.len() as u64)
        } else {
            SizeHint::default()
        }
    }
}
