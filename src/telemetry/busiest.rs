//! The paths that keep a worker busiest, in a table of fixed length.
//!
//! Space-Saving (Metwally, Agrawal, El Abbadi: "Efficient Computation of Frequent and Top-k Elements in Data Streams", 2005): who
//! finds no place takes that of the lightest, and its weight with it. So the weight of a path is never less than it is, more
//! by at most what was taken over, and whoever weighs more than the whole by the number of places has one. What is *shown* of a path,
//! its requests and bytes, is counted from when it got its place: never too much.
//!
//! A path weighs what it costs: its bytes, and [`REQUEST_WEIGHT`] for each request. Only bytes would hide what is asked for a
//! hundred thousand times a second, only requests the film that fills the line.
//!
//! There are two tables, of this window of time and of the one before; both together are the last one to two windows. Counts that decay
//! were rejected: nobody can check them against anything. What is found moves one place towards the front, so that the busiest
//! are found first, and finding one of them costs a comparison or two.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use percent_encoding::percent_decode_str;

/// What a request weighs beside its bytes: what sending so many of them costs, as measured.
const REQUEST_WEIGHT: u64 = 32 << 10;

/// How long a window is.
pub const WINDOW: Duration = Duration::from_secs(30);

/// A path that is counted, as it was asked for.
#[derive(Debug)]
pub struct CountedPath {
    hash: u64,
    text: Box<str>,
}

impl CountedPath {
    /// Length in bytes.
    pub fn text_len(&self) -> usize {
        self.text.len()
    }
}

/// The busiest paths of one worker.
#[derive(Debug)]
pub struct BusiestPaths {
    places: usize,
    path_len: usize,
    /// When this window began.
    began: Instant,
    now: Table,
    before: Table,
}

/// How busy a path was.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct BusyPath {
    /// The path, decoded as far as it is text.
    pub path: String,
    /// Requests that were answered with it.
    pub requests: u64,
    /// Bytes that were sent of it.
    pub bytes: u64,
}

impl BusyPath {
    /// By what the busiest are found.
    pub fn weight(&self) -> u64 {
        weight(self.requests, self.bytes)
    }
}

impl BusiestPaths {
    /// Empty tables of this many places, for paths of at most `path_len` bytes; longer ones are not counted.
    pub fn new(places: usize, path_len: usize, now: Instant) -> Self {
        BusiestPaths { places, path_len, began: now, now: Table::default(), before: Table::default() }
    }

    /// What to count this path by; `None` if it is too long.
    pub fn path(&self, text: &str) -> Option<Rc<CountedPath>> {
        if text.len() > self.path_len {
            return None;
        }
        let hash = hash(text.as_bytes());
        let known =
            [&self.now, &self.before].into_iter().find_map(|table| table.find(hash, text).map(|at| &table.0[at]));
        Some(known.map_or_else(|| Rc::new(CountedPath { hash, text: text.into() }), |place| place.path.clone()))
    }

    /// So many more requests and bytes.
    pub fn count(&mut self, path: &Rc<CountedPath>, requests: u64, bytes: u64, now: Instant) {
        self.advance(now);
        let place = self.now.place(path, self.places);
        place.requests += requests;
        place.bytes += bytes;
        place.weight = place.weight.saturating_add(weight(requests, bytes));
    }

    /// What was counted in this window and the one before, in no order.
    pub fn list(&mut self, now: Instant) -> Vec<BusyPath> {
        self.advance(now);
        let places = self.now.0.iter().chain(&self.before.0).filter(|place| place.requests + place.bytes > 0);
        merged(places.map(|place| BusyPath {
            path: percent_decode_str(&place.path.text).decode_utf8_lossy().into_owned(),
            requests: place.requests,
            bytes: place.bytes,
        }))
    }

    fn advance(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.began);
        if passed < WINDOW {
            return;
        }
        let last = std::mem::take(&mut self.now);
        self.before = if passed < 2 * WINDOW { last } else { Table::default() };
        self.began = if passed < 2 * WINDOW { self.began + WINDOW } else { now };
    }
}

/// Each path once, with all that was counted of it: in several windows or workers, or spelled in several ways.
pub fn merged(paths: impl IntoIterator<Item = BusyPath>) -> Vec<BusyPath> {
    let mut merged: HashMap<String, (u64, u64)> = HashMap::new();
    for BusyPath { path, requests, bytes } in paths {
        let sum = merged.entry(path).or_default();
        *sum = (sum.0 + requests, sum.1 + bytes);
    }
    merged.into_iter().map(|(path, (requests, bytes))| BusyPath { path, requests, bytes }).collect()
}

