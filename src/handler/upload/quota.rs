//! What a folder may hold: counted once, kept up with what is stored and deleted here, and counted again now and then, because
//! others may change the folder too.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The bytes of one folder, for all workers. Counts guard nothing but themselves, so their order does not matter.
#[derive(Debug)]
pub(super) struct Quota {
    limit: u64,
    /// What lies in the folder.
    stored: AtomicU64,
    /// What is on its way.
    reserved: AtomicU64,
}

/// A part of the quota for what is on its way; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    quota: Arc<Quota>,
    bytes: u64,
}

impl Quota {
    /// At most `limit` bytes, of which the folder holds what it holds now.
    pub fn of(folder: &Path, limit: u64) -> io::Result<Arc<Self>> {
        let stored = AtomicU64::new(held(folder)?);
        Ok(Arc::new(Quota { limit, stored, reserved: AtomicU64::new(0) }))
    }

    /// Room for so many bytes, if there is.
    pub fn reserve(self: &Arc<Self>, bytes: u64) -> Option<Reservation> {
        let mut reservation = Reservation { quota: self.clone(), bytes: 0 };
        reservation.extend(bytes).then_some(reservation)
    }

    /// Counts what the folder holds now. What is on its way and has reached the disk is counted twice until it is in its place.
    pub fn count_again(&self, folder: &Path) -> io::Result<()> {
        self.stored.store(held(folder)?, Ordering::Relaxed);
        Ok(())
    }

    /// Notes that so many bytes have left the folder.
    pub fn deleted(&self, bytes: u64) {
        let less = |stored: u64| Some(stored.saturating_sub(bytes));
        // It never fails: the closure always has a value.
        let _ = self.stored.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

impl Reservation {
    /// Takes room for so many bytes more; whether there was.
    pub fn extend(&mut self, bytes: u64) -> bool {
        let quota = &self.quota;
        let more = |reserved: u64| {
            let reserved = reserved.checked_add(bytes)?;
            let all = reserved.checked_add(quota.stored.load(Ordering::Relaxed))?;
            (all <= quota.limit).then_some(reserved)
        };
        let fits = quota.reserved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok();
        if fits {
            self.bytes += bytes;
        }
        fits
    }

    /// The first `bytes` of them lie in the folder now.
    pub fn keep(self, bytes: u64) {
        self.quota.stored.fetch_add(bytes.min(self.bytes), Ordering::Relaxed);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.quota.reserved.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The bytes of all files beneath a directory, without following links.
fn held(directory: &Path) -> io::Result<u64> {
    let mut bytes = 0_u64;
    for entry in std::fs::read_dir(directory)? {
        // What goes away while it is looked at holds nothing.
        let Ok(metadata) = entry.as_ref().map_err(|_| ()).and_then(|entry| entry.metadata().map_err(|_| ())) else {
            continue;
        };
        let Ok(entry) = entry else { continue };
        bytes = bytes.saturating_add(if metadata.is_dir() { held(&entry.path())? } else { metadata.len() });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(limit: u64) -> Arc<Quota> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("a")).unwrap();
        std::fs::write(folder.path().join("a/b"), [0; 60]).unwrap();
        std::fs::write(folder.path().join("c"), [0; 40]).unwrap();
        Quota::of(folder.path(), limit).unwrap()
    }

    #[test]
    fn what_lies_there_and_what_is_on_its_way_count_and_what_is_dropped_comes_back() {
        let quota = quota(200);
        let mut first = quota.reserve(60).expect("160 of 200");
        assert!(quota.reserve(41).is_none());
        assert!(first.extend(40) && !first.extend(1), "exactly full");
        drop(first);
        quota.reserve(100).expect("all of it again").keep(30);
        assert!(quota.reserve(71).is_none() && quota.reserve(70).is_some());
        quota.deleted(130);
        assert!(quota.reserve(200).is_some() && quota.reserve(201).is_none());
        assert!(quota.reserve(u64::MAX).is_none());
    }
}
