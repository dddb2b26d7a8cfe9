//! What a queue holds, and how it looks to a consumer.
//!
//! A line of NDJSON carries any item: JSON stands there as it came, text is a JSON string, other bytes are base64. A line is made in
//! pieces as the client takes them, so that a consumer that has stopped holds a piece and not a copy of the item.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

/// Items up to this length go out as one piece, in bytes; longer ones are rendered so much at a time. A multiple of three, so
/// that pieces of base64 have no padding between them.
const PIECE_LEN: usize = 6 << 10;

/// An item of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub(super) content_type: Bytes,
    pub(super) form: Form,
    pub(super) data: Bytes,
}

/// What is known of an item's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A JSON value without line ends.
    Json,
    /// UTF-8.
    Text,
    Bytes,
}

/// It says that it is JSON, and is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotJson;

impl Item {
    /// An item of this media type; empty for none. JSON (`application/json`, `…+json`) loses its line ends, which can only stand
    /// between its tokens (RFC 8259 §2).
    ///
    /// # Errors
    /// [`NotJson`].
    pub fn new(content_type: impl Into<Bytes>, data: impl Into<Bytes>) -> Result<Self, NotJson> {
        let (content_type, data) = (content_type.into(), data.into());
        match kind_of(&content_type) {
            Form::Json => Item::of_json(content_type, data),
            Form::Text if std::str::from_utf8(&data).is_ok() => Ok(Item { content_type, form: Form::Text, data }),
            _ => Ok(Item { content_type, form: Form::Bytes, data }),
        }
    }

    /// A JSON value.
    ///
    /// # Errors
    /// [`NotJson`].
    pub fn json(data: impl Into<Bytes>) -> Result<Self, NotJson> {
        Item::of_json(Bytes::from_static(b"application/json"), data.into())
    }

    fn of_json(content_type: Bytes, data: Bytes) -> Result<Self, NotJson> {
        let is_json =
            std::str::from_utf8(&data).is_ok_and(|text| serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok());
        if !is_json {
            return Err(NotJson);
        }
        let data = if memchr::memchr2(b'\r', b'\n', &data).is_some() {
            let line: Vec<u8> =
                data.iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }).collect();
            Bytes::from(line)
        } else {
            data
        };
        Ok(Item { content_type, form: Form::Json, data })
    }

    /// Its media type, as its producer said; empty if it did not.
    pub fn content_type(&self) -> &[u8] {
        &self.content_type
    }

    /// Its bytes.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// Bytes of the item and its media type.
    pub(super) fn len(&self) -> usize {
        self.content_type.len() + self.data.len()
    }
}

/// What items of this media type are supposed to be.
fn kind_of(content_type: &[u8]) -> Form {
    let media_type = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let media_type = media_type.to_ascii_lowercase();
    match &*media_type {
        b"application/json" => Form::Json,
        json if json.ends_with(b"+json") => Form::Json,
        // What curl says of whatever it is given.
        b"application/x-www-form-urlencoded" => Form::Text,
        text if text.starts_with(b"text/") => Form::Text,
        _ => Form::Bytes,
    }
}

/// The lease that stands on an item's line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LeaseMark {
    pub id: String,
    pub attempt: u32,
}

/// An item on its way to a consumer, piece by piece.
#[derive(Debug)]
pub(super) struct Rendering {
    content_type: Bytes,
    form: Form,
    data: Bytes,
    as_line: bool,
    before: String,
    after: &'static str,
    is_begun: bool,
    is_over: bool,
}

impl Rendering {
    /// The bytes as they came.
    pub fn raw(item: Item) -> Self {
        Rendering {
            content_type: item.content_type,
            form: Form::Bytes,
            data: item.data,
            as_line: false,
            before: String::new(),
            after: "",
            is_begun: false,
            is_over: false,
        }
    }

    /// A line of NDJSON.
    pub fn line(item: Item, lease: Option<&LeaseMark>) -> Self {
        let mut before = lease.map_or_else(String::new, |LeaseMark { id, attempt }| {
            format!("{{\"lease\":\"{id}\",\"attempt\":{attempt},\"item\":")
        });
        let (open, after) = match (item.form, lease.is_some()) {
            (Form::Json, false) => ("", "\n"),
            (Form::Json, true) => ("", "}\n"),
            (Form::Text, false) => ("\"", "\"\n"),
            (Form::Text, true) => ("\"", "\"}\n"),
            (Form::Bytes, false) => ("{\"base64\":\"", "\"}\n"),
            (Form::Bytes, true) => ("{\"base64\":\"", "\"}}\n"),
        };
        before.push_str(open);
        Rendering {
            content_type: item.content_type,
            form: item.form,
            data: item.data,
            as_line: true,
            before,
            after,
            is_begun: false,
            is_over: false,
        }
    }

    /// The item's media type; empty if it has none.
    pub fn content_type(&self) -> &[u8] {
        &self.content_type
    }

    /// Bytes of the item that have not gone out.
    pub fn data_len(&self) -> u64 {
        self.data.len() as u64
    }

