//! Replies that are known already: the bytes of a request, and what is answered to exactly these bytes.
//!
//! Players and caches ask for the same few things in the same words. As long as what a reply was made from is believed (the
//! handler's word, [`Holds`]), a request that is equal to an earlier one, byte for byte, has the same reply: then nothing is
//! parsed, no task is made, and head and body leave in one send from one buffer, or the body by sendfile(2) behind the head. On a
//! request for a small file that is a quarter of the whole cost, and nearly all of it that is ours.
//!
//! **Bounds.** A table of [`Limits::KNOWN_REPLIES`] places; a reply stands in the one that its request's hash names, so nothing is
//! searched and a flood of distinct requests replaces, never grows. It is kept when its request comes a second time, so that
//! what is asked for once costs no copy. Its bytes count as hot files, and what does not hold any more gives way when those are
//! used up. A file is held weakly: closing it is the open-file cache's affair.
//!
//! **Truth.** What is answered from a file is answered only if fstat still says what it said when the head was made; what is
//! answered from memory is one version, whole, and no older than `hot_file_valid`. A Date is not older than its second.
//! Not used at all while an access log is written (its line needs the request's parts) or the server drains.

use std::cell::{Cell, RefCell};
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
use crate::telemetry::busiest::CountedPath;

/// The known replies of one worker.
pub(super) struct KnownReplies {
    places: RefCell<Vec<Place>>,
    /// No reply ceases to hold before that; `None` while there is none.
    next_expiry: Cell<Option<Instant>>,
    /// How often everything was forgotten: what was asked before is not kept after.
    forgotten: Cell<u64>,
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
    /// What its requests and bytes are counted by, if they are.
    pub(super) path: Option<Rc<CountedPath>>,
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
    /// See [`KnownReplies::clear`].
    forgotten: u64,
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
        KnownReplies { places: RefCell::new(places), next_expiry: Cell::new(None), forgotten: Cell::new(0) }
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
        Lookup::Unknown(
            came_before.then(|| Box::new(Asked { request: request.into(), hash, forgotten: self.forgotten.get() })),
        )
    }

    /// Keeps a reply, if it is short enough, or a file's, and there is room.
    pub(super) fn keep(&self, worker: &Worker, gate: usize, asked: Asked, reply: &Reply<'_>) {
        if asked.forgotten != self.forgotten.get() {
            return;
        }
        let Reply { status, head, body, persistence, path, holds } = *reply;
        let (body, region): (&[u8], _) = match (body, &holds.stat) {
            // What a head alone says of a file would not be looked at again.
            (Body::Empty, None) => (&[], None),
            (Body::Bytes(bytes), None) if bytes.len() <= Limits::SMALL_REPLY_LEN => (bytes, None),
            (Body::File(FileRegion { file, range }), Some(stat))
                if range.len() <= worker.limits.high_water_mark as u64 =>
            {
                (&[], Some(Region { file: Rc::downgrade(file), range: *range, stat: *stat }))
            }
            _ => return,
        };
        let path_len = path.map_or(0, |path| path.text_len());
        let Some(share) = worker.hot_share(asked.request.len() + head.len() + body.len() + path_len) else { return };
        let Asked { request, hash, .. } = asked;
        let until = holds.until.min(end_of_second(worker));
        let bytes = [head, body].concat();
        let (head_len, path) = (head.len(), path.cloned());
        let known = Known { gate, request, status, persistence, head_len, bytes, region, path, until, _share: share };
        self.places.borrow_mut()[place(hash)].known = Some(Rc::new(known));
        self.next_expiry.set(Some(self.next_expiry.get().map_or(until, |expiry| expiry.min(until))));
    }

    /// Forgets what does not hold any more. Free while all of it does.
    pub(super) fn forget_expired(&self, now: Instant) {
        if self.next_expiry.get().is_none_or(|expiry| now < expiry) {
            return;
        }
        let mut places = self.places.borrow_mut();
        places.iter_mut().for_each(|place| drop(place.known.take_if(|known| known.until <= now)));
        self.next_expiry.set(places.iter().flat_map(|place| &place.known).map(|known| known.until).min());
    }

    /// Forgets everything, what is being answered included: requests are answered by other rules from now on.
    pub(super) fn clear(&self) {
        self.forgotten.set(self.forgotten.get() + 1);
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
    pub(super) path: Option<&'a Rc<CountedPath>>,
    pub(super) holds: &'a Holds,
}

