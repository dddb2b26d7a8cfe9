//! Counters and gauges, one set for each worker, and their Prometheus text.
//!
//! A metric has one writer, its worker, and any number of readers. So counting is a relaxed load and store: no locked
//! instruction, no cache line that travels between cores; readers add the sets up when they are asked. One set for the
//! process with atomic additions was rejected: every worker would write the same few lines on every request. A metrics
//! crate was rejected too: a registry looked up by name answers a question that a struct field doesn't have.
//!
//! The fields, their sums and their Prometheus families come from one list, so that nothing can be counted that isn't
//! shown, and a field's documentation is its HELP text.

use std::fmt::{self, Write};
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::access_log::AccessLog;
use super::busiest::BusyPath;
use super::histogram::{Histogram, Times, seconds};

/// The metrics of the process: what the server counts, and what it was started with.
#[derive(Debug)]
pub struct Metrics {
    pub(super) workers: Vec<Arc<WorkerMetrics>>,
    /// What each worker last showed of its busiest paths; each has a lock of its own, that its worker takes when it is asked to.
    pub(super) busiest: Vec<Mutex<Vec<BusyPath>>>,
    memory_ceiling_bytes: u64,
    pub(super) driver: &'static str,
    pub(super) started: SystemTime,
    /// The same moment, on the clock that only goes on.
    pub(super) began: Instant,
    access_log: Mutex<Option<AccessLog>>,
    depths: OnceLock<Look>,
}

struct Look(Box<dyn Fn() -> Option<Depths> + Send + Sync>);

impl fmt::Debug for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Look(..)")
    }
}

/// What the queues and topics of the configuration hold, over all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depths {
    /// Items in queues, those that consumers have included.
    pub queue_items: u64,
    /// Their bytes, with their media types, and the room that is kept for items to come.
    pub queue_bytes: u64,
    /// Producers that wait for room in a queue.
    pub producers_held_back: u64,
    /// Topics of events.
    pub topics: u64,
}

impl Metrics {
    /// Zeros for this many workers. `memory_ceiling_bytes` is what the configuration adds up to; `driver` is the name of
    /// the driver that serves, a plain lower-case word.
    pub fn new(workers: usize, memory_ceiling_bytes: u64, driver: &'static str) -> Arc<Metrics> {
        Arc::new(Metrics {
            workers: (0..workers).map(|_| Arc::default()).collect(),
            busiest: (0..workers).map(|_| Mutex::default()).collect(),
            memory_ceiling_bytes,
            driver,
            started: SystemTime::now(),
            began: Instant::now(),
            access_log: Mutex::new(None),
            depths: OnceLock::new(),
        })
    }

    /// The metrics that worker `index` writes.
    ///
    /// # Panics
    /// When there are not that many workers.
    pub fn worker(&self, index: usize) -> &Arc<WorkerMetrics> {
        &self.workers[index]
    }

    /// Shows what has kept worker `index` busiest.
    pub(crate) fn show_busiest(&self, index: usize, paths: Vec<BusyPath>) {
        *self.busiest[index].lock().unwrap_or_else(PoisonError::into_inner) = paths;
    }

    /// From now on, the lines that `log` drops are shown with the rest.
    pub fn set_access_log(&self, log: AccessLog) {
        *self.access_log.lock().unwrap_or_else(PoisonError::into_inner) = Some(log);
    }

    /// From now on, what `look` finds is shown with the rest; none when it can't be found now. It is called for each look, and must not
    /// wait. Only the first one counts.
    pub fn set_depths(&self, look: impl Fn() -> Option<Depths> + Send + Sync + 'static) {
        let _ = self.depths.set(Look(Box::new(look)));
    }

