//! Lines on their way out, without ever making the thread that has one wait for a disk or a pipe.
//!
//! A line is appended whole to one of two halves, under a lock that is held for a copy of some hundred bytes. A thread of
//! the writer's own takes the filled half, gives the others the empty one, and writes. Both halves together are the bound; a
//! line that finds no room is dropped and counted, because a log that stalls must not stall the media. The thread is woken
//! for the first line and then gathers for a moment, so that a busy server pays for some wake-ups a second and not for one
//! a line.
//!
//! A buffer for each worker was rejected: lines would be out of order by whole buffers, and the bound would grow with the
//! workers for a lock that is hardly ever contended. Writing through the ring was rejected too: the log may be a pipe whose
//! reader has stopped, and it has to be written while the workers shut down.

use std::io::{self, Write};
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How long the thread gathers lines after the first before it writes, unless a half is half full.
const GATHER: Duration = Duration::from_millis(100);

/// How long closing waits for a destination: what a disk under load needs, and not what a pipe nobody reads would take.
const LAST_WRITE: Duration = Duration::from_secs(3);

/// Opens the destination, again and again.
pub(super) type Open = Box<dyn FnMut() -> io::Result<Box<dyn Write + Send>> + Send>;

/// How the operator is told of what becomes of the lines.
pub(super) struct Reports {
    /// Told when writing fails, when it works again, when the destination can't be opened again.
    pub(super) news: fn(News),
    /// What to write, at the destination itself, of so many lines that found no room there since it was last told.
    pub(super) gap: Option<fn(u64) -> String>,
}

/// A change that the operator is told of, once.
#[derive(Debug)]
pub(super) enum News {
    Failing(io::Error),
    Recovered,
    NotReopened(io::Error),
}

/// A bounded buffer of lines and the thread that writes them out. Dropping it closes it.
#[derive(Debug)]
pub(super) struct LineWriter {
    shared: Arc<Shared>,
}

impl LineWriter {
    /// Opens the destination and starts the thread, which gets this name. It is opened again whenever it is to be reopened.
    ///
    /// `buffer_len` bounds the bytes that wait to be written, what is being written included. A line longer than half of
    /// it never finds room.
    ///
    /// # Errors
    /// The destination can't be opened, or the thread can't be started.
    pub(super) fn start(name: &str, mut open: Open, reports: Reports, buffer_len: usize) -> io::Result<Self> {
        let file = open()?;
        let half_len = buffer_len / 2;
        let shared = Arc::new(Shared {
            half_len,
            state: Mutex::new(State { filling: Vec::with_capacity(half_len), ..State::default() }),
            wake: Condvar::new(),
            ended: Condvar::new(),
            dropped: AtomicU64::new(0),
        });
        let destination = Outlet { open, file, failing: false, torn: false };
        thread::Builder::new().name(name.to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || {
                let _ending = Ending(&shared);
                shared.run(destination, &reports);
            }
        })?;
        Ok(LineWriter { shared })
    }

    /// Puts a whole line into the buffer, or counts it as dropped.
    pub(super) fn append(&self, line: &[u8]) {
        self.shared.append(line);
    }

    /// Lines that found no room, came after closing, or could not be written.
    pub(super) fn dropped(&self) -> u64 {
        self.shared.dropped.load(Relaxed)
    }

    /// Opens the destination again: every line that hasn't been taken for writing goes to the new one. Where it can't be
    /// opened, the old one stays. Returns at once.
    pub(super) fn reopen(&self) {
        self.shared.lock().reopen = true;
        self.shared.wake.notify_one();
    }

    /// Writes what is buffered and ends the thread; what comes from now on is dropped. Closing again does nothing.
    ///
    /// Waits for the destination, but not for one that is stuck: then the thread is left to it, and what it holds is lost
    /// with the process.
    pub(super) fn close(&self) {
        let mut state = self.shared.lock();
        state.closing = true;
        self.shared.wake.notify_one();
        let waited = self.shared.ended.wait_timeout_while(state, LAST_WRITE, |state| !state.ended);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for LineWriter {
    fn drop(&mut self) {
        self.close();
    }
}

/// What the handle and the thread share.
#[derive(Debug)]
struct Shared {
    half_len: usize,
    state: Mutex<State>,
    wake: Condvar,
    ended: Condvar,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// The half that takes lines; the thread has the other.
    filling: Vec<u8>,
    /// How many bytes `filling` must reach for the thread to be woken; none while it is not waiting.
    wake_at: Option<usize>,
    /// Lines that found no room since the destination was last told.
    gap: u64,
    reopen: bool,
    closing: bool,
    ended: bool,
}

/// What the thread is to do after it has taken a half.
struct Turn {
    gap: u64,
    reopen: bool,
    last: bool,
}

/// Says that the thread has ended, also when it panicked.
struct Ending<'a>(&'a Shared);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        (state.closing, state.ended) = (true, true);
        self.0.ended.notify_all();
    }
}

