//! A run: one thread, one epoll instance, all connections.
//!
//! Events are level-triggered: a connection whose bytes wait is simply told again, so that large bodies can be read a turn at a
//! time and none starves the others. One thread is enough, for a server is measured one worker on one processor at a time, and it
//! keeps the generator's own cost plain: when `client` in the report nears 100 % the client was measured and not the server.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::unistd::Pid;

use crate::args::{Manner, Plan, Reuse};
use crate::connection::{Connection, Phase, TURN_LEN};
use crate::pace::{self, Pace, Schedule};
use crate::random::Random;
use crate::tally::{Failure, PaceReport, Report, ServerUsage, Tally};
use crate::upload::{Form, Outgoing, Pieces};
use crate::usage::{Usage, own_cpu, resident_peak};

/// Handshakes under way at once: fewer than the listen queue of any server, for a full queue costs a second's retry.
pub const OPENING_MAX: usize = 128;

/// A connection that failed is opened again after this long, so that a dead server is not hammered.
const REOPEN_AFTER: Duration = Duration::from_millis(10);

/// How often deadlines, the server's memory and the progress line are looked at.
const TICK: Duration = Duration::from_millis(100);

/// The token of the open loop's timer; connections have theirs from 0.
const TIMER: u64 = u64::MAX;

/// Runs the plan.
///
/// # Errors
/// The run could not begin: the server does not answer, the system's limits are too low, a process is not there.
pub fn run(plan: Plan) -> Result<Report, String> {
    raise_descriptor_limit(plan.connections as u64 + 64)?;
    if let Some(cpu) = plan.cpu {
        pin(cpu)?;
    }
    std::net::TcpStream::connect_timeout(&plan.address, plan.timeout).map_err(|e| format!("{}: {e}", plan.address))?;
    let begin = Instant::now();
    let mut load = Load::new(plan, begin).map_err(|errno| format!("epoll: {errno}"))?;
    load.run(begin)
}

struct Load {
    plan: Plan,
    random: Random,
    epoll: Epoll,
    /// Wakes the open loop more finely than a wait in milliseconds can.
    timer: Option<TimerFd>,
    schedule: Option<Schedule>,
    connections: Vec<Connection>,
    /// Connections that have no socket and are to get one.
    unopened: VecDeque<usize>,
    opening: usize,
    /// Connections of the open loop that have no request.
    ready: Vec<usize>,
    /// When to look at a connection again: its pause is over, or it may be opened.
    wakes: BinaryHeap<Reverse<(Instant, usize)>>,
    issued: u64,
    settled: u64,
    tally: Tally,
    scratch: Vec<u8>,
    pieces: Pieces,
}

