//! A journal: records that are appended to files, in the order in which they were handed over, by a thread of its own.
//!
//! ```text
//!   room(len) ──▶ Room ──append──▶ ┌ the line ┐ ──all of it──▶ one write, one sync ──▶ commits, in order ──▶ Written
//!   waits, first come,             │ bounded  │   the journal's thread
//!   first served                   └──────────┘
//! ```
//!
//! Room is asked for before and apart from the append, so that the append itself never waits: its caller can hold a lock over
//! "give it the next number, append it", and the order of numbers is the order on the disk. What has room is written whatever becomes
//! of the caller. Its commit runs on the journal's thread when the kernel has the bytes (with `sync`: when the disk has them),
//! in the order of the records and before anybody who waits for them goes on; so what a commit makes visible outlives a
//! kill, or a loss of power.
//!
//! The thread takes all that waits, writes it at once and syncs once. A write that fails takes away exactly the records that
//! are not whole in the file, which is cut back to the last one that is; the next ones are tried again. Reads of single records
//! run on the same thread, ahead of what waits to be written.
//!
//! The files are segments, so that old records are given up by removing a file (`segments`). Lost: the ring of a worker for the writes
//! (the order over several workers would need a lock that is held while the disk works), and a file that is overwritten in a
//! circle (a torn write at the seam is not told from an old record).

mod line;
mod segments;

use std::fmt;
use std::io;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use self::line::{Appending, Line, Reading, Work};
use self::segments::Segments;
use crate::proto::journal::HEAD_LEN;

/// How a journal is kept.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// What the records are of, in a word: a journal of another kind is not opened.
    pub kind: &'static str,
    /// From this length on a segment is full, in bytes; the record that reaches it is its last one.
    pub segment_len: u64,
    /// The longest record that is written, in bytes.
    pub record_len: usize,
    /// What may wait to be written, in bytes with the heads of records; a record that is longer may, alone.
    pub waiting_len: usize,
    /// Whether a record counts as written when the disk has it, or when the kernel has it.
    pub sync: bool,
}

/// Where a record lies. Positions are in the order of the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The number of its segment.
    pub segment: u64,
    /// Where in the segment it begins, in bytes.
    pub offset: u64,
}

/// A part of a segment that was no longer what had been written when the journal was opened. What lay there is in no replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// From where on.
    pub position: Position,
    /// The file that the part was set aside in.
    pub kept_in: PathBuf,
}

/// What may be gone of what a journal was given, without a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// Nothing.
    None,
    /// The last records: the machine was started anew since they were written, or nobody knows whether it was.
    End,
    /// Any records: there was [`Damage`], in this opening or an earlier one.
    Anywhere,
}

/// Run on the journal's thread when its record is written, or is not going to be.
type Commit = Box<dyn FnOnce(Result<Position, &io::Error>) + Send>;

/// A handle on a journal. Every clone is the same journal; with the last one, and the last [`Room`], what waits is written and
/// the thread ends.
#[derive(Clone)]
pub struct Journal(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    damage: Vec<Damage>,
    doubt: Doubt,
    dir: PathBuf,
    record_len: usize,
}

/// What the handles and the thread share.
struct Shared {
    line: Line,
    /// Of all segments.
    bytes: AtomicU64,
    /// The first segment, and the one behind the last.
    first: AtomicU64,
    end: AtomicU64,
}

impl Journal {
    /// Opens the journal in this folder, which is made if need be, and replays its records in order.
    ///
    /// A torn tail of the last segment, which is what a kill leaves, is cut off. Anything else that is not as it was written is set
    /// aside in a file of its own, `SEGMENT-OFFSET.damaged`, logged, and told by [`Journal::damage`]: the records before it and those
    /// of later segments are replayed. Blocks, on reads of all the journal.
    ///
    /// # Errors
    /// The folder is in use by another journal, of this process or another, and still is half a second later (`WouldBlock`); a
    /// segment is no file of a journal, or the journal is of another kind (`InvalidData`); a call on the file system failed; no
    /// thread can be started.
    pub fn open(dir: &Path, settings: Settings, replay: impl FnMut(Position, &[u8])) -> io::Result<Self> {
        let (segments, damage) = Segments::open(dir, settings, replay)?;
        Journal::start(segments, damage, settings)
    }

