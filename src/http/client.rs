//! A client for sub-requests: what another server says to one GET, on a connection of its own.
//!
//! 1. connect;
//! 2. send the head, which is all of the request;
//! 3. receive until the reply's head is whole, interim replies passed over;
//! 4. close, whatever follows.
//!
//! All of it within one deadline, and of the reply no more than [`Limits::SUBREQUEST_HEAD_LEN`]. What comes is copied to the heap
//! at once: no receive buffer waits for the other server. Dropping the future closes the connection. Connections are not
//! kept: a pool would have to tell a connection that the other side is about to close from one that is good, which costs a
//! retry and a body that is read to its end.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use http::StatusCode;

use crate::driver::More;
use crate::driver::op::{Expect, RemoteAddress};
use crate::error::Error;
use crate::limits::Limits;
use crate::rt::Runtime;
use crate::rt::net::Socket;
use crate::rt::timer::Timer;

/// Fields of a reply; more are refused.
const FIELDS: usize = 100;

/// The head of a GET.
#[derive(Clone, Debug)]
pub struct RequestLines(Vec<u8>);

impl RequestLines {
    /// `GET target`, with this Host.
    pub fn get(target: &str, host: &str) -> Self {
        let mut lines = RequestLines(Vec::new());
        lines.0.extend_from_slice(b"GET ");
        lines.append(target.as_bytes());
        lines.0.extend_from_slice(b" HTTP/1.1\r\n");
        lines.field("Host", host.as_bytes());
        lines
    }

    /// Adds a field. No value ends its line: a control byte becomes a space, which the head of a request can't bring anyway (F3).
    pub fn field(&mut self, name: &'static str, value: &[u8]) {
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b": ");
        self.append(value);
        self.0.extend_from_slice(b"\r\n");
    }

    fn append(&mut self, text: &[u8]) {
        let is_control = |byte: u8| (byte < b' ' && byte != b'\t') || byte == 0x7f;
        self.0.extend(text.iter().map(|byte| if is_control(*byte) { b' ' } else { *byte }));
    }

    /// The bytes that are sent.
    fn finish(mut self) -> Vec<u8> {
        self.0.extend_from_slice(b"Connection: close\r\n\r\n");
        self.0
    }
}

/// The head of a reply, as far as anybody asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyHead {
    /// The status, not an interim one.
    pub status: StatusCode,
    /// The values of every WWW-Authenticate field, in order.
    pub challenges: Vec<Vec<u8>>,
}

/// Why there is no reply.
#[derive(Debug)]
pub enum NoReply {
    /// None came in time.
    Late,
    /// The other server can't be reached, or what it says is no reply.
    Broken(Error),
}

/// Asks another server, and waits for the head of its reply.
///
/// # Errors
/// Why there is none.
pub async fn ask(
    runtime: &Rc<Runtime>,
    to: &RemoteAddress,
    request: RequestLines,
    within: Duration,
) -> Result<ReplyHead, NoReply> {
    let timer = Timer::new(runtime);
    timer.set_after(within);
    match timer.race(exchange(runtime, to, &request.finish())).await {
        Ok(outcome) => outcome.map_err(|error| NoReply::Broken(error.retry_later())),
        Err(_) => Err(NoReply::Late),
    }
}

async fn exchange(runtime: &Rc<Runtime>, to: &RemoteAddress, request: &[u8]) -> Result<ReplyHead, Error> {
    let failed = |what: &'static str| move |error: io::Error| Error::upstream(what).because(error);
    let socket = Socket::connect(runtime, to).await.map_err(failed("it can't be connected to"))?;
    send(&socket, request).await.map_err(failed("it does not take the request"))?;
    let mut head = Vec::new();
    loop {
        let received = socket.receive(Expect::Later).await.map_err(failed("the connection to it is broken"))?;
        let Some(buf) = received else { return Err(Error::upstream("it closed the connection without a reply")) };
        let room = Limits::SUBREQUEST_HEAD_LEN - head.len();
        head.extend_from_slice(&buf[..buf.len().min(room)]);
        drop(buf);
        if let Some(reply) = parse(&head).map_err(Error::upstream)? {
            return Ok(reply);
        }
        if head.len() == Limits::SUBREQUEST_HEAD_LEN {
            return Err(Error::upstream("the head of its reply is too long"));
        }
    }
}

