//! The open-file cache: paths beneath a root, as open descriptors.
//!
//! Opening is the expensive part of a small reply, so descriptors stay open and are believed for `open_file_valid`. What an
//! entry says of the *content* is not believed: length and validators come from an fstat of the descriptor at each request, so
//! a file changed in place is served changed. The bytes of small files that are asked for again and again are kept in memory
//! together with the validators that they belong to, and both are believed for `hot_file_valid`: one version, whole. They count
//! as in memory until the last reply with them is sent. The root itself is looked up again in the rhythm of
//! `open_file_valid`, so that it may be a link that is swapped (P2).

use std::cell::{OnceCell, RefCell};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use bytes::Bytes;
use http::StatusCode;
use nix::dir::Dir;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, fstat};

use super::Description;
use super::listing::{Entry, EntryKind, Listing};
use super::play_time::PlayTime;
use super::shared::{Cached, Entries, Shared};
use crate::driver::{FileKind, FileStat};
use crate::http::{Holds, Worker};
use crate::limits::Limits;
use crate::proto::conditional::{FileVersion, Validators};
use crate::proto::content_coding::Coding;
use crate::proto::http1::encode::ResponseHead;
use crate::rt::fs::File;

/// One worker's open files of one root.
pub struct OpenFiles {
    worker: Rc<Worker>,
    shared: Rc<Shared>,
    path: PathBuf,
    root: RefCell<Option<Root>>,
    /// As many entries as the worker's budget has given shares.
    cache: Rc<Entries>,
}

struct Root {
    directory: Rc<File>,
    identity: (u64, u64),
    checked: Instant,
}

/// What a path names.
#[derive(Clone)]
pub enum Found {
    /// A regular file.
    File(Rc<OpenFile>),
    /// A directory.
    Directory,
}

/// Why a path names nothing that can be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotFound {
    /// Nothing, or nothing beneath the root, or no regular file.
    Missing,
    /// The server may not open it.
    Forbidden,
    /// Descriptors or memory have run out.
    Busy,
    /// The file system failed.
    Failed,
}

impl NotFound {
    /// What an error of open means for the client.
    pub fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::EXDEV | libc::ENAMETOOLONG | libc::ENXIO) => {
                NotFound::Missing
            }
            Some(libc::EACCES | libc::EPERM) => NotFound::Forbidden,
            Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EAGAIN) => NotFound::Busy,
            _ => NotFound::Failed,
        }
    }
}

/// An open regular file.
pub struct OpenFile {
    /// Its descriptor.
    pub file: Rc<File>,
    worker: Rc<Worker>,
    identity: (u64, u64),
    /// What its path says of it.
    pub(super) description: OnceCell<Description>,
    /// How long the media in it plays.
    pub(super) play_time: PlayTime,
    known: RefCell<Option<Known>>,
}

/// What is known of a file that has settled, so that any change of it shows in its status.
struct Known {
    stat: FileStat,
    coding: Option<Coding>,
    version: Rc<Version>,
    /// When the file was last found to be so.
    checked: Instant,
    /// Whether it was asked for before.
    wanted_again: bool,
    /// A small file's bytes in memory, counted in the worker's budget until the last reply with them is sent.
    hot: Option<Bytes>,
}

/// A file as it is now.
pub struct Version {
    /// Length in bytes.
    pub len: u64,
    /// ETag and modification time.
    pub validators: Validators,
    /// The validators as fields.
    pub lines: ResponseHead,
}

/// A file's version, and its bytes if they are in memory.
pub struct Current {
    /// What it is.
    pub version: Rc<Version>,
    /// All of its bytes, of this very version.
    pub content: Option<Bytes>,
    basis: Option<Basis>,
}

/// Why this is believed of a file that has settled.
enum Basis {
    /// Its bytes are in memory, and believed until then.
    Memory { until: Instant },
    /// Fstat has just said so, and will say if it is not so any more.
    Status(FileStat),
}

