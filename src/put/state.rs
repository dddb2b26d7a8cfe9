//! What the next run has to know to go on with an upload: one small file for each, in the user's state folder.
//!
//! Its name is a hash of what makes two uploads the same: the URL without its query, which may be a signature for an hour,
//! the name there, and the file's path, size and time of change. It is written whole before the first byte is sent and taken
//! away when the server has the file, so whatever ends the program leaves what the next run needs.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::url::Url;

/// The place for one upload's state.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    /// The uploaded file and the URL, for people who look into it.
    file: PathBuf,
    base: Url,
    written: Option<Url>,
}

impl StateFile {
    /// The state of the upload of this file to this place. `file` is its whole path.
    pub fn new(folder: &Path, base: &Url, name: &[u8], file: &Path, metadata: &fs::Metadata) -> Self {
        let base = base.bare();
        let mut key = Sha256::new();
        let time = format!("{} {} {}", metadata.len(), metadata.mtime(), metadata.mtime_nsec());
        for part in [base.to_string().as_bytes(), name, file.as_os_str().as_encoded_bytes(), time.as_bytes()] {
            key.update((part.len() as u64).to_le_bytes());
            key.update(part);
        }
        let name = key.finalize()[..16].iter().fold(String::new(), |name, byte| format!("{name}{byte:02x}"));
        StateFile { path: folder.join(format!("{name}.json")), file: file.to_owned(), base, written: None }
    }

    /// The upload that an earlier run has left. What can't be read is as good as none.
    pub fn read(&mut self) -> Option<Url> {
        let json: Value = serde_json::from_slice(&fs::read(&self.path).ok()?).ok()?;
        self.written = json["upload"].as_str().and_then(|url| Url::parse(url).ok());
        self.written.clone()
    }

    /// Keeps this upload for the next run, or nothing.
    ///
    /// # Errors
    /// The disk's.
    pub fn keep(&mut self, resource: Option<&Url>) -> io::Result<()> {
        if self.written.as_ref() == resource {
            return Ok(());
        }
        match resource {
            None => fs::remove_file(&self.path).or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            })?,
            Some(url) => self.write(url)?,
        }
        self.written = resource.cloned();
        Ok(())
    }

    fn write(&self, url: &Url) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let text = json!({
            "upload": url.to_string(),
            "file": self.file.to_string_lossy(),
            "url": self.base.to_string(),
        });
        let draft = self.path.with_extension(format!("{}.new", std::process::id()));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(format!("{text}\n").as_bytes())?;
        fs::rename(&draft, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn what_is_kept_is_read_by_the_next_run_until_it_is_taken_away() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.mp4");
        fs::write(&file, "abc").unwrap();
        let metadata = fs::metadata(&file).unwrap();
        let folder = dir.path().join("state/highwater");
        let of = |base: &str, name: &[u8]| StateFile::new(&folder, &url(base), name, &file, &metadata);

        let mut first = of("http://a/in/?expires=1", b"a.mp4");
        assert_eq!(first.read(), None);
        first.keep(None).unwrap();
        assert!(!folder.exists(), "nothing is made for nothing");
        first.keep(Some(&url("http://a/in/.uploads/1"))).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(&first.path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);

        assert_eq!(of("http://a/in/", b"b.mp4").read(), None);
        assert_eq!(of("http://a/other/", b"a.mp4").read(), None);
        let mut next = of("http://a/in/?expires=2", b"a.mp4");
        assert_eq!(next.read(), Some(url("http://a/in/.uploads/1")));
        next.keep(None).unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    }

    #[test]
    fn a_file_that_has_changed_is_another_one_and_a_broken_state_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.mp4");
        fs::write(&file, "abc").unwrap();
        let of = || StateFile::new(dir.path(), &url("http://a/"), b"a", &file, &fs::metadata(&file).unwrap());
        of().keep(Some(&url("http://a/1"))).unwrap();
        assert!(of().read().is_some());
        fs::write(of().path, "{\"upload\":").unwrap();
        assert_eq!(of().read(), None);
        of().keep(Some(&url("http://a/1"))).unwrap();
        fs::write(&file, "abcd").unwrap();
        assert_eq!(of().read(), None);
    }
}
