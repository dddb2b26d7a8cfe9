//! What an upload route stores, where, and under which policy.

use std::path::PathBuf;
use std::time::Duration;

use super::check::{self, check_cors, check_root, named_values};
use crate::limits::Limits;
use crate::proto::cors::{Cors, Sharing};
use crate::proto::media_type;
use crate::proto::pattern::Pattern;

/// A folder that takes uploads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadConfig {
    /// The folder. What is not whole yet lies in `.uploads` in it, or has no name.
    pub dir: PathBuf,
    /// Where stored files are served, as it stands before their names in the replies. Default: the prefix of the media route
    /// that serves the folder, or else the upload route's own.
    pub url: Option<String>,
    /// How files of forms, and uploads that were sent to the route itself, are named. Default: generated (U3).
    pub names: Names,
    /// The names that clients may choose, by pattern; any if there is none. Default: none.
    pub name_patterns: Vec<String>,
    /// The media types that are taken, such as `image/*`, as told from the first bytes, and from the name where that tells one;
    /// any if there is none. Default: none.
    pub types: Vec<String>,
    /// What happens to an upload whose name is taken. Default: reject.
    pub on_conflict: OnConflict,
    /// Whether `DELETE` takes a stored file away. Default: no.
    pub delete: bool,
    /// The origins whose pages may upload, `*` for any; `None` sends no CORS fields (H2). Default: none.
    pub origins: Option<Vec<String>>,
    /// What is on the disk when the reply is sent. Default: the file and its name.
    pub fsync: Fsync,
    /// Whether the digest of each file is made and told, which costs more than storing it does. Default: yes.
    pub sha256: bool,
    /// Whether uploads can be resumed: tus 1.0 and the IETF's draft. Default: yes.
    pub resumable: bool,
    /// How long an upload that is not whole is kept after its last bytes. Default: a day.
    pub resumable_expiry: Duration,
    /// The fields of a form that may hold files; any if there is none. Default: none.
    pub file_fields: Vec<String>,
    /// The most bytes of one file. Default: 64 GiB.
    pub file_len: u64,
    /// The most bytes of all parts of one form. Default: 64 GiB.
    pub total_len: u64,
    /// The most bytes a second that each upload is taken at. Default: no bound.
    pub upload_rate: Option<u64>,
    /// The most bytes that the folder may hold, with all that is beneath it. Default: no bound.
    pub quota: Option<u64>,
}

impl UploadConfig {
    /// This folder, with the defaults.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        UploadConfig {
            dir: dir.into(),
            url: None,
            names: Names::Generated,
            name_patterns: Vec::new(),
            types: Vec::new(),
            on_conflict: OnConflict::Reject,
            delete: false,
            origins: None,
            fsync: Fsync::FileAndDirectory,
            sha256: true,
            resumable: true,
            resumable_expiry: Duration::from_secs(24 * 60 * 60),
            file_fields: Vec::new(),
            file_len: Limits::FORM_LEN,
            total_len: Limits::FORM_LEN,
            upload_rate: None,
            quota: None,
        }
    }

    /// Whether every value can be used.
    ///
    /// # Errors
    /// The first key that can't, and what to write instead.
    pub(crate) fn check(&self) -> Result<(), String> {
        let named = |key: &'static str| move |wrong: String| format!("{key}: {wrong}");
        check_root(&self.dir).map_err(named("dir"))?;
        self.url.as_deref().map_or(Ok(()), check_url).map_err(named("url"))?;
        self.name_patterns.iter().try_for_each(|pattern| check_pattern(pattern)).map_err(named("name_patterns"))?;
        self.types.iter().try_for_each(|pattern| check_type(pattern)).map_err(named("types"))?;
        self.origins.as_deref().map_or(Ok(()), check_cors).map_err(named("origins"))?;
        check_expiry(self.resumable_expiry).map_err(named("resumable_expiry"))?;
        self.upload_rate.map_or(Ok(()), check_upload_rate).map_err(named("upload_rate"))
    }

    /// What the pages of other sites may do here, once [`UploadConfig::check`] has let the origins through.
    pub(crate) fn sharing(&self) -> Option<Cors> {
        check::sharing(self.origins.as_deref(), Sharing::UPLOAD)
    }
}

/// How files are named whose client only suggests a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// At random, with the extension of the client's name: `generated`.
    Generated,
    /// As the client says, if the name is a plain one (U3): `client`.
    Client,
}

/// What happens to an upload whose name is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnConflict {
    /// It is refused with 409: `reject`.
    Reject,
    /// It gets the first free name of `film-2.mp4`, `film-3.mp4` and so on: `rename`.
    Rename,
    /// It takes the place of the old one, in one step: `replace`.
    Replace,
}

/// What is on the disk, beyond what the kernel keeps in memory, when the reply is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// What the kernel has written by itself: `none`.
    None,
    /// The file's content: `file`.
    File,
    /// And its name: `file+dir`.
    FileAndDirectory,
}

named_values!(Names, "way to name files", Generated = "generated", Client = "client");
named_values!(OnConflict, "answer to a name that is taken", Reject = "reject", Rename = "rename", Replace = "replace");
named_values!(Fsync, "way to sync", None = "none", File = "file", FileAndDirectory = "file+dir");

pub(super) fn check_url(url: &str) -> Result<(), String> {
    let is_visible =
        url.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#' | b'"' | b'<' | b'>'));
    let begins = url.starts_with('/') || url.starts_with("https://") || url.starts_with("http://");
    match url {
        _ if !is_visible || !begins || url.starts_with("//") => Err(format!(
            "{url:?} is not what a file's URL begins with: write a path like /media, or https://cdn.example/media"
        )),
        _ => Ok(()),
    }
}

pub(super) fn check_pattern(pattern: &str) -> Result<(), String> {
    Pattern::parse(pattern).map(drop).map_err(|error| error.to_string())
}

pub(super) fn check_type(pattern: &str) -> Result<(), String> {
    media_type::check_pattern(pattern).map_err(|error| error.to_string())
}

pub(super) fn check_expiry(expiry: Duration) -> Result<(), String> {
    let (least, most) = (Duration::from_secs(1), Duration::from_secs(365 * 24 * 60 * 60));
    if (least..=most).contains(&expiry) { Ok(()) } else { Err(String::from("out of bounds: write 1s to 8760h")) }
}

/// Any rate will do: while an upload is not read, its client is not the one that is slow.
pub(super) fn check_upload_rate(rate: u64) -> Result<(), String> {
    if rate > 0 { Ok(()) } else { Err(String::from("nothing would ever come: write at least 1B/s")) }
}