impl Shared {
    fn append(&self, line: &[u8]) {
        let mut state = self.lock();
        let before = state.filling.len();
        let after = before + line.len();
        if after > self.half_len || state.closing {
            state.gap += 1;
            drop(state);
            self.dropped.fetch_add(1, Relaxed);
            return;
        }
        state.filling.extend_from_slice(line);
        let wake = state.wake_at.is_some_and(|wake_at| before < wake_at && after >= wake_at);
        drop(state);
        if wake {
            self.wake.notify_one();
        }
    }

    /// The thread: take a half, write it, again, until the writer closes.
    fn run(&self, mut destination: Outlet, reports: &Reports) {
        let mut batch = Vec::with_capacity(self.half_len);
        loop {
            let turn = self.take(&mut batch);
            if turn.reopen
                && let Err(error) = destination.reopen()
            {
                (reports.news)(News::NotReopened(error));
            }
            let Written { lost, news } = destination.write(&batch);
            self.dropped.fetch_add(lost, Relaxed);
            batch.clear();
            if let Some(news) = news {
                (reports.news)(news);
            }
            if let (Some(line), 1..) = (reports.gap, turn.gap) {
                // It comes behind what was in the buffer when there was no room, and is no line of anyone's to count.
                destination.write(line(turn.gap).as_bytes());
            }
            if turn.last {
                return;
            }
        }
    }

    /// Waits for lines, gathers a few more, and swaps them for `empty`.
    fn take(&self, empty: &mut Vec<u8>) -> Turn {
        let mut state = self.lock();
        state.wake_at = Some(1);
        state = self
            .wake
            .wait_while(state, |s| s.filling.is_empty() && !s.reopen && !s.closing)
            .unwrap_or_else(PoisonError::into_inner);
        let enough = self.half_len / 2;
        state.wake_at = Some(enough);
        (state, _) = self
            .wake
            .wait_timeout_while(state, GATHER, |s| s.filling.len() < enough && !s.reopen && !s.closing)
            .unwrap_or_else(PoisonError::into_inner);
        state.wake_at = None;
        mem::swap(&mut state.filling, empty);
        Turn { gap: mem::take(&mut state.gap), reopen: mem::take(&mut state.reopen), last: state.closing }
    }

    /// A panic elsewhere leaves the state whole: no line is half appended.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread's end of the buffer.
struct Outlet {
    open: Open,
    file: Box<dyn Write + Send>,
    /// The last write failed.
    failing: bool,
    /// The last write ended inside a line.
    torn: bool,
}

/// What became of a batch of lines.
#[derive(Debug)]
struct Written {
    lost: u64,
    news: Option<News>,
}

impl Outlet {
    fn reopen(&mut self) -> io::Result<()> {
        self.file = (self.open)()?;
        Ok(())
    }

