//! A stream of lines must mean the same however it is cut: whole, in pieces of the fuzzer's length, and byte by byte.
//!
//! The fuzzer's input: the length of the pieces, the longest line, the stream.

#![no_main]

use highwater::proto::ndjson::{Line, LineTooLong, Lines};
use libfuzzer_sys::fuzz_target;

fn lines<'a>(limit: usize, pieces: impl Iterator<Item = &'a [u8]>) -> Result<Vec<Line>, LineTooLong> {
    let (mut lines, mut found) = (Lines::new(limit), Vec::new());
    for mut rest in pieces {
        while let Some(line) = lines.next(&mut rest)? {
            found.push(line);
        }
        assert!(lines.held() <= limit);
    }
    found.extend(lines.finish());
    assert!(found.iter().all(|line| !line.text.is_empty() && line.text.len() <= limit));
    Ok(found)
}

fuzz_target!(|data: &[u8]| {
    let &[piece, limit, ref stream @ ..] = data else { return };
    let limit = usize::from(limit);
    let whole = lines(limit, std::iter::once(stream));
    assert_eq!(lines(limit, stream.chunks(1 + usize::from(piece))), whole);
    assert_eq!(lines(limit, stream.chunks(1)), whole);
});
