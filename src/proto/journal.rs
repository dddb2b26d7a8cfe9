//! The records of a journal: how they lie in a file, and how they are found again after the writer was cut off.
//!
//! ```text
//!   segment:  magic  record  record  …
//!   record:   length  checksum of the payload  checksum of these eight bytes  payload
//!             u32 LE  CRC-32C, u32 LE          CRC-32C, u32 LE                `length` bytes
//! ```
//!
//! The head has a checksum of its own, so that the two ways in which a file goes wrong are told apart: a write that was cut off leaves
//! a record that is not all there, while a length that was changed afterwards would look just like it and hide every record
//! behind it. Rejected: one checksum for both (a flipped bit in a length passes for a torn tail), and a mark between
//! records to find the next one after a damaged one (what lies there may be anybody's payload).
//!
//! The input is a slice that begins with a record; whoever reads the file appends to it until the record is whole.

use std::fmt;

/// What a segment begins with: what it is, and the version of the format.
pub const MAGIC: [u8; 8] = *b"hwjrnl01";

/// The bytes of a record before its payload.
pub const HEAD_LEN: usize = 12;

/// What the input begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// A record, whole and as it was written.
    Record {
        /// What it says.
        payload: &'a [u8],
        /// Its length in the input; the next record begins there.
        used: usize,
    },
    /// A part of a record, or nothing: a torn tail, when nothing comes behind it.
    NeedMore {
        /// The least length of input with which there is more to tell.
        len: usize,
    },
    /// Something else than what was written.
    Corrupt(Corruption),
}

/// What is wrong with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corruption {
    /// The head is not what was written.
    Head,
    /// The head is right, and tells of a payload over the bound.
    TooLong,
    /// The payload is not what was written.
    Payload,
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Corruption::Head => "the head of a record does not match its checksum",
            Corruption::TooLong => "a record is longer than records may be",
            Corruption::Payload => "a record does not match its checksum",
        })
    }
}

/// Appends the payload as a record.
///
/// # Panics
/// When its length does not fit in 32 bits; whoever makes records bounds them far below.
pub fn encode(payload: &[u8], into: &mut Vec<u8>) {
    let len = u32::try_from(payload.len()).expect("a record's length fits in 32 bits");
    let start = into.len();
    into.extend_from_slice(&len.to_le_bytes());
    into.extend_from_slice(&crc32c::crc32c(payload).to_le_bytes());
    let check = crc32c::crc32c(&into[start..]);
    into.extend_from_slice(&check.to_le_bytes());
    into.extend_from_slice(payload);
}

/// Looks at the first record of the input; a payload may have at most `max_len` bytes. Constant work until it is whole.
pub fn decode(input: &[u8], max_len: usize) -> Decoded<'_> {
    let Some((head, behind)) = input.split_first_chunk::<HEAD_LEN>() else {
        return Decoded::NeedMore { len: HEAD_LEN };
    };
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    if crc32c::crc32c(&head[..8]) != word(8) {
        return Decoded::Corrupt(Corruption::Head);
    }
    let len = word(0) as usize;
    if len > max_len {
        return Decoded::Corrupt(Corruption::TooLong);
    }
    let Some(payload) = behind.get(..len) else { return Decoded::NeedMore { len: HEAD_LEN + len } };
    if crc32c::crc32c(payload) != word(4) {
        return Decoded::Corrupt(Corruption::Payload);
    }
    Decoded::Record { payload, used: HEAD_LEN + len }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAX: usize = 1000;

    fn encoded(payloads: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        payloads.iter().for_each(|payload| encode(payload, &mut bytes));
        bytes
    }

    /// All whole records, how many bytes they take, and what is behind them.
    fn decode_all(mut input: &[u8]) -> (Vec<Vec<u8>>, usize, Option<Corruption>) {
        let (mut payloads, mut len) = (Vec::new(), 0);
        loop {
            match decode(input, MAX) {
                Decoded::Record { payload, used } => {
                    payloads.push(payload.to_vec());
                    input = &input[used..];
                    len += used;
                }
                Decoded::NeedMore { len: needed } => {
                    assert!(needed > input.len(), "asks for {needed} with {}", input.len());
                    return (payloads, len, None);
                }
                Decoded::Corrupt(corruption) => return (payloads, len, Some(corruption)),
            }
        }
    }

    #[track_caller]
    fn check_corrupt(bytes: &[u8], expected: Corruption) {
        assert_eq!(decode(bytes, MAX), Decoded::Corrupt(expected));
    }

    /// Checked by hand against the published check value of CRC-32C: files outlive the library that wrote them.
    #[test]
    fn a_record_lies_in_the_file_as_the_format_says() {
        let bytes = encoded(&[b"123456789"]);
        assert_eq!(bytes[..8], [9, 0, 0, 0, 0x83, 0x92, 0x06, 0xe3]);
        assert_eq!(bytes[8..12], crc32c::crc32c(&bytes[..8]).to_le_bytes());
        assert_eq!(&bytes[12..], b"123456789");
        assert_eq!(decode(&bytes, MAX), Decoded::Record { payload: b"123456789", used: 21 });
    }

    #[test]
    fn a_cut_at_any_byte_is_a_torn_tail_and_keeps_what_is_before_it() {
        let bytes = encoded(&[b"one", b"", b"three"]);
        let ends = [15, 27, 44];
        assert_eq!(bytes.len(), 44);
        for cut in 0..=bytes.len() {
            let (payloads, len, corruption) = decode_all(&bytes[..cut]);
            let whole = ends.iter().filter(|end| **end <= cut).count();
            assert_eq!((payloads.len(), corruption), (whole, None), "cut at {cut}");
            assert_eq!(len, [0, 15, 27, 44][whole]);
        }
    }

    #[test]
    fn any_flipped_bit_is_noticed_and_never_taken_for_a_torn_tail() {
        let bytes = encoded(&[b"before", b"payload", b"after"]);
        let second = 18..37;
        for bit in second.start * 8..second.end * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let (payloads, len, corruption) = decode_all(&changed);
            assert_eq!((payloads, len), (vec![b"before".to_vec()], second.start), "bit {bit}");
            assert!(corruption.is_some(), "bit {bit}");
        }
    }

    #[test]
    fn what_was_never_written_is_corrupt() {
        check_corrupt(&[0; 40], Corruption::Head);
        check_corrupt(&[0xff; 40], Corruption::Head);
        check_corrupt(&encoded(&[&[b'x'; MAX + 1]])[..HEAD_LEN], Corruption::TooLong);
        assert!(matches!(decode(&encoded(&[&[b'x'; MAX]]), MAX), Decoded::Record { .. }));
        let mut changed = encoded(&[b"abc"]);
        changed[HEAD_LEN] = b'x';
        check_corrupt(&changed, Corruption::Payload);
    }

    proptest! {
        #[test]
        fn any_bytes_have_an_outcome(input in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = decode_all(&input);
        }

        #[test]
        fn what_is_encoded_is_decoded(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..8)) {
            let slices: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
            let bytes = encoded(&slices);
            prop_assert_eq!(decode_all(&bytes), (payloads, bytes.len(), None));
        }
    }
}
