//! Resumable uploads of the IETF: what their fields mean, and what replies say
//! (draft-ietf-httpbis-resumable-upload-12 of July 2026, interop version 9).
//!
//! Interop versions 6 to 10 are answered, each in its own number: from draft 05, which the clients of one large vendor
//! still speak, to draft 13, which demands fewer fields of replies. One version alone was rejected, because the number
//! changes with nearly every draft while the fields of requests stay.
//!
//! The fields are structured ones (RFC 9651). "Other values MUST cause the entire header field to be ignored", so a
//! malformed field is as one that is absent; what is then missing is refused. Parameters, which the draft defines for
//! none of its fields, make a value another one too.

use std::fmt;
use std::ops::RangeInclusive;

use http::StatusCode;

use crate::proto::fields::Fields;

/// The interop versions that are answered (draft, "Draft Version Identification").
pub const INTEROP_VERSIONS: RangeInclusive<u64> = 6..=10;

/// The media type of bytes that are appended; also what Accept-Patch says in the reply to OPTIONS.
pub const CONTENT_TYPE: &str = "application/partial-upload";

/// The media type of [`Refusal::problem`] (RFC 9457 §3).
pub const PROBLEM_TYPE: &str = "application/problem+json";

/// The status of the interim replies, and its reason phrase.
pub const INTERIM_STATUS: (u16, &str) = (104, "Upload Resumption Supported");

/// The interop version of a request, which every interim reply to it repeats. Without one that is answered here "104"
/// must not be sent; the upload itself can be resumed all the same.
pub fn interop_version(fields: &Fields) -> Option<u64> {
    integer(fields, "upload-draft-interop-version").filter(|version| INTEROP_VERSIONS.contains(version))
}

/// The value of Upload-Complete in a reply.
pub fn boolean(value: bool) -> &'static str {
    if value { "?1" } else { "?0" }
}

/// A request that wants to be resumable: the start of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Creation {
    /// Whether the content goes on to the end of the upload.
    pub complete: bool,
    /// The upload's length in bytes, as far as it is told.
    pub length: Option<u64>,
}

impl Creation {
    /// What the fields of a request with content ask for; `None` if it is an ordinary upload, without a valid
    /// Upload-Complete. `content_length` is that of this request, in bytes, if it is known.
    ///
    /// # Errors
    /// [`Refusal::InconsistentLength`] and what the limits refuse.
    pub fn parse(fields: &Fields, content_length: Option<u64>, limits: &Limits) -> Result<Option<Self>, Refusal> {
        let Some(complete) = complete(fields) else { return Ok(None) };
        let length = length(fields, 0, content_length, complete)?;
        limits.check(length, content_length, complete)?;
        Ok(Some(Creation { complete, length }))
    }
}

/// A PATCH that goes on with an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Append {
    /// Where in the upload its bytes belong, which must be where the upload ends so far.
    pub offset: u64,
    /// Whether the content goes on to the end of the upload.
    pub complete: bool,
    /// The upload's length in bytes, as far as this request tells it.
    pub length: Option<u64>,
}

impl Append {
    /// What the fields of a PATCH to an upload ask for. `content_length` is that of this request, in bytes, if it is
    /// known.
    ///
    /// # Errors
    /// Another type of content, missing fields, [`Refusal::InconsistentLength`] and what the limits refuse.
    pub fn parse(fields: &Fields, content_length: Option<u64>, limits: &Limits) -> Result<Self, Refusal> {
        match fields.get_single("content-type") {
            Ok(Some(value)) if value.eq_ignore_ascii_case(CONTENT_TYPE.as_bytes()) => {}
            _ => return Err(Refusal::ContentType),
        }
        let offset = integer(fields, "upload-offset").ok_or(Refusal::Offset)?;
        // In interop version 6 the field could be left out of a request that brings all the rest.
        let assumed = (interop_version(fields) == Some(6)).then_some(true);
        let complete = complete(fields).or(assumed).ok_or(Refusal::Complete)?;
        let length = length(fields, offset, content_length, complete)?;
        limits.check(length, content_length, complete)?;
        Ok(Append { offset, complete, length })
    }

    /// The upload's length in bytes, from what earlier requests told (`recorded`) and this one does.
    ///
    /// # Errors
    /// [`Refusal::InconsistentLength`]: they differ, or this request begins behind the end.
    pub fn length_with(&self, recorded: Option<u64>) -> Result<Option<u64>, Refusal> {
        match (recorded, self.length) {
            (Some(recorded), Some(told)) if recorded != told => Err(Refusal::InconsistentLength),
            (Some(recorded), _) if recorded < self.offset => Err(Refusal::InconsistentLength),
            (recorded, told) => Ok(recorded.or(told)),
        }
    }
}

