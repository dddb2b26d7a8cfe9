//! What is known of an upload, on the disk beside its bytes: it survives the process, whatever ends that.
//!
//! A record is written anew and moved over the old one, so that there is always a whole one. It never says more than what the
//! kernel has of the bytes: bytes behind its offset may be there too, or parts of them, and are written again. So what was told
//! to a client is there after a crash, and writes may be under way in any order. The digest's state stands in it, or each
//! resumption would have to read the whole file.

use std::io;
use std::rc::Rc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use sha2::digest::common::hazmat::SerializableState;

use crate::config::Fsync;
use crate::driver::op::{Taken, WriteFrom};
use crate::http::Worker;
use crate::limits::Limits;
use crate::rt::fs::File;

/// What is known of an upload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct Record {
    /// How many bytes there are.
    pub offset: u64,
    /// How many there will be.
    pub length: Option<u64>,
    /// The state of the digest over them, if one is made.
    pub digest: Option<String>,
    /// The directory beneath the folder that the file is for.
    pub directory: String,
    /// The name that the file gets, once it is decided.
    pub name: Option<String>,
    /// Whether it may not take the place of another file, whatever the route does.
    #[serde(default)]
    pub only_new: bool,
    /// What the client calls it.
    pub file_name: Option<String>,
    /// What else the client says of it (tus).
    pub metadata: Option<String>,
    /// Its part in a concatenation (tus).
    pub concat: Option<String>,
    /// The file, when it is in its place.
    pub stored: Option<Placed>,
}

/// A file that is in its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct Placed {
    /// Its path beneath the folder.
    pub path: String,
    /// Its digest in hexadecimal.
    pub sha256: Option<String>,
    /// What it is, by its first bytes.
    pub media_type: String,
}

impl Record {
    /// Whether all bytes have come.
    pub fn is_whole(&self) -> bool {
        self.length == Some(self.offset)
    }

    /// Whether it is a piece of another upload, and no file of its own.
    pub fn is_partial(&self) -> bool {
        self.concat.as_deref() == Some("partial")
    }

    /// The digest of the bytes that are there; `None` if there is none, or it was written by a program that counts otherwise.
    pub fn hash(&self) -> Option<Sha256> {
        let state = STANDARD.decode(self.digest.as_ref()?).ok()?;
        Sha256::deserialize(state.as_slice().try_into().ok()?).ok()
    }

    /// So many bytes are there now, with this digest.
    pub fn advance(&mut self, offset: u64, hash: Option<&Sha256>) {
        self.offset = offset;
        self.digest = hash.map(|hash| STANDARD.encode(hash.serialize()));
    }

    /// Reads the record of an upload, and when it was written, in nanoseconds since 1970.
    ///
    /// # Errors
    /// `NotFound` when there is none; `InvalidData` or `UnexpectedEof` when it means nothing.
    pub async fn load(worker: &Worker, store: &File, id: &str) -> io::Result<(Self, i64)> {
        let file = store.open_beneath(record_name(id).as_bytes()).await?;
        let mut text = Vec::new();
        loop {
            let buf = worker.runtime.transfer_pool().acquire().await;
            let (read, buf) = file.read(text.len() as u64, buf.spare_len(), buf).await;
            if read? == 0 {
                break;
            }
            if text.len() + buf.len() > Limits::UPLOAD_RECORD_LEN {
                return Err(io::ErrorKind::InvalidData.into());
            }
            text.extend_from_slice(&buf);
        }
        let record: Record = serde_json::from_slice(&text)?;
        if record.length.is_some_and(|length| length < record.offset) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its offset is behind its end"));
        }
        Ok((record, file.stat()?.modified_ns))
    }

    /// Writes the record of an upload, in place of the one that is there.
    pub async fn save(&self, store: &File, id: &str, fsync: Fsync) -> io::Result<()> {
        let interim = format!("{id}.new");
        let file = match store.create(interim.as_bytes()).await {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Left behind by a crash; whoever holds the upload is alone with it.
                store.unlink(interim.as_bytes()).await?;
                store.create(interim.as_bytes()).await?
            }
            result => result?,
        };
        let file = Rc::new(file);
        let written = file.write(0, WriteFrom::Bytes(serde_json::to_vec(self)?.into())).await;
        if let Err(error) = written {
            store.forget(interim.as_bytes());
            return Err(error);
        }
        if fsync != Fsync::None {
            file.sync().await?;
        }
        let name = record_name(id);
        store.rename(interim.as_bytes(), store, name.as_bytes(), Taken::Replace).await?;
        if fsync == Fsync::FileAndDirectory { store.sync().await } else { Ok(()) }
    }
}

/// The name of an upload's record in the store.
pub(super) fn record_name(id: &str) -> String {
    format!("{id}.json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::Digest;

    #[test]
    fn a_digest_goes_on_from_its_record_at_every_offset() {
        let bytes: Vec<u8> = (0..200_u8).collect();
        let whole = Sha256::digest(&bytes);
        for at in 0..bytes.len() {
            let mut hash = Sha256::new_with_prefix(&bytes[..at]);
            let mut record = Record::default();
            record.advance(at as u64, Some(&hash));
            let text = serde_json::to_string(&record).unwrap();
            let record: Record = serde_json::from_str(&text).unwrap();
            hash = record.hash().expect("a state of our own");
            hash.update(&bytes[at..]);
            assert_eq!((record.offset, hash.finalize()), (at as u64, whole));
        }
    }

    #[test]
    fn a_state_that_is_none_is_seen() {
        for digest in ["", "no base64!", "AAAA"] {
            assert!(Record { digest: Some(digest.into()), ..Record::default() }.hash().is_none(), "{digest}");
        }
    }
}
