//! Every bound of the project, by name: its default, the span an operator may set it in, and the rule that it keeps.
//!
//! Memory has a ceiling because each thing that grows with the clients is counted here and each is finite; the sum is
//! [`Limits::memory_ceiling`]. The fields are made by one macro from one list, so that a bound can't have a default that
//! the configuration can't write, or a key that nothing checks. A hand-written struct beside a table of keys was rejected:
//! the two drift apart. Bounds that defend a protocol and that nobody has a reason to tune are associated constants.
//!
//! Bounds are per worker unless their text says otherwise.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

/// 1024 bytes.
const KIB: u64 = 1 << 10;
/// 1024 KiB.
const MIB: u64 = 1 << 20;
/// 1024 MiB.
const GIB: u64 = 1 << 30;

// Times are counted in milliseconds, the finest step that the configuration can write.
const MS: u64 = 1;
const SECOND: u64 = 1000 * MS;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

/// Makes [`Limits`], its default and the table [`Limits::SPECS`] from one list.
macro_rules! limits {
    ($( $(#[$doc:meta])* $key:ident: $Type:ty, $unit:ident, $default:expr, $span:expr; )+) => {
        /// The bounds an operator can set, one field for each key of `[limits]`.
        ///
        /// Counts and lengths are `usize`, lengths in bytes; rates are `u64`, in bytes a second; times have a resolution of
        /// one millisecond. [`Limits::check`] says whether every field lies in its span.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Limits {
            $(
                $(#[$doc])*
                #[doc = concat!("\n\nDefault `", stringify!($default), "`, allowed `", stringify!($span), "`.")]
                pub $key: $Type,
            )+
        }

        impl Default for Limits {
            fn default() -> Self {
                Limits { $( $key: <$Type>::from_number($default), )+ }
            }
        }

        impl Limits {
            /// What may be set, in the order of the documentation.
            pub const SPECS: &[Spec] = &[
                $( Spec {
                    key: stringify!($key),
                    unit: Unit::$unit,
                    default: $default,
                    span: $span,
                    get: |limits| limits.$key.to_number(),
                    set: |limits, number| limits.$key = <$Type>::from_number(number),
                }, )+
            ];
        }
    };
}

limits! {
    /// Connections held at once; one more is answered 503 and closed (promise 1).
    connections: usize, Count, 10_000, 1..=1_000_000;
    /// The high water mark: the most bytes that one transfer moves in a turn, and holds in user memory. A power of two,
    /// so that a file region of one mark starts and ends on a page.
    high_water_mark: usize, PowerOfTwo, 512 * KIB, 16 * KIB..=16 * MIB;
    /// Buffers for transfers under way, each one high water mark long. When all are in use, the next transfer waits
    /// (promise 1). The kernel registers at most 16,384.
    transfer_buffers: usize, Count, 64, 1..=16_384;
    /// Buffers for uploads under way, each half a high water mark long; an upload has two at most. When all are in
    /// use, the next upload waits (promise 1).
    upload_buffers: usize, Count, 128, 2..=16_384;
    /// Files that may come in at once, each with a few descriptors and tasks; one more is answered 503 (promise 1). A form counts
    /// once and for each of its files, until they have their names.
    uploads: usize, Count, 2000, 1..=1_000_000;
    /// Pipes for transfers that are spliced, each for one high water mark; they are opened when they are first needed. When all
    /// are in use, the next transfer waits (promise 1).
    pipes: usize, Count, 16, 1..=1024;
    /// Buffers that the kernel picks from when bytes arrive; an idle connection holds none. A provided-buffer ring has
    /// room for at most 32,768.
    receive_buffers: usize, Count, 256, 1..=32_768;
    /// Bytes of one receive buffer.
    receive_buffer_len: usize, Bytes, 16 * KIB, 4 * KIB..=MIB;
    /// Bytes of a request's head, the request line included; a longer one is answered 431 (F5).
    head_len: usize, Bytes, 32 * KIB, KIB..=MIB;
    /// Bytes of a request target; a longer one is answered 414 (F5).
    target_len: usize, Bytes, 8 * KIB, 256..=64 * KIB;
    /// Header fields of a request; more are answered 431 (F5).
    head_fields: usize, Count, 100, 16..=1000;
    /// From the first byte of a request until its head is whole (F11).
    head_timeout: Duration, Time, 10 * SECOND, 10 * MS..=HOUR;
    /// From the end of a reply until the first byte of the next request (F11).
    idle_timeout: Duration, Time, 75 * SECOND, 10 * MS..=24 * HOUR;
    /// The least bytes a second at which a client may send a request's body (F11).
    request_min_rate: u64, Rate, KIB, 16..=GIB;
    /// The least bytes a second at which a client may take a reply (F11).
    reply_min_rate: u64, Rate, KIB, 16..=GIB;
    /// How far a transfer may fall behind its minimum rate before it is cut: the credit, in time at that rate (F11).
    rate_grace: Duration, Time, 60 * SECOND, 10 * MS..=HOUR;
    /// Bytes of an unread request body that are drained to keep the connection; over it the connection closes (F7).
    drain_len: usize, Bytes, 64 * KIB, 0..=16 * MIB;
    /// How long a closing connection is still read and discarded, so that the reply isn't lost to a reset (F9).
    linger_timeout: Duration, Time, 2 * SECOND, 0..=MINUTE;
    /// How many bytes a closing connection reads and discards at most (F9).
    linger_len: usize, Bytes, 64 * MIB, 0..=GIB;
    /// How long requests under way may take to finish once the server was asked to stop; then they are cut (T6).
    shutdown_timeout: Duration, Time, 30 * SECOND, 0..=24 * HOUR;
    /// Entries of the open-file cache, a descriptor each; 0 switches it off.
    open_files: usize, Count, 1024, 0..=1_000_000;
    /// How long an entry of the open-file cache is believed without asking the file system again.
    open_file_valid: Duration, Time, SECOND, 0..=HOUR;
    /// Bytes of small files that are asked for again and again, kept in memory; 0 switches it off.
    hot_files: usize, Bytes, 16 * MIB, 0..=GIB;
    /// How long such bytes are believed without looking at the file again; 0 looks at each request.
    hot_file_valid: Duration, Time, 100 * MS, 0..=SECOND;
    /// Bytes of access log that wait to be written, in the whole process; lines that find it full are counted and dropped.
    access_log_buffer: usize, Bytes, MIB, 4 * KIB..=GIB;
    /// Threads for calls that would block a worker (directory listings), in the whole process (promise 2).
    offload_threads: usize, Count, 2, 1..=64;
    /// Calls that wait for such a thread, in the whole process; one more is answered 503.
    offload_queue: usize, Count, 64, 1..=65_536;
    /// Entries of a directory listing; a longer one is cut, and says so.
    listing_entries: usize, Count, 10_000, 1..=1_000_000;
    /// Bytes of directory listings, until their readers have them; one that does not fit is answered 503 (promise 1).
    listing_bytes: usize, Bytes, 16 * MIB, 64 * KIB..=GIB;
    /// Requests that wait for a service's word on whether they may pass, a connection to it each; one more is answered 503
    /// (promise 1).
    auth_requests: usize, Count, 256, 1..=65_536;
    /// Bytes of the name of a form's field; a longer one is answered 413 (U1).
    form_field_name_len: usize, Bytes, 100, 1..=16 * KIB;
    /// Bytes of the value of a form's text field; a longer one is answered 413 (U1).
    form_field_len: usize, Bytes, MIB, 0..=GIB;
    /// Text fields of a form; more are answered 413 (U1).
    form_fields: usize, Count, 1000, 0..=1_000_000;
    /// Files of a form, a descriptor each; more are answered 413 (U1).
    form_files: usize, Count, 100, 0..=10_000;
    /// Parts of a form; more are answered 413 (U1).
    form_parts: usize, Count, 1100, 1..=1_000_000;
    /// Header fields of all parts of a form; more are answered 413 (U1).
    form_header_pairs: usize, Count, 2000, 1..=1_000_000;
    /// Bytes of the head of one part; a longer one is answered 413 (U1).
    form_part_head_len: usize, Bytes, 16 * KIB, 256..=MIB;
    /// Bytes of names and text fields of forms, until their clients have the reply, and of part heads; a form that does not fit
    /// is answered 503 (promise 1).
    form_bytes: usize, Bytes, 16 * MIB, 64 * KIB..=GIB;
}

/// Bounds that are not configuration.
impl Limits {
    /// Up to this many bytes of a file go out with the head as one send: below it copying is cheaper than sendfile(2).
    pub const SMALL_REPLY_LEN: usize = 8 << 10;
    /// What a part of a form takes beside its names and its text: an open file, a digest, its place in the reply.
    pub const FORM_PART_BYTES: usize = 2 << 10;
    /// Bytes of a file, and of all parts of a form, unless whoever reads it says otherwise (U1).
    pub const FORM_LEN: u64 = 64 << 30;
    /// Descriptors of a file that comes in: itself, its directory, the folder, the store.
    pub const UPLOAD_DESCRIPTORS: usize = 4;
    /// Bytes of what a client of tus says about its upload; more are answered 413.
    pub const UPLOAD_METADATA_LEN: usize = 8 << 10;
    /// Uploads that one is put together from; more are answered 413.
    pub const UPLOAD_PARTS: usize = 100;
    /// Bytes of their addresses together; more are answered 413.
    pub const UPLOAD_CONCAT_LEN: usize = 32 << 10;
    /// Bytes of an upload's record that are read: what is kept of it, escaped.
    pub const UPLOAD_RECORD_LEN: usize = 256 << 10;
    /// Names that are tried for a file whose name is taken.
    pub const UPLOAD_NAMES: u32 = 1000;
    /// How many bytes of an upload that can be resumed come before it is written down that they are there: what a killed process
    /// loses of a single request.
    pub const UPLOAD_CHECKPOINT: u64 = 32 << 20;
    /// How long a request waits for another one to let go of the upload that both want (U6).
    pub const UPLOAD_TAKEOVER: Duration = Duration::from_secs(10);
    /// How long until a lock that was just given back is asked for again.
    pub const UPLOAD_LOCK_RETRY: Duration = Duration::from_millis(2);
    /// Bytes of a topic's name, decoded; a longer one is answered 400.
    pub const TOPIC_NAME_LEN: usize = 255;
    /// The longest that a publisher may have subscribers wait before they come back; a longer time is answered 400.
    pub const EVENT_RETRY: Duration = Duration::from_secs(24 * 60 * 60);
    /// Bytes that an event's line of JSON may have beside its data: names, and escapes of a few characters.
    pub const EVENT_LINE_SPARE: usize = 16 << 10;
    /// Characters that a refusal says of an event's line that can't be read.
    pub const UNREAD_LINE_LEN: usize = 200;
    /// How often all topics are looked through for events that are too old, where memory is full: it is full for each event then.
    pub const TOPICS_SWEPT_EVERY: Duration = Duration::from_secs(1);
    /// Epochs of a topic's count whose positions are known; of an earlier one it is told that nobody knows what was lost.
    pub const TOPIC_EPOCHS: usize = 16;
    /// Topics of one subscription; more are answered 400.
    pub const SUBSCRIPTION_TOPICS: usize = 64;
    /// Lines of one body that are taken before others have their turn.
    pub const LINES_IN_A_TURN: usize = 64;
    /// Events of one body that are on their way to the journal at once.
    pub const EVENTS_UNDER_WAY: usize = 64;
    /// The longest event or item that may be configured, in bytes: each is in memory whole.
    pub const EVENT_LEN_MOST: usize = 16 << 20;
    /// The least that a journal may be bounded to, in bytes.
    pub const JOURNAL_BYTES_LEAST: u64 = 1 << 20;
    /// Buffers that one upload may have: being filled, and on their way to the disk.
    pub const UPLOAD_BUFFERS_EACH: usize = 2;
    /// Bytes of a playlist, or whatever else an encoder replaces whole; more are answered 413.
    pub const LIVE_WHOLE_LEN: u64 = 4 << 20;
    /// Directories on the way to what an encoder puts; more are answered 400.
    pub const LIVE_DEPTH: usize = 16;
    /// Names that encoders have put into one folder lately, of which something is remembered: a playlist's numbers, or that what a
    /// cache believes is old. Beyond it, those that were used least recently are forgotten: what replaced a file may be served
    /// up to `open_file_valid` late then.
    pub const LIVE_NAMES: usize = 512;
    /// The newest bytes of a live file that are read once for all its readers, at most; more are sent as a region of the file.
    pub const LIVE_NEWEST_LEN: usize = 16 << 10;
    /// What such bytes may take in a worker's memory, of all live files of a route, those that slow readers still have included.
    pub const LIVE_NEWEST_BYTES: u64 = MIB;
    /// How many bytes of an upload make its socket readable, where so many are still to come: fewer are not worth a write.
    pub const RECEIVE_LOW_WATER: usize = 32 << 10;
    /// The most bytes that the disk is asked for ahead of one reader; they are the page cache's.
    pub const READ_AHEAD: u64 = 4 << 20;
    /// The most bytes that a long transfer moves in a turn while short replies go out beside it.
    pub const TURN_BESIDE_QUICK: usize = 64 << 10;
    /// For how long a short reply counts as a sign that there are more of them.
    pub const QUICK_FOR: Duration = Duration::from_millis(5);
    /// Places for replies that are known by their request's bytes. A power of two.
    pub const KNOWN_REPLIES: usize = 1024;
    /// Bytes of a request whose reply may be known; a longer one is parsed each time.
    pub const KNOWN_REQUEST_LEN: usize = 2 << 10;
    /// Bytes of the head of the reply to a sub-request, interim ones included; a longer one is no reply.
    pub const SUBREQUEST_HEAD_LEN: usize = 16 << 10;
    /// Bytes of the fields of a request that a sub-request repeats; more are answered 431.
    pub const SUBREQUEST_FIELDS_LEN: usize = 16 << 10;
    /// Bytes of the extensions of one chunk (F2).
    pub const CHUNK_EXTENSION_LEN: usize = 4 << 10;
    /// Bytes of a chunked body's trailer section (F2).
    pub const TRAILER_LEN: usize = 8 << 10;
    /// Ranges in one request; more and the Range is ignored (R9).
    pub const RANGES: usize = 128;
    /// Ranges that start before the one in front of them; more and the Range is ignored (R9).
    pub const RANGES_OUT_OF_ORDER: usize = 10;
    /// Ranges closer than this many bytes are sent as one: a part's own head costs as much (R9, RFC 9110 §15.3.7.2).
    pub const RANGE_COALESCE_GAP: u64 = 80;
    /// An entry of the open-file cache that is not asked for goes after this time, or ten times `open_file_valid` if that is
    /// longer: its descriptor keeps the disk space of a file that was deleted.
    pub const OPEN_FILE_UNUSED: Duration = Duration::from_secs(10);
    /// Entries of the open-file caches that go for that reason with one request.
    pub const OPEN_FILES_SWEPT: usize = 64;
    /// Bytes of diagnostics that wait to be written to standard error, in the whole process; part of its base.
    pub const LOG_BUFFER_LEN: usize = 256 << 10;
    /// Bytes of a path that the open-file cache keeps; a longer one is looked up each time.
    pub const CACHED_PATH_LEN: usize = 512;
    /// A client that was silent for this time is asked whether it is there, again after each interval, and given up when so many
    /// questions had no answer: who waits for an item of a queue may have vanished.
    pub const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(60);
    /// See [`Limits::KEEP_ALIVE_IDLE`].
    pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);
    /// See [`Limits::KEEP_ALIVE_IDLE`].
    pub const KEEP_ALIVE_PROBES: u32 = 4;
    /// How long a subscriber to events may leave unacknowledged what it was sent: as long as it is between two heartbeats, but not less
    /// than one end of this, which a phone needs between two cells, and not more than the other, at which one who is sent nothing is given up
    /// too.
    pub const ANSWER_WITHIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(120));
    /// Connections to the admin address that are admitted beyond the limit: an operator looks when it is full.
    pub const ADMIN_RESERVE: usize = 8;
    /// Connections over the limit that are still told so, at a time; more are closed without a word.
    pub const TURNED_AWAY: usize = 64;
    /// Those who may watch the dashboard at once; one more is answered 503.
    pub const DASHBOARDS: usize = 16;
    /// Paths that a worker counts to find those that keep it busiest, in a window of time; part of its base.
    pub const BUSIEST_PATHS: usize = 64;
    /// Bytes of a path that is counted; a longer one is not.
    pub const BUSIEST_PATH_LEN: usize = 512;
    /// The busiest paths that the dashboard shows.
    pub const BUSIEST_SHOWN: usize = 20;
    /// Workers of one server.
    pub const WORKERS: usize = 1024;
    /// Bytes of the media type of a queue's item; a longer one is answered 400.
    pub const QUEUE_TYPE_LEN: usize = 255;
    /// Bytes of a queue's name, decoded; a longer one is answered 400.
    pub const QUEUE_NAME_LEN: usize = 255;
    /// Leases in one request to acknowledge them; more are answered 400.
    pub const QUEUE_LEASES: usize = 100;
    /// The least length of a segment of a queue's journal, in bytes.
    pub const QUEUE_SEGMENT_LEN_LEAST: u64 = 64 << 10;
    /// Items that one record of a queue's journal says are done.
    pub const QUEUE_DONE_AT_ONCE: usize = 1000;
    /// What may wait to be written to a journal, in bytes, unless one record is longer: who has more to write waits. It is in memory
    /// twice for a moment.
    pub const JOURNAL_WAITING_LEN: usize = 1 << 20;
    /// How long a server that ends waits for the disk to take what is left.
    pub const JOURNAL_LAST_WRITE: Duration = Duration::from_secs(3);
    /// The longest that a consumer or a producer may ask to wait.
    pub const QUEUE_WAIT: Duration = Duration::from_secs(24 * 60 * 60);
    /// The most `TCP_NOTSENT_LOWAT` that is set on a connection, in bytes. See [`Limits::notsent_lowat`].
    pub const NOTSENT_LOWAT: usize = 128 << 10;
}

