//! The run itself: when units are written, when readers come, who is told what by the kernel, and how it ends.

use std::collections::VecDeque;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::time::clock_gettime;

use super::event::Item;
use super::ledger::{Arrival, Ledger};
use super::reader::{Phase, Reader, Received};
use super::report::{Readers, Report, Tally};
use super::stamp::Pattern;
use super::writer::Writer;
use super::{Medium, Plan, Rate};
use crate::run::{OPENING_MAX, pin, progress_line, raise_descriptor_limit};
use crate::tally::{Failure, ServerUsage};
use crate::usage::{Usage, own_cpu, resident_peak};

/// All readers receive into this; a reader that keeps up never fills it.
const SCRATCH_LEN: usize = 256 << 10;

/// A reader that has much to catch up with receives so often in one turn; then the others have theirs.
const TURN_RECEIVES: usize = 8;

/// A reader that was too early for a live body tries again after this long.
const RETRY_AFTER: Duration = Duration::from_millis(10);

/// Between the last subscription and the first event, so that what the server holds for idle readers is what is weighed.
const SETTLE: Duration = Duration::from_millis(500);

/// How often the server's memory is looked at.
const TICK: Duration = Duration::from_millis(100);

/// The token of the writer's socket; readers have theirs from 0.
pub const WRITER: u64 = u64::MAX;
/// The token of the timer that wakes when a unit is due.
const TIMER: u64 = u64::MAX - 1;

/// Runs the plan.
///
/// # Errors
/// The run could not begin: the server does not answer, the system's limits are too low, a process is not there.
pub fn run(plan: Plan) -> Result<Report, String> {
    raise_descriptor_limit(plan.readers as u64 + 64)?;
    plan.cpu.map_or(Ok(()), pin)?;
    for address in [plan.address, plan.write_address] {
        std::net::TcpStream::connect_timeout(&address, plan.timeout).map_err(|e| format!("{address}: {e}"))?;
    }
    let mut run = FanOut::new(plan).map_err(|errno| format!("epoll: {errno}"))?;
    let resident_first = Usage::of(&run.plan.pids)?.resident;
    if run.plan.writing.medium == Medium::Events {
        run.attach()?;
    }
    let resident_attached = Usage::of(&run.plan.pids)?.resident;
    run.write()?;
    run.drain()?;
    run.close(resident_first, resident_attached)
}

struct FanOut {
    plan: Plan,
    pattern: Pattern,
    requests: Vec<Vec<u8>>,
    epoll: Epoll,
    timer: TimerFd,
    readers: Vec<Reader>,
    /// Readers that are to get a socket.
    unopened: VecDeque<usize>,
    /// Readers that were too early, and when they try again.
    retries: VecDeque<(u64, usize)>,
    /// Readers that filled the buffer and have more to receive.
    unread: Vec<usize>,
    opening: usize,
    writer: Writer,
    ledger: Ledger,
    tally: Tally,
    /// When measuring began, and what processes had used then.
    begin_ns: u64,
    client_cpu: Duration,
    server: Usage,
    resident_max: u64,
    next_tick_ns: u64,
    /// When anything last moved.
    moved_ns: u64,
    /// When the last unit arrived.
    arrived_ns: u64,
    scratch: Vec<u8>,
    items: Vec<Item>,
    events: Vec<EpollEvent>,
}

