//! What the journal of a queue route says: items, the news that they are done, and the ends of streams.
//!
//! An item keeps its number when it is copied forward, so the later record of a number is the item's place. A number is said to be
//! done after the item's last record. The order of the numbers is the order of the items.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::item::{Form, Item};

/// What a record takes beside the item's bytes and its media type, at most: numbers, and the queue's name.
pub(super) const ITEM_OVERHEAD: usize = 1 + 8 + 1 + 1 + 255 + 1;

const ITEM: u8 = 1;
const DONE: u8 = 2;
const END: u8 = 3;

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// An item of a queue.
    Item { number: u64, queue: Arc<str>, item: Item },
    /// These items were acknowledged, or given to consumers that need not acknowledge.
    Done(Vec<u64>),
    /// The stream of this queue has ended.
    End(Arc<str>),
}

/// An item's record, all but its number: whoever hands numbers out copies no item meanwhile.
pub(super) struct Unnumbered(BytesMut);

impl Unnumbered {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn numbered(mut self, number: u64) -> Bytes {
        self.0[1..9].copy_from_slice(&number.to_le_bytes());
        self.0.freeze()
    }
}

/// An item's record.
pub(super) fn of_item(queue: &str, item: &Item) -> Unnumbered {
    let mut record = BytesMut::with_capacity(ITEM_OVERHEAD + item.len());
    record.put_u8(ITEM);
    record.put_u64_le(0);
    record.put_u8(match item.form {
        Form::Json => 0,
        Form::Text => 1,
        Form::Bytes => 2,
    });
    put_short(&mut record, queue.as_bytes());
    put_short(&mut record, &item.content_type);
    record.put_slice(&item.data);
    Unnumbered(record)
}

/// That these are done.
pub(super) fn of_done(numbers: &[u64]) -> Bytes {
    let mut record = BytesMut::with_capacity(1 + 8 * numbers.len());
    record.put_u8(DONE);
    numbers.iter().for_each(|number| record.put_u64_le(*number));
    record.freeze()
}

/// That the stream of this queue has ended.
pub(super) fn of_end(queue: &str) -> Bytes {
    let mut record = BytesMut::with_capacity(2 + queue.len());
    record.put_u8(END);
    put_short(&mut record, queue.as_bytes());
    record.freeze()
}

/// Names and media types were checked to be short before.
fn put_short(record: &mut BytesMut, bytes: &[u8]) {
    let len = u8::try_from(bytes.len()).expect("checked to be at most 255 bytes");
    record.put_u8(len);
    record.put_slice(bytes);
}

/// The record that these bytes are; none when they are none, which a checksum did not tell.
pub(super) fn parse(bytes: &[u8]) -> Option<Record> {
    let (kind, rest) = bytes.split_first()?;
    match *kind {
        ITEM => {
            let (number, rest) = rest.split_first_chunk()?;
            let (form, rest) = rest.split_first()?;
            let form = match form {
                0 => Form::Json,
                1 => Form::Text,
                2 => Form::Bytes,
                _ => return None,
            };
            let (queue, rest) = split_short(rest)?;
            let (content_type, data) = split_short(rest)?;
            let item =
                Item { content_type: Bytes::copy_from_slice(content_type), form, data: Bytes::copy_from_slice(data) };
            Some(Record::Item { number: u64::from_le_bytes(*number), queue: text(queue)?, item })
        }
        DONE => {
            let (numbers, rest) = rest.as_chunks();
            rest.is_empty().then(|| Record::Done(numbers.iter().map(|number| u64::from_le_bytes(*number)).collect()))
        }
        END => {
            let (queue, rest) = split_short(rest)?;
            if rest.is_empty() { text(queue).map(Record::End) } else { None }
        }
        _ => None,
    }
}

fn split_short(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*len))
}

fn text(bytes: &[u8]) -> Option<Arc<str>> {
    std::str::from_utf8(bytes).ok().map(Arc::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn records_come_back_and_no_part_of_one_is_another() {
        let queue: Arc<str> = Arc::from("work/é");
        for item in [
            Item::json("[1]").unwrap(),
            Item::new("text/plain", "x").unwrap(),
            Item::new("", "").unwrap(),
            Item::new("a".repeat(255), "data").unwrap(),
        ] {
            let bytes = of_item(&queue, &item).numbered(u64::MAX - 1);
            assert!(bytes.len() <= ITEM_OVERHEAD + item.len());
            assert_eq!(parse(&bytes), Some(Record::Item { number: u64::MAX - 1, queue: queue.clone(), item }));
        }
        assert_eq!(parse(&of_done(&[1, 2 << 40])), Some(Record::Done(vec![1, 2 << 40])));
        assert_eq!(parse(&of_end(&queue)), Some(Record::End(queue.clone())));
        let end = of_end(&queue);
        assert!((0..end.len()).all(|len| parse(&end[..len]).is_none()));
        assert_eq!(parse(&[DONE, 1, 2]), None);
        assert_eq!(parse(&[9]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_have_an_outcome(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = parse(&bytes);
        }
    }
}