    fn write_depths(&self, out: &mut String) -> fmt::Result {
        let Some(depths) = self.depths.get().and_then(|Look(look)| look()) else { return Ok(()) };
        let Depths { queue_items, queue_bytes, producers_held_back, topics } = depths;
        for (name, help, value) in [
            (
                "queue_items",
                "Items in the queues of the configuration, those that consumers have included.",
                queue_items,
            ),
            ("queue_bytes", "Bytes of the items in queues, and of those that room is kept for.", queue_bytes),
            ("queue_producers_held_back", "Producers that wait for room in a queue.", producers_held_back),
            ("event_topics", "Topics of events.", topics),
        ] {
            write_single(out, format_args!("highwater_{name}"), "gauge", help, value)?;
        }
        Ok(())
    }

    /// Lines that the access log dropped; none where there is no log.
    fn access_log_dropped(&self) -> Option<u64> {
        self.access_log.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(AccessLog::dropped)
    }

    /// Everything in the Prometheus text format, version 0.0.4 (`text/plain; version=0.0.4`).
    ///
    /// A counter is the sum over the workers; a gauge has a sample for each, because one worker whose pool is empty is not
    /// seen in a sum.
    pub fn prometheus(&self) -> String {
        let mut text = String::with_capacity(8 << 10);
        self.write_prometheus(&mut text).expect("writing to a String can't fail");
        text
    }

    fn write_prometheus(&self, out: &mut String) -> fmt::Result {
        for family in FAMILIES {
            self.write_family(out, family)?;
        }
        self.write_responses(out)?;
        self.write_first_byte(out)?;
        self.write_cpu(out)?;
        self.write_depths(out)?;
        if let Some(dropped) = self.access_log_dropped() {
            let name = "highwater_access_log_dropped_total";
            write_single(
                out,
                name,
                "counter",
                "Access log lines that found no room or could not be written.",
                dropped,
            )?;
        }
        let name = "highwater_memory_ceiling_bytes";
        write_single(
            out,
            name,
            "gauge",
            "Memory that the configuration adds up to, for the process.",
            self.memory_ceiling_bytes,
        )?;
        // The two names every client library gives these, so that stock dashboards find them.
        if let Some(resident) = resident_bytes() {
            write_single(
                out,
                "process_resident_memory_bytes",
                "gauge",
                "Memory of the process that is resident.",
                resident,
            )?;
        }
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let started = format_args!("{}.{:03}", started.as_secs(), started.subsec_millis());
        write_single(
            out,
            "process_start_time_seconds",
            "gauge",
            "When the server started, since the Unix epoch.",
            started,
        )?;
        write_head(out, "highwater_driver_info", "gauge", "The driver that serves.")?;
        writeln!(out, "highwater_driver_info{{driver=\"{}\"}} 1", self.driver)
    }

    fn write_family(&self, out: &mut String, family: &Family) -> fmt::Result {
        match family.kind {
            Kind::Counter => {
                let sum = self.workers.iter().map(|worker| (family.read)(worker)).sum::<u64>();
                write_single(out, format_args!("highwater_{}_total", family.field), "counter", family.help.trim(), sum)
            }
            Kind::Gauge => {
                write_head(out, format_args!("highwater_{}", family.field), "gauge", family.help.trim())?;
                for (index, worker) in self.workers.iter().enumerate() {
                    writeln!(out, "highwater_{}{{worker=\"{index}\"}} {}", family.field, (family.read)(worker))?;
                }
                Ok(())
            }
        }
    }

    fn write_responses(&self, out: &mut String) -> fmt::Result {
        write_head(out, "highwater_responses_total", "counter", "Replies by exact status.")?;
        for status in ByStatus::FIRST..=ByStatus::LAST {
            let sum = self.workers.iter().map(|worker| worker.responses.get(status)).sum::<u64>();
            if sum > 0 {
                writeln!(out, "highwater_responses_total{{code=\"{status}\"}} {sum}")?;
            }
        }
        Ok(())
    }

    fn write_first_byte(&self, out: &mut String) -> fmt::Result {
        let name = "highwater_time_to_first_byte_seconds";
        write_head(out, name, "histogram", FIRST_BYTE_HELP)?;
        self.first_byte().write(out, name)
    }

