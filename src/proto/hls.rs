//! HTTP live streaming: what a server has to know of a media playlist to hold a reload back until there is news in it
//! (RFC 8216; blocking playlist reload of draft-pantos-hls-rfc8216bis §6.2.5.2).
//!
//! A player asks for the playlist that has segment `_HLS_msn`, or its part `_HLS_part`, and is answered when there is one. So
//! of a playlist only counts are kept, and what it announces: a few numbers, however long it is. [`Parser`] takes the bytes
//! as they come and keeps one line of them; it refuses nothing, because what an encoder writes is for its players to
//! understand. A playlist that makes no sense here is one that nobody waits for.
//!
//! Rejected: holding back the reload of a playlist that does not say `CAN-BLOCK-RELOAD=YES`. Players ask for that only where it
//! is said, and whoever asks all the same gets what a server without the feature would give.

use std::fmt;
use std::time::Duration;

/// The bytes of a line that are looked at; what is behind them is passed over. No tag that counts here is as long.
const LINE_LEN: usize = 4096;

/// The announced parts that are remembered: a playlist has one for each rendition that it switches to, which is one.
const HINTS: usize = 2;

/// The bytes of a link to an announced part that are remembered; a longer one is not waited for.
const HINT_LEN: usize = 256;

/// The longest time that anybody waits for news, whatever target duration a playlist claims.
const MOST_PATIENCE: Duration = Duration::from_secs(60);

/// What is assumed of a playlist that tells no target duration.
const USUAL_TARGET: Duration = Duration::from_secs(6);

/// What is known of a playlist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Playlist {
    /// Whether it begins as one.
    is_playlist: bool,
    /// Whether it lists other playlists.
    is_multivariant: bool,
    /// The number of its first segment (`EXT-X-MEDIA-SEQUENCE`).
    first: u64,
    /// How many segments are whole.
    whole: u64,
    /// How many parts the last whole one has; 0 where they are not listed any more.
    parts_of_last: u64,
    /// How many parts there are of the segment that follows.
    parts: u64,
    target: Option<Duration>,
    part_target: Option<Duration>,
    can_block: bool,
    has_ended: bool,
    hints: Vec<String>,
}

/// What a player asks a playlist to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Directives {
    /// The number of a segment (`_HLS_msn`).
    pub segment: u64,
    /// One of its parts, counted from 0 (`_HLS_part`).
    pub part: Option<u64>,
}

/// Why directives are refused: 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectiveError {
    /// A number is none.
    Malformed,
    /// A part of no segment.
    PartAlone,
}

/// What becomes of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// The playlist that is there is the answer.
    Ready,
    /// The next one may be. After this time in all, 503.
    Wait(Duration),
    /// It is too far ahead of what there is: 400.
    BadRequest,
}

impl fmt::Display for DirectiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DirectiveError::Malformed => "_HLS_msn and _HLS_part are numbers",
            DirectiveError::PartAlone => "_HLS_part needs an _HLS_msn",
        })
    }
}

impl std::error::Error for DirectiveError {}

impl Directives {
    /// Those in a query; `None` if there are none.
    ///
    /// # Errors
    /// See [`DirectiveError`].
    pub fn parse(query: Option<&str>) -> Result<Option<Self>, DirectiveError> {
        let pairs = || query.unwrap_or_default().split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let number = |name| pairs().find(|(key, _)| *key == name).map(|(_, value)| decimal(value));
        match (number("_HLS_msn"), number("_HLS_part")) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err(DirectiveError::PartAlone),
            (Some(Some(segment)), None) => Ok(Some(Directives { segment, part: None })),
            (Some(Some(segment)), Some(Some(part))) => Ok(Some(Directives { segment, part: Some(part) })),
            _ => Err(DirectiveError::Malformed),
        }
    }
}

impl Playlist {
    /// Whether it has what is asked for.
    pub fn reload(&self, asked: Directives) -> Reload {
        // Nothing more will come, or it would not be told of by these numbers.
        if !self.can_block || self.has_ended || self.is_multivariant || !self.is_playlist {
            return Reload::Ready;
        }
        let next = self.first.saturating_add(self.whole);
        // More than two behind the last segment (§6.2.5.2), which stands before the next.
        if asked.segment > next.saturating_add(1) {
            return Reload::BadRequest;
        }
        if asked.segment >= next && self.is_too_far_ahead(asked, next) {
            return Reload::BadRequest;
        }
        if self.has(asked, next) { Reload::Ready } else { Reload::Wait(self.patience()) }
    }

