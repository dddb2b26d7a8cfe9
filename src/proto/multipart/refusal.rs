//! Why a form is refused: a limit that was reached, or bytes that are no form (U1, U2).

use std::fmt;

use http::StatusCode;

/// Why a form was refused. Nothing of it is kept. Each limit comes with its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// More parts than this.
    PartCount(usize),
    /// A file of more bytes than this.
    FileSize(u64),
    /// More files than this.
    FileCount(usize),
    /// The name of a field or a file's field has more bytes than this.
    FieldKey(usize),
    /// A field of more bytes than this.
    FieldValue(usize),
    /// More fields than this.
    FieldCount(usize),
    /// All parts together have more bytes than this.
    TotalSize(u64),
    /// All parts together have more header fields than this.
    HeaderPairs(usize),
    /// The head of a part, or the white space after a boundary, has more bytes than this.
    PartHead(usize),
    /// A file in a field that takes none. Raised by whoever knows the fields.
    UnexpectedFile,
    /// A part without a name.
    MissingFieldName,
    /// The head of a part is malformed.
    Malformed(HeadFault),
    /// A part is encoded in a way that RFC 7578 §4.7 deprecates, which nobody sends over HTTP.
    TransferEncoding,
    /// What follows a boundary is neither the end of the line nor the end of the form.
    Delimiter,
    /// The form does not begin with its boundary, or not within a bound.
    MissingBoundary,
    /// The form ends without its closing boundary.
    Unclosed,
}

/// What is wrong with the head of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadFault {
    /// A line ends in LF without CR.
    BareLineFeed,
    /// A line is not `name: value`; one that continues the line before is not either.
    Field,
    /// A value holds a control byte.
    Value,
    /// Content-Disposition is not `form-data` with parameters, or has one of them twice.
    Disposition,
    /// `filename*` can't be read, and there is no `filename`.
    FileName,
    /// Content-Disposition, Content-Type or Content-Transfer-Encoding is there twice.
    Repeated,
}

impl Refusal {
    /// The name of the refusal for programs.
    pub fn code(self) -> &'static str {
        match self {
            Refusal::PartCount(_) => "LIMIT_PART_COUNT",
            Refusal::FileSize(_) => "LIMIT_FILE_SIZE",
            Refusal::FileCount(_) => "LIMIT_FILE_COUNT",
            Refusal::FieldKey(_) => "LIMIT_FIELD_KEY",
            Refusal::FieldValue(_) => "LIMIT_FIELD_VALUE",
            Refusal::FieldCount(_) => "LIMIT_FIELD_COUNT",
            Refusal::TotalSize(_) => "LIMIT_TOTAL_SIZE",
            Refusal::HeaderPairs(_) => "LIMIT_HEADER_PAIRS",
            Refusal::PartHead(_) => "LIMIT_PART_HEAD",
            Refusal::UnexpectedFile => "LIMIT_UNEXPECTED_FILE",
            Refusal::MissingFieldName => "MISSING_FIELD_NAME",
            Refusal::Malformed(_) => "MALFORMED_PART_HEAD",
            Refusal::TransferEncoding => "UNSUPPORTED_TRANSFER_ENCODING",
            Refusal::Delimiter => "MALFORMED_DELIMITER",
            Refusal::MissingBoundary => "MISSING_BOUNDARY",
            Refusal::Unclosed => "UNCLOSED",
        }
    }

    /// The status to answer with: 413 for a limit, 400 for what is no form (U2).
    pub fn status(self) -> StatusCode {
        match self {
            Refusal::PartCount(_)
            | Refusal::FileSize(_)
            | Refusal::FileCount(_)
            | Refusal::FieldKey(_)
            | Refusal::FieldValue(_)
            | Refusal::FieldCount(_)
            | Refusal::TotalSize(_)
            | Refusal::HeaderPairs(_)
            | Refusal::PartHead(_)
            | Refusal::UnexpectedFile => StatusCode::PAYLOAD_TOO_LARGE,
            Refusal::MissingFieldName
            | Refusal::Malformed(_)
            | Refusal::TransferEncoding
            | Refusal::Delimiter
            | Refusal::MissingBoundary
            | Refusal::Unclosed => StatusCode::BAD_REQUEST,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::PartCount(limit) => write!(f, "The form has more than {limit} parts."),
            Refusal::FileSize(limit) => write!(f, "A file of the form is longer than {limit} bytes."),
            Refusal::FileCount(limit) => write!(f, "The form has more than {limit} files."),
            Refusal::FieldKey(limit) => write!(f, "The name of a field is longer than {limit} bytes."),
            Refusal::FieldValue(limit) => write!(f, "The value of a field is longer than {limit} bytes."),
            Refusal::FieldCount(limit) => write!(f, "The form has more than {limit} fields."),
            Refusal::TotalSize(limit) => write!(f, "The parts of the form are longer than {limit} bytes together."),
            Refusal::HeaderPairs(limit) => write!(f, "The parts of the form have more than {limit} header fields."),
            Refusal::PartHead(limit) => write!(f, "The head of a part is longer than {limit} bytes."),
            Refusal::UnexpectedFile => f.write_str("The form has a file in a field that takes none."),
            Refusal::MissingFieldName => f.write_str("A part of the form has no name."),
            Refusal::Malformed(fault) => fault.fmt(f),
            Refusal::TransferEncoding => {
                f.write_str("A part is encoded as base64 or quoted-printable; send its bytes as they are.")
            }
            Refusal::Delimiter => f.write_str("A boundary is followed by something else than the end of the line."),
            Refusal::MissingBoundary => f.write_str("The form does not begin with its boundary."),
            Refusal::Unclosed => f.write_str("The form ends without its closing boundary."),
        }
    }
}

impl std::error::Error for Refusal {}

impl fmt::Display for HeadFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HeadFault::BareLineFeed => "A line in the head of a part does not end in CR LF.",
            HeadFault::Field => "A header field of a part is malformed.",
            HeadFault::Value => "The value of a part's header field is malformed.",
            HeadFault::Disposition => "The Content-Disposition of a part is malformed.",
            HeadFault::FileName => "The file name of a part can't be read.",
            HeadFault::Repeated => "A header field of a part is repeated.",
        })
    }
}
