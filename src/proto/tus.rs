//! tus 1.0.0: what the fields of a resumable upload's requests mean, and what its replies say
//! (tus.io/protocols/resumable-upload, version 1.0.0 of 2016-03-25).
//!
//! A request becomes a [`Creation`] or an [`Append`], or a [`Refusal`] that knows its status; what an upload's state
//! allows is for the one who keeps the state. Numbers are digits and nothing else, and a field that may stand once may
//! not stand twice: two servers that read a length differently are how a proxy is fooled. Metadata is the one free
//! text. It is kept as it was sent, because HEAD has to repeat it, and only in characters that may stand in a field.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_PAD_INDIFFERENT;
use http::{Method, StatusCode};

use crate::proto::fields::{Fields, Repeated};

/// The one version spoken here: the value of Tus-Resumable and of Tus-Version.
pub const VERSION: &str = "1.0.0";

/// The value of Tus-Extension.
pub const EXTENSIONS: &str =
    "creation,creation-with-upload,creation-defer-length,checksum,expiration,termination,concatenation";

/// The value of Tus-Checksum-Algorithm.
pub const CHECKSUM_ALGORITHMS: &str = "sha1,sha256";

/// The media type of bytes that are appended, in a PATCH and in a POST that brings some.
pub const CONTENT_TYPE: &str = "application/offset+octet-stream";

/// Whether the request speaks this version. OPTIONS is not asked: there the field must be ignored.
///
/// # Errors
/// [`Refusal::Version`], whose reply carries Tus-Version with [`VERSION`].
pub fn check_version(fields: &Fields) -> Result<(), Refusal> {
    match fields.get_single("tus-resumable") {
        Ok(Some(value)) if value == VERSION.as_bytes() => Ok(()),
        _ => Err(Refusal::Version),
    }
}

/// The method that X-HTTP-Method-Override puts in the place of POST: PATCH or DELETE, which some clients can't send.
///
/// The field counts in a POST only: a GET that deletes would be sent along by caches and links. HEAD is not taken
/// from it, because the client of a POST waits for the body that Content-Length announces.
pub fn overriding_method(method: &Method, fields: &Fields) -> Option<Method> {
    let value = fields.get_single("x-http-method-override").ok()??;
    let overriding = [Method::PATCH, Method::DELETE].into_iter().find(|known| known.as_str().as_bytes() == value)?;
    (*method == Method::POST).then_some(overriding)
}

/// Whether the content is of the type that is appended; parameters make it another.
///
/// # Errors
/// [`Refusal::ContentType`].
pub fn check_content_type(fields: &Fields) -> Result<(), Refusal> {
    match fields.get_single("content-type") {
        Ok(Some(value)) if value.eq_ignore_ascii_case(CONTENT_TYPE.as_bytes()) => Ok(()),
        _ => Err(Refusal::ContentType),
    }
}

/// What a POST to a place for uploads asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Creation {
    /// How long the upload will be.
    pub length: UploadLength,
    /// What the client says about it.
    pub metadata: Metadata,
    /// Which part it has in a concatenation.
    pub concat: Concat,
}

/// How many bytes an upload will have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadLength {
    /// So many; with 0 it is complete at once.
    Known(u64),
    /// A later PATCH says it.
    Deferred,
    /// As many as the uploads together that it is made of.
    OfParts,
}

/// The part of an upload in a concatenation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Concat {
    /// None: it is a file of its own.
    None,
    /// A piece, to be used by a final upload.
    Partial,
    /// Made of these uploads, in this order. They are named as the client did, by URL or path, and not yet trusted.
    Final(Vec<String>),
}

impl Creation {
    /// What the fields of a POST ask for. `max_len` is the longest upload that is taken, in bytes.
    ///
    /// # Errors
    /// Malformed, missing or contradicting fields, and [`Refusal::TooLarge`].
    pub fn parse(fields: &Fields, max_len: u64) -> Result<Self, Refusal> {
        let concat = concat(fields)?;
        let deferred = match fields.get_single("upload-defer-length").map_err(|Repeated| Refusal::DeferLength)? {
            None => false,
            Some(b"1") => true,
            Some(_) => return Err(Refusal::DeferLength),
        };
        let length = match (upload_length(fields, max_len)?, deferred, &concat) {
            (None, false, Concat::Final(_)) => UploadLength::OfParts,
            (Some(len), false, Concat::None | Concat::Partial) => UploadLength::Known(len),
            (None, true, Concat::None | Concat::Partial) => UploadLength::Deferred,
            (_, _, Concat::Final(_)) => return Err(Refusal::FinalWithLength),
            _ => return Err(Refusal::OneLength),
        };
        // A list may come on several lines, which together mean what one with commas does (RFC 9110 §5.3).
        let lines: Vec<&[u8]> = fields.get_all("upload-metadata").collect();
        Ok(Creation { length, metadata: Metadata::parse(&lines.join(&b','))?, concat })
    }
}

