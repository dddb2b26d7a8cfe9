//! Lines of a stream of JSON values, one to a line (NDJSON, JSON Lines): bytes as they come in, whole lines out.
//!
//! A line ends at LF; a CR before it is white space of JSON. What is held is one line at most, and no more of it than a bound.

use std::fmt;

use memchr::memchr;

/// Media types of such a stream.
pub const MEDIA_TYPES: [&str; 3] = ["application/x-ndjson", "application/jsonl", "application/ndjson"];

/// Whether a Content-Type says that the body is lines of JSON.
pub fn is_ndjson(content_type: &[u8]) -> bool {
    let media_type = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    MEDIA_TYPES.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(media_type))
}

/// A line is longer than it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineTooLong {
    /// Its number, the first is 1.
    pub line: u64,
    /// The bound, in bytes.
    pub limit: usize,
}

impl fmt::Display for LineTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} is longer than {} bytes", self.line, self.limit)
    }
}

/// A line that has something on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The first is 1; blank ones count.
    pub number: u64,
    /// Without its line end, and without white space around it; never empty.
    pub text: Vec<u8>,
}

/// Cuts a stream into lines.
#[derive(Debug)]
pub struct Lines {
    held: Vec<u8>,
    limit: usize,
    /// Line ends so far.
    ended: u64,
}

impl Lines {
    /// Lines of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Lines { held: Vec::new(), limit, ended: 0 }
    }

    /// The next line, and what of `input` is behind it; `None` when the input is used up. Blank lines are passed over.
    ///
    /// # Errors
    /// The line that is too long. The stream is good for nothing then.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Line>, LineTooLong> {
        loop {
            let end = memchr(b'\n', input);
            let (part, rest) = input.split_at(end.unwrap_or(input.len()));
            if part.len() > self.limit - self.held.len() {
                return Err(LineTooLong { line: self.ended + 1, limit: self.limit });
            }
            self.held.extend_from_slice(part);
            *input = rest.get(1..).unwrap_or_default();
            if end.is_none() {
                return Ok(None);
            }
            self.ended += 1;
            if let Some(line) = self.take(self.ended) {
                return Ok(Some(line));
            }
        }
    }

    /// The last line, when the stream is over and did not end with a line end.
    pub fn finish(&mut self) -> Option<Line> {
        self.take(self.ended + 1)
    }

    fn take(&mut self, number: u64) -> Option<Line> {
        let held = std::mem::take(&mut self.held);
        let text = held.trim_ascii();
        match text.len() {
            0 => None,
            len if len == held.len() => Some(Line { number, text: held }),
            _ => Some(Line { number, text: text.to_vec() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All lines of pieces that come one after the other.
    fn lines(pieces: &[&[u8]], limit: usize) -> Result<Vec<(u64, String)>, LineTooLong> {
        let mut lines = Lines::new(limit);
        let mut found = Vec::new();
        for piece in pieces {
            let mut rest = *piece;
            while let Some(line) = lines.next(&mut rest)? {
                found.push(line);
            }
        }
        found.extend(lines.finish());
        Ok(found.into_iter().map(|line| (line.number, String::from_utf8(line.text).unwrap())).collect())
    }

    #[track_caller]
    fn check(input: &str, limit: usize, expected: Result<&[(u64, &str)], u64>) {
        let expected = expected.map(|lines| lines.iter().map(|(n, text)| (*n, text.to_string())).collect::<Vec<_>>());
        let expected = expected.map_err(|line| LineTooLong { line, limit });
        let input = input.as_bytes();
        assert_eq!(lines(&[input], limit), expected, "whole");
        for at in 0..=input.len() {
            assert_eq!(lines(&[&input[..at], &input[at..]], limit), expected, "cut at {at}");
        }
        let bytes: Vec<&[u8]> = input.chunks(1).collect();
        assert_eq!(lines(&bytes, limit), expected, "byte by byte");
    }

    #[test]
    fn a_line_is_what_stands_between_line_ends() {
        check("", 5, Ok(&[]));
        check("1\n2\n", 5, Ok(&[(1, "1"), (2, "2")]));
        check("1\r\n\n \n 2", 5, Ok(&[(1, "1"), (4, "2")]));
        check("12345\n6", 5, Ok(&[(1, "12345"), (2, "6")]));
    }

    #[test]
    fn a_line_that_is_too_long_is_told_by_its_number() {
        check("1\n\n123456\n", 5, Err(3));
        check("123456", 5, Err(1));
        check("     1", 5, Err(1));
    }

    #[test]
    fn the_media_type_is_known_by_its_names() {
        assert!(is_ndjson(b"application/x-ndjson") && is_ndjson(b"Application/JSONL; charset=utf-8"));
        assert!(!is_ndjson(b"application/json") && !is_ndjson(b""));
    }
}
