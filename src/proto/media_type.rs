//! The media type of a file: by the end of its name when it is served, by its first bytes when it is taken.
//!
//! `mime_guess` knows a thousand endings; what media servers live from is set right here first, because a player that
//! gets the wrong type does not play. What is served is never sniffed: the reply says `nosniff`, and two files of one
//! ending must not differ. Every answer is a static string, so that it can be kept with an open file for nothing.
//!
//! An upload's name is the client's word, so a route that takes only images looks at the bytes too ([`sniff`]). That
//! rests on `infer`, with three things set right. Text is told apart first, because magic numbers of two letters turn
//! the right words into pictures. Markup is looked for before everything else, because it is what runs in a browser.
//! And fragments, transport streams and playlists, which it does not know, are what media servers get.

use std::fmt;

use memchr::memmem;

/// The type of a file of this name, ready for Content-Type; `application/octet-stream` for what is not known.
pub fn of(file_name: &[u8]) -> &'static str {
    let mut lower = [0; LONGEST_ENDING];
    ending(file_name, &mut lower).map_or(UNKNOWN, by_ending)
}

/// The type of files with this ending, in small letters.
fn by_ending(ending: &str) -> &'static str {
    set_right(ending).unwrap_or_else(|| mime_guess::from_ext(ending).first_raw().map_or(UNKNOWN, with_charset))
}

/// The types of documents that a browser runs scripts of, apart from what ends in `+xml`: HTML, what is XML by its type
/// (WHATWG MIME Sniffing §4.6) or only to some browsers, and replies of several documents.
const PAGES: [&str; 6] =
    ["text/html", "text/xml", "application/xml", "text/xsl", "text/rdf", "multipart/x-mixed-replace"];

/// Kinds of which no type is a page: a pattern of all of any other kind lets pages in.
const NO_PAGES: [&str; 3] = ["audio", "font", "video"];

/// Whether a browser runs the scripts of what is served with this Content-Type.
pub fn is_page(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default().trim_ascii();
    let ending = media_type.len().checked_sub(4).and_then(|at| media_type.get(at..));
    PAGES.iter().any(|page| page.eq_ignore_ascii_case(media_type))
        || ending.is_some_and(|ending| ending.eq_ignore_ascii_case("+xml"))
}

/// Whether files of names that match any of these patterns, and of types that match any of these, if there are any, can be served as
/// pages. A pattern whose end is open can match any ending.
pub fn may_be_pages(name_patterns: &[String], types: &[String]) -> bool {
    let ending = |pattern: &str| pattern.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase());
    let is_open = |ending: &str| ending.contains(['*', '?', '/']);
    let may_have = |pattern: &String| {
        ending(pattern).is_none_or(|ending| is_open(&ending) || is_page(of(format!("x.{ending}").as_bytes())))
    };
    let may_be = |pattern: &String| match pattern.split_once('/') {
        Some((kind, "*")) => !NO_PAGES.iter().any(|no_page| no_page.eq_ignore_ascii_case(kind)),
        _ => is_page(pattern),
    };
    (name_patterns.is_empty() || name_patterns.iter().any(may_have)) && (types.is_empty() || types.iter().any(may_be))
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

/// How many of a file's first bytes [`sniff`] wants; with fewer it knows less, with more nothing more.
pub const SNIFF_LEN: usize = 4096;

/// The type of a file that begins with these bytes, in the words of [`of`]; `application/octet-stream` if nothing tells.
///
/// It is for deciding whether an upload is let in, not for serving: a file can be of two types at once. So what is let
/// in for its bytes has to be of a fitting type by its name as well. An `image/svg+xml` is an image that can carry
/// scripts, and `image/*` lets it in; who does not want that lists the types. HTML and XML are never an image.
///
/// Time is linear in the bytes, of which [`SNIFF_LEN`] are looked at.
pub fn sniff(first_bytes: &[u8]) -> &'static str {
    let bytes = &first_bytes[..first_bytes.len().min(SNIFF_LEN)];
    if bytes.is_empty() {
        return UNKNOWN;
    }
    if let Some(media_type) = markup(bytes) {
        return media_type;
    }
    if is_text(bytes) { text(bytes) } else { binary(bytes) }
}