impl Current {
    /// How long a reply with this is true, while the file's name is believed until then.
    pub fn holds(&self, believed: Instant) -> Option<Holds> {
        self.basis.as_ref().map(|basis| match basis {
            Basis::Memory { until } => Holds { until: believed.min(*until), stat: None },
            Basis::Status(stat) => Holds { until: believed, stat: Some(*stat) },
        })
    }
}

impl Known {
    fn current(&self, hot_file_valid: Duration) -> Current {
        let basis = match &self.hot {
            Some(_) => Basis::Memory { until: self.checked + hot_file_valid },
            None => Basis::Status(self.stat),
        };
        Current { version: self.version.clone(), content: self.hot.clone(), basis: Some(basis) }
    }
}

impl OpenFile {
    /// Length and validators by fstat of this moment, or of at most `hot_file_valid` ago together with the bytes that they
    /// belong to.
    pub fn current(&self, coding: Option<Coding>) -> io::Result<Current> {
        let limits = &self.worker.limits;
        let now = self.worker.runtime.now();
        let mut slot = self.known.borrow_mut();
        if let Some(known) = slot.as_ref().filter(|known| known.coding == coding)
            && known.hot.is_some()
            && now.saturating_duration_since(known.checked) < limits.hot_file_valid
        {
            return Ok(known.current(limits.hot_file_valid));
        }
        let stat = self.file.stat()?;
        if let Some(known) = slot.as_mut().filter(|known| (known.stat, known.coding) == (stat, coding)) {
            known.checked = now;
            if known.wanted_again && known.hot.is_none() {
                known.hot = self.warm(&stat);
            }
            known.wanted_again = true;
            return Ok(known.current(limits.hot_file_valid));
        }
        let version = Rc::new(self.version(&stat, coding));
        // A young file's weak tag becomes strong by age alone, and a change of it might not show: it is not kept.
        let settled = !version.validators.etag.is_weak() && version.validators.modified_is_strong;
        let known = Known { stat, coding, version: version.clone(), checked: now, wanted_again: false, hot: None };
        *slot = settled.then_some(known);
        Ok(Current { version, content: None, basis: None })
    }

    fn version(&self, stat: &FileStat, coding: Option<Coding>) -> Version {
        let file = FileVersion {
            inode: stat.inode,
            len: stat.len,
            modified_ns: stat.modified_ns,
            changed_ns: stat.changed_ns,
        };
        let since_epoch = self.worker.wall_clock().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ns = i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX);
        let validators = Validators::of_file(&file, coding, now_ns);
        let mut lines = ResponseHead::new(StatusCode::OK);
        lines.field("ETag", validators.etag.as_bytes());
        lines.field_fmt("Last-Modified", format_args!("{}", validators.last_modified()));
        Version { len: stat.len, validators, lines }
    }

    /// The bytes of a small file, if they are in the page cache, the budget has room, and the file stayed what it was while
    /// they were read.
    fn warm(&self, stat: &FileStat) -> Option<Bytes> {
        let len = usize::try_from(stat.len).ok().filter(|len| (1..=Limits::SMALL_REPLY_LEN).contains(len))?;
        let share = self.worker.hot_share(len)?;
        let mut content = vec![0; len];
        let whole = self.file.read_resident(0, &mut content).is_ok_and(|read| read == len);
        if !whole || self.file.stat().ok()? != *stat {
            return None;
        }
        Some(share.of(content))
    }

    /// Forgets the bytes in memory; those that replies carry stay counted.
    pub(super) fn cool(&self) {
        if let Some(known) = &mut *self.known.borrow_mut() {
            known.hot = None;
        }
    }
}

impl OpenFiles {
    /// No open files yet.
    pub fn new(root: &Path, worker: &Rc<Worker>, shared: &Rc<Shared>) -> Self {
        OpenFiles {
            worker: worker.clone(),
            shared: shared.clone(),
            path: root.to_path_buf(),
            root: RefCell::default(),
            cache: shared.add_route(),
        }
    }

