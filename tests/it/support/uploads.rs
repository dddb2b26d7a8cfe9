//! A folder for uploads and what lies in it.

use std::fs;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Fixture, Launch, Reply, Server, byte_at};

/// A folder for uploads, which outlives the servers in front of it.
pub struct Uploads(Fixture);

impl Uploads {
    /// An empty one.
    pub fn new() -> Self {
        Uploads(Fixture::new())
    }

    /// A server that takes uploads into it at `/up`, with these keys, each on a line of its own.
    #[track_caller]
    pub fn serve(&self, keys: &str) -> Server {
        self.launch(keys).start()
    }

    /// The same, not started yet.
    pub fn launch(&self, keys: &str) -> Launch {
        let dir = self.0.path().display();
        Launch::routes().config(&format!("[[route]]\nprefix = \"/up\"\n[route.upload]\ndir = \"{dir}\"\n{keys}"))
    }

    /// The path of something in it.
    pub fn at(&self, name: &str) -> PathBuf {
        self.0.at(name)
    }

    /// The files that can be seen, in order.
    pub fn files(&self) -> Vec<String> {
        names(&self.0.path().to_path_buf()).into_iter().filter(|name| name != ".uploads").collect()
    }

    /// What lies in the store of unfinished uploads, in order.
    pub fn store(&self) -> Vec<String> {
        names(&self.at(".uploads"))
    }

    /// The bytes of an unfinished upload.
    pub fn part(&self, location: &str) -> PathBuf {
        self.at(".uploads").join(id_of(location))
    }

    /// How many bytes the disk has of an unfinished upload; the last of them may not have been acknowledged.
    pub fn part_len(&self, location: &str) -> u64 {
        fs::metadata(self.part(location)).map_or(0, |metadata| metadata.len())
    }

    /// What is written down of an upload.
    #[track_caller]
    pub fn record(&self, location: &str) -> Value {
        let text = fs::read(self.record_path(location)).expect("a record");
        serde_json::from_slice(&text).expect("a record of JSON")
    }

    /// Changes what is written down of an upload.
    #[track_caller]
    pub fn edit_record(&self, location: &str, edit: impl FnOnce(&mut Value)) {
        let mut record = self.record(location);
        edit(&mut record);
        fs::write(self.record_path(location), record.to_string()).expect("another record");
    }

    /// The file in which it is written down.
    pub fn record_path(&self, location: &str) -> PathBuf {
        self.part(location).with_extension("json")
    }

    /// Fails the test unless the reply tells where a file of the rule's first `len` bytes lies, with its digest, and it does.
    /// Returns its name.
    #[track_caller]
    pub fn check_stored(&self, reply: &Reply, len: u64) -> String {
        let location = reply.field("Content-Location").expect("a place");
        let name = location.strip_prefix("/up/").expect("a place in the folder");
        let bytes = fs::read(self.at(name)).expect("the file");
        assert_eq!(bytes.len() as u64, len, "the length of {name}");
        super::check_bytes(0, &bytes);
        assert_eq!(reply.field("Repr-Digest"), Some(&*digest_field(&bytes)));
        name.to_owned()
    }
}

/// The value of Repr-Digest for these bytes (RFC 9530).
pub fn digest_field(bytes: &[u8]) -> String {
    format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(bytes)))
}

/// The number in an upload's address.
#[track_caller]
pub fn id_of(location: &str) -> &str {
    location.rsplit_once("/.uploads/").expect("an upload's address").1
}

/// Bytes that differ from the fixture's at each offset, and are not zero either.
pub fn other_bytes_at(offset: u64, len: usize) -> Vec<u8> {
    (offset..offset + len as u64).map(|at| if byte_at(at) == 255 { 1 } else { byte_at(at) + 1 }).collect()
}

fn names(directory: &PathBuf) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name of text")).collect();
    names.sort();
    names
}