/// Whether `media_type`, whose parameters do not count, is one of those that `pattern` stands for.
///
/// `pattern` is one that [`check_pattern`] lets pass: `*/*`, `image/*`, or `video/mp4`.
pub fn matches(pattern: &str, media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    let Some((kind, subtype)) = essence.split_once('/') else { return false };
    match pattern.split_once('/') {
        Some(("*", "*")) => true,
        Some((wanted, "*")) => wanted.eq_ignore_ascii_case(kind),
        Some((wanted, exactly)) => wanted.eq_ignore_ascii_case(kind) && exactly.eq_ignore_ascii_case(subtype),
        None => false,
    }
}

/// Whether `pattern` is one that [`matches()`] understands.
///
/// # Errors
/// It is not; the text says what to write instead.
pub fn check_pattern(pattern: &str) -> Result<(), PatternError> {
    // RFC 9110 §5.6.2; the star is a letter of tokens too, but stands for itself in no registered type.
    let is_token = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'+-.^_`|~".contains(&byte))
    };
    match pattern.split_once('/') {
        Some(("*", "*")) => Ok(()),
        Some((kind, subtype)) if is_token(kind) && (subtype == "*" || is_token(subtype)) => Ok(()),
        _ => Err(PatternError(pattern.to_string())),
    }
}

/// What is no pattern of media types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatternError(String);

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PatternError(pattern) = self;
        write!(f, "{pattern:?} is no media type; write one such as \"video/mp4\", or \"image/*\", or \"*/*\" for all")
    }
}

impl std::error::Error for PatternError {}

const UNKNOWN: &str = "application/octet-stream";

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The type of what begins with a tag, a comment or a declaration, in whatever encoding the rest is.
///
/// Any tag counts, not only those of a list (WHATWG MIME Sniffing, §7.1), since browsers make elements of them all. The
/// root element decides, or the document type that names it.
fn markup(bytes: &[u8]) -> Option<&'static str> {
    let begin = skip_space(bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes));
    if !matches!(begin, [b'<', b'a'..=b'z' | b'A'..=b'Z' | b'!' | b'/' | b'?', ..]) {
        return None;
    }
    let is_xml = begin.starts_with(b"<?xml");
    Some(match root_name(begin) {
        Some(b"svg") => "image/svg+xml",
        Some(b"MPD") => of(b"a.mpd"),
        Some(b"html") if is_xml => of(b"a.xhtml"),
        _ if is_xml => of(b"a.xml"),
        _ => of(b"a.html"),
    })
}

/// The name of the root element without its prefix, if it is among these bytes.
fn root_name(mut rest: &[u8]) -> Option<&[u8]> {
    loop {
        rest = skip_space(rest);
        let end: &[u8] = match rest {
            [b'<', b'?', ..] => b"?>",
            [b'<', b'!', b'-', b'-', ..] => b"-->",
            _ => break,
        };
        rest = &rest[memmem::find(rest, end)? + end.len()..];
    }
    let declares = rest.get(..9).is_some_and(|begin| begin.eq_ignore_ascii_case(b"<!doctype"));
    let named = if declares { skip_space(&rest[9..]) } else { rest.strip_prefix(b"<")? };
    let is_end = |byte: &u8| byte.is_ascii_whitespace() || b">/[".contains(byte);
    let name = &named[..named.iter().position(is_end)?];
    Some(memchr::memchr(b':', name).map_or(name, |colon| &name[colon + 1..]))
}

fn skip_space(bytes: &[u8]) -> &[u8] {
    bytes.trim_ascii_start()
}

/// Whether all of it is UTF-8 without the bytes that text has no use for (WHATWG MIME Sniffing, "binary data byte").
/// A character that is cut at the end is whole in the file.
fn is_text(bytes: &[u8]) -> bool {
    let is_utf8 = str::from_utf8(bytes).map_or_else(|error| error.error_len().is_none(), |_| true);
    is_utf8 && !bytes.iter().any(|byte| matches!(byte, 0..=8 | 0x0b | 0x0e..=0x1a | 0x1c..=0x1f))
}

