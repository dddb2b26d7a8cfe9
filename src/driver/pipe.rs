//! Pipes that carry file pages to a socket without a copy: a fixed number for each worker, leased one at a time.
//!
//! A pipe is opened when it is first needed and kept for ever. It holds references to pages of the page cache, never bytes of
//! our own. It is filled only when it is empty and with at most one high water mark: a region that starts within a page takes
//! a page more, so the kernel is asked for one page over the mark, which it rounds up to a power of two (pipe(7)).
//!
//! What a client did not take of a pipe must never reach another client. A pipe that comes back with bytes is emptied into
//! `/dev/null`, and is lent again only if that yields exactly what it was known to hold; else it is closed. Closing it each
//! time was rejected: a slow client leaves bytes on every turn, and a new pipe costs three to nine times as much. A pipe
//! whose fill was not answered with a count is always closed.

use std::cell::RefCell;
use std::io;
use std::os::fd::RawFd;
use std::rc::Rc;

use super::leases::Leases;
use super::sys;

/// The pipes of one worker. Cloning clones the handle.
#[derive(Clone, Debug)]
pub struct PipePool(Rc<Pool>);

#[derive(Debug)]
struct Pool {
    plumbing: Box<dyn Plumbing>,
    high_water_mark: usize,
    page_len: usize,
    /// Open and empty, last returned first.
    idle: RefCell<Vec<Ends>>,
    leases: Rc<Leases>,
}

/// How a driver's pipes come and go.
pub(super) trait Plumbing: std::fmt::Debug {
    /// A new pipe for `len` bytes, or for as many as the kernel allows; both ends are non-blocking and close-on-exec.
    ///
    /// # Errors
    /// As pipe2(2).
    fn open(&self, len: usize) -> io::Result<Ends>;

    /// Throws away all that a pipe holds, and returns how much that was.
    ///
    /// # Errors
    /// When that is not to be had; the pipe may still hold bytes.
    fn empty(&self, ends: Ends) -> io::Result<usize>;

    /// Closes both ends, which never blocks.
    fn close(&self, ends: Ends);
}

/// An open pipe, by the numbers of its descriptors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    /// Where bytes come out.
    pub read: RawFd,
    /// Where they go in.
    pub write: RawFd,
    /// How many bytes it holds if every page in it is full.
    pub capacity: usize,
}

impl PipePool {
    /// At most `pipes` of them, none open yet, each for `high_water_mark` bytes.
    pub(super) fn new(pipes: usize, high_water_mark: usize, plumbing: Box<dyn Plumbing>) -> Self {
        let (idle, leases) = (RefCell::default(), Leases::new(pipes));
        PipePool(Rc::new(Pool { plumbing, high_water_mark, page_len: sys::page_len(), idle, leases }))
    }

    /// An empty pipe, unless all are lent or somebody waits for one already.
    ///
    /// # Errors
    /// When a new pipe is needed and can't be had, as pipe2(2): `EMFILE`, or `ENFILE` when this user has too many.
    pub fn try_take(&self) -> io::Result<Option<Pipe>> {
        self.0.leases.is_free_for_a_newcomer().then(|| self.take()).transpose()
    }

    /// Waits for an empty pipe, first come first served.
    ///
    /// # Errors
    /// As [`PipePool::try_take`].
    pub async fn acquire(&self) -> io::Result<Pipe> {
        loop {
            if let Some(pipe) = self.try_take()? {
                return Ok(pipe);
            }
            self.0.leases.available().await;
            if self.0.leases.is_free() {
                return self.take();
            }
        }
    }

    /// How many pipes are lent now.
    pub fn in_use(&self) -> usize {
        self.0.leases.in_use()
    }

    /// How many pipes are open now, lent or not.
    pub fn open(&self) -> usize {
        self.in_use() + self.0.idle.borrow().len()
    }

    fn take(&self) -> io::Result<Pipe> {
        let idle = self.0.idle.borrow_mut().pop();
        let ends = match idle {
            Some(ends) => ends,
            None => self.0.plumbing.open(self.0.pipe_len())?,
        };
        self.0.leases.lend();
        Ok(Pipe { pool: self.0.clone(), ends, len: 0, in_doubt: false })
    }
}