/// What the terms of the memory ceiling cost, in bytes. They are measured, and the running server is held to them.
impl Limits {
    /// The process before its first worker: code, heap, the offload threads' stacks.
    pub const PROCESS_BASE_BYTES: u64 = 8 * MIB;
    /// A worker before its first connection: stack, rings, tables.
    pub const WORKER_BASE_BYTES: u64 = 4 * MIB;
    /// An idle connection: a record, no future and no buffer.
    pub const IDLE_CONNECTION_BYTES: u64 = 512;
    /// A request under way beside its head: its future and the reply's head.
    pub const REQUEST_BYTES: u64 = 8 * KIB;
    /// A file that comes in: its task, which goes on when its client is gone, and what that holds.
    pub const UPLOAD_BYTES: u64 = 8 * KIB;
    /// A topic of events beside its events: its name, its place, who waits for it.
    pub const TOPIC_BYTES: u64 = 2 * KIB;
    /// A queue beside its items.
    pub const QUEUE_BYTES: u64 = 2 * KIB;
    /// A name that an encoder has put: its path, and what its playlist says.
    pub const LIVE_NAME_BYTES: u64 = 2 * KIB;
    /// One page's place in a pipe, in the kernel (`struct pipe_buffer`). The page itself is the page cache's.
    pub const PIPE_PAGE_BYTES: u64 = 40;
    /// An entry of the open-file cache: its path, its status, its place in the table.
    pub const OPEN_FILE_BYTES: u64 = KIB;
    /// An entry of a directory while it is read: its name, its status, its place among the others.
    pub const LISTING_ENTRY_BYTES: u64 = KIB;
}

