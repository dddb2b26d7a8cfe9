//! The media type of a file, by the end of its name.
//!
//! `mime_guess` knows a thousand endings; what media servers live from is set right here first, because a player that
//! gets the wrong type does not play. Contents are never sniffed: the reply says `nosniff`, and two files of one
//! ending must not differ. Every answer is a static string, so that it can be kept with an open file for nothing.

/// The type of a file of this name, ready for Content-Type; `application/octet-stream` for what is not known.
pub fn of(file_name: &[u8]) -> &'static str {
    let mut lower = [0; LONGEST_ENDING];
    let Some(ending) = ending(file_name, &mut lower) else { return UNKNOWN };
    if let Some(media_type) = set_right(ending) {
        return media_type;
    }
    mime_guess::from_ext(ending).first_raw().map_or(UNKNOWN, with_charset)
}

/// Whether a file of this name may have compressed siblings: text that players and browsers load. Media is compressed
/// already, and its ranges must be those of the file itself.
pub fn may_be_precompressed(file_name: &[u8]) -> bool {
    let mut lower = [0; LONGEST_ENDING];
    matches!(
        ending(file_name, &mut lower),
        Some("m3u8" | "mpd" | "vtt" | "html" | "htm" | "css" | "js" | "mjs" | "json" | "svg")
    )
}

const UNKNOWN: &str = "application/octet-stream";

/// No ending that is known is longer.
const LONGEST_ENDING: usize = 24;

/// What follows the last dot, in small letters, unless the dot is the name's first byte.
fn ending<'a>(file_name: &[u8], lower: &'a mut [u8; LONGEST_ENDING]) -> Option<&'a str> {
    let dot = memchr::memrchr(b'.', file_name)?;
    let ending = &file_name[dot + 1..];
    if dot == 0 || file_name[dot - 1] == b'/' || ending.contains(&b'/') {
        return None;
    }
    let lower = lower.get_mut(..ending.len())?;
    lower.copy_from_slice(ending);
    lower.make_ascii_lowercase();
    std::str::from_utf8(lower).ok()
}

/// The types that `mime_guess` does not know, knows by an old name, or knows as something else.
fn set_right(ending: &str) -> Option<&'static str> {
    Some(match ending {
        // RFC 8216 §10; a playlist is UTF-8 by definition and its type has no charset.
        "m3u8" => "application/vnd.apple.mpegurl",
        "mpd" => "application/dash+xml",
        "ts" | "m2ts" | "mts" => "video/mp2t",
        // RFC 4337; CMAF (ISO/IEC 23000-19) names its segments cmf*.
        "mp4" | "m4s" | "m4v" | "cmfv" => "video/mp4",
        "m4a" | "m4b" | "cmfa" => "audio/mp4",
        // RFC 9559 §27.3 registers what was x-matroska.
        "mkv" => "video/matroska",
        "mka" => "audio/matroska",
        // RFC 5334, RFC 7845 §9: an Ogg file with Opus in it is audio/ogg; audio/opus is for RTP.
        "ogg" | "oga" | "opus" => "audio/ogg",
        // The registered audio/vnd.wave (RFC 2361) is a name that browsers do not play.
        "wav" => "audio/wav",
        "flac" => "audio/flac",
        "avif" => "image/avif",
        "jxl" => "image/jxl",
        // RFC 9239 makes text/javascript the one name.
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "srt" => "application/x-subrip",
        _ => return None,
    })
}

/// Adds the charset to the types that are text and do not say it themselves.
///
/// XML is left out: its own declaration names the charset, and the field would outrank it (RFC 7303 §3.2).
fn with_charset(media_type: &'static str) -> &'static str {
    macro_rules! in_utf8 {
        ($($name:literal)*) => {
            match media_type {
                $($name => concat!($name, "; charset=utf-8"),)*
                other => other,
            }
        };
    }
    in_utf8! {
        "text/calendar" "text/css" "text/csv" "text/html" "text/javascript" "text/markdown" "text/n3" "text/plain"
        "text/tab-separated-values" "text/turtle" "text/uri-list" "text/vcard" "text/vnd.graphviz" "text/vtt" "text/x-c"
        "text/x-lua" "text/x-rust" "text/x-sass" "text/x-scss" "text/x-toml" "text/x-yaml"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, expected: &str) {
        assert_eq!(of(name.as_bytes()), expected, "{name}");
    }

    #[test]
    fn h1_media() {
        for (name, expected) in [
            ("live.m3u8", "application/vnd.apple.mpegurl"),
            ("a.mpd", "application/dash+xml"),
            ("seg-1.ts", "video/mp2t"),
            ("a.mp4", "video/mp4"),
            ("a.m4s", "video/mp4"),
            ("a.m4v", "video/mp4"),
            ("a.m4a", "audio/mp4"),
            ("a.webm", "video/webm"),
            ("a.mkv", "video/matroska"),
            ("a.ogg", "audio/ogg"),
            ("a.opus", "audio/ogg"),
            ("a.ogv", "video/ogg"),
            ("a.mp3", "audio/mpeg"),
            ("a.flac", "audio/flac"),
            ("a.wav", "audio/wav"),
            ("a.aac", "audio/aac"),
            ("a.avif", "image/avif"),
            ("a.webp", "image/webp"),
            ("a.vtt", "text/vtt; charset=utf-8"),
            ("a.srt", "application/x-subrip"),
            ("a.mov", "video/quicktime"),
        ] {
            check(name, expected);
            check(&name.to_uppercase(), expected);
        }
    }

    #[test]
    fn h1_text_says_its_charset() {
        check("index.html", "text/html; charset=utf-8");
        check("index.htm", "text/html; charset=utf-8");
        check("a.css", "text/css; charset=utf-8");
        check("a.js", "text/javascript; charset=utf-8");
        check("a.mjs", "text/javascript; charset=utf-8");
        check("a.txt", "text/plain; charset=utf-8");
        check("a.csv", "text/csv; charset=utf-8");
        check("README.md", "text/markdown; charset=utf-8");
        check("a.json", "application/json");
        check("a.svg", "image/svg+xml");
        check("a.xml", "text/xml");
    }

    #[test]
    fn h1_what_is_not_known() {
        for name in [
            "",
            ".",
            "a",
            "a.",
            ".mp4",
            "dir/.mp4",
            "dir.mp4/a",
            "a.nonsense",
            "a.an-ending-that-is-much-too-long",
            "a.m\u{fc}4",
        ] {
            check(name, "application/octet-stream");
        }
        assert_eq!(of(b"a.\xff\xfe"), "application/octet-stream");
        assert_eq!(of(b"\xff.mp4"), "video/mp4");
        check("dir.d/a.tar.gz", "application/gzip");
    }

    #[test]
    fn r11_only_text_has_siblings() {
        for name in ["a.m3u8", "a.mpd", "a.vtt", "a.html", "a.css", "a.js", "a.json", "A.SVG"] {
            assert!(may_be_precompressed(name.as_bytes()), "{name}");
        }
        for name in ["a.mp4", "a.ts", "a.webm", "a.jpg", "a.js.gz", "html", ".html", "a"] {
            assert!(!may_be_precompressed(name.as_bytes()), "{name}");
        }
    }
}
