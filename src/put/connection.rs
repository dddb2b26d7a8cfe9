//! Connections that listen while they send: a transport for ureq.
//!
//! ureq reads nothing before it has sent the whole body, so a server that refuses an upload in its middle (a full disk, a file
//! over the limit) would be seen as a broken connection, and its reasons lost. Here each write also waits for something to
//! read. When a final reply begins to come, the rest of the body is not sent: the connection takes it and drops it, ureq goes
//! on to read the reply, and the flag that is shared with the body's reader spares the reading, too. Such a connection is
//! not used again. Where a write fails, what had been received before is still read, for the same reason.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ureq::Error;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport};

/// Whether the reply to the request under way has begun to come, so that no more of its body is wanted.
#[derive(Clone, Debug, Default)]
pub(super) struct Answered(Arc<AtomicBool>);

impl Answered {
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub fn set(&self, value: bool) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// Makes connections of this kind.
#[derive(Debug)]
pub(super) struct ListeningConnector(pub Answered);

impl Connector for ListeningConnector {
    type Out = Connection;

    fn connect(&self, details: &ConnectionDetails<'_>, _: Option<()>) -> Result<Option<Connection>, Error> {
        let mut failure = None;
        for address in &details.addrs {
            let connected = match details.timeout.not_zero() {
                Some(time) => TcpStream::connect_timeout(address, *time),
                None => TcpStream::connect(address),
            };
            match connected {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_nonblocking(true)?;
                    let config = details.config;
                    let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
                    return Ok(Some(Connection {
                        stream,
                        buffers,
                        answered: self.0.clone(),
                        is_spent: false,
                        has_news: false,
                    }));
                }
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.map_or(Error::HostNotFound, Error::Io))
    }
}

/// A connection that listens while it sends.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    buffers: LazyBuffers,
    answered: Answered,
    /// Whether a body on it was given up.
    is_spent: bool,
    /// Whether something was received that ureq has not looked at.
    has_news: bool,
}

impl Connection {
    /// Waits until it can be read, or written to if that is wanted; the time is up if it is neither.
    fn wait(&self, events: PollFlags, time: Option<Duration>) -> io::Result<PollFlags> {
        let timeout = time.map_or(PollTimeout::NONE, |time| time.try_into().unwrap_or(PollTimeout::MAX));
        loop {
            let mut polled = [PollFd::new(self.stream.as_fd(), events)];
            match poll(&mut polled, timeout) {
                Ok(_) => return Ok(polled[0].revents().unwrap_or(PollFlags::empty())),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes what has come. 0 is the end.
    fn receive(&mut self) -> io::Result<usize> {
        loop {
            match self.stream.read(self.buffers.input_append_buf()) {
                Ok(count) => {
                    self.buffers.input_appended(count);
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Looks at what has come while it was sending. An error is the end of the connection, without a reply.
    fn listen(&mut self) -> io::Result<()> {
        loop {
            match self.receive() {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => self.has_news = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
            if begins_final_reply(self.buffers.input()) {
                self.is_spent = true;
                self.answered.set(true);
                return Ok(());
            }
        }
    }

    fn send(&mut self, from: usize, to: usize, timeout: &NextTimeout) -> Result<usize, Error> {
        let ready = self.wait(PollFlags::POLLIN | PollFlags::POLLOUT, timeout.not_zero().map(|time| *time))?;
        if ready.is_empty() {
            return Err(Error::Timeout(timeout.reason));
        }
        if ready.contains(PollFlags::POLLIN) {
            self.listen()?;
        }
        if self.is_spent { Ok(to - from) } else { self.write(from, to) }
    }

    fn write(&mut self, from: usize, to: usize) -> Result<usize, Error> {
        match (&self.stream).write(&self.buffers.output()[from..to]) {
            Ok(count) => Ok(count),
            Err(error) if [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted].contains(&error.kind()) => Ok(0),
            Err(error) => {
                // The reason may have come since it was last listened.
                let _ = self.listen();
                if self.is_spent { Ok(to - from) } else { Err(error.into()) }
            }
        }
    }
}

impl Transport for Connection {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let timeout = timeout.for_write();
        let mut sent = 0;
        while sent < amount && !self.is_spent {
            sent += self.send(sent, amount, &timeout)?;
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let timeout = timeout.for_read();
        if std::mem::take(&mut self.has_news) {
            return Ok(true);
        }
        loop {
            if self.wait(PollFlags::POLLIN, timeout.not_zero().map(|time| *time))?.is_empty() {
                return Err(Error::Timeout(timeout.reason));
            }
            match self.receive() {
                Ok(count) => return Ok(count > 0),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn is_open(&mut self) -> bool {
        !self.is_spent && self.wait(PollFlags::POLLIN, Some(Duration::ZERO)).is_ok_and(|ready| ready.is_empty())
    }
}

/// Whether these bytes of a server begin a reply that is no interim one (RFC 9110 §15.2). What is no reply at all counts as
/// one: there is nothing to wait for behind it.
fn begins_final_reply(mut input: &[u8]) -> bool {
    const STATUS_CLASS: usize = b"HTTP/1.1 ".len();
    while let Some(class) = input.get(STATUS_CLASS) {
        if *class != b'1' {
            return true;
        }
        match input.windows(4).position(|window| window == b"\r\n\r\n") {
            Some(end) => input = &input[end + 4..],
            None => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn an_interim_reply_is_no_answer() {
        let input = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 104 x\r\nUpload-Offset: 5\r\n\r\nHTTP/1.1 507 Insufficient Storage\r\n";
        let status = input.windows(12).position(|window| window == b"HTTP/1.1 507").unwrap();
        for end in 0..input.len() {
            assert_eq!(begins_final_reply(&input[..end]), end > status + 9, "{end}");
        }
        assert!(begins_final_reply(b"no HTTP at all"));
    }

    #[test]
    fn a_reply_before_a_reset_is_heard_by_the_write_that_fails() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        stream.write_all(b"unread").unwrap();
        while peer.peek(&mut [0; 6]).unwrap() < 6 {}
        peer.write_all(b"HTTP/1.1 507 Insufficient Storage\r\n\r\n").unwrap();
        drop(peer);
        stream.set_nonblocking(true).unwrap();
        let buffers = LazyBuffers::new(1024, 1024);
        let answered = Answered::default();
        let mut connection =
            Connection { stream, buffers, answered: answered.clone(), is_spent: false, has_news: false };
        while !connection.wait(PollFlags::POLLHUP, None).unwrap().contains(PollFlags::POLLHUP) {}
        assert_eq!(connection.write(0, 1000).unwrap(), 1000);
        assert!(answered.get() && connection.buffers.input().starts_with(b"HTTP/1.1 507 "));
        assert!(!connection.is_open(), "it must not be used again");
    }
}