    /// How long who asks for something to come is to wait: three target durations (§6.2.5.2).
    pub fn patience(&self) -> Duration {
        self.target.unwrap_or(USUAL_TARGET).clamp(Duration::from_secs(1), MOST_PATIENCE / 3) * 3
    }

    /// The parts that are waited for, by links to them that are relative to the playlist (`EXT-X-PRELOAD-HINT`).
    pub fn announced(&self) -> impl Iterator<Item = &str> {
        self.hints.iter().map(String::as_str).filter(|_| self.can_block && !self.has_ended)
    }

    fn has(&self, asked: Directives, next: u64) -> bool {
        let has_begun_next = self.parts > 0;
        match asked.part {
            None => asked.segment < next,
            // Behind the last part of a segment is the first of the next (§6.2.5.2).
            Some(part) if asked.segment.saturating_add(1) == next => {
                self.parts_of_last == 0 || part < self.parts_of_last || has_begun_next
            }
            Some(part) if asked.segment == next => part < self.parts,
            Some(_) => asked.segment < next,
        }
    }

    /// Whether a part is behind the last one by more than the advance part limit: three seconds of parts, and three at least
    /// (§6.2.5.2).
    fn is_too_far_ahead(&self, asked: Directives, next: u64) -> bool {
        let Some(part) = asked.part else { return false };
        let part_ms = self.part_target.map_or(1000, |target| target.as_millis().clamp(1, 1000) as u64);
        let ahead = 3000_u64.div_ceil(part_ms);
        // Of the segment after the next, nothing can be there.
        let there = if asked.segment == next { self.parts } else { 0 };
        part >= there.saturating_add(ahead)
    }
}

/// Takes a playlist as it comes.
#[derive(Clone, Debug, Default)]
pub struct Parser {
    playlist: Playlist,
    /// The line at hand, as far as it counts.
    line: Vec<u8>,
    has_line: bool,
}

impl Parser {
    /// The next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        let mut lines = bytes.split(|byte| *byte == b'\n').peekable();
        while let Some(piece) = lines.next() {
            let room = LINE_LEN - self.line.len();
            self.line.extend_from_slice(&piece[..piece.len().min(room)]);
            if lines.peek().is_some() {
                self.end_line();
            }
        }
    }

    /// What it was.
    pub fn finish(mut self) -> Playlist {
        self.end_line();
        self.playlist
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let text = std::str::from_utf8(&line).unwrap_or_else(|error| {
            // A character that was cut, or bytes that are none: what is before them is what counts.
            std::str::from_utf8(&line[..error.valid_up_to()]).unwrap_or_default()
        });
        if !std::mem::replace(&mut self.has_line, true) {
            self.playlist.is_playlist = text.trim_start_matches('\u{feff}').trim_end() == "#EXTM3U";
        } else {
            self.playlist.take(text.trim_end());
        }
        self.line = line;
        self.line.clear();
    }
}

impl Playlist {
    /// Takes a line behind the first.
    fn take(&mut self, line: &str) {
        if line.is_empty() {
            return;
        }
        if !line.starts_with('#') {
            // A segment, whose parts were listed before it.
            self.whole = self.whole.saturating_add(1);
            self.parts_of_last = std::mem::take(&mut self.parts);
            return;
        }
        let (tag, value) = line.split_once(':').unwrap_or((line, ""));
        match tag {
            "#EXT-X-STREAM-INF" => self.is_multivariant = true,
            "#EXT-X-MEDIA-SEQUENCE" => self.first = decimal(value).unwrap_or(0),
            "#EXT-X-TARGETDURATION" => self.target = seconds(value),
            "#EXT-X-PART-INF" => self.part_target = attribute(value, "PART-TARGET").and_then(seconds),
            "#EXT-X-SERVER-CONTROL" => self.can_block = attribute(value, "CAN-BLOCK-RELOAD") == Some("YES"),
            "#EXT-X-PART" => self.parts = self.parts.saturating_add(1),
            "#EXT-X-SKIP" => {
                let skipped = attribute(value, "SKIPPED-SEGMENTS").and_then(decimal).unwrap_or(0);
                self.whole = self.whole.saturating_add(skipped);
            }
            "#EXT-X-PRELOAD-HINT" if self.hints.len() < HINTS => {
                self.hints.extend(
                    attribute(value, "URI").filter(|uri| (1..=HINT_LEN).contains(&uri.len())).map(str::to_owned),
                );
            }
            "#EXT-X-ENDLIST" => self.has_ended = true,
            _ => {}
        }
    }
}

