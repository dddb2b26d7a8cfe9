//! Files and directories, opened and read without blocking the worker.

use std::ffi::CString;
use std::io;
use std::ops::Range;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use super::residency::BLOCK_LEN;
use super::{Descriptor, Runtime};
use crate::driver::buf::Buf;
use crate::driver::op::{Closing, Op, OpenHow, Resolve};
use crate::driver::pipe::Pipe;
use crate::driver::{Advice, FileKind, FileStat};

/// Distance of the pages that are looked at where others are still coming, in bytes: each page, because parts come in any order.
const ARRIVAL_STEP: usize = 4 << 10;

/// Distance of the pages that are looked at where none was asked for lately, in bytes. Who asks for a few bytes here and there
/// makes islands of pages; a longer step would take them for the whole.
const PROBE_STEP: usize = 32 << 10;

/// An open file or directory, read-only.
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
        open(runtime, libc::AT_FDCWD, path.as_os_str().as_bytes(), Resolve::Anywhere).await
    }

    /// Opens what `path`, relative to this directory, names beneath it (openat2(2), `RESOLVE_BENEATH`); an empty path is the
    /// directory itself. A link that leaves the directory is an error. A FIFO does not block.
    ///
    /// # Errors
    /// As openat2(2): `EXDEV` for an escape, `ENXIO` for a socket.
    pub async fn open_beneath(&self, path: &[u8]) -> io::Result<File> {
        let path = if path.is_empty() { b"." } else { path };
        let file = open(self.runtime(), self.raw(), path, Resolve::Beneath).await?;
        if file.stat()?.kind == FileKind::Regular {
            self.descriptor.runtime.driver().allow_waiting(file.raw())?;
        }
        Ok(file)
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

async fn open(runtime: &Rc<Runtime>, root: RawFd, path: &[u8], resolve: Resolve) -> io::Result<File> {
    let path = CString::new(path).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let op = Op::Open { root, path, resolve, how: Box::<OpenHow>::default() };
    let completion = runtime.operate(op).await;
    let raw = completion.result? as RawFd;
    let number = runtime.residency.borrow_mut().number();
    Ok(File { descriptor: Descriptor { raw, closing: Closing::Aside, runtime: runtime.clone() }, number })
}
