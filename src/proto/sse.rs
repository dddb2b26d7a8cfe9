//! Server-sent events (WHATWG HTML, "Server-sent events"): an event in, the lines of the stream out.
//!
//! ```text
//!   id: 7 ␊  event: tick ␊  retry: 3000 ␊  data: first line ␊  data: second ␊  ␊
//! ```
//!
//! A line of the stream ends at CR, LF or both, so data that holds one becomes as many `data` lines as it has (S2), and no other
//! field may hold any. What a field may hold is decided here, and checked where a value comes in: the encoder is never handed
//! what it can't write.

use std::fmt;
use std::time::Duration;

/// The media type of a stream of events.
pub const MEDIA_TYPE: &str = "text/event-stream";

/// What keeps a stream alive and shows whether its reader is: a comment, which readers pass over (S2).
pub const HEARTBEAT: &[u8] = b":\n\n";

/// The longest id, event type or key, in bytes: a client sends an id back in a field of its request.
pub const NAME_LEN: usize = 1024;

/// An event, of values that have passed [`check_name`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event<'a> {
    /// What a client that comes back says that it has seen.
    pub id: Option<&'a str>,
    /// The type, for which a page listens; `message` without one.
    pub event: Option<&'a str>,
    /// How long clients are to wait before they connect again.
    pub retry: Option<Duration>,
    /// What it says. An event without data is not shown to a page, though its id and retry count.
    pub data: Option<&'a str>,
}

/// What a name can't be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// It has no characters.
    Empty,
    /// It is longer than [`NAME_LEN`] bytes.
    TooLong,
    /// It has a line end or a NUL in it.
    Control,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NameError::Empty => f.write_str("is empty"),
            NameError::TooLong => write!(f, "is longer than {NAME_LEN} bytes"),
            NameError::Control => f.write_str("has a line end or a NUL in it"),
        }
    }
}

/// Whether this can be an event's id (S2) or its type.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &str) -> Result<(), NameError> {
    match name {
        "" => Err(NameError::Empty),
        _ if name.len() > NAME_LEN => Err(NameError::TooLong),
        _ if name.contains(['\r', '\n', '\0']) => Err(NameError::Control),
        _ => Ok(()),
    }
}

/// The lines of an event, with the empty one behind them.
pub fn encode(event: &Event<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(event.data.map_or(0, str::len) + 64);
    let mut field = |name: &str, value: &str| {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.push(b'\n');
    };
    if let Some(id) = event.id {
        field("id", id);
    }
    if let Some(kind) = event.event {
        field("event", kind);
    }
    if let Some(retry) = event.retry {
        field("retry", &retry.as_millis().to_string());
    }
    if let Some(data) = event.data {
        lines(data).for_each(|line| field("data", line));
    }
    out.push(b'\n');
    out
}

/// An event as a client reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Its id; empty without one.
    pub id: String,
    /// Its type; `message` without one.
    pub event: String,
    /// What it says; lines end with a line feed.
    pub data: String,
}

/// One event, of the lines that [`encode`] makes.
pub fn receive(encoded: &[u8]) -> Received {
    let text = String::from_utf8_lossy(encoded);
    let mut received = Received { event: "message".to_owned(), ..Received::default() };
    let mut has_data = false;
    for line in lines(&text) {
        let (name, value) = line.split_once(": ").unwrap_or((line, ""));
        match name {
            "id" => value.clone_into(&mut received.id),
            "event" => value.clone_into(&mut received.event),
            "data" => {
                if std::mem::replace(&mut has_data, true) {
                    received.data.push('\n');
                }
                received.data.push_str(value);
            }
            _ => {}
        }
    }
    received
}

/// The lines of a text: CR, LF and CRLF each end one, and behind the last there is another, which may be empty.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = text.find(['\r', '\n']) else { return rest.take() };
        let is_pair = text[end..].starts_with("\r\n");
        rest = Some(&text[end + if is_pair { 2 } else { 1 }..]);
        Some(&text[..end])
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a browser makes of a stream, by the steps of the standard: (last event id, type, data) of each event that it shows,
    /// and the last retry.
    fn interpret(stream: &str) -> (Vec<(String, String, String)>, Option<String>) {
        let (mut shown, mut retry) = (Vec::new(), None);
        let (mut id, mut kind, mut data) = (String::new(), String::new(), String::new());
        for line in lines(stream) {
            if line.is_empty() {
                if !data.is_empty() {
                    data.pop();
                    let kind = if kind.is_empty() { "message".to_owned() } else { kind.clone() };
                    shown.push((id.clone(), kind, data.clone()));
                }
                (kind, data) = (String::new(), String::new());
                continue;
            }
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match name {
                "event" => kind = value.to_owned(),
                "data" => data = data + value + "\n",
                "id" if !value.contains('\0') => id = value.to_owned(),
                "retry" if value.bytes().all(|byte| byte.is_ascii_digit()) => retry = Some(value.to_owned()),
                _ => {}
            }
        }
        (shown, retry)
    }

    #[track_caller]
    fn check(event: Event<'_>, expected: &str) {
        assert_eq!(String::from_utf8(encode(&event)).unwrap(), expected);
    }

    #[test]
    fn s2_every_line_end_in_data_starts_a_new_line() {
        let of = |data| Event { data: Some(data), ..Event::default() };
        check(of("a"), "data: a\n\n");
        check(of(""), "data: \n\n");
        check(of("a\nb\rc\r\nd"), "data: a\ndata: b\ndata: c\ndata: d\n\n");
        check(of("\n\r"), "data: \ndata: \ndata: \n\n");
        check(of(" a:\0"), "data:  a:\0\n\n");
        let retry = Some(Duration::from_millis(1500));
        check(
            Event { id: Some("7"), event: Some("tick"), retry, data: Some("x") },
            "id: 7\nevent: tick\nretry: 1500\ndata: x\n\n",
        );
        check(Event { retry, ..Event::default() }, "retry: 1500\n\n");
    }

    #[test]
    fn s2_names_are_one_line() {
        for name in ["7", "a b", "é", " :"] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        assert_eq!(check_name(""), Err(NameError::Empty));
        for name in ["a\n", "\r", "\0"] {
            assert_eq!(check_name(name), Err(NameError::Control));
        }
        assert_eq!(check_name(&"a".repeat(NAME_LEN)), Ok(()));
        assert_eq!(check_name(&"a".repeat(NAME_LEN + 1)), Err(NameError::TooLong));
    }

    #[test]
    fn s2_a_heartbeat_shows_nothing() {
        assert_eq!(interpret(std::str::from_utf8(HEARTBEAT).unwrap()), (Vec::new(), None));
    }

    proptest! {
        #[test]
        fn s2_what_is_encoded_is_what_a_browser_reads(
            id in "[^\r\n\0]{1,9}", kind in "[^\r\n\0]{1,9}", data in "[a\r\n\0: é]{0,30}", retry in 0u32..99999,
        ) {
            let retry = Duration::from_millis(u64::from(retry));
            let event = Event { id: Some(&id), event: Some(&kind), retry: Some(retry), data: Some(&data) };
            let stream = String::from_utf8(encode(&event)).unwrap();
            // Any line end is a line feed to a page.
            let read = data.replace("\r\n", "\n").replace('\r', "\n");
            let received = Received { id: id.clone(), event: kind.clone(), data: read.clone() };
            prop_assert_eq!(receive(stream.as_bytes()), received);
            let expected = (vec![(id, kind, read)], Some(retry.as_millis().to_string()));
            prop_assert_eq!(interpret(&stream), expected);
        }
    }
}
