//! Buffers that the kernel may fill: fixed pools of equal blocks, leased one at a time.
//!
//! A pool is one anonymous mapping, cut into blocks when the worker starts and never grown: its size is a term of the memory
//! ceiling. A [`Buf`] is the only handle on its block; dropping it returns the block and lets the first waiter try. Growing a
//! pool under load, or falling back to the heap, was rejected: waiting for a block *is* the backpressure.

use std::cell::{Cell, RefCell};
use std::io;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use super::leases::{Available, Leases};

/// A fixed number of blocks of one length. Cloning clones the handle.
#[derive(Clone, Debug)]
pub struct BufferPool(Rc<Pool>);

#[derive(Debug)]
struct Pool {
    region: Region,
    block_len: usize,
    home: Home,
    registered: Cell<bool>,
    leases: Rc<Leases>,
}

/// Where blocks lie while nobody has them.
#[derive(Debug)]
enum Home {
    /// On our own list, last returned first, so that a small pool of hot blocks stays in the processor's cache.
    List(RefCell<Vec<u16>>),
    /// In a ring shared with the kernel, which picks one when bytes arrive (`IORING_REGISTER_PBUF_RING`).
    Provided(ProvidedRing),
}

impl BufferPool {
    /// A pool that hands out its own blocks.
    ///
    /// # Errors
    /// When the mapping is refused.
    pub fn new(blocks: u16, block_len: usize) -> io::Result<Self> {
        let list = (0..blocks).rev().collect();
        Self::with_home(blocks, block_len, Home::List(RefCell::new(list)))
    }

    /// A pool whose blocks the kernel picks; `blocks` is a power of two. The ring still has to be registered.
    pub(super) fn provided(blocks: u16, block_len: usize) -> io::Result<Self> {
        let pool = Self::with_home(blocks, block_len, Home::Provided(ProvidedRing::new(blocks)?))?;
        for index in 0..blocks {
            pool.0.give_back(index);
        }
        Ok(pool)
    }

    fn with_home(blocks: u16, block_len: usize, home: Home) -> io::Result<Self> {
        let region = Region::map(usize::from(blocks) * block_len)?;
        Ok(BufferPool(Rc::new(Pool {
            region,
            block_len,
            home,
            registered: Cell::new(false),
            leases: Leases::new(usize::from(blocks)),
        })))
    }

    /// A free block, empty, if there is one and nobody waits for it already.
    pub fn try_take(&self) -> Option<Buf> {
        self.0.leases.is_free_for_a_newcomer().then(|| self.take_promised()).flatten()
    }

    /// Waits for a block, first come first served.
    pub async fn acquire(&self) -> Buf {
        loop {
            if let Some(buf) = self.try_take() {
                return buf;
            }
            self.available().await;
            if let Some(buf) = self.take_promised() {
                return buf;
            }
        }
    }

    /// Waits, first come first served, until a block is free. It is not reserved.
    pub fn available(&self) -> Available {
        self.0.leases.available()
    }

    /// The length of each block, bytes.
    pub fn block_len(&self) -> usize {
        self.0.block_len
    }

    /// How many blocks are leased now.
    pub fn in_use(&self) -> usize {
        self.0.leases.in_use()
    }

    /// A free block for who has waited for [`BufferPool::available`], if none was faster.
    pub fn take_promised(&self) -> Option<Buf> {
        let Home::List(list) = &self.0.home else { return None };
        let index = list.borrow_mut().pop()?;
        Some(self.lease(index, 0))
    }

    fn lease(&self, index: u16, len: usize) -> Buf {
        self.0.leases.lend();
        Buf { pool: self.0.clone(), index, len: len as u32 }
    }

    /// The block that the kernel picked and filled with `len` bytes.
    pub(super) fn picked(&self, index: u16, len: usize) -> Buf {
        assert!(
            usize::from(index) < self.0.leases.total() && len <= self.0.block_len,
            "driver invariant: no such buffer"
        );
        self.lease(index, len)
    }

    /// The shared ring of a pool made by [`BufferPool::provided`]: its address and entries.
    pub(super) fn provided_ring(&self) -> Option<(u64, u16)> {
        match &self.0.home {
            Home::Provided(ring) => Some((ring.region.base.as_ptr() as u64, ring.entries)),
            Home::List(_) => None,
        }
    }

