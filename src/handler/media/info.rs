//! What `?info` tells of a file, for pages that list it: `{"name", "size", "type", "modified", "duration"}`.
//!
//! `duration` is in seconds, null where the file does not tell or is no media; `modified` is in UTC (RFC 3339). All of it is of one
//! version of the file.

use std::io;

use serde_json::json;

use super::listing::Utc;
use super::open_files::OpenFile;
use crate::http::Worker;

/// The JSON of an open file at this path, with this type.
///
/// # Errors
/// The disk's.
pub async fn of(worker: &Worker, file: &OpenFile, path: &[u8], content_type: &str) -> io::Result<String> {
    let stat = file.file.stat()?;
    file.play_time.tell(worker, &file.file, &stat).await?;
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let modified = u64::try_from(stat.modified_ns / 1_000_000_000).unwrap_or(0);
    Ok(json!({
        "name": String::from_utf8_lossy(name),
        "size": stat.len,
        "type": content_type,
        "modified": Utc(modified).to_string(),
        "duration": file.play_time.told_of(&stat).map(|duration| duration.as_secs_f64()),
    })
    .to_string())
}
