//! The head of one part: its name, the name of its file, its type (RFC 7578 §4.2–4.8).
//!
//! Names are decoded the way browsers encode them: WHATWG HTML §4.10.21.8 writes a quote, a CR and a LF as `%22`, `%0D` and
//! `%0A` and nothing else, so nothing else is decoded, and a name with `%20` in it keeps that. Older clients escape a quote by
//! a backslash. Bytes that are not UTF-8 become U+FFFD: a name in an unknown encoding is no reason to refuse a file.
//!
//! RFC 7578 §4.2 forbids `filename*`, but clients send it; where it can be read it wins over `filename` (RFC 6266 §4.3).

use percent_encoding::percent_decode;

use super::super::http1::head::is_token;
use super::parameters;
use super::refusal::{HeadFault, Refusal};

/// The head of one part. What it holds is bounded by the limit of a part's head, three times over for the names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartHead {
    /// The name of the field; not empty. May hold a CR and a LF, which browsers send escaped.
    pub name: String,
    /// The name of the file as the client wrote it: may be empty, a path, or dangerous.
    pub file_name: Option<String>,
    /// The value of Content-Type, of which nothing has been checked.
    pub content_type: Option<String>,
    /// Sound field lines, each with its CR LF.
    lines: Box<[u8]>,
}

impl PartHead {
    /// Whether the part is a file: it has a file's name, though that may be empty, as it is in what browsers send for a file
    /// input in which nothing was chosen.
    ///
    /// A Content-Type alone makes no file. Clients put `text/plain` and `application/json` on ordinary fields. busboy takes
    /// `application/octet-stream` for a file all the same; here it is a field, because RFC 7578 §4.2 has files named, and
    /// because browsers name even a Blob.
    pub fn is_file(&self) -> bool {
        self.file_name.is_some()
    }

    /// Names as sent and values without surrounding white space, in order.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        lines(&self.lines).filter_map(split_line)
    }

    /// Reads the field lines of a part's head, each of which ends in CR LF, without the empty line.
    ///
    /// # Errors
    /// [`Refusal::Malformed`], [`Refusal::TransferEncoding`], [`Refusal::MissingFieldName`].
    pub(super) fn parse(block: Vec<u8>) -> Result<Self, Refusal> {
        let mut disposition = None;
        let mut content_type = None;
        let mut transfer_encoding = None;
        for line in lines(&block) {
            // A folded line (RFC 5322 §2.2.3) begins with white space, so it has no name and is refused here.
            let (name, value) = split_line(line).ok_or(Refusal::Malformed(HeadFault::Field))?;
            if !is_token(name) {
                return Err(Refusal::Malformed(HeadFault::Field));
            }
            if value.iter().any(|&byte| byte != b'\t' && byte.is_ascii_control()) {
                return Err(Refusal::Malformed(HeadFault::Value));
            }
            let known = match name.to_ascii_lowercase().as_slice() {
                b"content-disposition" => &mut disposition,
                b"content-type" => &mut content_type,
                b"content-transfer-encoding" => &mut transfer_encoding,
                // "The multipart/form-data media type does not support any MIME header fields in parts other than" these;
                // "other header fields MUST be ignored" (§4.8).
                _ => continue,
            };
            if known.replace(value).is_some() {
                return Err(Refusal::Malformed(HeadFault::Repeated));
            }
        }
        // Decoding it would mean to copy, and 7bit, 8bit and binary leave the bytes as they are.
        if transfer_encoding.is_some_and(|coding| {
            coding.eq_ignore_ascii_case(b"base64") || coding.eq_ignore_ascii_case(b"quoted-printable")
        }) {
            return Err(Refusal::TransferEncoding);
        }
        let (name, file_name) = names(disposition.ok_or(Refusal::MissingFieldName)?)?;
        let content_type = content_type.map(|value| String::from_utf8_lossy(value).into_owned());
        Ok(PartHead { name, file_name, content_type, lines: block.into_boxed_slice() })
    }
}

