//! What is said of stored files, as JSON.

use std::borrow::Cow;
use std::fmt;
use std::io;

use serde::Serialize;

/// A file that was stored.
#[derive(Debug, Serialize)]
pub(super) struct Stored {
    /// The form's field that it came in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Its name in the folder, with the directory beneath it.
    pub name: String,
    /// Where it is served.
    pub url: String,
    /// Its length in bytes.
    pub size: u64,
    /// What it is, by its first bytes.
    #[serde(rename = "type")]
    pub media_type: Cow<'static, str>,
    /// The digest of its bytes, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// What the client called it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_name: Option<String>,
}

/// A text field of a form.
#[derive(Debug, Serialize)]
pub(super) struct TextField {
    /// Its name.
    pub name: String,
    /// What it holds; bytes that are not UTF-8 are replaced.
    pub value: String,
}

/// What an upload is answered with.
#[derive(Debug, Serialize)]
pub(super) struct Receipt {
    /// The files, in the order in which they came.
    pub files: Vec<Stored>,
    /// The text fields, in the order in which they came; a name may stand more than once.
    pub fields: Vec<TextField>,
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        serde_json::to_writer(Written(f), self).map_err(|_| fmt::Error)
    }
}

/// A formatter as a place for bytes, which are UTF-8 in whole characters.
struct Written<'a, 'f>(&'a mut fmt::Formatter<'f>);

impl io::Write for Written<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = std::str::from_utf8(bytes).map_err(io::Error::other)?;
        self.0.write_str(text).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