/// The type of text that is no markup.
fn text(bytes: &[u8]) -> &'static str {
    let begin = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    // RFC 8216 §4.3.1.1; WebVTT §4.1; the others are formats that may be without any byte that text has not.
    let media_types: [(&[u8], &str); 6] = [
        (b"#EXTM3U", "a.m3u8"),
        (b"WEBVTT", "a.vtt"),
        (b"%PDF-", "a.pdf"),
        (b"%!PS-", "a.ps"),
        (b"{\\rtf", "a.rtf"),
        (b"#!/", "a.sh"),
    ];
    let known = media_types.into_iter().find(|(magic, _)| begin.starts_with(magic));
    of(known.map_or("a.txt", |(_, name)| name).as_bytes())
}

/// The type of what is no text: what `infer` knows wrongly or not at all, then what it knows.
fn binary(bytes: &[u8]) -> &'static str {
    let own = match bytes {
        // RFC 8794 §11.2.4: the document type is in the header, of a few dozen bytes.
        [0x1a, 0x45, 0xdf, 0xa3, ..] => match &bytes[..bytes.len().min(128)] {
            header if memmem::find(header, b"matroska").is_some() => Some("a.mkv"),
            header if memmem::find(header, b"webm").is_some() => Some("a.webm"),
            _ => None,
        },
        // ISO/IEC 14496-12: segments have no ftyp box of their own.
        [_, _, _, _, b's', b't', b'y', b'p', ..] => Some("a.m4s"),
        [_, _, _, _, b's', b'i', b'd', b'x', ..] | [_, _, _, _, b'm', b'o', b'o', b'f', ..] => Some("a.m4s"),
        // The first page of a stream holds its header alone (RFC 3533 §6).
        [b'O', b'g', b'g', b'S', ..] if bytes.get(28..35) == Some(b"\x80theora") => Some("a.ogv"),
        // MPEG audio of layer III with a checksum; infer knows it without.
        [0xff, 0xfa, ..] => Some("a.mp3"),
        _ if is_transport_stream(bytes) => Some("a.ts"),
        _ => None,
    };
    if let Some(name) = own {
        return of(name.as_bytes());
    }
    let Some(kind) = infer::get(bytes) else { return iso_media(bytes).unwrap_or(UNKNOWN) };
    // It looks for this one anywhere in the first kilobyte.
    if kind.extension() == "pdf" && !bytes.starts_with(b"%PDF-") {
        return UNKNOWN;
    }
    let by_ending = by_ending(kind.extension());
    // Two names of one type; where the ending means something else as well, the bytes are right.
    let kind_of = |media_type: &'static str| media_type.split('/').next();
    if kind_of(by_ending) == kind_of(kind.mime_type()) { by_ending } else { kind.mime_type() }
}

/// Files of the ISO base media format of a brand that is younger than `infer`.
fn iso_media(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [_, _, _, _, b'f', b't', b'y', b'p', b'3', b'g', ..] => Some(of(b"a.3gp")),
        [_, _, _, _, b'f', b't', b'y', b'p', _, _, _, _, ..] => Some(of(b"a.mp4")),
        _ => None,
    }
}