async fn send(socket: &Socket, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match socket.try_send(bytes, More::No) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.writable().await,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The first reply in these bytes that is not interim (RFC 9110 §15.2); `None` when it is not whole yet.
fn parse(mut bytes: &[u8]) -> Result<Option<ReplyHead>, &'static str> {
    loop {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS];
        let mut reply = httparse::Response::new(&mut fields);
        let len = match reply.parse(bytes) {
            Ok(httparse::Status::Complete(len)) => len,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err("its reply is no HTTP/1.1"),
        };
        let code = reply.code.unwrap_or_default();
        let status = StatusCode::from_u16(code).map_err(|_| "the status of its reply is none")?;
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return Err("it changed to another protocol, which nobody asked for");
        }
        if !status.is_informational() {
            let challenges = reply.headers.iter().filter(|field| field.name.eq_ignore_ascii_case("WWW-Authenticate"));
            return Ok(Some(ReplyHead { status, challenges: challenges.map(|field| field.value.to_vec()).collect() }));
        }
        bytes = &bytes[len..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_can_not_end_its_line() {
        let mut lines = RequestLines::get("/a\r\nX: y", "b");
        lines.field("X-Original-URI", b"/\r\nAuthorization: x\0\x7f\t\xff");
        let expected = b"GET /a  X: y HTTP/1.1\r\nHost: b\r\nX-Original-URI: /  Authorization: x  \t\xff\r\n\
                         Connection: close\r\n\r\n";
        assert_eq!(lines.finish(), expected);
    }

    /// However the bytes are cut, they say the same, and no earlier than all of them are there.
    #[track_caller]
    fn check(bytes: &str, expected: Result<(u16, &[&str]), &str>) {
        let whole = parse(bytes.as_bytes());
        match (&whole, expected) {
            (Ok(Some(reply)), Ok((status, challenges))) => {
                let found: Vec<_> = reply.challenges.iter().map(|value| String::from_utf8_lossy(value)).collect();
                assert_eq!((reply.status.as_u16(), found), (status, challenges.iter().map(|c| (*c).into()).collect()));
                (0..bytes.len()).for_each(|cut| assert_eq!(parse(&bytes.as_bytes()[..cut]), Ok(None), "{cut}"));
            }
            (Err(why), Err(expected)) => assert_eq!(*why, expected),
            (found, expected) => panic!("{found:?}, not {expected:?}"),
        }
    }

    #[test]
    fn a_reply_is_its_last_head() {
        check("HTTP/1.1 200 OK\r\n\r\n", Ok((200, &[])));
        check("HTTP/1.0 204\r\nA: b\r\n\r\n", Ok((204, &[])));
        check("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nA: b\r\n\r\nHTTP/1.1 403 No\r\n\r\n", Ok((403, &[])));
        let two = "HTTP/1.1 401 No\r\nwww-authenticate: Basic realm=\"a\"\r\nWWW-Authenticate: Bearer\r\n\r\n";
        check(two, Ok((401, &["Basic realm=\"a\"", "Bearer"])));
        check("HTTP/1.1 101 Switching\r\n\r\n", Err("it changed to another protocol, which nobody asked for"));
        check("SSH-2.0-OpenSSH\r\n", Err("its reply is no HTTP/1.1"));
        check("HTTP/1.1 099 No\r\n\r\n", Err("the status of its reply is none"));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(FIELDS + 1));
        check(&many, Err("its reply is no HTTP/1.1"));
    }
}