    /// Times to the first byte, over all workers.
    pub(crate) fn first_byte(&self) -> Times {
        let mut times = Times::default();
        self.workers.iter().for_each(|worker| worker.time_to_first_byte.add_to(&mut times));
        times
    }

    fn write_cpu(&self, out: &mut String) -> fmt::Result {
        let name = "highwater_worker_cpu_seconds_total";
        write_head(out, name, "counter", "Time that the worker's thread has been on a processor.")?;
        for (index, worker) in self.workers.iter().enumerate() {
            if let Some(time) = worker.cpu_time() {
                writeln!(out, "{name}{{worker=\"{index}\"}} {}", seconds(time))?;
            }
        }
        Ok(())
    }
}

impl WorkerMetrics {
    /// How long the worker's thread has been on a processor, in nanoseconds; `None` before it has started and where `/proc`
    /// isn't mounted. The kernel counts it anyway (`Documentation/scheduler/sched-stats`), which measuring each turn would not.
    pub(super) fn cpu_time(&self) -> Option<u64> {
        let thread = self.thread.get();
        let path = format!("/proc/self/task/{thread}/schedstat");
        let text = if thread == 0 { None } else { fs::read_to_string(path).ok() };
        text?.split_ascii_whitespace().next()?.parse().ok()
    }
}

/// What the histogram of times to the first byte says of itself.
const FIRST_BYTE_HELP: &str = "From when a worker took up a request that has no body until the kernel took the first bytes of \
its reply. A reply that was known by its request's bytes counts with the whole turn that answered it, which is more than it waited.";

