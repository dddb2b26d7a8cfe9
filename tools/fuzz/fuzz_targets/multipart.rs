//! A form must mean the same however it is cut: what the parser tells of the whole input, of the pieces that the fuzzer chose,
//! and of single bytes, is compared, with limits that are soon reached and without.
//!
//! The fuzzer's input: a byte that picks boundary and limits, three lengths of pieces, the form.

#![no_main]

use highwater::proto::multipart::{Limits, Parsed, Parser, PartHead, Refusal, boundary};
use libfuzzer_sys::fuzz_target;

const NARROW: Limits = Limits {
    field_name_len: 4,
    field_len: 8,
    fields: 2,
    files: 1,
    parts: 3,
    file_len: 12,
    total_len: 16,
    header_pairs: 4,
    part_head_len: 96,
};

const WIDE: Limits = Limits {
    field_name_len: 1 << 20,
    field_len: 1 << 20,
    fields: 1000,
    files: 1000,
    parts: 1000,
    file_len: 1 << 20,
    total_len: 1 << 20,
    header_pairs: 1000,
    part_head_len: 1 << 20,
};

#[derive(Debug, PartialEq)]
enum Event {
    Start(PartHead),
    Data(Vec<u8>),
    PartEnd,
    End,
}

fn push_data(events: &mut Vec<Event>, data: &[u8]) {
    assert!(!data.is_empty());
    match events.last_mut() {
        Some(Event::Data(all)) => all.extend_from_slice(data),
        _ => events.push(Event::Data(data.to_vec())),
    }
}

/// What is told of `pieces`, with neighbouring data as one, and how it ends.
fn parse<'a>(mut parser: Parser, pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Event>, Result<(), Refusal>) {
    let mut events = Vec::new();
    for piece in pieces {
        let mut rest = piece;
        while !rest.is_empty() {
            let used = match parser.parse(rest) {
                Err(refusal) => return (events, Err(refusal)),
                Ok(Parsed::PartStart { head, used }) => {
                    assert!(!head.name.is_empty() && head.fields().count() > 0);
                    events.push(Event::Start(head));
                    used
                }
                Ok(Parsed::Data { data, used }) => {
                    push_data(&mut events, &rest[data]);
                    used
                }
                Ok(Parsed::Held { len }) => {
                    assert_eq!(parser.held().len(), len);
                    push_data(&mut events, parser.held());
                    0
                }
                Ok(Parsed::PartEnd { used }) => {
                    events.push(Event::PartEnd);
                    used
                }
                Ok(Parsed::End { used }) => {
                    if events.last() != Some(&Event::End) {
                        events.push(Event::End);
                    }
                    used
                }
                Ok(Parsed::NeedMore { used }) => {
                    assert_eq!(used, rest.len());
                    used
                }
            };
            rest = &rest[used..];
        }
    }
    // The events that need no byte of their own come when there is a next one, or now.
    while let Ok(Parsed::PartEnd { used: 0 }) = parser.parse(b"") {
        events.push(Event::PartEnd);
    }
    (events, parser.finish())
}

fuzz_target!(|data: &[u8]| {
    let &[setting, a, b, c, ref form @ ..] = data else { return };
    let content_type: &[u8] = match setting & 2 {
        0 => b"multipart/form-data; boundary=x",
        _ => b"multipart/form-data; boundary=--x--x",
    };
    let limits = if setting & 1 == 0 { WIDE } else { NARROW };
    let parser = Parser::new(&boundary(content_type).expect("a boundary"), limits);
    let whole = parse(parser.clone(), std::iter::once(form));
    let mut rest = form;
    let pieces = [a, b, c].into_iter().cycle().map_while(|len| {
        let (piece, after) = rest.split_at(rest.len().min(1 + usize::from(len)));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    });
    assert_eq!(parse(parser.clone(), pieces), whole);
    assert_eq!(parse(parser, form.chunks(1)), whole);
});