impl Load {
    fn new(plan: Plan, begin: Instant) -> Result<Self, Errno> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let (timer, schedule) = match plan.manner {
            Manner::OpenLoop(per_second) => (Some(timer(&epoll, per_second)?), Some(Schedule::new(begin, per_second))),
            _ => (None, None),
        };
        Ok(Load {
            random: Random::new(plan.seed),
            epoll,
            timer,
            schedule,
            connections: (0..plan.connections).map(|_| Connection::new(begin)).collect(),
            unopened: (0..plan.connections).collect(),
            opening: 0,
            ready: Vec::new(),
            wakes: BinaryHeap::new(),
            issued: 0,
            settled: 0,
            tally: Tally::default(),
            scratch: vec![0; TURN_LEN],
            pieces: Pieces::new(plan.content),
            plan,
        })
    }

    fn run(&mut self, begin: Instant) -> Result<Report, String> {
        let mut window = Window::open(&self.plan, begin)?;
        let mut events = vec![EpollEvent::empty(); 512];
        let mut now = begin;
        let mut next_tick = begin + TICK;
        let progress = progress_line();
        while now < window.end && self.settled < self.plan.requests_max {
            self.open_some(now);
            self.issue_due(now);
            let count = self.wait(&mut events, now, next_tick.min(window.next_edge(now)))?;
            for event in &events[..count] {
                self.handle(event.data(), event.events());
            }
            now = Instant::now();
            self.wake(now);
            if now >= next_tick {
                next_tick = now + TICK;
                self.expire(now);
                window.look(&self.plan)?;
                progress.set_message(format!("{} replies, {} errors", self.tally.replies, self.tally.failures()));
            }
            if window.begins(now) {
                window.restart(&self.plan, now)?;
                self.tally = Tally::after_warmup(&self.tally);
                self.connections.iter_mut().for_each(|connection| connection.taken = 0);
            }
        }
        let (elapsed, client_cpu, server) = window.close(&self.plan, now)?;
        progress.finish_and_clear();
        self.count_unanswered(now);
        let held = self.connections.iter().filter(|c| matches!(c.phase, Phase::Held)).count() as u64;
        let pace = self.pace_report(elapsed);
        let tally = std::mem::take(&mut self.tally);
        Ok(Report {
            tally,
            elapsed,
            held,
            pace,
            client_cpu,
            server,
            open_loop: self.schedule.is_some(),
            upload: self.plan.upload.take(),
        })
    }

    fn wait(&mut self, events: &mut [EpollEvent], now: Instant, until: Instant) -> Result<usize, String> {
        let until = self.wakes.peek().map_or(until, |Reverse((at, _))| until.min(*at));
        // Rounded up, so that a wait for half a millisecond does not become a busy one.
        let ms = until.saturating_duration_since(now).as_micros().div_ceil(1000);
        let timeout = EpollTimeout::from(u16::try_from(ms).unwrap_or(u16::MAX));
        match self.epoll.wait(events, timeout) {
            Ok(count) => Ok(count),
            Err(Errno::EINTR) => Ok(0),
            Err(errno) => Err(format!("epoll: {errno}")),
        }
    }

    fn handle(&mut self, token: u64, flags: EpollFlags) {
        if token == TIMER {
            if let Some(timer) = &self.timer {
                // It only wakes; what is due, the schedule says.
                let _ = timer.wait();
            }
            return self.issue_due(Instant::now());
        }
        let i = token as usize;
        let broken = flags.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP);
        match self.connections[i].phase {
            Phase::Closed => {}
            Phase::Connecting if broken => self.fail(i, Failure::Connect),
            Phase::Connecting => self.connected(i),
            Phase::Sending if flags.contains(EpollFlags::EPOLLIN) => self.receive_early(i, None),
            Phase::Sending => self.send(i),
            Phase::Receiving => self.receive(i, Instant::now()),
            Phase::Draining => self.drain(i),
            Phase::Ready => self.end_of_unused(i),
            Phase::Held => self.drop_held(i),
            Phase::Pausing => self.fail(i, Failure::Reset),
        }
    }

    fn open_some(&mut self, now: Instant) {
        while self.opening < OPENING_MAX
            && let Some(i) = self.unopened.pop_front()
        {
            self.opening += 1;
            let connection = &mut self.connections[i];
            if connection.open(self.plan.address, &self.epoll, i as u64, now).is_err() {
                connection.phase = Phase::Connecting;
                self.fail(i, Failure::Connect);
            }
        }
    }

    fn connected(&mut self, i: usize) {
        self.opening -= 1;
        self.tally.connected += 1;
        self.next(i, Instant::now());
    }

    /// What a connection does when it has no request.
    fn next(&mut self, i: usize, now: Instant) {
        match self.plan.manner {
            Manner::Idle(requests) if self.connections[i].answered >= requests => self.enter(i, Phase::Held),
            Manner::Stall(_) if self.connections[i].answered > 0 => self.enter(i, Phase::Held),
            Manner::OpenLoop(_) => {
                self.enter(i, Phase::Ready);
                self.ready.push(i);
            }
            _ if self.issued >= self.plan.requests_max => self.enter(i, Phase::Ready),
            _ => self.start(i, now, now),
        }
    }

    fn start(&mut self, i: usize, due: Instant, now: Instant) {
        self.issued += 1;
        let request = self.plan.targets.choose(&mut self.random);
        let connection = &mut self.connections[i];
        connection.begin(request, &self.plan.targets, &self.plan.fields, due, now);
        if let Some(upload) = &self.plan.upload {
            let first = upload.first(i, connection.uploads, &self.plan.fields);
            connection.uploads += 1;
            connection.begin_upload(first, upload.form == Form::Tus, now);
        }
        connection.phase = Phase::Sending;
        self.send(i);
    }

    /// The bytes of an upload that the reply says is created; false where it does not, or there is no such upload.
    fn send_created(&mut self, i: usize, now: Instant) -> bool {
        let connection = &mut self.connections[i];
        let (true, Some(upload), Some(location)) =
            (connection.creates, &self.plan.upload, connection.reader.location())
        else {
            return false;
        };
        if !connection.reader.head().is_some_and(|head| head.keep_alive && (200..300).contains(&head.status)) {
            return false;
        }
        let patch = upload.patch(location, &self.plan.fields);
        connection.begin_upload(patch, false, now);
        connection.phase = Phase::Sending;
        self.send(i);
        true
    }

    fn issue_due(&mut self, now: Instant) {
        while self.issued < self.plan.requests_max
            && let Some(&i) = self.ready.last()
            && let Some(due) = self.schedule.as_mut().and_then(|schedule| schedule.take_due(now))
        {
            self.ready.pop();
            self.start(i, due, now);
        }
    }

    fn send(&mut self, i: usize) {
        let sent = |connection: &Connection| connection.upload.as_ref().map_or(0, Outgoing::file_bytes);
        let connection = &mut self.connections[i];
        let before = sent(connection);
        let outcome = connection.write(&mut self.pieces);
        self.tally.body_bytes += sent(connection) - before;
        match outcome {
            Ok(true) => self.enter(i, Phase::Receiving),
            Ok(false) => self.enter(i, Phase::Sending),
            Err(failure) => self.receive_early(i, Some(failure)),
        }
    }

    /// Reads what came before all of the request was sent: an interim reply (RFC 9110 §15.2), or one that ends the connection, for
    /// the rest of the request would be taken for another one. A connection that is `broken` may still hold the reply that says why.
    fn receive_early(&mut self, i: usize, broken: Option<Failure>) {
        let (verifier, targets) = (&mut self.plan.verifier, &self.plan.targets);
        let connection = &mut self.connections[i];
        let outcome = connection.read(u64::MAX, &mut self.scratch, verifier, targets);
        match (connection.reader.head().map(|head| head.status), outcome, broken) {
            (Some(status), ..) => {
                self.tally.status(status);
                self.fail(i, if (200..300).contains(&status) { Failure::Early } else { Failure::Status });
            }
            (None, _, Some(failure)) | (None, Err(failure), None) => self.fail(i, failure),
            (None, Ok(_), None) => {}
        }
    }

    fn receive(&mut self, i: usize, now: Instant) {
        let mut turn = 0;
        while turn < TURN_LEN as u64 {
            let allowance = self.allowance(i, now);
            if allowance == 0 {
                return self.pause(i);
            }
            let connection = &mut self.connections[i];
            let (before, had_begun) = (connection.reader.body_len(), connection.reader.has_begun());
            let outcome = connection.read(allowance, &mut self.scratch, &mut self.plan.verifier, &self.plan.targets);
            let len = connection.reader.body_len() - before;
            if connection.upload.is_some() {
                if !had_begun && connection.reader.has_begun() && !connection.creates {
                    self.tally.reply_wait(now.saturating_duration_since(connection.written_last));
                }
            } else {
                self.tally.body_bytes += len;
            }
            connection.moved = now;
            connection.taken += len;
            turn += len;
            if let Some(pace) = &mut connection.pace {
                pace.took(len);
            }
            match outcome {
                Err(failure) => return self.fail(i, failure),
                Ok(_) if self.connections[i].reader.is_done() => return self.complete(i),
                Ok(true) => {}
                Ok(false) => return,
            }
        }
    }

    /// How many bytes of the body may be read now. A head is always read.
    fn allowance(&mut self, i: usize, now: Instant) -> u64 {
        let connection = &mut self.connections[i];
        if connection.reader.head().is_none() {
            return u64::MAX;
        }
        match self.plan.manner {
            Manner::Paced(rate) => connection.pace.get_or_insert_with(|| Pace::new(rate, now)).allowance(now),
            Manner::Stall(bytes) => bytes.saturating_sub(connection.reader.body_len()),
            _ => u64::MAX,
        }
    }

    /// Stops reading: until the pace allows more, or for good.
    fn pause(&mut self, i: usize) {
        match &self.connections[i].pace {
            Some(pace) => {
                self.wakes.push(Reverse((pace.next_allowance(), i)));
                self.enter(i, Phase::Pausing);
            }
            None => self.enter(i, Phase::Held),
        }
    }

    fn complete(&mut self, i: usize) {
        let now = Instant::now();
        let keep_alive = self.connections[i].reader.head().is_some_and(|head| {
            self.tally.status(head.status);
            head.keep_alive
        });
        if self.send_created(i, now) {
            return;
        }
        let connection = &mut self.connections[i];
        connection.answered += 1;
        self.settled += 1;
        let judgement = match &self.plan.upload {
            Some(upload) => connection.judge_upload(upload),
            None => connection.judge(self.plan.targets.len_of(connection.request.target)),
        };
        match judgement {
            Ok(()) => self.tally.reply(now - connection.due, now - connection.sent),
            Err(failure) => self.tally.failure(failure),
        }
        if keep_alive && self.plan.reuse == Reuse::KeepAlive {
            self.next(i, now);
        } else {
            self.enter(i, Phase::Draining);
            self.drain(i);
        }
    }

    fn drain(&mut self, i: usize) {
        match self.connections[i].has_ended(&mut self.scratch) {
            Ok(true) => {
                self.connections[i].close_both_ends();
                self.unopened.push_back(i);
            }
            Ok(false) => {}
            Err(failure) => self.fail(i, failure),
        }
    }

    /// A server may close a connection that it has no request on (RFC 9112 §9.5); it may not send anything.
    fn end_of_unused(&mut self, i: usize) {
        match self.connections[i].has_ended(&mut self.scratch) {
            Ok(false) => {}
            Ok(true) | Err(Failure::Reset) => {
                self.ready.retain(|&ready| ready != i);
                self.connections[i].close();
                self.reopen_later(i);
            }
            Err(failure) => self.fail(i, failure),
        }
    }

    fn drop_held(&mut self, i: usize) {
        self.tally.dropped += 1;
        self.connections[i].close();
    }

    fn fail(&mut self, i: usize, failure: Failure) {
        match self.connections[i].phase {
            Phase::Connecting => self.opening -= 1,
            Phase::Sending | Phase::Receiving | Phase::Pausing => self.settled += 1,
            Phase::Ready => self.ready.retain(|&ready| ready != i),
            Phase::Closed | Phase::Draining | Phase::Held => {}
        }
        self.tally.failure(failure);
        self.connections[i].close();
        self.reopen_later(i);
    }

    fn reopen_later(&mut self, i: usize) {
        self.wakes.push(Reverse((Instant::now() + REOPEN_AFTER, i)));
    }

    fn wake(&mut self, now: Instant) {
        while let Some(&Reverse((at, i))) = self.wakes.peek()
            && at <= now
        {
            self.wakes.pop();
            match self.connections[i].phase {
                Phase::Closed => self.unopened.push_back(i),
                Phase::Pausing => {
                    self.enter(i, Phase::Receiving);
                    self.receive(i, now);
                }
                _ => {}
            }
        }
    }

    fn enter(&mut self, i: usize, phase: Phase) {
        if self.connections[i].enter(phase, &self.epoll, i as u64).is_err() {
            self.fail(i, Failure::System);
        }
    }

    fn expire(&mut self, now: Instant) {
        for i in 0..self.connections.len() {
            let connection = &self.connections[i];
            let waits =
                matches!(connection.phase, Phase::Connecting | Phase::Sending | Phase::Receiving | Phase::Draining);
            if waits && now.saturating_duration_since(connection.moved) > self.plan.timeout {
                self.fail(i, Failure::Timeout);
            }
        }
    }

    fn pace_report(&self, elapsed: Duration) -> Option<PaceReport> {
        let Manner::Paced(rate) = self.plan.manner else { return None };
        let kept = self.connections.iter().filter(|connection| pace::kept(rate, connection.taken, elapsed)).count();
        Some(PaceReport { readers: self.connections.len() as u64, kept: kept as u64 })
    }

    /// The open loop must not forget those that waited to the end.
    fn count_unanswered(&mut self, now: Instant) {
        let Some(schedule) = &mut self.schedule else { return };
        for connection in &self.connections {
            if matches!(connection.phase, Phase::Sending | Phase::Receiving) {
                self.tally.unanswered(now - connection.due);
            }
        }
        while self.issued < self.plan.requests_max
            && let Some(due) = schedule.take_due(now)
        {
            self.issued += 1;
            self.tally.unanswered(now - due);
        }
    }
}