impl Pool {
    /// What the kernel is asked for.
    fn pipe_len(&self) -> usize {
        (self.high_water_mark.div_ceil(self.page_len) + 1).next_power_of_two() * self.page_len
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.idle.get_mut().drain(..).for_each(|ends| self.plumbing.close(ends));
    }
}

/// A lease on one pipe, which holds a known number of bytes.
#[derive(Debug)]
pub struct Pipe {
    pool: Rc<Pool>,
    ends: Ends,
    len: usize,
    /// An operation fills it, or ended without saying how far it came.
    in_doubt: bool,
}

impl Pipe {
    /// How many bytes it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many bytes one fill brings at most: one high water mark, or less where the kernel refused a pipe of that length.
    pub fn fill_len(&self) -> usize {
        // The page over it is for a region that starts within a page. The kernel makes no pipe of fewer than two.
        self.pool.high_water_mark.min(self.ends.capacity - self.pool.page_len)
    }

    /// How many of `len` bytes a fill may ask for.
    ///
    /// # Panics
    /// When it holds bytes, or may: the caller drains it first, or drops it.
    pub(super) fn fillable(&self, len: usize) -> usize {
        assert!(self.len == 0 && !self.in_doubt, "a pipe is filled when it is empty");
        len.min(self.fill_len())
    }

    /// From now on the kernel may fill it, by a number that is not known before [`Pipe::filled`].
    pub(super) fn begin_fill(&mut self) {
        self.in_doubt = true;
    }

    /// Counts what a fill brought.
    pub(super) fn filled(&mut self, len: usize) {
        assert!(len <= self.fill_len(), "driver invariant: a fill of {len} bytes, more than was asked for");
        self.len = len;
        self.in_doubt = false;
    }

    /// Counts what was taken out.
    pub(super) fn drained(&mut self, len: usize) {
        assert!(len <= self.len, "driver invariant: {len} bytes out of a pipe with {}", self.len);
        self.len -= len;
    }

    /// The end that bytes come out of.
    pub(super) fn read_end(&self) -> RawFd {
        self.ends.read
    }

    /// The end that they go into.
    pub(super) fn write_end(&self) -> RawFd {
        self.ends.write
    }

