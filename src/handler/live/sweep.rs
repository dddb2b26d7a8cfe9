//! Gives what a killed process left behind a name that says that it is not whole.
//!
//! It is looked for when the folder begins to be served, on a thread of its own: looking blocks. What a running process has is
//! locked. What is empty may be a file that a running process has just made and not locked yet; it is taken away when it is old
//! enough not to be. The kernel lets go of what a killed process had only some time after it is gone, so where something is held
//! or young there is another look or two, and then it is left to the next start.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, OpenHow, RenameFlags, ResolveFlag, openat2, renameat2};

use super::store::STORE;
use crate::limits::Limits;
use crate::proto::pattern::Pattern;
use crate::proto::upload_name;

/// From this age on, an empty file is nobody's.
const EMPTY_FOR: Duration = Duration::from_secs(60);

/// How long after one look there is another, while something is left.
const LOOK_AGAIN: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(5), Duration::from_secs(70)];

/// Begins to look. `whole` are the paths of what is of no use when it is not whole.
///
/// # Errors
/// When no thread can be started.
pub(super) fn start(folder: &Path, whole: Vec<Pattern>) -> io::Result<()> {
    let folder = folder.to_owned();
    let sweeping = thread::Builder::new().name(String::from("live-sweep")).spawn(move || {
        for again in LOOK_AGAIN.map(Some).into_iter().chain([None]) {
            match (sweep(&folder, &whole), again) {
                (Ok(Swept::Some), Some(again)) => thread::sleep(again),
                (Err(error), _) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(%error, folder = %folder.display(), "what encoders have left behind can't be looked for");
                    return;
                }
                _ => return,
            }
        }
    });
    sweeping.map(drop)
}

/// How much of what was left has its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Swept {
    All,
    Some,
}

/// Marks all that was left in a folder's store.
fn sweep(folder: &Path, whole: &[Pattern]) -> io::Result<Swept> {
    let root = File::open(folder)?;
    let store = folder.join(STORE);
    let mut swept = Swept::All;
    if !store.symlink_metadata()?.is_dir() {
        return Ok(swept);
    }
    let mut directories = vec![PathBuf::new()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(store.join(&directory))? {
            let entry = entry?;
            let path = directory.join(entry.file_name());
            // What is gone by now is gone.
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() && path.components().count() <= Limits::LIVE_DEPTH {
                directories.push(path);
            } else if metadata.is_file() {
                let age = metadata.modified().ok().and_then(|modified| modified.elapsed().ok()).unwrap_or_default();
                let left = Left { path: &path, is_empty: metadata.len() == 0 };
                if left.is_empty && age < EMPTY_FOR {
                    swept = Swept::Some;
                    continue;
                }
                match left.settle(root.as_fd(), &store, whole) {
                    Ok(Swept::All) => {}
                    Ok(Swept::Some) => swept = Swept::Some,
                    Err(error) => {
                        tracing::warn!(%error, path = %path.display(), "what an encoder left behind can't be given a name");
                    }
                }
            }
        }
    }
    Ok(swept)
}

/// A file in the store.
struct Left<'a> {
    /// Its path in the store.
    path: &'a Path,
    is_empty: bool,
}

impl Left<'_> {
    /// Gives it its name, or takes it away if it is of no use; not while somebody has it.
    fn settle(&self, root: BorrowedFd<'_>, store: &Path, whole: &[Pattern]) -> io::Result<Swept> {
        let file = File::open(store.join(self.path))?;
        let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else { return Ok(Swept::Some) };
        let name = self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some((name, _random)) = name.rsplit_once('.') else { return Ok(Swept::All) };
        let directory = self.path.parent().unwrap_or(Path::new(""));
        let path = directory.join(name);
        let is_of_use = !whole.iter().any(|pattern| pattern.matches(path.as_os_str().as_encoded_bytes()));
        if self.is_empty || !is_of_use {
            fs::remove_file(store.join(self.path))?;
            return Ok(Swept::All);
        }
        let given = give_name(root, self.path, directory, name)?;
        tracing::warn!(path = %directory.join(given).display(), "an encoder was cut off: what came is kept");
        drop(lock);
        Ok(Swept::All)
    }
}

/// Moves a file from the store to its directory, which is there: it was made before the file.
fn give_name(root: BorrowedFd<'_>, left: &Path, directory: &Path, name: &str) -> io::Result<String> {
    let from = open_beneath(root, STORE.as_ref())?;
    let to = open_beneath(root, directory)?;
    let first = upload_name::incomplete(name);
    let names = (2..=Limits::UPLOAD_NAMES).map(|n| upload_name::numbered(&first, n));
    for name in std::iter::once(first.clone()).chain(names) {
        match renameat2(&from, left, &to, name.as_str(), RenameFlags::RENAME_NOREPLACE) {
            Err(Errno::EEXIST) => {}
            result => return result.map(|()| name).map_err(io::Error::from),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn open_beneath(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root, path, how).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    fn folder(files: &[(&str, &str, u64)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, content, age) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
            let file = File::options().write(true).open(&path).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(*age)).unwrap();
        }
        folder
    }

    fn files(folder: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let mut directories = vec![folder.to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                } else {
                    found.push(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        found.sort();
        found
    }

    fn whole() -> Vec<Pattern> {
        vec![Pattern::parse("*.m3u8").unwrap()]
    }

    #[test]
    fn what_was_left_gets_a_name_that_says_so_and_what_is_of_no_use_goes() {
        let folder = folder(&[
            (".live/film.mp4.0a", "film", 0),
            (".live/show/1.ts.0b", "part", 0),
            (".live/show/live.m3u8.0c", "half a playlist", 0),
            (".live/old.0d", "", 100),
            (".live/new.0e", "", 0),
            ("film.incomplete.mp4", "another", 0),
            ("show/0.ts", "whole", 0),
        ]);
        assert_eq!(sweep(folder.path(), &whole()).unwrap(), Swept::Some);
        let expected =
            [".live/new.0e", "film.incomplete-2.mp4", "film.incomplete.mp4", "show/0.ts", "show/1.incomplete.ts"];
        assert_eq!(files(folder.path()), expected);
        assert_eq!(fs::read(folder.path().join("film.incomplete-2.mp4")).unwrap(), b"film");
    }

    #[test]
    fn what_is_held_is_left_alone_and_nothing_leaves_the_folder() {
        let folder = folder(&[(".live/film.mp4.0a", "film", 0), (".live/away/film.mp4.0b", "film", 0)]);
        let outside = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), folder.path().join("away")).unwrap();
        let file = File::open(folder.path().join(".live/film.mp4.0a")).unwrap();
        let held = Flock::lock(file, FlockArg::LockExclusive).unwrap();
        sweep(folder.path(), &whole()).unwrap();
        assert!(
            folder.path().join(".live/film.mp4.0a").exists() && folder.path().join(".live/away/film.mp4.0b").exists()
        );
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        drop(held);
        assert_eq!(sweep(folder.path(), &whole()).unwrap(), Swept::All);
        assert!(folder.path().join("film.incomplete.mp4").exists());
    }
}