    /// The block that is picked next when `picked` have been since the start, as the kernel finds it; for the fake one.
    #[cfg(test)]
    pub(super) fn provided_next(&self, picked: u16) -> Option<u16> {
        match &self.0.home {
            Home::Provided(ring) => ring.at(picked),
            Home::List(_) => None,
        }
    }

    /// One `iovec` a block, for `IORING_REGISTER_BUFFERS`: block i becomes registered buffer i.
    pub(super) fn iovecs(&self) -> Vec<libc::iovec> {
        let iovec = |i| libc::iovec { iov_base: self.0.block_ptr(i as u16).as_ptr().cast(), iov_len: self.0.block_len };
        (0..self.0.leases.total()).map(iovec).collect()
    }

    /// Notes that the kernel knows these blocks by their index.
    pub(super) fn set_registered(&self) {
        self.0.registered.set(true);
    }

    /// Keeps the memory mapped for ever: for a teardown in which the kernel did not let go.
    pub(super) fn leak(&self) {
        std::mem::forget(self.clone());
    }
}

impl Pool {
    fn block_ptr(&self, index: u16) -> NonNull<u8> {
        debug_assert!(usize::from(index) < self.leases.total());
        // SAFETY: the region is blocks × block_len bytes long and every index that this module hands out is below `blocks`.
        unsafe { self.region.base.add(usize::from(index) * self.block_len) }
    }

    fn give_back(&self, index: u16) {
        match &self.home {
            Home::List(list) => list.borrow_mut().push(index),
            Home::Provided(ring) => ring.push(self.block_ptr(index), self.block_len, index),
        }
    }
}

/// A lease on one block: `len` filled bytes, the rest spare.
#[derive(Debug)]
pub struct Buf {
    pool: Rc<Pool>,
    index: u16,
    len: u32,
}

impl Buf {
    /// The filled bytes.
    pub fn filled(&self) -> &[u8] {
        &self.block()[..self.len as usize]
    }

    /// The filled bytes, to be changed in place.
    pub fn filled_mut(&mut self) -> &mut [u8] {
        let len = self.len as usize;
        &mut self.block_mut()[..len]
    }

    /// The bytes behind the filled ones; after writing to them, [`Buf::advance`].
    pub fn spare_mut(&mut self) -> &mut [u8] {
        let len = self.len as usize;
        &mut self.block_mut()[len..]
    }

    /// How many spare bytes there are.
    pub fn spare_len(&self) -> usize {
        self.pool.block_len - self.len as usize
    }

    /// Counts `n` more bytes as filled.
    ///
    /// # Panics
    /// When there is not that much spare space.
    pub fn advance(&mut self, n: usize) {
        assert!(n <= self.spare_len(), "advance by {n} in {} spare bytes", self.spare_len());
        self.len += n as u32;
    }

    /// Appends as much of `bytes` as fits and returns how much that was.
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        let n = bytes.len().min(self.spare_len());
        self.spare_mut()[..n].copy_from_slice(&bytes[..n]);
        self.advance(n);
        n
    }

    /// Counts only the first `len` bytes as filled.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len as u32);
    }

    /// The index under which the kernel knows this block, if it was registered.
    pub(super) fn registered_index(&self) -> Option<u16> {
        self.pool.registered.get().then_some(self.index)
    }

    fn block(&self) -> &[u8] {
        // SAFETY: a block is `block_len` initialised bytes (the mapping is zeroed) that live as long as the pool, which `self`
        // keeps alive. This lease is the only handle on it: the index leaves its home when leased and comes back on drop,
        // and while the kernel may write to it the lease is inside its slot, where nobody can call this.
        unsafe { std::slice::from_raw_parts(self.pool.block_ptr(self.index).as_ptr(), self.pool.block_len) }
    }

    fn block_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `block`; `&mut self` makes this the only reference derived from the only lease.
        unsafe { std::slice::from_raw_parts_mut(self.pool.block_ptr(self.index).as_ptr(), self.pool.block_len) }
    }
}

impl std::ops::Deref for Buf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.filled()
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        self.pool.give_back(self.index);
        self.pool.leases.take_back();
    }
}

