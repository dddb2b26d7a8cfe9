//! A reader of a file that is being made: it catches up from the page cache by zero-copy, and then follows.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;

use super::files::{LiveFile, State};
use crate::error::Error;
use crate::http::{FileRegion, Segment, Worker};
use crate::proto::range::ByteRange;
use crate::rt::fs::File;
use crate::rt::signal::Watch;

/// The bytes of a file from some offset on, as they come. It is never ahead of what the kernel has.
pub(super) struct Reader {
    live: Arc<LiveFile>,
    file: Rc<File>,
    at: u64,
    /// Once there was nothing to send.
    watch: Option<Watch>,
    is_done: bool,
    worker: Rc<Worker>,
}

impl Reader {
    /// From `at` on; `file` is the same file, open on this worker.
    pub fn new(worker: &Rc<Worker>, live: Arc<LiveFile>, file: Rc<File>, at: u64) -> Self {
        worker.metrics.live_readers.increment();
        Reader { live, file, at, watch: None, is_done: false, worker: worker.clone() }
    }
}

impl Stream for Reader {
    type Item = Result<Segment, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        while !self.is_done {
            let (state, written) = self.live.progress();
            if self.at < written {
                // A turn of it: what follows may be more by then, and is told of in one piece.
                let end = written.min(self.at + self.worker.limits.high_water_mark as u64);
                let range = ByteRange { start: self.at, end };
                self.at = end;
                return Poll::Ready(Some(Ok(FileRegion { file: self.file.clone(), range }.into())));
            }
            match (state, &mut self.watch) {
                (State::Growing, None) => self.watch = Some(self.live.watch()),
                (State::Growing, Some(watch)) => ready!(watch.poll_changed(cx)),
                (State::Whole, _) => self.is_done = true,
                (State::Broken, _) => {
                    self.is_done = true;
                    return Poll::Ready(Some(Err(Error::upstream("the encoder ended before its file was whole"))));
                }
            }
        }
        Poll::Ready(None)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.worker.metrics.live_readers.decrement();
    }
}
