//! How long a media file plays, from a few short reads: what its average bitrate is told from.
//!
//! Sans-io: the [`Probe`] says which bytes it wants next and is fed them, until it knows or gives up. A format's walker sees
//! what lies at one offset and answers where to go on; it never sees two pieces at once, so it has nothing to put together:
//! what is cut off is asked for again from its beginning. What is broken has no duration, which is no error here.
//!
//! Bounded by [`READS`] and [`READ_LEN`], whatever a file says of itself. A demuxer was rejected: it is a hundred times the code
//! for a number that stands in one place.

mod matroska;
mod mp4;
mod mpeg_audio;
mod wave;

use std::time::Duration;

use self::matroska::Matroska;
use self::mp4::Mp4;
use self::mpeg_audio::MpegAudio;
use self::wave::Wave;

/// How many reads one file is worth.
pub const READS: usize = 64;
/// The most bytes that one read asks for.
pub const READ_LEN: usize = 4 << 10;

/// Looks for the duration of one file.
#[derive(Debug)]
pub struct Probe {
    /// Length of the file, in bytes.
    len: u64,
    /// Where the walker is.
    at: u64,
    reads: usize,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The format is not known yet.
    Begun,
    Walking(Walker),
    Ended(Option<Duration>),
}

#[derive(Debug)]
enum Walker {
    Mp4(Mp4),
    Matroska(Matroska),
    Wave(Wave),
    MpegAudio(MpegAudio),
}

/// What a walker makes of the bytes at an offset.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Go on there, which is further on.
    To(u64),
    /// There are too few bytes to tell.
    NeedMore,
    /// This is it, or there is none.
    Is(Option<Duration>),
}

impl Probe {
    /// Of a file with so many bytes.
    pub fn new(len: u64) -> Self {
        let state = if len == 0 { State::Ended(None) } else { State::Begun };
        Probe { len, at: 0, reads: 0, state }
    }

    /// Which bytes to feed it next, by offset and length, all within the file; `None` when it has ended.
    pub fn wanted(&self) -> Option<(u64, usize)> {
        let left = usize::try_from(self.len.saturating_sub(self.at)).unwrap_or(usize::MAX);
        (!matches!(self.state, State::Ended(_))).then_some((self.at, left.min(READ_LEN)))
    }

    /// Takes the bytes that it wanted. Fewer are taken for all that there are.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.reads += 1;
        if let State::Begun = self.state {
            self.state = match recognize(bytes, self.len) {
                Some(walker) => State::Walking(walker),
                None => State::Ended(None),
            };
        }
        self.walk(bytes);
        if self.reads == READS && !matches!(self.state, State::Ended(_)) {
            self.state = State::Ended(None);
        }
    }

    /// How long the file plays; `None` as long as it has not ended, and where that can't be told.
    pub fn duration(&self) -> Option<Duration> {
        match self.state {
            State::Ended(duration) => duration.filter(|duration| !duration.is_zero()),
            _ => None,
        }
    }

    /// Goes as far as these bytes reach.
    fn walk(&mut self, bytes: &[u8]) {
        let begin = self.at;
        while let State::Walking(walker) = &mut self.state {
            let offset = usize::try_from(self.at - begin).unwrap_or(usize::MAX);
            // At the file's end there is nothing to be read, but the walker may know by now.
            let here = match bytes.get(offset..) {
                Some(here) => here,
                None if self.at == self.len => &[],
                None => return,
            };
            match walker.step(self.at, here) {
                Step::To(to) if to <= self.len => {
                    debug_assert!(self.at < to, "a walker stands still");
                    self.at = to;
                }
                // What was cut off by the read is read again from here, unless that was tried.
                Step::NeedMore if offset > 0 && self.at < self.len => return,
                Step::Is(duration) => self.state = State::Ended(duration),
                Step::To(_) | Step::NeedMore => self.state = State::Ended(None),
            }
        }
    }
}

impl Walker {
    fn step(&mut self, at: u64, bytes: &[u8]) -> Step {
        match self {
            Walker::Mp4(mp4) => mp4.step(at, bytes),
            Walker::Matroska(matroska) => matroska.step(at, bytes),
            Walker::Wave(wave) => wave.step(at, bytes),
            Walker::MpegAudio(audio) => audio.step(at, bytes),
        }
    }
}

/// The walker for a file of `len` bytes that begins like this.
fn recognize(bytes: &[u8], len: u64) -> Option<Walker> {
    match bytes {
        [_, _, _, _, kind @ ..] if mp4::begins_file(kind) => Some(Walker::Mp4(Mp4::new(len))),
        [0x1A, 0x45, 0xDF, 0xA3, ..] => Some(Walker::Matroska(Matroska::default())),
        [b'R', b'I' | b'F', b'F' | b'6', b'F' | b'4', _, _, _, _, b'W', b'A', b'V', b'E', ..] => {
            Some(Walker::Wave(Wave::new(len)))
        }
        [b'I', b'D', b'3', ..] | [0xFF, 0xE0..=0xFF, ..] => Some(Walker::MpegAudio(MpegAudio::new(len))),
        _ => None,
    }
}

/// The first bytes as a big-endian number, if there are so many.
fn big_endian<const N: usize>(bytes: &[u8]) -> Option<u64> {
    let number: &[u8; N] = bytes.first_chunk()?;
    Some(number.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// So many units, of which `per_second` make a second.
fn duration(units: u64, per_second: u64) -> Option<Duration> {
    let seconds = units.checked_div(per_second)?;
    let nanoseconds = u128::from(units % per_second) * 1_000_000_000 / u128::from(per_second);
    Some(Duration::new(seconds, u32::try_from(nanoseconds).ok()?))
}

#[cfg(test)]
mod tests;
