//! Forms with files: multipart/form-data (RFC 7578, RFC 2046 §5.1), one event at a time.
//!
//! ```text
//!  preamble ␍␊--boundary ␍␊ Content-Disposition: … ␍␊ ␍␊ data … ␍␊--boundary ␍␊ …   ␍␊--boundary -- epilogue
//!  dropped   delimiter       the part's head: kept until      a range of the input,    the end      not read
//!                            its empty line, bounded          never copied
//! ```
//!
//! Where an input ends in what may become a delimiter, the parser takes these bytes and remembers only how many they are,
//! because it knows them: they are the beginning of the delimiter. If they turn out to be data, it says how many, and
//! [`Parser::held`] gives them from the delimiter. So nothing of the data is ever stored, and inputs need not overlap.
//!
//! A delimiter begins with the only CR in it. So a match that fails can begin again only at the byte that failed it, and
//! what was matched never has to be looked at again: the fall-back of a Knuth-Morris-Pratt search comes down to this.
//!
//! What the parser says does not depend on how the input was cut, up to where the data is cut: also data before the byte that
//! breaks a limit is reported, always as much.

mod boundary;
mod head;
mod parameters;
mod refusal;
#[cfg(test)]
mod tests;

use std::ops::Range;

use memchr::memmem::Finder;

pub use self::boundary::{Boundary, BoundaryError, boundary};
pub use self::head::PartHead;
pub use self::refusal::{HeadFault, Refusal};

/// How much of the delimiter belongs to the line before it: CR LF.
const LINE_END_LEN: usize = 2;

/// The first allocation for a part's head, in bytes; the heads of browsers fit.
const USUAL_HEAD_LEN: usize = 256;

/// The bounds of one form (U1). Each is the most that is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The name of a field, decoded, in bytes.
    pub field_name_len: usize,
    /// The data of a part that is no file, in bytes.
    pub field_len: usize,
    /// Parts that are no files.
    pub fields: usize,
    /// Parts that are files, also those with an empty file name.
    pub files: usize,
    /// Parts of both kinds.
    pub parts: usize,
    /// The data of a file, in bytes.
    pub file_len: u64,
    /// The data of all parts together, in bytes.
    pub total_len: u64,
    /// The header fields of all parts together.
    pub header_pairs: usize,
    /// The head of a part with its empty line, in bytes. Also the preamble, and the white space after a boundary.
    pub part_head_len: usize,
}

/// What [`Parser::parse`] found. `used` bytes of the input are done with and are not to be passed again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A part begins.
    PartStart {
        /// Its head.
        head: PartHead,
        /// The end of the head.
        used: usize,
    },
    /// Data of the part.
    Data {
        /// Where it lies in the input; never empty.
        data: Range<usize>,
        /// The end of the data, or of what may be the beginning of a delimiter and is held behind it.
        used: usize,
    },
    /// Bytes of earlier inputs that might have become a delimiter are data of the part: those that [`Parser::held`] gives.
    /// They come before what the input holds. Nothing of the input is used.
    Held {
        /// How many they are; never none, and fewer than the delimiter has.
        len: usize,
    },
    /// The part is over.
    PartEnd {
        /// The end of the delimiter that ended it.
        used: usize,
    },
    /// The form is over. What follows is its epilogue, which means nothing: a later call uses all that it is given.
    End {
        /// The end of the closing delimiter, or of the epilogue.
        used: usize,
    },
    /// There is no event in what is left of the input, and all of it is used.
    NeedMore {
        /// The length of the input.
        used: usize,
    },
}

/// Takes one form apart. Its memory: the delimiter twice, and at most [`Limits::part_head_len`] while a part's head arrives.
#[derive(Clone, Debug)]
pub struct Parser {
    /// Looks for the delimiter, and owns it.
    finder: Finder<'static>,
    limits: Limits,
    state: State,
    /// The bytes of the delimiter that were matched at the end of the input: all up to its end. Those before its start did
    /// not come as data, but as the line end before it.
    matched: Range<usize>,
    /// What [`Parser::held`] gives, of the delimiter.
    held: Range<usize>,
    /// What has come of a part's head.
    head: Vec<u8>,
    /// Where the last line of `head` begins.
    line_start: usize,
    parts: usize,
    files: usize,
    fields: usize,
    header_pairs: usize,
    /// What all data may still take, in bytes.
    total_left: u64,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug)]
