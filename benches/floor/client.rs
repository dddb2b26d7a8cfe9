//! What asks: a loop in a process of its own, the files it serves, and requests over plain sockets.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::Kind;

/// One loop as a server.
pub struct Server {
    pub kind: Kind,
    pub address: SocketAddr,
    process: Child,
}

impl Server {
    /// Starts this program again as a server; it runs on the processors that the calling thread may use now.
    ///
    /// # Errors
    /// It can't be started, or does not say where it listens.
    pub fn start(kind: Kind, root: &Path) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["serve", &kind.name(), "--listen", "127.0.0.1:0", "--root"]).arg(root);
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        if let Some(output) = process.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        let mut server = Server { kind, address: SocketAddr::from(([0; 4], 0)), process };
        let address = line.trim().strip_prefix("listening http://").and_then(|address| address.parse().ok());
        server.address = address.ok_or_else(|| io::Error::other(format!("{} did not start", kind.name())))?;
        Ok(server)
    }

    /// The processor time that all its threads have used, in clock ticks (proc_pid_stat(5)).
    ///
    /// # Errors
    /// It is gone.
    pub fn ticks(&self) -> io::Result<u64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        // The name, in parentheses, may hold spaces; user and system time are the 12th and the 13th field behind it.
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        Ok(fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Neither fails but for a process that is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The byte at `offset` of every file, the same as `loadgen --verify` expects (`tools/loadgen/src/verify.rs`).
pub fn rule(offset: u64) -> u8 {
    (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// Writes a file by the rule.
///
/// # Errors
/// It can't be written.
pub fn write_file(path: &Path, len: u64) -> io::Result<()> {
    fs::write(path, (0..len).map(rule).collect::<Vec<_>>())?;
    // Writing it out later would be measured with the loops.
    fs::File::open(path)?.sync_all()
}

/// A request for a file, or for some bytes (half-open) of it.
pub fn request(name: &str, range: Option<Range<u64>>) -> Vec<u8> {
    let range = range.map(|range| format!("Range: bytes={}-{}\r\n", range.start, range.end - 1)).unwrap_or_default();
    format!("GET /{name} HTTP/1.1\r\nHost: localhost\r\n{range}\r\n").into_bytes()
}

/// What a client has to know of a reply's head.
#[derive(Debug, PartialEq)]
pub struct Head {
    /// Bytes.
    pub len: usize,
    pub status: u16,
    /// Of the body, in bytes.
    pub content_length: usize,
    pub content_range: Option<String>,
}

impl Head {
    /// Reads the head at the beginning of `bytes`: `None` while it is not whole.
    ///
    /// # Errors
    /// It is no head, or does not say how long the body is.
    pub fn parse(bytes: &[u8]) -> io::Result<Option<Self>> {
        let mut fields = [httparse::EMPTY_HEADER; 8];
        let mut reply = httparse::Response::new(&mut fields);
        let httparse::Status::Complete(len) = reply.parse(bytes).map_err(io::Error::other)? else { return Ok(None) };
        let field = |name: &str| {
            let field = reply.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name))?;
            std::str::from_utf8(field.value).ok()
        };
        let content_length = field("content-length").and_then(|value| value.parse().ok());
        let content_length = content_length.ok_or_else(|| io::Error::other("no length"))?;
        let content_range = field("content-range").map(str::to_owned);
        Ok(Some(Head { len, status: reply.code.unwrap_or(0), content_length, content_range }))
    }
}