    /// Writes whole lines. What could not be written is lost: the next batch tries again.
    fn write(&mut self, batch: &[u8]) -> Written {
        if batch.is_empty() {
            return Written { lost: 0, news: None };
        }
        let (written, result) = self.write_until_error(batch);
        let was_failing = mem::replace(&mut self.failing, result.is_err());
        let news = match result {
            Ok(()) => was_failing.then_some(News::Recovered),
            Err(error) => (!was_failing).then_some(News::Failing(error)),
        };
        let lost = batch[written..].iter().filter(|byte| **byte == b'\n').count() as u64;
        Written { lost, news }
    }

    /// How many bytes of `batch` were written, and why not all of them.
    fn write_until_error(&mut self, batch: &[u8]) -> (usize, io::Result<()>) {
        // A line that was cut by a full disk is ended first: the next one is never glued to it.
        if self.torn {
            match self.write_once(b"\n") {
                Ok(_) => self.torn = false,
                Err(error) => return (0, Err(error)),
            }
        }
        let mut written = 0;
        while written < batch.len() {
            match self.write_once(&batch[written..]) {
                Ok(len) => written += len,
                Err(error) => {
                    self.torn = written > 0 && batch[written - 1] != b'\n';
                    return (written, Err(error));
                }
            }
        }
        (written, Ok(()))
    }

    /// At least one byte of `bytes`, which is not empty, or an error.
    fn write_once(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.file.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => return Ok(len.min(bytes.len())),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    #[test]
    fn a_failure_is_said_once_and_so_is_its_end() {
        let full = || Err(io::ErrorKind::StorageFull.into());
        let (mut outlet, _) = scripted([Ok(4), full(), full(), Ok(4), full(), Ok(4), Ok(4), full()]);
        let told = ["one\n", "two\n", "thr\n", "fou\nfiv\n", "", "six\n", "sev\n", "eig\n"].map(|batch| {
            let Written { lost, news } = outlet.write(batch.as_bytes());
            let news = news.map(|news| matches!(news, News::Failing(_)));
            (lost, news)
        });
        let (failing, recovered) = (Some(true), Some(false));
        let expected = [
            (0, None),
            (1, failing),
            (1, None),
            // The first line of a batch gets through, the second does not: still the same failure.
            (1, None),
            (0, None),
            (0, recovered),
            (0, None),
            (1, failing),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn a_line_cut_by_a_full_disk_is_never_glued_to_the_next() {
        let full = || Err(io::ErrorKind::StorageFull.into());
        let interrupted = Err(io::ErrorKind::Interrupted.into());
        let (mut outlet, written) = scripted([Ok(6), full(), full(), Ok(1), Ok(2), interrupted, Ok(9)]);
        assert_eq!(outlet.write(b"one\ntwo\nthree\n").lost, 2);
        assert_eq!(outlet.write(b"four\n").lost, 1);
        assert_eq!(outlet.write(b"five\n").lost, 0);
        assert_eq!(*written.lock().unwrap(), b"one\ntw\nfive\n");
    }

    #[test]
    fn a_destination_that_takes_nothing_does_not_spin() {
        let (mut outlet, _) = scripted([Ok(0)]);
        assert_eq!(outlet.write(b"one\ntwo\n").lost, 2);
    }

    /// A destination that answers each write as the script says: at most so many bytes, or an error.
    struct Scripted {
        script: VecDeque<io::Result<usize>>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Scripted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let len = self.script.pop_front().unwrap()?.min(bytes.len());
            self.written.lock().unwrap().extend_from_slice(&bytes[..len]);
            Ok(len)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// An outlet over a script, and what it has written.
    fn scripted(script: impl IntoIterator<Item = io::Result<usize>>) -> (Outlet, Arc<Mutex<Vec<u8>>>) {
        let written = Arc::new(Mutex::new(Vec::new()));
        let file = Box::new(Scripted { script: script.into_iter().collect(), written: Arc::clone(&written) });
        let open: Open = Box::new(|| Err(io::ErrorKind::NotFound.into()));
        (Outlet { open, file, failing: false, torn: false }, written)
    }
}
