//! The topics of one route: made when they are first named, published to from any thread, and kept in the journal if there is one.
//!
//! Publishing, in this order:
//! 1. memory for the event, for which older ones of its topic go if need be;
//! 2. its number, and with it its place behind the others of its topic;
//! 3. where there is a journal, its record is written; the journal's thread goes on with 4;
//! 4. it is kept, and the topic's subscribers are told.
//!
//! So nobody is sent an event that a kill could take back, and the order is one for all.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::archive::Archive;
use super::history::{Bounds, Kept};
use super::message::Message;
use super::position::Position;
use super::record::{self, HEAD_LEN_MOST, Head, NewEpoch, Record};
use super::refusal::Refusal;
use super::topic::Topic;
use crate::config::EventsConfig;
use crate::error::Error;
use crate::http::{Budget, Framed, Share};
use crate::limits::Limits;
use crate::proto::sse::{self, Event};
use crate::rt::journal::{Doubt, Written};

/// What an event takes in memory beside its lines, in bytes.
const EVENT_BYTES: usize = 256;

/// When there was none yet.
const NEVER: u64 = u64::MAX;

/// The topics, as all workers share them.
#[derive(Debug)]
pub(super) struct Hub {
    topics: Mutex<Topics>,
    memory: Budget,
    /// When events that are too old were last given up everywhere, in milliseconds since 1970.
    swept_ms: AtomicU64,
    subscribers: AtomicUsize,
    archive: Option<Archive>,
    /// The longest event that the journal was opened for.
    event_len: usize,
}

