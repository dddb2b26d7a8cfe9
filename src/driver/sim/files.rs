//! The file tree: directories, files of any length whose content is bytes or a rule, and FIFOs; and which pages are in memory.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::ops::Range;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use super::super::{FileKind, FileStat};

/// The unit of residency, bytes.
pub(super) const PAGE_LEN: u64 = 4096;
/// How much a read from the disk brings in at least, bytes.
const READ_AHEAD: u64 = 128 << 10;
/// `NAME_MAX` and `PATH_MAX`.
const NAME_LEN: usize = 255;
const PATH_LEN: usize = 4096;

/// What a file holds.
#[derive(Clone, Debug)]
pub enum Content {
    /// These bytes.
    Bytes(Vec<u8>),
    /// This many bytes, each a function of its offset: large files cost nothing.
    Rule(u64, fn(u64) -> u8),
}

impl Content {
    fn len(&self) -> u64 {
        match self {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Rule(len, _) => *len,
        }
    }

    /// Behind the end of given bytes a file reads as zeros, after it was made longer.
    fn at(&self, offset: u64) -> u8 {
        match self {
            Content::Bytes(bytes) => usize::try_from(offset).ok().and_then(|i| bytes.get(i)).copied().unwrap_or(0),
            Content::Rule(_, rule) => rule(offset),
        }
    }
}

/// An entry of a directory.
#[derive(Clone, Debug)]
pub(super) enum Node {
    File(Rc<RefCell<File>>),
    Directory(Rc<Directory>),
    Fifo(u64),
}

impl Node {
    /// Whether both are the same file.
    fn is(&self, other: &Node) -> bool {
        self.stat().inode == other.stat().inode
    }

    pub fn stat(&self) -> FileStat {
        let (kind, inode, len, changed) = match self {
            Node::File(file) => {
                let file = file.borrow();
                (FileKind::Regular, file.inode, file.len, file.changed)
            }
            Node::Directory(directory) => (FileKind::Directory, directory.inode, PAGE_LEN, Duration::ZERO),
            Node::Fifo(inode) => (FileKind::Other, *inode, 0, Duration::ZERO),
        };
        let changed_ns = changed.as_nanos() as i64;
        FileStat { kind, len, device: 1, inode, modified_ns: changed_ns, changed_ns }
    }
}

#[derive(Debug)]
pub(super) struct Directory {
    inode: u64,
    entries: RefCell<BTreeMap<Vec<u8>, Node>>,
}

impl Directory {
    pub fn new(inode: u64) -> Rc<Self> {
        Rc::new(Directory { inode, entries: RefCell::default() })
    }

    /// What the path names beneath this directory, or the error number of openat2(2) with `RESOLVE_BENEATH`.
    pub fn resolve(self: &Rc<Self>, path: &[u8]) -> Result<Node, i32> {
        match path {
            [] => return Err(libc::ENOENT),
            [b'/', ..] => return Err(libc::EXDEV),
            _ if path.len() >= PATH_LEN => return Err(libc::ENAMETOOLONG),
            _ => {}
        }
        let mut parents = Vec::new();
        let mut node = Node::Directory(self.clone());
        for name in path.split(|byte| *byte == b'/') {
            let Node::Directory(directory) = &node else { return Err(libc::ENOTDIR) };
            node = match name {
                b"" | b"." => continue,
                b".." => Node::Directory(parents.pop().ok_or(libc::EXDEV)?),
                _ if name.len() > NAME_LEN => return Err(libc::ENAMETOOLONG),
                _ => {
                    let next = directory.entries.borrow().get(name).cloned().ok_or(libc::ENOENT)?;
                    parents.push(directory.clone());
                    next
                }
            };
        }
        Ok(node)
    }