enum State {
    /// Before the first boundary, with so many bytes dropped.
    Preamble {
        len: usize,
    },
    /// A delimiter ended a part, and the event is yet to be given.
    PartEnd,
    /// After a delimiter and so many bytes of white space.
    Delimiter {
        blanks: usize,
    },
    /// The second hyphen after the last boundary.
    Hyphen,
    /// The LF after a boundary.
    LineFeed,
    Head,
    Data(Part),
    Done,
    Failed(Refusal),
}

/// The part whose data comes.
#[derive(Clone, Copy, Debug)]
struct Part {
    /// What its data may still take, in bytes.
    left: u64,
    /// What is said when it takes more.
    refusal: Refusal,
}

/// What the search for a delimiter found.
#[derive(Clone, Copy, Debug)]
enum Found {
    /// What was matched before is no delimiter.
    NotMatched,
    /// No whole delimiter: so many other bytes, and then perhaps the beginning of one.
    Other { len: usize },
    /// A delimiter that ends at `used`, after so many other bytes.
    Delimiter { len: usize, used: usize },
}

impl Found {
    /// How many bytes turned out to be no delimiter, if `matched` were matched before.
    fn other_len(self, matched: usize) -> usize {
        match self {
            Found::NotMatched => matched,
            Found::Other { len } | Found::Delimiter { len, .. } => len,
        }
    }
}

impl Parser {
    /// A parser that stands before the form's first byte.
    pub fn new(boundary: &Boundary, limits: Limits) -> Self {
        Parser {
            finder: Finder::new(boundary.delimiter()).into_owned(),
            limits,
            state: State::Preamble { len: 0 },
            // The first boundary has no line before it, unless there is a preamble.
            matched: LINE_END_LEN..LINE_END_LEN,
            held: 0..0,
            head: Vec::new(),
            line_start: 0,
            parts: 0,
            files: 0,
            fields: 0,
            header_pairs: 0,
            total_left: limits.total_len,
        }
    }

    /// Reads on, up to the next event in `input` or its end.
    ///
    /// # Errors
    /// A [`Refusal`] at the first byte that proves it, and the same again in every later call.
    pub fn parse(&mut self, input: &[u8]) -> Result<Parsed, Refusal> {
        self.advance(input).inspect_err(|&refusal| self.state = State::Failed(refusal))
    }

    /// The bytes that the last [`Parsed::Held`] is about.
    pub fn held(&self) -> &[u8] {
        &self.finder.needle()[self.held.clone()]
    }

    /// Whether the form may end here, where the request's body does.
    ///
    /// # Errors
    /// [`Refusal::Unclosed`], [`Refusal::MissingBoundary`] if there was none at all, or what [`Parser::parse`] said before.
    pub fn finish(&self) -> Result<(), Refusal> {
        match self.state {
            State::Done => Ok(()),
            State::Failed(refusal) => Err(refusal),
            State::Preamble { .. } => Err(Refusal::MissingBoundary),
            _ => Err(Refusal::Unclosed),
        }
    }

    fn advance(&mut self, input: &[u8]) -> Result<Parsed, Refusal> {
        let mut used = 0;
        loop {
            let rest = &input[used..];
            match self.state {
                State::Failed(refusal) => return Err(refusal),
                State::Done => return Ok(Parsed::End { used: input.len() }),
                State::PartEnd => {
                    self.state = State::Delimiter { blanks: 0 };
                    return Ok(Parsed::PartEnd { used });
                }
                _ if rest.is_empty() => return Ok(Parsed::NeedMore { used }),
                State::Preamble { len } => used += self.preamble(len, rest)?,
                State::Delimiter { .. } | State::Hyphen | State::LineFeed => {
                    used += 1;
                    self.state = self.delimiter_byte(rest[0])?;
                    if let State::Done = self.state {
                        return Ok(Parsed::End { used });
                    }
                }
                State::Head => {
                    let (len, is_whole) = self.head_line(rest)?;
                    used += len;
                    if is_whole {
                        return Ok(Parsed::PartStart { head: self.start_part()?, used });
                    }
                }
                // A part's data never follows anything in one call: its start was an event.
                State::Data(part) => return self.data(part, input),
            }
        }
    }