    /// The next piece; none at the end. Only an item without bytes that goes out raw has an empty one.
    pub fn next_piece(&mut self) -> Option<Bytes> {
        if self.is_over {
            return None;
        }
        let verbatim = !self.as_line || self.form == Form::Json;
        if verbatim && (!self.as_line || self.data.len() > PIECE_LEN) {
            return Some(self.next_verbatim());
        }
        let len = self.next_len();
        let data = self.data.split_to(len);
        let mut piece = Vec::with_capacity(self.before.len() + 2 * len + self.after.len());
        piece.append(&mut std::mem::take(&mut self.before).into_bytes());
        match self.form {
            Form::Json => piece.extend_from_slice(&data),
            Form::Text => escape(&data, &mut piece),
            Form::Bytes => piece.extend_from_slice(STANDARD.encode(&data).as_bytes()),
        }
        if self.data.is_empty() {
            self.is_over = true;
            piece.extend_from_slice(self.after.as_bytes());
        }
        Some(piece.into())
    }

    /// What goes out as it is, without a copy: what stands before it, itself, what stands behind it.
    fn next_verbatim(&mut self) -> Bytes {
        if !self.before.is_empty() {
            return std::mem::take(&mut self.before).into();
        }
        if !self.is_begun {
            self.is_begun = true;
            self.is_over = self.after.is_empty();
            return std::mem::take(&mut self.data);
        }
        self.is_over = true;
        Bytes::from_static(self.after.as_bytes())
    }

    /// How much is rendered next: not a part of a character.
    fn next_len(&self) -> usize {
        let mut len = self.data.len().min(PIECE_LEN);
        if self.form == Form::Text && len < self.data.len() {
            while self.data[len] & 0xc0 == 0x80 {
                len -= 1;
            }
        }
        len
    }
}

/// A JSON string's inside (RFC 8259 §7).
fn escape(text: &[u8], into: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for byte in text {
        match byte {
            b'"' | b'\\' => into.extend_from_slice(&[b'\\', *byte]),
            b'\n' => into.extend_from_slice(b"\\n"),
            b'\r' => into.extend_from_slice(b"\\r"),
            b'\t' => into.extend_from_slice(b"\\t"),
            0..0x20 => {
                let digits = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
                into.extend_from_slice(b"\\u00");
                into.extend_from_slice(&digits);
            }
            _ => into.push(*byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn all(mut rendering: Rendering) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(piece) = rendering.next_piece() {
            assert!(piece.len() <= 6 * PIECE_LEN + 200 || rendering.form == Form::Json || !rendering.as_line);
            all.extend_from_slice(&piece);
        }
        all
    }

    fn item(content_type: &'static str, data: &'static [u8]) -> Item {
        Item::new(content_type, data).unwrap()
    }

    #[track_caller]
    fn check(item: Item, expected: &str) {
        assert_eq!(all(Rendering::raw(item.clone())), item.data()[..]);
        assert_eq!(String::from_utf8(all(Rendering::line(item.clone(), None))).unwrap(), format!("{expected}\n"));
        let lease = LeaseMark { id: String::from("a.b"), attempt: 3 };
        let line = String::from_utf8(all(Rendering::line(item, Some(&lease)))).unwrap();
        assert_eq!(line, format!("{{\"lease\":\"a.b\",\"attempt\":3,\"item\":{expected}}}\n"));
    }

    #[test]
    fn an_item_is_a_line_by_its_media_type() {
        check(item("application/json", b"{\"a\": [1, \"\\n\"]}"), "{\"a\": [1, \"\\n\"]}");
        check(item("application/problem+JSON; charset=utf-8", b"\r\n[1,\n2]"), "  [1, 2]");
        check(
            item("text/plain", "caf\u{e9} \"x\\\"\r\n\t\u{1f}".as_bytes()),
            "\"caf\u{e9} \\\"x\\\\\\\"\\r\\n\\t\\u001f\"",
        );
        check(item("application/x-www-form-urlencoded", b"a=b"), "\"a=b\"");
        check(item("text/plain", b"\xff"), "{\"base64\":\"/w==\"}");
        check(item("", b"ab"), "{\"base64\":\"YWI=\"}");
        check(item("text/plain", b""), "\"\"");
        check(item("image/png", b""), "{\"base64\":\"\"}");
    }

    #[test]
    fn what_is_no_json_is_told() {
        for data in ["", "{", "1 2", "nul", "\"\n\"", "{\"a\":1,}", "[1]x"] {
            assert_eq!(Item::json(data), Err(NotJson), "{data}");
        }
        assert_eq!(Item::json(&b"\"\xff\""[..]), Err(NotJson));
        assert!(Item::json("9".repeat(400)).is_ok(), "a number of any size");
        let deep = "[".repeat(100_000);
        assert_eq!(Item::json(deep), Err(NotJson), "and the stack holds");
    }

    #[test]
    fn long_items_are_the_same_in_pieces() {
        let text: String = "aé\u{1f600}\n".repeat(4000);
        let line: Value =
            serde_json::from_slice(&all(Rendering::line(Item::new("text/plain", text.clone()).unwrap(), None)))
                .unwrap();
        assert_eq!(line, json!(text));
        let bytes: Vec<u8> = (0..40_000u32).map(|n| n as u8).collect();
        let line: Value =
            serde_json::from_slice(&all(Rendering::line(Item::new("", bytes.clone()).unwrap(), None))).unwrap();
        assert_eq!(line, json!({ "base64": STANDARD.encode(&bytes) }));
        let long = format!("[{}1]", "1,".repeat(20_000));
        let item = Item::json(long.clone()).unwrap();
        assert_eq!(all(Rendering::line(item, None)), format!("{long}\n").into_bytes());
    }

    proptest! {
        #[test]
        fn any_text_comes_back(text in ".{0,40}") {
            let line = all(Rendering::line(Item::new("text/plain", text.clone()).unwrap(), None));
            prop_assert_eq!(serde_json::from_slice::<Value>(&line).unwrap(), json!(text));
        }
    }
}
