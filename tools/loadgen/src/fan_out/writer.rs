//! The one that makes what all read: a publisher that POSTs one event after the other on one connection, so that their order is
//! theirs, or an encoder that PUTs one body in chunks, a piece each.
//!
//! It holds one unit at most. What is due while that can't be written waits, and its waiting counts.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use super::Medium;
use super::run::WRITER;
use super::stamp::{Pattern, Stamp};
use crate::reply::ReplyReader;
use crate::tally::Failure;

/// A publisher or an encoder.
#[derive(Debug)]
pub struct Writer {
    medium: Medium,
    address: SocketAddr,
    /// One for each topic.
    paths: Vec<String>,
    /// The fields of each request, and the empty line.
    fields: Vec<u8>,
    socket: Option<TcpStream>,
    reply: ReplyReader,
    out: Vec<u8>,
    written: usize,
    awaits_reply: bool,
    /// Whether nothing more of the request's body will come.
    is_all_written: bool,
}

impl Writer {
    /// Without a connection yet.
    pub fn new(medium: Medium, address: SocketAddr, paths: Vec<String>, fields: Vec<u8>) -> Self {
        Writer {
            medium,
            address,
            paths,
            fields,
            socket: None,
            reply: ReplyReader::default(),
            out: Vec::new(),
            written: 0,
            awaits_reply: false,
            is_all_written: false,
        }
    }

    /// Whether the last unit is written, and answered where it was a request of its own.
    pub fn is_free(&self) -> bool {
        self.out.is_empty() && !(self.awaits_reply && self.medium == Medium::Events)
    }

    /// Whether nothing is awaited.
    pub fn is_idle(&self) -> bool {
        self.out.is_empty() && !self.awaits_reply
    }

    /// Begins to write a unit.
    ///
    /// # Errors
    /// There is no connection to write it to.
    pub fn write_unit(
        &mut self,
        stamp: Stamp,
        pattern: &Pattern,
        epoll: &Epoll,
        timeout: Duration,
    ) -> Result<(), Failure> {
        if self.socket.is_none() {
            self.open(epoll, timeout)?;
            if self.medium == Medium::Live {
                self.head("PUT", 0, "Transfer-Encoding: chunked\r\n");
            }
        }
        match self.medium {
            Medium::Events => {
                let length = format!("Content-Length: {}\r\n", pattern.unit_len());
                self.head("POST", (stamp.number % self.paths.len() as u64) as usize, &length);
                pattern.write(stamp, &mut self.out);
                self.is_all_written = true;
            }
            Medium::Live => {
                self.out.extend_from_slice(format!("{:x}\r\n", pattern.unit_len()).as_bytes());
                pattern.write(stamp, &mut self.out);
                self.out.extend_from_slice(b"\r\n");
            }
        }
        self.flush()
    }

    /// Ends an encoder's body.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn finish(&mut self) -> Result<(), Failure> {
        if self.medium == Medium::Live && self.socket.is_some() {
            self.out.extend_from_slice(b"0\r\n\r\n");
            self.is_all_written = true;
        }
        self.flush()
    }

    /// Goes on writing, and reads what has come. Gives the status of a reply that is complete.
    ///
    /// # Errors
    /// The connection is broken, or a reply breaks a rule.
    pub fn go_on(&mut self, scratch: &mut [u8]) -> Result<Option<u16>, Failure> {
        self.flush()?;
        let Some(socket) = &mut self.socket else { return Ok(None) };
        loop {
            match socket.read(scratch) {
                Ok(0) if self.awaits_reply => return Err(Failure::Closed),
                // Between two requests a server may close (RFC 9112 §9.5).
                Ok(0) => {
                    self.socket = None;
                    return Ok(None);
                }
                Ok(len) => self.reply.take(&scratch[..len], |_, _| {}).map_err(Failure::malformed)?,
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Ok(None),
                Err(_) => return Err(Failure::Reset),
            }
            if self.reply.is_done()
                && let Some(head) = self.reply.head().copied()
            {
                // Of what is not all written yet, a server can't have had all.
                let is_early = !self.is_all_written && (200..300).contains(&head.status);
                self.awaits_reply = false;
                self.reply.reset();
                if !head.keep_alive || self.medium == Medium::Live {
                    self.socket = None;
                }
                return if is_early { Err(Failure::Early) } else { Ok(Some(head.status)) };
            }
        }
    }

    /// Closes the connection: what was under way is lost.
    pub fn close(&mut self) {
        self.socket = None;
        self.awaits_reply = false;
        self.out.clear();
        self.written = 0;
        self.reply.reset();
    }

    fn open(&mut self, epoll: &Epoll, timeout: Duration) -> Result<(), Failure> {
        let connected = || -> std::io::Result<TcpStream> {
            let socket = TcpStream::connect_timeout(&self.address, timeout)?;
            socket.set_nonblocking(true)?;
            socket.set_nodelay(true)?;
            Ok(socket)
        };
        let socket = connected().map_err(|_| Failure::Connect)?;
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        epoll.add(&socket, EpollEvent::new(interest, WRITER)).map_err(|_| Failure::System)?;
        self.socket = Some(socket);
        Ok(())
    }

    fn head(&mut self, method: &str, topic: usize, framing: &str) {
        self.out.extend_from_slice(format!("{method} {} HTTP/1.1\r\n{framing}", self.paths[topic]).as_bytes());
        self.out.extend_from_slice(&self.fields);
        self.awaits_reply = true;
    }

    fn flush(&mut self) -> Result<(), Failure> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        while self.written < self.out.len() {
            match socket.write(&self.out[self.written..]) {
                Ok(len) => self.written += len,
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return Err(Failure::Reset),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(())
    }
}
