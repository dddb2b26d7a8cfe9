//! A client that sends exactly the bytes it is given and reads replies strictly (RFC 9112 §4–7): what a lenient client would
//! repair fails the test.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, setsockopt, sockopt};

use super::{PATIENCE, eventually};

/// One connection.
pub struct Client {
    stream: TcpStream,
    /// Bytes that have come and are not used yet.
    unread: Vec<u8>,
}

/// The status line and the fields of a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The minor version: 0 or 1.
    pub minor_version: u8,
    pub status: u16,
    /// Names as sent; values without the blanks around them. Not always text.
    pub fields: Vec<(String, Vec<u8>)>,
}

/// A whole reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub head: Head,
    pub body: Vec<u8>,
}

/// Why there is no whole reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The server closed in order before the first byte of it.
    Closed,
    /// The server closed in order within it, which no server may do where a length was promised; these body bytes had come.
    Cut(Vec<u8>),
    /// The server reset the connection; these body bytes had come.
    Reset(Vec<u8>),
}

impl Client {
    /// Connects to a server.
    pub fn connect(address: SocketAddr) -> Self {
        Client::over(TcpStream::connect_timeout(&address, PATIENCE).expect("a connection"))
    }

    /// Connects with a receive buffer this small, so that the server's side fills up when the client does not read.
    pub fn connect_narrow(address: SocketAddr, receive_buffer: usize) -> Self {
        let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let socket =
            nix::sys::socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
        setsockopt(&socket, sockopt::RcvBuf, &receive_buffer).expect("a small receive buffer");
        nix::sys::socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(address)).expect("a connection");
        Client::over(TcpStream::from(socket))
    }

    /// Connects to a server's Unix socket.
    pub fn connect_unix(path: &Path) -> Self {
        let stream = UnixStream::connect(path).expect("a connection");
        // The descriptor is a stream socket, and nothing that is done with it here is particular to TCP.
        Client::over(TcpStream::from(OwnedFd::from(stream)))
    }

    fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        // What is sent in pieces shall arrive in pieces. A Unix socket has no such option, and does not hold bytes back.
        let _ = stream.set_nodelay(true);
        Client { stream, unread: Vec::new() }
    }

    /// Sends these bytes.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the server takes what is sent");
    }

    /// Sends these bytes to a server that may have closed already.
    ///
    /// # Errors
    /// As write(2).
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Sends a request without a body; `fields` are whole lines, each with its CRLF.
    #[track_caller]
    pub fn ask(&mut self, method: &str, target: &str, fields: &str) {
        self.send(format!("{method} {target} HTTP/1.1\r\nHost: test.example\r\n{fields}\r\n"));
    }

    /// Sends a request without a body and reads its reply.
    #[track_caller]
    pub fn request(&mut self, method: &str, target: &str, fields: &str) -> Reply {
        self.ask(method, target, fields);
        self.reply_to(method)
    }

    /// `GET`, with these field lines.
    #[track_caller]
    pub fn get(&mut self, target: &str, fields: &str) -> Reply {
        self.request("GET", target, fields)
    }

    /// Reads the reply to a request with a method other than HEAD.
    #[track_caller]
    pub fn reply(&mut self) -> Reply {
        self.reply_to("GET")
    }

    /// Reads the reply to a request with this method.
    #[track_caller]
    pub fn reply_to(&mut self, method: &str) -> Reply {
        match self.try_reply_to(method) {
            Ok(reply) => reply,
            Err(broken) => panic!("no whole reply to {method}: {}", shown(&broken)),
        }
    }

    /// Reads the reply to a request with this method, from a server that may break it off. What is no HTTP fails the test
    /// all the same.
    ///
    /// # Errors
    /// How it ended.
    #[track_caller]
    pub fn try_reply_to(&mut self, method: &str) -> Result<Reply, Broken> {
        let head = self.try_head()?;
        let bodiless = method == "HEAD" || head.status < 200 || matches!(head.status, 204 | 304);
        let body = match (bodiless, head.is_chunked(), head.content_length()) {
            (true, ..) => Vec::new(),
            (_, true, _) => self.chunks()?,
            (_, false, Some(len)) => self.counted(len)?,
            (_, false, None) => {
                assert!(head.closes(), "a body of unknown length on a connection that goes on: {head:?}");
                self.until_close()?
            }
        };
        Ok(Reply { head, body })
    }

    /// Reads a reply's head and leaves its body.
    #[track_caller]
    pub fn head(&mut self) -> Head {
        self.try_head().unwrap_or_else(|broken| panic!("no head: {}", shown(&broken)))
    }

    /// As [`Client::head`], from a server that may break it off.
    ///
    /// # Errors
    /// How it ended; the bytes are those of the head.
    #[track_caller]
    pub fn try_head(&mut self) -> Result<Head, Broken> {
        let len = loop {
            if let Some(at) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            assert!(self.unread.len() < 1 << 20, "a head that does not end");
            if self.unread.is_empty() {
                match self.fill() {
                    Err(Broken::Cut(_)) => return Err(Broken::Closed),
                    other => other?,
                }
            } else {
                self.fill()?;
            }
        };
        let head: Vec<u8> = self.unread.drain(..len).collect();
        Ok(Head::parse(&head))
    }

    /// Reads exactly so many bytes of a body.
    #[track_caller]
    pub fn body(&mut self, len: usize) -> Vec<u8> {
        self.counted(len as u64).unwrap_or_else(|broken| panic!("not all of {len} bytes: {}", shown(&broken)))
    }

    /// Reads until the server closes; fails the test if it resets instead.
    #[track_caller]
    pub fn rest(&mut self) -> Vec<u8> {
        self.until_close().unwrap_or_else(|broken| panic!("no orderly close: {}", shown(&broken)))
    }

    /// Reads until the connection ends, whichever way: what came, and whether the end was an orderly close.
    pub fn rest_of_any_end(&mut self) -> (Vec<u8>, bool) {
        match self.until_close() {
            Ok(bytes) => (bytes, true),
            Err(Broken::Reset(bytes) | Broken::Cut(bytes)) => (bytes, false),
            Err(Broken::Closed) => (Vec::new(), true),
        }
    }

    /// Fails the test unless the server closes now, in order and without another byte.
    #[track_caller]
    pub fn expect_close(&mut self) {
        let rest = self.rest();
        assert!(rest.is_empty(), "more bytes before the close: {}", String::from_utf8_lossy(&rest));
    }

    /// Says that nothing more will be sent; replies can still be read.
    #[track_caller]
    pub fn finish(&mut self) {
        self.stream.shutdown(Shutdown::Write).expect("half a close");
    }

    /// As [`Client::finish`], on a connection that the server may have ended already.
    pub fn finish_if_open(&mut self) {
        // Nothing is lost where there is no connection any more.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Reads so many bytes of whatever comes, heads included, and forgets them.
    #[track_caller]
    pub fn skip(&mut self, len: usize) {
        self.body(len);
    }

    /// Waits until a head and so many bytes of a body have come, and leaves them with the kernel.
    #[track_caller]
    pub fn expect_waiting(&self, len: usize) {
        let mut bytes = vec![0; 4096 + len];
        eventually(PATIENCE, || {
            let come = self.stream.peek(&mut bytes).expect("bytes that wait");
            bytes[..come].windows(4).position(|four| four == b"\r\n\r\n").is_some_and(|end| come >= end + 4 + len)
        });
    }

    /// Drops the connection with a reset, as a client does that crashes or closes over unread bytes.
    pub fn reset(self) {
        let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        // Fails only when the other side has torn the connection down before, which is as good.
        let _ = setsockopt(&self.stream, sockopt::Linger, &linger);
    }

    fn counted(&mut self, len: u64) -> Result<Vec<u8>, Broken> {
        let len = usize::try_from(len).expect("a body that fits in memory");
        while self.unread.len() < len {
            if let Err(broken) = self.fill() {
                return Err(broken.with(std::mem::take(&mut self.unread)));
            }
        }
        let rest = self.unread.split_off(len);
        Ok(std::mem::replace(&mut self.unread, rest))
    }

    fn until_close(&mut self) -> Result<Vec<u8>, Broken> {
        loop {
            match self.fill() {
                Ok(()) => {}
                Err(Broken::Cut(_)) => return Ok(std::mem::take(&mut self.unread)),
                Err(broken) => return Err(broken.with(std::mem::take(&mut self.unread))),
            }
        }
    }

    /// A chunked body (RFC 9112 §7.1); the server sends neither extensions nor trailers.
    #[track_caller]
    fn chunks(&mut self) -> Result<Vec<u8>, Broken> {
        let mut body = Vec::new();
        loop {
            let line = self.line().map_err(|broken| broken.with(body.clone()))?;
            let digits = std::str::from_utf8(&line).expect("a chunk's length");
            assert!(
                !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit()),
                "a chunk's length: {digits:?}"
            );
            let len = u64::from_str_radix(digits, 16).expect("a chunk's length");
            let chunk = self.counted(len).map_err(|broken| broken.behind(&body))?;
            body.extend(chunk);
            let end = self.line().map_err(|broken| broken.with(body.clone()))?;
            assert!(end.is_empty(), "a chunk is longer than it says");
            if len == 0 {
                return Ok(body);
            }
        }
    }

    /// The data of the next chunk of a body; empty is the last one.
    ///
    /// # Errors
    /// How it ended.
    #[track_caller]
    pub fn chunk(&mut self) -> Result<Vec<u8>, Broken> {
        let line = self.line()?;
        let len = u64::from_str_radix(std::str::from_utf8(&line).expect("a chunk's length"), 16).expect("a length");
        let data = self.counted(len)?;
        let end = self.line()?;
        assert!(end.is_empty(), "a chunk is longer than it says");
        Ok(data)
    }

    fn line(&mut self) -> Result<Vec<u8>, Broken> {
        loop {
            if let Some(at) = self.unread.windows(2).position(|window| window == b"\r\n") {
                let mut line: Vec<u8> = self.unread.drain(..at + 2).collect();
                line.truncate(at);
                return Ok(line);
            }
            self.fill()?;
        }
    }

    /// Waits for bytes. The bytes in an error are for the caller to fill in.
    fn fill(&mut self) -> Result<(), Broken> {
        let mut some = [0; 64 << 10];
        match self.stream.read(&mut some) {
            Ok(0) => Err(Broken::Cut(Vec::new())),
            Ok(len) => {
                self.unread.extend_from_slice(&some[..len]);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                Err(Broken::Reset(Vec::new()))
            }
            Err(error) => panic!("the server neither answers nor closes: {error}"),
        }
    }
}