    /// The file that `path` names, if that is known without asking the file system, and until when it is believed.
    pub fn known_file(&self, path: &[u8]) -> Option<(Rc<OpenFile>, Instant)> {
        let root_checked =
            self.root.borrow().as_ref().map(|root| root.checked).filter(|checked| self.is_fresh(*checked))?;
        let mut cache = self.cache.borrow_mut();
        match cache.get_mut(path)? {
            Cached { found: Ok(Found::File(file)), checked, used, .. } if self.is_fresh(*checked) => {
                *used = self.worker.runtime.now();
                self.worker.metrics.file_cache_hits.increment();
                Some((file.clone(), (*checked).min(root_checked) + self.worker.limits.open_file_valid))
            }
            _ => None,
        }
    }

    /// Believes nothing of what `path` names that was found out until `before`.
    pub fn forget(&self, path: &[u8], before: Instant) {
        let mut cache = self.cache.borrow_mut();
        let is_old = cache.peek(path).is_some_and(|cached| cached.checked <= before);
        let gone = if is_old { cache.pop(path) } else { None };
        drop(cache);
        // Outside of the borrow: the last handle on a file closes it.
        drop(gone);
    }

    /// What `path`, relative to the root, names.
    pub async fn find(&self, path: &[u8]) -> Result<Found, NotFound> {
        let root = self.root().await?;
        let known = self.cache.borrow_mut().get_mut(path).map(|known| {
            known.used = self.worker.runtime.now();
            (known.found.clone(), known.checked)
        });
        if let Some((found, checked)) = &known
            && self.is_fresh(*checked)
        {
            self.worker.metrics.file_cache_hits.increment();
            return found.clone();
        }
        self.worker.metrics.file_cache_misses.increment();
        // What changes while it is opened may or may not be seen.
        let asked = self.worker.runtime.now();
        let found = match (self.open(&root, path).await, known) {
            // The same file as before: keep the descriptor that others are using.
            (Ok(Found::File(new)), Some((Ok(Found::File(old)), _))) if new.identity == old.identity => {
                Ok(Found::File(old))
            }
            // Out of descriptors: what is open already still serves.
            (Err(NotFound::Busy), Some((Ok(old), _))) => return Ok(old),
            (found, _) => found,
        };
        self.remember(path, &found, asked);
        found
    }

    /// Keeps an answer, in the place of those that were asked for least recently. That nothing is there is kept as the first
    /// to go, so that a flood of wrong paths pushes nothing out; what failed is not kept, nor long paths, which would cost
    /// more than an entry may.
    fn remember(&self, path: &[u8], found: &Result<Found, NotFound>, asked: Instant) {
        if path.len() > Limits::CACHED_PATH_LEN || matches!(found, Err(NotFound::Busy | NotFound::Failed)) {
            return;
        }
        let old = self.cache.borrow_mut().pop(path);
        let Some(share) = old.map(|old| old.share).or_else(|| self.shared.room(&self.cache, found)) else { return };
        self.shared.cool_the_oldest();
        let now = self.worker.runtime.now();
        let mut cache = self.cache.borrow_mut();
        cache.put(path.into(), Cached { found: found.clone(), checked: asked, used: now, share });
        if found.is_err() {
            cache.demote(path);
        }
    }