/// When a Date field that is made now is old.
fn end_of_second(worker: &Worker) -> Instant {
    let since_epoch = worker.wall_clock().duration_since(UNIX_EPOCH).unwrap_or_default();
    if since_epoch.as_secs() != worker.date.get().0 {
        // The second is over already.
        return worker.runtime.now();
    }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::SendPath;
    use crate::driver::Setup;
    use crate::driver::sim::{Faults, Sim, World};
    use crate::http::{Response, Segment};
    use crate::rt::Runtime;
    use crate::rt::offload::Offload;
    use crate::rt::task::Tasks;
    use crate::telemetry::access_log::{AccessLog, Destination, Format};

    const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n";
    const HOT_FILES: usize = 100_000;
    const MOMENT: Duration = Duration::from_millis(1);

    /// A worker over the fake kernel, at the beginning of a second.
    fn worker(hot_files: usize, access_log: Option<AccessLog>) -> Rc<Worker> {
        let setup = Setup {
            in_flight: 1,
            receive_buffers: (1, 1024),
            transfer_buffers: (1, 1024),
            upload_buffers: (1, 1024),
            pipes: 1,
        };
        let driver = Box::new(Sim::new(&World::new(0, Faults::NONE), &setup));
        let runtime =
            Runtime::new(driver, Tasks::new().expect("an eventfd"), Offload::start(0, 1).expect("no threads"));
        Worker::new(&runtime, Limits { hot_files, ..Limits::default() }, Arc::default(), access_log, SendPath::Auto)
    }

    /// What is known of a request through the first gate.
    fn look_up(worker: &Worker, request: &[u8]) -> Lookup {
        worker.known_replies.look_up(worker, 0, request)
    }

    fn known(worker: &Worker, request: &[u8]) -> Option<Rc<Known>> {
        match look_up(worker, request) {
            Lookup::Known(known) => Some(known),
            Lookup::Unknown(_) => None,
        }
    }

    /// Answers a request through the first gate with this body, which holds so long, as an exchange does.
    fn answer(worker: &Worker, request: &[u8], body: Body, time: Duration, stat: Option<FileStat>) {
        // As it is when a head is made.
        worker.date();
        if let Lookup::Unknown(Some(asked)) = look_up(worker, request) {
            let holds = Holds { until: worker.runtime.now() + time, stat };
            let persistence = Persistence::KeepAlive;
            let reply = Reply { status: 200, head: HEAD, body: &body, persistence, path: None, holds: &holds };
            worker.known_replies.keep(worker, 0, *asked, &reply);
        }
    }

    /// Answers it twice with these bytes, which is what it takes to be known.
    fn teach(worker: &Worker, request: &[u8], body: &[u8]) {
        for _ in 0..2 {
            answer(worker, request, Body::Bytes(body.to_vec().into()), MOMENT, None);
        }
    }

    fn pass(worker: &Worker, time: Duration) {
        worker.runtime.set_now(worker.runtime.now() + time);
    }

    /// Places that are taken, and what stands in them, in bytes.
    fn held(worker: &Worker) -> (usize, usize) {
        let places = worker.known_replies.places.borrow();
        let lens: Vec<usize> =
            places.iter().flat_map(|place| &place.known).map(|known| known.request.len() + known.bytes.len()).collect();
        (lens.len(), lens.iter().sum())
    }

    #[test]
    fn a_reply_is_known_from_the_third_time_on_and_no_longer_than_it_holds() {
        let worker = worker(HOT_FILES, None);
        teach(&worker, b"GET /a", b"body");
        let reply = known(&worker, b"GET /a").expect("it came twice");
        assert_eq!((reply.bytes(), reply.head_len(), reply.status), (&*[HEAD, b"body"].concat(), HEAD.len(), 200));
        assert!(known(&worker, b"GET /A").is_none() && known(&worker, b"GET /a ").is_none());
        pass(&worker, MOMENT - Duration::from_nanos(1));
        assert!(known(&worker, b"GET /a").is_some());
        pass(&worker, Duration::from_nanos(1));
        assert!(known(&worker, b"GET /a").is_none());
        drop(reply);
        assert_eq!(worker.hot_files.left(), HOT_FILES, "what does not hold any more takes no memory");
    }

    #[test]
    fn a_date_is_not_repeated_in_the_next_second() {
        let worker = worker(HOT_FILES, None);
        for _ in 0..2 {
            answer(&worker, b"GET /a", "body".into(), Duration::from_secs(9), None);
        }
        pass(&worker, Duration::from_millis(999));
        assert!(known(&worker, b"GET /a").is_some());
        pass(&worker, MOMENT);
        assert!(known(&worker, b"GET /a").is_none());
    }

    #[test]
    fn a_reply_is_known_at_its_own_gate_only() {
        let worker = worker(HOT_FILES, None);
        teach(&worker, b"GET /a", b"body");
        assert!(matches!(worker.known_replies.look_up(&worker, 1, b"GET /a"), Lookup::Unknown(_)));
        assert!(known(&worker, b"GET /a").is_some());
    }

    #[test]
    fn nothing_is_known_while_the_server_drains_or_writes_a_log() {
        let draining = worker(HOT_FILES, None);
        teach(&draining, b"GET /a", b"body");
        draining.draining.set(true);
        assert!(matches!(look_up(&draining, b"GET /a"), Lookup::Unknown(None)));
        let log = AccessLog::start(Destination::File("/dev/null".into()), Format::Text, 4096).expect("a log");
        let logging = worker(HOT_FILES, Some(log));
        (0..3).for_each(|_| assert!(matches!(look_up(&logging, b"GET /a"), Lookup::Unknown(None))));
    }

    #[test]
    fn what_is_not_worth_keeping_is_not_kept() {
        let worker = worker(HOT_FILES, None);
        #[track_caller]
        fn check(worker: &Worker, request: &[u8], body: impl Fn() -> Body, stat: Option<FileStat>, kept: bool) {
            (0..2).for_each(|_| answer(worker, request, body(), MOMENT, stat));
            assert_eq!(known(worker, request).is_some(), kept);
        }
        let (longest, too_long) = (vec![b'r'; Limits::KNOWN_REQUEST_LEN], vec![b'r'; Limits::KNOWN_REQUEST_LEN + 1]);
        check(&worker, &longest, Body::default, None, true);
        check(&worker, &too_long, Body::default, None, false);
        let bytes = |len: usize| move || Body::Bytes(vec![0; len].into());
        check(&worker, b"a", bytes(Limits::SMALL_REPLY_LEN), None, true);
        check(&worker, b"b", bytes(Limits::SMALL_REPLY_LEN + 1), None, false);
        check(&worker, b"c", || Body::stream::<bytes::Bytes>(futures_util::stream::empty()), None, false);
        check(&worker, b"d", || Body::Segments(vec![Segment::Bytes("part".into())]), None, false);
        // Only a descriptor that is asked again says that the head of a file still holds.
        let kind = crate::driver::FileKind::Regular;
        let stat = FileStat { kind, len: 4, device: 1, inode: 2, modified_ns: 3, changed_ns: 4 };
        check(&worker, b"e", Body::default, Some(stat), false);
        check(&worker, b"f", bytes(4), Some(stat), false);
        assert!(Response::new(http::StatusCode::OK).holds.is_none(), "a handler has to say so");
    }

    /// Two requests of the same length with the same hash: a word that equals the state before it makes it zero.
    #[test]
    fn requests_whose_hashes_collide_are_told_apart() {
        const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
        let start = 16 ^ FACTOR;
        let product = u128::from(start ^ 1) * u128::from(FACTOR);
        let state = product as u64 ^ (product >> 64) as u64;
        let request = |words: [u64; 2]| words.map(u64::to_le_bytes).concat();
        let (one, other) = (request([start, 0]), request([1, state]));
        assert!(one != other && hash(&one) == hash(&other), "this test has to follow the hash");
        let worker = worker(HOT_FILES, None);
        teach(&worker, &one, b"one");
        assert!(known(&worker, &other).is_none());
        teach(&worker, &other, b"other");
        assert!(known(&worker, &other).expect("the last").bytes().ends_with(b"other"));
        assert!(known(&worker, &one).is_none());
    }

    /// Promise 1: however many requests there are, they take no more than the places and the bytes that there are.
    #[test]
    fn promise1_a_flood_of_requests_replaces_and_never_grows() {
        for hot_files in [0, HOT_FILES, 100 * HOT_FILES] {
            let worker = worker(hot_files, None);
            let mut most = 0;
            for number in 0..5 * Limits::KNOWN_REPLIES {
                teach(&worker, format!("GET /?{number} HTTP/1.1\r\n\r\n").as_bytes(), &[0; 1000]);
                let (places, bytes) = held(&worker);
                assert!(places <= Limits::KNOWN_REPLIES);
                assert_eq!(hot_files - worker.hot_files.left(), bytes, "every byte is counted, once");
                most = most.max(bytes);
            }
            assert!(most <= hot_files);
            // As many as there are bytes for; where there are enough, most places are taken.
            let room = hot_files.min(Limits::KNOWN_REPLIES * 1000);
            assert!(most >= room * 9 / 10, "{most} bytes of {room}: it is no flood");
            worker.known_replies.clear();
            assert_eq!((held(&worker), worker.hot_files.left()), ((0, 0), hot_files));
        }
    }

    /// Promise 1: what a slow client still reads stays counted when another reply has taken its place.
    #[test]
    fn promise1_a_reply_that_is_still_sent_stays_counted() {
        let worker = worker(HOT_FILES, None);
        teach(&worker, b"GET /a", &[0; 1000]);
        let under_way = known(&worker, b"GET /a").expect("it came twice");
        worker.known_replies.clear();
        assert!(HOT_FILES - worker.hot_files.left() > 1000);
        drop(under_way);
        assert_eq!(worker.hot_files.left(), HOT_FILES);
    }

    /// Replies that do not hold any more, to requests that never come again, make room for others.
    #[test]
    fn a_flood_that_is_over_locks_nobody_out() {
        let worker = worker(HOT_FILES, None);
        (0..1000).for_each(|number| teach(&worker, format!("GET /?{number}").as_bytes(), &[0; 1000]));
        assert!(worker.hot_files.left() < 2000, "the flood took all there was");
        pass(&worker, MOMENT);
        teach(&worker, b"GET /popular", &[0; 1000]);
        assert!(known(&worker, b"GET /popular").is_some());
    }
}