    /// Drops what stands before the first boundary; how much of `input` that was, the boundary included.
    ///
    /// The preamble was meant for mail programs that know no MIME. Nobody sends one over HTTP, so it has a small bound, and a
    /// body that is something else is refused early.
    fn preamble(&mut self, dropped: usize, input: &[u8]) -> Result<usize, Refusal> {
        let found = self.search(input);
        let len = dropped.saturating_add(found.other_len(self.matched.len()));
        if len > self.limits.part_head_len {
            return Err(Refusal::MissingBoundary);
        }
        self.state = State::Preamble { len };
        match found {
            Found::NotMatched => {
                self.matched = 0..0;
                Ok(0)
            }
            Found::Other { .. } => Ok(input.len()),
            Found::Delimiter { used, .. } => {
                self.state = State::Delimiter { blanks: 0 };
                Ok(used)
            }
        }
    }

    /// Looks for the delimiter in what was matched before and `input`, which is not empty.
    fn search(&mut self, input: &[u8]) -> Found {
        let delimiter = self.finder.needle();
        if self.matched.end > 0 {
            let wanted = &delimiter[self.matched.end..];
            let common = wanted.iter().zip(input).take_while(|(a, b)| a == b).count();
            if common == wanted.len() {
                self.matched = 0..0;
                return Found::Delimiter { len: 0, used: common };
            }
            if common == input.len() {
                self.matched.end += common;
                return Found::Other { len: 0 };
            }
            if !self.matched.is_empty() {
                return Found::NotMatched;
            }
            self.matched = 0..0;
        }
        match self.finder.find(input) {
            Some(len) => Found::Delimiter { len, used: len + delimiter.len() },
            None => {
                let matched = matched_at_end(delimiter, input);
                self.matched = 0..matched;
                Found::Other { len: input.len() - matched }
            }
        }
    }

    /// What follows a delimiter: two hyphens after the last one, else white space and a line end.
    ///
    /// Anything else is refused. To RFC 2046 §5.1.1 the boundary alone makes the delimiter, whatever else is on its line ("an
    /// exact match of the entire candidate line is not required"), and the sender had to choose one that is not in its data. Go
    /// takes such a line for data and busboy drops the part behind it: where a part ends must not be a matter of taste.
    fn delimiter_byte(&mut self, byte: u8) -> Result<State, Refusal> {
        match (self.state, byte) {
            (State::Delimiter { blanks: 0 }, b'-') => Ok(State::Hyphen),
            (State::Delimiter { blanks }, b' ' | b'\t') if blanks < self.limits.part_head_len => {
                Ok(State::Delimiter { blanks: blanks + 1 })
            }
            (State::Delimiter { .. }, b' ' | b'\t') => Err(Refusal::PartHead(self.limits.part_head_len)),
            (State::Delimiter { .. }, b'\r') => Ok(State::LineFeed),
            (State::LineFeed, b'\n') => {
                self.parts += 1;
                if self.parts > self.limits.parts {
                    return Err(Refusal::PartCount(self.limits.parts));
                }
                Ok(State::Head)
            }
            // What follows the hyphens belongs to the epilogue, and no server looks at it.
            (State::Hyphen, b'-') => Ok(State::Done),
            _ => Err(Refusal::Delimiter),
        }
    }

    /// Takes in a line of a part's head, or its beginning; how much of `input` that was, and whether the head is whole.
    fn head_line(&mut self, input: &[u8]) -> Result<(usize, bool), Refusal> {
        let room = self.limits.part_head_len - self.head.len();
        let window = &input[..input.len().min(room)];
        let Some(line_feed) = memchr::memchr(b'\n', window) else {
            if input.len() > room {
                return Err(Refusal::PartHead(self.limits.part_head_len));
            }
            self.extend_head(window);
            return Ok((window.len(), false));
        };
        let len = line_feed + 1;
        self.extend_head(&window[..len]);
        match self.head[self.line_start..].strip_suffix(b"\r\n") {
            None => return Err(Refusal::Malformed(HeadFault::BareLineFeed)),
            Some([]) => return Ok((len, true)),
            Some(_) => self.header_pairs += 1,
        }
        if self.header_pairs > self.limits.header_pairs {
            return Err(Refusal::HeaderPairs(self.limits.header_pairs));
        }
        self.line_start = self.head.len();
        Ok((len, false))
    }

