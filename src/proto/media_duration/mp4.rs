//! MP4, MOV and M4A (ISO/IEC 14496-12): boxes, of which `moov` holds the movie's duration in `mvhd`; a fragmented file may tell
//! it in `mvex`/`mehd` (§8.2.2, §8.8.2).

use super::{Step, big_endian, duration};

/// Walks the boxes of a file, then those of its `moov`, then those of the `mvex` in that.
#[derive(Debug)]
pub(super) struct Mp4 {
    inside: Inside,
    /// Where what it is inside of ends.
    end: u64,
    /// Units in a second, as `mvhd` says.
    timescale: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inside {
    File,
    Movie,
    Extends,
}

/// What a file may begin with, behind the length of its first box.
pub(super) fn begins_file(kind: &[u8]) -> bool {
    let kinds = [b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp"];
    kinds.iter().any(|known| kind.starts_with(*known))
}

impl Mp4 {
    pub(super) fn new(len: u64) -> Self {
        Mp4 { inside: Inside::File, end: len, timescale: 0 }
    }

    pub(super) fn step(&mut self, at: u64, bytes: &[u8]) -> Step {
        if at >= self.end {
            return Step::Is(None);
        }
        let (Some(short_len), Some(kind)) = (big_endian::<4>(bytes), bytes.get(4..8)) else { return Step::NeedMore };
        let (head_len, len) = match short_len {
            // To the end of the file.
            0 => (8, self.end - at),
            1 => match bytes.get(8..).and_then(big_endian::<8>) {
                Some(len) => (16, len),
                None => return Step::NeedMore,
            },
            len => (8, len),
        };
        let end = at.saturating_add(len);
        if len < head_len || end > self.end {
            return Step::Is(None);
        }
        let content = &bytes[head_len as usize..];
        match (self.inside, kind) {
            (Inside::File, b"moov") => self.enter(Inside::Movie, at + head_len, end),
            (Inside::Movie, b"mvex") => self.enter(Inside::Extends, at + head_len, end),
            (Inside::Movie, b"mvhd") => match movie_header(content) {
                None => Step::NeedMore,
                Some((timescale, None)) => {
                    self.timescale = timescale;
                    Step::To(end)
                }
                Some((timescale, Some(units))) => Step::Is(duration(units, timescale)),
            },
            (Inside::Extends, b"mehd") => match versioned(content, 0, 0) {
                None => Step::NeedMore,
                Some(units) => Step::Is(duration(units, self.timescale)),
            },
            _ => Step::To(end),
        }
    }

    fn enter(&mut self, inside: Inside, begin: u64, end: u64) -> Step {
        (self.inside, self.end) = (inside, end);
        if begin == end { Step::Is(None) } else { Step::To(begin) }
    }
}

/// Timescale and duration of an `mvhd`; a duration of nothing or of all ones is not told there.
fn movie_header(content: &[u8]) -> Option<(u64, Option<u64>)> {
    // Two times come first, then 32 bits of timescale.
    let timescale = versioned_skip(content, 2).and_then(big_endian::<4>)?;
    let units = versioned(content, 2, 4)?;
    let is_long = content[0] == 1;
    let unknown = if is_long { u64::MAX } else { u64::from(u32::MAX) };
    Some((timescale, Some(units).filter(|units| *units != 0 && *units != unknown)))
}

/// Behind version, flags, and so many numbers of the version's length.
fn versioned_skip(content: &[u8], numbers: usize) -> Option<&[u8]> {
    let number_len = if *content.first()? == 1 { 8 } else { 4 };
    content.get(4 + numbers * number_len..)
}

/// The number of the version's length behind so many of them and so many bytes more.
fn versioned(content: &[u8], numbers: usize, bytes: usize) -> Option<u64> {
    let number = versioned_skip(content, numbers)?.get(bytes..)?;
    if content[0] == 1 { big_endian::<8>(number) } else { big_endian::<4>(number) }
}