    fn start(segments: Segments, damage: Vec<Damage>, settings: Settings) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            line: Line::new(settings.waiting_len),
            bytes: AtomicU64::default(),
            first: AtomicU64::default(),
            end: AtomicU64::default(),
        });
        shared.note(&segments);
        let (doubt, dir) = (segments.doubt, segments.dir.clone());
        let handle = Handle { shared: shared.clone(), damage, doubt, dir, record_len: settings.record_len };
        std::thread::Builder::new().name("journal".to_owned()).spawn(move || {
            let shared = shared;
            let _ending = line::Ending(&shared.line);
            // Given up first, and with it the directory: who has waited for the end may open the journal again.
            let mut segments = segments;
            while let Some(work) = shared.line.take() {
                shared.work(&mut segments, work);
            }
        })?;
        Ok(Journal(Arc::new(handle)))
    }

    /// Room for a record of at most this many bytes, as soon as there is some; who asked first has it first.
    ///
    /// # Errors
    /// `InvalidInput`: longer than records may be. `BrokenPipe`: the journal's thread has died.
    pub fn room(&self, len: usize) -> impl Future<Output = io::Result<Room>> + Send + use<> {
        let journal = self.clone();
        async move {
            if len > journal.0.record_len {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "the record is too long for the journal"));
            }
            let held = HEAD_LEN + len;
            journal.0.shared.line.enter(held).await?;
            Ok(Room { journal, held })
        }
    }

    /// Appends a record without asking for room, for who has a bound of its own on what it has under way; as
    /// [`Room::append_then`] otherwise.
    pub fn append_beside(
        &self,
        record: Bytes,
        commit: impl FnOnce(Result<Position, &io::Error>) + Send + 'static,
    ) -> Written {
        self.put(Appending::new(record, 0, Box::new(commit)))
    }

    /// Reads a record again.
    ///
    /// # Errors
    /// `NotFound`: its segment was dropped. `InvalidData`: there is no such record, or no longer. Else as reading a file.
    pub async fn read(&self, position: Position) -> io::Result<Bytes> {
        let (promise, outcome) = line::promise();
        self.0.shared.line.read(Reading { position, promise });
        outcome.await
    }

    fn put(&self, (appending, outcome): (Appending, line::Outcome<Position>)) -> Written {
        Written { outcome, refused: self.0.shared.line.append(appending) }
    }

    /// Removes the segments whose records all lie before this position, before anything that waits is written; the last one too, if
    /// nothing was written behind that. What can't be removed now is tried again the next time.
    pub fn drop_before(&self, position: Position) {
        self.0.shared.line.drop_before(position);
    }

    /// Waits, on the calling thread, until all is written that was appended before, but no longer than this.
    pub fn settle(&self, patience: Duration) {
        self.0.shared.line.wait_idle(patience);
    }

    /// The numbers of the segments that exist.
    pub fn segments(&self) -> Range<u64> {
        self.0.shared.first.load(Relaxed)..self.0.shared.end.load(Relaxed)
    }

    /// Bytes of all segments.
    pub fn bytes(&self) -> u64 {
        self.0.shared.bytes.load(Relaxed)
    }

    /// What may be gone of what was written, apart from what was removed. Still so with the next opening, unless
    /// [`Journal::note_no_doubt`] is called.
    pub fn doubt(&self) -> Doubt {
        self.0.doubt
    }

    /// Notes in the journal's folder that its user has drawn the consequences of the doubt. Blocks, until what was written before is on
    /// the disk; a commit may call it, once for each opening.
    ///
    /// # Errors
    /// As writing and syncing files.
    pub fn note_no_doubt(&self) -> io::Result<()> {
        segments::note_no_doubt(&self.0.dir)
    }

    /// What was lost when the journal was opened.
    pub fn damage(&self) -> &[Damage] {
        &self.0.damage
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Journal({:?}, {} bytes)", self.segments(), self.bytes())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.line.close();
    }
}

/// Room for one record among those that wait. Others wait while it is held; given back when it is dropped.
pub struct Room {
    journal: Journal,
    held: usize,
}

impl Room {
    /// Puts the record behind those that wait. It is written whether or not the result is waited for. `commit` is run on the journal's
    /// thread with the outcome: after the record is written and before [`Written`] is ready, in the order of the records. It must
    /// not block, and it must not wait for the journal.
    ///
    /// # Panics
    /// When the record is longer than the room that was asked for.
    pub fn append_then(
        mut self,
        record: Bytes,
        commit: impl FnOnce(Result<Position, &io::Error>) + Send + 'static,
    ) -> Written {
        assert!(HEAD_LEN + record.len() <= self.held, "a record that is longer than its room");
        // From here on the room is the record's.
        let held = std::mem::take(&mut self.held);
        self.journal.put(Appending::new(record, held, Box::new(commit)))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.held > 0 {
            self.journal.0.shared.line.leave(self.held);
        }
    }
}

/// Waits for a record to be written: where it lies then.
///
/// # Errors
/// As writing a file or syncing it; the record is not in the journal then. `BrokenPipe`: the journal's thread has died.
pub struct Written {
    outcome: line::Outcome<Position>,
    /// What a thread that has died did not take. Its commit is dropped here, where the caller holds no lock.
    refused: Option<Appending>,
}

impl Future for Written {
    type Output = io::Result<Position>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.refused = None;
        Pin::new(&mut self.outcome).poll(cx)
    }
}

impl Shared {
    /// One turn of the thread.
    fn work(&self, segments: &mut Segments, work: Work) {
        if let Some(position) = work.drop_before {
            segments.drop_before(position);
            self.note(segments);
        }
        for Reading { position, promise } in work.reads {
            promise.settle(segments.read(position));
        }
        let mut appends = work.appends.into_iter().peekable();
        while appends.peek().is_some() {
            let group: Vec<Appending> = segments.take_group(&mut appends);
            let outcomes = segments.write(group.iter().map(|appending| &*appending.record));
            self.note(segments);
            self.tell(group, outcomes);
        }
    }

    /// Tells what became of the records: first the commits, then those who wait.
    fn tell(&self, group: Vec<Appending>, outcomes: Vec<io::Result<Position>>) {
        let mut held = 0;
        let mut settled = Vec::with_capacity(group.len());
        for (appending, outcome) in group.into_iter().zip(outcomes) {
            let Appending { commit, promise, held: of_this, .. } = appending;
            let told = match &outcome {
                Ok(position) => Ok(*position),
                Err(error) => Err(error),
            };
            // A panic costs its own record, not the thread that others wait for.
            if std::panic::catch_unwind(AssertUnwindSafe(|| commit(told))).is_err() {
                tracing::error!("a commit of a journal panicked");
            }
            held += of_this;
            settled.push((promise, outcome));
        }
        self.line.leave(held);
        settled.into_iter().for_each(|(promise, outcome)| promise.settle(outcome));
    }

    fn note(&self, segments: &Segments) {
        let Range { start, end } = segments.numbers();
        self.first.store(start, Relaxed);
        self.end.store(end, Relaxed);
        self.bytes.store(segments.bytes(), Relaxed);
    }
}

#[cfg(test)]
mod tests;
