//! An upload, written as it goes: what stands between the bytes of the file, and which of its bytes come next. No descriptor and no
//! clock here.
//!
//! A file is as long as one likes and costs no memory: all connections send the same pieces of one buffer. As sent, a file is the
//! rule of [`verify`](crate::verify) over the first [`PIECE_LEN`] offsets, again and again; that length is a prime, so pieces
//! that a server drops, repeats or exchanges shift what follows. Where the file is to be the very one that `--write-fixture`
//! writes, each piece is computed before it is sent, which costs more than sending it: fit for checking, not for measuring.

use std::io::IoSlice;

use clap::ValueEnum;

use crate::verify::rule;

/// The largest prime below 256 KiB.
pub const PIECE_LEN: usize = 262_139;

/// Between the parts of a form. Random bytes hold it about never; the rule's do not.
const BOUNDARY: &str = "loadgen-5b1d7c0e93a84f62";

/// How a file is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// POST of a form with one file (RFC 7578).
    Multipart,
    /// PUT of the bytes, with their length.
    Put,
    /// PUT of the bytes in chunks (RFC 9112 §7.1).
    Chunked,
    /// POST that creates it and PATCH with the bytes (tus 1.0).
    Tus,
}

impl Form {
    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Form::Multipart => "multipart",
            Form::Put => "put",
            Form::Chunked => "chunked",
            Form::Tus => "tus",
        }
    }
}

/// What every connection uploads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// How it is sent.
    pub form: Form,
    /// The length of each file in bytes.
    pub len: u64,
    /// The path to upload to, or under.
    pub prefix: String,
}

/// What the bytes of a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// The first [`PIECE_LEN`] bytes of the rule, repeated.
    Repeated,
    /// The rule.
    Rule,
}

impl Upload {
    /// The first request for the file number `number` of connection `connection`. `fields` ends with the empty line.
    pub fn first(&self, connection: usize, number: u64, fields: &[u8]) -> Outgoing {
        let (prefix, len, name) = (&self.prefix, self.len, format!("load-{connection}-{number}"));
        let slash = if prefix.ends_with('/') { "" } else { "/" };
        match self.form {
            Form::Put => {
                Outgoing::new(format!("PUT {prefix}{slash}{name} HTTP/1.1\r\nContent-Length: {len}\r\n"), len, fields)
            }
            Form::Chunked => {
                let line = format!("PUT {prefix}{slash}{name} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n");
                Outgoing::new(line, len, fields).in_chunks()
            }
            Form::Multipart => {
                let before = format!(
                    "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
                     Content-Type: application/octet-stream\r\n\r\n"
                );
                let after = format!("\r\n--{BOUNDARY}--\r\n");
                let total = u128::from(len) + before.len() as u128 + after.len() as u128;
                let line = format!(
                    "POST {prefix} HTTP/1.1\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: {total}\r\n"
                );
                Outgoing::new(line, len, fields).between(before.as_bytes(), after.into_bytes())
            }
            Form::Tus => {
                let name = base64(name.as_bytes());
                let line = format!(
                    "POST {prefix} HTTP/1.1\r\nTus-Resumable: 1.0.0\r\nUpload-Length: {len}\r\n\
                     Upload-Metadata: filename {name}\r\nContent-Length: 0\r\n"
                );
                Outgoing::new(line, 0, fields)
            }
        }
    }

    /// The request that follows an answered one: the bytes, to the resource that a tus server has made at `location`.
    pub fn patch(&self, location: &str, fields: &[u8]) -> Outgoing {
        let (path, len) = (path_of(location), self.len);
        let line = format!(
            "PATCH {path} HTTP/1.1\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\n\
             Content-Type: application/offset+octet-stream\r\nContent-Length: {len}\r\n"
        );
        Outgoing::new(line, len, fields)
    }
}

/// The path of a Location, which may be a whole URL (RFC 9110 §10.2.2). Requests go to the server of the run in any case.
fn path_of(location: &str) -> &str {
    match location.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => location,
    }
}

/// RFC 4648 §4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let value = group.iter().fold(0, |sum, &byte| sum << 8 | u32::from(byte)) << (8 * (3 - group.len()));
        for digit in 0..4 {
            let character = DIGITS[(value >> (18 - 6 * digit)) as usize & 63];
            text.push(if digit <= group.len() { char::from(character) } else { '=' });
        }
    }
    text
}

/// A request that is being written.
#[derive(Debug, Default)]
pub struct Outgoing {
    /// What goes before the next byte of the file, and how much of it is written.
    text: Vec<u8>,
    written: usize,
    /// The next byte of the file, and the one at which text follows.
    at: u64,
    until: u64,
    len: u64,
    chunked: bool,
    /// What follows the file.
    after: Option<Vec<u8>>,
}

