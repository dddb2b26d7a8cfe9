//! As much of HTTP as a floor needs: the files, with the replies that are ready in memory, and what a request asks of them.
//!
//! Anything but one whole GET of a file that is there has no answer; the loops close the connection then.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;

/// Replies up to this many bytes of body are kept whole, in one piece with their heads.
const PREPARED_MAX: u64 = 32 << 10;
const FIELDS_MAX: usize = 32;

/// An open file.
pub struct Resource {
    pub file: File,
    /// Bytes.
    pub len: u64,
    /// Head and body of the reply to a request for all of it.
    pub prepared: Option<Vec<u8>>,
}

/// The files of one folder by the path of their requests. They stay open, and their bytes in place, until the process ends:
/// so the kernel may be given either.
pub struct Site(HashMap<String, Resource>);

impl Site {
    /// Opens every file of `root`.
    ///
    /// # Errors
    /// The folder or one of its files can't be read.
    pub fn open(root: &Path) -> io::Result<&'static Site> {
        let mut resources = HashMap::new();
        for entry in fs::read_dir(root)? {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let len = fs::metadata(&path)?.len();
            if path.is_file() && len > 0 {
                let mut resource = Resource { file: File::open(&path)?, len, prepared: None };
                if len <= PREPARED_MAX {
                    let mut reply = Vec::new();
                    Request { resource: &resource, range: None, last: false }.write_head(&mut reply);
                    reply.extend(fs::read(&path)?);
                    resource.prepared = Some(reply);
                }
                resources.insert(format!("/{name}"), resource);
            }
        }
        Ok(Box::leak(Box::new(Site(resources))))
    }

    /// What `input` asks for: `None` when that is not exactly one request that can be answered.
    pub fn request(&self, input: &[u8]) -> Option<Request<'_>> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut head = httparse::Request::new(&mut fields);
        let whole = head.parse(input).is_ok_and(|status| status == httparse::Status::Complete(input.len()));
        if !whole || head.method != Some("GET") {
            return None;
        }
        let resource = self.0.get(head.path?)?;
        let mut request = Request { resource, range: None, last: head.version == Some(0) };
        for field in head.headers.iter() {
            if field.name.eq_ignore_ascii_case("range") {
                request.range = Some(range(field.value, resource.len)?);
            } else if field.name.eq_ignore_ascii_case("connection") {
                request.last |= field.value.eq_ignore_ascii_case(b"close");
            }
        }
        Some(request)
    }
}

/// One GET.
pub struct Request<'a> {
    pub resource: &'a Resource,
    /// The bytes that are asked for, half-open, where that is not all of them.
    pub range: Option<Range<u64>>,
    /// Whether the connection ends with the reply.
    pub last: bool,
}

impl Request<'_> {
    /// Appends the head of the reply.
    pub fn write_head(&self, out: &mut Vec<u8>) {
        let len = self.resource.len;
        let written = match &self.range {
            None => write!(out, "HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n"),
            // Inclusive on the wire (RFC 9110 §14.4).
            Some(Range { start, end }) => write!(
                out,
                "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {start}-{}/{len}\r\nContent-Length: {}\r\n\r\n",
                end - 1,
                end - start
            ),
        };
        written.expect("a vector takes everything");
    }
}

/// `bytes=FIRST-LAST`, cut at the file's end.
fn range(value: &[u8], len: u64) -> Option<Range<u64>> {
    let (first, last) = std::str::from_utf8(value).ok()?.strip_prefix("bytes=")?.split_once('-')?;
    let (start, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let end = last.checked_add(1)?.min(len);
    (start < end).then_some(start..end)
}