/// What a client says about its file, by keys of its choice; `filename` and `filetype` are common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    text: String,
    values: BTreeMap<String, Vec<u8>>,
}

impl Metadata {
    /// The metadata in the value of an Upload-Metadata field; none in an empty one, which some clients send. Base64 is
    /// read with and without its padding.
    ///
    /// Time and memory are linear in the value up to a logarithm, and the value is bounded as a request's head is.
    ///
    /// # Errors
    /// [`Refusal::Metadata`].
    pub fn parse(value: &[u8]) -> Result<Self, Refusal> {
        // What is repeated in a reply must not be able to end a line of it.
        if !value.iter().all(|byte| matches!(byte, b' '..=b'~')) {
            return Err(Refusal::Metadata);
        }
        let text = str::from_utf8(value).map_err(|_| Refusal::Metadata)?.trim();
        let mut values = BTreeMap::new();
        for pair in text.split(',').filter(|_| !text.is_empty()) {
            let (key, encoded) = pair.trim().split_once(' ').unwrap_or((pair.trim(), ""));
            let value = STANDARD_PAD_INDIFFERENT.decode(encoded).map_err(|_| Refusal::Metadata)?;
            if key.is_empty() || values.insert(key.to_string(), value).is_some() {
                return Err(Refusal::Metadata);
            }
        }
        Ok(Metadata { text: text.to_string(), values })
    }

    /// The value of this key, decoded; empty if it has none. It is whatever the client wrote, and not always text.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.values.get(key).map(Vec::as_slice)
    }

    /// The field's value as it was sent, for the reply to HEAD, which leaves the field out if it is empty.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// What a PATCH to an upload asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// Where in the upload its bytes belong, which must be where the upload ends so far.
    pub offset: u64,
    /// What its bytes must hash to.
    pub checksum: Option<Checksum>,
    /// The upload's length, told now if it was deferred, in bytes.
    pub length: Option<u64>,
}

impl Append {
    /// What the fields of a PATCH ask for. `max_len` is the longest upload that is taken, in bytes.
    ///
    /// # Errors
    /// Malformed or missing fields, another type of content, and [`Refusal::TooLarge`].
    pub fn parse(fields: &Fields, max_len: u64) -> Result<Self, Refusal> {
        check_content_type(fields)?;
        let offset = fields.get_single("upload-offset").ok().flatten().and_then(number).ok_or(Refusal::Offset)?;
        let length = upload_length(fields, max_len)?;
        if length.is_some_and(|len| len < offset) {
            return Err(Refusal::Length);
        }
        Ok(Append { offset, checksum: Checksum::parse(fields)?, length })
    }
}

/// The digest that the bytes of one request must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// `sha1`, which every server has to know.
    Sha1([u8; 20]),
    /// `sha256`.
    Sha256([u8; 32]),
}

impl Checksum {
    /// The checksum of a request, of a PATCH or of a POST that brings bytes.
    ///
    /// # Errors
    /// [`Refusal::ChecksumAlgorithm`] and [`Refusal::Checksum`].
    pub fn parse(fields: &Fields) -> Result<Option<Self>, Refusal> {
        let Some(value) = fields.get_single("upload-checksum").map_err(|Repeated| Refusal::Checksum)? else {
            return Ok(None);
        };
        let space = value.iter().position(|&byte| byte == b' ').ok_or(Refusal::Checksum)?;
        let (algorithm, encoded) = (&value[..space], &value[space + 1..]);
        Ok(Some(match algorithm {
            b"sha1" => Checksum::Sha1(digest(encoded)?),
            b"sha256" => Checksum::Sha256(digest(encoded)?),
            _ => return Err(Refusal::ChecksumAlgorithm),
        }))
    }
}