/// A number that only grows. Its worker writes it, anyone reads it.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn increment(&self) {
        self.add(1);
    }

    /// `n` more. Two writers would lose each other's counts: only the metric's own worker may call this.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Takes over a count that its worker keeps elsewhere, such as the driver's own; it never goes down.
    pub fn set(&self, total: u64) {
        debug_assert!(total >= self.get(), "a counter never goes down");
        self.0.store(total, Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that goes up and down. Its worker writes it, anyone reads it.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// One more.
    pub fn increment(&self) {
        self.set(self.get().wrapping_add(1));
    }

    /// One less. What was never counted up is a bug in the caller; a gauge stays at zero then rather than showing 2⁶⁴.
    pub fn decrement(&self) {
        debug_assert!(self.get() > 0, "counted down more often than up");
        self.set(self.get().saturating_sub(1));
    }

    /// Exactly `value`. Only the metric's own worker may move it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A counter for each status that the `http` crate can hold: every reply's code is shown as it was sent.
#[derive(Debug)]
pub struct ByStatus([Counter; (ByStatus::LAST - ByStatus::FIRST + 1) as usize]);

impl ByStatus {
    const FIRST: u16 = 100;
    const LAST: u16 = 999;

    /// One more reply of this status; a number that is no status (RFC 9110 §15) is not counted.
    pub fn count(&self, status: u16) {
        if let Some(counter) = self.counter(status) {
            counter.increment();
        }
    }

    /// How many replies had this status.
    pub fn get(&self, status: u16) -> u64 {
        self.counter(status).map_or(0, Counter::get)
    }

    /// Replies that answered a request: all but the interim ones, 1xx (RFC 9110 §15.2).
    pub(super) fn answers(&self) -> u64 {
        (200..=ByStatus::LAST).map(|status| self.get(status)).sum()
    }

    /// How many replies of each class there were: 1xx to 5xx; what is beyond counts as 5xx, as it does for clients (RFC 9110 §15).
    pub(super) fn by_class(&self) -> [u64; 5] {
        let mut classes = [0; 5];
        for status in ByStatus::FIRST..=ByStatus::LAST {
            classes[usize::from(status / 100 - 1).min(4)] += self.get(status);
        }
        classes
    }

    fn counter(&self, status: u16) -> Option<&Counter> {
        self.0.get(usize::from(status.checked_sub(ByStatus::FIRST)?))
    }
}

impl Default for ByStatus {
    fn default() -> Self {
        ByStatus(std::array::from_fn(|_| Counter::default()))
    }
}

/// One Prometheus family: a field of [`WorkerMetrics`].
pub(super) struct Family {
    pub(super) field: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: Kind,
    pub(super) read: fn(&WorkerMetrics) -> u64,
}

/// The Prometheus type of a family.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
}

/// Makes [`WorkerMetrics`], [`Totals`] and [`FAMILIES`] from one list.
macro_rules! worker_metrics {
    ($( $(#[doc = $help:literal])+ $field:ident: $Kind:ident; )+) => {
        /// What one worker counts. Only that worker writes; anyone may read.
        // Two workers' counters never share a cache line, nor the pair of lines that a processor fetches at once.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct WorkerMetrics {
            $( $(#[doc = $help])+ pub $field: $Kind, )+
            /// Replies by exact status.
            pub responses: ByStatus,
            /// How long requests without a body waited for the first byte of their reply.
            pub time_to_first_byte: Histogram,
            /// The number that the kernel has given the worker's thread; 0 before it has started.
            pub thread: Gauge,
        }

        /// The sums over all workers at one moment. The workers go on while they are read, so two fields of one sum may
        /// be a few events apart.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Totals {
            $( $(#[doc = $help])+ pub $field: u64, )+
            /// Requests that were answered, with whatever status; interim replies (1xx) are not answers.
            pub requests: u64,
            /// Access log lines that found no room or could not be written.
            pub access_log_dropped: u64,
        }

        impl Metrics {
            /// The sums over all workers.
            pub fn totals(&self) -> Totals {
                let mut totals =
                    Totals { access_log_dropped: self.access_log_dropped().unwrap_or(0), ..Totals::default() };
                for worker in &self.workers {
                    $( totals.$field += worker.$field.get(); )+
                    totals.requests += worker.responses.answers();
                }
                totals
            }
        }

        pub(super) const FAMILIES: &[Family] = &[
            $( Family {
                field: stringify!($field),
                help: concat!($($help),+),
                kind: Kind::$Kind,
                read: |worker| worker.$field.get(),
            }, )+
        ];
    };
}

worker_metrics! {
    /// Connections that were accepted.
    connections_accepted: Counter;
    /// Connections over the limit, answered 503 and closed.
    connections_refused: Counter;
    /// Times that accepting paused because descriptors or kernel memory ran out.
    accept_pauses: Counter;
    /// Connections that wait for the first byte of a request.
    connections_idle: Gauge;
    /// Connections with a request under way.
    connections_active: Gauge;
    /// Bytes handed to the kernel for clients.
    bytes_sent: Counter;
    /// Bytes of requests' bodies that were taken, without their framing.
    bytes_received: Counter;
    /// Replies whose body is on its way.
    transfers: Gauge;
    /// Replies with a part of what was asked for (206).
    ranges: Counter;
    /// Replies that were held to a rate.
    paced_replies: Counter;
    /// Replies cut because the file became shorter than was promised.
    truncated: Counter;
    /// Connections closed because the client fell behind its minimum rate.
    slow_clients_dropped: Counter;
    /// Requests that broke the protocol and were refused for it.
    requests_malformed: Counter;
    /// Panics of a handler, each caught at its connection.
    handler_panics: Counter;
    /// Times that a transfer waited for room in its send queue.
    send_queue_waits: Counter;
    /// Replies that were known by their request's bytes.
    known_replies: Counter;
    /// Items that were put into queues.
    queue_items_in: Counter;
    /// Items of queues that were sent to consumers, those that were delivered again each time.
    queue_items_out: Counter;
    /// Consumers of queues.
    queue_consumers: Gauge;
    /// Files that were put in their place.
    files_stored: Counter;
    /// Bytes of uploads that are kept, in files or in what can be resumed.
    upload_bytes: Counter;
    /// Files that are being made by an encoder, and can be read meanwhile.
    live_streams: Gauge;
    /// Replies that follow a file while it is made.
    live_readers: Gauge;
    /// Clients whose stream of events is open.
    subscribers: Gauge;
    /// Events that were published.
    events_published: Counter;
    /// Events that were handed to a subscriber's socket.
    events_delivered: Counter;
    /// Events that a subscriber was told that it has lost.
    events_lost: Counter;
    /// Turns of a transfer that had to wait for the disk.
    cold_reads: Counter;
    /// Files that were found open in the cache.
    file_cache_hits: Counter;
    /// Files that had to be opened.
    file_cache_misses: Counter;
    /// Receive buffers that hold bytes somebody has yet to read.
    receive_buffers_in_use: Gauge;
    /// Transfer buffers, one high water mark each, that are lent out.
    transfer_buffers_in_use: Gauge;
    /// Upload buffers that hold bytes on their way to a file.
    upload_buffers_in_use: Gauge;
    /// Bytes of a connection that may wait unsent in the kernel before its socket counts as full (TCP_NOTSENT_LOWAT).
    notsent_lowat_bytes: Gauge;
    /// Pipes that are open, lent out or not.
    pipes_open: Gauge;
    /// Pipes that are lent out.
    pipes_in_use: Gauge;
    /// Tasks that have not finished.
    tasks: Gauge;
    /// Operations that the kernel has yet to complete.
    operations_in_flight: Gauge;
    /// Operations handed to the kernel.
    submissions: Counter;
    /// Completions taken from the kernel.
    completions: Counter;
}

/// A family of one sample without labels.
fn write_single(
    out: &mut String,
    name: impl fmt::Display,
    kind: &str,
    help: &str,
    value: impl fmt::Display,
) -> fmt::Result {
    write_head(out, &name, kind, help)?;
    writeln!(out, "{name} {value}")
}

/// What stands above a family's samples.
fn write_head(out: &mut String, name: impl fmt::Display, kind: &str, help: &str) -> fmt::Result {
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}")
}

/// The process's resident memory in bytes; none where `/proc` isn't mounted.
///
/// `status` rather than `statm`: it counts in kB (proc_pid_status(5)), not in pages of a length that must be asked for.
/// The kernel answers from counters in memory, so a worker may read it.
pub(super) fn resident_bytes() -> Option<u64> {
    parse_resident(&fs::read_to_string("/proc/self/status").ok()?)
}

/// The `VmRSS:   1234 kB` line of `/proc/self/status`, in bytes.
fn parse_resident(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    value.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::super::access_log::{Destination, Format, Outcome, Record};
    use super::*;
    use std::collections::BTreeMap;

    /// A sample's name with its labels as written → its value.
    type Samples = BTreeMap<String, f64>;

    #[test]
    fn every_line_of_the_text_is_in_the_prometheus_grammar() {
        let metrics = sample();
        let samples = parse(&metrics.prometheus());
        let expected = [
            ("highwater_connections_accepted_total", 5.0),
            ("highwater_bytes_sent_total", 1e12),
            ("highwater_connections_idle{worker=\"0\"}", 7.0),
            ("highwater_connections_idle{worker=\"1\"}", 1.0),
            ("highwater_responses_total{code=\"200\"}", 2.0),
            ("highwater_responses_total{code=\"206\"}", 1.0),
            ("highwater_submissions_total", 41.0),
            ("highwater_memory_ceiling_bytes", 123_456_789.0),
            ("highwater_driver_info{driver=\"uring\"}", 1.0),
        ];
        for (sample, value) in expected {
            assert_eq!(samples.get(sample), Some(&value), "{sample}");
        }
    }

    #[test]
    fn every_field_is_shown_and_only_codes_that_occurred_are() {
        let text = Metrics::new(1, 0, "sim").prometheus();
        let samples = parse(&text);
        for family in FAMILIES {
            let name = match family.kind {
                Kind::Counter => format!("highwater_{}_total", family.field),
                Kind::Gauge => format!("highwater_{}{{worker=\"0\"}}", family.field),
            };
            assert_eq!(samples.get(&name), Some(&0.0), "{name}");
        }
        assert!(!text.contains("code="));
    }

    #[test]
    fn what_the_process_is_made_of_is_shown() {
        let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let samples = parse(&Metrics::new(1, 0, "sim").prometheus());
        assert!(samples["process_resident_memory_bytes"] > 4096.0);
        assert!((samples["process_start_time_seconds"] - before).abs() < 60.0);
    }

    #[test]
    fn totals_are_sums_over_the_workers() {
        let totals = sample().totals();
        assert_eq!(
            totals,
            Totals {
                connections_accepted: 5,
                connections_idle: 8,
                bytes_sent: 1_000_000_000_000,
                submissions: 41,
                requests: 3,
                ..Totals::default()
            }
        );
    }

    #[test]
    fn lines_that_the_access_log_drops_are_shown_once_there_is_one() {
        let metrics = sample();
        assert!(!metrics.prometheus().contains("access_log"));
        let dir = tempfile::tempdir().unwrap();
        let destination = Destination::File(dir.path().join("access.log"));
        // Room for no line at all.
        let log = AccessLog::start(destination, Format::Text, 0).unwrap();
        metrics.set_access_log(log.clone());
        log.record(&Record {
            time: UNIX_EPOCH,
            peer: None,
            method: "GET",
            target: "/",
            version: http::Version::HTTP_11,
            status: 200,
            bytes: 0,
            range: None,
            referer: None,
            user_agent: None,
            first_byte: None,
            duration: Duration::ZERO,
            outcome: Outcome::Complete,
        });
        assert_eq!(metrics.totals().access_log_dropped, 1);
        assert_eq!(parse(&metrics.prometheus())["highwater_access_log_dropped_total"], 1.0);
    }

    #[test]
    fn a_status_is_counted_exactly_and_what_is_none_is_not() {
        let codes = ByStatus::default();
        for status in [0, 99, 100, 103, 200, 200, 460, 599, 999, 1000, u16::MAX] {
            codes.count(status);
        }
        let counted: Vec<_> = (0..=u16::MAX).map(|s| (s, codes.get(s))).filter(|(_, n)| *n > 0).collect();
        assert_eq!(counted, [(100, 1), (103, 1), (200, 2), (460, 1), (599, 1), (999, 1)]);
        assert_eq!(codes.answers(), 5);
    }

    #[test]
    fn statuses_are_summed_by_class() {
        let codes = ByStatus::default();
        [101, 200, 206, 304, 404, 416, 429, 500, 999].into_iter().for_each(|status| codes.count(status));
        assert_eq!(codes.by_class(), [1, 2, 1, 3, 2]);
    }

    #[test]
    fn times_to_the_first_byte_are_a_histogram_over_all_workers() {
        let metrics = sample();
        metrics.worker(0).time_to_first_byte.observe(Duration::from_millis(2));
        metrics.worker(1).time_to_first_byte.observe_several(Duration::from_millis(3), 2);
        metrics.worker(1).time_to_first_byte.observe(Duration::from_secs(100));
        let samples = parse(&metrics.prometheus());
        let bucket = |edge| samples[&format!("highwater_time_to_first_byte_seconds_bucket{{le=\"{edge}\"}}")];
        let edges = ["0.00001", "0.001", "0.002", "0.005", "60", "+Inf"];
        assert_eq!(edges.map(bucket), [0.0, 0.0, 1.0, 3.0, 3.0, 4.0]);
        assert_eq!(samples["highwater_time_to_first_byte_seconds_count"], 4.0);
        assert_eq!(samples["highwater_time_to_first_byte_seconds_sum"], 100.008);
    }

    #[test]
    fn the_time_of_a_thread_is_what_the_kernel_says() {
        let worker = WorkerMetrics::default();
        assert_eq!(worker.cpu_time(), None);
        worker.thread.set(u64::from(nix::unistd::gettid().as_raw().unsigned_abs()));
        let before = worker.cpu_time().expect("a thread that runs");
        // The kernel's count moves on with the clock's tick, or when the thread makes way for another.
        while worker.cpu_time() == Some(before) {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_gauge_goes_up_and_down() {
        let gauge = Gauge::default();
        gauge.set(2);
        gauge.increment();
        gauge.decrement();
        gauge.decrement();
        assert_eq!(gauge.get(), 1);
    }

    #[test]
    fn resident_memory_is_read_from_status() {
        #[track_caller]
        fn check(status: &str, bytes: Option<u64>) {
            assert_eq!(parse_resident(status), bytes);
        }
        check("Name:\thighwater\nVmHWM:\t 9 kB\nVmRSS:\t    1234 kB\nRssAnon:\t 1 kB\n", Some(1234 * 1024));
        check("Name:\tkthread\n", None);
        check("VmRSS:\t1234\n", None);
        check("VmRSS:\t-1 kB\n", None);
        check("VmRSS:\t18446744073709551615 kB\n", None);
    }

    /// Two workers that have counted something.
    fn sample() -> Arc<Metrics> {
        let metrics = Metrics::new(2, 123_456_789, "uring");
        let (first, second) = (metrics.worker(0), metrics.worker(1));
        first.connections_accepted.add(3);
        second.connections_accepted.add(2);
        first.connections_idle.set(7);
        second.connections_idle.increment();
        first.bytes_sent.add(999_999_999_999);
        second.bytes_sent.increment();
        first.responses.count(100);
        first.responses.count(200);
        second.responses.count(200);
        second.responses.count(206);
        second.submissions.set(40);
        second.submissions.set(41);
        metrics
    }

    /// Reads the text by the format's own grammar; panics at the first line that isn't in it.
    #[track_caller]
    fn parse(text: &str) -> Samples {
        assert!(text.ends_with('\n'));
        let mut samples = Samples::new();
        let mut families = Vec::new();
        let mut lines = text.lines();
        let mut helped = "";
        while let Some(line) = lines.next() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, words) = help.split_once(' ').expect(line);
                assert!(is_name(name), "{line}");
                assert!(!words.is_empty() && !words.contains(['\\', '[', '`']) && words.ends_with('.'), "{line}");
                helped = name;
                let (name, kind) = lines.next().and_then(|l| l.strip_prefix("# TYPE ")?.split_once(' ')).expect(line);
                assert_eq!(name, helped);
                let expected = match name {
                    _ if name.ends_with("_total") => "counter",
                    "highwater_time_to_first_byte_seconds" => "histogram",
                    _ => "gauge",
                };
                assert_eq!(kind, expected, "{line}");
                assert!(!families.contains(&name), "{name} comes twice");
                families.push(name);
                continue;
            }
            let (series, value) = line.rsplit_once(' ').expect(line);
            let (name, labels) = match series.split_once('{') {
                Some((name, labels)) => (name, Some(labels.strip_suffix('}').expect(line))),
                None => (series, None),
            };
            let suffixes = ["", "_bucket", "_sum", "_count"];
            let is_own = name.strip_prefix(helped).is_some_and(|suffix| suffixes.contains(&suffix));
            assert!(is_own, "a sample stands under its own family: {line}");
            for label in labels.iter().flat_map(|labels| labels.split(',')) {
                let (key, value) = label.split_once('=').expect(line);
                let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).expect(line);
                assert!(is_name(key) && !value.contains(['"', '\\']), "{line}");
            }
            let value = value.parse::<f64>().expect(line);
            assert!(samples.insert(series.to_owned(), value).is_none(), "{series} comes twice");
        }
        samples
    }

    fn is_name(name: &str) -> bool {
        !name.starts_with(|c: char| c.is_ascii_digit())
            && !name.is_empty()
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    }
}
