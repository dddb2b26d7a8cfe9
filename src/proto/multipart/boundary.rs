//! The boundary of a form, from the request's Content-Type (RFC 7578 §4.1, RFC 2046 §5.1.1).

use std::fmt;

use http::StatusCode;

use super::parameters;

/// The longest boundary, in bytes.
const MAX_LEN: usize = 70;

/// What stands between the parts of one form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boundary {
    delimiter: Box<[u8]>,
}

impl Boundary {
    /// The line end, the two hyphens and the boundary: at most 74 bytes, of which only the first is a CR.
    pub fn delimiter(&self) -> &[u8] {
        &self.delimiter
    }
}

/// Why a Content-Type does not introduce a form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BoundaryError {
    /// The type is not `multipart/form-data`.
    MediaType,
    /// The parameters are malformed, or `boundary` is given twice.
    Parameters,
    /// There is no parameter `boundary`.
    Missing,
    /// The boundary is empty, longer than 70 bytes, ends in a space, or has a character that it may not have.
    Boundary,
}

impl BoundaryError {
    /// The name of the error for programs.
    pub fn code(self) -> &'static str {
        match self {
            BoundaryError::MediaType => "UNSUPPORTED_MEDIA_TYPE",
            BoundaryError::Parameters => "MALFORMED_CONTENT_TYPE",
            BoundaryError::Missing => "MISSING_BOUNDARY",
            BoundaryError::Boundary => "MALFORMED_BOUNDARY",
        }
    }

    /// The status to answer with.
    pub fn status(self) -> StatusCode {
        match self {
            BoundaryError::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            BoundaryError::Parameters | BoundaryError::Missing | BoundaryError::Boundary => StatusCode::BAD_REQUEST,
        }
    }
}

impl fmt::Display for BoundaryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BoundaryError::MediaType => "The request's content is no multipart/form-data.",
            BoundaryError::Parameters => "The parameters of the request's Content-Type are malformed.",
            BoundaryError::Missing => "The request's Content-Type has no boundary.",
            BoundaryError::Boundary => "The boundary in the request's Content-Type is malformed.",
        })
    }
}

impl std::error::Error for BoundaryError {}

/// The boundary that a request's Content-Type announces.
///
/// It may stand unquoted also where RFC 9110 would have it quoted, because it has an `=` or a `/`: clients send it so.
///
/// # Errors
/// A [`BoundaryError`].
pub fn boundary(content_type: &[u8]) -> Result<Boundary, BoundaryError> {
    let (media_type, parameters) = parameters::split(content_type);
    if !media_type.eq_ignore_ascii_case(b"multipart/form-data") {
        return Err(BoundaryError::MediaType);
    }
    let value = parameters::unique(parameters, "boundary").map_err(|_| BoundaryError::Parameters)?;
    let value = value.ok_or(BoundaryError::Missing)?;
    if !(1..=MAX_LEN).contains(&value.len()) || value.ends_with(b" ") || !value.iter().copied().all(is_boundary_byte) {
        return Err(BoundaryError::Boundary);
    }
    Ok(Boundary { delimiter: [b"\r\n--", &*value].concat().into_boxed_slice() })
}

/// `bchars` of RFC 2046 §5.1.1. The boundaries of browsers, curl, Java, .NET, Go, Python, Ruby, Dart and Swift have no others.
fn is_boundary_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(content_type: &str, expected: Result<&str, BoundaryError>) {
        let found = boundary(content_type.as_bytes());
        let found = found.as_ref().map(|boundary| str::from_utf8(&boundary.delimiter()[4..]).unwrap());
        assert_eq!(found, expected.as_ref().copied(), "{content_type}");
    }

    #[test]
    fn boundaries_of_real_clients() {
        for sent in [
            "----WebKitFormBoundary7MA4YWxkTrZu0gW",
            "---------------------------9051914041544843365972754266",
            "----geckoformboundary2b1c8a4f",
            "------------------------d74496d66958873e",
            "----=_Part_7_1234567.1700000000000",
            "dart-http-boundary-b.d+8_a",
            "alamofire.boundary.8f1c",
            "xYzZY",
            "a",
        ] {
            check(&format!("multipart/form-data; boundary={sent}"), Ok(sent));
            check(&format!("multipart/form-data; boundary=\"{sent}\""), Ok(sent));
        }
        check("multipart/form-data; boundary=\"'()+_,-./:=? 0\"", Ok("'()+_,-./:=? 0"));
        check("multipart/form-data; boundary='()+_,-./:=?", Ok("'()+_,-./:=?"));
    }

    #[test]
    fn the_rest_of_the_field() {
        check("Multipart/Form-Data;BOUNDARY=aB", Ok("aB"));
        check(" multipart/form-data ; charset=utf-8 ;boundary = \"a\" ;", Ok("a"));
        check("multipart/form-data; boundary=a; boundary=a", Err(BoundaryError::Parameters));
        check("multipart/form-data; boundary=a; charset", Err(BoundaryError::Parameters));
        check("multipart/form-data; boundary=\"a", Err(BoundaryError::Parameters));
        check("multipart/form-data; boundary=a b", Err(BoundaryError::Parameters));
        check("multipart/form-data", Err(BoundaryError::Missing));
        check("multipart/form-data; boundaries=a", Err(BoundaryError::Missing));
        for other in ["", "multipart/mixed; boundary=a", "multipart/form-datax; boundary=a", "form-data; boundary=a"] {
            check(other, Err(BoundaryError::MediaType));
        }
    }

    #[test]
    fn characters_and_length() {
        check(&format!("multipart/form-data; boundary={}", "a".repeat(70)), Ok("a".repeat(70).as_str()));
        for value in [&"a".repeat(71), "", "\"\"", "\"a \"", "\" \"", "a*b", "a!b", "\"a\\\"b\"", "a\u{e9}", "\"a\tb\""]
        {
            check(&format!("multipart/form-data; boundary={value}"), Err(BoundaryError::Boundary));
        }
        assert_eq!(boundary(b"multipart/form-data; boundary=\"a\r\nb\""), Err(BoundaryError::Boundary));
    }

    #[test]
    fn answers() {
        assert_eq!(BoundaryError::MediaType.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
        assert_eq!(BoundaryError::Missing.status(), StatusCode::BAD_REQUEST);
        assert_eq!(BoundaryError::Missing.code(), "MISSING_BOUNDARY");
    }
}