/// Tells nearly all texts apart at a glance; those of the same hash are compared, so that who makes them collide gains nothing but
/// a few comparisons.
fn hash(text: &[u8]) -> u64 {
    let mix = |state: u64, word: u64| (state.rotate_left(5) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let (words, rest) = text.as_chunks::<8>();
    let state = words.iter().fold(text.len() as u64, |state, word| mix(state, u64::from_le_bytes(*word)));
    rest.iter().fold(state, |state, byte| mix(state, u64::from(*byte)))
}

fn weight(requests: u64, bytes: u64) -> u64 {
    requests.saturating_mul(REQUEST_WEIGHT).saturating_add(bytes)
}

/// The paths of one window.
#[derive(Debug, Default)]
struct Table(Vec<Place>);

#[derive(Debug)]
struct Place {
    path: Rc<CountedPath>,
    hash: u64,
    /// An upper bound: with what was taken over from the path that stood here before.
    weight: u64,
    requests: u64,
    bytes: u64,
}

impl Table {
    fn find(&self, hash: u64, text: &str) -> Option<usize> {
        self.0.iter().position(|place| place.hash == hash && *place.path.text == *text)
    }

    /// The path's place: it has one, there is one, or it takes the lightest.
    fn place(&mut self, path: &Rc<CountedPath>, places: usize) -> &mut Place {
        let at = match self.find(path.hash, &path.text) {
            Some(0) => 0,
            Some(at) => {
                self.0.swap(at, at - 1);
                at - 1
            }
            None if self.0.len() < places => {
                self.0.push(Place { path: path.clone(), hash: path.hash, weight: 0, requests: 0, bytes: 0 });
                self.0.len() - 1
            }
            None => {
                let lightest = self.0.iter().enumerate().min_by_key(|(_, place)| place.weight);
                let (at, weight) = lightest.map_or((0, 0), |(at, place)| (at, place.weight));
                self.0[at] = Place { path: path.clone(), hash: path.hash, weight, requests: 0, bytes: 0 };
                at
            }
        };
        &mut self.0[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    const PLACES: usize = 8;

    fn count(paths: &mut BusiestPaths, text: &str, requests: u64, bytes: u64, now: Instant) {
        let path = paths.path(text).expect("short enough");
        paths.count(&path, requests, bytes, now);
    }

    fn listed(paths: &mut BusiestPaths, now: Instant) -> BTreeMap<String, (u64, u64)> {
        paths.list(now).into_iter().map(|busy| (busy.path, (busy.requests, busy.bytes))).collect()
    }

    #[test]
    fn a_path_is_counted_once_however_it_is_spelled() {
        let now = Instant::now();
        let mut paths = BusiestPaths::new(PLACES, 100, now);
        count(&mut paths, "/a%20b", 1, 10, now);
        count(&mut paths, "/%61%20b", 1, 10, now);
        count(&mut paths, "/a%20b", 0, 5, now);
        count(&mut paths, "/%ff%3Cb%3E", 1, 0, now);
        let expected = [("/a b".to_owned(), (2, 25)), ("/\u{fffd}<b>".to_owned(), (1, 0))];
        assert_eq!(listed(&mut paths, now), BTreeMap::from(expected));
    }

    #[test]
    fn a_path_over_the_bound_is_not_counted() {
        let paths = BusiestPaths::new(PLACES, 4, Instant::now());
        assert!(paths.path("/abc").is_some());
        assert!(paths.path("/abcd").is_none());
    }

    #[test]
    fn what_is_older_than_two_windows_is_gone() {
        let start = Instant::now();
        let mut paths = BusiestPaths::new(PLACES, 100, start);
        let after = |seconds| start + Duration::from_secs(seconds);
        count(&mut paths, "/old", 1, 1, after(0));
        count(&mut paths, "/new", 1, 1, after(29));
        assert_eq!(listed(&mut paths, after(59)).len(), 2);
        count(&mut paths, "/new", 1, 1, after(59));
        assert_eq!(listed(&mut paths, after(60)), BTreeMap::from([("/new".to_owned(), (1, 1))]));
        // Nothing came for so long that both windows are over.
        count(&mut paths, "/last", 1, 1, after(500));
        assert_eq!(listed(&mut paths, after(500)), BTreeMap::from([("/last".to_owned(), (1, 1))]));
        assert!(listed(&mut paths, after(900)).is_empty());
    }

    #[test]
    fn a_flood_of_paths_takes_no_more_places_and_does_not_hide_the_busiest() {
        let now = Instant::now();
        let mut paths = BusiestPaths::new(PLACES, 100, now);
        for number in 0..10_000 {
            count(&mut paths, &format!("/flood/{number}"), 1, 0, now);
            if number % 4 == 0 {
                count(&mut paths, "/film", 1, 1000, now);
            }
        }
        assert_eq!(paths.now.0.len(), PLACES);
        let listed = listed(&mut paths, now);
        assert_eq!(listed.get("/film"), Some(&(2500, 2_500_000)), "it never lost its place");
        // Moved to the front by being found.
        assert_eq!(&*paths.now.0[0].path.text, "/film");
    }

    proptest! {
        /// The paper's lemmas: a weight is at least the true one, what is shown at most; and who weighs more than the whole by
        /// the number of places has a place.
        #[test]
        fn weights_are_upper_bounds_and_what_is_shown_is_a_lower_one(
            counted in prop::collection::vec((0..30_u32, 0..3_u64, 0..100_000_u64), 1..400)
        ) {
            let now = Instant::now();
            let mut paths = BusiestPaths::new(PLACES, 100, now);
            let mut truth: BTreeMap<String, (u64, u64)> = BTreeMap::new();
            for (number, requests, bytes) in counted {
                let text = format!("/{number}");
                count(&mut paths, &text, requests, bytes, now);
                let entry = truth.entry(text).or_default();
                *entry = (entry.0 + requests, entry.1 + bytes);
            }
            let whole: u64 = truth.values().map(|(requests, bytes)| weight(*requests, *bytes)).sum();
            prop_assert!(paths.now.0.len() <= PLACES);
            let lightest = paths.now.0.iter().map(|place| place.weight).min().unwrap_or(0);
            for place in &paths.now.0 {
                let (requests, bytes) = truth[&*place.path.text];
                prop_assert!(place.weight >= weight(requests, bytes));
                prop_assert!(place.requests <= requests && place.bytes <= bytes);
                prop_assert!(place.weight <= weight(requests, bytes) + lightest);
            }
            for (text, (requests, bytes)) in truth {
                let has_place = paths.now.0.iter().any(|place| *place.path.text == *text);
                prop_assert!(has_place || weight(requests, bytes) <= whole / PLACES as u64);
            }
        }
    }
}
