//! Lines of a stream of JSON values, one on each (NDJSON, JSON Lines), as they come in pieces.
//!
//! A line ends with LF, a CR before it belongs to the end; blank lines are passed over, and the last line needs no end. A line that
//! lies in one piece is handed out where it is; only what is cut by the end of a piece is copied, up to the bound. Whether
//! a line is JSON is for whoever takes it.

use std::borrow::Cow;
use std::mem;

/// A line that is not blank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// Which line of the stream it is, the first being 1; blank ones count.
    pub number: u64,
    /// Its bytes, without its end.
    pub bytes: Cow<'a, [u8]>,
}

/// The line of this number is longer than lines may be. Nothing behind it can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong {
    /// Which line.
    pub number: u64,
}

/// Takes a stream apart.
#[derive(Debug)]
pub struct Lines {
    max_len: usize,
    /// The line that has begun.
    number: u64,
    begun: Vec<u8>,
}

impl Lines {
    /// From the beginning; no line may be longer than this, in bytes.
    pub fn new(max_len: usize) -> Self {
        Lines { max_len, number: 1, begun: Vec::new() }
    }

    /// Bytes that are kept of a line that has begun.
    pub fn held(&self) -> usize {
        self.begun.len()
    }

    /// The next line of the input, which moves on behind it; none when the rest of the input has no end of a line, and is kept.
    ///
    /// # Errors
    /// [`TooLong`].
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Line<'a>>, TooLong> {
        while let Some(end) = memchr::memchr(b'\n', input) {
            let (piece, rest) = (&input[..end], &input[end + 1..]);
            *input = rest;
            let number = self.number;
            let bytes = if self.begun.is_empty() {
                Cow::Borrowed(piece)
            } else {
                self.keep(piece)?;
                Cow::Owned(mem::take(&mut self.begun))
            };
            self.number += 1;
            if let Some(line) = self.line(number, bytes)? {
                return Ok(Some(line));
            }
        }
        self.keep(mem::take(input))?;
        Ok(None)
    }

    /// The last line, when the stream is over and did not end it.
    ///
    /// # Errors
    /// [`TooLong`].
    pub fn finish(&mut self) -> Result<Option<Line<'static>>, TooLong> {
        let rest = mem::take(&mut self.begun);
        self.line(self.number, Cow::Owned(rest))
    }

    fn keep(&mut self, piece: &[u8]) -> Result<(), TooLong> {
        // With the CR of its end.
        if self.begun.len() + piece.len() > self.max_len + 1 {
            return Err(TooLong { number: self.number });
        }
        self.begun.extend_from_slice(piece);
        Ok(())
    }

    fn line<'a>(&self, number: u64, mut bytes: Cow<'a, [u8]>) -> Result<Option<Line<'a>>, TooLong> {
        if bytes.last() == Some(&b'\r') {
            match &mut bytes {
                Cow::Borrowed(bytes) => *bytes = &bytes[..bytes.len() - 1],
                Cow::Owned(bytes) => bytes.truncate(bytes.len() - 1),
            }
        }
        if bytes.len() > self.max_len {
            return Err(TooLong { number });
        }
        Ok((!bytes.trim_ascii().is_empty()).then_some(Line { number, bytes }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Found = Result<Vec<(u64, Vec<u8>)>, TooLong>;

    fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Found {
        let (mut lines, mut found) = (Lines::new(5), Vec::new());
        for mut piece in pieces {
            while let Some(line) = lines.next(&mut piece)? {
                found.push((line.number, line.bytes.into_owned()));
            }
            assert!(lines.held() <= 6);
        }
        found.extend(lines.finish()?.map(|line| (line.number, line.bytes.into_owned())));
        Ok(found)
    }

    /// The same outcome, wherever the input is cut.
    #[track_caller]
    fn every_split(input: &[u8]) -> Found {
        let whole = read([input]);
        for cut in 0..=input.len() {
            let (head, tail) = input.split_at(cut);
            assert_eq!(read([head, tail]), whole, "cut at {cut}");
        }
        assert_eq!(read(input.chunks(1)), whole);
        whole
    }

    #[track_caller]
    fn check(input: &str, expected: &[(u64, &str)]) {
        let expected = expected.iter().map(|(number, text)| (*number, text.as_bytes().to_vec())).collect();
        assert_eq!(every_split(input.as_bytes()), Ok(expected));
    }

    #[test]
    fn lines_end_with_lf_and_blank_ones_are_passed_over() {
        check("", &[]);
        check("1\n2\n", &[(1, "1"), (2, "2")]);
        check("1\r\n2", &[(1, "1"), (2, "2")]);
        check("\n \r\n\t\n1\n\n", &[(4, "1")]);
        check("1\r2", &[(1, "1\r2")]);
        check("12345\r\n12345", &[(1, "12345"), (2, "12345")]);
    }

    #[test]
    fn a_line_over_the_bound_is_refused_with_its_number() {
        for input in ["1\n123456\n2", "1\n123456", "1\n1234567890123456", "\n      \n"] {
            assert_eq!(every_split(input.as_bytes()), Err(TooLong { number: 2 }), "{input}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_have_one_outcome(input in prop::collection::vec(prop::sample::select(b"1x \r\n".to_vec()), 0..40)) {
            let _ = every_split(&input);
        }
    }
}
