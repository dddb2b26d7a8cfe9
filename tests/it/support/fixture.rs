//! A folder of files whose every byte is known from its offset.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A folder that goes away with the test.
pub struct Fixture(TempDir);

impl Fixture {
    /// An empty folder.
    pub fn new() -> Self {
        Fixture(TempDir::new().expect("a temporary directory"))
    }

    /// A folder with these files, each of this length.
    pub fn with(files: &[(&str, u64)]) -> Self {
        let fixture = Fixture::new();
        for (name, len) in files {
            fixture.file(name, *len);
        }
        fixture
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The path of something in the folder.
    pub fn at(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Adds a file of this length, made of [`byte_at`]; folders above it are made.
    pub fn file(&self, name: &str, len: u64) -> PathBuf {
        self.text(name, bytes_at(0, usize::try_from(len).expect("a length that fits in memory")))
    }

    /// Adds a file with this content.
    pub fn text(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.at(name);
        fs::create_dir_all(path.parent().expect("a file has a folder")).expect("a folder");
        fs::write(&path, content).expect("a file");
        path
    }

    /// Adds a file of this length that is nothing but holes, except for these spans, which are made of [`byte_at`].
    pub fn sparse(&self, name: &str, len: u64, spans: &[(u64, usize)]) -> PathBuf {
        let path = self.text(name, "");
        let mut file = fs::OpenOptions::new().write(true).open(&path).expect("the file just made");
        file.set_len(len).expect("a sparse file");
        for (offset, len) in spans {
            file.seek(SeekFrom::Start(*offset)).expect("a seek");
            file.write_all(&bytes_at(*offset, *len)).expect("a span");
        }
        path
    }
}

/// What stands at this offset of a fixture's file. Neighbouring bytes, pages and blocks all differ, so that bytes that are
/// shifted or mixed are seen, and no byte is zero, so that padding and holes are.
pub fn byte_at(offset: u64) -> u8 {
    let mixed = (offset ^ (offset >> 17)).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed >> 56) as u8).max(1)
}

/// What stands from this offset on.
pub fn bytes_at(offset: u64, len: usize) -> Vec<u8> {
    (offset..offset + len as u64).map(byte_at).collect()
}

/// Fails the test at the first byte that is not the one at its offset.
#[track_caller]
pub fn check_bytes(offset: u64, bytes: &[u8]) {
    let wrong = bytes.iter().zip(offset..).find(|&(byte, at)| *byte != byte_at(at));
    if let Some((byte, at)) = wrong {
        panic!("byte {byte:#04x} at offset {at}, expected {:#04x}", byte_at(at));
    }
}