    /// What `render` makes, on a thread where it may take its time, of the entries of a directory beneath the root, at most
    /// `limit`. Names that no path can ask for are left out, and dotfiles unless they are served.
    pub async fn list<T: Send + 'static>(
        &self,
        path: &[u8],
        hidden: bool,
        limit: usize,
        render: impl FnOnce(&Listing) -> Result<T, NotFound> + Send + 'static,
    ) -> Result<T, NotFound> {
        let root = self.root().await?.duplicate().map_err(|error| NotFound::of(&error))?;
        let path = if path.is_empty() { b".".to_vec() } else { path.to_vec() };
        let listed = self.worker.runtime.offload().run(move || {
            let listing = read_directory(&root, &path, hidden, limit).map_err(|error| NotFound::of(&error))?;
            render(&listing)
        });
        match listed.await {
            Ok(rendered) => rendered,
            Err(why) => Err(if why == crate::rt::offload::NoResult::Busy { NotFound::Busy } else { NotFound::Failed }),
        }
    }

    /// The root's descriptor; when the path leads to another directory than before, what was open beneath the old one is
    /// forgotten.
    async fn root(&self) -> Result<Rc<File>, NotFound> {
        if let Some(root) = &*self.root.borrow()
            && self.is_fresh(root.checked)
        {
            return Ok(root.directory.clone());
        }
        let opened = File::open_root(&self.worker.runtime, &self.path).await;
        let opened = opened.and_then(|directory| Ok((identity(&directory.stat()?), directory)));
        let mut root = self.root.borrow_mut();
        let (identity, directory) = match (opened.map_err(|error| NotFound::of(&error)), &*root) {
            (Ok(opened), _) => opened,
            (Err(NotFound::Busy), Some(root)) => return Ok(root.directory.clone()),
            (Err(why), _) => return Err(why),
        };
        let checked = self.worker.runtime.now();
        match &mut *root {
            Some(root) if root.identity == identity => {
                root.checked = checked;
                Ok(root.directory.clone())
            }
            _ => {
                self.cache.borrow_mut().clear();
                let directory = Rc::new(directory);
                *root = Some(Root { directory: directory.clone(), identity, checked });
                Ok(directory)
            }
        }
    }

    async fn open(&self, root: &File, path: &[u8]) -> Result<Found, NotFound> {
        let opened = root.open_beneath(path).await.and_then(|file| Ok((file.stat()?, file)));
        let (stat, file) = opened.map_err(|error| NotFound::of(&error))?;
        match stat.kind {
            FileKind::Directory => Ok(Found::Directory),
            FileKind::Other => Err(NotFound::Missing),
            FileKind::Regular => Ok(Found::File(Rc::new(OpenFile {
                file: Rc::new(file),
                worker: self.worker.clone(),
                identity: identity(&stat),
                description: OnceCell::new(),
                play_time: PlayTime::default(),
                known: RefCell::default(),
            }))),
        }
    }

    fn is_fresh(&self, checked: Instant) -> bool {
        self.worker.runtime.now().saturating_duration_since(checked) < self.worker.limits.open_file_valid
    }
}

/// A path's child.
pub fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

fn identity(stat: &FileStat) -> (u64, u64) {
    (stat.device, stat.inode)
}