/// The span of time that is measured, and what the processes had used when it began.
struct Window {
    begin: Instant,
    end: Instant,
    measuring: bool,
    client_cpu: Duration,
    server: Usage,
    resident_max: u64,
}

impl Window {
    fn open(plan: &Plan, now: Instant) -> Result<Self, String> {
        let server = Usage::of(&plan.pids)?;
        let begin = now + plan.warmup;
        let measuring = plan.warmup.is_zero();
        let end = begin + plan.duration;
        Ok(Window { begin, end, measuring, client_cpu: own_cpu(), server, resident_max: server.resident })
    }

    fn next_edge(&self, now: Instant) -> Instant {
        if now < self.begin { self.begin } else { self.end }
    }

    fn begins(&self, now: Instant) -> bool {
        !self.measuring && now >= self.begin
    }

    fn restart(&mut self, plan: &Plan, now: Instant) -> Result<(), String> {
        let server = Usage::of(&plan.pids)?;
        let end = now + plan.duration;
        *self =
            Window { begin: now, end, measuring: true, client_cpu: own_cpu(), server, resident_max: server.resident };
        Ok(())
    }

    fn look(&mut self, plan: &Plan) -> Result<(), String> {
        self.resident_max = self.resident_max.max(Usage::of(&plan.pids)?.resident);
        Ok(())
    }

