//! The journal of a route's events, and how long its segments are worth keeping.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::record::{self, HEAD_LEN_MOST, NewEpoch, Record};
use crate::config::EventsConfig;
use crate::limits::Limits;
use crate::rt::journal::{self, Doubt, Journal, Room, Settings, Written};

/// How many segments a journal has when it is as long as it may be: one of them is what is given up at a time.
const SEGMENTS: u64 = 16;

/// How many times as long as its data an event's lines may be: a line end each, of data that is nothing but line ends.
const LINES_TO_DATA: usize = 8;

/// A journal of events.
#[derive(Debug)]
pub(super) struct Archive {
    journal: Journal,
    bytes: u64,
    ages: Arc<Mutex<Ages>>,
}

/// When the newest event of each segment was published, in milliseconds since 1970; the oldest segment first.
#[derive(Debug, Default)]
struct Ages(VecDeque<(u64, u64)>);

impl Archive {
    /// Opens the journal, and hands all that is in it to `replay`.
    pub fn open(dir: &Path, config: &EventsConfig, mut replay: impl FnMut(Record<'_>)) -> io::Result<Self> {
        let settings = Settings {
            kind: "events",
            segment_len: config.journal_bytes / SEGMENTS,
            record_len: HEAD_LEN_MOST + LINES_TO_DATA * config.event_len,
            waiting_len: Limits::JOURNAL_WAITING_LEN,
            sync: config.journal_sync,
        };
        let mut ages = Ages::default();
        let journal = Journal::open(dir, settings, |position, bytes| match record::decode(bytes) {
            Some(record) => {
                if let Record::Event(head, _) = &record {
                    ages.note(position.segment, head.at_ms);
                }
                replay(record);
            }
            None => tracing::warn!(?position, "a record of the journal is no event, and is passed over"),
        })?;
        Ok(Archive { journal, bytes: config.journal_bytes, ages: Arc::new(Mutex::new(ages)) })
    }

    /// What may be gone of what subscribers had.
    pub fn doubt(&self) -> Doubt {
        self.journal.doubt()
    }

    /// Writes that an epoch has begun for all topics, and with it that there is no doubt any more. If that fails, the next opening is in
    /// doubt again; and events of an epoch that is not in the journal begin their topic anew.
    pub fn append_new_epoch(&self, begun: &NewEpoch) {
        let journal = self.journal.clone();
        let record = record::encode_new_epoch(begun).into();
        // Its bound is that there is one.
        drop(self.journal.append_beside(record, move |written| {
            let noted = written.map(drop).map_err(|error| error.to_string());
            if let Err(error) = noted.and_then(|()| journal.note_no_doubt().map_err(|error| error.to_string())) {
                tracing::warn!(error, "that events may be lost can't be noted in their journal");
            }
        }));
    }

    /// Room for a record, as soon as there is some.
    pub async fn room(&self, len: usize) -> io::Result<Room> {
        self.journal.room(len).await
    }

    /// Appends a record, and runs `keep` when it is written.
    pub fn append(&self, room: Room, record: Bytes, at_ms: u64, keep: impl FnOnce() + Send + 'static) -> Written {
        let ages = self.ages.clone();
        room.append_then(record, move |result| {
            if let Ok(position) = result {
                lock(&ages).note(position.segment, at_ms);
                keep();
            }
        })
    }

    /// Gives up segments whose events are all too old, and the oldest ones while there are too many bytes.
    pub fn give_up_old(&self, now_ms: u64, age_ms: u64) {
        let segments = self.journal.segments();
        let spare = segments.end.saturating_sub(segments.start + 1);
        let over = self.journal.bytes().saturating_sub(self.bytes);
        let too_many = over.div_ceil((self.bytes / SEGMENTS).max(1)).min(spare);
        let mut ages = lock(&self.ages);
        let is_old = |newest_ms: u64| now_ms.saturating_sub(newest_ms) >= age_ms;
        let first_young = ages.0.iter().find(|(_, newest_ms)| !is_old(*newest_ms)).map_or(segments.end, |(at, _)| *at);
        let first = first_young.max(segments.start + too_many).min(segments.end.saturating_sub(1));
        ages.0.retain(|(segment, _)| *segment >= first);
        drop(ages);
        if first > segments.start {
            self.journal.drop_before(journal::Position { segment: first, offset: 0 });
        }
    }
}

impl Ages {
    fn note(&mut self, segment: u64, at_ms: u64) {
        match self.0.back_mut() {
            Some((last, newest_ms)) if *last == segment => *newest_ms = at_ms.max(*newest_ms),
            _ => self.0.push_back((segment, at_ms)),
        }
    }
}

fn lock(ages: &Mutex<Ages>) -> MutexGuard<'_, Ages> {
    ages.lock().unwrap_or_else(PoisonError::into_inner)
}
