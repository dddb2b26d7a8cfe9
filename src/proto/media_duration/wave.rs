//! WAV (RIFF, IBM and Microsoft 1991; RF64, EBU Tech 3306, whose `data` has a length of all ones): `fmt ` tells the bytes of a
//! second, `data` holds the samples.

use super::{Step, big_endian, duration};

/// Walks the chunks of a file.
#[derive(Debug)]
pub(super) struct Wave {
    len: u64,
    /// Bytes of a second, as `fmt ` says.
    byte_rate: u64,
}

/// `RIFF` or `RF64`, a length and `WAVE`.
const HEAD_LEN: u64 = 12;

impl Wave {
    pub(super) fn new(len: u64) -> Self {
        Wave { len, byte_rate: 0 }
    }

    pub(super) fn step(&mut self, at: u64, bytes: &[u8]) -> Step {
        if at == 0 {
            return Step::To(HEAD_LEN);
        }
        let (Some(kind), Some(chunk_len)) = (bytes.get(..4), little_endian(bytes, 4)) else { return Step::NeedMore };
        let begin = at + 8;
        match kind {
            b"fmt " => match little_endian(bytes, 16) {
                None => return Step::NeedMore,
                Some(byte_rate) => self.byte_rate = byte_rate,
            },
            b"data" => {
                // A writer that could not seek back has left no length.
                let is_told = chunk_len != 0 && chunk_len != u64::from(u32::MAX);
                let rest = self.len.saturating_sub(begin);
                let data_len = if is_told { chunk_len.min(rest) } else { rest };
                return Step::Is(duration(data_len, self.byte_rate));
            }
            _ => {}
        }
        // Chunks begin at even offsets.
        Step::To(begin + chunk_len + chunk_len % 2)
    }
}

/// The 32 bits at an offset.
fn little_endian(bytes: &[u8], at: usize) -> Option<u64> {
    big_endian::<4>(bytes.get(at..)?).map(|number| u64::from((number as u32).swap_bytes()))
}