    /// Copies the tree beneath this directory to a real, empty one: names, kinds, lengths and times, without the content.
    pub fn mirror(&self, to: &Path) -> io::Result<()> {
        for (name, node) in &*self.entries.borrow() {
            let path = to.join(OsStr::from_bytes(name));
            match node {
                Node::File(file) => {
                    let (file, real) = (file.borrow(), std::fs::File::create(&path)?);
                    real.set_len(file.len)?;
                    real.set_modified(SystemTime::UNIX_EPOCH + file.changed)?;
                }
                Node::Directory(directory) => {
                    std::fs::create_dir(&path)?;
                    directory.mirror(&path)?;
                }
                Node::Fifo(_) => nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU)?,
            }
        }
        Ok(())
    }

    pub fn insert(&self, name: &[u8], node: Node) {
        self.entries.borrow_mut().insert(name.to_vec(), node);
    }

    /// Adds an entry under a name that is free, as link(2) and mkdir(2) do.
    pub fn insert_new(&self, name: &[u8], node: Node) -> Result<(), i32> {
        match name {
            [] => return Err(libc::ENOENT),
            b"." | b".." => return Err(libc::EEXIST),
            _ if name.contains(&b'/') => panic!("sim: a name, not a path, is given to a file"),
            _ if name.len() > NAME_LEN => return Err(libc::ENAMETOOLONG),
            _ => {}
        }
        let mut entries = self.entries.borrow_mut();
        if entries.contains_key(name) {
            return Err(libc::EEXIST);
        }
        entries.insert(name.to_vec(), node);
        Ok(())
    }

    /// Takes a file's name away, as unlink(2) does.
    pub fn unlink(&self, name: &[u8]) -> Result<(), i32> {
        match self.entries.borrow().get(name) {
            None => return Err(libc::ENOENT),
            Some(Node::Directory(_)) => return Err(libc::EISDIR),
            Some(Node::File(_) | Node::Fifo(_)) => {}
        }
        self.remove(name);
        Ok(())
    }

    /// Moves a name to another directory, as rename(2) does with files.
    pub fn rename(&self, name: &[u8], to: &Directory, to_name: &[u8], replace: bool) -> Result<(), i32> {
        let node = self.entries.borrow().get(name).cloned().ok_or(libc::ENOENT)?;
        if replace {
            if to.entries.borrow().get(to_name).is_some_and(|there| there.is(&node)) {
                return Ok(());
            }
            if matches!(to.entries.borrow().get(to_name), Some(Node::Directory(_))) {
                return Err(libc::EISDIR);
            }
            to.remove(to_name);
        }
        to.insert_new(to_name, node)?;
        self.remove(name);
        Ok(())
    }

    /// The names in it, in order.
    pub fn names(&self) -> Vec<Vec<u8>> {
        self.entries.borrow().keys().cloned().collect()
    }

    pub fn remove(&self, name: &[u8]) -> Option<Node> {
        self.entries.borrow_mut().remove(name)
    }
}

#[derive(Debug)]
pub(super) struct File {
    inode: u64,
    content: Content,
    len: u64,
    /// Since 1970.
    changed: Duration,
    /// Pages that are not in memory.
    cold: Vec<Range<u64>>,
    /// Pages that the disk is bringing, and when they will have come, as virtual time.
    coming: Vec<(Duration, Range<u64>)>,
    /// The space that it takes on the disk, and where that comes from.
    taken: u64,
    free: Rc<Cell<u64>>,
    pub denied: bool,
    pub broken: bool,
    /// The descriptor that has it for itself.
    pub locked_by: Option<RawFd>,
}

impl Drop for File {
    fn drop(&mut self) {
        self.free.set(self.free.get() + self.taken);
    }
}

impl File {
    /// One that takes from this free space what it holds, as far as there is any.
    pub fn new(inode: u64, content: Content, free: &Rc<Cell<u64>>, wall: Duration) -> Rc<RefCell<Self>> {
        let len = content.len();
        let mut file = File {
            inode,
            content,
            len,
            changed: wall,
            cold: Vec::new(),
            coming: Vec::new(),
            taken: 0,
            free: free.clone(),
            denied: false,
            broken: false,
            locked_by: None,
        };
        file.grow(len);
        Rc::new(RefCell::new(file))
    }

    /// Takes space for so many bytes in all, and returns how many there is space for.
    fn grow(&mut self, len: u64) -> u64 {
        let more = len.saturating_sub(self.taken).min(self.free.get());
        self.free.set(self.free.get() - more);
        self.taken += more;
        self.taken.min(len)
    }

    /// Reserves space as fallocate(2) does: all of it or none.
    pub fn allocate(&mut self, len: u64) -> Result<(), i32> {
        if len == 0 {
            return Err(libc::EINVAL);
        }
        if len.saturating_sub(self.taken) > self.free.get() {
            return Err(libc::ENOSPC);
        }
        self.grow(len);
        Ok(())
    }