impl Broken {
    fn with(self, bytes: Vec<u8>) -> Self {
        match self {
            Broken::Closed => Broken::Closed,
            Broken::Cut(_) => Broken::Cut(bytes),
            Broken::Reset(_) => Broken::Reset(bytes),
        }
    }

    fn behind(self, before: &[u8]) -> Self {
        match self {
            Broken::Closed => Broken::Closed,
            Broken::Cut(bytes) => Broken::Cut([before, &bytes].concat()),
            Broken::Reset(bytes) => Broken::Reset([before, &bytes].concat()),
        }
    }
}

fn shown(broken: &Broken) -> String {
    match broken {
        Broken::Closed => "closed before it".to_owned(),
        Broken::Cut(bytes) => format!("closed within it, after {} bytes of body", bytes.len()),
        Broken::Reset(bytes) => format!("reset, after {} bytes of body", bytes.len()),
    }
}

impl Head {
    #[track_caller]
    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let mut lines = bytes.strip_suffix(b"\r\n\r\n").expect("a whole head").split(|b| *b == b'\n');
        let line = lines.next().map(|line| String::from_utf8_lossy(line).into_owned()).expect("a status line");
        let line = line.strip_suffix('\r').unwrap_or(&line);
        let minor_version = match line.get(..9) {
            Some("HTTP/1.1 ") => 1,
            Some("HTTP/1.0 ") => 0,
            _ => panic!("no status line: {line:?}"),
        };
        let (status, reason) = line[9..].split_once(' ').unwrap_or_else(|| panic!("no status line: {line:?}"));
        assert!(status.len() == 3 && status.bytes().all(|b| b.is_ascii_digit()), "no status: {line:?}");
        assert!(reason.bytes().all(|b| b == b' ' || b.is_ascii_graphic()), "no reason: {line:?}");
        let fields: Vec<(String, Vec<u8>)> = lines.map(|line| field(line, &text)).collect();
        let head = Head { minor_version, status: status.parse().expect("three digits"), fields };
        head.check_framing();
        head
    }

    #[track_caller]
    fn check_framing(&self) {
        let (lengths, codings) = (self.all("Content-Length").len(), self.all("Transfer-Encoding").len());
        assert!(lengths + codings <= 1, "framed twice: {self:?}");
        assert!(self.all("Date").len() <= 1 && self.all("Connection").len() <= 1, "a field twice: {self:?}");
        if self.status < 200 || self.status == 204 {
            // RFC 9110 §8.6, RFC 9112 §6.1.
            assert_eq!(lengths + codings, 0, "framing where none may be: {self:?}");
        }
    }

    /// The value of a field that comes at most once, if it is there.
    #[track_caller]
    pub fn field(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() <= 1, "{name} comes {} times: {self:?}", all.len());
        all.first().map(|value| std::str::from_utf8(value).expect("a field of text"))
    }

    /// The values of a field, one for each line.
    pub fn all(&self, name: &str) -> Vec<&[u8]> {
        self.fields.iter().filter(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| &value[..]).collect()
    }

    /// Whether the server says that it will close.
    pub fn closes(&self) -> bool {
        match self.field("Connection") {
            Some(value) if self.minor_version == 0 => !value.eq_ignore_ascii_case("keep-alive"),
            Some(value) => value.eq_ignore_ascii_case("close"),
            None => self.minor_version == 0,
        }
    }

    /// The length that it promises.
    #[track_caller]
    pub fn content_length(&self) -> Option<u64> {
        self.field("Content-Length").map(|value| {
            assert!(value.bytes().all(|b| b.is_ascii_digit()), "Content-Length: {value}");
            value.parse().expect("a length")
        })
    }

    fn is_chunked(&self) -> bool {
        let coding = self.field("Transfer-Encoding");
        assert!(coding.is_none_or(|coding| coding == "chunked"), "a coding that was not asked for: {self:?}");
        coding.is_some()
    }
}

impl Reply {
    pub fn status(&self) -> u16 {
        self.head.status
    }

    /// See [`Head::field`].
    #[track_caller]
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.field(name)
    }

    /// The body, which has to be text.
    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body of text")
    }

    /// The same reply; fails the test when it has another status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.head.status, status, "{:?} {}", self.head, String::from_utf8_lossy(&self.body));
        self
    }
}

#[track_caller]
fn field(line: &[u8], head: &str) -> (String, Vec<u8>) {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let colon = line.iter().position(|b| *b == b':').unwrap_or_else(|| panic!("a line without a colon: {head:?}"));
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    let token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    assert!(!name.is_empty() && name.iter().all(token), "a field's name is no token: {head:?}");
    assert!(!value.iter().any(|b| b.is_ascii_control() && *b != b'\t'), "a control byte in a field: {head:?}");
    (String::from_utf8_lossy(name).into_owned(), value.to_vec())
}
