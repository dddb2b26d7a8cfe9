//! Regions of files on their way to a socket, a turn at a time.
//!
//! | `send_path` | what is in the page cache | what is not |
//! |---|---|---|
//! | `auto`, `sendfile` | sendfile(2) | asked for ahead, waited for by a read of one byte on the ring, then as if it had been there |
//! | `splice` | file to pipe to socket by splice(2) | the same |
//! | `ring-splice` | file to pipe on a thread of the kernel, pipe to socket by splice(2) | the same way |
//! | `read` | read through the ring into a transfer buffer, sent from there | the same way |
//! | `send-zc` | as `read`, sent by `IORING_OP_SEND_ZC` | the same way |
//!
//! Whether a turn is in the page cache is probed, never assumed (`rt::fs::File::is_resident`). Cold pages are brought into it and
//! then sent from it, without a copy: that takes less than half of what reading them into a buffer and sending the buffer takes, and
//! whoever asks for them next finds them. What still is not there after it was waited for (a file system that can't tell, memory
//! that is short) goes through a buffer.
//!
//! What a full socket did not take of a buffer or a pipe is dropped with it and sent again from the page cache, so that nothing
//! pooled waits for a client; `send-zc` is the exception that its kind of sending makes necessary.
//!
//! **Reading ahead.** A reader that meets a cold page is expected to meet more: from then on the disk is asked for what the
//! reader takes in [`AHEAD`] at the rate that it has shown, a step at a turn. It ends by itself some megabytes behind the last
//! cold page. The kernel's own read-ahead can't do this: it belongs to the descriptor, which all readers of a file share.

use std::io;
use std::time::{Duration, Instant};

use super::body::FileRegion;
use super::send::{Unsent, failed_read};
use super::wire::{Broken, Wire};
use crate::config::SendPath;
use crate::driver::{Advice, More};
use crate::limits::Limits;
use crate::rt::fs::File;

/// How far ahead of a reader the disk works, as time at the reader's rate; no further than [`Limits::READ_AHEAD`].
const AHEAD: Duration = Duration::from_millis(100);

/// What the disk is asked for by one call, in bytes: that takes some ten microseconds. More than the device's longest request or
/// its read-ahead, whichever is longer, would not be asked for.
const STEP: u64 = 128 << 10;

/// So far behind the last cold page a reader is still expected to meet more, in bytes.
const EXPECTED: u64 = 16 << 20;

/// The turns of one region.
pub(super) struct Turns<'a> {
    wire: &'a Wire,
    region: &'a FileRegion,
    begun: Instant,
    /// Up to where the disk was asked.
    asked: u64,
    /// Up to where it goes on being asked.
    expected: u64,
}

impl<'a> Turns<'a> {
    pub(super) fn new(wire: &'a Wire, region: &'a FileRegion) -> Self {
        let start = region.range.start;
        Turns { wire, region, begun: wire.runtime().now(), asked: start, expected: start }
    }

    /// Moves what the socket takes at once of `len` bytes at `offset`, a turn at most, once they can be had without making
    /// the worker wait. 0 is the end of the file; the inner error is the socket's.
    pub(super) async fn turn(&mut self, offset: u64, len: usize) -> Result<io::Result<usize>, Unsent> {
        let file = &*self.region.file;
        match self.wire.worker.send_path {
            SendPath::Auto | SendPath::Sendfile | SendPath::Splice if !self.fetch(offset, len).await? => {
                self.copied(file, offset, len).await
            }
            SendPath::Auto | SendPath::Sendfile => Ok(self.wire.socket.try_send_file(file, offset, len)),
            SendPath::Splice => self.spliced(file, offset, len).await,
            SendPath::RingSplice => self.spliced_on_the_ring(file, offset, len).await,
            SendPath::Read => self.copied(file, offset, len).await,
            SendPath::SendZc => self.uncopied(file, offset, len).await,
        }
    }

