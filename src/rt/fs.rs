//! Files and directories: opened, read, written and named without blocking the worker.

use std::ffi::CString;
use std::io;
use std::ops::Range;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use super::residency::BLOCK_LEN;
use super::{Descriptor, Operation, Runtime};
use crate::driver::buf::Buf;
use crate::driver::op::{Closing, DirectoryMode, Op, OpenHow, Opening, Taken, WriteFrom};
use crate::driver::pipe::Pipe;
use crate::driver::slot::Owner;
use crate::driver::{Advice, FileKind, FileStat};

/// Distance of the pages that are looked at where others are still coming, in bytes: each page, because parts come in any order.
const ARRIVAL_STEP: usize = 4 << 10;

/// Distance of the pages that are looked at where none was asked for lately, in bytes. Who asks for a few bytes here and there
/// makes islands of pages; a longer step would take them for the whole.
const PROBE_STEP: usize = 32 << 10;

/// An open file or directory, read-only unless it says otherwise.
#[derive(Debug)]
pub struct File {
    descriptor: Descriptor,
    /// By which the worker remembers what of it is in memory.
    number: u32,
}

impl File {
    /// Opens a directory anywhere, following links: how a root is opened.
    ///
    /// # Errors
    /// As open(2).
    pub async fn open_root(runtime: &Rc<Runtime>, path: &Path) -> io::Result<File> {
        open(runtime, libc::AT_FDCWD, path.as_os_str().as_bytes(), Opening::Anywhere).await
    }

    /// Opens what `path`, relative to this directory, names beneath it (openat2(2), `RESOLVE_BENEATH`); an empty path is the
    /// directory itself. A link that leaves the directory is an error. A FIFO does not block.
    ///
    /// # Errors
    /// As openat2(2): `EXDEV` for an escape, `ENXIO` for a socket.
    pub async fn open_beneath(&self, path: &[u8]) -> io::Result<File> {
        let path = if path.is_empty() { b"." } else { path };
        let file = open(self.runtime(), self.raw(), path, Opening::Beneath).await?;
        if file.stat()?.kind == FileKind::Regular {
            self.descriptor.runtime.driver().allow_waiting(file.raw())?;
        }
        Ok(file)
    }

    /// Opens a file beneath this directory to read and to write; not through a link in the last place.
    ///
    /// # Errors
    /// As openat2(2).
    pub async fn open_writable(&self, path: &[u8]) -> io::Result<File> {
        open(self.runtime(), self.raw(), path, Opening::Writable).await
    }

    /// Makes a file beneath this directory, to read and to write. Giving the future up may leave the file.
    ///
    /// # Errors
    /// As openat2(2): `AlreadyExists` if the name is taken.
    pub async fn create(&self, path: &[u8]) -> io::Result<File> {
        open(self.runtime(), self.raw(), path, Opening::New).await
    }

    /// Makes a file without a name on this directory's file system, to read and to write; it is gone when it is closed,
    /// unless [`File::link`] gives it one.
    ///
    /// # Errors
    /// As openat2(2) with `O_TMPFILE`: `EOPNOTSUPP` where the file system can't.
    pub async fn create_unnamed(&self) -> io::Result<File> {
        open(self.runtime(), self.raw(), b".", Opening::Unnamed).await
    }

    /// Makes a directory in this one. Giving the future up may leave it.
    ///
    /// # Errors
    /// As mkdir(2); `InvalidInput` for a path.
    pub async fn make_directory(&self, name: &[u8], mode: DirectoryMode) -> io::Result<()> {
        self.change(Op::MakeDirectory { directory: self.raw(), name: single(name)?, mode }).await
    }

    /// Gives this file, which has none, a name in a directory. Giving the future up may leave it with the name.
    ///
    /// # Errors
    /// As linkat(2): `AlreadyExists` if the name is taken; `InvalidInput` for a path.
    pub async fn link(&self, directory: &File, name: &[u8]) -> io::Result<()> {
        self.change(Op::link(self.raw(), directory.raw(), single(name)?)).await
    }

