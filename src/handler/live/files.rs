//! What is live in a folder: the files that are being made, and what is remembered of the names that encoders have put.
//!
//! ```text
//!   encoder ─▶ Sink ─▶ page cache         written: u64, news: Signal          reader ─▶ cursor ─▶ sendfile
//!                          └─ advance(written) ──▶ LiveFile ──▶ one wake-up a worker ──▶ reader
//! ```
//!
//! All workers share this, and so do the handlers of a folder before and after a reload: it is found by the folder. Between an
//! encoder and its readers there is no queue. The bytes are in the page cache, a number says how many of them there are, and
//! a reader has a cursor; one that stops holds nothing else, and nobody waits for it.
//!
//! Of names a bounded number is remembered: what a playlist has, for those who wait for its next version, and when a name was
//! last put, because media routes believe for a moment what they have found at it.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use lru::LruCache;

use crate::config::OnSecondEncoder;
use crate::limits::Limits;
use crate::proto::hls::Playlist;
use crate::rt::signal::{Signal, Watch};

/// A file that is being made.
#[derive(Debug)]
pub(super) struct LiveFile {
    /// Its path beneath the folder, when it is whole.
    pub path: String,
    /// Where it lies until then, beneath the folder.
    pub store_path: String,
    /// How many bytes the kernel has, from the first on.
    written: AtomicU64,
    state: AtomicU8,
    news: Signal,
    is_stopped: AtomicBool,
    /// Whether it is whole and about to get its place: too late to take its name over.
    is_sealed: AtomicBool,
    stop: Signal,
}

/// How far a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum State {
    /// More will come.
    Growing,
    /// All has come.
    Whole,
    /// No more will come of it.
    Broken,
}

impl LiveFile {
    /// One of which nothing has come.
    pub fn new(path: String, store_path: String) -> Arc<Self> {
        Arc::new(LiveFile {
            path,
            store_path,
            written: AtomicU64::new(0),
            state: AtomicU8::new(State::Growing as u8),
            news: Signal::new(),
            is_stopped: AtomicBool::new(false),
            is_sealed: AtomicBool::new(false),
            stop: Signal::new(),
        })
    }

    /// How far it is, and how many bytes there are. Where it is whole, those are all.
    pub fn progress(&self) -> (State, u64) {
        // In this order: what was written before the end is seen by who sees the end.
        let state = match self.state.load(Ordering::Acquire) {
            0 => State::Growing,
            1 => State::Whole,
            _ => State::Broken,
        };
        (state, self.written.load(Ordering::Acquire))
    }

    /// Says that so many bytes are there.
    pub fn advance(&self, written: u64) {
        if self.written.swap(written, Ordering::AcqRel) != written {
            self.news.notify();
        }
    }

    /// Waits for progress from now on.
    pub fn watch(&self) -> Watch {
        self.news.watch()
    }

    /// Waits until it is to be given up, see [`LiveFile::is_stopped`].
    pub fn watch_stop(&self) -> Watch {
        self.stop.watch()
    }

    /// Whether another encoder has taken its name.
    pub fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Acquire)
    }

    fn stop(&self) {
        self.is_stopped.store(true, Ordering::Release);
        self.stop.notify();
    }

    fn end(&self, state: State) {
        self.state.store(state as u8, Ordering::Release);
        self.news.notify();
    }
}

/// What is live in one folder. All of it is behind one lock, which is held for a look-up.
#[derive(Debug)]
pub(super) struct LiveFiles {
    folder: PathBuf,
    names: Mutex<Names>,
    /// News of any name: that an encoder has begun with it, or put it.
    news: Signal,
}

#[derive(Debug)]
struct Names {
    growing: HashMap<Box<str>, Arc<LiveFile>>,
    put: LruCache<Box<str>, Put>,
    /// Parts that are about to come, and the playlists that say so.
    announced: HashMap<Box<str>, Box<str>>,
}

impl Names {
    /// Remembers a name; who waits for news of it is to be told.
    fn note(&mut self, path: &str, playlist: Option<Playlist>, now: Instant) -> Signal {
        // Who waits for the name goes on to wait.
        let before = self.put.pop(path).inspect(|before| forget(&mut self.announced, before));
        let news = before.map(|before| before.listed.news).unwrap_or_default();
        // A longer path is not believed by any cache.
        if path.len() <= Limits::CACHED_PATH_LEN {
            let announces = playlist.iter().flat_map(Playlist::announced).map(|link| beside(path, link)).collect();
            let listed = Listed { playlist: playlist.map(Arc::new), news: news.clone() };
            let put = Put { at: now, listed, announces };
            for part in &put.announces {
                self.announced.insert(part.clone(), path.into());
            }
            if let Some((_, oldest)) = self.put.push(path.into(), put) {
                forget(&mut self.announced, &oldest);
                // Nobody would tell those who wait for it any more.
                oldest.listed.news.notify();
            }
        }
        news
    }
}

