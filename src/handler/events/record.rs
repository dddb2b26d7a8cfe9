//! Events in the journal: a line of JSON that says what it is, and behind it the lines of the event as they are sent, but its id.

use serde::{Deserialize, Serialize};

use super::position::Position;
use crate::limits::Limits;
use crate::proto::sse;

/// What a record adds to the lines of its event at most, in bytes: names escaped to the longest that JSON makes of them.
pub(super) const HEAD_LEN_MOST: usize = 6 * (2 * sse::NAME_LEN + Limits::TOPIC_NAME_LEN) + 256;

/// What the line of JSON says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    #[serde(rename = "t")]
    pub topic: String,
    #[serde(rename = "e")]
    pub epoch: u64,
    #[serde(rename = "n")]
    pub number: u64,
    /// When it was published, in milliseconds since 1970.
    #[serde(rename = "a")]
    pub at_ms: u64,
    #[serde(rename = "i", default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(rename = "k", default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The topic is closed behind this event; there are no lines then.
    #[serde(rename = "end", default, skip_serializing_if = "std::ops::Not::not")]
    pub is_end: bool,
}

impl Head {
    /// Where the event stands.
    pub fn position(&self) -> Position {
        Position { epoch: self.epoch, number: self.number }
    }
}

/// The record of an event with these lines.
pub(super) fn encode(head: &Head, lines: &[u8]) -> Vec<u8> {
    let mut record = serde_json::to_vec(head).expect("plain strings and numbers");
    record.push(b'\n');
    record.extend_from_slice(lines);
    record
}

/// What a record says, and its event's lines; `None` if it is none of ours.
pub(super) fn decode(record: &[u8]) -> Option<(Head, &[u8])> {
    let end = memchr::memchr(b'\n', record)?;
    Some((serde_json::from_slice(&record[..end]).ok()?, &record[end + 1..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            topic in ".{1,30}", id in proptest::option::of(".{1,9}"), key in proptest::option::of(".{1,9}"),
            numbers: (u64, u64, u64), is_end: bool, lines in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let (epoch, number, at_ms) = numbers;
            let head = Head { topic, epoch, number, at_ms, id, key, is_end };
            let record = encode(&head, &lines);
            prop_assert!(record.len() <= HEAD_LEN_MOST + lines.len());
            prop_assert_eq!(decode(&record), Some((head, &lines[..])));
        }

        #[test]
        fn no_record_makes_it_panic(record in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = decode(&record);
        }
    }

    #[test]
    fn the_longest_names_fit() {
        let name = "\u{1}".repeat(crate::proto::sse::NAME_LEN);
        let topic = "\u{7f}".repeat(Limits::TOPIC_NAME_LEN);
        let (id, key) = (Some(name.clone()), Some(name));
        let head = Head { topic, epoch: u64::MAX, number: u64::MAX, at_ms: u64::MAX, id, key, is_end: true };
        assert!(encode(&head, b"").len() <= HEAD_LEN_MOST);
    }
}