    /// Writes as much as there is space for, and returns how much that was.
    pub fn write(&mut self, offset: u64, bytes: &[u8], wall: Duration) -> Result<usize, i32> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let end =
            offset.checked_add(bytes.len() as u64).filter(|end| i64::try_from(*end).is_ok()).ok_or(libc::EINVAL)?;
        let end = self.grow(end);
        let fits = end.saturating_sub(offset) as usize;
        if fits == 0 {
            return Err(libc::ENOSPC);
        }
        let Content::Bytes(content) = &mut self.content else {
            panic!("sim: a file whose bytes follow a rule is written to")
        };
        content.resize(content.len().max(end as usize), 0);
        content[offset as usize..end as usize].copy_from_slice(&bytes[..fits]);
        self.len = self.len.max(end);
        self.changed = wall;
        Ok(fits)
    }

    pub fn set_len(&mut self, len: u64, wall: Duration) {
        if let Content::Bytes(bytes) = &mut self.content {
            bytes.truncate(usize::try_from(len).unwrap_or(usize::MAX));
        }
        self.len = len;
        self.changed = wall;
    }

    pub fn overwrite(&mut self, content: Content, wall: Duration) {
        self.len = content.len();
        self.content = content;
        self.changed = wall;
    }

    /// At most `len` bytes at `offset`.
    pub fn bytes(&self, offset: u64, len: usize) -> impl Iterator<Item = u8> + '_ {
        let end = self.len.min(offset.saturating_add(len as u64));
        (offset..end).map(|offset| self.content.at(offset))
    }

    /// How many of `len` bytes at `offset` exist.
    pub fn available(&self, offset: u64, len: usize) -> usize {
        self.len.saturating_sub(offset).min(len as u64) as usize
    }

    /// How many of `len` bytes at `offset` exist and are in memory at virtual time `now`.
    pub fn resident(&mut self, offset: u64, len: usize, now: Duration) -> usize {
        self.settle(now);
        let len = self.available(offset, len);
        let wanted = pages(offset, len as u64);
        let overlaps = self.cold.iter().filter(|cold| cold.start < wanted.end && wanted.start < cold.end);
        let first_cold = overlaps.map(|cold| cold.start.max(wanted.start)).min();
        first_cold.map_or(len, |page| len.min((page * PAGE_LEN).saturating_sub(offset) as usize))
    }

    /// Takes a range out of memory.
    pub fn cool(&mut self, range: Range<u64>) {
        self.cold.push(pages(range.start, range.end.saturating_sub(range.start)));
    }

    /// Takes the pages that lie wholly in this range out of memory; an end of 0 is the end of the file.
    pub fn forget(&mut self, range: Range<u64>) {
        let end = if range.end == 0 { self.len.next_multiple_of(PAGE_LEN) } else { range.end };
        self.cold.push(range.start.div_ceil(PAGE_LEN)..end / PAGE_LEN);
    }

    /// A read has ended: what the disk was bringing of these bytes has come, with all that it was asked for in the same breath.
    pub fn arrive(&mut self, offset: u64, len: usize, now: Duration) {
        let read = pages(offset, len as u64);
        let requests = self.coming.iter_mut().filter(|(_, pages)| pages.start < read.end && read.start < pages.end);
        requests.for_each(|(at, _)| *at = now.min(*at));
    }

    /// Has the disk bring what lies at `offset`, by virtual time `at`.
    pub fn bring(&mut self, offset: u64, len: usize, at: Duration) {
        self.coming.push((at, pages(offset, READ_AHEAD.max(len as u64))));
    }

    fn settle(&mut self, now: Duration) {
        let (come, coming): (Vec<_>, _) = std::mem::take(&mut self.coming).into_iter().partition(|(at, _)| *at <= now);
        self.coming = coming;
        for (_, warm) in come {
            let halves = |cold: &Range<u64>| [cold.start..cold.end.min(warm.start), cold.start.max(warm.end)..cold.end];
            self.cold = self.cold.iter().flat_map(halves).filter(|range| !range.is_empty()).collect();
        }
    }
}

/// The pages that hold these bytes.
fn pages(offset: u64, len: u64) -> Range<u64> {
    offset / PAGE_LEN..offset.saturating_add(len).div_ceil(PAGE_LEN)
}
