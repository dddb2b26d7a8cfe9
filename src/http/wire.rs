//! One connection while it is busy: its socket, the bytes that have come and are not used yet, and its deadline.
//!
//! The wire is shared by the exchange and the request's [`super::BodyReader`]: whoever needs bytes next polls for them, and a
//! receive that one of them began is finished by the other. It belongs to the wire and not to a reader's future, because
//! bytes that the kernel has delivered can't be put back.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use super::Worker;
use super::body::Chunk;
use super::known::Asked;
use super::pace::Pace;
use crate::driver::More;
use crate::driver::buf::Buf;
use crate::driver::leases::Available;
use crate::driver::op::{Expect, Op};
use crate::proto::http1::chunked::Decoder;
use crate::proto::http1::encode::CONTINUE;
use crate::rt::net::{Socket, received};
use crate::rt::timer::Timer;
use crate::rt::{Operation, Runtime, yield_now};
use crate::telemetry::busiest::CountedPath;

/// A busy connection.
pub(super) struct Wire {
    pub(super) socket: Socket,
    pub(super) worker: Rc<Worker>,
    pub(super) timer: Timer,
    pub(super) input: RefCell<Input>,
    pub(super) incoming: RefCell<Incoming>,
    receiving: RefCell<Receiving>,
    /// What to keep the reply by, if the request is worth it.
    pub(super) asked: Cell<Option<Box<Asked>>>,
    /// Bytes of the reply's body that the kernel has taken.
    pub(super) body_sent: Cell<u64>,
    /// When the worker took up the request, if its time to the first byte counts and is not counted yet.
    pub(super) asked_at: Cell<Option<Instant>>,
    /// When the kernel took the reply's first bytes.
    pub(super) first_byte: Cell<Option<Instant>>,
    /// What the request and its reply's bytes are counted by, if they are.
    pub(super) path: RefCell<Option<Rc<CountedPath>>>,
}

/// Why bytes don't move any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// The client closed or reset the connection.
    Gone,
    /// The client is below its minimum rate.
    Slow,
}

/// The body of the request at hand.
pub(super) struct Incoming {
    pub(super) framing: BodyState,
    /// What is still owed of the 100 (Continue) (F8).
    pub(super) continue_owed: &'static [u8],
    pub(super) pace: Pace,
    /// Who waits for more of it: told when the exchange is over and there will be none.
    pub(super) reader: Option<Waker>,
}

/// How far the request's body has been taken off the wire.
#[derive(Debug)]
pub(super) enum BodyState {
    /// All of it: what follows is the next request.
    Done,
    /// So many bytes are left.
    Length(u64),
    /// Until the last chunk.
    Chunked(Box<Decoder>),
    /// It can't be read any further; the connection closes.
    Broken,
}

/// A receive in progress.
enum Receiving {
    No,
    Posted { operation: Operation, since: Instant },
    OutOfBuffers { available: Available },
}

impl Wire {
    pub(super) fn new(socket: Socket, worker: &Rc<Worker>, timer: Timer, first: Buf) -> Rc<Self> {
        let mut input = Input::default();
        input.push(first);
        Rc::new(Wire {
            socket,
            worker: worker.clone(),
            timer,
            input: RefCell::new(input),
            incoming: RefCell::new(Incoming {
                framing: BodyState::Done,
                continue_owed: &[],
                pace: Pace::new(worker.limits.request_min_rate, worker.limits.rate_grace),
                reader: None,
            }),
            receiving: RefCell::new(Receiving::No),
            asked: Cell::default(),
            body_sent: Cell::new(0),
            asked_at: Cell::new(None),
            first_byte: Cell::new(None),
            path: RefCell::default(),
        })
    }

    pub(super) fn runtime(&self) -> &Rc<Runtime> {
        self.socket.runtime()
    }

