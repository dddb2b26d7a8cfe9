//! Matroska and WebM (RFC 9559, on EBML, RFC 8794): elements, of which `Segment`/`Info` holds the duration in units of
//! `TimestampScale` nanoseconds.

use std::time::Duration;

use super::{Step, big_endian};

const SEGMENT: u64 = 0x1853_8067;
const INFO: u64 = 0x1549_A966;
const TIMESTAMP_SCALE: u64 = 0x2A_D7B1;
const DURATION: u64 = 0x4489;

/// Walks the elements of a file, then those of its segment, then those of the `Info` in that.
#[derive(Debug)]
pub(super) struct Matroska {
    inside: Inside,
    /// Where the `Info` ends.
    end: u64,
    /// Nanoseconds in a unit.
    scale: u64,
    /// In units.
    duration: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inside {
    File,
    Segment,
    Info,
}

impl Default for Matroska {
    fn default() -> Self {
        // The default of RFC 9559 §5.1.2.9.
        Matroska { inside: Inside::File, end: u64::MAX, scale: 1_000_000, duration: None }
    }
}

impl Matroska {
    pub(super) fn step(&mut self, at: u64, bytes: &[u8]) -> Step {
        if at >= self.end {
            return Step::Is(self.told());
        }
        let Some((id, id_len)) = element_id(bytes) else { return Step::NeedMore };
        let Some((len, len_len)) = data_len(&bytes[id_len..]) else { return Step::NeedMore };
        let begin = at + (id_len + len_len) as u64;
        let end = len.map(|len| begin.saturating_add(len));
        match (self.inside, id, end) {
            // Its length may be unknown, as that of a live stream is.
            (Inside::File, SEGMENT, _) => {
                self.inside = Inside::Segment;
                Step::To(begin)
            }
            (Inside::Segment, INFO, Some(end)) => {
                (self.inside, self.end) = (Inside::Info, end);
                if begin == end { Step::Is(None) } else { Step::To(begin) }
            }
            (Inside::Info, TIMESTAMP_SCALE | DURATION, Some(end)) => {
                let Some(data) = data(&bytes[id_len + len_len..], end - begin) else { return Step::NeedMore };
                if id == DURATION {
                    self.duration = float(data);
                } else {
                    self.scale = data.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
                }
                Step::To(end)
            }
            (_, _, Some(end)) => Step::To(end),
            // What follows an element of unknown length can't be found without reading it.
            (_, _, None) => Step::Is(None),
        }
    }

    fn told(&self) -> Option<Duration> {
        Duration::try_from_secs_f64(self.duration? * self.scale as f64 / 1e9).ok()
    }
}

/// An element's ID with its marker, and its length in bytes (RFC 8794 §5). One that begins with a zero byte has none; it asks
/// for more, in vain.
fn element_id(bytes: &[u8]) -> Option<(u64, usize)> {
    let len = bytes.first()?.leading_zeros() as usize + 1;
    let id = bytes.get(..len).filter(|_| len <= 4)?;
    Some((id.iter().fold(0, |id, byte| id << 8 | u64::from(*byte)), len))
}

/// The length of an element's data, if it is known, and how many bytes that took (RFC 8794 §6).
fn data_len(bytes: &[u8]) -> Option<(Option<u64>, usize)> {
    let len = bytes.first()?.leading_zeros() as usize + 1;
    let number = bytes.get(..len).filter(|_| len <= 8)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    let ones = (1_u64 << (7 * len)) - 1;
    Some((Some(number & ones).filter(|number| *number != ones), len))
}

/// Data of at most eight bytes, which is all that a number has.
fn data(bytes: &[u8], len: u64) -> Option<&[u8]> {
    let len = usize::try_from(len).ok().filter(|len| *len <= 8)?;
    bytes.get(..len)
}

fn float(data: &[u8]) -> Option<f64> {
    match data.len() {
        4 => Some(f32::from_bits(big_endian::<4>(data)? as u32).into()),
        8 => Some(f64::from_bits(big_endian::<8>(data)?)),
        _ => None,
    }
}
