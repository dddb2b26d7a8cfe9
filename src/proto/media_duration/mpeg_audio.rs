//! MP3 (ISO/IEC 11172-3 and 13818-3, layer III): a tag perhaps, then frames. The first may hold an index of a variable bitrate,
//! which tells how many there are; otherwise the bitrate of the first is that of all.

use super::{Step, big_endian, duration};

/// Passes the tag and looks at the first frames.
#[derive(Debug)]
pub(super) struct MpegAudio {
    len: u64,
}

/// What the four bytes at the beginning of a frame say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frame {
    /// Bits a second.
    bitrate: u64,
    /// Samples a second.
    sample_rate: u64,
    /// Samples in a frame: 1152, or 576 at the lower sample rates.
    samples: u64,
    /// Bytes of the frame.
    len: usize,
    /// Where an index of a variable bitrate lies, from the frame's beginning.
    index_at: usize,
}

/// Layer III, kbit/s by index: of MPEG-1, and of MPEG-2 and 2.5. The first is for a free format, the last is forbidden.
const BITRATES: [[u64; 16]; 2] = [
    [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0],
    [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0],
];
/// Of MPEG-1; half of it in MPEG-2, a quarter in MPEG-2.5.
const SAMPLE_RATES: [u64; 3] = [44_100, 48_000, 32_000];

impl MpegAudio {
    pub(super) fn new(len: u64) -> Self {
        MpegAudio { len }
    }

    pub(super) fn step(&mut self, at: u64, bytes: &[u8]) -> Step {
        if at == 0 && bytes.starts_with(b"ID3") {
            return tag_end(bytes).map_or(Step::NeedMore, Step::To);
        }
        if bytes.len() < 4 {
            return Step::NeedMore;
        }
        let Some(frame) = Frame::parse(bytes) else { return Step::Is(None) };
        // Two frames of the same kind, one behind the other, are no chance.
        let Some(second) = bytes.get(frame.len..).filter(|second| second.len() >= 4) else { return Step::NeedMore };
        if Frame::parse(second).is_none_or(|second| second.sample_rate != frame.sample_rate) {
            return Step::Is(None);
        }
        match frames_told(&bytes[..frame.len], frame.index_at) {
            Some(frames) => Step::Is(duration(frames.saturating_mul(frame.samples), frame.sample_rate)),
            None => Step::Is(duration(self.len.saturating_sub(at).saturating_mul(8), frame.bitrate)),
        }
    }
}

impl Frame {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let &[0xFF, kind, rates, mode, ..] = bytes else { return None };
        // The rest of the sync, and layer III.
        if kind & 0xE6 != 0xE2 {
            return None;
        }
        let halvings = match kind >> 3 & 3 {
            3 => 0,
            2 => 1,
            0 => 2,
            _ => return None,
        };
        let is_low = halvings > 0;
        let bitrate = 1000 * BITRATES[usize::from(is_low)][usize::from(rates >> 4)];
        let sample_rate = SAMPLE_RATES.get(usize::from(rates >> 2 & 3))? >> halvings;
        if bitrate == 0 {
            return None;
        }
        let samples = if is_low { 576 } else { 1152 };
        let padding = u64::from(rates >> 1 & 1);
        let len = usize::try_from(samples / 8 * bitrate / sample_rate + padding).ok()?;
        let is_mono = mode >> 6 == 3;
        let side_information = match (is_low, is_mono) {
            (false, false) => 32,
            (true, true) => 9,
            _ => 17,
        };
        Some(Frame { bitrate, sample_rate, samples, len, index_at: 4 + side_information })
    }
}

/// The number of frames that an index in the first one tells: the Xing header, `Info` where the bitrate is constant, or the VBRI
/// header of Fraunhofer's encoder, which lies 32 bytes behind the frame's head.
fn frames_told(frame: &[u8], index_at: usize) -> Option<u64> {
    let index = frame.get(index_at..)?;
    if index.starts_with(b"Xing") || index.starts_with(b"Info") {
        let has_frames = big_endian::<4>(index.get(4..)?)? & 1 != 0;
        return big_endian::<4>(index.get(8..)?).filter(|_| has_frames);
    }
    let index = frame.get(36..).filter(|index| index.starts_with(b"VBRI"))?;
    big_endian::<4>(index.get(14..)?)
}

/// Where an ID3v2 tag ends (ID3v2.4 §3.1); its length has seven bits in each byte.
fn tag_end(bytes: &[u8]) -> Option<u64> {
    let &[_, _, _, _, _, flags, a, b, c, d] = bytes.first_chunk::<10>()?;
    let len = [a, b, c, d].iter().fold(0, |len, byte| len << 7 | u64::from(byte & 0x7F));
    let footer = if flags & 0x10 == 0 { 0 } else { 10 };
    Some(10 + len + footer)
}