/// Why a request is refused. Nothing of the upload has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Tus-Resumable is missing or names a version that is not spoken here.
    Version,
    /// The content is not of the type that is appended.
    ContentType,
    /// Upload-Length is malformed, or less than what is there.
    Length,
    /// Upload-Defer-Length is not `1`.
    DeferLength,
    /// Neither of Upload-Length and Upload-Defer-Length, or both.
    OneLength,
    /// A final upload that tells a length; its parts make it.
    FinalWithLength,
    /// The upload would be longer than what is taken.
    TooLarge,
    /// Upload-Metadata is malformed.
    Metadata,
    /// Upload-Concat is malformed.
    Concat,
    /// Upload-Offset is missing or malformed.
    Offset,
    /// The offset is not where the upload ends.
    OffsetMismatch,
    /// Upload-Checksum is malformed.
    Checksum,
    /// Upload-Checksum names an algorithm that is not known here.
    ChecksumAlgorithm,
    /// The bytes have another checksum; they are discarded.
    ChecksumMismatch,
    /// A PATCH to a final upload.
    AppendToFinal,
}

impl Refusal {
    /// The status of the reply.
    pub fn status(self) -> StatusCode {
        match self {
            Refusal::Version => StatusCode::PRECONDITION_FAILED,
            Refusal::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Refusal::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Refusal::OffsetMismatch => StatusCode::CONFLICT,
            Refusal::AppendToFinal => StatusCode::FORBIDDEN,
            // The protocol's own number, which the registry of HTTP does not have.
            Refusal::ChecksumMismatch => StatusCode::from_u16(460).unwrap_or(StatusCode::BAD_REQUEST),
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::Version => "Tus-Resumable must be 1.0.0",
            Refusal::ContentType => "the Content-Type must be application/offset+octet-stream",
            Refusal::Length => "Upload-Length is no length, or less than what is already there",
            Refusal::DeferLength => "Upload-Defer-Length must be 1",
            Refusal::OneLength => "one of Upload-Length and Upload-Defer-Length is needed",
            Refusal::FinalWithLength => "a final upload has the length of its parts and tells none",
            Refusal::TooLarge => "the upload is longer than the largest that is taken",
            Refusal::Metadata => "Upload-Metadata is not a list of distinct keys with values in Base64",
            Refusal::Concat => "Upload-Concat is neither \"partial\" nor \"final;\" and a list of uploads",
            Refusal::Offset => "Upload-Offset is missing or no offset",
            Refusal::OffsetMismatch => "Upload-Offset is not where the upload ends",
            Refusal::Checksum => "Upload-Checksum is not an algorithm and a digest of its length in Base64",
            Refusal::ChecksumAlgorithm => "Upload-Checksum names an algorithm other than sha1 and sha256",
            Refusal::ChecksumMismatch => "the bytes do not have the checksum that was announced",
            Refusal::AppendToFinal => "a final upload is made of its parts and takes no bytes",
        })
    }
}

impl std::error::Error for Refusal {}

/// Digits only, and not more than fit.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, byte| match byte {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    })
}

fn upload_length(fields: &Fields, max_len: u64) -> Result<Option<u64>, Refusal> {
    let Some(value) = fields.get_single("upload-length").map_err(|Repeated| Refusal::Length)? else { return Ok(None) };
    let len = number(value).ok_or(Refusal::Length)?;
    if len > max_len { Err(Refusal::TooLarge) } else { Ok(Some(len)) }
}

fn concat(fields: &Fields) -> Result<Concat, Refusal> {
    let Some(value) = fields.get_single("upload-concat").map_err(|Repeated| Refusal::Concat)? else {
        return Ok(Concat::None);
    };
    if value == b"partial" {
        return Ok(Concat::Partial);
    }
    let list = value.strip_prefix(b"final;").and_then(|list| str::from_utf8(list).ok()).ok_or(Refusal::Concat)?;
    let uploads: Vec<String> = list.split(' ').filter(|upload| !upload.is_empty()).map(String::from).collect();
    if uploads.is_empty() || !list.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Err(Refusal::Concat);
    }
    Ok(Concat::Final(uploads))
}