/// What uploads are held to. Each is announced if it is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// The longest upload, in bytes.
    pub max_size: Option<u64>,
    /// The shortest upload, in bytes.
    pub min_size: Option<u64>,
    /// The most bytes of one request.
    pub max_append_size: Option<u64>,
    /// The fewest bytes of one request, unless it completes the upload.
    pub min_append_size: Option<u64>,
    /// How long the upload is kept from now on, in seconds.
    pub max_age: Option<u64>,
}

impl Limits {
    /// Whether a request whose lengths are known so far is within the limits.
    fn check(&self, length: Option<u64>, content_length: Option<u64>, complete: bool) -> Result<(), Refusal> {
        let above = |len: Option<u64>, max: Option<u64>| len.zip(max).is_some_and(|(len, max)| len > max);
        if above(length, self.max_size)
            || above(content_length, self.max_size)
            || above(content_length, self.max_append_size)
        {
            return Err(Refusal::TooLarge);
        }
        if above(self.min_size, length) || (!complete && above(self.min_append_size, content_length)) {
            return Err(Refusal::TooSmall);
        }
        Ok(())
    }
}

impl fmt::Display for Limits {
    /// The value of Upload-Limit, a dictionary (RFC 9651 §3.2). Without any limit it says one that means nothing,
    /// because an empty dictionary can't be sent, and clients take the field for a sign that uploads can be resumed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members = [
            ("max-size", self.max_size),
            ("min-size", self.min_size),
            ("max-append-size", self.max_append_size),
            ("min-append-size", self.min_append_size),
            ("max-age", self.max_age),
        ];
        let mut separator = "";
        for (key, value) in members.into_iter().filter_map(|(key, value)| Some((key, value?))) {
            write!(f, "{separator}{key}={}", value.min(MAX_INTEGER))?;
            separator = ", ";
        }
        if separator.is_empty() { f.write_str("min-size=0") } else { Ok(()) }
    }
}

/// Why a request is refused. Nothing of the upload has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The content is not of the type that is appended.
    ContentType,
    /// Upload-Offset is missing or malformed.
    Offset,
    /// Upload-Complete is missing or malformed.
    Complete,
    /// Upload-Offset is not where the upload ends. The reply says in Upload-Offset where that is.
    OffsetMismatch {
        /// Where the upload ends, in bytes.
        expected: u64,
        /// Where the request would go on, in bytes.
        provided: u64,
    },
    /// The upload is complete already.
    Completed,
    /// The lengths that requests tell contradict each other or what they bring.
    InconsistentLength,
    /// Above a limit. The reply carries Upload-Limit.
    TooLarge,
    /// Below a limit. The reply carries Upload-Limit.
    TooSmall,
}

impl Refusal {
    /// The status of the reply; for the problem types it is what the draft recommends.
    pub fn status(self) -> StatusCode {
        match self {
            Refusal::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Refusal::OffsetMismatch { .. } => StatusCode::CONFLICT,
            Refusal::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Refusal::Offset
            | Refusal::Complete
            | Refusal::Completed
            | Refusal::InconsistentLength
            | Refusal::TooSmall => StatusCode::BAD_REQUEST,
        }
    }

    /// The body of the reply, of type [`PROBLEM_TYPE`] (RFC 9457; draft, "Problem Types").
    pub fn problem(self) -> String {
        let registered = match self {
            Refusal::OffsetMismatch { .. } => Some("mismatching-upload-offset"),
            Refusal::Completed => Some("completed-upload"),
            Refusal::InconsistentLength => Some("inconsistent-upload-length"),
            _ => None,
        };
        let problem_type = match registered {
            Some(name) => format!("https://iana.org/assignments/http-problem-types#{name}"),
            None => "about:blank".to_string(),
        };
        let offsets = match self {
            Refusal::OffsetMismatch { expected, provided } => {
                format!(",\"expected-offset\":{expected},\"provided-offset\":{provided}")
            }
            _ => String::new(),
        };
        // Neither the types nor the titles have a character in them that JSON would escape.
        format!("{{\"type\":\"{problem_type}\",\"title\":\"{self}\",\"status\":{}{offsets}}}", self.status().as_u16())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::ContentType => "the Content-Type must be application/partial-upload",
            Refusal::Offset => "Upload-Offset is missing or no offset",
            Refusal::Complete => "Upload-Complete is missing or neither ?0 nor ?1",
            Refusal::OffsetMismatch { .. } => "the request's offset is not where the upload ends",
            Refusal::Completed => "the upload is complete already",
            Refusal::InconsistentLength => "the lengths that are told for the upload contradict each other",
            Refusal::TooLarge => "the upload or the request is above a limit",
            Refusal::TooSmall => "the upload or the request is below a limit",
        })
    }
}