/// Forgets what a name has announced.
fn forget(announced: &mut HashMap<Box<str>, Box<str>>, put: &Put) {
    put.announces.iter().for_each(|part| drop(announced.remove(part)));
}

/// What a link in the file at a path leads to, without its query.
fn beside(path: &str, link: &str) -> Box<str> {
    let link = link.split('?').next().unwrap_or_default();
    path.rsplit_once('/').map_or_else(|| link.into(), |(directory, _)| format!("{directory}/{link}").into())
}

/// What is remembered of a name that was put.
#[derive(Debug)]
struct Put {
    at: Instant,
    listed: Listed,
    /// The paths of parts that it says are about to come.
    announces: Vec<Box<str>>,
}

/// What a name's playlist says, if it is one, and who waits for the next version of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Listed {
    pub playlist: Option<Arc<Playlist>>,
    pub news: Signal,
}

/// What a name is now.
#[derive(Debug)]
pub(super) enum Named {
    /// It is being made.
    Growing(Arc<LiveFile>),
    /// It was put at that time, a moment ago: what was found out before is old.
    New(Instant),
    /// Whatever the folder has.
    Settled,
}

/// The name is being made by another encoder.
#[derive(Debug)]
pub(super) struct IsTaken;

impl LiveFiles {
    /// What is live in a folder, as long as anybody asks.
    pub fn of(folder: &Path) -> Arc<Self> {
        static ALL: Mutex<Vec<Weak<LiveFiles>>> = Mutex::new(Vec::new());
        let mut all = lock(&ALL);
        all.retain(|files| files.strong_count() > 0);
        let known = all.iter().filter_map(Weak::upgrade).find(|files| files.folder == folder);
        known.unwrap_or_else(|| {
            let files = LiveFiles::new(folder);
            all.push(Arc::downgrade(&files));
            files
        })
    }

    /// Nothing is live in this folder yet.
    pub fn new(folder: &Path) -> Arc<Self> {
        const MOST: NonZeroUsize = NonZeroUsize::new(Limits::LIVE_NAMES).expect("names are remembered");
        let names = Names { growing: HashMap::new(), put: LruCache::new(MOST), announced: HashMap::new() };
        Arc::new(LiveFiles { folder: folder.to_owned(), names: Mutex::new(names), news: Signal::new() })
    }

    /// What a path is now; `valid` is how long a cache believes what it has found.
    pub fn look_up(&self, path: &str, now: Instant, valid: Duration) -> Named {
        let names = lock(&self.names);
        if let Some(file) = names.growing.get(path) {
            return Named::Growing(file.clone());
        }
        // What was found just before the name was put is believed for so long.
        let put = names.put.peek(path).filter(|put| now.saturating_duration_since(put.at) <= valid);
        put.map_or(Named::Settled, |put| Named::New(put.at))
    }

    /// Whether a path is being made.
    pub fn is_growing(&self, path: &str) -> bool {
        lock(&self.names).growing.contains_key(path)
    }

    /// Whether a file is the one that is being made at its path.
    pub fn is_this_growing(&self, file: &Arc<LiveFile>) -> bool {
        lock(&self.names).growing.get(&*file.path).is_some_and(|current| Arc::ptr_eq(current, file))
    }

    /// Makes a file the one that is being made at its path.
    ///
    /// # Errors
    /// Another one is, and keeps the name.
    pub fn begin(&self, file: &Arc<LiveFile>, on_second: OnSecondEncoder) -> Result<(), IsTaken> {
        let mut names = lock(&self.names);
        let before = names.growing.get(&*file.path).cloned();
        let may_take =
            |before: &LiveFile| on_second == OnSecondEncoder::TakeOver && !before.is_sealed.load(Ordering::Acquire);
        if before.as_ref().is_some_and(|before| !may_take(before)) {
            return Err(IsTaken);
        }
        names.growing.insert(file.path.as_str().into(), file.clone());
        drop(names);
        if let Some(before) = before {
            before.stop();
        }
        self.news.notify();
        Ok(())
    }

    /// Keeps others from taking the name of a file that is about to get its place; false when one has taken it.
    pub fn seal(&self, file: &Arc<LiveFile>) -> bool {
        let names = lock(&self.names);
        let is_current = names.growing.get(&*file.path).is_some_and(|current| Arc::ptr_eq(current, file));
        file.is_sealed.store(is_current, Ordering::Release);
        is_current
    }

    /// Says how a file has ended. From now on the path is what the folder has at it.
    pub fn end(&self, file: &Arc<LiveFile>, state: State, now: Instant) {
        let mut names = lock(&self.names);
        if names.growing.get(&*file.path).is_some_and(|current| Arc::ptr_eq(current, file)) {
            names.growing.remove(&*file.path);
        }
        // In the same moment, or who asks in between would get what was there before.
        let news = (state == State::Whole).then(|| names.note(&file.path, None, now));
        drop(names);
        self.tell(news);
        file.end(state);
    }

    /// Remembers that a name was put, or taken away, and what it says if it is a playlist.
    pub fn note(&self, path: &str, playlist: Option<Playlist>, now: Instant) {
        let news = lock(&self.names).note(path, playlist, now);
        self.tell(Some(news));
    }

