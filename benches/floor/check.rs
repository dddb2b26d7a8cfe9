//! Whether every loop sends the right bytes: whole files and ranges, one after the other on a connection, and on many at once whose
//! sockets are full.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use clap::ValueEnum;

use crate::Kind;
use crate::client::{Head, Server, request, rule, write_file};

const SMALL: [(&str, u64); 3] = [("1.bin", 1), ("1k.bin", 1 << 10), ("32k.bin", 32 << 10)];
/// Longer than what a socket takes at once, and of an odd length.
const LARGE: (&str, u64) = ("large.bin", (12 << 20) + 12_345);
/// Of the large file: within a page, across pages, a chunk, more than a chunk off a page's start, the end.
const RANGES: [Range<u64>; 6] =
    [0..1, 4_095..4_097, 262_144..524_288, 1..524_288, 65_537..2_000_003, LARGE.1 - 70_000..LARGE.1];
const AT_ONCE: usize = 8;
/// A loop that stalls fails then.
const PATIENCE: Duration = Duration::from_secs(20);

/// Checks every loop.
///
/// # Errors
/// A loop does not start, or what it sends is wrong.
pub fn all() -> Result<(), Box<dyn Error>> {
    let root = tempfile::tempdir()?;
    for (name, len) in SMALL.into_iter().chain([LARGE]) {
        write_file(&root.path().join(name), len)?;
    }
    for kind in Kind::value_variants() {
        one(*kind, root.path()).map_err(|error| format!("{}: {error}", kind.name()))?;
        println!("{}: right", kind.name());
    }
    Ok(())
}

fn one(kind: Kind, root: &Path) -> io::Result<()> {
    let server = Server::start(kind, root)?;
    let mut asked: Vec<_> = SMALL.map(|(name, len)| (name, len, None)).into();
    if kind.is_for_large_files() {
        asked.extend(RANGES.map(|range| (LARGE.0, LARGE.1, Some(range))));
    }
    let mut stream = connect(&server)?;
    for (name, len, range) in asked.iter().chain(&asked) {
        stream.write_all(&request(name, range.clone()))?;
        expect(&mut stream, *len, range.clone())?;
    }
    let (name, len) = if kind.is_for_large_files() { LARGE } else { SMALL[2] };
    let mut streams = (0..AT_ONCE).map(|_| connect(&server)).collect::<io::Result<Vec<_>>>()?;
    for stream in &mut streams {
        stream.write_all(&request(name, None))?;
    }
    // The last is read first: by then the sockets of the others are full.
    for stream in streams.iter_mut().rev() {
        expect(stream, len, None)?;
    }
    // What has no answer ends its connection, and no other.
    streams[0].write_all(&request("none.bin", None))?;
    if streams[0].read(&mut [0])? != 0 {
        return Err(io::Error::other("an answer for a file that is not there"));
    }
    streams[1].write_all(&request(name, None))?;
    expect(&mut streams[1], len, None)
}

fn connect(server: &Server) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(server.address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Reads the reply to a request for a file of `len` bytes.
fn expect(stream: &mut TcpStream, len: u64, range: Option<Range<u64>>) -> io::Result<()> {
    let mut bytes = Vec::new();
    let head = loop {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        bytes.extend(byte);
        if let Some(head) = Head::parse(&bytes)? {
            break head;
        }
    };
    let asked = range.clone().unwrap_or(0..len);
    let expected = Head {
        len: bytes.len(),
        status: if range.is_some() { 206 } else { 200 },
        content_length: (asked.end - asked.start) as usize,
        content_range: range.map(|range| format!("bytes {}-{}/{len}", range.start, range.end - 1)),
    };
    if head != expected {
        return Err(io::Error::other(format!("{head:?} instead of {expected:?}")));
    }
    bytes.resize(head.content_length, 0);
    stream.read_exact(&mut bytes)?;
    match asked.clone().zip(&bytes).find(|&(at, byte)| *byte != rule(at)) {
        Some((at, _)) => Err(io::Error::other(format!("the byte at {at} of {asked:?} is wrong"))),
        None => Ok(()),
    }
}