fn digest<const LEN: usize>(encoded: &[u8]) -> Result<[u8; LEN], Refusal> {
    let digest = STANDARD_PAD_INDIFFERENT.decode(encoded).map_err(|_| Refusal::Checksum)?;
    digest.try_into().map_err(|_| Refusal::Checksum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAX: u64 = 1 << 40;
    const TYPE: (&str, &str) = ("Content-Type", CONTENT_TYPE);

    fn fields(pairs: &[(&'static str, &'static str)]) -> Fields {
        Fields::from_pairs(pairs.iter().copied())
    }

    #[track_caller]
    fn creation(pairs: &[(&'static str, &'static str)]) -> Creation {
        Creation::parse(&fields(pairs), MAX).unwrap_or_else(|refusal| panic!("{pairs:?}: {refusal}"))
    }

    #[track_caller]
    fn refuse_creation(pairs: &[(&'static str, &'static str)], expected: Refusal) {
        assert_eq!(Creation::parse(&fields(pairs), MAX), Err(expected), "{pairs:?}");
    }

    #[track_caller]
    fn refuse_append(pairs: &[(&'static str, &'static str)], expected: Refusal) {
        assert_eq!(Append::parse(&fields(pairs), MAX), Err(expected), "{pairs:?}");
    }

    #[test]
    fn u4_only_version_1_0_0() {
        assert_eq!(check_version(&fields(&[("tus-resumable", "1.0.0")])), Ok(()));
        for wrong in ["", "1", "1.0", "1.0.1", "0.2.2", "1.0.0,0.2.2", "01.0.0", " 1.0.0"] {
            assert_eq!(check_version(&fields(&[("Tus-Resumable", wrong)])), Err(Refusal::Version), "{wrong}");
        }
        assert_eq!(check_version(&fields(&[])), Err(Refusal::Version));
        let twice = fields(&[("Tus-Resumable", "1.0.0"), ("Tus-Resumable", "1.0.0")]);
        assert_eq!(check_version(&twice), Err(Refusal::Version));
    }

    #[test]
    fn u4_a_creation_tells_one_length() {
        assert_eq!(creation(&[("Upload-Length", "0")]).length, UploadLength::Known(0));
        assert_eq!(creation(&[("Upload-Length", "5368709120")]).length, UploadLength::Known(5 << 30));
        assert_eq!(creation(&[("Upload-Defer-Length", "1")]).length, UploadLength::Deferred);
        refuse_creation(&[], Refusal::OneLength);
        refuse_creation(&[("Upload-Length", "1"), ("Upload-Defer-Length", "1")], Refusal::OneLength);
        for value in ["", "-1", "+1", "1.0", "0x1", "1 2", "1,1", "18446744073709551616", "ten"] {
            refuse_creation(&[("Upload-Length", value)], Refusal::Length);
        }
        refuse_creation(&[("Upload-Length", "1"), ("Upload-Length", "1")], Refusal::Length);
        for value in ["0", "2", "", "true", "?1", "11"] {
            refuse_creation(&[("Upload-Defer-Length", value)], Refusal::DeferLength);
        }
    }

    #[test]
    fn u4_over_the_maximum() {
        let parse = |len, max| Creation::parse(&fields(&[("Upload-Length", len)]), max).map(|creation| creation.length);
        assert_eq!(parse("10", 10), Ok(UploadLength::Known(10)));
        assert_eq!(parse("11", 10), Err(Refusal::TooLarge));
        assert_eq!(parse("18446744073709551615", u64::MAX), Ok(UploadLength::Known(u64::MAX)));
        refuse_append(&[TYPE, ("Upload-Offset", "0"), ("Upload-Length", "1099511627777")], Refusal::TooLarge);
    }

    #[test]
    fn u4_concatenation() {
        assert_eq!(creation(&[("Upload-Length", "1")]).concat, Concat::None);
        assert_eq!(creation(&[("Upload-Length", "1"), ("Upload-Concat", "partial")]).concat, Concat::Partial);
        let deferred = creation(&[("Upload-Defer-Length", "1"), ("Upload-Concat", "partial")]);
        assert_eq!(deferred.length, UploadLength::Deferred);
        let whole = creation(&[("Upload-Concat", "final;/files/a https://b.example/files/b")]);
        let uploads = ["/files/a", "https://b.example/files/b"].map(String::from).to_vec();
        assert_eq!((whole.length, whole.concat), (UploadLength::OfParts, Concat::Final(uploads)));
        for also in [("Upload-Length", "1"), ("Upload-Defer-Length", "1")] {
            refuse_creation(&[("Upload-Concat", "final;/a"), also], Refusal::FinalWithLength);
        }
        for value in ["", "final", "final;", "final; ", "final /a", "Partial", "partial;", "FINAL;/a", "final;/\u{e9}"]
        {
            refuse_creation(&[("Upload-Length", "1"), ("Upload-Concat", value)], Refusal::Concat);
        }
        refuse_creation(&[("Upload-Concat", "final;/a"), ("Upload-Concat", "final;/b")], Refusal::Concat);
    }

    #[test]
    fn u4_metadata_is_decoded_and_kept_as_sent() {
        let text = "filename d29ybGRfZG9taW5hdGlvbl9wbGFuLnBkZg==,is_confidential, empty ,raw /wA";
        let metadata = Metadata::parse(text.as_bytes()).unwrap();
        assert_eq!(metadata.get("filename"), Some(&b"world_domination_plan.pdf"[..]));
        assert_eq!(metadata.get("is_confidential"), Some(&b""[..]));
        assert_eq!(metadata.get("empty"), Some(&b""[..]));
        assert_eq!(metadata.get("raw"), Some(&b"\xff\0"[..]));
        assert_eq!(metadata.get("Filename"), None);
        assert_eq!(metadata.text(), text);
        let lines = creation(&[("Upload-Length", "1"), ("Upload-Metadata", "a YQ=="), ("Upload-Metadata", "b")]);
        assert_eq!(lines.metadata.text(), "a YQ==,b");
    }

    #[test]
    fn u4_empty_metadata_is_legal() {
        for pairs in [&[("Upload-Length", "1")][..], &[("Upload-Length", "1"), ("Upload-Metadata", "")]] {
            assert_eq!(creation(pairs).metadata, Metadata::default());
        }
        assert_eq!(Metadata::parse(b"  "), Ok(Metadata::default()));
    }

    #[test]
    fn u4_metadata_that_is_refused() {
        for value in
            [",", "a YQ==,", ",a", "a,,b", "a YQ==,a Yg==", "a,a", "a Y", "a Y*==", "a YQ== x", "a Y=", "a  YQ=="]
        {
            assert_eq!(Metadata::parse(value.as_bytes()), Err(Refusal::Metadata), "{value}");
        }
        for value in [&b"a YQ==\r\nX: y"[..], b"a\tYQ==", b"\xc3\xa9 YQ==", b"a\0", b"\xff"] {
            assert_eq!(Metadata::parse(value), Err(Refusal::Metadata), "{value:?}");
        }
    }

    #[test]
    fn u4_an_append_is_of_its_type_and_has_an_offset() {
        let append = Append::parse(&fields(&[TYPE, ("Upload-Offset", "70")]), MAX);
        assert_eq!(append, Ok(Append { offset: 70, checksum: None, length: None }));
        for value in ["", "-0", "1e3", " 1", "18446744073709551616"] {
            refuse_append(&[TYPE, ("Upload-Offset", value)], Refusal::Offset);
        }
        refuse_append(&[TYPE], Refusal::Offset);
        refuse_append(&[TYPE, ("Upload-Offset", "1"), ("Upload-Offset", "2")], Refusal::Offset);
        refuse_append(&[("Upload-Offset", "0")], Refusal::ContentType);
        for value in ["application/octet-stream", "application/offset+octet-stream; charset=utf-8", ""] {
            refuse_append(&[("Content-Type", value), ("Upload-Offset", "0")], Refusal::ContentType);
        }
    }

    #[test]
    fn u4_a_deferred_length_comes_with_an_append() {
        let with = |len| Append::parse(&fields(&[TYPE, ("Upload-Offset", "5"), ("Upload-Length", len)]), MAX);
        assert_eq!(with("5").map(|append| append.length), Ok(Some(5)));
        assert_eq!(with("4"), Err(Refusal::Length));
        assert_eq!(with("x"), Err(Refusal::Length));
    }

    #[test]
    fn u4_checksums() {
        let parse = |value| Checksum::parse(&fields(&[("Upload-Checksum", value)]));
        let Ok(Some(Checksum::Sha1(sha1))) = parse("sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=") else { panic!() };
        assert_eq!(sha1[..4], [0x2a, 0xae, 0x6c, 0x35]);
        let Ok(Some(Checksum::Sha256(sha256))) = parse("sha256 uU0nuZNNPgilLlLX2n2r+sSE7+N6U4DukIj3rOLvzek=") else {
            panic!()
        };
        assert_eq!(sha256[..4], [0xb9, 0x4d, 0x27, 0xb9]);
        for value in ["md5 XrY7u+Ae7tCTyyK7j1rNww==", "crc32 DUoRhQ==", "SHA1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=", " x"] {
            assert_eq!(parse(value), Err(Refusal::ChecksumAlgorithm), "{value}");
        }
        for value in ["", "sha1", "sha1 ", "sha1 Kq5sNclPz7QV", "sha1 *", "sha256 Kq5sNclPz7QV2+lfQIuc6R7oRu0="] {
            assert_eq!(parse(value), Err(Refusal::Checksum), "{value}");
        }
        assert_eq!(Checksum::parse(&fields(&[])), Ok(None));
        refuse_append(&[TYPE, ("Upload-Offset", "0"), ("Upload-Checksum", "sha1 x")], Refusal::Checksum);
    }

    #[test]
    fn u4_a_post_may_mean_patch_or_delete() {
        let check = |method: Method, value: &'static str, expected: Option<Method>| {
            assert_eq!(overriding_method(&method, &fields(&[("X-HTTP-Method-Override", value)])), expected, "{value}");
        };
        check(Method::POST, "PATCH", Some(Method::PATCH));
        check(Method::POST, "DELETE", Some(Method::DELETE));
        for value in ["HEAD", "GET", "patch", "", "PATCH,DELETE", "CONNECT"] {
            check(Method::POST, value, None);
        }
        for method in [Method::GET, Method::HEAD, Method::PUT, Method::OPTIONS, Method::PATCH] {
            check(method, "DELETE", None);
        }
        assert_eq!(overriding_method(&Method::POST, &fields(&[])), None);
    }

    #[test]
    fn u4_statuses() {
        for (refusal, status) in [
            (Refusal::Version, 412),
            (Refusal::ContentType, 415),
            (Refusal::TooLarge, 413),
            (Refusal::OffsetMismatch, 409),
            (Refusal::ChecksumMismatch, 460),
            (Refusal::AppendToFinal, 403),
            (Refusal::Checksum, 400),
            (Refusal::ChecksumAlgorithm, 400),
            (Refusal::DeferLength, 400),
            (Refusal::Metadata, 400),
        ] {
            assert_eq!(refusal.status().as_u16(), status, "{refusal}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn u4_any_metadata_is_refused_or_kept(value in "[a-c =,/+A-Q]{0,24}|\\PC{0,40}|[\\x00-\\x7f]{0,20}") {
            if let Ok(metadata) = Metadata::parse(value.as_bytes()) {
                prop_assert_eq!(metadata.text(), value.trim());
                prop_assert!(metadata.text().bytes().all(|byte| (0x20..0x7f).contains(&byte)));
                prop_assert_eq!(Metadata::parse(metadata.text().as_bytes()), Ok(metadata));
            }
        }

        #[test]
        fn u4_metadata_comes_back(pairs in proptest::collection::btree_map("[!-+.-~]{1,8}", ".{0,20}", 0..6)) {
            let encode = |(key, value): (&String, &String)| format!("{key} {}", STANDARD_PAD_INDIFFERENT.encode(value));
            let text = pairs.iter().map(encode).collect::<Vec<_>>().join(",");
            let metadata = Metadata::parse(text.as_bytes()).unwrap();
            for (key, value) in &pairs {
                prop_assert_eq!(metadata.get(key), Some(value.as_bytes()));
            }
        }

        #[test]
        fn u4_any_fields_are_read_without_a_panic(value in "(final;|sha1 |[0-9]{1,25})?\\PC{0,30}") {
            for name in ["Upload-Length", "Upload-Concat", "Upload-Checksum", "Upload-Offset", "Upload-Metadata"] {
                let fields = Fields::from_pairs([TYPE, (name, &*value)]);
                let _ = (Creation::parse(&fields, MAX), Append::parse(&fields, MAX));
            }
        }
    }
}