/// Reads a directory; may block, so it runs on a thread of its own. Each entry is looked at as a request would: beneath the
/// root, through links that stay inside it; what leads outside is not listed.
fn read_directory(root: &OwnedFd, path: &[u8], hidden: bool, limit: usize) -> io::Result<Listing> {
    let beneath = |path: &[u8], flags: OFlag| {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .mode(Mode::empty())
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(root.as_fd(), path, how)
    };
    let mut directory = Dir::from_fd(beneath(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?)?;
    let mut entries = Vec::new();
    for item in directory.iter() {
        let item = item?;
        let name = item.file_name().to_bytes();
        let nameable = !name.iter().any(u8::is_ascii_control);
        if name == b"." || name == b".." || !nameable || (name.starts_with(b".") && !hidden) {
            continue;
        }
        let Ok(stat) = beneath(&join(path, name), OFlag::O_PATH).and_then(fstat) else { continue };
        let kind = match stat.st_mode & libc::S_IFMT {
            libc::S_IFDIR => EntryKind::Directory,
            libc::S_IFREG => EntryKind::File,
            _ => continue,
        };
        if entries.len() == limit {
            return Ok(Listing { entries, truncated: true });
        }
        entries.push(Entry {
            name: name.to_vec(),
            kind,
            len: u64::try_from(stat.st_size).unwrap_or(0),
            modified: u64::try_from(stat.st_mtime).unwrap_or(0),
        });
    }
    Ok(Listing { entries, truncated: false })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::driver::Setup;
    use crate::driver::sim::{Content, Faults, Sim, World, explore};
    use crate::driver::slot::{Event, Token};
    use crate::rt::offload::Offload;
    use crate::rt::task::Tasks;
    use crate::rt::worker::{Agent, Turns};
    use crate::rt::{Entered, Runtime};

    /// One worker over the fake kernel, and two routes of it.
    struct Stage {
        world: Rc<World>,
        worker: Rc<Worker>,
        routes: [Rc<OpenFiles>; 2],
        turns: Turns,
        _entered: Entered,
    }

    /// Has no events, and does not wait once what was waited for has come.
    struct Flag(Rc<Cell<bool>>);

    impl Agent for Flag {
        fn completed(&mut self, _: Event) {}
        fn expired(&mut self, _: Token) {}
        fn woken(&mut self) {}
        fn turned(&mut self) {}
        fn finished(&self) -> bool {
            self.0.get()
        }
    }

    impl Stage {
        fn set(world: &Rc<World>, limits: Limits) -> Self {
            let setup = Setup {
                in_flight: 64,
                receive_buffers: (1, 1024),
                transfer_buffers: (1, 16 << 10),
                upload_buffers: (1, 1024),
                pipes: 2,
            };
            let driver = Box::new(Sim::new(world, &setup));
            let offload = Offload::start(0, 1).expect("no threads");
            let runtime = Runtime::new(driver, Tasks::new().expect("an eventfd"), offload);
            let entered = runtime.enter();
            let worker = Worker::new(&runtime, limits, Arc::default(), None, crate::config::SendPath::Auto);
            let shared = Shared::of(&worker);
            let routes = [(); 2].map(|()| Rc::new(OpenFiles::new(Path::new("/"), &worker, &shared)));
            Stage { world: world.clone(), worker, routes, turns: Turns::new(&runtime), _entered: entered }
        }

        fn run_until(&mut self, flag: &Rc<Cell<bool>>) {
            while !flag.get() {
                self.turns.turn(&mut Flag(flag.clone())).expect("the fake kernel goes on");
            }
        }

        fn run_for(&mut self, time: Duration) {
            let over = Rc::new(Cell::new(false));
            let flag = over.clone();
            self.world.schedule(time, move || flag.set(true));
            self.run_until(&over);
        }

        fn find(&mut self, route: usize, path: &'static str) -> Option<Rc<OpenFile>> {
            let (done, outcome) = (Rc::new(Cell::new(false)), Rc::new(RefCell::new(None)));
            let (files, flag, found) = (self.routes[route].clone(), done.clone(), outcome.clone());
            let task = self.worker.runtime.spawn(async move {
                *found.borrow_mut() = files.find(path.as_bytes()).await.ok();
                flag.set(true);
            });
            self.run_until(&done);
            drop(task);
            match outcome.take() {
                Some(Found::File(file)) => Some(file),
                _ => None,
            }
        }

        /// A file's bytes once it is hot.
        fn warm(&mut self, route: usize, path: &'static str) -> Option<Bytes> {
            let file = self.find(route, path).expect("a file");
            let contents = [(); 3].map(|()| file.current(None).expect("its status").content);
            contents.into_iter().flatten().next()
        }

        fn open_files(&self) -> usize {
            self.world.open_descriptors().files
        }

        /// Ends it, so that nothing is left for the next.
        fn strike(self) {
            self.worker.runtime.tasks().shut_down();
        }
    }

    const LEN: usize = 8000;

    fn add_files(stage: &mut Stage, paths: &[&str]) {
        for path in paths {
            stage.world.add_file(path, Content::Rule(LEN as u64, |offset| offset as u8));
        }
        // Until their tags are strong.
        stage.run_for(Duration::from_secs(5));
    }

    #[test]
    fn promise1_hot_bytes_count_until_the_last_reply_lets_go_of_them() {
        explore(Faults::NONE, |world| {
            let mut stage = Stage::set(world, Limits { open_files: 1, hot_files: LEN, ..Limits::default() });
            add_files(&mut stage, &["a", "b"]);
            let sent_slowly = stage.warm(0, "a").expect("in memory");
            // It takes the only entry, and no bytes: those of the other are still there.
            assert!(stage.warm(0, "b").is_none(), "more in memory than the budget has");
            assert_eq!((stage.worker.hot_files.left(), stage.open_files()), (0, 1));
            drop(sent_slowly);
            assert_eq!(stage.worker.hot_files.left(), LEN);
            assert!(stage.warm(0, "b").is_some());
            stage.strike();
        });
    }

    #[test]
    fn a_route_that_finds_memory_used_up_by_another_gets_some() {
        explore(Faults::NONE, |world| {
            let mut stage = Stage::set(world, Limits { hot_files: 2 * LEN, ..Limits::default() });
            add_files(&mut stage, &["a", "b", "c"]);
            assert!(stage.warm(0, "a").is_some() && stage.warm(0, "b").is_some());
            assert!(stage.warm(1, "c").is_some());
            stage.strike();
        });
    }

    #[test]
    fn a_deleted_file_that_nobody_asks_for_is_closed() {
        explore(Faults::NONE, |world| {
            let mut stage = Stage::set(world, Limits::default());
            add_files(&mut stage, &["a", "b", "c"]);
            for path in ["a", "b", "c"] {
                assert!(stage.find(0, path).is_some());
                world.remove(path);
            }
            // A path without a file is kept as the first to go, and is no reason to keep the others.
            let shared = stage.routes[0].shared.clone();
            for second in 0..12 {
                assert!(second > 9 || stage.open_files() == 3, "closed after {second} s");
                assert!(stage.find(1, "missing").is_none() && stage.find(0, "missing").is_none());
                shared.sweep();
                stage.run_for(Duration::from_secs(1));
            }
            assert_eq!(stage.open_files(), 0);
            stage.strike();
        });
    }

    #[test]
    fn what_is_asked_for_stays_open_however_old_it_is() {
        explore(Faults::NONE, |world| {
            let mut stage = Stage::set(world, Limits { open_file_valid: Duration::from_secs(60), ..Limits::default() });
            add_files(&mut stage, &["a"]);
            let first = stage.find(0, "a").expect("a file");
            for _ in 0..20 {
                stage.run_for(Duration::from_secs(50));
                stage.routes[0].shared.sweep();
                assert!(Rc::ptr_eq(&stage.find(0, "a").expect("a file"), &first), "opened again");
            }
            stage.strike();
        });
    }

    #[test]
    fn a_flood_of_wrong_paths_takes_no_entry_from_another_route() {
        explore(Faults::NONE, |world| {
            let mut stage = Stage::set(world, Limits { open_files: 2, ..Limits::default() });
            add_files(&mut stage, &["a", "b", "c"]);
            assert!(stage.find(0, "a").is_some() && stage.find(0, "b").is_some());
            for missing in ["x", "y", "z"] {
                assert!(stage.find(1, missing).is_none());
            }
            assert_eq!((stage.open_files(), stage.routes[0].cache.borrow().len()), (2, 2));
            // A file does.
            assert!(stage.find(1, "c").is_some());
            assert_eq!(stage.routes.each_ref().map(|route| route.cache.borrow().len()), [1, 1]);
            stage.strike();
        });
    }
}