impl Limits {
    /// Whether every field lies in its span.
    ///
    /// # Errors
    /// The first that doesn't, by its key, and what to write instead.
    pub fn check(&self) -> Result<(), Invalid> {
        Limits::SPECS.iter().try_for_each(|spec| {
            spec.check(spec.get(self)).map_err(|invalid| Invalid(format!("{}: {invalid}", spec.key)))
        })
    }

    /// The bound with this key.
    pub fn spec(key: &str) -> Option<&'static Spec> {
        Limits::SPECS.iter().find(|spec| spec.key == key)
    }

    /// Bytes of one upload buffer: with all that it may have, an upload holds one high water mark.
    pub fn upload_buffer_len(&self) -> usize {
        self.high_water_mark / Limits::UPLOAD_BUFFERS_EACH
    }

    /// What to set as `TCP_NOTSENT_LOWAT`, in bytes: a client that stops reading holds about twice this in the kernel.
    pub fn notsent_lowat(&self) -> usize {
        self.high_water_mark.min(Limits::NOTSENT_LOWAT)
    }

    /// Bytes that one pipe takes in the kernel: a place for each page of a high water mark and for one more, which the kernel
    /// rounds up to a power of two.
    fn pipe_bytes(&self) -> u64 {
        let pages = (self.high_water_mark as u64).div_ceil(4 * KIB).saturating_add(1);
        pages.checked_next_power_of_two().unwrap_or(u64::MAX).saturating_mul(Limits::PIPE_PAGE_BYTES)
    }

    /// The least that a reply may be held to, in bytes a second: a client that takes it as fast as it is sent has to stay
    /// clear of the minimum rate.
    pub fn least_paced_rate(&self) -> u64 {
        self.reply_min_rate.saturating_mul(2)
    }

    /// The most user memory that a server with these limits and this many workers takes, term by term.
    pub fn memory_ceiling(&self, workers: usize) -> MemoryCeiling {
        // A head, its copy for the access log, and what has come behind it.
        let heads = 2 * (self.head_len as u64);
        let per_request = Limits::REQUEST_BYTES.saturating_add(heads).saturating_add(self.receive_buffer_len as u64);
        // The kernel's ring of them has a power of two.
        let receive_buffers = self.receive_buffers.next_power_of_two();
        // What is sent, the reply's head, and the future that waits for it.
        let heads_len = Limits::SUBREQUEST_FIELDS_LEN + Limits::SUBREQUEST_HEAD_LEN;
        let per_sub_request =
            (self.target_len as u64).saturating_add(heads_len as u64).saturating_add(Limits::REQUEST_BYTES);
        let send_queue = (self.notsent_lowat() as u64).saturating_mul(2);
        MemoryCeiling {
            workers: workers as u64,
            process: vec![
                Term::new("base", 1, Limits::PROCESS_BASE_BYTES),
                Term::new("access log", 1, self.access_log_buffer as u64),
                Term::new(
                    "directory listings",
                    self.offload_threads,
                    (self.listing_entries as u64).saturating_mul(Limits::LISTING_ENTRY_BYTES),
                ),
            ],
            worker: [
                Term::new("base", 1, Limits::WORKER_BASE_BYTES),
                Term::new("receive buffers", receive_buffers, self.receive_buffer_len as u64),
                Term::new("transfer buffers", self.transfer_buffers, self.high_water_mark as u64),
                Term::new("upload buffers", self.upload_buffers, self.upload_buffer_len() as u64),
                Term::new("uploads", self.uploads, Limits::UPLOAD_BYTES),
                Term::new("connections", self.connections, Limits::IDLE_CONNECTION_BYTES),
                Term::new("requests under way", self.connections, per_request),
                Term::new("open files", self.open_files, Limits::OPEN_FILE_BYTES),
                Term::new("hot files", 1, self.hot_files as u64),
                Term::new("listings", 1, self.listing_bytes as u64),
                Term::new("forms", 1, self.form_bytes as u64),
                Term::new("authorisations", self.auth_requests, per_sub_request),
            ],
            kernel: [
                Term::new("send queues", self.connections, send_queue),
                Term::new("pipes", self.pipes, self.pipe_bytes()),
            ],
        }
    }
}

