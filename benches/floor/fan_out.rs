//! A bare loop of send(2): what is published goes to every subscriber in one call each, and nothing else is done. It is what one
//! event to many costs the kernel, which over loopback does the receiving half within the call too.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// A request, its body with it, comes in one piece; a longer one has no answer.
const REQUEST_LEN_MAX: usize = 64 << 10;
const FIELDS_MAX: usize = 32;
const STREAM_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
const PUBLISHED: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
/// A check that stalls fails then.
const PATIENCE: Duration = Duration::from_secs(20);
const LISTENER: u64 = u64::MAX;

struct FanOut {
    epoll: Epoll,
    /// By token; `None` where it is gone.
    streams: Vec<Option<TcpStream>>,
    /// The tokens of those that have asked for the stream.
    subscribers: Vec<usize>,
    input: Vec<u8>,
    event: Vec<u8>,
}

/// Serves: a GET subscribes, and what a POST brings is sent to all. There is one topic.
///
/// # Errors
/// There is no epoll to be had, or it does not accept any more.
pub fn serve(listener: &TcpListener) -> io::Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    let mut all = FanOut {
        epoll,
        streams: Vec::new(),
        subscribers: Vec::new(),
        input: vec![0; REQUEST_LEN_MAX],
        event: Vec::new(),
    };
    let mut events = vec![EpollEvent::empty(); 64];
    loop {
        let count = all.epoll.wait(&mut events, EpollTimeout::NONE)?;
        for event in &events[..count] {
            match event.data() {
                LISTENER => all.accept(listener)?,
                token if all.receive(token as usize).is_none() => all.streams[token as usize] = None,
                _ => {}
            }
        }
    }
}

impl FanOut {
    fn accept(&mut self, listener: &TcpListener) -> io::Result<()> {
        let (stream, _) = listener.accept()?;
        stream.set_nonblocking(true)?;
        self.epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, self.streams.len() as u64))?;
        self.streams.push(Some(stream));
        Ok(())
    }

    /// `None` ends the connection.
    fn receive(&mut self, token: usize) -> Option<()> {
        let mut stream = self.streams[token].as_ref()?;
        let len = stream.read(&mut self.input).ok().filter(|&len| len > 0)?;
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut head = httparse::Request::new(&mut fields);
        let Ok(httparse::Status::Complete(head_len)) = head.parse(&self.input[..len]) else { return None };
        if head.method == Some("GET") {
            self.subscribers.push(token);
            return stream.write_all(STREAM_HEAD).ok();
        }
        let data = &self.input[head_len..len];
        self.event.clear();
        let event_len = "data: ".len() + data.len() + "\n\n".len();
        write!(self.event, "{event_len:x}\r\ndata: ").ok()?;
        self.event.extend_from_slice(data);
        self.event.extend_from_slice(b"\n\n\r\n");
        stream.write_all(PUBLISHED).ok()?;
        self.publish();
        Some(())
    }

    /// A subscriber whose socket is full, or gone, is let go.
    fn publish(&mut self) {
        let (streams, event) = (&mut self.streams, &self.event);
        self.subscribers.retain(|&token| {
            let sent = streams[token].as_ref().is_some_and(|mut stream| stream.write_all(event).is_ok());
            if !sent {
                streams[token] = None;
            }
            sent
        });
    }
}

/// Checks that two subscribers have what is published.
///
/// # Errors
/// They have not.
pub fn check() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let (failed, failure) = mpsc::channel();
    // It ends with the process.
    thread::spawn(move || failed.send(serve(&listener)));
    let mut subscribers = [subscribe(address)?, subscribe(address)?];
    let mut publisher = TcpStream::connect(address)?;
    publisher.set_read_timeout(Some(PATIENCE))?;
    for data in ["one", "two"] {
        // In one piece, as it has to come.
        publisher.write_all(format!("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n{data}").as_bytes())?;
        expect(&mut publisher, PUBLISHED)?;
        for subscriber in &mut subscribers {
            expect(subscriber, format!("b\r\ndata: {data}\n\n\r\n").as_bytes())?;
        }
    }
    failure.try_recv().unwrap_or(Ok(()))
}

fn subscribe(address: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
    expect(&mut stream, STREAM_HEAD)?;
    Ok(stream)
}

fn expect(stream: &mut TcpStream, expected: &[u8]) -> io::Result<()> {
    let mut bytes = vec![0; expected.len()];
    stream.read_exact(&mut bytes)?;
    if bytes == expected { Ok(()) } else { Err(io::Error::other(String::from_utf8_lossy(&bytes))) }
}
