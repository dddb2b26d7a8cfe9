//! A field section: the header fields of one message, in the order they came (RFC 9110 §5).
//!
//! The bytes are kept as one block and each field is a pair of spans into it, so that a head costs two allocations however
//! many fields it has. A hash map was rejected: a request has a dozen fields, of which a handler looks at five, and a linear
//! search over spans that compares lengths first is cheaper than hashing every name of every request.

use std::ops::Range;

/// The header fields of one message: names as sent, values without surrounding white space.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    bytes: Box<[u8]>,
    spans: Vec<Span>,
}

/// A field that may stand only once stands more often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeated;

/// Where one field lies in the block. A head is bounded far below 4 GiB, so offsets are `u32`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub name_start: u32,
    pub name_end: u32,
    pub value_start: u32,
    pub value_end: u32,
}

impl Fields {
    /// The fields that `spans` cut out of `bytes`.
    pub(crate) fn new(bytes: Box<[u8]>, spans: Vec<Span>) -> Self {
        Fields { bytes, spans }
    }

    /// A section with these names and values, in this order.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut bytes = Vec::new();
        let mut spans = Vec::new();
        for (name, value) in pairs {
            let name_start = bytes.len() as u32;
            bytes.extend_from_slice(name.as_bytes());
            let value_start = bytes.len() as u32;
            bytes.extend_from_slice(value.as_bytes());
            spans.push(Span { name_start, name_end: value_start, value_start, value_end: bytes.len() as u32 });
        }
        Fields { bytes: bytes.into_boxed_slice(), spans }
    }

    /// The value of the first field of this name; names compare without case (RFC 9110 §5.1).
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }

    /// The values of every field of this name, in order: a list may come on several lines (RFC 9110 §5.3).
    pub fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> + 'a {
        self.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }

    /// The value of a field that may stand only once.
    ///
    /// # Errors
    /// It stands more than once, even with equal values: another program may go by another one of them.
    pub fn get_single<'a>(&'a self, name: &'a str) -> Result<Option<&'a [u8]>, Repeated> {
        let mut values = self.get_all(name);
        let first = values.next();
        if values.next().is_some() { Err(Repeated) } else { Ok(first) }
    }

    /// Whether a field of this name is there.
    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Every field as (name, value), in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.spans.iter().map(|s| {
            (
                self.slice(s.name_start as usize..s.name_end as usize),
                self.slice(s.value_start as usize..s.value_end as usize),
            )
        })
    }

    /// How many fields there are.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The block that the spans point into.
    pub(crate) fn slice(&self, range: Range<usize>) -> &[u8] {
        &self.bytes[range]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_compare_without_case_and_repeats_keep_their_order() {
        let fields =
            Fields::from_pairs([("Range", "bytes=0-"), ("If-None-Match", "\"a\""), ("if-none-match", "\"b\"")]);
        assert_eq!(fields.get("range"), Some(&b"bytes=0-"[..]));
        assert_eq!(fields.get_all("If-None-Match").collect::<Vec<_>>(), [b"\"a\"", b"\"b\""]);
        assert_eq!(fields.get("rang"), None);
        assert_eq!(fields.len(), 3);
        assert_eq!(fields.get_single("range"), Ok(Some(&b"bytes=0-"[..])));
        assert_eq!(fields.get_single("if-none-match"), Err(Repeated));
        assert_eq!(fields.get_single("rang"), Ok(None));
    }
}