/// Whether packets of 188 bytes (ISO/IEC 13818-1 §2.4.3), or of 192 as discs and cameras have them, begin where they
/// should. Two packets are the least that is taken for a stream.
fn is_transport_stream(bytes: &[u8]) -> bool {
    [(0, 188), (4, 192)].into_iter().any(|(first, packet_len)| {
        let mut syncs = bytes.iter().skip(first).step_by(packet_len);
        bytes.len() >= 2 * packet_len && syncs.all(|&byte| byte == 0x47)
    })
}

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
    use proptest::prelude::*;

    #[track_caller]
    fn check(name: &str, expected: &str) {
        assert_eq!(of(name.as_bytes()), expected, "{name}");
    }

    #[test]
    fn pages_are_known_by_their_type_and_by_what_names_may_end_in() {
        for (content_type, expected) in [
            ("text/html; charset=utf-8", true),
            ("Image/SVG+xml", true),
            ("application/xml", true),
            ("application/mathml+XML;a=b", true),
            ("text/xsl", true),
            ("+xml", true),
            ("xml", false),
            ("é+xm", false),
            ("text/plain", false),
            ("video/mp4", false),
        ] {
            assert_eq!(is_page(content_type), expected, "{content_type}");
        }
        let check = |patterns: &[&str], types: &[&str], expected: bool| {
            let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
            assert_eq!(may_be_pages(&owned(patterns), &owned(types)), expected, "{patterns:?} {types:?}");
        };
        check(&[], &[], true);
        check(&["*.ts", "*.m3u8"], &[], false);
        check(&["*.ts", "a*"], &[], true);
        check(&["*.ht?l"], &[], true);
        check(&["*.SVG"], &[], true);
        check(&["*.rdf"], &[], true);
        check(&[], &["application/mathml+xml"], true);
        check(&[], &["model/*"], true);
        check(&[], &["Font/*", "audio/*"], false);
        check(&["v1.2/*"], &[], true);
        check(&[], &["video/*"], false);
        check(&[], &["image/*"], true);
        check(&["*.mp4"], &["image/*"], false);
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

    /// Beginnings of files as programs write them, and what they are.
    fn beginnings() -> Vec<(Vec<u8>, &'static str)> {
        let ebml = |document_type: &str| {
            let mut bytes =
                b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01\x42\xf7\x81\x01\x42\xf2\x81\x04\x42\xf3\x81\x08".to_vec();
            bytes.extend([0x42, 0x82, 0x80 | document_type.len() as u8]);
            bytes.extend(document_type.bytes());
            bytes.extend(b"\x42\x87\x81\x04\x42\x85\x81\x02\x18\x53\x80\x67");
            bytes
        };
        let iso = |kind: &str, brand: &str| {
            [b"\0\0\0\x18", kind.as_bytes(), brand.as_bytes(), b"\0\0\x02\0mp41isom"].concat()
        };
        let stream = |first: usize, packet_len: usize| {
            let mut bytes = vec![0u8; packet_len * 5];
            bytes.iter_mut().skip(first).step_by(packet_len).for_each(|byte| *byte = 0x47);
            bytes
        };
        let ogg = |header: &[u8]| [b"OggS\0\x02\0\0\0\0\0\0\0\0abcd\0\0\0\0efgh\x01\x13", header].concat();
        let mut tar = vec![0u8; 512];
        tar[..5].copy_from_slice(b"a.txt");
        tar[257..262].copy_from_slice(b"ustar");
        vec![
            (ebml("matroska"), "video/matroska"),
            (ebml("webm"), "video/webm"),
            (iso("ftyp", "isom"), "video/mp4"),
            (iso("ftyp", "mp42"), "video/mp4"),
            (iso("ftyp", "cmfc"), "video/mp4"),
            (iso("ftyp", "iso9"), "video/mp4"),
            (iso("ftyp", "M4V "), "video/mp4"),
            (iso("ftyp", "M4A "), "audio/mp4"),
            (iso("ftyp", "qt  "), "video/quicktime"),
            (iso("ftyp", "3gp5"), "video/3gpp"),
            (iso("ftyp", "avif"), "image/avif"),
            (iso("ftyp", "heic"), "image/heif"),
            (iso("styp", "msdh"), "video/mp4"),
            (iso("moof", "\0\0\0\x10"), "video/mp4"),
            (stream(0, 188), "video/mp2t"),
            (stream(4, 192), "video/mp2t"),
            (b"ID3\x04\0\0\0\0\0\x23TSSE".to_vec(), "audio/mpeg"),
            (b"\xff\xfb\x90\x64\0\x0f\xf0\0".to_vec(), "audio/mpeg"),
            (b"\xff\xfa\x90\x64\0\x0f\xf0\0".to_vec(), "audio/mpeg"),
            (b"\xff\xf1\x50\x80\x02\x1f\xfc".to_vec(), "audio/aac"),
            (b"fLaC\0\0\0\x22\x10\0\x10\0".to_vec(), "audio/flac"),
            (ogg(b"OpusHead\x01\x02"), "audio/ogg"),
            (ogg(b"\x01vorbis\0\0\0\0"), "audio/ogg"),
            (ogg(b"\x80theora\x03\x02\x01"), "video/ogg"),
            (b"RIFF\x24\x08\0\0WAVEfmt \x10\0".to_vec(), "audio/wav"),
            (b"RIFF\x24\x08\0\0AVI LIST".to_vec(), "video/x-msvideo"),
            (b"RIFF\x24\x08\0\0WEBPVP8 ".to_vec(), "image/webp"),
            (b"\xff\xd8\xff\xe0\0\x10JFIF\0".to_vec(), "image/jpeg"),
            (b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec(), "image/png"),
            (b"GIF89a\x01\0\x01\0\x80\0\0".to_vec(), "image/gif"),
            (b"BM\x36\0\0\0\0\0\0\0".to_vec(), "image/bmp"),
            (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n".to_vec(), "application/pdf"),
            (b"%PDF-1.4\n1 0 obj\n".to_vec(), "application/pdf"),
            (b"PK\x03\x04\x14\0\0\0\x08\0".to_vec(), "application/zip"),
            (b"\x1f\x8b\x08\0\0\0\0\0\0\x03".to_vec(), "application/gzip"),
            (tar, "application/x-tar"),
            (b"#EXTM3U\n#EXT-X-VERSION:3\n".to_vec(), "application/vnd.apple.mpegurl"),
            (b"WEBVTT\n\n00:00.000 --> 00:01.000\nhi\n".to_vec(), "text/vtt; charset=utf-8"),
            (b"\xef\xbb\xbfWEBVTT - a\n".to_vec(), "text/vtt; charset=utf-8"),
            (b"#!/bin/sh\nexit\n".to_vec(), "application/x-sh"),
            ("na\u{ef}ve\ttext\r\n".as_bytes().to_vec(), "text/plain; charset=utf-8"),
        ]
    }

    const MARKUP: &[(&str, &str)] = &[
        ("<!DOCTYPE html><title>a</title>", "text/html; charset=utf-8"),
        ("<!doctype HTML PUBLIC \"x\">", "text/html; charset=utf-8"),
        (" \r\n\t\x0c<html>", "text/html; charset=utf-8"),
        ("\u{feff}<HTML>", "text/html; charset=utf-8"),
        ("<script>alert(1)</script>", "text/html; charset=utf-8"),
        ("<img src=x onerror=alert(1)>", "text/html; charset=utf-8"),
        ("<x-a>", "text/html; charset=utf-8"),
        ("<!-- a --><html>", "text/html; charset=utf-8"),
        ("<!-- %PDF-1.4 --><script>", "text/html; charset=utf-8"),
        ("</p><script>", "text/html; charset=utf-8"),
        ("<!-- <svg> --><body>", "text/html; charset=utf-8"),
        ("<svgx>", "text/html; charset=utf-8"),
        ("<SVG>", "text/html; charset=utf-8"),
        ("<svg xmlns=\"http://www.w3.org/2000/svg\">", "image/svg+xml"),
        ("<svg>", "image/svg+xml"),
        ("<?xml version=\"1.0\"?>\n<!-- a -->\n<svg:svg a=\"b\">", "image/svg+xml"),
        ("<?xml version=\"1.0\"?><!DOCTYPE svg PUBLIC \"a\" \"b\">", "image/svg+xml"),
        ("<?xml version=\"1.0\"?><MPD xmlns=\"urn\">", "application/dash+xml"),
        ("<?xml version=\"1.0\"?><html xmlns=\"a\">", "application/xhtml+xml"),
        ("<?xml version=\"1.0\"?><feed>", "text/xml"),
        ("<?xml version=\"1.0\"?><!-- never ends", "text/xml"),
    ];

    #[test]
    fn u3_sniffed_by_magic_numbers() {
        for (bytes, expected) in beginnings() {
            assert_eq!(sniff(&bytes), expected, "{}", bytes[..bytes.len().min(40)].escape_ascii());
        }
    }

    #[test]
    fn u3_markup_is_never_taken_for_an_image_but_svg() {
        for &(text, expected) in MARKUP {
            assert_eq!(sniff(text.as_bytes()), expected, "{text}");
            // It stays what it is when bytes follow that are no text.
            let with_binary = [text.as_bytes(), b"\0\xff\xfe"].concat();
            assert_eq!(sniff(&with_binary), expected, "{text}");
        }
    }

    #[test]
    fn u3_words_that_look_like_magic_numbers_are_text() {
        for text in ["BMW and others", "ID3 tags", "GIF89a is a format", "<3 you", "< a", "PAR2", "II*", "8BPS", "fLaC"]
        {
            assert_eq!(sniff(text.as_bytes()), "text/plain; charset=utf-8", "{text}");
        }
    }

    #[test]
    fn u3_what_nothing_tells() {
        for bytes in [&b""[..], b"\0", b"\xff", b"caf\xe9 au lait", b"\xfe\xff\0<\0h", b"a\0b", b"text\0 %PDF-1.4"] {
            assert_eq!(sniff(bytes), "application/octet-stream", "{}", bytes.escape_ascii());
        }
        // A character that the window cuts is none that is broken.
        assert_eq!(sniff(&"\u{e9}".as_bytes()[..1]), "text/plain; charset=utf-8");
        let long = [&b"a"[..], "\u{e9}".repeat(SNIFF_LEN).as_bytes()].concat();
        assert_eq!(sniff(&long), "text/plain; charset=utf-8");
        let late = [" ".repeat(SNIFF_LEN).as_bytes(), b"\0"].concat();
        assert_eq!(sniff(&late), "text/plain; charset=utf-8");
    }

    #[test]
    fn u3_cut_at_any_byte() {
        let markup = MARKUP.iter().map(|&(text, expected)| (text.as_bytes().to_vec(), expected));
        for (bytes, expected) in beginnings().into_iter().chain(markup) {
            let image = expected.starts_with("image/");
            for len in 0..bytes.len() {
                let cut = sniff(&bytes[..len]);
                assert!(image || !cut.starts_with("image/"), "{} is {cut}", bytes[..len].escape_ascii());
            }
        }
    }

    #[test]
    fn u3_patterns_of_types() {
        for (pattern, media_type, expected) in [
            ("*/*", "video/mp4", true),
            ("image/*", "image/png", true),
            ("image/*", "IMAGE/PNG", true),
            ("image/*", "text/html; charset=utf-8", false),
            ("image/*", "imagex/png", false),
            ("Video/MP4", "video/mp4", true),
            ("video/mp4", "video/mp4; codecs=\"avc1\"", true),
            ("video/mp4", "video/mp4v", false),
            ("text/plain", "text/plain; charset=utf-8", true),
            ("text/plain", "text", false),
            ("image", "image/png", false),
        ] {
            assert_eq!(matches(pattern, media_type), expected, "{pattern} {media_type}");
        }
    }

    #[test]
    fn u3_patterns_of_a_configuration() {
        for pattern in ["*/*", "image/*", "image/svg+xml", "application/vnd.apple.mpegurl", "Video/MP4"] {
            assert_eq!(check_pattern(pattern), Ok(()), "{pattern}");
        }
        for pattern in [
            "",
            "*",
            "/",
            "image",
            "image/",
            "/png",
            "*/png",
            "image/p*",
            "image/*+xml",
            "a/b/c",
            "text/plain; a=b",
            " a/b",
            "a/b ",
        ] {
            assert_eq!(check_pattern(pattern), Err(PatternError(pattern.to_string())), "{pattern}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn u3_any_bytes_are_sniffed_without_a_panic(
            begin in proptest::sample::select(beginnings()),
            keep in 0usize..64,
            noise in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let bytes = [&begin.0[..keep.min(begin.0.len())], &noise].concat();
            prop_assert!(check_pattern(sniff(&bytes).split(';').next().unwrap()).is_ok());
        }
    }
}
