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

/// All topics go on with their counts under another epoch: events may be gone that subscribers had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NewEpoch {
    #[serde(rename = "epoch")]
    pub epoch: u64,
    /// They may be any, and not the last ones.
    #[serde(rename = "broken", default, skip_serializing_if = "std::ops::Not::not")]
    pub is_past_unknown: bool,
}

impl NewEpoch {
    /// That of a topic: not that of another one, whose positions would be taken for its own.
    pub fn of_topic(&self, name: &str) -> NewEpoch {
        NewEpoch { epoch: self.epoch.saturating_add(u64::from(crc32c::crc32c(name.as_bytes()))), ..*self }
    }

    /// The last that any topic may have.
    pub fn last(&self) -> u64 {
        self.epoch.saturating_add(u64::from(u32::MAX))
    }
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record<'a> {
    /// An event, and its lines.
    Event(Head, &'a [u8]),
    NewEpoch(NewEpoch),
}

/// The record of an event with these lines.
pub(super) fn encode(head: &Head, lines: &[u8]) -> Vec<u8> {
    with_lines(head, lines)
}

/// The record of another epoch.
pub(super) fn encode_new_epoch(begun: &NewEpoch) -> Vec<u8> {
    with_lines(begun, b"")
}

fn with_lines(head: &impl Serialize, lines: &[u8]) -> Vec<u8> {
    let mut record = serde_json::to_vec(head).expect("plain strings and numbers");
    record.push(b'\n');
    record.extend_from_slice(lines);
    record
}

/// What a record says; `None` if it is none of ours.
pub(super) fn decode(record: &[u8]) -> Option<Record<'_>> {
    let end = memchr::memchr(b'\n', record)?;
    let (head, lines) = (&record[..end], &record[end + 1..]);
    let event = serde_json::from_slice(head).map(|head| Record::Event(head, lines));
    event.or_else(|_| serde_json::from_slice(head).map(Record::NewEpoch)).ok()
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
            prop_assert_eq!(decode(&record), Some(Record::Event(head, &lines[..])));
        }

        #[test]
        fn another_epoch_is_read_back(epoch: u64, is_past_unknown: bool) {
            let begun = NewEpoch { epoch, is_past_unknown };
            let record = encode_new_epoch(&begun);
            prop_assert_eq!(decode(&record), Some(Record::NewEpoch(begun)));
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
