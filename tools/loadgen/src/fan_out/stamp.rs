//! What every event and every piece of live media holds: which one it is, when it was due, and bytes by a rule to its end. So each
//! reader can say of each unit whether it is the next one, how long it was on its way and whether every byte is right. It is text
//! without a line end, for that is what the data of a server-sent event can carry unchanged.
//!
//! Comparing with the whole of a unit that lies ready costs a `memcmp`, and so less than looking for the end of its line would.

use crate::verify::rule;

/// Two numbers of 16 hexadecimal digits, a space behind each; a unit is at least as long.
pub const STAMP_LEN: usize = 34;

/// Which unit it is, and when it was due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Units are counted from 0.
    pub number: u64,
    /// CLOCK_MONOTONIC, nanoseconds.
    pub due_ns: u64,
}

impl Stamp {
    fn text(self) -> String {
        format!("{:016x} {:016x} ", self.number, self.due_ns)
    }

    fn parse(text: &[u8; STAMP_LEN]) -> Option<Stamp> {
        let number = |digits: &[u8]| {
            digits.iter().try_fold(0u64, |sum, &digit| Some(sum << 4 | u64::from(char::from(digit).to_digit(16)?)))
        };
        let stamp = Stamp { number: number(&text[..16])?, due_ns: number(&text[17..33])? };
        (text[16] == b' ' && text[33] == b' ').then_some(stamp)
    }
}

/// The bytes behind the stamp, the same in every unit.
#[derive(Clone, Debug)]
pub struct Pattern {
    unit: Vec<u8>,
}

impl Pattern {
    /// For units of `len` bytes, at least [`STAMP_LEN`].
    pub fn new(len: usize) -> Self {
        // Of the graphic characters of ASCII, of which there are 94.
        Pattern { unit: (0..len as u64).map(|at| b'!' + rule(at) % 94).collect() }
    }

    /// The length of a unit in bytes.
    pub fn unit_len(&self) -> usize {
        self.unit.len()
    }

    /// Appends a unit to `out`.
    pub fn write(&self, stamp: Stamp, out: &mut Vec<u8>) {
        out.extend_from_slice(stamp.text().as_bytes());
        out.extend_from_slice(&self.unit[STAMP_LEN..]);
    }
}

/// A byte is not the one that belongs there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Differs;

/// A unit that is being read.
#[derive(Debug)]
pub struct UnitReader {
    at: usize,
    text: [u8; STAMP_LEN],
}

impl Default for UnitReader {
    fn default() -> Self {
        UnitReader { at: 0, text: [0; STAMP_LEN] }
    }
}

impl UnitReader {
    /// Takes as many bytes as are left of the unit, and says how many they were.
    ///
    /// # Errors
    /// One of them is wrong.
    pub fn take(&mut self, bytes: &[u8], pattern: &Pattern) -> Result<usize, Differs> {
        let stamp_len = bytes.len().min(STAMP_LEN.saturating_sub(self.at));
        let (stamp, rest) = bytes.split_at(stamp_len);
        if !stamp.is_empty() {
            // A line that ends here would take the next one for the rest of the stamp.
            if stamp.iter().any(u8::is_ascii_control) {
                return Err(Differs);
            }
            self.text[self.at..self.at + stamp_len].copy_from_slice(stamp);
            self.at += stamp_len;
        }
        let expected = &pattern.unit[self.at..];
        let len = rest.len().min(expected.len());
        if rest[..len] != expected[..len] {
            return Err(Differs);
        }
        self.at += len;
        Ok(stamp_len + len)
    }

    /// Whether any byte of it has come.
    pub fn has_begun(&self) -> bool {
        self.at > 0
    }

    /// The stamp, once the whole unit has come; the next byte begins another one then.
    ///
    /// # Errors
    /// The stamp is none.
    pub fn finish(&mut self, pattern: &Pattern) -> Result<Option<Stamp>, Differs> {
        if self.at < pattern.unit_len() {
            return Ok(None);
        }
        self.at = 0;
        Stamp::parse(&self.text).map(Some).ok_or(Differs)
    }
}

/// A body that is one unit after the other.
#[derive(Debug, Default)]
pub struct PieceReader {
    unit: UnitReader,
}

impl PieceReader {
    /// Reads what has come; `each` is called with the stamp of each unit that is complete.
    ///
    /// # Errors
    /// A byte is wrong.
    pub fn take(&mut self, mut bytes: &[u8], pattern: &Pattern, mut each: impl FnMut(Stamp)) -> Result<(), Differs> {
        while !bytes.is_empty() {
            let len = self.unit.take(bytes, pattern)?;
            bytes = &bytes[len..];
            if let Some(stamp) = self.unit.finish(pattern)? {
                each(stamp);
            }
        }
        Ok(())
    }

    /// Whether the body may end here.
    pub fn is_between_units(&self) -> bool {
        !self.unit.has_begun()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMPS: [Stamp; 3] = [
        Stamp { number: 0, due_ns: u64::MAX },
        Stamp { number: u64::MAX, due_ns: 0 },
        Stamp { number: 0x1234_5678, due_ns: 42 },
    ];

    fn read(bytes: &[u8], pattern: &Pattern, step: usize) -> Result<Vec<Stamp>, Differs> {
        let (mut reader, mut stamps) = (PieceReader::default(), Vec::new());
        for piece in bytes.chunks(step) {
            reader.take(piece, pattern, |stamp| stamps.push(stamp))?;
        }
        assert_eq!(reader.is_between_units(), bytes.len().is_multiple_of(pattern.unit_len()));
        Ok(stamps)
    }

    fn units(pattern: &Pattern) -> Vec<u8> {
        let mut bytes = Vec::new();
        STAMPS.iter().for_each(|&stamp| pattern.write(stamp, &mut bytes));
        bytes
    }

    #[test]
    fn what_is_written_is_read_however_it_is_cut() {
        for len in [STAMP_LEN, STAMP_LEN + 1, 100, 1024] {
            let pattern = Pattern::new(len);
            let bytes = units(&pattern);
            assert_eq!(bytes.len(), 3 * len);
            assert!(bytes.iter().all(|byte| matches!(byte, b' '..=b'~')));
            for step in [1, 2, 33, 34, 35, len, len + 1, 3 * len] {
                assert_eq!(read(&bytes, &pattern, step), Ok(STAMPS.to_vec()), "{len} by {step}");
            }
            assert_eq!(read(&bytes[..len + 1], &pattern, len), Ok(STAMPS[..1].to_vec()));
        }
    }

    #[test]
    fn every_byte_of_the_pattern_counts() {
        let pattern = Pattern::new(100);
        let bytes = units(&pattern);
        for at in (0..bytes.len()).filter(|at| at % 100 >= STAMP_LEN || matches!(at % 100, 16 | 33)) {
            let mut wrong = bytes.clone();
            wrong[at] ^= 1;
            assert_eq!(read(&wrong, &pattern, 64), Err(Differs), "{at}");
        }
        let mut wrong = bytes.clone();
        wrong[0] = b'g';
        assert_eq!(read(&wrong, &pattern, 64), Err(Differs));
        // One byte that is missing shifts all that follow.
        assert_eq!(read(&bytes[1..], &pattern, 64), Err(Differs));
    }
}