/// The lines of a block, without their CR LF.
fn lines(block: &[u8]) -> impl Iterator<Item = &[u8]> {
    block.split_inclusive(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r\n").unwrap_or(line))
}

fn split_line(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = memchr::memchr(b':', line)?;
    Some((&line[..colon], trim_blanks(&line[colon + 1..])))
}

/// Without the spaces and tabs around it; other white space is a control byte, and has to be seen.
fn trim_blanks(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// The name of the field, and that of the file, from the value of Content-Disposition.
fn names(disposition: &[u8]) -> Result<(String, Option<String>), Refusal> {
    let malformed = |_| Refusal::Malformed(HeadFault::Disposition);
    let (kind, parameters) = parameters::split(disposition);
    if !kind.eq_ignore_ascii_case(b"form-data") {
        return Err(Refusal::Malformed(HeadFault::Disposition));
    }
    // An empty name is as good as none, also to busboy: no form of a browser has it, and no field is called so.
    let name = parameters::unique(parameters, "name").map_err(malformed)?;
    let name = name.filter(|name| !name.is_empty()).ok_or(Refusal::MissingFieldName)?;
    let plain = parameters::unique(parameters, "filename").map_err(malformed)?;
    let extended = parameters::unique(parameters, "filename*").map_err(malformed)?;
    let file_name = match (extended.as_deref().map(decode_extended), plain) {
        (Some(Some(file_name)), _) => Some(file_name),
        (_, Some(plain)) => Some(decode(&plain)),
        (Some(None), None) => return Err(Refusal::Malformed(HeadFault::FileName)),
        (None, None) => None,
    };
    Ok((decode(&name), file_name))
}

/// Undoes the three escapes of WHATWG forms.
fn decode(value: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value;
    loop {
        let (byte, len) = match rest {
            [] => return String::from_utf8_lossy(&bytes).into_owned(),
            [b'%', b'2', b'2', ..] => (b'"', 3),
            [b'%', b'0', b'd' | b'D', ..] => (b'\r', 3),
            [b'%', b'0', b'a' | b'A', ..] => (b'\n', 3),
            [byte, ..] => (*byte, 1),
        };
        bytes.push(byte);
        rest = &rest[len..];
    }
}

/// `ext-value = charset "'" [ language ] "'" value-chars` (RFC 8187 §3.2.1). `None` if it is not that, not in UTF-8 or
/// ISO-8859-1, or smuggles in a control character.
fn decode_extended(value: &[u8]) -> Option<String> {
    let mut pieces = value.splitn(3, |&byte| byte == b'\'');
    let (charset, _language, text) = (pieces.next()?, pieces.next()?, pieces.next()?);
    let escaped = |at: usize| text.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit));
    let is_sound = |(at, &byte): (usize, &u8)| byte.is_ascii_graphic() && (byte != b'%' || escaped(at));
    if !text.iter().enumerate().all(is_sound) {
        return None;
    }
    let bytes = percent_decode(text);
    let name = match charset.to_ascii_lowercase().as_slice() {
        b"utf-8" => String::from_utf8(bytes.collect()).ok()?,
        // The first 256 code points are those of ISO-8859-1.
        b"iso-8859-1" => bytes.map(char::from).collect(),
        _ => return None,
    };
    (!name.chars().any(char::is_control)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(lines: &[u8]) -> Result<PartHead, Refusal> {
        PartHead::parse(lines.to_vec())
    }

    /// What a disposition with these parameters says: the field's name and the file's.
    #[track_caller]
    fn check(parameters: &str, name: &str, file_name: Option<&str>) {
        let head = parse(format!("Content-Disposition: form-data; {parameters}\r\n").as_bytes())
            .unwrap_or_else(|refusal| panic!("{parameters}: {refusal}"));
        assert_eq!((head.name.as_str(), head.file_name.as_deref()), (name, file_name), "{parameters}");
        assert_eq!(head.is_file(), file_name.is_some(), "{parameters}");
    }

    #[track_caller]
    fn check_refusal(lines: impl AsRef<[u8]>, refusal: Refusal) {
        assert_eq!(parse(lines.as_ref()), Err(refusal), "{}", lines.as_ref().escape_ascii());
    }

    #[test]
    fn u3_names_of_real_clients() {
        check(r#"name="title""#, "title", None);
        check("name=title", "title", None);
        check(r#"name="file"; filename="clip.mp4""#, "file", Some("clip.mp4"));
        check(r#"name="file"; filename="""#, "file", Some(""));
        check("name=file;filename=clip(1).mp4", "file", Some("clip(1).mp4"));
        check("filename=a; name=b", "b", Some("a"));
        check(r#" NAME = "a b" ;; FileName= "c" ; "#, "a b", Some("c"));
        check(r#"name="été"; filename="日本 🎬.mp4""#, "été", Some("日本 🎬.mp4"));
        check(r#"name="a[b].c"; filename="x; name=y""#, "a[b].c", Some("x; name=y"));
        check(r#"name="a"; size=3; other="x""#, "a", None);
    }

    #[test]
    fn u3_escapes_of_browsers() {
        check(r#"name="a%22b%0D%0Ac"; filename="%22%0d%0a%22.mp4""#, "a\"b\r\nc", Some("\"\r\n\".mp4"));
        check(r#"name="50%25"; filename="a%20b%2fc%00%.mp4%2""#, "50%25", Some("a%20b%2fc%00%.mp4%2"));
    }

    #[test]
    fn u3_backslashes() {
        check(r#"name="a\"b"; filename="c\\d""#, "a\"b", Some(r"c\d"));
        check(r#"name="a"; filename="C:\dir\file.mp4""#, "a", Some(r"C:\dir\file.mp4"));
        check(r#"name="a"; filename="C:\new\\tmp\"x\"""#, "a", Some("C:\\new\\tmp\"x\""));
    }

    #[test]
    fn u3_extended_file_names() {
        check("name=a; filename*=UTF-8''%e2%82%ac%20rates", "a", Some("\u{20ac} rates"));
        check("name=a; filename=\"EURO\"; filename*=utf-8'en'%E2%82%AC", "a", Some("\u{20ac}"));
        check("name=a; filename*=UTF-8''x; filename=\"y\"", "a", Some("x"));
        check("name=a; FILENAME*=\"UTF-8''x\"", "a", Some("x"));
        check("name=a; filename*=iso-8859-1'en'%A3%20'rates'", "a", Some("\u{a3} 'rates'"));
        check("name=a; filename*=UTF-8''", "a", Some(""));
    }

    #[test]
    fn u3_an_extended_file_name_that_cannot_be_read_gives_way() {
        for value in [
            "",
            "UTF-8",
            "UTF-8'x",
            "UTF-16''x",
            "''x",
            "UTF-8''%",
            "UTF-8''%4",
            "UTF-8''%4g",
            "UTF-8''%ff",
            "UTF-8''\u{e9}",
            "UTF-8''a%00",
            "UTF-8''%0A",
            "iso-8859-1''%85",
        ] {
            check(&format!("name=a; filename*={value}; filename=b"), "a", Some("b"));
            check_refusal(
                format!("Content-Disposition: form-data; name=a; filename*={value}\r\n"),
                Refusal::Malformed(HeadFault::FileName),
            );
        }
    }

    #[test]
    fn u3_bytes_that_are_not_utf_8_are_replaced() {
        let head = parse(b"Content-Disposition: form-data; name=\"\xe9\"; filename=\"\xff.mp4\"\r\n").unwrap();
        assert_eq!((head.name.as_str(), head.file_name.as_deref()), ("\u{fffd}", Some("\u{fffd}.mp4")));
    }

    #[test]
    fn u1_parts_without_a_name() {
        for lines in [
            "",
            "Content-Type: text/plain\r\n",
            "Content-Disposition: form-data\r\n",
            "Content-Disposition: form-data;\r\n",
            "Content-Disposition: form-data; filename=\"a\"\r\n",
            "Content-Disposition: form-data; name=\"\"\r\n",
            "Content-Disposition: form-data; name=\r\n",
            "Content-Disposition: form-data; name*=UTF-8''a\r\n",
        ] {
            check_refusal(lines, Refusal::MissingFieldName);
        }
    }

    #[test]
    fn malformed_dispositions() {
        for value in [
            "",
            "attachment; name=a",
            "form-data name=a",
            "form-data; name",
            "form-data; name=\"a",
            "form-data; name=\"a\\\"",
            "form-data; name=\"a\"b",
            "form-data; name=\"a\" filename=b",
            "form-data; name=a; name=b",
            "form-data; name=a; filename=b; FileName=b",
            "form-data; name=a; filename*=UTF-8''b; filename*=UTF-8''c",
        ] {
            check_refusal(format!("Content-Disposition: {value}\r\n"), Refusal::Malformed(HeadFault::Disposition));
        }
    }

    #[test]
    fn malformed_fields() {
        let sound = "Content-Disposition: form-data; name=a\r\n";
        for line in ["X", ": y", "X : y", " X: y", "\tfolded: y", "X y: z", "X\u{e9}: y", "X\0: y", "\r: y"] {
            check_refusal(format!("{sound}{line}\r\n"), Refusal::Malformed(HeadFault::Field));
        }
        for value in ["\0", "a\0b", "\u{7f}", "a\rb", "\r", "\u{b}", "\x1b[31m"] {
            check_refusal(format!("{sound}X: {value}\r\n"), Refusal::Malformed(HeadFault::Value));
        }
        check_refusal("Content-Disposition: form-data; name=\"a\0\"\r\n", Refusal::Malformed(HeadFault::Value));
    }

    #[test]
    fn repeated_fields() {
        let sound = "Content-Disposition: form-data; name=a\r\n";
        check_refusal(sound.repeat(2), Refusal::Malformed(HeadFault::Repeated));
        for line in ["Content-Type: a/b\r\nCONTENT-TYPE: a/b\r\n", &"Content-Transfer-Encoding: 8bit\r\n".repeat(2)] {
            check_refusal(format!("{sound}{line}"), Refusal::Malformed(HeadFault::Repeated));
        }
        assert!(parse(format!("{sound}X: a\r\nX: b\r\n").as_bytes()).is_ok());
    }

    #[test]
    fn transfer_encodings() {
        let head =
            |coding: &str| format!("Content-Disposition: form-data; name=a\r\ncontent-transfer-encoding:{coding}\r\n");
        for coding in ["7bit", " 8bit", " BINARY ", "x-own", ""] {
            assert!(parse(head(coding).as_bytes()).is_ok(), "{coding}");
        }
        for coding in ["base64", " BASE64\t", " Quoted-Printable"] {
            check_refusal(head(coding), Refusal::TransferEncoding);
        }
    }

    #[test]
    fn types_and_other_fields() {
        let head = parse(
            b"content-TYPE:\ttext/plain; charset=utf-8 \r\nX-A: \xff\t\r\nContent-Disposition: form-data; name=a\r\nx-a:\r\n",
        )
        .unwrap();
        assert_eq!(head.content_type.as_deref(), Some("text/plain; charset=utf-8"));
        assert!(!head.is_file());
        assert_eq!(
            head.fields().collect::<Vec<_>>(),
            [
                (&b"content-TYPE"[..], &b"text/plain; charset=utf-8"[..]),
                (b"X-A", b"\xff"),
                (b"Content-Disposition", b"form-data; name=a"),
                (b"x-a", b""),
            ]
        );
        let octets = parse(b"Content-Disposition: form-data; name=a\r\nContent-Type: application/octet-stream\r\n");
        assert!(!octets.unwrap().is_file());
    }
}