impl FanOut {
    fn new(plan: Plan) -> Result<Self, Errno> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, TIMER))?;
        let topics = plan.paths.len();
        let mut readers: Vec<Reader> =
            (0..plan.readers).map(|i| Reader::new(plan.writing.medium, (i % topics) as u64)).collect();
        readers.iter_mut().take(plan.writing.stalled).for_each(|reader| reader.stalls = true);
        let request = |path: &String| [b"GET ", path.as_bytes(), b" HTTP/1.1\r\n", plan.fields.as_slice()].concat();
        Ok(FanOut {
            pattern: Pattern::new(plan.writing.unit_len),
            requests: plan.paths.iter().map(request).collect(),
            epoll,
            timer,
            readers,
            unopened: (0..plan.readers - plan.writing.late).collect(),
            retries: VecDeque::new(),
            unread: Vec::new(),
            opening: 0,
            writer: Writer::new(
                plan.writing.medium,
                plan.write_address,
                plan.write_paths.clone(),
                plan.write_fields.clone(),
            ),
            ledger: Ledger::new(topics),
            tally: Tally::default(),
            begin_ns: now_ns(),
            client_cpu: Duration::ZERO,
            server: Usage::default(),
            resident_max: 0,
            next_tick_ns: 0,
            moved_ns: now_ns(),
            arrived_ns: 0,
            scratch: vec![0; SCRATCH_LEN],
            items: Vec::new(),
            events: vec![EpollEvent::empty(); 512],
            plan,
        })
    }

    /// Subscribes every reader, and waits until the server has come to rest.
    fn attach(&mut self) -> Result<(), String> {
        let awaited = |reader: &Reader| matches!(reader.phase, Phase::Unopened | Phase::Connecting | Phase::Asking);
        while self.readers.iter().any(awaited) && !self.is_stuck() {
            self.open_some();
            self.turn(self.next_tick_ns)?;
        }
        for i in 0..self.readers.len() {
            if awaited(&self.readers[i]) {
                self.fail(i, Failure::Timeout);
            }
        }
        let until = now_ns() + nanos(SETTLE);
        while now_ns() < until {
            self.turn(until)?;
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), String> {
        let first_ns = now_ns();
        let measure_ns = first_ns + nanos(self.plan.warmup);
        let end_ns = measure_ns + nanos(self.plan.duration);
        let mut late_ns = Some(first_ns + (end_ns - first_ns) / 2);
        let mut is_measuring = false;
        let progress = progress_line();
        self.moved_ns = first_ns;
        loop {
            let now = now_ns();
            if !is_measuring && now >= measure_ns {
                is_measuring = true;
                self.begin_measuring(now)?;
            }
            if now >= end_ns || self.ledger.written() >= self.plan.units_max || self.has_lost_its_encoder() {
                self.tally.unwritten = self.due_by(first_ns, end_ns.min(now)).saturating_sub(self.ledger.written());
                progress.finish_and_clear();
                return Ok(());
            }
            if late_ns.is_some_and(|at| now >= at) {
                late_ns = None;
                self.unopened.extend(self.plan.readers - self.plan.writing.late..self.plan.readers);
            }
            self.write_due(first_ns, now);
            if self.ledger.written() > 0 {
                self.open_some();
            }
            self.turn(end_ns)?;
            progress.set_message(format!("{} deliveries", self.tally.deliveries));
        }
    }

    fn begin_measuring(&mut self, now: u64) -> Result<(), String> {
        self.tally = Tally::after_warmup(std::mem::take(&mut self.tally));
        self.begin_ns = now;
        self.client_cpu = own_cpu();
        self.server = Usage::of(&self.plan.pids)?;
        self.resident_max = self.server.resident;
        Ok(())
    }

    /// Writes what is due, if the writer can take it.
    fn write_due(&mut self, first_ns: u64, now: u64) {
        match self.plan.writing.rate {
            Rate::Closed { in_flight } => {
                if self.ledger.outstanding() > 0 && self.is_stuck() {
                    self.tally.failure(Failure::Timeout);
                    self.ledger.abandon();
                }
                let may_write =
                    |run: &Self| run.ledger.outstanding() < in_flight && run.ledger.written() < run.plan.units_max;
                while self.writer.is_free() && may_write(self) {
                    self.write_unit(now);
                }
            }
            Rate::PerSecond(rate) => {
                while self.writer.is_free() && self.ledger.written() < self.plan.units_max {
                    let due = due_ns(first_ns, rate, self.ledger.written());
                    if due > now {
                        return self.wake_at(due);
                    }
                    self.write_unit(due);
                }
            }
        }
    }

    fn write_unit(&mut self, due_ns: u64) {
        self.moved_ns = now_ns();
        let stamp = self.ledger.write(due_ns);
        if let Err(failure) = self.writer.write_unit(stamp, &self.pattern, &self.epoll, self.plan.timeout) {
            self.fail_writer(failure);
        }
    }

    /// How many units were due by `now`.
    fn due_by(&self, first_ns: u64, now: u64) -> u64 {
        match self.plan.writing.rate {
            Rate::Closed { .. } => 0,
            Rate::PerSecond(rate) => {
                let due = ((now - first_ns) as f64 / 1e9 * rate) as u64;
                due.min(self.plan.units_max)
            }
        }
    }

    /// An encoder that has lost its connection has nothing more to say; a publisher makes another one.
    fn has_lost_its_encoder(&self) -> bool {
        self.plan.writing.medium == Medium::Live && self.tally.writer_failures > 0
    }

    /// Waits for what is still on its way.
    fn drain(&mut self) -> Result<(), String> {
        if let Err(failure) = self.writer.finish() {
            self.fail_writer(failure);
        }
        self.moved_ns = now_ns();
        while self.is_underway() && !self.is_stuck() {
            self.turn(self.next_tick_ns)?;
        }
        if self.is_underway() {
            self.tally.failure(Failure::Timeout);
        }
        Ok(())
    }

    fn is_underway(&self) -> bool {
        let follows = |reader: &Reader| matches!(reader.phase, Phase::Connecting | Phase::Asking | Phase::Following);
        self.ledger.outstanding() > 0
            || !self.writer.is_idle()
            || (self.plan.writing.medium == Medium::Live && self.readers.iter().any(follows))
    }

    fn is_stuck(&self) -> bool {
        now_ns().saturating_sub(self.moved_ns) > nanos(self.plan.timeout)
    }

    fn close(mut self, resident_first: u64, resident_attached: u64) -> Result<Report, String> {
        let after = Usage::of(&self.plan.pids)?;
        let usage = ServerUsage {
            before: self.server,
            after,
            resident_max: self.resident_max.max(after.resident),
            resident_peak: resident_peak(&self.plan.pids)?,
        };
        let client_cpu = own_cpu().saturating_sub(self.client_cpu);
        let (written, topics) = (self.ledger.written(), self.plan.paths.len() as u64);
        for reader in &self.readers {
            if matches!(reader.phase, Phase::Following | Phase::Ended) && !reader.stalls {
                self.tally.missing += reader.progress.missing(written, topics);
            }
        }
        let until = if self.arrived_ns > self.begin_ns { self.arrived_ns } else { now_ns() };
        Ok(Report {
            medium: self.plan.writing.medium,
            unit_len: self.plan.writing.unit_len,
            written,
            elapsed: Duration::from_nanos(until - self.begin_ns),
            readers: Readers {
                asked: self.plan.readers as u64,
                stalled: self.readers.iter().filter(|reader| reader.phase == Phase::Stalled).count() as u64,
                late: self.plan.writing.late as u64,
                joined: self.tally.joined,
                stalled_dropped: self.tally.stalled_dropped,
            },
            tally: self.tally,
            client_cpu,
            server: (!self.plan.pids.is_empty()).then_some(usage),
            resident_first,
            resident_attached,
        })
    }

    /// Waits, no longer than until `until_ns`, and handles what has happened.
    fn turn(&mut self, until_ns: u64) -> Result<(), String> {
        let now = now_ns();
        let wanted = if self.unread.is_empty() { until_ns.min(self.next_tick_ns).saturating_sub(now) } else { 0 };
        // Rounded up, so that a wait for half a millisecond does not become a busy one.
        let timeout = EpollTimeout::from(u16::try_from(wanted.div_ceil(1_000_000)).unwrap_or(u16::MAX));
        let mut events = std::mem::take(&mut self.events);
        let count = match self.epoll.wait(&mut events, timeout) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(errno) => return Err(format!("epoll: {errno}")),
        };
        for event in &events[..count] {
            self.handle(event.data(), event.events());
        }
        self.events = events;
        for i in std::mem::take(&mut self.unread) {
            // An event may have come in between, and with it the end.
            if self.readers[i].phase == Phase::Following {
                self.receive(i, EpollFlags::EPOLLIN);
            }
        }
        self.tick()
    }

    fn tick(&mut self) -> Result<(), String> {
        let now = now_ns();
        while let Some(&(at, i)) = self.retries.front()
            && at <= now
        {
            self.retries.pop_front();
            self.unopened.push_back(i);
        }
        if now >= self.next_tick_ns {
            self.next_tick_ns = now + nanos(if self.retries.is_empty() { TICK } else { RETRY_AFTER });
            self.resident_max = self.resident_max.max(Usage::of(&self.plan.pids)?.resident);
        }
        Ok(())
    }

    fn handle(&mut self, token: u64, flags: EpollFlags) {
        match token {
            // It only wakes; what is due, the clock says.
            TIMER => drop(self.timer.wait()),
            WRITER => self.go_on_writing(),
            i => self.handle_reader(i as usize, flags),
        }
    }

    fn go_on_writing(&mut self) {
        match self.writer.go_on(&mut self.scratch) {
            Ok(None) => {}
            Ok(Some(status)) => {
                self.moved_ns = now_ns();
                self.tally.status(status);
                if !(200..300).contains(&status) {
                    self.fail_writer(Failure::Status);
                }
            }
            Err(failure) => self.fail_writer(failure),
        }
    }

    fn fail_writer(&mut self, failure: Failure) {
        self.tally.writer_failures += 1;
        self.tally.failure(failure);
        self.writer.close();
    }

    fn open_some(&mut self) {
        while self.opening < OPENING_MAX
            && let Some(i) = self.unopened.pop_front()
        {
            self.opening += 1;
            let opened = self.readers[i].open(self.plan.address, &self.epoll, i as u64);
            if opened.is_err() {
                self.readers[i].phase = Phase::Connecting;
                self.fail(i, Failure::Connect);
            }
        }
    }

    fn handle_reader(&mut self, i: usize, flags: EpollFlags) {
        let broken = flags.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP);
        match self.readers[i].phase {
            Phase::Connecting if broken => self.fail(i, Failure::Connect),
            Phase::Connecting => self.connected(i),
            Phase::Asking | Phase::Following => self.receive(i, flags),
            Phase::Stalled if broken || flags.contains(EpollFlags::EPOLLRDHUP) => {
                self.tally.stalled_dropped += 1;
                self.readers[i].close(Phase::Failed);
            }
            Phase::Unopened | Phase::Stalled | Phase::Ended | Phase::Failed => {}
        }
    }

    fn connected(&mut self, i: usize) {
        self.opening -= 1;
        self.moved_ns = now_ns();
        let topic = i % self.requests.len();
        if let Err(failure) = self.readers[i].ask(&self.requests[topic]) {
            self.fail(i, failure);
        }
    }

    fn receive(&mut self, i: usize, flags: EpollFlags) {
        // The end of a connection that came with its last bytes is told once only.
        let has_ended = flags.intersects(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR);
        for _ in 0..TURN_RECEIVES {
            let (len, is_all) = match self.readers[i].receive(&mut self.scratch) {
                Ok(Received::Nothing) => return,
                Ok(Received::All(len)) => (len, true),
                Ok(Received::Full(len)) => (len, false),
                Ok(Received::End) if self.readers[i].has_begun() => return self.fail(i, Failure::Truncated),
                Ok(Received::End) => return self.fail(i, Failure::Closed),
                Err(failure) => return self.fail(i, failure),
            };
            self.take(i, len, now_ns());
            let follows = matches!(self.readers[i].phase, Phase::Asking | Phase::Following);
            if !follows || (is_all && !has_ended) {
                return;
            }
        }
        self.unread.push(i);
    }

    /// Reads the first bytes of the buffer, which have come to a reader.
    fn take(&mut self, i: usize, len: usize, now: u64) {
        self.moved_ns = now;
        let mut items = std::mem::take(&mut self.items);
        let reader = &mut self.readers[i];
        let taken = reader.take(&self.scratch[..len], &self.pattern, |item| items.push(item));
        if let (Phase::Asking, Some(status)) = (reader.phase, reader.status()) {
            self.answered(i, status, now);
        }
        let follows = self.readers[i].phase == Phase::Following;
        for item in items.drain(..).filter(|_| follows) {
            self.arrived(i, item, now);
        }
        self.items = items;
        match taken {
            Ok(len) if follows => self.tally.body_bytes += len,
            // A body of another status is no stream, and what it says does not matter.
            Err(failure) if follows || self.readers[i].phase == Phase::Asking => self.fail(i, failure),
            Ok(_) | Err(_) => {}
        }
        if self.readers[i].phase == Phase::Following && self.readers[i].is_done() {
            self.ledger.leave(&self.readers[i].progress);
            self.readers[i].close(Phase::Ended);
        }
    }

    /// The head of a reply has come.
    fn answered(&mut self, i: usize, status: u16, now: u64) {
        let may_retry = self.plan.writing.medium == Medium::Live && !self.is_stuck();
        let reader = &mut self.readers[i];
        match status {
            200 if reader.stalls => {
                self.tally.joined += 1;
                if let Err(failure) = reader.stall(&self.epoll, i as u64) {
                    self.fail(i, failure);
                }
            }
            200 => {
                self.tally.joined += 1;
                reader.phase = Phase::Following;
                reader.joined_ns = now;
                self.ledger.join(&mut reader.progress);
            }
            // The encoder's request may be on its way still.
            404 if may_retry => {
                reader.close(Phase::Unopened);
                self.retries.push_back((now + nanos(RETRY_AFTER), i));
                self.tally.retries += 1;
            }
            _ => self.fail(i, Failure::Status),
        }
        self.tally.status(status);
    }

    fn arrived(&mut self, i: usize, item: Item, now: u64) {
        let Item::Unit(stamp) = item else {
            self.tally.notices += 1;
            return;
        };
        let reader = &mut self.readers[i];
        self.arrived_ns = now;
        match self.ledger.arrive(&mut reader.progress, stamp, now) {
            Arrival::Next { spread_ns } => self.tally.delivery(now.saturating_sub(stamp.due_ns), spread_ns),
            Arrival::CatchUp { is_last } => {
                let catch_up_ns = is_last.then(|| now.saturating_sub(reader.joined_ns));
                self.tally.caught_up(catch_up_ns);
            }
            Arrival::OutOfOrder => self.tally.out_of_order += 1,
            Arrival::Duplicate => self.tally.duplicated += 1,
            Arrival::Foreign => self.tally.foreign += 1,
        }
    }

    fn fail(&mut self, i: usize, failure: Failure) {
        let reader = &mut self.readers[i];
        match reader.phase {
            Phase::Connecting => self.opening -= 1,
            Phase::Following => self.ledger.leave(&reader.progress),
            _ => {}
        }
        reader.close(Phase::Failed);
        self.tally.failure(failure);
    }

    fn wake_at(&mut self, at_ns: u64) {
        let at = TimeSpec::from_duration(Duration::from_nanos(at_ns));
        // When it can't be set, the next tick wakes.
        let _ = self.timer.set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME);
    }
}

/// When unit number `number` is due.
fn due_ns(first_ns: u64, rate: f64, number: u64) -> u64 {
    first_ns + (number as f64 / rate * 1e9) as u64
}

fn now_ns() -> u64 {
    let now = clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    nanos(now)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