    fn close(&self, plan: &Plan, now: Instant) -> Result<(Duration, Duration, Option<ServerUsage>), String> {
        let after = Usage::of(&plan.pids)?;
        let resident_max = self.resident_max.max(after.resident);
        let resident_peak = resident_peak(&plan.pids)?;
        let usage = ServerUsage { before: self.server, after, resident_max, resident_peak };
        let server = (!plan.pids.is_empty()).then_some(usage);
        Ok((now - self.begin, own_cpu().saturating_sub(self.client_cpu), server))
    }
}

/// A periodic timer: a wake-up a request, within what is sensible.
fn timer(epoll: &Epoll, per_second: f64) -> Result<TimerFd, Errno> {
    let period = Duration::from_secs_f64((1.0 / per_second).clamp(50e-6, 10e-3));
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
    timer.set(Expiration::Interval(TimeSpec::from_duration(period)), TimerSetTimeFlags::empty())?;
    epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, TIMER))?;
    Ok(timer)
}

/// Lets this process have so many descriptors.
///
/// # Errors
/// The system does not allow them.
pub fn raise_descriptor_limit(needed: u64) -> Result<(), String> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|errno| format!("RLIMIT_NOFILE: {errno}"))?;
    if soft >= needed {
        return Ok(());
    }
    if hard < needed {
        return Err(format!("{needed} descriptors are needed and {hard} are allowed; raise `ulimit -Hn`"));
    }
    setrlimit(Resource::RLIMIT_NOFILE, needed, hard).map_err(|errno| format!("RLIMIT_NOFILE: {errno}"))
}

/// Runs this process on one processor only.
///
/// # Errors
/// It can't be had.
pub fn pin(cpu: usize) -> Result<(), String> {
    let refused = |errno: Errno| format!("processor {cpu}: {errno}");
    let mut set = CpuSet::new();
    set.set(cpu).map_err(refused)?;
    sched_setaffinity(Pid::from_raw(0), &set).map_err(refused)
}

/// Drawn on standard error, where that is a terminal.
pub fn progress_line() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {elapsed_precise} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner());
    ProgressBar::new_spinner().with_style(style)
}