impl std::error::Error for Refusal {}

/// The largest Integer of a structured field (RFC 9651 §3.3.1).
const MAX_INTEGER: u64 = 999_999_999_999_999;

fn complete(fields: &Fields) -> Option<bool> {
    match item(fields, "upload-complete")? {
        b"?1" => Some(true),
        b"?0" => Some(false),
        _ => None,
    }
}

/// A field that is an Integer and not negative (RFC 9651 §4.2.4).
fn integer(fields: &Fields, name: &str) -> Option<u64> {
    let digits = item(fields, name)?;
    // "-0" is the one value with a sign that is not negative.
    let digits = if digits.strip_prefix(b"-").is_some_and(|zeros| zeros.iter().all(|&byte| byte == b'0')) {
        &digits[1..]
    } else {
        digits
    };
    let is_integer = (1..=15).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    is_integer.then(|| digits.iter().fold(0, |value, byte| value * 10 + u64::from(byte - b'0')))
}

/// The text of a field that is an Item. On two lines it would be a list (RFC 9651 §4.2).
fn item<'a>(fields: &'a Fields, name: &'a str) -> Option<&'a [u8]> {
    fields.get_single(name).ok()?.map(|value| value.trim_ascii())
}

/// The upload's length, from Upload-Length, or from where the content ends if that is the end (draft, "Length").
fn length(fields: &Fields, offset: u64, content_length: Option<u64>, complete: bool) -> Result<Option<u64>, Refusal> {
    let told = integer(fields, "upload-length");
    let end = match content_length {
        Some(len) => Some(offset.checked_add(len).ok_or(Refusal::InconsistentLength)?),
        None => None,
    };
    match (told, end) {
        (Some(told), Some(end)) if end > told || (complete && end < told) => Err(Refusal::InconsistentLength),
        (Some(told), None) if offset > told => Err(Refusal::InconsistentLength),
        (Some(told), _) => Ok(Some(told)),
        (None, end) => Ok(end.filter(|_| complete)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TYPE: (&str, &str) = ("Content-Type", CONTENT_TYPE);
    const NO_LIMITS: Limits =
        Limits { max_size: None, min_size: None, max_append_size: None, min_append_size: None, max_age: None };

    fn fields(pairs: &[(&'static str, &'static str)]) -> Fields {
        Fields::from_pairs(pairs.iter().copied())
    }

    fn create(
        pairs: &[(&'static str, &'static str)],
        content_length: Option<u64>,
    ) -> Result<Option<Creation>, Refusal> {
        Creation::parse(&fields(pairs), content_length, &NO_LIMITS)
    }

    fn append(pairs: &[(&'static str, &'static str)], content_length: Option<u64>) -> Result<Append, Refusal> {
        let pairs: Vec<_> = [TYPE].iter().chain(pairs).copied().collect();
        Append::parse(&fields(&pairs), content_length, &NO_LIMITS)
    }

    #[test]
    fn u5_104_only_for_versions_that_are_spoken() {
        let check = |value, expected| {
            assert_eq!(interop_version(&fields(&[("Upload-Draft-Interop-Version", value)])), expected, "{value}");
        };
        check("6", Some(6));
        check("9", Some(9));
        check(" 10 ", Some(10));
        for value in ["5", "11", "", "ten", "9.0", "9;a", "9, 10", "?1", "\"9\""] {
            check(value, None);
        }
        assert_eq!(interop_version(&fields(&[])), None);
    }

    #[test]
    fn u5_upload_complete_makes_a_request_resumable() {
        assert_eq!(create(&[("Upload-Complete", "?1")], None), Ok(Some(Creation { complete: true, length: None })));
        assert_eq!(create(&[("Upload-Complete", "?0")], None), Ok(Some(Creation { complete: false, length: None })));
        for value in ["", "?", "?2", "1", "true", "?1?1", "?1;a", "?1, ?1", "? 1"] {
            assert_eq!(create(&[("Upload-Complete", value)], Some(5)), Ok(None), "{value}");
        }
        assert_eq!(create(&[("Upload-Complete", "?1"), ("Upload-Complete", "?1")], Some(5)), Ok(None));
        assert_eq!(create(&[("Upload-Length", "5")], Some(5)), Ok(None));
    }

    #[test]
    fn u5_length_is_told_in_two_ways_that_agree() {
        let length = |pairs: &[_], content_length| create(pairs, content_length).map(|creation| creation?.length);
        let whole = ("Upload-Complete", "?1");
        let part = ("Upload-Complete", "?0");
        assert_eq!(length(&[whole], Some(5)), Ok(Some(5)));
        assert_eq!(length(&[part], Some(5)), Ok(None));
        assert_eq!(length(&[whole, ("Upload-Length", "5")], Some(5)), Ok(Some(5)));
        assert_eq!(length(&[whole, ("Upload-Length", "5")], None), Ok(Some(5)));
        assert_eq!(length(&[part, ("Upload-Length", "9")], Some(5)), Ok(Some(9)));
        assert_eq!(length(&[part, ("Upload-Length", "5")], Some(5)), Ok(Some(5)));
        assert_eq!(length(&[part, ("Upload-Length", "5")], Some(6)), Err(Refusal::InconsistentLength));
        for other in ["4", "6"] {
            assert_eq!(length(&[whole, ("Upload-Length", other)], Some(5)), Err(Refusal::InconsistentLength));
        }
        for ignored in ["", "-1", "+4", "4.0", "1000000000000000", "4;a=1", "0x4", "4, 4"] {
            assert_eq!(length(&[part, ("Upload-Length", ignored)], Some(5)), Ok(None), "{ignored}");
        }
        assert_eq!(length(&[part, ("Upload-Length", "999999999999999")], Some(5)), Ok(Some(MAX_INTEGER)));
        assert_eq!(length(&[part, ("Upload-Length", "-0")], None), Ok(Some(0)));
        assert_eq!(length(&[part, ("Upload-Length", "007")], None), Ok(Some(7)));
    }

    #[test]
    fn u5_an_append_is_of_its_type_and_has_its_fields() {
        let (offset, part) = (("Upload-Offset", "70"), ("Upload-Complete", "?0"));
        let expected = Append { offset: 70, complete: false, length: None };
        assert_eq!(append(&[offset, part], Some(30)), Ok(expected));
        assert_eq!(append(&[part], Some(30)), Err(Refusal::Offset));
        assert_eq!(append(&[part, ("Upload-Offset", "x")], Some(30)), Err(Refusal::Offset));
        assert_eq!(append(&[part, ("Upload-Offset", "-1")], Some(30)), Err(Refusal::Offset));
        assert_eq!(append(&[offset], Some(30)), Err(Refusal::Complete));
        assert_eq!(append(&[offset, ("Upload-Draft-Interop-Version", "9")], Some(30)), Err(Refusal::Complete));
        for value in ["application/octet-stream", "application/partial-upload; a=b", ""] {
            let fields = fields(&[("Content-Type", value), offset, part]);
            assert_eq!(Append::parse(&fields, None, &NO_LIMITS), Err(Refusal::ContentType), "{value}");
        }
        assert_eq!(Append::parse(&fields(&[offset, part]), None, &NO_LIMITS), Err(Refusal::ContentType));
    }

    #[test]
    fn u5_version_6_leaves_the_completion_out() {
        let append = append(&[("Upload-Offset", "70"), ("Upload-Draft-Interop-Version", "6")], Some(30));
        assert_eq!(append, Ok(Append { offset: 70, complete: true, length: Some(100) }));
    }

    #[test]
    fn u5_an_append_agrees_with_what_was_told_before() {
        let last = append(&[("Upload-Offset", "70"), ("Upload-Complete", "?1")], Some(30)).unwrap();
        assert_eq!(last.length, Some(100));
        assert_eq!(last.length_with(None), Ok(Some(100)));
        assert_eq!(last.length_with(Some(100)), Ok(Some(100)));
        assert_eq!(last.length_with(Some(101)), Err(Refusal::InconsistentLength));
        let part = append(&[("Upload-Offset", "70"), ("Upload-Complete", "?0")], None).unwrap();
        assert_eq!(part.length_with(Some(70)), Ok(Some(70)));
        assert_eq!(part.length_with(Some(69)), Err(Refusal::InconsistentLength));
        assert_eq!(part.length_with(None), Ok(None));
    }

    #[test]
    fn u5_no_length_overflows() {
        let offset = ("Upload-Offset", "999999999999999");
        let too_far = append(&[offset, ("Upload-Complete", "?1")], Some(u64::MAX));
        assert_eq!(too_far, Err(Refusal::InconsistentLength));
        let behind = append(&[offset, ("Upload-Complete", "?0"), ("Upload-Length", "5")], None);
        assert_eq!(behind, Err(Refusal::InconsistentLength));
    }

    #[test]
    fn u5_limits_are_kept() {
        let limits = Limits {
            max_size: Some(100),
            min_size: Some(10),
            max_append_size: Some(50),
            min_append_size: Some(20),
            max_age: None,
        };
        let check = |complete: &'static str, length: &'static str, content_length, expected| {
            let fields = fields(&[("Upload-Complete", complete), ("Upload-Length", length)]);
            let result = Creation::parse(&fields, content_length, &limits).map(|_| ());
            assert_eq!(result, expected, "{complete} {length} {content_length:?}");
        };
        check("?0", "100", Some(50), Ok(()));
        check("?0", "101", Some(50), Err(Refusal::TooLarge));
        check("?0", "100", Some(51), Err(Refusal::TooLarge));
        check("?0", "100", Some(20), Ok(()));
        check("?0", "100", Some(19), Err(Refusal::TooSmall));
        check("?1", "", Some(19), Ok(()));
        check("?1", "", Some(9), Err(Refusal::TooSmall));
        check("?0", "9", None, Err(Refusal::TooSmall));
        check("?0", "", None, Ok(()));
        let only_size = Limits { max_size: Some(10), ..NO_LIMITS };
        let patch = fields(&[TYPE, ("Upload-Offset", "5"), ("Upload-Complete", "?0")]);
        assert_eq!(Append::parse(&patch, Some(11), &only_size), Err(Refusal::TooLarge));
    }

    #[test]
    fn u5_limits_on_the_wire() {
        let limits = Limits { max_size: Some(u64::MAX), max_age: Some(3600), min_append_size: Some(1), ..NO_LIMITS };
        assert_eq!(limits.to_string(), "max-size=999999999999999, min-append-size=1, max-age=3600");
        let limits = Limits { min_size: Some(2), max_append_size: Some(3), ..NO_LIMITS };
        assert_eq!(limits.to_string(), "min-size=2, max-append-size=3");
        assert_eq!(NO_LIMITS.to_string(), "min-size=0");
        assert_eq!((boolean(true), boolean(false)), ("?1", "?0"));
    }

    #[test]
    fn u5_problems() {
        let mismatch = Refusal::OffsetMismatch { expected: 12_500_000, provided: 25_000_000 };
        assert_eq!(
            mismatch.problem(),
            "{\"type\":\"https://iana.org/assignments/http-problem-types#mismatching-upload-offset\",\
             \"title\":\"the request's offset is not where the upload ends\",\"status\":409,\
             \"expected-offset\":12500000,\"provided-offset\":25000000}"
        );
        for (refusal, status, name) in [
            (mismatch, 409, "http-problem-types#mismatching-upload-offset"),
            (Refusal::Completed, 400, "http-problem-types#completed-upload"),
            (Refusal::InconsistentLength, 400, "http-problem-types#inconsistent-upload-length"),
            (Refusal::ContentType, 415, "about:blank"),
            (Refusal::Offset, 400, "about:blank"),
            (Refusal::Complete, 400, "about:blank"),
            (Refusal::TooLarge, 413, "about:blank"),
            (Refusal::TooSmall, 400, "about:blank"),
        ] {
            let problem: serde_json::Value = serde_json::from_str(&refusal.problem()).unwrap();
            assert!(problem["type"].as_str().unwrap().ends_with(name), "{problem}");
            assert_eq!(problem["status"], refusal.status().as_u16());
            assert_eq!(refusal.status().as_u16(), status, "{refusal}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn u5_any_fields_are_read_without_a_panic(
            complete in "\\?[01]|\\PC{0,4}",
            number in "-?[0-9]{0,20}|\\PC{0,8}",
            content_length in proptest::option::of(any::<u64>()),
        ) {
            let fields = Fields::from_pairs([
                TYPE, ("Upload-Complete", &*complete), ("Upload-Offset", &*number), ("Upload-Length", &*number),
            ]);
            let _ = Creation::parse(&fields, content_length, &NO_LIMITS);
            if let Ok(append) = Append::parse(&fields, content_length, &NO_LIMITS) {
                prop_assert!(append.length.is_none_or(|len| len >= append.offset));
            }
        }
    }
}
