//! Pipes: bounded queues of bytes, each with two descriptors.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use super::super::pipe::{Ends, Plumbing};
use super::errno;
use super::files::PAGE_LEN;
use super::world::{Object, World};

/// What lies between the two ends.
#[derive(Debug)]
pub(super) struct Queue {
    /// Pages, however few bytes of each.
    pages: usize,
    bytes: RefCell<VecDeque<u8>>,
}

impl Queue {
    /// How many of `len` bytes at `offset` in a file fit, when it is empty: a page of the file takes a place, whole or not.
    pub fn room(&self, offset: u64, len: usize) -> usize {
        assert!(self.bytes.borrow().is_empty(), "sim: a pipe is filled while it holds bytes");
        len.min(self.pages * PAGE_LEN as usize - (offset % PAGE_LEN) as usize)
    }

    pub fn push(&self, bytes: impl Iterator<Item = u8>) {
        self.bytes.borrow_mut().extend(bytes);
    }

    pub fn len(&self) -> usize {
        self.bytes.borrow().len()
    }

    pub fn take(&self, len: usize) -> Vec<u8> {
        self.bytes.borrow_mut().drain(..len).collect()
    }
}

/// The pipes of a world.
#[derive(Debug)]
pub(super) struct FakePipes(pub Rc<World>);

impl Plumbing for FakePipes {
    fn open(&self, len: usize) -> io::Result<Ends> {
        if !self.0.descriptor_is_free() {
            return Err(errno(libc::ENFILE));
        }
        // Of a user who has many pipes, the kernel lets none grow.
        let pages = if self.0.chance(|faults| faults.small_pipes) { 2 } else { len / PAGE_LEN as usize };
        let queue = Rc::new(Object::Pipe(Queue { pages, bytes: RefCell::default() }));
        let [read, write] = [queue.clone(), queue].map(|end| self.0.add_descriptor(end));
        Ok(Ends { read, write, capacity: pages * PAGE_LEN as usize })
    }

    fn empty(&self, ends: Ends) -> io::Result<usize> {
        let object = self.0.object(ends.read);
        Ok(object.pipe().take(object.pipe().len()).len())
    }

    fn close(&self, ends: Ends) {
        self.0.finish_close(ends.read);
        self.0.finish_close(ends.write);
    }
}
