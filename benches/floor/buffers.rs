//! Receive buffers that the kernel picks from (io_uring_register_buf_ring(3)): one page of entries, then the buffers. They are
//! never freed, so the kernel may write to them for as long as it likes.

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

/// The number of the group.
pub const GROUP: u16 = 0;
/// The kernel wants the ring on a page's start.
const PAGE_LEN: usize = 4096;
/// A power of two, and as many as have entries on a page.
const COUNT: u16 = (PAGE_LEN / size_of::<BufRingEntry>()) as u16;
/// A head that is longer has no answer.
const LEN: usize = 2048;

/// The buffers, and the end of the ring that is ours.
pub struct Buffers {
    base: NonNull<u8>,
    tail: u16,
}

impl Buffers {
    /// Makes the buffers and hands them all to `ring`.
    ///
    /// # Errors
    /// The kernel does not know of such rings (they came with 5.19).
    pub fn register(ring: &IoUring) -> io::Result<Self> {
        let layout = Layout::from_size_align(PAGE_LEN + usize::from(COUNT) * LEN, PAGE_LEN).expect("a page is aligned");
        // SAFETY: the layout is not empty.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap_or_else(|| handle_alloc_error(layout));
        let mut buffers = Buffers { base, tail: 0 };
        for number in 0..COUNT {
            buffers.give(number);
        }
        // SAFETY: the first page is `COUNT` entries, aligned, and never freed.
        unsafe { ring.submitter().register_buf_ring_with_flags(base.as_ptr() as u64, COUNT, GROUP, 0)? };
        Ok(buffers)
    }

    /// Reads the first `len` bytes of a buffer that the kernel has filled, and gives it back.
    pub fn take<T>(&mut self, number: u16, len: usize, read: impl FnOnce(&[u8]) -> T) -> T {
        // SAFETY: the address is one of our buffers, all initialised. The kernel has picked it, and leaves it alone until
        // `give` offers it again.
        let bytes = unsafe { std::slice::from_raw_parts(self.buffer(number), len.min(LEN)) };
        let value = read(bytes);
        self.give(number);
        value
    }

    fn buffer(&self, number: u16) -> *const u8 {
        let offset = PAGE_LEN + usize::from(number % COUNT) * LEN;
        // SAFETY: the offset is inside the allocation, whose length `register` made of the same numbers.
        unsafe { self.base.as_ptr().add(offset) }
    }

    fn give(&mut self, number: u16) {
        let address = self.buffer(number) as u64;
        let entries = self.base.as_ptr().cast::<BufRingEntry>();
        // SAFETY: the masked place is on the first page. There are as many entries as buffers, so that one is not in the kernel's
        // hands, which reads only below the tail; the tail is published last, with release order.
        unsafe {
            let entry = &mut *entries.add(usize::from(self.tail % COUNT));
            entry.set_addr(address);
            entry.set_len(LEN as u32);
            entry.set_bid(number);
            self.tail = self.tail.wrapping_add(1);
            (*BufRingEntry::tail(entries).cast::<AtomicU16>()).store(self.tail, Ordering::Release);
        }
    }
}