    /// Brings a turn into the page cache, if it is not there; whether it is there now.
    async fn fetch(&mut self, offset: u64, len: usize) -> Result<bool, Unsent> {
        let (file, end) = (&self.region.file, offset + len as u64);
        if file.is_resident(offset, len).map_err(failed_read)? {
            if end < self.expected {
                self.read_ahead(end, self.window(offset));
            }
            return Ok(true);
        }
        self.wire.worker.metrics.cold_reads.increment();
        for at in (offset..end).step_by(STEP as usize) {
            file.advise(at, (end - at).min(STEP), Advice::WillNeed);
        }
        self.asked = self.asked.max(end);
        self.expected = end + EXPECTED;
        self.read_ahead(end, self.window(offset));
        let buf = self.wire.runtime().transfer_pool().acquire().await;
        let (read, _) = file.read(end - 1, 1, buf).await;
        read.map_err(failed_read)?;
        file.has_come(offset, len).map_err(failed_read)
    }

    /// How many bytes ahead the disk should be.
    fn window(&self, offset: u64) -> u64 {
        let took = self.wire.runtime().now().saturating_duration_since(self.begun).as_micros().max(1);
        let moved = u128::from(offset - self.region.range.start);
        u64::try_from(moved * AHEAD.as_micros() / took).unwrap_or(u64::MAX).min(Limits::READ_AHEAD)
    }

    /// Asks the disk for the next step behind what it was asked for, once the reader at `offset` is near enough for all of it.
    /// If that is cold, too, more of it is expected.
    fn read_ahead(&mut self, offset: u64, window: u64) {
        let from = self.asked.max(offset);
        let to = (from + STEP).min(self.region.range.end);
        if from < to && to <= offset + window {
            if !self.region.file.is_resident(from, 1).unwrap_or(false) {
                self.expected = from + EXPECTED;
                self.region.file.advise(from, to - from, Advice::WillNeed);
            }
            self.asked = to;
        }
    }

    async fn spliced(&self, file: &File, offset: u64, len: usize) -> Result<io::Result<usize>, Unsent> {
        let mut pipe = self.wire.runtime().pipe_pool().acquire().await.map_err(failed_read)?;
        match file.try_fill(&mut pipe, offset, len).map_err(failed_read)? {
            0 => Ok(Ok(0)),
            _ => Ok(self.wire.socket.try_drain(&mut pipe, More::No)),
        }
    }

    async fn spliced_on_the_ring(&self, file: &File, offset: u64, len: usize) -> Result<io::Result<usize>, Unsent> {
        let pipe = self.wire.runtime().pipe_pool().acquire().await.map_err(failed_read)?;
        let (filled, mut pipe) = file.fill(pipe, offset, len).await;
        match filled.map_err(failed_read)? {
            0 => Ok(Ok(0)),
            _ => Ok(self.wire.socket.try_drain(&mut pipe, More::No)),
        }
    }

    async fn copied(&self, file: &File, offset: u64, len: usize) -> Result<io::Result<usize>, Unsent> {
        let buf = self.wire.runtime().transfer_pool().acquire().await;
        let (read, buf) = file.read(offset, len, buf).await;
        match read.map_err(failed_read)? {
            0 => Ok(Ok(0)),
            _ => Ok(self.wire.try_send(&buf, More::No)),
        }
    }

    async fn uncopied(&self, file: &File, offset: u64, len: usize) -> Result<io::Result<usize>, Unsent> {
        let buf = self.wire.runtime().transfer_pool().acquire().await;
        let (read, buf) = file.read(offset, len, buf).await;
        if read.map_err(failed_read)? == 0 {
            return Ok(Ok(0));
        }
        // The buffer comes back when the client has the bytes: one that takes none is not waited for longer than any other.
        self.wire.timer.set_after(self.wire.worker.limits.rate_grace);
        let sent = self.wire.timer.race(self.wire.socket.send_zero_copy(buf, 0)).await;
        self.wire.timer.set(None);
        match sent {
            Err(_) => Err(Broken::Slow.into()),
            // A Unix socket, or too much memory is locked already.
            Ok((Err(error), buf))
                if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOMEM | libc::ENOBUFS)) =>
            {
                Ok(self.wire.try_send(&buf, More::No))
            }
            Ok((sent, _)) => Ok(sent),
        }
    }
}