    /// Doubles the head's memory as it grows, like any vector, but never beyond the limit.
    fn extend_head(&mut self, bytes: &[u8]) {
        let len = self.head.len() + bytes.len();
        if len > self.head.capacity() {
            let doubled = (2 * self.head.capacity()).max(USUAL_HEAD_LEN).min(self.limits.part_head_len);
            self.head.reserve_exact(doubled.max(len) - self.head.len());
        }
        self.head.extend_from_slice(bytes);
    }

    /// Reads the head, which is whole, and counts the part.
    fn start_part(&mut self) -> Result<PartHead, Refusal> {
        let mut block = std::mem::take(&mut self.head);
        block.truncate(self.line_start);
        self.line_start = 0;
        let head = PartHead::parse(block)?;
        let limits = self.limits;
        if head.name.len() > limits.field_name_len {
            return Err(Refusal::FieldKey(limits.field_name_len));
        }
        let (count, most, refusal) = match head.is_file() {
            true => (&mut self.files, limits.files, Refusal::FileCount(limits.files)),
            false => (&mut self.fields, limits.fields, Refusal::FieldCount(limits.fields)),
        };
        *count += 1;
        if *count > most {
            return Err(refusal);
        }
        self.state = State::Data(match head.is_file() {
            true => Part { left: limits.file_len, refusal: Refusal::FileSize(limits.file_len) },
            false => Part { left: limits.field_len as u64, refusal: Refusal::FieldValue(limits.field_len) },
        });
        // A part may have no data and no line end for it: `encapsulation := delimiter CRLF body-part` and `body-part :=
        // MIME-part-headers [CRLF *OCTET]`, so the line end of the empty line may be the delimiter's own.
        self.matched = LINE_END_LEN..LINE_END_LEN;
        Ok(head)
    }

    /// Reports data, as far as the limits let it.
    fn data(&mut self, part: Part, input: &[u8]) -> Result<Parsed, Refusal> {
        let found = self.search(input);
        let len = found.other_len(self.matched.len());
        let allowed = self.allow(part, len)?;
        if let Found::NotMatched = found {
            self.held = self.matched.start..self.matched.start + allowed;
            // Of what breaks a limit, the rest stays matched, and fails the next call.
            self.matched = if allowed == len { 0..0 } else { self.held.end..self.matched.end };
            return Ok(Parsed::Held { len: allowed });
        }
        if allowed < len {
            self.matched = 0..0;
            return Ok(Parsed::Data { data: 0..allowed, used: allowed });
        }
        let used = match found {
            Found::Delimiter { used, .. } => {
                self.state = State::PartEnd;
                used
            }
            _ => input.len(),
        };
        match (len, self.state) {
            (1.., _) => Ok(Parsed::Data { data: 0..len, used }),
            (0, State::PartEnd) => {
                self.state = State::Delimiter { blanks: 0 };
                Ok(Parsed::PartEnd { used })
            }
            (0, _) => Ok(Parsed::NeedMore { used }),
        }
    }

    /// How many of `len` bytes of data the limits allow; counts them.
    fn allow(&mut self, part: Part, len: usize) -> Result<usize, Refusal> {
        let allowed = part.left.min(self.total_left).min(len as u64);
        if allowed == 0 && len > 0 {
            return Err(if part.left == 0 { part.refusal } else { Refusal::TotalSize(self.limits.total_len) });
        }
        self.total_left -= allowed;
        self.state = State::Data(Part { left: part.left - allowed, ..part });
        Ok(allowed as usize)
    }
}

/// How many bytes at the end of `input` are the beginning of the delimiter, of which `input` has no whole one.
fn matched_at_end(delimiter: &[u8], input: &[u8]) -> usize {
    let tail = &input[input.len().saturating_sub(delimiter.len() - 1)..];
    // Only the last CR can begin a delimiter that goes on: one that began before would have that CR in it.
    match memchr::memrchr(b'\r', tail) {
        Some(at) if delimiter.starts_with(&tail[at..]) => tail.len() - at,
        _ => 0,
    }
}