    /// Moves a name of this directory to another, or to another name. Giving the future up may leave it moved.
    ///
    /// # Errors
    /// As renameat2(2); `InvalidInput` for a path.
    pub async fn rename(&self, name: &[u8], to: &File, to_name: &[u8], taken: Taken) -> io::Result<()> {
        let (name, to_name) = (single(name)?, single(to_name)?);
        let op = Op::Rename { directory: self.raw(), name, to_directory: to.raw(), to_name, taken };
        self.change(op).await
    }

    /// Takes a file's name in this directory away.
    ///
    /// # Errors
    /// As unlinkat(2): `IsADirectory` for a directory; `InvalidInput` for a path.
    pub async fn unlink(&self, name: &[u8]) -> io::Result<()> {
        self.change(Op::Unlink { directory: self.raw(), name: single(name)? }).await
    }

    /// Takes a file's name in this directory away some time soon, if it is there; nobody is told.
    pub fn forget(&self, name: &[u8]) {
        if let Ok(name) = terminated(name) {
            let op = Op::Unlink { directory: self.raw(), name };
            self.runtime().driver().submit(op, Owner::Nobody);
        }
    }

    /// Cuts the file, on a thread that may block: no ring of the kernels that are in use can.
    ///
    /// # Errors
    /// As ftruncate(2); `WouldBlock` when there is no thread for it now.
    pub async fn truncate(&self, len: u64) -> io::Result<()> {
        let file = std::fs::File::from(self.duplicate()?);
        let cut = self.runtime().offload().run(move || file.set_len(len)).await;
        cut.unwrap_or_else(|_| Err(io::ErrorKind::WouldBlock.into()))
    }

    /// Waits until what was written, or linked into this directory, is on the disk.
    ///
    /// # Errors
    /// As fsync(2): what was written before may be lost, and trying again does not tell.
    pub async fn sync(&self) -> io::Result<()> {
        self.change(Op::Sync { fd: self.raw() }).await
    }

    /// Reserves space on the disk for the first `len` bytes; the length stays. Where the file system can't, nothing happens.
    ///
    /// # Errors
    /// As fallocate(2): `StorageFull`, `QuotaExceeded` or `FileTooLarge` when there is not so much.
    pub async fn allocate(&self, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        match self.change(Op::Allocate { file: self.raw(), len }).await {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
            result => result,
        }
    }

    /// Takes the file for this handle alone, until it is dropped.
    ///
    /// # Errors
    /// `WouldBlock` when another handle has it, of this process or of another; else as flock(2).
    pub fn try_lock(&self) -> io::Result<()> {
        self.descriptor.runtime.driver().try_lock(self.raw())
    }

    /// Begins to write all of these bytes at `offset`, and says when the kernel has them. Several writes may be under way.
    pub fn write(self: &Rc<Self>, offset: u64, from: WriteFrom) -> Write {
        let operation = self.runtime().operate(Op::Write { file: self.raw(), offset, from });
        Write { file: self.clone(), offset, operation }
    }

    async fn change(&self, op: Op) -> io::Result<()> {
        self.runtime().operate(op).await.result.map(drop)
    }

    /// What it is and how long, now.
    ///
    /// # Errors
    /// As fstat(2).
    pub fn stat(&self) -> io::Result<FileStat> {
        self.descriptor.runtime.driver().stat(self.descriptor.raw)
    }

    /// Reads what is in the page cache at `offset`; never waits for the disk. 0 is the end of the file.
    ///
    /// # Errors
    /// `WouldBlock` when the page is not resident; else as preadv2(2).
    pub fn read_resident(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.descriptor.runtime.driver().read_resident(self.descriptor.raw, offset, into)
    }

    /// Whether the region is in the page cache, by a few bytes of each block of it that was not lately found there. The disk is
    /// asked for what is missing. A file system that can't tell (`EOPNOTSUPP`) counts as missing, and so does what lies behind
    /// the file's end.
    ///
    /// # Errors
    /// As preadv2(2).
    pub fn is_resident(&self, offset: u64, len: usize) -> io::Result<bool> {
        let runtime = self.runtime();
        let now = runtime.now();
        let region_end = offset + len as u64;
        let mut at = offset;
        while at < region_end {
            let end = (at / BLOCK_LEN + 1).saturating_mul(BLOCK_LEN).min(region_end);
            if !runtime.residency.borrow().knows(self.number, &(at..end), now) {
                if !self.has_pages(at..end, PROBE_STEP)? {
                    return Ok(false);
                }
                runtime.residency.borrow_mut().note(self.number, &(at..end), now);
            }
            at = end;
        }
        Ok(true)
    }

