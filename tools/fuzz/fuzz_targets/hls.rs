//! A playlist must mean the same however it is cut, and whatever it says, a reload of it is answered or waits for a bounded time.
//!
//! The fuzzer's input: the length of the pieces, a segment and a part, the playlist.

#![no_main]

use std::time::Duration;

use highwater::proto::hls::{Directives, Parser, Reload};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let &[piece, segment, part, ref playlist @ ..] = data else { return };
    let (mut whole, mut cut) = (Parser::default(), Parser::default());
    whole.push(playlist);
    playlist.chunks(1 + usize::from(piece)).for_each(|piece| cut.push(piece));
    let playlist = whole.finish();
    assert_eq!(cut.finish(), playlist);
    let part = part.checked_sub(1).map(u64::from);
    if let Reload::Wait(patience) = playlist.reload(Directives { segment: u64::from(segment), part }) {
        assert!(patience <= Duration::from_secs(60));
    }
});
