//! Server-sent events, read as they come (the HTML standard, "Parsing an event stream"). Of an event its data are looked at, which
//! have to be a unit of the run, in one `data` line.
//!
//! An event with a name of its own is not the run's: a server may tell a reader something by it, for instance that it has lost some.
//! Those are counted and otherwise passed over, and so are comments, by which servers keep connections alive. Lines end with LF or
//! CR LF; that the standard allows a CR alone, no server of these makes use of.

use super::stamp::{Differs, Pattern, Stamp, UnitReader};

/// What a stream holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// An event of the run.
    Unit(Stamp),
    /// An event that has a name.
    Notice,
}

/// Reads one stream of events; it is as large as a stamp, and a few bytes.
#[derive(Debug, Default)]
pub struct EventReader {
    place: Place,
    name: FieldName,
    unit: UnitReader,
    stamp: Option<Stamp>,
    is_named: bool,
}

#[derive(Clone, Copy, Debug, Default)]
enum Place {
    /// At the beginning of a line.
    #[default]
    Line,
    /// In the name of a field.
    Name,
    /// Behind the colon, where one space may stand.
    Colon,
    /// In the data.
    Data,
    /// Behind the data, where the line has to end.
    DataEnd,
    /// In what is passed over, up to the end of the line.
    Rest,
    /// Behind the CR of an empty line.
    Empty,
}

/// The first bytes of a field's name: more than there are in any that matters.
#[derive(Clone, Copy, Debug, Default)]
struct FieldName {
    bytes: [u8; 6],
    len: usize,
}

impl FieldName {
    fn push(&mut self, byte: u8) {
        if self.len < self.bytes.len() {
            self.bytes[self.len] = byte;
            self.len += 1;
        }
    }

    fn text(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl EventReader {
    /// Reads what has come; `each` is called with every event that is complete.
    ///
    /// # Errors
    /// The data are not those of a unit.
    pub fn take(&mut self, mut bytes: &[u8], pattern: &Pattern, mut each: impl FnMut(Item)) -> Result<(), Differs> {
        while let Some(&first) = bytes.first() {
            let taken = match self.place {
                Place::Line => self.begin_line(bytes, first, &mut each),
                Place::Name => self.take_name(first),
                Place::Colon => {
                    self.place = Place::Data;
                    usize::from(first == b' ')
                }
                Place::Data => self.take_data(bytes, pattern)?,
                Place::DataEnd => self.end_data(first)?,
                Place::Rest => self.pass_over(bytes),
                Place::Empty if first == b'\n' => {
                    self.end_event(&mut each);
                    1
                }
                Place::Empty => return Err(Differs),
            };
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    fn begin_line(&mut self, bytes: &[u8], first: u8, each: &mut impl FnMut(Item)) -> usize {
        match first {
            // The usual line, at once.
            b'd' if bytes.starts_with(b"data: ") && !self.is_named => {
                self.place = Place::Data;
                return 6;
            }
            b'\n' => self.end_event(each),
            b'\r' => self.place = Place::Empty,
            b':' => self.place = Place::Rest,
            _ => {
                self.name = FieldName::default();
                self.name.push(first);
                self.place = Place::Name;
            }
        }
        1
    }

    fn take_name(&mut self, byte: u8) -> usize {
        match byte {
            b'\n' => self.place = Place::Line,
            b':' => {
                self.is_named |= self.name.text() == b"event";
                self.place = if self.name.text() == b"data" && !self.is_named { Place::Colon } else { Place::Rest };
            }
            _ => self.name.push(byte),
        }
        1
    }

    fn take_data(&mut self, bytes: &[u8], pattern: &Pattern) -> Result<usize, Differs> {
        if self.stamp.is_some() {
            return Err(Differs); // A second line of data.
        }
        let taken = self.unit.take(bytes, pattern)?;
        self.stamp = self.unit.finish(pattern)?;
        if self.stamp.is_some() {
            self.place = Place::DataEnd;
        }
        Ok(taken)
    }

    fn end_data(&mut self, byte: u8) -> Result<usize, Differs> {
        match byte {
            b'\n' => self.place = Place::Line,
            b'\r' => {}
            _ => return Err(Differs),
        }
        Ok(1)
    }

    fn pass_over(&mut self, bytes: &[u8]) -> usize {
        match bytes.iter().position(|&byte| byte == b'\n') {
            Some(at) => {
                self.place = Place::Line;
                at + 1
            }
            None => bytes.len(),
        }
    }

    fn end_event(&mut self, each: &mut impl FnMut(Item)) {
        self.place = Place::Line;
        if std::mem::take(&mut self.is_named) {
            each(Item::Notice);
        }
        if let Some(stamp) = self.stamp.take() {
            each(Item::Unit(stamp));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Stamp = Stamp { number: 7, due_ns: 1_000 };
    const SECOND: Stamp = Stamp { number: 8, due_ns: 2_000 };

    /// The template, with a unit in the place of `1` and `2` each.
    fn stream(template: &str, pattern: &Pattern) -> Vec<u8> {
        let mut bytes = Vec::new();
        for byte in template.bytes() {
            match byte {
                b'1' => pattern.write(FIRST, &mut bytes),
                b'2' => pattern.write(SECOND, &mut bytes),
                _ => bytes.push(byte),
            }
        }
        bytes
    }

    #[track_caller]
    fn check(template: &str, expected: Result<&[Item], Differs>) {
        let pattern = Pattern::new(60);
        let bytes = stream(template, &pattern);
        for step in [1, 2, 3, 5, 7, 41, bytes.len()] {
            let (mut reader, mut items) = (EventReader::default(), Vec::new());
            let outcome =
                bytes.chunks(step).try_for_each(|piece| reader.take(piece, &pattern, |item| items.push(item)));
            assert_eq!(outcome.map(|()| items.as_slice()), expected, "{template:?} by {step}");
        }
    }

    #[test]
    fn events() {
        let both = [Item::Unit(FIRST), Item::Unit(SECOND)];
        check("data: 1\n\ndata: 2\n\n", Ok(&both));
        check("id: a\ndata: 1\n\nid: b\ndata: 2\n\n", Ok(&both));
        check(": hi\n\nretry: 3\ndata:1\nid: a\n\n:\n\ndata: 2\nfoo\n\n", Ok(&both));
        check("id: a\r\ndata: 1\r\n\r\ndata: 2\r\n\r\n", Ok(&both));
        check("datadata: x\nda: y\ndatabase: z\ndata: 1\n\n", Ok(&both[..1]));
        check("data: 1\n", Ok(&[]));
    }

    #[test]
    fn events_with_a_name_are_told_and_passed_over() {
        check("event: lost\ndata: 4 events\n\ndata: 1\n\n", Ok(&[Item::Notice, Item::Unit(FIRST)]));
        check("id: a\nevent:lost\nid: b\ndata: x\ndata: y\n\n", Ok(&[Item::Notice]));
    }

    #[test]
    fn other_data_are_told() {
        for wrong in
            ["data: 1x\n\n", "data: x\n\n", "data:\n\n", "data:  1\n\n", "data: 1\ndata: 2\n\n", "data: 1\n\r1"]
        {
            check(wrong, Err(Differs));
        }
    }
}
