//! What the server counts, at one moment, for those who draw it.
//!
//! Counters are told as they are, since the start: who draws has the one before, so that nothing is wrong when one of them was
//! missed. Only percentiles are told of the time since the last snapshot, because they are no differences.

use std::sync::PoisonError;
use std::time::UNIX_EPOCH;

use serde::Serialize;

use super::busiest::{self, BusyPath};
use super::histogram::{Counts, EDGES, Times, seconds};
use super::metrics::{FAMILIES, Kind, Metrics, WorkerMetrics, resident_bytes};

/// What does not change while the server runs.
#[derive(Serialize)]
pub(crate) struct Description {
    version: &'static str,
    driver: &'static str,
    /// When the server started, in seconds since the Unix epoch.
    started: f64,
    workers: usize,
    families: Vec<FamilyDescription>,
    /// Where the spans of [`FirstByte::counts`] end, in seconds; the last has no end.
    first_byte_edges: [f64; EDGES.len()],
    /// How long [`Snapshot::busiest`] looks back at least, in seconds; at most twice as long.
    busiest_window: u64,
}

#[derive(Serialize)]
struct FamilyDescription {
    name: &'static str,
    help: &'static str,
    /// Whether it only grows.
    counts: bool,
}

/// What the server has counted.
#[derive(Serialize)]
pub(crate) struct Snapshot {
    /// Since the server started, in seconds.
    uptime: f64,
    /// Resident memory of the process, in bytes.
    resident: Option<u64>,
    /// Each family's values, a number for each worker, in the order of the description.
    families: Vec<Vec<u64>>,
    /// Replies of each worker that answered a request.
    requests: Vec<u64>,
    /// How long each worker has been on a processor, in seconds.
    cpu: Vec<Option<f64>>,
    /// Replies by class, 1xx to 5xx.
    responses: [u64; 5],
    first_byte: FirstByte,
    busiest: Vec<BusyPath>,
}

/// Times to the first byte.
#[derive(Serialize)]
struct FirstByte {
    counts: Counts,
    /// All of them together, in seconds.
    sum: f64,
    /// The 50th, the 90th and the 99th percentile of those since the last snapshot, in seconds; `None` when there were none.
    percentiles: Option<[f64; 3]>,
}

impl Metrics {
    /// What does not change.
    pub(crate) fn description(&self) -> Description {
        let families = FAMILIES.iter().map(|family| FamilyDescription {
            name: family.field,
            help: family.help.trim(),
            counts: family.kind == Kind::Counter,
        });
        Description {
            version: env!("CARGO_PKG_VERSION"),
            driver: self.driver,
            started: self.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
            workers: self.workers.len(),
            families: families.collect(),
            first_byte_edges: EDGES.map(seconds),
            busiest_window: busiest::WINDOW.as_secs(),
        }
    }

    /// What has been counted; `since` is what times to the first byte were at the last snapshot, and becomes what they are. At
    /// most `paths` of the busiest are told.
    pub(crate) fn snapshot(&self, since: &mut Times, paths: usize) -> Snapshot {
        let each = |read: &dyn Fn(&WorkerMetrics) -> u64| self.workers.iter().map(|worker| read(worker)).collect();
        let mut responses = [0; 5];
        for worker in &self.workers {
            responses.iter_mut().zip(worker.responses.by_class()).for_each(|(sum, n)| *sum += n);
        }
        let times = self.first_byte();
        let recent = times.since(&std::mem::replace(since, times));
        let percentile = |percent| recent.percentile(percent).map(seconds);
        Snapshot {
            uptime: self.began.elapsed().as_secs_f64(),
            resident: resident_bytes(),
            families: FAMILIES.iter().map(|family| each(&family.read)).collect(),
            requests: each(&|worker| worker.responses.answers()),
            cpu: self.workers.iter().map(|worker| worker.cpu_time().map(seconds)).collect(),
            responses,
            first_byte: FirstByte {
                counts: times.counts,
                sum: seconds(times.nanoseconds),
                percentiles: percentile(50).zip(percentile(90)).zip(percentile(99)).map(|((a, b), c)| [a, b, c]),
            },
            busiest: self.busiest(paths),
        }
    }

    /// The busiest paths that workers have shown, the busiest first.
    fn busiest(&self, most: usize) -> Vec<BusyPath> {
        let shown = self.busiest.iter().flat_map(|shown| shown.lock().unwrap_or_else(PoisonError::into_inner).clone());
        let mut paths = busiest::merged(shown);
        paths.sort_by(|a, b| b.weight().cmp(&a.weight()).then_with(|| a.path.cmp(&b.path)));
        paths.truncate(most);
        paths
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn busy(path: &str, requests: u64, bytes: u64) -> BusyPath {
        BusyPath { path: path.to_owned(), requests, bytes }
    }

    #[test]
    fn what_workers_show_is_put_together_and_cut() {
        let metrics = Metrics::new(2, 0, "sim");
        metrics.show_busiest(0, vec![busy("/a", 1, 10), busy("/b", 1, 0)]);
        metrics.show_busiest(1, vec![busy("/a", 1, 10), busy("/c", 9, 0)]);
        let snapshot = metrics.snapshot(&mut Times::default(), 2);
        assert_eq!(snapshot.busiest, [busy("/c", 9, 0), busy("/a", 2, 20)]);
        // What a worker shows replaces what it showed.
        metrics.show_busiest(1, vec![]);
        assert_eq!(metrics.snapshot(&mut Times::default(), 9).busiest.len(), 2);
    }

    #[test]
    fn percentiles_are_of_what_came_since_the_last_snapshot() {
        let metrics = Metrics::new(1, 0, "sim");
        let mut since = Times::default();
        metrics.worker(0).time_to_first_byte.observe(Duration::from_secs(1));
        assert_eq!(metrics.snapshot(&mut since, 0).first_byte.percentiles, Some([1.0; 3]));
        let second = metrics.snapshot(&mut since, 0).first_byte;
        assert_eq!((second.percentiles, second.sum), (None, 1.0));
    }

    /// What a file is called comes from whoever made it.
    #[test]
    fn a_path_with_markup_and_controls_is_one_string_of_json() {
        let path = "/<script>alert(\"1\")</script>\n\u{2028}\\";
        let metrics = Metrics::new(1, 0, "sim");
        metrics.show_busiest(0, vec![busy(path, 1, 0)]);
        let json = serde_json::to_string(&metrics.snapshot(&mut Times::default(), 9)).expect("it is JSON");
        assert!(!json.contains('\n'));
        let value: serde_json::Value = serde_json::from_str(&json).expect("it is JSON");
        assert_eq!(value["busiest"][0]["path"], path);
    }

    #[test]
    fn families_are_told_in_the_order_of_their_description() {
        let metrics = Metrics::new(2, 0, "sim");
        metrics.worker(1).bytes_sent.add(7);
        let description = metrics.description();
        let at = description.families.iter().position(|family| family.name == "bytes_sent").expect("it is described");
        let snapshot = metrics.snapshot(&mut Times::default(), 0);
        assert_eq!(snapshot.families[at], [0, 7]);
        assert_eq!(snapshot.families.len(), description.families.len());
    }
}