/// The kernel's view of free receive buffers: `struct io_uring_buf_ring` (io_uring_register_buf_ring(3)).
#[derive(Debug)]
struct ProvidedRing {
    region: Region,
    entries: u16,
    tail: Cell<u16>,
}

impl ProvidedRing {
    fn new(entries: u16) -> io::Result<Self> {
        assert!(entries.is_power_of_two(), "a provided ring has a power of two entries");
        let region = Region::map(usize::from(entries) * size_of::<BufRingEntry>())?;
        Ok(ProvidedRing { region, entries, tail: Cell::new(0) })
    }

    fn push(&self, block: NonNull<u8>, block_len: usize, index: u16) {
        let tail = self.tail.get();
        let base = self.region.base.as_ptr().cast::<BufRingEntry>();
        // SAFETY: the masked position is inside the ring, whose memory `region` keeps mapped and page-aligned. The kernel reads
        // an entry only below the tail that is published last, with release order; there are as many entries as blocks, so
        // the one written is not in the kernel's hands.
        unsafe {
            let entry = &mut *base.add(usize::from(tail & (self.entries - 1)));
            entry.set_addr(block.as_ptr() as u64);
            entry.set_len(block_len as u32);
            entry.set_bid(index);
            let shared_tail = BufRingEntry::tail(base).cast::<AtomicU16>();
            (*shared_tail).store(tail.wrapping_add(1), Ordering::Release);
        }
        self.tail.set(tail.wrapping_add(1));
    }

    #[cfg(test)]
    fn at(&self, head: u16) -> Option<u16> {
        let base = self.region.base.as_ptr().cast::<BufRingEntry>();
        // SAFETY: as in `push`; without a kernel, this thread is the only one that looks at the ring.
        let entry = unsafe { &*base.add(usize::from(head & (self.entries - 1))) };
        (head != self.tail.get()).then(|| entry.bid())
    }
}

/// Anonymous, private, zeroed memory; pages count as resident once touched.
#[derive(Debug)]
struct Region {
    base: NonNull<u8>,
    len: usize,
}

impl Region {
    fn map(len: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no memory of ours.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len.max(1), protection, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mmap answered a null address"))?;
        Ok(Region { base, len: len.max(1) })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `map` with this length, and whoever holds a pointer into it (leases, the ring) holds
        // the pool that owns this region.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::{Context, Poll, Waker};

    fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
        std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_lease_is_exclusive_and_comes_back_empty() {
        let pool = BufferPool::new(2, 8).unwrap();
        let mut a = pool.try_take().unwrap();
        assert_eq!(a.append(b"0123456789"), 8);
        assert_eq!(a.spare_len(), 0);
        let b = pool.try_take().unwrap();
        assert!(pool.try_take().is_none());
        assert_eq!((&*a, &*b, pool.in_use()), (&b"01234567"[..], &b""[..], 2));
        drop(a);
        assert_eq!(pool.try_take().unwrap().len(), 0);
        drop(b);
        assert_eq!(pool.in_use(), 0);
    }

    #[test]
    fn waiters_are_served_in_order_and_a_newcomer_does_not_overtake() {
        let pool = BufferPool::new(1, 8).unwrap();
        let held = pool.try_take().unwrap();
        let (mut first, mut second) = (Box::pin(pool.acquire()), Box::pin(pool.acquire()));
        assert!(poll(&mut first).is_pending() && poll(&mut second).is_pending());
        drop(held);
        assert!(pool.try_take().is_none(), "a newcomer");
        assert!(poll(&mut second).is_pending());
        let Poll::Ready(buf) = poll(&mut first) else { panic!("the first waits on") };
        drop(buf);
        assert!(poll(&mut second).is_ready());
    }

    #[test]
    fn a_waiter_that_leaves_passes_its_turn_on() {
        let pool = BufferPool::new(1, 8).unwrap();
        let held = pool.try_take().unwrap();
        let (mut first, mut second) = (Box::pin(pool.acquire()), Box::pin(pool.acquire()));
        assert!(poll(&mut first).is_pending() && poll(&mut second).is_pending());
        drop(first);
        drop(held);
        assert!(poll(&mut second).is_ready());
    }
}
