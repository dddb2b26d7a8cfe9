//! Replies that are known already: the bytes of a request, and what is answered to exactly these bytes.
//!
//! Players and caches ask for the same few things in the same words. As long as what a reply was made from is believed (the
//! handler's word, [`Holds`]), a request that is equal to an earlier one, byte for byte, has the same reply: then nothing is
//! parsed, no task is made, and head and body leave in one send from one buffer, or the body by sendfile(2) behind the head. On a
//! request for a small file that is a quarter of the whole cost, and nearly all of it that is ours.
//!
//! **Bounds.** A table of [`Limits::KNOWN_REPLIES`] places; a reply stands in the one that its request's hash names, so nothing is
//! searched and a flood of distinct requests replaces, never grows. It is kept when its request comes a second time, so that
//! what is asked for once costs no copy. Its bytes count as hot files. A file is held weakly: closing it is the open-file
//! cache's affair.
//!
//! **Truth.** What is answered from a file is answered only if fstat still says what it said when the head was made; what is
//! answered from memory is one version, whole, and no older than `hot_file_valid`. A Date is not older than its second.
//! Not used at all while an access log is written (its line needs the request's parts) or the server drains.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant, UNIX_EPOCH};

use super::body::{Body, FileRegion};
use super::budget::Share;
use super::{Holds, Worker};
use crate::driver::FileStat;
use crate::limits::Limits;
use crate::proto::http1::encode::Persistence;
use crate::proto::range::ByteRange;
use crate::rt::fs::File;

/// The known replies of one worker.
pub(super) struct KnownReplies {
    places: RefCell<Vec<Place>>,
}

/// Where replies to requests with this hash stand.
#[derive(Default)]
struct Place {
    /// Hash of the request that was last seen here.
    seen: u64,
    known: Option<Rc<Known>>,
}

/// One known reply.
pub(super) struct Known {
    gate: usize,
    request: Box<[u8]>,
    /// The status, for the counters.
    pub(super) status: u16,
    /// Whether the connection goes on: not when the client said that this is its last request.
    pub(super) persistence: Persistence,
    head_len: usize,
    /// The head, and the body where that is bytes.
    bytes: Vec<u8>,
    region: Option<Region>,
    until: Instant,
    _share: Share,
}

struct Region {
    file: Weak<File>,
    range: ByteRange,
    stat: FileStat,
}

/// A request whose reply is worth keeping: it came before.
pub(super) struct Asked {
    request: Box<[u8]>,
    hash: u64,
}

/// What is known of a request.
pub(super) enum Lookup {
    /// Its reply.
    Known(Rc<Known>),
    /// Nothing; with what to keep its reply by, if it came before.
    Unknown(Option<Box<Asked>>),
}

impl Known {
    /// What is sent first.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How much of it is the head.
    pub(super) fn head_len(&self) -> usize {
        self.head_len
    }

    /// The region that follows, if the reply is a file's. `Err` when the file was closed or is not what it was.
    pub(super) fn region(&self) -> Result<Option<FileRegion>, Changed> {
        let Some(region) = &self.region else { return Ok(None) };
        let file = region.file.upgrade().ok_or(Changed)?;
        let unchanged = file.stat().is_ok_and(|stat| stat == region.stat);
        if unchanged { Ok(Some(FileRegion { file, range: region.range })) } else { Err(Changed) }
    }
}

/// What a reply was made from is not so any more.
pub(super) struct Changed;

impl KnownReplies {
    /// No place is taken.
    pub(super) fn new() -> Self {
        let places = std::iter::repeat_with(Place::default).take(Limits::KNOWN_REPLIES).collect();
        KnownReplies { places: RefCell::new(places) }
    }

    /// What is known of a request that came through this gate.
    pub(super) fn look_up(&self, worker: &Worker, gate: usize, request: &[u8]) -> Lookup {
        if worker.access_log.is_some() || worker.draining() || request.len() > Limits::KNOWN_REQUEST_LEN {
            return Lookup::Unknown(None);
        }
        let hash = hash(request);
        let place = &mut self.places.borrow_mut()[place(hash)];
        if let Some(known) = &place.known {
            if worker.runtime.now() >= known.until {
                place.known = None;
            } else if known.gate == gate && *known.request == *request {
                return Lookup::Known(known.clone());
            }
        }
        let came_before = std::mem::replace(&mut place.seen, hash) == hash;
        Lookup::Unknown(came_before.then(|| Box::new(Asked { request: request.into(), hash })))
    }

    /// Keeps a reply, if it is short enough, or a file's, and there is room.
    pub(super) fn keep(&self, worker: &Worker, gate: usize, asked: Asked, reply: &Reply<'_>) {
        let Reply { status, head, body, persistence, holds } = *reply;
        let (body, region): (&[u8], _) = match (body, &holds.stat) {
            // What a head alone says of a file would not be looked at again.
            (Body::Empty, None) => (&[], None),
            (Body::Bytes(bytes), None) if bytes.len() <= Limits::SMALL_REPLY_LEN => (bytes, None),
            (Body::File(FileRegion { file, range }), Some(stat)) => {
                (&[], Some(Region { file: Rc::downgrade(file), range: *range, stat: *stat }))
            }
            _ => return,
        };
        let Some(share) = worker.hot_files.take(asked.request.len() + head.len() + body.len()) else { return };
        let Asked { request, hash } = asked;
        let until = holds.until.min(end_of_second(worker));
        let bytes = [head, body].concat();
        let known =
            Known { gate, request, status, persistence, head_len: head.len(), bytes, region, until, _share: share };
        self.places.borrow_mut()[place(hash)].known = Some(Rc::new(known));
    }

    /// Forgets everything: requests are answered by other rules from now on.
    pub(super) fn clear(&self) {
        self.places.borrow_mut().iter_mut().for_each(|place| *place = Place::default());
    }
}

/// A reply as it was sent.
#[derive(Clone, Copy)]
pub(super) struct Reply<'a> {
    pub(super) status: u16,
    pub(super) head: &'a [u8],
    pub(super) body: &'a Body,
    pub(super) persistence: Persistence,
    pub(super) holds: &'a Holds,
}

/// When a Date field that is made now is old.
fn end_of_second(worker: &Worker) -> Instant {
    let since_epoch = worker.wall_clock().duration_since(UNIX_EPOCH).unwrap_or_default();
    worker.runtime.now() + (Duration::from_secs(1) - Duration::from_nanos(since_epoch.subsec_nanos().into()))
}

fn place(hash: u64) -> usize {
    (hash >> 32) as usize % Limits::KNOWN_REPLIES
}

/// Multiplies and folds eight bytes at a time. Only a place depends on it, never whether two requests are the same, so that
/// who makes hashes collide makes his own requests slower and nobody else's wrong.
fn hash(bytes: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
    let fold = |state: u64, word: u64| {
        let product = u128::from(state ^ word) * u128::from(FACTOR);
        (product as u64) ^ (product >> 64) as u64
    };
    let (words, rest) = bytes.as_chunks::<8>();
    let state = words.iter().fold(bytes.len() as u64 ^ FACTOR, |state, word| fold(state, u64::from_le_bytes(*word)));
    let last = rest.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
    fold(fold(state, last), FACTOR)
}
