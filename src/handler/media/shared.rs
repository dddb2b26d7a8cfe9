//! What the media routes of one worker share: one bound on the bytes of listings, one on open files, and who gives way.
//!
//! Each route has a cache of its own, whose look-ups need no key that names the route. When the bound on entries is used up,
//! the route with the most of them gives one up: so no route is locked out by the others, and one that walks through a large
//! folder ends with its fair part. What nobody has asked for in a while is let go, because an open descriptor keeps the disk
//! space of a deleted file. Requests drive that, a bounded number of entries each; a task with a timer was rejected, because
//! an idle worker has no tasks.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::rc::{Rc, Weak};
use std::time::Instant;

use lru::LruCache;

use super::open_files::{Found, NotFound};
use crate::http::{Budget, Share, Worker};
use crate::limits::Limits;

/// The cached answers of one route, by path; most recently asked for first, but that nothing is there comes last.
pub type Entries = RefCell<LruCache<Box<[u8]>, Cached>>;

/// What a path was found to name.
pub struct Cached {
    /// The answer.
    pub found: Result<Found, NotFound>,
    /// When the file system gave it.
    pub checked: Instant,
    /// When it was last asked for.
    pub used: Instant,
    /// Its part of the worker's open files.
    pub share: Share,
}

/// What the media routes of one worker share.
pub struct Shared {
    /// Bytes that listings may take, from their first to when the last of their readers has them.
    pub listings: Budget,
    worker: Rc<Worker>,
    routes: RefCell<Vec<Weak<Entries>>>,
    /// When there is to be looked for unused entries next.
    sweep_at: Cell<Option<Instant>>,
}

thread_local! {
    /// Where the routes of a worker find each other; a worker stays on its thread, and a thread may have had others before.
    static ALL: RefCell<Vec<Weak<Shared>>> = const { RefCell::new(Vec::new()) };
}

impl Shared {
    /// What this worker's routes share, as long as it has any.
    pub fn of(worker: &Rc<Worker>) -> Rc<Self> {
        ALL.with_borrow_mut(|all| {
            all.retain(|shared| shared.strong_count() > 0);
            let known = all.iter().filter_map(Weak::upgrade).find(|shared| Rc::ptr_eq(&shared.worker, worker));
            known.unwrap_or_else(|| {
                let shared = Rc::new(Shared {
                    listings: Budget::new(worker.limits.listing_bytes),
                    worker: worker.clone(),
                    routes: RefCell::default(),
                    sweep_at: Cell::default(),
                });
                all.push(Rc::downgrade(&shared));
                shared
            })
        })
    }

    /// The cache of one more route.
    pub fn add_route(&self) -> Rc<Entries> {
        let entries = Rc::new(RefCell::new(LruCache::unbounded()));
        let mut routes = self.routes.borrow_mut();
        routes.retain(|route| route.strong_count() > 0);
        routes.push(Rc::downgrade(&entries));
        entries
    }

    fn routes(&self) -> Vec<Rc<Entries>> {
        self.routes.borrow().iter().filter_map(Weak::upgrade).collect()
    }

    /// A share for one more entry of `own`. That nothing is there takes no place from another route, nor does a route that
    /// has such an entry to give.
    pub fn room(&self, own: &Entries, found: &Result<Found, NotFound>) -> Option<Share> {
        loop {
            if let Some(share) = self.worker.open_files.take(1) {
                return Some(share);
            }
            let has_spare = own.borrow().peek_lru().is_some_and(|(_, last)| last.found.is_err());
            let gone = if found.is_err() || has_spare {
                own.borrow_mut().pop_lru()
            } else {
                let size = |route: &Rc<Entries>| (route.borrow().len(), std::ptr::eq(&**route, own));
                let largest = self.routes().into_iter().max_by_key(size)?;
                largest.borrow_mut().pop_lru()
            };
            gone?;
        }
    }

    /// While the bytes kept in memory leave no room for one more small file, those of the files that were asked for least
    /// recently go, of the route with the most entries first.
    pub fn cool_the_oldest(&self) {
        let hot_files = &self.worker.hot_files;
        let enough = Limits::SMALL_REPLY_LEN.min(self.worker.limits.hot_files);
        if hot_files.left() >= enough {
            return;
        }
        let mut routes = self.routes();
        routes.sort_by_key(|route| Reverse(route.borrow().len()));
        for route in routes {
            for (_, cached) in route.borrow().iter().rev() {
                if hot_files.left() >= enough {
                    return;
                }
                if let Ok(Found::File(file)) = &cached.found {
                    file.cool();
                }
            }
        }
    }

    /// Lets go of entries that nobody has asked for in a while, if it is time to look for them.
    pub fn sweep(&self) {
        let now = self.worker.runtime.now();
        if self.sweep_at.get().is_some_and(|at| now < at) {
            return;
        }
        let patience = self.worker.limits.open_file_valid.saturating_mul(10).max(Limits::OPEN_FILE_UNUSED);
        let is_unused = |cached: &Cached| now.saturating_duration_since(cached.used) >= patience;
        let mut left = Limits::OPEN_FILES_SWEPT;
        for route in self.routes() {
            // In the order of use, but for the entries that are kept as the first to go.
            let unused: Vec<Box<[u8]>> = route
                .borrow()
                .iter()
                .rev()
                .take_while(|(_, cached)| cached.found.is_err() || is_unused(cached))
                .filter(|(_, cached)| is_unused(cached))
                .map(|(path, _)| path.clone())
                .take(left)
                .collect();
            left -= unused.len();
            for path in unused {
                let gone = route.borrow_mut().pop(&path);
                drop(gone);
            }
        }
        // Where there may be more, the next request goes on.
        if left > 0 {
            self.sweep_at.set(now.checked_add(patience / 10));
        }
    }
}
