//! Takes away what nobody goes on with, also what an earlier process left behind.
//!
//! One thread for each folder looks now and then: looking blocks, and would keep an offload thread from listings that somebody
//! waits for. Whatever is in the store has been written to, or asked for, at the time that it shows; what is held is locked, by
//! whichever process.

use std::fs::{File, Metadata};
use std::io;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::thread::{self, Thread};
use std::time::{Duration, SystemTime};

use nix::fcntl::{Flock, FlockArg};

use super::super::Shared;
use super::record::record_name;
use crate::http::STORE;

/// The longest time between two looks.
const MOST_BETWEEN: Duration = Duration::from_secs(10 * 60);
/// The shortest.
const LEAST_BETWEEN: Duration = Duration::from_millis(500);

/// Sweeps the folder until its route is gone; the thread is to be unparked then.
///
/// # Errors
/// When no thread can be started.
pub(in super::super) fn start(shared: &Arc<Shared>) -> io::Result<Thread> {
    let between = (shared.config.resumable_expiry / 4).clamp(LEAST_BETWEEN, MOST_BETWEEN);
    let shared = Arc::downgrade(shared);
    let sweeping = thread::Builder::new().name(String::from("sweep")).spawn(move || {
        while let Some(shared) = Weak::upgrade(&shared) {
            look(&shared);
            drop(shared);
            thread::park_timeout(between);
        }
    })?;
    Ok(sweeping.thread().clone())
}

fn look(shared: &Shared) {
    let folder = &shared.config.dir;
    match sweep(&folder.join(STORE), shared.config.resumable_expiry) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(%error, folder = %folder.display(), "left-over uploads can't be swept"),
    }
    if let Some(Err(error)) = shared.quota.as_ref().map(|quota| quota.count_again(folder)) {
        tracing::warn!(%error, folder = %folder.display(), "what the folder holds can't be counted");
    }
}

/// Removes what has not changed for this long from a store, and what belongs to it.
fn sweep(store: &Path, expiry: Duration) -> io::Result<()> {
    let now = SystemTime::now();
    let is_old = |metadata: &Metadata| {
        metadata.modified().is_ok_and(|modified| now.duration_since(modified).is_ok_and(|age| age > expiry))
    };
    for entry in std::fs::read_dir(store)? {
        let path = entry?.path();
        // What is gone by now is gone.
        let Ok(metadata) = path.symlink_metadata() else { continue };
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !metadata.is_file() || !is_old(&metadata) {
            continue;
        }
        let id = name.split('.').next().unwrap_or_default();
        let (bytes, record) = (store.join(id), store.join(record_name(id)));
        let others = [&bytes, &record].into_iter().filter_map(|path| path.symlink_metadata().ok());
        if others.into_iter().all(|metadata| is_old(&metadata)) {
            remove_unless_held(&path, &bytes)?;
        }
    }
    Ok(())
}

/// Removes a file of an upload, unless a request has the upload for itself; none can take it meanwhile.
fn remove_unless_held(path: &Path, bytes: &Path) -> io::Result<()> {
    let lock = match File::open(bytes) {
        Ok(file) => match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Some(lock),
            Err(_) => return Ok(()),
        },
        // Without its bytes, nobody goes on with it.
        Err(_) => None,
    };
    std::fs::remove_file(path)?;
    drop(lock);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(files: &[(&str, u64)]) -> tempfile::TempDir {
        let store = tempfile::tempdir().unwrap();
        for (name, age) in files {
            let file = File::create(store.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(*age)).unwrap();
        }
        store
    }

    fn left(store: &tempfile::TempDir) -> Vec<String> {
        let names = std::fs::read_dir(store.path()).unwrap();
        let mut names: Vec<String> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_nobody_goes_on_with_is_swept_with_all_that_belongs_to_it() {
        let store = store(&[
            ("old", 100),
            ("old.json", 100),
            ("old.new", 100),
            ("fresh", 1),
            ("fresh.json", 100),
            ("asked", 100),
            ("asked.json", 1),
            ("alone", 100),
        ]);
        sweep(store.path(), Duration::from_secs(50)).unwrap();
        assert_eq!(left(&store), ["asked", "asked.json", "fresh", "fresh.json"]);
    }

    #[test]
    fn what_is_held_is_not_swept() {
        let store = store(&[("held", 100), ("held.json", 100)]);
        let file = File::open(store.path().join("held")).unwrap();
        let held = Flock::lock(file, FlockArg::LockExclusive).unwrap();
        sweep(store.path(), Duration::from_secs(50)).unwrap();
        assert_eq!(left(&store), ["held", "held.json"]);
        drop(held);
        sweep(store.path(), Duration::from_secs(50)).unwrap();
        assert!(left(&store).is_empty());
    }
}
