//! A strict reader of replies: what RFC 9112 does not allow is a panic.

/// One reply.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub body: Vec<u8>,
    /// The client was told that the connection ends.
    pub closes: bool,
    fields: Vec<(String, String)>,
}

impl Reply {
    /// The only field of this name.
    #[track_caller]
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut values = self.fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        let value = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "{name} twice");
        value
    }
}

/// A head, and how the body behind it is framed.
pub struct Head {
    pub reply: Reply,
    pub len: usize,
    pub framing: Framing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

/// The head at the beginning of these bytes, if it is whole.
pub fn head(bytes: &[u8], to_head: bool) -> Option<Head> {
    let end = memchr::memmem::find(bytes, b"\r\n\r\n")?;
    let text = std::str::from_utf8(&bytes[..end]).expect("ASCII");
    let mut lines = text.split("\r\n");
    let status_line = lines.next().expect("a status line");
    let status = status_line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).expect("HTTP/1.1 and a status");
    let status: u16 = status.parse().expect("a status of three digits");
    let field = |line: &str| {
        let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("no field: {line:?}"));
        assert!(!name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'), "{line:?}");
        assert!(!value.bytes().any(|b| b.is_ascii_control()), "{line:?}");
        (name.to_owned(), value.to_owned())
    };
    let mut reply = Reply { status, body: Vec::new(), closes: false, fields: lines.map(field).collect() };
    reply.closes = reply.field("Connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    let len = reply.field("Content-Length").map(|len| len.parse().expect("a length"));
    let chunked = reply.field("Transfer-Encoding").inspect(|coding| assert_eq!(*coding, "chunked")).is_some();
    assert!(!(len.is_some() && chunked), "length and coding at once");
    assert!(status < 200 || reply.field("Date").is_some(), "no Date");
    let framing = match (status, len) {
        (100..200 | 204 | 304, _) => Framing::Length(0),
        _ if to_head => Framing::Length(0),
        (_, Some(len)) => Framing::Length(len),
        (_, None) if chunked => Framing::Chunked,
        _ => {
            assert!(reply.closes, "a body without an end");
            Framing::UntilClose
        }
    };
    Some(Head { reply, len: end + 4, framing })
}

/// The first reply of these bytes and its length, if it is whole. `ended` says that nothing follows them.
pub fn take(bytes: &[u8], to_head: bool, ended: bool) -> Option<(Reply, usize)> {
    let Head { mut reply, len, framing } = head(bytes, to_head)?;
    let rest = &bytes[len..];
    let (body, used) = match framing {
        Framing::Length(body_len) => (rest.get(..body_len)?.to_vec(), body_len),
        Framing::Chunked if memchr::memmem::find(rest, b"0\r\n\r\n").is_none() => return None,
        Framing::Chunked => dechunk(rest)?,
        Framing::UntilClose if ended => (rest.to_vec(), rest.len()),
        Framing::UntilClose => return None,
    };
    reply.body = body;
    Some((reply, len + used))
}

/// The chunks that are whole, and whether the last one is among them: the body and the bytes used.
fn dechunk(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut body = Vec::new();
    let mut at = 0;
    loop {
        let line = memchr::memmem::find(&bytes[at..], b"\r\n")?;
        let digits = std::str::from_utf8(&bytes[at..at + line]).expect("ASCII");
        let len = usize::from_str_radix(digits, 16).unwrap_or_else(|_| panic!("no chunk size: {digits:?}"));
        at += line + 2;
        let chunk = bytes.get(at..at + len + 2)?;
        assert_eq!(&chunk[len..], b"\r\n", "the end of a chunk");
        at += len + 2;
        if len == 0 {
            return Some((body, at));
        }
        body.extend_from_slice(&chunk[..len]);
    }
}

/// The parts of a multipart/byteranges body: the value of Content-Range and the bytes of each.
pub fn parts(reply: &Reply) -> Vec<(String, Vec<u8>)> {
    let content_type = reply.field("Content-Type").expect("a type");
    let boundary = content_type.strip_prefix("multipart/byteranges; boundary=").expect("multipart").trim_matches('"');
    let delimiter = format!("\r\n--{boundary}");
    let mut rest = &*reply.body;
    if !rest.starts_with(b"\r\n") {
        rest = rest.strip_prefix(format!("--{boundary}").as_bytes()).expect("a first delimiter");
    } else {
        rest = rest.strip_prefix(delimiter.as_bytes()).expect("a first delimiter");
    }
    let mut parts = Vec::new();
    loop {
        if let Some(after) = rest.strip_prefix(b"--") {
            assert!(after.is_empty() || after == b"\r\n", "bytes behind the last delimiter");
            return parts;
        }
        rest = rest.strip_prefix(b"\r\n").expect("the end of a delimiter");
        let head_len = memchr::memmem::find(rest, b"\r\n\r\n").expect("a part's head");
        let head = std::str::from_utf8(&rest[..head_len]).expect("ASCII");
        let range = head.split("\r\n").find_map(|line| line.strip_prefix("Content-Range: ")).expect("Content-Range");
        rest = &rest[head_len + 4..];
        let len = memchr::memmem::find(rest, delimiter.as_bytes()).expect("a delimiter");
        parts.push((range.to_owned(), rest[..len].to_vec()));
        rest = &rest[len + delimiter.len()..];
    }
}