impl Outgoing {
    /// A request of this request line and these fields, whose body is `len` bytes of the file.
    fn new(line: String, len: u64, fields: &[u8]) -> Self {
        let mut text = line.into_bytes();
        text.extend_from_slice(fields);
        Outgoing { text, until: len, len, ..Outgoing::default() }
    }

    fn in_chunks(mut self) -> Self {
        (self.chunked, self.until, self.after) = (true, 0, Some(b"0\r\n\r\n".to_vec()));
        self.refill();
        self
    }

    fn between(mut self, before: &[u8], after: Vec<u8>) -> Self {
        self.text.extend_from_slice(before);
        self.after = Some(after);
        self
    }

    /// Whether all of it is written.
    pub fn is_done(&self) -> bool {
        self.written == self.text.len() && self.at == self.len && self.after.is_none()
    }

    /// How many bytes of the file are written.
    pub fn file_bytes(&self) -> u64 {
        self.at
    }

    /// What comes next: text, and then bytes of the file; either may be empty, and both are when all is written.
    pub fn next<'s>(&'s self, pieces: &'s mut Pieces) -> [IoSlice<'s>; 2] {
        let file = pieces.piece(self.at, self.until);
        [IoSlice::new(&self.text[self.written..]), IoSlice::new(file)]
    }

    /// Accounts for `len` bytes of what [`Outgoing::next`] gave.
    pub fn advance(&mut self, len: usize) {
        let of_text = len.min(self.text.len() - self.written);
        self.written += of_text;
        self.at += (len - of_text) as u64;
        debug_assert!(self.at <= self.until);
        if self.written == self.text.len() && self.at == self.until {
            self.refill();
        }
    }

    /// The text that follows the bytes up to `until`. What of the text is not written yet stays before it.
    fn refill(&mut self) {
        if self.written == self.text.len() {
            self.text.clear();
            self.written = 0;
        }
        if self.chunked && self.at > 0 && self.after.is_some() {
            self.text.extend_from_slice(b"\r\n");
        }
        if self.at < self.len {
            let chunk = (self.len - self.at).min(PIECE_LEN as u64);
            self.text.extend_from_slice(format!("{chunk:x}\r\n").as_bytes());
            self.until = self.at + chunk;
        } else if let Some(after) = self.after.take() {
            self.text.extend_from_slice(&after);
        }
    }
}

/// The buffer that all connections send from.
#[derive(Debug)]
pub struct Pieces {
    content: Content,
    buffer: Vec<u8>,
    /// The offset in a file that the buffer begins at.
    start: u64,
}

impl Pieces {
    /// Pieces of files with this content.
    pub fn new(content: Content) -> Self {
        Pieces { content, buffer: (0..PIECE_LEN as u64).map(rule).collect(), start: 0 }
    }