/// The most memory that a server takes, as the sum of its terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryCeiling {
    /// How many workers there are.
    pub workers: u64,
    /// What the process takes once.
    pub process: Vec<Term>,
    /// What each worker takes.
    pub worker: [Term; 12],
    /// What the kernel holds for each worker: for its clients when all have stopped reading, and for its pipes when all have
    /// been opened. It is not part of the sum: it is neither resident memory of the process nor taken by clients that read.
    /// The pages in a pipe are not counted: they are the page cache's, which gets them back when they are sent.
    pub kernel: [Term; 2],
}

impl MemoryCeiling {
    /// The ceiling of the process's resident memory, in bytes.
    pub fn bytes(&self) -> u64 {
        sum(&self.worker).saturating_mul(self.workers).saturating_add(sum(&self.process))
    }

    /// What the kernel holds beside it at most, for all workers, in bytes.
    pub fn kernel_bytes(&self) -> u64 {
        sum(&self.kernel).saturating_mul(self.workers)
    }
}

fn sum(terms: &[Term]) -> u64 {
    terms.iter().fold(0, |sum, term| sum.saturating_add(term.bytes()))
}

/// One term of the ceiling: so many things, each of so many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// What is counted.
    pub name: &'static str,
    /// How many there are at most.
    pub count: u64,
    /// Bytes of each.
    pub each: u64,
}