    /// Whether it can be lent again. What it holds is thrown away.
    fn is_clean(&self) -> bool {
        !self.in_doubt && (self.len == 0 || self.pool.plumbing.empty(self.ends).is_ok_and(|len| len == self.len))
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        if self.is_clean() {
            self.pool.idle.borrow_mut().push(self.ends);
        } else {
            self.pool.plumbing.close(self.ends);
        }
        self.pool.leases.take_back();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::task::{Context, Poll, Waker};

    use super::super::sys::KernelPipes;
    use super::*;

    /// Pipes without a kernel: what is thrown away of each, and whether new ones are to be had.
    #[derive(Debug, Default)]
    struct Ledger {
        thrown_away: Cell<Option<usize>>,
        refuses: Cell<bool>,
        opened: Cell<usize>,
        closed: Cell<usize>,
    }

    impl Plumbing for Rc<Ledger> {
        fn open(&self, len: usize) -> io::Result<Ends> {
            if self.refuses.get() {
                return Err(io::Error::from_raw_os_error(libc::ENFILE));
            }
            self.opened.set(self.opened.get() + 1);
            Ok(Ends { read: -1, write: -1, capacity: len })
        }

        fn empty(&self, _ends: Ends) -> io::Result<usize> {
            self.thrown_away.get().ok_or(io::ErrorKind::Unsupported.into())
        }

        fn close(&self, _ends: Ends) {
            self.closed.set(self.closed.get() + 1);
        }
    }

    fn pool(pipes: usize) -> (Rc<Ledger>, PipePool) {
        let ledger = Rc::<Ledger>::default();
        (ledger.clone(), PipePool::new(pipes, 1 << 16, Box::new(ledger)))
    }

    fn take(pool: &PipePool) -> Pipe {
        pool.try_take().unwrap().expect("a free pipe")
    }

    fn poll<F: Future>(future: &mut std::pin::Pin<Box<F>>) -> Poll<F::Output> {
        future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_pipe_is_opened_when_it_is_needed_and_kept() {
        let (ledger, pool) = pool(2);
        assert_eq!((pool.open(), pool.in_use()), (0, 0));
        drop(take(&pool));
        let held = [take(&pool), take(&pool)];
        assert!(pool.try_take().unwrap().is_none());
        assert_eq!((pool.open(), pool.in_use(), ledger.opened.get()), (2, 2, 2));
        drop(held);
        assert_eq!((pool.open(), pool.in_use(), ledger.closed.get()), (2, 0, 0));
        drop(pool);
        assert_eq!(ledger.closed.get(), 2);
    }

    #[test]
    fn a_pipe_is_waited_for_in_order_and_one_that_can_not_be_opened_passes_the_turn_on() {
        let (ledger, pool) = pool(1);
        let mut held = take(&pool);
        held.begin_fill();
        let mut waiting = [(); 3].map(|()| Box::pin(pool.acquire()));
        assert!(waiting.iter_mut().all(|waiter| poll(waiter).is_pending()));
        ledger.refuses.set(true);
        // It is in doubt and closed, so that the next one has to be opened.
        drop(held);
        assert!(pool.try_take().unwrap().is_none(), "a newcomer");
        let [first, second, third] = &mut waiting;
        assert!(poll(second).is_pending());
        let Poll::Ready(Err(error)) = poll(first) else { panic!("it waits, or has a pipe") };
        assert_eq!((error.raw_os_error(), pool.in_use(), pool.open()), (Some(libc::ENFILE), 0, 0));
        ledger.refuses.set(false);
        let Poll::Ready(Ok(pipe)) = poll(second) else { panic!("the second waits on") };
        assert!(poll(third).is_pending());
        drop(pipe);
        assert!(poll(third).is_ready());
    }

    #[test]
    fn only_a_pipe_that_is_certainly_empty_is_kept() {
        let cases = [(0, None, true), (9, Some(9), true), (9, Some(8), false), (9, Some(10), false), (9, None, false)];
        for (held, thrown_away, is_kept) in cases {
            let (ledger, pool) = pool(1);
            ledger.thrown_away.set(thrown_away);
            let mut pipe = take(&pool);
            pipe.begin_fill();
            pipe.filled(10);
            pipe.drained(10 - held);
            drop(pipe);
            let expected = (usize::from(is_kept), usize::from(!is_kept), 0);
            assert_eq!((pool.open(), ledger.closed.get(), pool.in_use()), expected, "{held} {thrown_away:?}");
        }
    }

    #[test]
    fn the_mark_and_a_page_are_asked_for_and_less_is_filled_where_they_are_refused() {
        let mark = 1 << 16;
        let page_len = sys::page_len();
        let ask = |mark| PipePool::new(1, mark, Box::new(Rc::<Ledger>::default()));
        assert_eq!((take(&ask(mark)).ends.capacity, take(&ask(mark)).fill_len()), (2 * mark, mark));
        assert_eq!(take(&ask(mark + 1)).fillable(usize::MAX), mark + 1);
        assert_eq!(take(&ask(mark)).fillable(7), 7);
        // No kernel makes one that holds a gigabyte; each makes one of 16 pages (pipe(7)).
        let refused = take(&PipePool::new(1, 1 << 30, Box::new(KernelPipes::new())));
        assert!((15 * page_len..1 << 30).contains(&refused.fill_len()), "{refused:?}");
        assert_eq!(refused.fill_len() + page_len, refused.ends.capacity);
    }

    #[test]
    #[should_panic(expected = "a pipe is filled when it is empty")]
    fn a_pipe_with_bytes_is_not_filled() {
        let (_ledger, pool) = pool(1);
        let mut pipe = take(&pool);
        pipe.filled(1);
        pipe.fillable(1);
    }
}