    /// Bytes of a file from `at`: as many as are at hand, and none at `until` or behind it.
    fn piece(&mut self, at: u64, until: u64) -> &[u8] {
        let begin = match self.content {
            Content::Repeated => (at % PIECE_LEN as u64) as usize,
            Content::Rule => {
                if !(self.start..self.start + PIECE_LEN as u64).contains(&at) {
                    self.start = at;
                    self.buffer.iter_mut().zip(at..).for_each(|(byte, at)| *byte = rule(at));
                }
                (at - self.start) as usize
            }
        };
        let len = (PIECE_LEN - begin).min(usize::try_from(until - at).unwrap_or(usize::MAX));
        &self.buffer[begin..begin + len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: &[u8] = b"Host: h\r\n\r\n";

    fn upload(form: Form, len: u64) -> Upload {
        Upload { form, len, prefix: "/up".to_string() }
    }

    /// All of a request, taken at most `step` bytes at a time.
    fn written(mut outgoing: Outgoing, content: Content, step: usize) -> Vec<u8> {
        let (mut wire, mut pieces) = (Vec::new(), Pieces::new(content));
        while !outgoing.is_done() {
            let mut taken = 0;
            for slice in outgoing.next(&mut pieces) {
                let len = slice.len().min(step - taken);
                wire.extend_from_slice(&slice[..len]);
                taken += len;
            }
            assert!(taken > 0, "it stands still after {} bytes", wire.len());
            outgoing.advance(taken);
        }
        wire
    }

    #[track_caller]
    fn check(form: Form, len: u64, head: &str, body: &[u8]) {
        let upload = upload(form, len);
        for (content, of) in [(Content::Rule, u64::MAX), (Content::Repeated, PIECE_LEN as u64)] {
            let body: Vec<u8> =
                if body.is_empty() { (0..len).map(|at| rule(at % of)).collect() } else { body.to_vec() };
            for step in [1, 7, 100_000, usize::MAX] {
                let wire = written(upload.first(3, 5, FIELDS), content, step);
                let (got_head, got_body) = wire.split_at(head.len());
                assert_eq!(String::from_utf8_lossy(got_head), head, "{form:?}");
                assert!(got_body == body, "{form:?} of {len} bytes, {content:?}, {step} at a time");
            }
        }
    }

    #[test]
    fn puts() {
        for len in [0, 1, 10, PIECE_LEN as u64, 2 * PIECE_LEN as u64 + 1] {
            let head = format!("PUT /up/load-3-5 HTTP/1.1\r\nContent-Length: {len}\r\nHost: h\r\n\r\n");
            check(Form::Put, len, &head, &[]);
        }
    }

    #[test]
    fn chunks() {
        let head = "PUT /up/load-3-5 HTTP/1.1\r\nTransfer-Encoding: chunked\r\nHost: h\r\n\r\n";
        check(Form::Chunked, 0, head, b"0\r\n\r\n");
        let three = [b"3\r\n", &[rule(0), rule(1), rule(2)][..], b"\r\n0\r\n\r\n"].concat();
        check(Form::Chunked, 3, head, &three);
        let wire = written(upload(Form::Chunked, PIECE_LEN as u64 + 1).first(3, 5, FIELDS), Content::Repeated, 1000);
        let end = [b"\r\n1\r\n", &[rule(0)][..], b"\r\n0\r\n\r\n"].concat();
        assert!(wire.starts_with(format!("{head}{PIECE_LEN:x}\r\n").as_bytes()) && wire.ends_with(&end));
    }

    #[test]
    fn forms() {
        let before = "--loadgen-5b1d7c0e93a84f62\r\nContent-Disposition: form-data; name=\"file\"; filename=\"load-3-5\"\r\n\
            Content-Type: application/octet-stream\r\n\r\n";
        let after = "\r\n--loadgen-5b1d7c0e93a84f62--\r\n";
        for file in [&b""[..], &[rule(0), rule(1)]] {
            let body = [before.as_bytes(), file, after.as_bytes()].concat();
            let head = format!(
                "POST /up HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=loadgen-5b1d7c0e93a84f62\r\n\
                 Content-Length: {}\r\nHost: h\r\n\r\n",
                body.len()
            );
            check(Form::Multipart, file.len() as u64, &head, &body);
        }
    }

    #[test]
    fn tus_creates_and_then_sends() {
        let upload = upload(Form::Tus, 10);
        let create = "POST /up HTTP/1.1\r\nTus-Resumable: 1.0.0\r\nUpload-Length: 10\r\nUpload-Metadata: filename bG9hZC0zLTU=\r\n\
            Content-Length: 0\r\nHost: h\r\n\r\n";
        assert_eq!(written(upload.first(3, 5, FIELDS), Content::Rule, 9), create.as_bytes());
        for location in ["/up/.uploads/x", "http://elsewhere:1/up/.uploads/x"] {
            let head = "PATCH /up/.uploads/x HTTP/1.1\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\n\
                Content-Type: application/offset+octet-stream\r\nContent-Length: 10\r\nHost: h\r\n\r\n";
            let expected: Vec<u8> = head.bytes().chain((0..10).map(rule)).collect();
            assert_eq!(written(upload.patch(location, FIELDS), Content::Rule, 9), expected);
        }
    }

    #[test]
    fn base64_pads() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn more_than_4_gib() {
        let len = (4 << 30) + 12_345;
        for form in [Form::Put, Form::Chunked, Form::Multipart] {
            let mut outgoing = upload(form, len).first(0, 0, FIELDS);
            let mut pieces = Pieces::new(Content::Repeated);
            let mut sent = 0;
            while !outgoing.is_done() {
                let at = outgoing.file_bytes();
                let [text, file] = outgoing.next(&mut pieces);
                assert!(file.first().is_none_or(|&byte| byte == rule(at % PIECE_LEN as u64)));
                sent += file.len() as u64;
                let both = text.len() + file.len();
                outgoing.advance(both);
            }
            assert_eq!((sent, outgoing.file_bytes()), (len, len), "{form:?}");
        }
    }

    #[test]
    fn a_prefix_may_end_in_a_slash() {
        let upload = Upload { prefix: "/up/".to_string(), ..upload(Form::Put, 0) };
        assert!(written(upload.first(0, 1, FIELDS), Content::Rule, 99).starts_with(b"PUT /up/load-0-1 HTTP/1.1\r\n"));
    }
}