impl Term {
    /// So many of these.
    pub(crate) fn new(name: &'static str, count: usize, each: u64) -> Self {
        Term { name, count: count as u64, each }
    }

    /// Bytes of all of them.
    pub fn bytes(&self) -> u64 {
        self.count.saturating_mul(self.each)
    }
}

/// One bound that can be set: what the configuration needs to read it, check it and write it.
#[derive(Debug)]
pub struct Spec {
    /// Its key in `[limits]`, which is the name of the field.
    pub key: &'static str,
    /// How its value is counted and written.
    pub unit: Unit,
    /// Its default, in the unit.
    pub default: u64,
    /// What may be set, in the unit.
    pub span: RangeInclusive<u64>,
    get: fn(&Limits) -> u64,
    set: fn(&mut Limits, u64),
}

impl Spec {
    /// The value that `limits` has, in the unit.
    pub fn get(&self, limits: &Limits) -> u64 {
        (self.get)(limits)
    }

    /// Sets the value, if it may be set.
    ///
    /// # Errors
    /// As [`Spec::check`]; `limits` is unchanged.
    pub fn set(&self, limits: &mut Limits, number: u64) -> Result<(), Invalid> {
        self.check(number)?;
        (self.set)(limits, number);
        Ok(())
    }

    /// Whether this value may be set.
    ///
    /// # Errors
    /// What to write instead, without the key.
    pub fn check(&self, number: u64) -> Result<(), Invalid> {
        let write = |number| self.unit.format(number);
        if !self.span.contains(&number) {
            let (least, most) = (write(*self.span.start()), write(*self.span.end()));
            return Err(Invalid(format!("`{}` is out of bounds: write {least} to {most}", write(number))));
        }
        if self.unit == Unit::PowerOfTwo && !number.is_power_of_two() {
            let below = 1 << number.ilog2();
            let near = format!("{} or {}", write(below), write(below * 2));
            return Err(Invalid(format!("`{}` is not a power of two: write {near}", write(number))));
        }
        Ok(())
    }
}