    fn tell(&self, news: Option<Signal>) {
        news.iter().chain([&self.news]).for_each(Signal::notify);
    }

    /// What the playlist at a path says, if it was put here.
    pub fn listed(&self, path: &str) -> Option<Listed> {
        lock(&self.names).put.get(path).map(|put| put.listed.clone())
    }

    /// The playlist that says that a path is about to come.
    pub fn announcing(&self, path: &str) -> Option<Arc<Playlist>> {
        let names = lock(&self.names);
        names.put.peek(names.announced.get(path)?)?.listed.playlist.clone()
    }

    /// Waits for news of any name from now on.
    pub fn watch(&self) -> Watch {
        self.news.watch()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::hls::Parser;

    const VALID: Duration = Duration::from_secs(1);

    fn file(path: &str) -> Arc<LiveFile> {
        LiveFile::new(path.to_owned(), format!(".live/{path}"))
    }

    fn playlist(text: &str) -> Option<Playlist> {
        let mut parser = Parser::default();
        parser.push(text.as_bytes());
        Some(parser.finish())
    }

    #[test]
    fn a_second_encoder_is_refused_or_takes_over_and_the_first_ones_end_does_not_end_it() {
        let files = LiveFiles::new(Path::new("/"));
        let now = Instant::now();
        let (first, second) = (file("a"), file("a"));
        files.begin(&first, OnSecondEncoder::Reject).unwrap();
        files.begin(&second, OnSecondEncoder::Reject).unwrap_err();
        assert!(!first.is_stopped());
        files.begin(&second, OnSecondEncoder::TakeOver).unwrap();
        assert!(first.is_stopped() && !second.is_stopped());
        files.end(&first, State::Broken, now);
        assert!(matches!(files.look_up("a", now, VALID), Named::Growing(found) if Arc::ptr_eq(&found, &second)));
        files.end(&second, State::Whole, now);
        assert!(matches!(files.look_up("a", now, VALID), Named::New(at) if at == now));
        assert!(matches!(files.look_up("a", now + 2 * VALID, VALID), Named::Settled));
        assert_eq!((first.progress().0, second.progress().0), (State::Broken, State::Whole));
    }

    #[test]
    fn promise6_what_is_remembered_of_names_is_bounded() {
        let files = LiveFiles::new(Path::new("/"));
        let now = Instant::now();
        for n in 0..2 * Limits::LIVE_NAMES {
            files.note(&n.to_string(), None, now);
        }
        files.note(&"x".repeat(Limits::CACHED_PATH_LEN + 1), None, now);
        assert_eq!(lock(&files.names).put.len(), Limits::LIVE_NAMES);
        assert!(matches!(files.look_up("0", now, VALID), Named::Settled));
    }

    #[test]
    fn a_part_is_announced_by_the_playlist_beside_it() {
        let files = LiveFiles::new(Path::new("/"));
        let text = "#EXTM3U\n#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES\n#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"1.m4s\"\n";
        let now = Instant::now();
        files.note("show/live.m3u8", playlist(text), now);
        assert!(files.announcing("show/1.m4s").is_some());
        for other in ["1.m4s", "show/2.m4s", "show/a/1.m4s"] {
            assert!(files.announcing(other).is_none(), "{other}");
        }
        files.note("show/live.m3u8", playlist(&text.replace("1.m4s", "2.m4s?a=b")), now);
        assert!(files.announcing("show/1.m4s").is_none() && files.announcing("show/2.m4s").is_some());
        (0..Limits::LIVE_NAMES).for_each(|n| files.note(&n.to_string(), None, now));
        assert!(files.announcing("show/2.m4s").is_none() && lock(&files.names).announced.is_empty());
    }

    #[test]
    fn a_folder_has_one_set_of_live_files_while_anybody_uses_it() {
        let one = LiveFiles::of(Path::new("/one"));
        assert!(Arc::ptr_eq(&one, &LiveFiles::of(Path::new("/one"))));
        assert!(!Arc::ptr_eq(&one, &LiveFiles::of(Path::new("/other"))));
    }

    #[test]
    fn who_waits_for_a_playlist_that_is_forgotten_is_told() {
        let files = LiveFiles::new(Path::new("/"));
        let now = Instant::now();
        let text = "#EXTM3U\n#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES\n#EXTINF:1,\n0.ts\n";
        files.note("live.m3u8", playlist(text), now);
        let mut watch = files.listed("live.m3u8").unwrap().news.watch();
        for n in 0..Limits::LIVE_NAMES {
            files.note(&n.to_string(), None, now);
        }
        assert!(files.listed("live.m3u8").is_none());
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let told = watch.poll_changed(&mut cx).is_ready();
        files.note("live.m3u8", playlist(&(text.to_owned() + "#EXTINF:1,\n1.ts\n")), now);
        let told_of_next = watch.poll_changed(&mut cx).is_ready();
        assert!(told || told_of_next, "waits for nothing");
    }
}
