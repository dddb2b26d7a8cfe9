//! The open-file cache: paths beneath a root, as open descriptors.
//!
//! Opening is the expensive part of a small reply, so descriptors stay open and are believed for `open_file_valid`. What an
//! entry says of the *content* is never believed: length and validators come from an fstat of the descriptor at each request.
//! So a file changed in place is served changed at once; one that was replaced by another is seen at the latest when the
//! entry's time is over. The root itself is looked up again in the same rhythm, so that it may be a link that is swapped (P2).

use std::cell::{OnceCell, RefCell};
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Instant, UNIX_EPOCH};

use http::StatusCode;
use lru::LruCache;
use nix::dir::Dir;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, fstat};

use super::Description;
use super::listing::{Entry, EntryKind, Listing};
use crate::driver::{FileKind, FileStat};
use crate::http::Worker;
use crate::proto::conditional::{FileVersion, Validators};
use crate::proto::content_coding::Coding;
use crate::proto::http1::encode::ResponseHead;
use crate::rt::fs::File;

/// One worker's open files of one root.
pub struct OpenFiles {
    worker: Rc<Worker>,
    path: PathBuf,
    root: RefCell<Option<Root>>,
    cache: RefCell<Option<LruCache<Box<[u8]>, Cached>>>,
}

struct Root {
    directory: Rc<File>,
    identity: (u64, u64),
    checked: Instant,
}

#[derive(Clone)]
struct Cached {
    found: Result<Found, NotFound>,
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
    /// The last answer of [`OpenFile::version`], and what it was made from.
    known: RefCell<Option<Known>>,
}

struct Known {
    stat: FileStat,
    coding: Option<Coding>,
    version: Rc<Version>,
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

impl OpenFile {
    /// Length and validators of this moment, by fstat.
    pub fn version(&self, coding: Option<Coding>) -> io::Result<Rc<Version>> {
        let stat = self.file.stat()?;
        if let Some(known) = &*self.known.borrow()
            && (known.stat, known.coding) == (stat, coding)
        {
            return Ok(known.version.clone());
        }
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
        let version = Rc::new(Version { len: stat.len, validators, lines });
        // A young file's weak tag becomes strong by age alone, so it is not kept.
        let settled = !version.validators.etag.is_weak() && version.validators.modified_is_strong;
        *self.known.borrow_mut() = settled.then(|| Known { stat, coding, version: version.clone() });
        Ok(version)
    }
}

impl OpenFiles {
    /// No open files yet.
    pub fn new(root: &Path, worker: &Rc<Worker>) -> Self {
        let cache = NonZeroUsize::new(worker.limits.open_files).map(LruCache::new);
        OpenFiles {
            worker: worker.clone(),
            path: root.to_path_buf(),
            root: RefCell::default(),
            cache: RefCell::new(cache),
        }
    }

    /// The file that `path` names, if that is known without asking the file system.
    pub fn known_file(&self, path: &[u8]) -> Option<Rc<OpenFile>> {
        if !self.root.borrow().as_ref().is_some_and(|root| self.is_fresh(root.checked)) {
            return None;
        }
        let mut cache = self.cache.borrow_mut();
        match cache.as_mut()?.get(path)? {
            Cached { found: Ok(Found::File(file)), checked } if self.is_fresh(*checked) => {
                self.worker.metrics.file_cache_hits.increment();
                Some(file.clone())
            }
            _ => None,
        }
    }

    /// What `path`, relative to the root, names.
    pub async fn find(&self, path: &[u8]) -> Result<Found, NotFound> {
        let root = self.root().await?;
        let known = self.cache.borrow_mut().as_mut().and_then(|cache| cache.get(path).cloned());
        if let Some(known) = &known
            && self.is_fresh(known.checked)
        {
            self.worker.metrics.file_cache_hits.increment();
            return known.found.clone();
        }
        self.worker.metrics.file_cache_misses.increment();
        let found = match (self.open(&root, path).await, known.map(|known| known.found)) {
            // The same file as before: keep the descriptor that others are using.
            (Ok(Found::File(new)), Some(Ok(Found::File(old)))) if new.identity == old.identity => Ok(Found::File(old)),
            // Out of descriptors: what is open already still serves.
            (Err(NotFound::Busy), Some(Ok(old))) => return Ok(old),
            (found, _) => found,
        };
        if !matches!(found, Err(NotFound::Busy | NotFound::Failed))
            && let Some(cache) = self.cache.borrow_mut().as_mut()
        {
            cache.put(path.into(), Cached { found: found.clone(), checked: self.worker.runtime.now() });
        }
        found
    }

    /// The entries of a directory beneath the root, at most `limit`. Names that no path can ask for are left out,
    /// and dotfiles unless they are served.
    pub async fn list(&self, path: &[u8], hidden: bool, limit: usize) -> Result<Listing, NotFound> {
        let root = self.root().await?.duplicate().map_err(|error| NotFound::of(&error))?;
        let path = if path.is_empty() { b".".to_vec() } else { path.to_vec() };
        let listed = self.worker.runtime.offload().run(move || read_directory(&root, &path, hidden, limit)).await;
        match listed {
            Ok(listing) => listing.map_err(|error| NotFound::of(&error)),
            Err(crate::rt::offload::Busy) => Err(NotFound::Busy),
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
                self.cache.borrow_mut().as_mut().map(LruCache::clear);
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