/// How a bound is counted and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Things: `10000`.
    Count,
    /// Bytes: `256KiB`, or a plain number.
    Bytes,
    /// Bytes, a power of two of them.
    PowerOfTwo,
    /// Bytes a second: `1KiB/s`.
    Rate,
    /// Milliseconds: `500ms`, `30s`.
    Time,
}

/// A suffix, what it multiplies by, and what people write for it.
type Suffix = (&'static str, u64, &'static [&'static str]);

const SIZES: &[Suffix] = &[
    ("B", 1, &["b", "byte", "bytes"]),
    ("KiB", KIB, &["k", "kb", "kib"]),
    ("MiB", MIB, &["m", "mb", "mib"]),
    ("GiB", GIB, &["g", "gb", "gib"]),
];

const RATES: &[Suffix] = &[
    ("B/s", 1, &["b", "b/s", "bps"]),
    ("KiB/s", KIB, &["k", "kb", "kib", "k/s", "kb/s", "kib/s"]),
    ("MiB/s", MIB, &["m", "mb", "mib", "m/s", "mb/s", "mib/s"]),
    ("GiB/s", GIB, &["g", "gb", "gib", "g/s", "gb/s", "gib/s"]),
];

const TIMES: &[Suffix] = &[
    ("ms", MS, &["ms", "msec", "millis"]),
    ("s", SECOND, &["s", "sec", "secs", "second", "seconds"]),
    ("m", MINUTE, &["m", "min", "mins", "minute", "minutes"]),
    ("h", HOUR, &["h", "hr", "hour", "hours"]),
];

impl Unit {
    /// Reads a value as the configuration writes it. `0` needs no suffix; a size without one is in bytes.
    ///
    /// # Errors
    /// What to write instead.
    pub fn parse(self, text: &str) -> Result<u64, Invalid> {
        match self {
            Unit::Count => parse_count(text),
            Unit::Bytes | Unit::PowerOfTwo if is_number(text) => parse_count(text),
            Unit::Bytes | Unit::PowerOfTwo => parse_suffixed(text, SIZES, "a size", "256KiB (units: B, KiB, MiB, GiB)"),
            Unit::Rate => parse_suffixed(text, RATES, "a rate", "1KiB/s (units: B/s, KiB/s, MiB/s, GiB/s)"),
            Unit::Time if text == "0" => Ok(0),
            Unit::Time if is_number(text) => Err(Invalid(format!("`{text}` has no unit: write {text}s or {text}ms"))),
            Unit::Time => parse_suffixed(text, TIMES, "a time", "30s (units: ms, s, m, h)"),
        }
    }

    /// Writes a value in the largest unit that divides it, so that [`Unit::parse`] reads the same value.
    pub fn format(self, number: u64) -> String {
        let suffixed =
            |suffixes: &[Suffix]| match suffixes.iter().rev().find(|(_, factor, _)| number.is_multiple_of(*factor)) {
                Some((suffix, factor, _)) if number > 0 => format!("{}{suffix}", number / factor),
                _ => String::from("0"),
            };
        match self {
            Unit::Count => number.to_string(),
            Unit::Bytes | Unit::PowerOfTwo => suffixed(SIZES),
            Unit::Rate if number == 0 => String::from("0B/s"),
            Unit::Rate => suffixed(RATES),
            Unit::Time => suffixed(TIMES),
        }
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn parse_count(text: &str) -> Result<u64, Invalid> {
    if !is_number(text) {
        return Err(Invalid(format!("`{text}` is not a whole number: write digits only")));
    }
    text.parse().map_err(|_| too_large(text))
}

fn parse_suffixed(text: &str, suffixes: &[Suffix], what: &str, example: &str) -> Result<u64, Invalid> {
    let (digits, rest) = text.split_at(text.bytes().take_while(u8::is_ascii_digit).count());
    let unreadable = || Invalid(format!("`{text}` is not {what}: write a whole number and its unit, like {example}"));
    if digits.is_empty() {
        return Err(unreadable());
    }
    if let Some((_, factor, _)) = suffixes.iter().find(|(suffix, ..)| *suffix == rest) {
        let number: u64 = digits.parse().map_err(|_| too_large(text))?;
        return number.checked_mul(*factor).ok_or_else(|| too_large(text));
    }
    let meant = rest.trim().to_ascii_lowercase();
    match suffixes.iter().find(|(.., aliases)| aliases.contains(&meant.as_str())) {
        Some((suffix, ..)) => Err(Invalid(format!("`{text}` is not {what}: write {digits}{suffix}"))),
        None => Err(unreadable()),
    }
}

fn too_large(text: &str) -> Invalid {
    Invalid(format!("`{text}` does not fit in 64 bits: write less"))
}

/// Why a value can't be a bound, and what to write instead, in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid(String);

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Invalid {}

/// A field's type, seen as the number that [`Spec`] handles.
trait Number {
    /// From a number in the unit; one that a platform's `usize` can't hold becomes the most it can.
    fn from_number(number: u64) -> Self;
    /// As a number in the unit.
    fn to_number(&self) -> u64;
}

impl Number for usize {
    fn from_number(number: u64) -> Self {
        usize::try_from(number).unwrap_or(usize::MAX)
    }
    fn to_number(&self) -> u64 {
        *self as u64
    }
}

impl Number for u64 {
    fn from_number(number: u64) -> Self {
        number
    }
    fn to_number(&self) -> u64 {
        *self
    }
}

impl Number for Duration {
    fn from_number(number: u64) -> Self {
        Duration::from_millis(number)
    }
    fn to_number(&self) -> u64 {
        u64::try_from(self.as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn defaults_lie_in_their_spans_and_their_fields() {
        let limits = Limits::default();
        assert_eq!(limits.check(), Ok(()));
        for spec in Limits::SPECS {
            assert_eq!(spec.get(&limits), spec.default, "{}", spec.key);
        }
        assert_eq!(limits.high_water_mark, 524_288);
        assert_eq!(limits.idle_timeout, Duration::from_secs(75));
        assert_eq!(limits.reply_min_rate, 1024);
    }

    #[test]
    fn every_limit_takes_both_ends_of_its_span_and_refuses_one_step_past_them() {
        for spec in Limits::SPECS {
            let mut limits = Limits::default();
            let (least, most) = (*spec.span.start(), *spec.span.end());
            for number in [least, most] {
                assert_eq!(spec.set(&mut limits, number), Ok(()), "{}", spec.key);
                assert_eq!(spec.get(&limits), number, "{}", spec.key);
                assert_eq!(limits.check(), Ok(()), "{}", spec.key);
            }
            for number in [least.checked_sub(1), most.checked_add(1)].into_iter().flatten() {
                let refusal = spec.set(&mut limits, number).unwrap_err().to_string();
                assert!(refusal.contains(&spec.unit.format(least)), "{}: {refusal}", spec.key);
                assert_eq!(spec.get(&limits), most, "{} changed by a refused value", spec.key);
                (spec.set)(&mut limits, number);
                assert!(limits.check().unwrap_err().to_string().starts_with(spec.key));
                (spec.set)(&mut limits, most);
            }
        }
    }

    #[test]
    fn high_water_mark_is_a_power_of_two() {
        let spec = Limits::spec("high_water_mark").unwrap();
        let refusal = spec.check(100 * KIB).unwrap_err().to_string();
        assert_eq!(refusal, "`100KiB` is not a power of two: write 64KiB or 128KiB");
    }

    #[track_caller]
    fn check(unit: Unit, text: &str, expected: Result<u64, &str>) {
        let parsed = unit.parse(text).map_err(|invalid| invalid.to_string());
        assert_eq!(parsed.as_ref().map(|n| *n), expected.map_err(String::from).as_ref().map(|n| *n));
    }

    #[test]
    fn sizes() {
        check(Unit::Bytes, "0", Ok(0));
        check(Unit::Bytes, "4096", Ok(4096));
        check(Unit::Bytes, "1B", Ok(1));
        check(Unit::Bytes, "256KiB", Ok(262_144));
        check(Unit::PowerOfTwo, "1MiB", Ok(1 << 20));
        check(Unit::Bytes, "2GiB", Ok(2 << 30));
        check(Unit::Bytes, "256kb", Err("`256kb` is not a size: write 256KiB"));
        check(Unit::Bytes, "256 KiB", Err("`256 KiB` is not a size: write 256KiB"));
        check(Unit::Bytes, "1M", Err("`1M` is not a size: write 1MiB"));
        for text in ["", "KiB", "-1KiB", "+1", "1.5MiB", "1KiBB", "1é", "٣KiB", " 1KiB"] {
            let refusal = Unit::Bytes.parse(text).unwrap_err().to_string();
            assert!(refusal.contains("write a whole number and its unit, like 256KiB"), "{text}: {refusal}");
        }
        check(Unit::Bytes, "18446744073709551615", Ok(u64::MAX));
        let most = "`18446744073709551616` does not fit in 64 bits: write less";
        check(Unit::Bytes, "18446744073709551616", Err(most));
        check(Unit::Bytes, "17179869184GiB", Err("`17179869184GiB` does not fit in 64 bits: write less"));
    }

    #[test]
    fn times() {
        check(Unit::Time, "0", Ok(0));
        check(Unit::Time, "500ms", Ok(500));
        check(Unit::Time, "30s", Ok(30_000));
        check(Unit::Time, "5m", Ok(300_000));
        check(Unit::Time, "24h", Ok(86_400_000));
        check(Unit::Time, "30", Err("`30` has no unit: write 30s or 30ms"));
        check(Unit::Time, "30 sec", Err("`30 sec` is not a time: write 30s"));
        check(Unit::Time, "5Min", Err("`5Min` is not a time: write 5m"));
        let refusal = "`1.5s` is not a time: write a whole number and its unit, like 30s (units: ms, s, m, h)";
        check(Unit::Time, "1.5s", Err(refusal));
    }

    #[test]
    fn rates_and_counts() {
        check(Unit::Rate, "1KiB/s", Ok(1024));
        check(Unit::Rate, "16B/s", Ok(16));
        check(Unit::Rate, "1KiB", Err("`1KiB` is not a rate: write 1KiB/s"));
        check(Unit::Rate, "1kb/s", Err("`1kb/s` is not a rate: write 1KiB/s"));
        check(Unit::Count, "64", Ok(64));
        check(Unit::Count, "-64", Err("`-64` is not a whole number: write digits only"));
    }

    #[test]
    fn the_ceiling_is_the_sum_of_its_terms() {
        let limits = Limits { connections: 100, open_files: 0, ..Limits::default() };
        let ceiling = limits.memory_ceiling(2);
        let worker = 4 * MIB
            + 256 * 16 * KIB
            + (64 + 64) * 512 * KIB
            + 2000 * 8 * KIB
            + 100 * 512
            + 100 * (8 + 2 * 32 + 16) * KIB
            + 3 * 16 * MIB
            + 256 * (8 + 16 + 16 + 8) * KIB;
        assert_eq!(ceiling.bytes(), 8 * MIB + MIB + 2 * 10_000 * KIB + 2 * worker);
        // 128 pages and one more, rounded up to 256 places.
        assert_eq!(ceiling.kernel_bytes(), 2 * (100 * 2 * 128 * KIB + 16 * 256 * 40));
    }

    #[test]
    fn the_ceiling_of_absurd_limits_does_not_overflow() {
        let limits = Limits { connections: usize::MAX, high_water_mark: usize::MAX, ..Limits::default() };
        assert_eq!(limits.memory_ceiling(usize::MAX).bytes(), u64::MAX);
        assert_eq!(limits.memory_ceiling(usize::MAX).kernel_bytes(), u64::MAX);
    }

    #[test]
    fn a_small_high_water_mark_keeps_the_send_queue_small() {
        let limits = Limits { high_water_mark: 16 << 10, ..Limits::default() };
        assert_eq!(limits.notsent_lowat(), 16 << 10);
        assert_eq!(Limits::default().notsent_lowat(), 128 << 10);
    }

    fn units() -> impl Strategy<Value = Unit> {
        prop_oneof![Just(Unit::Count), Just(Unit::Bytes), Just(Unit::PowerOfTwo), Just(Unit::Rate), Just(Unit::Time)]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(unit in units(), number: u64, shift in 0u32..64) {
            let number = number >> shift << (shift / 2);
            prop_assert_eq!(unit.parse(&unit.format(number)), Ok(number));
        }

        #[test]
        fn no_text_makes_the_parser_panic(unit in units(), text in "[0-9]{0,22}.{0,6}") {
            let _ = unit.parse(&text);
        }
    }
}
