//! A reader of a file that is being made: it catches up from the page cache by zero-copy, and then follows.
//!
//! Those who follow are all at the same place, and what comes is little. So the newest bytes are read and framed once on each worker,
//! and each of its readers sends the same memory in one call, where a region of a file takes three: the chunk's head, the region,
//! its end. A reader that stops keeps those bytes, so they are counted; when what they may take is used up, it is regions again.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;

use super::files::{LiveFile, State};
use crate::error::Error;
use crate::http::{Budget, FileRegion, Framed, Segment, Worker};
use crate::limits::Limits;
use crate::proto::range::ByteRange;
use crate::rt::fs::File;
use crate::rt::signal::Watch;

/// A file that is being made, as it is open on one worker.
pub(super) struct Opened {
    /// Its descriptor.
    pub file: Rc<File>,
    newest: RefCell<Option<(ByteRange, Framed)>>,
    /// What the newest bytes of all files may take on this worker.
    budget: Budget,
}

impl Opened {
    /// A file, whose newest bytes are counted in this budget.
    pub fn new(file: Rc<File>, budget: &Budget) -> Self {
        Opened { file, newest: RefCell::default(), budget: budget.clone() }
    }

    /// The newest bytes, if they are few and in memory.
    fn newest(&self, range: ByteRange) -> Option<Framed> {
        let len = usize::try_from(range.len()).ok().filter(|len| *len <= Limits::LIVE_NEWEST_LEN)?;
        let mut newest = self.newest.borrow_mut();
        if let Some((_, framed)) = newest.as_ref().filter(|(of, _)| *of == range) {
            return Some(framed.clone());
        }
        *newest = None;
        let share = self.budget.take(len + Framed::OVERHEAD)?;
        let mut bytes = [0; Limits::LIVE_NEWEST_LEN];
        let read = self.file.read_resident(range.start, &mut bytes[..len]).ok()?;
        // What is not in memory is waited for as any region.
        let framed = (read == len).then(|| Framed::around(&bytes[..len], |chunk| share.of(chunk)))?;
        *newest = Some((range, framed.clone()));
        Some(framed)
    }
}

/// The bytes of a file from some offset on, as they come. It is never ahead of what the kernel has.
pub(super) struct Reader {
    live: Arc<LiveFile>,
    opened: Rc<Opened>,
    at: u64,
    /// Once there was nothing to send.
    watch: Option<Watch>,
    is_done: bool,
    worker: Rc<Worker>,
}

impl Reader {
    /// From `at` on; `opened` is the same file.
    pub fn new(worker: &Rc<Worker>, live: Arc<LiveFile>, opened: Rc<Opened>, at: u64) -> Self {
        worker.metrics.live_readers.increment();
        Reader { live, opened, at, watch: None, is_done: false, worker: worker.clone() }
    }
}

impl Stream for Reader {
    type Item = Result<Segment, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        while !self.is_done {
            let (state, written) = self.live.progress();
            if self.at < written {
                if let Some(newest) = self.opened.newest(ByteRange { start: self.at, end: written }) {
                    self.at = written;
                    return Poll::Ready(Some(Ok(newest.into())));
                }
                // A turn of it: what follows may be more by then, and is told of in one piece.
                let end = written.min(self.at + self.worker.limits.high_water_mark as u64);
                let range = ByteRange { start: self.at, end };
                self.at = end;
                return Poll::Ready(Some(Ok(FileRegion { file: self.opened.file.clone(), range }.into())));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::sim::{Content, Faults, explore};
    use crate::rt::fs::tests::run;

    /// T1: the newest bytes are read once, and those that slow readers still have leave room for no others.
    #[test]
    fn t1_the_newest_bytes_are_shared_and_bounded() {
        explore(Faults::SLOW, |world| {
            const LONG: u64 = Limits::LIVE_NEWEST_LEN as u64;
            world.add_file("film", Content::Rule(2 * LONG, |offset| offset as u8));
            run(world, async |_, root| {
                let file = Rc::new(root.open_beneath(b"film").await.unwrap());
                let budget = Budget::new(100);
                let opened = Opened::new(file, &budget);
                let newest = |start, end| opened.newest(ByteRange { start, end });
                let (first, again) = (newest(0, 50).unwrap(), newest(0, 50).unwrap());
                assert_eq!(first.data(), (0..50).collect::<Vec<u8>>());
                assert_eq!(first.data().as_ptr(), again.data().as_ptr(), "one memory for all");
                assert!(newest(50, 90).is_none(), "a slow reader has the first ones");
                drop((first, again));
                assert_eq!(newest(50, 90).unwrap().data(), (50..90).collect::<Vec<u8>>());
                let opened = Opened::new(opened.file.clone(), &Budget::new(1 << 20));
                let newest = |start, end| opened.newest(ByteRange { start, end });
                assert!(newest(0, LONG).is_some() && newest(0, LONG + 1).is_none());
            });
        });
    }
}