    /// As [`File::is_resident`], of a region that was cold a moment ago, and of which each page is looked at.
    ///
    /// # Errors
    /// As preadv2(2).
    pub fn has_come(&self, offset: u64, len: usize) -> io::Result<bool> {
        Ok(self.has_pages(offset..offset + len as u64, ARRIVAL_STEP)? && self.is_resident(offset, len)?)
    }

    /// Whether the first page, the last, and one in each step between are in memory.
    fn has_pages(&self, range: Range<u64>, step: usize) -> io::Result<bool> {
        for at in range.clone().step_by(step).chain((range.end - range.start > 1).then_some(range.end - 1)) {
            if !self.has_page(at)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn has_page(&self, offset: u64) -> io::Result<bool> {
        match self.read_resident(offset, &mut [0]) {
            Ok(read) => Ok(read > 0),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads at most `len` bytes at `offset` into the buffer's spare space, from the disk if need be. The buffer comes back
    /// also with an error; 0 is the end of the file.
    pub async fn read(&self, offset: u64, len: usize, buf: Buf) -> (io::Result<usize>, Buf) {
        let len = len.min(buf.spare_len()) as u32;
        let completion =
            self.descriptor.runtime.operate(Op::Read { file: self.descriptor.raw, offset, len, buf }).await;
        let Some(Op::Read { buf, .. }) = completion.op else {
            panic!("driver invariant: a read came back without its buffer")
        };
        (completion.result.map(|n| n as usize), buf)
    }

    /// Moves at most `len` bytes at `offset` into an empty pipe, and no more than [`Pipe::fill_len`]; their pages are resident.
    /// 0 is the end of the file.
    ///
    /// # Errors
    /// As splice(2); the pipe is still empty.
    pub fn try_fill(&self, pipe: &mut Pipe, offset: u64, len: usize) -> io::Result<usize> {
        self.descriptor.runtime.driver().fill_pipe(pipe, self.descriptor.raw, offset, len)
    }

    /// As [`File::try_fill`], from the disk if need be, on a thread of the kernel. The pipe comes back also with an error, but
    /// then only to be dropped.
    pub async fn fill(&self, pipe: Pipe, offset: u64, len: usize) -> (io::Result<usize>, Pipe) {
        let completion =
            self.descriptor.runtime.operate(Op::FillPipe { file: self.descriptor.raw, offset, len, pipe }).await;
        let Some(Op::FillPipe { pipe, .. }) = completion.op else {
            panic!("driver invariant: a fill came back without its pipe")
        };
        (completion.result.map(|n| n as usize), pipe)
    }

    /// Tells the kernel what is going to happen with `len` bytes at `offset`; 0 for all that follow. Only a hint: where the file
    /// system can't take it, nothing is different.
    pub fn advise(&self, offset: u64, len: u64, advice: Advice) {
        let _ = self.descriptor.runtime.driver().advise(self.descriptor.raw, offset, len, advice);
    }

    /// A second descriptor on the same file, for a thread that may block.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        self.descriptor.runtime.driver().duplicate(self.descriptor.raw)
    }

    pub(crate) fn raw(&self) -> RawFd {
        self.descriptor.raw
    }

    fn runtime(&self) -> &Rc<Runtime> {
        &self.descriptor.runtime
    }
}

/// A write under way; see [`File::write`]. Giving it up leaves open how much of it is done.
#[must_use = "an error is told to who waits for it"]
pub struct Write {
    operation: Operation,
    /// Is closed after what names it was submitted.
    file: Rc<File>,
    offset: u64,
}

impl Future for Write {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let completion = ready!(Pin::new(&mut self.operation).poll(cx));
            let Some(Op::Write { from, .. }) = completion.op else {
                panic!("driver invariant: a write came back without its bytes")
            };
            let (written, is_interrupted) = match completion.result {
                Ok(written) => (written as usize, false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (0, true),
                Err(error) => return Poll::Ready(Err(error)),
            };
            if written == from.len() {
                return Poll::Ready(Ok(()));
            }
            if written == 0 && !is_interrupted {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            // A full disk takes what still fits; the rest tells why.
            self.offset += written as u64;
            let op = Op::Write { file: self.file.raw(), offset: self.offset, from: from.skip(written) };
            self.operation = self.file.runtime().operate(op);
        }
    }
}

fn terminated(name: &[u8]) -> io::Result<CString> {
    CString::new(name).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

/// A name that is no path: a path would be followed, links and `..` included, to wherever it leads.
fn single(name: &[u8]) -> io::Result<CString> {
    if name.contains(&b'/') {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    terminated(name)
}

async fn open(runtime: &Rc<Runtime>, root: RawFd, path: &[u8], opening: Opening) -> io::Result<File> {
    let path = terminated(path)?;
    let op = Op::Open { root, path, opening, how: Box::<OpenHow>::default() };
    let completion = runtime.operate(op).await;
    let raw = completion.result? as RawFd;
    let number = runtime.residency.borrow_mut().number();
    Ok(File { descriptor: Descriptor { raw, closing: Closing::Aside, runtime: runtime.clone() }, number })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    use bytes::Bytes;

    use super::*;
    use crate::driver::Setup;
    use crate::driver::sim::{Descriptors, Faults, Sim, World, explore};
    use crate::driver::slot::{Event, Token};
    use crate::rt::offload::Offload;
    use crate::rt::task::Tasks;
    use crate::rt::worker::Agent;

    const SETUP: Setup = Setup {
        in_flight: 16,
        receive_buffers: (1, 1024),
        transfer_buffers: (1, 1024),
        upload_buffers: (2, 4096),
        pipes: 1,
    };
    /// Writes that take many attempts, and cancellations that come too late.
    const ROUGH_WRITES: Faults = Faults { short_write: 0.7, late_cancel: 0.5, ..Faults::SLOW };

    /// Has no events, and ends when it is told.
    struct Flag(Rc<Cell<bool>>);

    impl Agent for Flag {
        fn completed(&mut self, event: Event) {
            panic!("nobody asked for {event:?}");
        }
        fn expired(&mut self, _: Token) {}
        fn woken(&mut self) {}
        fn turned(&mut self) {}
        fn finished(&self) -> bool {
            self.0.get()
        }
    }

    /// Runs a task on a worker of its own, with the root, to its end; then nothing is open and nothing lent.
    #[track_caller]
    pub(crate) fn run(world: &Rc<World>, body: impl AsyncFnOnce(Rc<Runtime>, File) + 'static) {
        let driver = Box::new(Sim::new(world, &SETUP));
        let runtime = Runtime::new(driver, Tasks::new().unwrap(), Offload::start(0, 1).unwrap());
        let pool = runtime.upload_pool().clone();
        let done = Rc::new(Cell::new(false));
        let (worker, flag) = (runtime.clone(), done.clone());
        runtime
            .spawn(async move {
                let root = File::open_root(&worker, Path::new("/")).await.unwrap();
                body(worker, root).await;
                flag.set(true);
            })
            .detach();
        crate::rt::worker::run(&runtime, &mut Flag(done)).unwrap();
        drop(runtime);
        assert_eq!((pool.in_use(), world.open_descriptors()), (0, Descriptors::default()));
    }

    /// Polls a future once, as a task does that is dropped thereafter.
    async fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
        let mut future = Some(future);
        std::future::poll_fn(move |cx| Poll::Ready(future.take().expect("polled once").poll(cx))).await
    }

    fn bytes(len: usize, of: u8) -> WriteFrom {
        WriteFrom::Bytes(Bytes::from(vec![of; len]))
    }

    #[test]
    fn a_short_write_is_continued_to_its_end_with_others_under_way() {
        explore(ROUGH_WRITES, |world| {
            let content: Vec<u8> = (0..4096_u32).map(|i| (i % 251) as u8).collect();
            let expected = [&content[100..4000], &[b'h'; 3000][..]].concat();
            run(world, async move |runtime, root| {
                let file = Rc::new(root.create(b"file").await.unwrap());
                let mut buf = runtime.upload_pool().acquire().await;
                assert_eq!(buf.append(&content), 4096);
                let buf = Rc::new(buf);
                let part = |range| WriteFrom::Buf { buf: buf.clone(), range };
                let writes =
                    [(0, part(100..2000)), (1900, part(2000..4000)), (3900, bytes(3000, b'h')), (9, part(5..5))];
                let writes = writes.map(|(offset, from)| file.write(offset, from));
                drop(buf);
                for write in writes {
                    write.await.unwrap();
                }
                assert_eq!(runtime.upload_pool().in_use(), 0);
                file.sync().await.unwrap();
            });
            assert!(world.content("file") == expected);
        });
    }

    #[test]
    fn a_full_disk_ends_a_write_behind_what_fits() {
        explore(ROUGH_WRITES, |world| {
            world.limit_space(1000);
            run(world, async |_, root| {
                let file = Rc::new(root.create(b"file").await.unwrap());
                file.write(0, bytes(600, b'x')).await.unwrap();
                assert_eq!(file.write(600, bytes(600, b'x')).await.unwrap_err().kind(), io::ErrorKind::StorageFull);
            });
            assert_eq!((world.content("file"), world.free_space()), (vec![b'x'; 1000], 0));
        });
    }

    #[test]
    fn a_failing_disk_ends_a_write_and_a_sync() {
        let world = World::new(0, Faults::NONE);
        let theirs = world.clone();
        run(&world, async move |_, root| {
            let file = Rc::new(root.create(b"file").await.unwrap());
            theirs.set_faults(Faults { write_error: 1.0, ..Faults::NONE });
            let errors = [file.write(0, bytes(1, b'x')).await, file.sync().await];
            assert_eq!(errors.map(|result| result.unwrap_err().raw_os_error()), [Some(libc::EIO); 2]);
        });
    }

    #[test]
    fn a_write_that_is_dropped_with_its_file_gives_its_buffer_back() {
        explore(ROUGH_WRITES, |world| {
            run(world, async |runtime, root| {
                let file = Rc::new(root.create(b"file").await.unwrap());
                let pool = runtime.upload_pool();
                for polls in [0, 1] {
                    let mut buf = pool.acquire().await;
                    buf.append(&[b'x'; 4096]);
                    let mut write = file.write(0, WriteFrom::Buf { buf: Rc::new(buf), range: 0..4096 });
                    if polls > 0 {
                        assert!(poll_once(Pin::new(&mut write)).await.is_pending());
                    }
                    drop(write);
                }
                drop(file);
                let _all = [pool.acquire().await, pool.acquire().await];
            });
            assert!(world.content("file").iter().all(|byte| *byte == b'x'));
        });
    }

    #[test]
    fn an_unnamed_file_gets_a_name_another_and_none() {
        explore(Faults::SLOW, |world| {
            world.add_file("taken", crate::driver::sim::Content::Bytes(b"old".to_vec()));
            let theirs = world.clone();
            run(world, async move |_, root| {
                root.make_directory(b"inner", DirectoryMode::Private).await.unwrap();
                let inner = root.open_beneath(b"inner").await.unwrap();
                let file = Rc::new(inner.create_unnamed().await.unwrap());
                file.write(0, bytes(3, b'n')).await.unwrap();
                assert_eq!(theirs.names("inner"), Vec::<String>::new());
                assert_eq!(file.link(&root, b"taken").await.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
                file.link(&inner, b"named").await.unwrap();
                inner.sync().await.unwrap();
                drop(file);
                let refused = inner.rename(b"named", &root, b"taken", Taken::Refuse).await.unwrap_err();
                assert_eq!((refused.kind(), theirs.content("taken")), (io::ErrorKind::AlreadyExists, b"old".to_vec()));
                inner.rename(b"named", &root, b"taken", Taken::Replace).await.unwrap();
                assert_eq!((theirs.names("inner").len(), theirs.content("taken")), (0, b"nnn".to_vec()));
                let file = Rc::new(root.open_writable(b"taken").await.unwrap());
                file.write(3, bytes(1, b'm')).await.unwrap();
                assert_eq!(theirs.content("taken"), b"nnnm");
                assert_eq!(root.unlink(b"inner").await.unwrap_err().kind(), io::ErrorKind::IsADirectory);
                root.unlink(b"taken").await.unwrap();
                assert_eq!(root.unlink(b"taken").await.unwrap_err().kind(), io::ErrorKind::NotFound);
            });
            assert_eq!(world.names("."), ["inner"]);
        });
    }

    #[test]
    fn a_link_that_is_dropped_with_its_handles_names_that_very_file_or_none() {
        let (named, nameless) = (Cell::new(0), Cell::new(0));
        explore(Faults { late_cancel: 0.5, ..Faults::SLOW }, |world| {
            run(world, async |_, root| {
                root.make_directory(b"inner", DirectoryMode::Private).await.unwrap();
                let inner = root.open_beneath(b"inner").await.unwrap();
                let file = Rc::new(inner.create_unnamed().await.unwrap());
                file.write(0, bytes(4, b'x')).await.unwrap();
                {
                    let mut link = std::pin::pin!(file.link(&inner, b"name"));
                    assert!(poll_once(link.as_mut()).await.is_pending());
                    // A turn, in which the kernel may get to it.
                    crate::rt::yield_now().await;
                }
                drop((file, inner));
                let _stranger = root.create(b"stranger").await.unwrap();
            });
            let counted = if world.names("inner").is_empty() { &nameless } else { &named };
            counted.set(counted.get() + 1);
            assert!(world.names("inner").is_empty() || world.content("inner/name") == b"xxxx");
        });
        assert!(named.get() > 0 && nameless.get() > 0, "{named:?} {nameless:?}");
    }

    #[test]
    fn space_is_reserved_whole_or_not_at_all() {
        let world = World::new(0, Faults::NONE);
        world.limit_space(1000);
        let theirs = world.clone();
        run(&world, async move |_, root| {
            let file = root.create_unnamed().await.unwrap();
            file.allocate(0).await.unwrap();
            assert_eq!(file.allocate(1001).await.unwrap_err().kind(), io::ErrorKind::StorageFull);
            assert_eq!(theirs.free_space(), 1000);
            file.allocate(900).await.unwrap();
            assert_eq!((theirs.free_space(), file.stat().unwrap().len), (100, 0));
        });
        assert_eq!(world.free_space(), 1000, "it is gone, and its space is free");
    }

    #[test]
    fn a_lock_ends_with_its_handle() {
        let world = World::new(0, Faults::NONE);
        run(&world, async |_, root| {
            let first = root.create(b"file").await.unwrap();
            let second = root.open_writable(b"file").await.unwrap();
            first.try_lock().unwrap();
            assert_eq!(second.try_lock().unwrap_err().kind(), io::ErrorKind::WouldBlock);
            drop(first);
            // The close goes before what is submitted after it.
            second.sync().await.unwrap();
            second.try_lock().unwrap();
        });
    }

    /// A path would be followed out of the directory.
    #[test]
    fn a_name_is_no_path() {
        let world = World::new(0, Faults::NONE);
        let theirs = world.clone();
        run(&world, async move |_, root| {
            root.make_directory(b"inner", DirectoryMode::Private).await.unwrap();
            let inner = root.open_beneath(b"inner").await.unwrap();
            let file = root.create(b"file").await.unwrap();
            for name in [&b"../name"[..], b"/name", b"inner/name", b"name/", b"na\0me"] {
                let refused = [
                    file.link(&inner, name).await,
                    inner.rename(b"file", &root, name, Taken::Replace).await,
                    inner.rename(name, &root, b"name", Taken::Replace).await,
                    inner.unlink(name).await,
                    inner.make_directory(name, DirectoryMode::Private).await,
                ];
                let kinds = refused.map(|result| result.unwrap_err().kind());
                assert_eq!(kinds, [io::ErrorKind::InvalidInput; 5], "{name:?}");
            }
            assert_eq!(theirs.names("."), ["file", "inner"]);
        });
    }
}