/// A subscriber's place among those that there may be; given up when it is dropped.
#[derive(Debug)]
pub(super) struct Seat(Arc<Hub>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.subscribers.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Topics {
    by_name: HashMap<Arc<str>, Arc<Topic>>,
    /// The epoch of the topic that was made last; the next one's is later.
    epoch: u64,
}

/// What a route says of its topics; another one with each reload.
#[derive(Debug)]
pub(super) struct Rules {
    pub bounds: Bounds,
    /// Topics at once.
    pub topics: usize,
    /// Bytes of an event.
    pub event_len: usize,
}

impl Rules {
    /// Those of a configuration.
    pub fn of(config: &EventsConfig) -> Self {
        let bounds = Bounds {
            events: config.history_events,
            bytes: config.history_bytes,
            age_ms: u64::try_from(config.history_age.as_millis()).unwrap_or(u64::MAX),
            backlog: config.backlog,
        };
        Rules { bounds, topics: config.topics, event_len: config.event_len }
    }
}

impl Hub {
    /// No topics but those whose events are in the journal. Reads all of it.
    ///
    /// # Errors
    /// The operator's fault: the journal can't be used.
    pub fn open(config: &EventsConfig, now_ms: u64) -> Result<Self, Error> {
        let mut hub = Hub {
            topics: Mutex::default(),
            memory: Budget::new(config.memory),
            swept_ms: AtomicU64::new(NEVER),
            subscribers: AtomicUsize::new(0),
            archive: None,
            event_len: config.event_len,
        };
        if let Some(dir) = &config.journal {
            let mut replay = Replay { hub: &hub, rules: Rules::of(config), now_ms, is_full: false };
            let archive = Archive::open(dir, config, |record| replay.record(record)).map_err(|error| {
                Error::operator(format!("journal: `{}` can't be used", dir.display())).because(error)
            })?;
            if archive.doubt() != Doubt::None {
                let mut topics = hub.lock();
                let is_past_unknown = archive.doubt() == Doubt::Anywhere;
                let begun = NewEpoch { epoch: topics.next_epoch(now_ms), is_past_unknown };
                topics.begin_epoch(&begun);
                archive.append_new_epoch(&begun);
            }
            hub.archive = Some(archive);
        }
        Ok(hub)
    }

    /// A place for one more subscriber, of so many. What a reload changes is the bound, not how many there are.
    pub fn seat(self: &Arc<Self>, most: usize) -> Result<Seat, Refusal> {
        let taken = self
            .subscribers
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < most).then_some(count + 1));
        taken.map(|_| Seat(self.clone())).map_err(|_| Refusal::Subscribers)
    }

    /// The longest event that can be kept: the journal's records were bounded when it was opened.
    pub fn longest_event(&self, wanted: usize) -> usize {
        if self.archive.is_some() { wanted.min(self.event_len) } else { wanted }
    }

    /// The topic of this name, which is made if need be.
    pub fn topic(&self, name: &str, rules: &Rules, now_ms: u64) -> Result<Arc<Topic>, Refusal> {
        check_topic_name(name)?;
        let mut topics = self.lock();
        if let Some(topic) = topics.by_name.get(name) {
            return Ok(topic.clone());
        }
        if topics.by_name.len() >= rules.topics {
            topics.by_name.values().for_each(|topic| topic.trim(now_ms, &rules.bounds));
            if !topics.forget_longest_unused() {
                return Err(Refusal::Topics);
            }
        }
        let epoch = topics.next_epoch(now_ms);
        Ok(topics.add(name, epoch, 1))
    }

    /// How many topics there are.
    pub fn topics(&self) -> usize {
        self.lock().by_name.len()
    }

    /// The topic of this name, if it is there.
    pub fn find(&self, name: &str) -> Option<Arc<Topic>> {
        self.lock().by_name.get(name).cloned()
    }

    /// Gives up a topic that was never used, whose last subscriber has left.
    pub fn forget_if_blank(&self, topic: &Arc<Topic>) {
        let mut topics = self.lock();
        let is_known = topics.by_name.get(&topic.name).is_some_and(|known| Arc::ptr_eq(known, topic));
        // The handles here and the caller's: nobody else has it, to publish or to subscribe to, or comes by it while this is locked.
        if is_known && Arc::strong_count(topic) == 2 && topic.is_blank() {
            topics.by_name.remove(&topic.name);
        }
    }

    /// Publishes an event, and returns where it stands once it is kept.
    pub async fn publish(
        &self,
        topic: &Arc<Topic>,
        message: Message,
        rules: &Rules,
        now_ms: u64,
    ) -> Result<Position, Refusal> {
        self.begin(topic, message, rules, now_ms).await?.kept().await
    }

    /// Gives an event its place behind all that have theirs already. It is kept whether or not that is waited for.
    pub async fn begin(
        &self,
        topic: &Arc<Topic>,
        message: Message,
        rules: &Rules,
        now_ms: u64,
    ) -> Result<Begun, Refusal> {
        message.check(rules.event_len)?;
        let Message { data, id, event, retry, key } = message;
        let lines = sse::encode(&Event { id: None, event: event.as_deref(), retry, data: Some(&data) });
        drop(data);
        let share = self.room_for(topic, weight(&lines, &id, &key), rules, now_ms)?;
        let Some(archive) = &self.archive else {
            let _order = topic.in_order();
            let position = topic.hand_out();
            topic.keep(kept(position, now_ms, id, key, &lines, share), &rules.bounds);
            topic.changed.notify();
            return Ok(Begun { position, written: None });
        };
        let record_share = self.room_for(topic, HEAD_LEN_MOST + lines.len(), rules, now_ms)?;
        let room = archive.room(HEAD_LEN_MOST + lines.len()).await.map_err(Refusal::of_journal)?;
        let (position, written) = {
            let _order = topic.in_order();
            let position = topic.hand_out();
            let head = head(topic, position, now_ms, id.clone(), key.clone(), false);
            let record = record_share.of(record::encode(&head, &lines));
            let kept = kept(position, now_ms, id, key, &lines, share);
            let (topic, bounds) = (topic.clone(), rules.bounds);
            let keep = move || {
                topic.keep(kept, &bounds);
                topic.changed.notify();
            };
            (position, archive.append(room, record, now_ms, keep))
        };
        archive.give_up_old(now_ms, rules.bounds.age_ms);
        Ok(Begun { position, written: Some(written) })
    }

    /// Ends a topic, once that is written.
    pub async fn close(&self, topic: &Arc<Topic>, rules: &Rules, now_ms: u64) -> Result<(), Refusal> {
        let Some(archive) = &self.archive else {
            topic.close();
            return Ok(());
        };
        let room = archive.room(HEAD_LEN_MOST).await.map_err(Refusal::of_journal)?;
        let written = {
            let _order = topic.in_order();
            let head = head(topic, topic.hand_out(), now_ms, None, None, true);
            let closing = topic.clone();
            archive.append(room, record::encode(&head, b"").into(), now_ms, move || closing.close())
        };
        archive.give_up_old(now_ms, rules.bounds.age_ms);
        written.await.map(drop).map_err(Refusal::of_journal)
    }

    /// A share of the memory for so many bytes. Events that are too old go for it, of all topics but not each time, and then
    /// older ones of this topic.
    pub fn room_for(&self, topic: &Topic, bytes: usize, rules: &Rules, now_ms: u64) -> Result<Share, Refusal> {
        if let Some(share) = self.memory.take(bytes) {
            return Ok(share);
        }
        let is_due = |last: u64| {
            (last == NEVER || now_ms.saturating_sub(last) >= Limits::TOPICS_SWEPT_EVERY.as_millis() as u64)
                .then_some(now_ms)
        };
        if self.swept_ms.fetch_update(Ordering::Relaxed, Ordering::Relaxed, is_due).is_ok() {
            self.lock().by_name.values().for_each(|topic| topic.trim(now_ms, &rules.bounds));
        }
        topic.trim(now_ms, &rules.bounds);
        loop {
            match self.memory.take(bytes) {
                Some(share) => return Ok(share),
                None if topic.give_up_oldest() => {}
                None => return Err(Refusal::Memory),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Topics> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes what a journal says.
struct Replay<'a> {
    hub: &'a Hub,
    rules: Rules,
    now_ms: u64,
    /// There are as many topics as there may be, and all are used.
    is_full: bool,
}

impl Replay<'_> {
    fn record(&mut self, record: Record<'_>) {
        match record {
            Record::Event(head, lines) => self.event(&head, lines),
            Record::NewEpoch(begun) => self.hub.lock().begin_epoch(&begun),
        }
    }

    fn event(&mut self, head: &Head, lines: &[u8]) {
        let Some(topic) = self.topic(head) else { return };
        if head.is_end {
            topic.count(head.number);
            return topic.close();
        }
        let (rules, now_ms) = (&self.rules, self.now_ms);
        match self.hub.room_for(&topic, weight(lines, &head.id, &head.key), rules, now_ms) {
            Ok(share) if !lines.is_empty() => {
                let kept = kept(head.position(), head.at_ms, head.id.clone(), head.key.clone(), lines, share);
                topic.keep(kept, &rules.bounds);
            }
            _ => topic.pass_over(head.number, head.at_ms),
        }
        topic.trim(now_ms, &rules.bounds);
    }

    /// The topic of an event, unless there are too many. One whose events are all too old makes room for one that has others.
    fn topic(&mut self, head: &Head) -> Option<Arc<Topic>> {
        let mut topics = self.hub.lock();
        match topics.by_name.get(&*head.topic) {
            Some(topic) if topic.position().epoch == head.epoch => return Some(topic.clone()),
            // A count that began later takes the place of an earlier one.
            Some(_) => return Some(topics.add(&head.topic, head.epoch, head.number)),
            None => {}
        }
        if topics.by_name.len() >= self.rules.topics {
            let is_old = self.now_ms.saturating_sub(head.at_ms) >= self.rules.bounds.age_ms;
            if is_old || self.is_full {
                return None;
            }
            topics.by_name.retain(|_, topic| topic.unused_since().is_none());
            self.is_full = topics.by_name.len() >= self.rules.topics;
            if self.is_full {
                return None;
            }
        }
        Some(topics.add(&head.topic, head.epoch, head.number))
    }
}

/// An event that has its place, and perhaps is still to be written.
pub(super) struct Begun {
    position: Position,
    written: Option<Written>,
}

impl Begun {
    /// Where it stands, once it is kept.
    pub async fn kept(self) -> Result<Position, Refusal> {
        if let Some(written) = self.written {
            written.await.map_err(Refusal::of_journal)?;
        }
        Ok(self.position)
    }
}

impl Topics {
    /// One that is later than all before. In microseconds, so that two counts that begin in the same millisecond are told apart, also
    /// after a restart.
    fn next_epoch(&self, now_ms: u64) -> u64 {
        (now_ms * 1000).max(self.epoch + 1)
    }

    /// Subscribers may have had events that are not in the journal any more, and their numbers will be those of others.
    fn begin_epoch(&mut self, begun: &NewEpoch) {
        self.epoch = self.epoch.max(begun.last());
        self.by_name.values().for_each(|topic| topic.begin_epoch(&begun.of_topic(&topic.name)));
    }

    fn add(&mut self, name: &str, epoch: u64, first: u64) -> Arc<Topic> {
        self.epoch = self.epoch.max(epoch);
        let name: Arc<str> = name.into();
        let topic = Arc::new(Topic::from(name.clone(), epoch, first));
        self.by_name.insert(name, topic.clone());
        topic
    }

    /// Makes room for another topic; whether that was possible.
    fn forget_longest_unused(&mut self) -> bool {
        // One that somebody has in hand is about to be used.
        let is_free = |topic: &&Arc<Topic>| Arc::strong_count(topic) == 1;
        let unused = self.by_name.values().filter(is_free);
        let unused = unused.filter_map(|topic| Some((topic.unused_since()?, topic.name.clone())));
        let longest = unused.min();
        longest.is_some_and(|(_, name)| self.by_name.remove(&name).is_some())
    }
}

/// What an event takes in memory: its id stands in its first line, and beside it to be found by.
fn weight(lines: &[u8], id: &Option<String>, key: &Option<String>) -> usize {
    let len = |name: &Option<String>| name.as_ref().map_or(0, String::len);
    lines.len() + 2 * len(id) + len(key) + EVENT_BYTES
}

fn kept(position: Position, at_ms: u64, id: Option<String>, key: Option<String>, lines: &[u8], share: Share) -> Kept {
    let id_line = match &id {
        Some(id) => format!("id: {id}\n"),
        None => format!("id: {position}\n"),
    };
    let data = [id_line.as_bytes(), lines].concat();
    let lines = Framed::around(&data, |bytes| share.of(bytes));
    let (id, key) = (id.map(String::into_boxed_str), key.map(Arc::from));
    let Position { epoch, number } = position;
    Kept { epoch, number, at_ms, lines, id_line_len: id_line.len(), id, key }
}

fn head(topic: &Topic, position: Position, at_ms: u64, id: Option<String>, key: Option<String>, is_end: bool) -> Head {
    let Position { epoch, number } = position;
    Head { topic: topic.name.to_string(), epoch, number, at_ms, id, key, is_end }
}

/// Whether a topic can have this name.
fn check_topic_name(name: &str) -> Result<(), Refusal> {
    const LONGEST: usize = Limits::TOPIC_NAME_LEN;
    let wrong = |why: &str| Err(Refusal::Malformed(format!("the topic's name {why}")));
    match name {
        "" => wrong("is empty"),
        _ if name.len() > LONGEST => wrong(&format!("is longer than {LONGEST} bytes")),
        _ if name.chars().any(char::is_control) => wrong("has a control character in it"),
        // By its path it could not be named.
        _ if name.split('/').any(|segment| matches!(segment, "" | "." | "..")) => wrong("has an empty segment in it"),
        _ => Ok(()),
    }
}
