//! Files to sockets without a copy: sendfile(2), and splice(2) by way of a pipe; one chunk a turn.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SpliceFFlags, fcntl, splice};
use nix::sys::sendfile::sendfile;
use nix::sys::socket::{MsgFlags, send};
use nix::unistd::pipe;

use crate::http::Request;

/// A turn moves at most this many bytes.
const CHUNK: u64 = 512 << 10;
/// A chunk that does not begin at a page's start lies on one page more.
const PIPE_LEN: i32 = CHUNK as i32 + 4096;

/// How bytes get from the file to the socket.
pub enum Mover {
    Sendfile,
    /// With the empty pipes that nobody uses.
    Splice(Vec<Pipe>),
}

/// What came of a turn.
pub enum Turn {
    /// All is sent.
    Done,
    /// The socket took the chunk, and there is more.
    GoOn,
    /// The socket is full.
    Full,
}

/// What is still to be sent of a file.
pub struct Transfer {
    file: &'static File,
    at: u64,
    end: u64,
    /// Whether packets that are not full are held back, so that a turn's end does not leave as one of its own.
    is_corked: bool,
    /// The pipe that still holds bytes from `at` on.
    pipe: Option<Pipe>,
}

/// A pipe and how many bytes are in it.
pub struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
    held: usize,
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let (out, into) = pipe()?;
        fcntl(&into, FcntlArg::F_SETPIPE_SZ(PIPE_LEN))?;
        Ok(Pipe { out, into, held: 0 })
    }
}

impl Transfer {
    /// Sends the head of a reply, for the body to follow.
    ///
    /// # Errors
    /// The connection is gone, or did not take the head at once.
    pub fn begin(socket: &OwnedFd, request: &Request<'static>, head: &mut Vec<u8>) -> io::Result<Self> {
        head.clear();
        request.write_head(head);
        let more = MsgFlags::from_bits_retain(libc::MSG_MORE);
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL | more;
        if send(socket.as_raw_fd(), head, flags)? != head.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let range = request.range.clone().unwrap_or(0..request.resource.len);
        let is_corked = range.end - range.start > CHUNK;
        if is_corked {
            cork(socket, true)?;
        }
        Ok(Transfer { file: &request.resource.file, at: range.start, end: range.end, is_corked, pipe: None })
    }

    fn turn_len(&self) -> usize {
        (self.end - self.at).min(CHUNK) as usize
    }

    /// Takes note of `moved` bytes where `offered` were to be had.
    fn moved(&mut self, moved: usize, offered: usize) -> Turn {
        self.at += moved as u64;
        if self.at == self.end {
            Turn::Done
        } else if moved < offered {
            Turn::Full
        } else {
            Turn::GoOn
        }
    }
}

impl Mover {
    /// Moves one chunk, or what the socket takes of it.
    ///
    /// # Errors
    /// The connection is gone, the file is shorter than it was, or there is no pipe to be had.
    pub fn turn(&mut self, socket: &OwnedFd, transfer: &mut Transfer) -> io::Result<Turn> {
        let was_corked = transfer.is_corked;
        let turn = match self {
            Mover::Sendfile => send_chunk(socket, transfer),
            Mover::Splice(pipes) => splice_chunk(socket, transfer, pipes),
        }?;
        if was_corked && matches!(turn, Turn::Done) {
            cork(socket, false)?;
        }
        Ok(turn)
    }
}

/// Holds packets that are not full back, or lets them go (tcp(7)).
#[allow(unsafe_code)]
fn cork(socket: &OwnedFd, on: bool) -> io::Result<()> {
    let value = libc::c_int::from(on);
    let len = size_of_val(&value) as libc::socklen_t;
    // SAFETY: pointer and length describe one live integer, which the kernel only reads during the call.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_CORK, (&raw const value).cast(), len)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn send_chunk(socket: &OwnedFd, transfer: &mut Transfer) -> io::Result<Turn> {
    let (mut offset, len) = (transfer.at as i64, transfer.turn_len());
    match sendfile(socket, transfer.file, Some(&mut offset), len) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(moved) => Ok(transfer.moved(moved, len)),
        Err(Errno::EAGAIN) => Ok(Turn::Full),
        Err(errno) => Err(errno.into()),
    }
}

fn splice_chunk(socket: &OwnedFd, transfer: &mut Transfer, pipes: &mut Vec<Pipe>) -> io::Result<Turn> {
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    let mut pipe = match transfer.pipe.take().or_else(|| pipes.pop()) {
        Some(pipe) => pipe,
        None => Pipe::new()?,
    };
    if pipe.held == 0 {
        let mut offset = transfer.at as i64;
        pipe.held = splice(transfer.file, Some(&mut offset), &pipe.into, None, transfer.turn_len(), flags)?;
        if pipe.held == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let last = transfer.at + pipe.held as u64 == transfer.end;
    let more = if last { SpliceFFlags::empty() } else { SpliceFFlags::SPLICE_F_MORE };
    let held = pipe.held;
    let moved = match splice(&pipe.out, None, socket, None, held, flags | more) {
        Err(Errno::EAGAIN) => 0,
        result => result?,
    };
    pipe.held -= moved;
    if pipe.held == 0 {
        pipes.push(pipe);
    } else {
        transfer.pipe = Some(pipe);
    }
    Ok(transfer.moved(moved, held))
}
