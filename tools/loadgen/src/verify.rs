//! Comparing what came with what should have come, byte by byte.
//!
//! The rule is Fibonacci hashing of the offset: neighbours differ, and so do bytes that lie a page, a chunk or 4 GiB apart, so a
//! reply that was shifted, repeated or mixed with another can't pass.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The byte at `offset` of every file that follows the rule.
pub fn rule(offset: u64) -> u8 {
    (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// Writes a file of `len` bytes by the rule.
///
/// # Errors
/// The file can't be made or written.
pub fn write_fixture(path: &Path, len: u64) -> io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    for offset in 0..len {
        file.write_all(&[rule(offset)])?;
    }
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

/// Where the expected bytes come from.
#[derive(Debug)]
pub enum Verifier {
    /// Nothing is compared; bodies are discarded in the kernel.
    Off,
    /// Every file follows [`rule`].
    Rule,
    /// Every path has its local copy.
    Copies(Copies),
}

/// Local copies of the served files, opened when they are first needed.
#[derive(Debug)]
pub struct Copies {
    root: PathBuf,
    files: HashMap<usize, File>,
    expected: Vec<u8>,
}

impl Verifier {
    /// Compares with the files under `root`.
    pub fn with_copies(root: PathBuf) -> Self {
        Verifier::Copies(Copies { root, files: HashMap::new(), expected: Vec::new() })
    }

    /// Whether bodies have to be read at all.
    pub fn is_off(&self) -> bool {
        matches!(self, Verifier::Off)
    }

    /// Whether `bytes` are what the file number `target`, served at `path`, holds at `offset`. A copy that can't be read or
    /// is too short differs.
    pub fn agrees(&mut self, target: usize, path: &str, offset: u64, bytes: &[u8]) -> bool {
        match self {
            Verifier::Off => true,
            Verifier::Rule => bytes.iter().zip(offset..).all(|(&byte, at)| byte == rule(at)),
            Verifier::Copies(copies) => copies.agree(target, path, offset, bytes).unwrap_or(false),
        }
    }
}

impl Copies {
    fn agree(&mut self, target: usize, path: &str, offset: u64, bytes: &[u8]) -> io::Result<bool> {
        let file = match self.files.entry(target) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => entry.insert(File::open(local_path(&self.root, path))?),
        };
        self.expected.resize(bytes.len(), 0);
        file.read_exact_at(&mut self.expected, offset)?;
        Ok(self.expected == bytes)
    }
}

/// The copy of `path` (its query cut off) under `root`.
pub fn local_path(root: &Path, path: &str) -> PathBuf {
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    root.join(path.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_tells_shifted_bytes_apart() {
        for shift in [1, 16, 512, 4096, 65_535, 65_536, 262_144, 1 << 20, 1 << 32] {
            let same = (0..4096).filter(|&at| rule(at) == rule(at + shift)).count();
            assert!(same < 512, "{same} of 4096 bytes agree at a shift of {shift}");
        }
    }

    #[test]
    fn a_fixture_follows_the_rule_and_a_flipped_byte_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        write_fixture(&dir.path().join("f"), 10_000).unwrap();
        let mut bytes = std::fs::read(dir.path().join("f")).unwrap();
        assert_eq!(bytes.len(), 10_000);
        for mut verifier in [Verifier::Rule, Verifier::with_copies(dir.path().to_owned())] {
            assert!(verifier.agrees(0, "/f?v=1", 0, &bytes));
            assert!(verifier.agrees(0, "/f?v=1", 9_000, &bytes[9_000..]));
            assert!(!verifier.agrees(0, "/f?v=1", 9_001, &bytes[9_000..9_999]));
            bytes[5_000] ^= 1;
            assert!(!verifier.agrees(0, "/f?v=1", 0, &bytes));
            bytes[5_000] ^= 1;
        }
    }

    #[test]
    fn a_copy_that_is_missing_or_short_differs() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("short"), b"abc").unwrap();
        let mut verifier = Verifier::with_copies(dir.path().to_owned());
        assert!(!verifier.agrees(0, "/none", 0, b"abc"));
        assert!(!verifier.agrees(1, "/short", 0, b"abcd"));
        assert!(verifier.agrees(1, "/short", 0, b"abc"));
    }
}
