//! How long an open file plays, as its own bytes tell.
//!
//! It is told once for each version of the file, by reading what is in memory if that is enough, else through the ring; so a
//! request whose file is known still costs no future.

use std::cell::RefCell;
use std::io;
use std::time::Duration;

use crate::driver::FileStat;
use crate::http::Worker;
use crate::proto::media_duration::{Probe, READ_LEN};
use crate::rt::fs::File;

/// What an open file told of its duration last.
#[derive(Default)]
pub struct PlayTime(RefCell<Option<Box<Told>>>);

/// What a version of the file told, which may be nothing.
struct Told {
    stat: FileStat,
    duration: Option<Duration>,
}

impl PlayTime {
    /// Whether this very version of the file was asked.
    pub fn is_known_of(&self, stat: &FileStat) -> bool {
        self.0.borrow().as_ref().is_some_and(|told| told.stat == *stat)
    }

    /// How long this very version plays, if it told.
    pub fn told_of(&self, stat: &FileStat) -> Option<Duration> {
        self.0.borrow().as_ref().filter(|told| told.stat == *stat)?.duration
    }

    /// What was told last: the length of the file in bytes, and how long it plays.
    pub fn told(&self) -> Option<(u64, Duration)> {
        let told = self.0.borrow();
        let told = told.as_ref()?;
        Some((told.stat.len, told.duration?))
    }

    /// Looks at what is in memory; whether that was enough.
    pub fn tell_now(&self, file: &File, stat: &FileStat) -> bool {
        let mut probe = Probe::new(stat.len);
        let mut bytes = [0; READ_LEN];
        while let Some((offset, len)) = probe.wanted() {
            // Cold, cut meanwhile or broken: left to the way that can wait.
            if file.read_resident(offset, &mut bytes[..len]).is_ok_and(|read| read == len) {
                probe.feed(&bytes[..len]);
            } else {
                return false;
            }
        }
        self.note(stat, probe.duration());
        true
    }

    /// Reads what is needed.
    ///
    /// # Errors
    /// The disk's. The next who asks tries again, and nothing of an earlier version holds for this one.
    pub async fn tell(&self, worker: &Worker, file: &File, stat: &FileStat) -> io::Result<()> {
        if self.is_known_of(stat) || self.tell_now(file, stat) {
            return Ok(());
        }
        let read = read(worker, file, stat.len).await;
        match &read {
            Ok(duration) => self.note(stat, *duration),
            Err(_) => *self.0.borrow_mut() = None,
        }
        read.map(drop)
    }

    fn note(&self, stat: &FileStat, duration: Option<Duration>) {
        *self.0.borrow_mut() = Some(Box::new(Told { stat: *stat, duration }));
    }
}

/// Reads from the disk what the probe wants, one short read at a time.
async fn read(worker: &Worker, file: &File, len: u64) -> io::Result<Option<Duration>> {
    let mut probe = Probe::new(len);
    while let Some((offset, len)) = probe.wanted() {
        let buf = worker.runtime.transfer_pool().acquire().await;
        let (read, buf) = file.read(offset, len, buf).await;
        read?;
        probe.feed(&buf);
    }
    Ok(probe.duration())
}