/// The value of an attribute in a list of them, without its quotes (RFC 8216 §4.2).
fn attribute<'a>(list: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = list;
    while let Some((key, behind)) = rest.split_once('=') {
        let (value, next) = match behind.strip_prefix('"') {
            Some(quoted) => {
                let (value, next) = quoted.split_once('"')?;
                (value, next.strip_prefix(',').unwrap_or_default())
            }
            None => behind.split_once(',').unwrap_or((behind, "")),
        };
        if key.trim() == name {
            return Some(value.trim());
        }
        rest = next;
    }
    None
}

/// A decimal integer (RFC 8216 §4.2); what does not fit is `None`.
fn decimal(text: &str) -> Option<u64> {
    let text = text.trim();
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// A duration in seconds; `None` if it is none, or nothing.
fn seconds(text: &str) -> Option<Duration> {
    let seconds = text.trim().parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok().filter(|duration| !duration.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A playlist as an encoder of low latency writes it: segments 10 to 12 are whole, 12 by three parts, and of 13 there are
    /// two.
    const LOW_LATENCY: &str = "#EXTM3U\n#EXT-X-VERSION:9\n#EXT-X-TARGETDURATION:4\n\
        #EXT-X-SERVER-CONTROL:PART-HOLD-BACK=1.5,CAN-BLOCK-RELOAD=YES\n#EXT-X-PART-INF:PART-TARGET=0.5\n\
        #EXT-X-MEDIA-SEQUENCE:10\n#EXT-X-MAP:URI=\"init.mp4\"\n#EXTINF:4.0,\n10.m4s\n#EXTINF:4.0,a title, with a comma\n11.m4s\n\
        #EXT-X-PART:DURATION=0.5,URI=\"12.0.m4s\"\n#EXT-X-PART:DURATION=0.5,URI=\"12.1.m4s\"\n\
        #EXT-X-PART:DURATION=0.5,URI=\"12.2.m4s\"\n#EXTINF:1.5,\n12.m4s\n\
        #EXT-X-PART:DURATION=0.5,URI=\"13.0.m4s\",INDEPENDENT=YES\n#EXT-X-PART:DURATION=0.5,URI=\"13.1.m4s\"\n\
        #EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"13.2.m4s\"\n";

    /// Parses it whole, and cut at each byte.
    fn parse(text: &str) -> Playlist {
        let parse = |pieces: &[&[u8]]| {
            let mut parser = Parser::default();
            pieces.iter().for_each(|piece| parser.push(piece));
            parser.finish()
        };
        let whole = parse(&[text.as_bytes()]);
        for at in 0..text.len() {
            let (a, b) = text.as_bytes().split_at(at);
            assert_eq!(parse(&[a, b]), whole, "cut at {at}");
        }
        whole
    }

    fn asked(segment: u64, part: impl Into<Option<u64>>) -> Directives {
        Directives { segment, part: part.into() }
    }

    #[track_caller]
    fn check(text: &str, segment: u64, part: impl Into<Option<u64>>, expected: Reload) {
        let asked = asked(segment, part);
        assert_eq!(parse(text).reload(asked), expected, "{asked:?}");
    }

    const WAIT: Reload = Reload::Wait(Duration::from_secs(12));

    #[test]
    fn a_segment_is_there_when_it_is_whole() {
        for segment in [0, 9, 10, 11, 12] {
            check(LOW_LATENCY, segment, None, Reload::Ready);
        }
        check(LOW_LATENCY, 13, None, WAIT);
        check(LOW_LATENCY, 14, None, WAIT);
    }

    #[test]
    fn a_part_is_there_when_it_is_listed_or_its_segment_is_whole() {
        check(LOW_LATENCY, 13, 0, Reload::Ready);
        check(LOW_LATENCY, 13, 1, Reload::Ready);
        check(LOW_LATENCY, 13, 2, WAIT);
        check(LOW_LATENCY, 14, 0, WAIT);
        for part in [0, 2, 7000] {
            check(LOW_LATENCY, 11, part, Reload::Ready);
        }
        // Parts that are not listed any more are in their segment.
        let without = LOW_LATENCY.lines().filter(|line| !line.starts_with("#EXT-X-PART:"));
        let without: String = without.flat_map(|line| [line, "\n"]).collect();
        check(&without, 12, 5, Reload::Ready);
        check(&without, 13, 0, WAIT);
    }

    #[test]
    fn a_part_behind_the_last_of_a_segment_is_the_first_of_the_next() {
        check(LOW_LATENCY, 12, 2, Reload::Ready);
        check(LOW_LATENCY, 12, 3, Reload::Ready);
        let (before, _) = LOW_LATENCY.split_once("#EXT-X-PART:DURATION=0.5,URI=\"13.0.m4s\"").unwrap();
        check(before, 12, 2, Reload::Ready);
        check(before, 12, 3, WAIT);
    }

    #[test]
    fn what_is_too_far_ahead_is_refused() {
        check(LOW_LATENCY, 15, None, Reload::BadRequest);
        check(LOW_LATENCY, 15, 0, Reload::BadRequest);
        check(LOW_LATENCY, u64::MAX, u64::MAX, Reload::BadRequest);
        // Half a second each: six of them ahead.
        check(LOW_LATENCY, 13, 7, WAIT);
        check(LOW_LATENCY, 13, 8, Reload::BadRequest);
        check(LOW_LATENCY, 14, 5, WAIT);
        check(LOW_LATENCY, 14, 6, Reload::BadRequest);
        let long_parts = LOW_LATENCY.replace("PART-TARGET=0.5", "PART-TARGET=2");
        check(&long_parts, 13, 4, WAIT);
        check(&long_parts, 13, 5, Reload::BadRequest);
        check(&LOW_LATENCY.replace("PART-TARGET=0.5", "PART-TARGET=0.00000001"), 13, 3001, WAIT);
    }

    #[test]
    fn a_playlist_that_will_not_change_or_that_promises_nothing_is_served_at_once() {
        for text in [
            &format!("{LOW_LATENCY}#EXT-X-ENDLIST\n"),
            &LOW_LATENCY.replace("CAN-BLOCK-RELOAD=YES", "CAN-BLOCK-RELOAD=NO"),
            &LOW_LATENCY.replace("CAN-BLOCK-RELOAD=YES", "X=\",CAN-BLOCK-RELOAD=YES\""),
            &LOW_LATENCY.replace("#EXTM3U\n", ""),
            "",
            "#EXTM3U\n#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES\n#EXT-X-STREAM-INF:BANDWIDTH=1\nlow.m3u8\n",
            "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\na.ts\n",
        ] {
            check(text, 1000, None, Reload::Ready);
        }
    }

    #[test]
    fn the_first_playlist_of_a_stream_is_waited_for_from_its_first_part() {
        let empty = "#EXTM3U\r\n#EXT-X-TARGETDURATION:2\r\n#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES\r\n";
        check(empty, 0, 0, Reload::Wait(Duration::from_secs(6)));
        check(empty, 1, None, Reload::Wait(Duration::from_secs(6)));
        check(empty, 2, None, Reload::BadRequest);
        check(&format!("{empty}#EXT-X-PART:DURATION=1,URI=\"0\"\r\n"), 0, 0, Reload::Ready);
    }

    #[test]
    fn skipped_segments_count() {
        let delta = LOW_LATENCY.replace("#EXT-X-MAP", "#EXT-X-SKIP:SKIPPED-SEGMENTS=5\n#EXT-X-MAP");
        check(&delta, 17, None, Reload::Ready);
        check(&delta, 18, None, WAIT);
    }

    #[test]
    fn who_waits_is_told_in_time_whatever_the_playlist_claims() {
        let target = |value: &str| {
            parse(&LOW_LATENCY.replace("TARGETDURATION:4", &format!("TARGETDURATION:{value}"))).patience().as_secs_f64()
        };
        let cases = [("4", 12.0), ("2.5", 7.5), ("0", 18.0), ("0.01", 3.0), ("-1", 18.0), ("86400", 60.0)];
        for (value, expected) in
            cases.into_iter().chain([("1e300", 18.0), ("nan", 18.0), ("inf", 18.0), ("", 18.0), ("4 ", 12.0)])
        {
            assert_eq!(target(value), expected, "{value}");
        }
    }

    #[test]
    fn what_is_announced_is_known_by_its_link() {
        assert_eq!(parse(LOW_LATENCY).announced().collect::<Vec<_>>(), ["13.2.m4s"]);
        for none in [&format!("{LOW_LATENCY}#EXT-X-ENDLIST"), &LOW_LATENCY.replace("\"13.2.m4s\"", "\"\""), ""] {
            assert_eq!(parse(none).announced().count(), 0, "{none}");
        }
        let many: String = (0..1000).map(|n| format!("#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"{n}\"\n")).collect();
        assert_eq!(parse(&format!("#EXTM3U\n{}", &many[..4000])).hints.len(), HINTS);
    }

    #[test]
    fn directives_are_numbers_and_a_part_needs_its_segment() {
        let check = |query: &str, expected| assert_eq!(Directives::parse(Some(query)), expected, "{query}");
        check("", Ok(None));
        check("a=b&_HLS_skip=YES", Ok(None));
        check("_HLS_msn=5", Ok(Some(asked(5, None))));
        check("token=x&_HLS_part=0&_HLS_msn=0", Ok(Some(asked(0, 0))));
        check("_HLS_part=1", Err(DirectiveError::PartAlone));
        for malformed in
            ["_HLS_msn", "_HLS_msn=", "_HLS_msn=-1", "_HLS_msn=+1", "_HLS_msn=1e3", "_HLS_msn=18446744073709551616"]
        {
            check(malformed, Err(DirectiveError::Malformed));
        }
        check("_HLS_msn=1&_HLS_part=x", Err(DirectiveError::Malformed));
        assert_eq!(Directives::parse(None), Ok(None));
    }

    #[test]
    fn a_line_of_any_length_takes_a_bounded_place() {
        let mut parser = Parser::default();
        parser.push(b"#EXTM3U\n#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,X=");
        for _ in 0..1000 {
            parser.push(&[b'x'; 1000]);
            assert!(parser.line.len() <= LINE_LEN);
        }
        parser.push(b"\n#EXTINF:1,\nname");
        let playlist = parser.finish();
        assert_eq!((playlist.can_block, playlist.whole), (true, 1));
    }

    fn line() -> impl Strategy<Value = String> {
        let tags = prop::sample::select(vec![
            "#EXTM3U",
            "#EXT-X-MEDIA-SEQUENCE:",
            "#EXT-X-TARGETDURATION:",
            "#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES",
            "#EXT-X-PART-INF:PART-TARGET=",
            "#EXT-X-PART:",
            "#EXT-X-SKIP:SKIPPED-SEGMENTS=",
            "#EXT-X-PRELOAD-HINT:URI=",
            "#EXT-X-ENDLIST",
            "segment",
            "",
        ]);
        (tags, ".{0,12}").prop_map(|(tag, rest)| format!("{tag}{rest}\n"))
    }

    proptest! {
        /// Any bytes, cut anywhere, mean the same, and a decision is made about them.
        #[test]
        fn promise6_no_playlist_does_harm(
            lines in prop::collection::vec(line(), 0..40),
            noise in prop::collection::vec(any::<u8>(), 0..80),
            piece in 1_usize..50,
            segment in any::<u64>(),
            part in any::<Option<u64>>(),
        ) {
            let text = [b"#EXTM3U\n", lines.concat().as_bytes(), &noise].concat();
            let (mut whole, mut cut) = (Parser::default(), Parser::default());
            whole.push(&text);
            text.chunks(piece).for_each(|piece| cut.push(piece));
            let playlist = whole.finish();
            prop_assert_eq!(&cut.finish(), &playlist);
            if let Reload::Wait(patience) = playlist.reload(Directives { segment, part }) {
                prop_assert!(patience >= Duration::from_secs(3) && patience <= MOST_PATIENCE);
            }
        }

        /// What is there stays there when more comes.
        #[test]
        fn what_is_ready_stays_ready(segments in 0_u64..6, parts in 0_u64..4, segment in 0_u64..8, part in any::<Option<u8>>()) {
            let head = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES\n";
            let text = format!("{head}{}{}", "p\n".repeat(segments as usize), "#EXT-X-PART:\n".repeat(parts as usize));
            let asked = asked(segment, part.map(u64::from));
            let before = parse(&text).reload(asked);
            for more in ["#EXT-X-PART:\n", "s\n", "#EXT-X-PART:\ns\n"] {
                let after = parse(&format!("{text}{more}")).reload(asked);
                prop_assert!(before != Reload::Ready || after == Reload::Ready, "{more:?}");
            }
        }
    }
}