    /// Adds the next bytes to the input and answers how many; 0 is the end of the stream. Deadlines are the caller's.
    pub(super) fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        let mut receiving = self.receiving.borrow_mut();
        loop {
            match &mut *receiving {
                Receiving::No => {
                    let op = Op::Receive { socket: self.socket.raw(), expect: Expect::Now };
                    let operation = self.runtime().operate(op);
                    *receiving = Receiving::Posted { operation, since: self.runtime().now() };
                }
                Receiving::OutOfBuffers { available } => {
                    ready!(std::pin::Pin::new(available).poll(cx));
                    *receiving = Receiving::No;
                }
                Receiving::Posted { operation, .. } => {
                    let completion = ready!(std::pin::Pin::new(operation).poll(cx));
                    *receiving = Receiving::No;
                    match received(completion.result, completion.lease) {
                        Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                            let available = self.runtime().receive_pool().available();
                            *receiving = Receiving::OutOfBuffers { available };
                        }
                        Err(error) => return Poll::Ready(Err(error)),
                        Ok(None) => return Poll::Ready(Ok(0)),
                        Ok(Some(buf)) => {
                            let len = buf.len();
                            self.input.borrow_mut().push(buf);
                            return Poll::Ready(Ok(len));
                        }
                    }
                }
            }
        }
    }

    /// As [`Wire::poll_receive`], at the pace that the request's body has to keep, which `timer` watches.
    pub(super) fn poll_receive_paced(&self, cx: &mut Context<'_>, timer: &Timer) -> Poll<Result<usize, Broken>> {
        // While no buffer is free, the server is the one to wait for; so it is before the receive is posted.
        let posted = || match &*self.receiving.borrow() {
            Receiving::Posted { since, .. } => Some(*since),
            _ => None,
        };
        let waiting_since = posted();
        let result = self.poll_receive(cx);
        let now = self.runtime().now();
        let mut incoming = self.incoming.borrow_mut();
        match result {
            Poll::Pending => {
                let deadline = posted().unwrap_or(now) + incoming.pace.patience();
                if deadline <= now {
                    // Setting the timer again would only make it wait for what has passed.
                    timer.set(None);
                    return Poll::Ready(Err(Broken::Slow));
                }
                timer.set(Some(deadline));
                timer.poll_expired(cx).map(|_| Err(Broken::Slow))
            }
            Poll::Ready(result) => {
                timer.set(None);
                let count = result.map_err(|_| Broken::Gone)?;
                incoming
                    .pace
                    .waited(waiting_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since)));
                incoming.pace.moved(count as u64);
                Poll::Ready(if count == 0 { Err(Broken::Gone) } else { Ok(count) })
            }
        }
    }

    /// Waits until the socket can take more, at the pace that a reader has to keep. Nothing pooled is held meanwhile.
    pub(super) async fn writable(&self, pace: &mut Pace) -> Result<(), Broken> {
        self.worker.metrics.send_queue_waits.increment();
        self.input.borrow_mut().spill();
        let since = self.runtime().now();
        self.timer.set(Some(since + pace.patience()));
        let result = self.timer.race(self.socket.writable()).await;
        self.timer.set(None);
        pace.waited(self.runtime().now().saturating_duration_since(since));
        result.map_err(|_| Broken::Slow)
    }

    /// Tells the client to go on, if that is still owed.
    pub(super) fn try_continue(&self) -> std::io::Result<()> {
        let owed = &mut self.incoming.borrow_mut().continue_owed;
        while !owed.is_empty() {
            *owed = &owed[self.socket.try_send(owed, More::No)?..];
        }
        Ok(())
    }

    /// Sends what the socket takes at once of an interim reply, behind a 100 (Continue) that has begun.
    pub(super) fn try_inform(&self, left: &mut &[u8]) -> std::io::Result<()> {
        if self.has_begun_to_continue() {
            self.try_continue()?;
        }
        while !left.is_empty() {
            *left = &left[self.socket.try_send(left, More::No)?..];
        }
        Ok(())
    }

    fn has_begun_to_continue(&self) -> bool {
        self.incoming.borrow().continue_owed.len() < CONTINUE.len()
    }

    /// Sends what the socket takes at once of a reply. With it, it is too late to tell the client to go on; a 100 (Continue)
    /// that has begun is finished first.
    pub(super) fn try_send(&self, bytes: &[u8], more: More) -> std::io::Result<usize> {
        self.try_send_pair(bytes, &[], more)
    }

    /// As [`Wire::try_send`], of two pieces, one behind the other.
    pub(super) fn try_send_pair(&self, first: &[u8], second: &[u8], more: More) -> std::io::Result<usize> {
        if self.has_begun_to_continue() {
            self.try_continue()?;
        } else {
            self.incoming.borrow_mut().continue_owed = &[];
        }
        let sent = match second {
            [] => self.socket.try_send(first, more)?,
            _ => self.socket.try_send_pair(first, second, more)?,
        };
        if self.first_byte.get().is_none() {
            self.note_first_byte();
        }
        Ok(sent)
    }

    /// The reply's first bytes have left, just now.
    pub(super) fn note_first_byte(&self) {
        let now = self.runtime().precise_now();
        self.first_byte.set(Some(now));
        if let Some(asked_at) = self.asked_at.take() {
            self.worker.metrics.time_to_first_byte.observe(now.saturating_duration_since(asked_at));
        }
    }

    /// Sends all of it, one high water mark a turn, waiting for room as often as it takes.
    pub(super) async fn send_all(&self, mut bytes: &[u8], more: More, pace: &mut Pace) -> Result<(), Broken> {
        while !bytes.is_empty() {
            let turn = bytes.len().min(self.worker.limits.high_water_mark);
            let more = if turn < bytes.len() { More::Follows } else { more };
            match self.try_send(&bytes[..turn], more) {
                Ok(sent) => {
                    pace.moved(sent as u64);
                    bytes = &bytes[sent..];
                    if sent == turn && !bytes.is_empty() {
                        yield_now().await;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => self.writable(pace).await?,
                Err(_) => return Err(Broken::Gone),
            }
        }
        Ok(())
    }

    /// Whether a receive is under way: then the socket can't be handed on.
    pub(super) fn is_receiving(&self) -> bool {
        !matches!(*self.receiving.borrow(), Receiving::No)
    }
}

/// Spilled bytes take this much, in bytes, before it is worth moving what is left of them.
const WORTH_SHRINKING: usize = 4 << 10;

/// Bytes that have come and are not used yet.
#[derive(Default)]
pub(super) struct Input {
    held: Held,
    at: usize,
}

#[derive(Default)]
enum Held {
    #[default]
    Nothing,
    /// In the receive buffer they came in.
    Lease(Rc<Buf>),
    /// On the heap, so that the buffer could go back.
    Heap(Vec<u8>),
}

impl Input {
    /// What is not used yet, contiguous.
    pub(super) fn unread(&self) -> &[u8] {
        match &self.held {
            Held::Nothing => &[],
            Held::Lease(buf) => &buf[self.at..],
            Held::Heap(bytes) => &bytes[self.at..],
        }
    }

    /// Uses the first `n` bytes up.
    pub(super) fn consume(&mut self, n: usize) {
        debug_assert!(n <= self.unread().len());
        self.at += n;
        if self.unread().is_empty() {
            *self = Input::default();
        } else if let Held::Heap(bytes) = &mut self.held
            && bytes.capacity() > WORTH_SHRINKING
        {
            // What a large head took is not kept for the few bytes behind it.
            *self = Input { held: Held::Heap(bytes[self.at..].to_vec()), at: 0 };
        }
    }

    /// Uses the first `used` bytes up and hands out those at `data`, without a copy where they lie in a receive buffer.
    pub(super) fn take(&mut self, data: Range<usize>, used: usize) -> Chunk {
        let range = self.at + data.start..self.at + data.end;
        let chunk = match &self.held {
            Held::Nothing => Chunk::copied(&[]),
            Held::Lease(buf) => Chunk::leased(buf.clone()).slice(range),
            Held::Heap(bytes) => Chunk::copied(&bytes[range]),
        };
        self.consume(used);
        chunk
    }

    /// Moves what is not used yet out of the receive buffer.
    pub(super) fn spill(&mut self) {
        if let Held::Lease(_) = self.held {
            let bytes = self.unread().to_vec();
            *self = Input { held: Held::Heap(bytes), at: 0 };
        }
    }

    /// Holds bytes that were taken too many. Nothing else has come.
    pub(super) fn put_back(&mut self, bytes: Vec<u8>) {
        debug_assert!(self.unread().is_empty());
        *self = Input { held: Held::Heap(bytes), at: 0 };
    }

    fn push(&mut self, buf: Buf) {
        if self.unread().is_empty() {
            *self = Input { held: Held::Lease(Rc::new(buf)), at: 0 };
            return;
        }
        self.spill();
        if let Held::Heap(bytes) = &mut self.held {
            bytes.drain(..self.at);
            bytes.reserve_exact(buf.len());
            bytes.extend_from_slice(&buf);
        }
        self.at = 0;
    }
}
