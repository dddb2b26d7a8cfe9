//! How times are distributed: a count for each of a few spans, from 10 µs to a minute.
//!
//! The spans are those of 1, 2 and 5 times the powers of ten: each is about twice the one below, so that a percentile that is
//! read from them is off by less than that, whatever the times are. Counting finds the span in five comparisons and writes two words.
//! A histogram of finer, computed spans (HDR) was rejected: nobody looks at what it would tell beyond this, and its text for
//! Prometheus would be hundreds of lines for each scrape.

use std::fmt::{self, Write};
use std::time::Duration;

use super::metrics::Counter;

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;

/// Where the spans end, in nanoseconds, the end included; the last span has none.
#[rustfmt::skip]
pub const EDGES: [u64; 21] = [
    10 * US, 20 * US, 50 * US, 100 * US, 200 * US, 500 * US,
    MS, 2 * MS, 5 * MS, 10 * MS, 20 * MS, 50 * MS, 100 * MS, 200 * MS, 500 * MS,
    SECOND, 2 * SECOND, 5 * SECOND, 10 * SECOND, 30 * SECOND, 60 * SECOND,
];

/// How many times fell into each span: not cumulated.
pub type Counts = [u64; EDGES.len() + 1];

/// Counts of times. Its worker writes it, anyone reads it.
#[derive(Debug, Default)]
pub struct Histogram {
    spans: [Counter; EDGES.len() + 1],
    nanoseconds: Counter,
}

impl Histogram {
    /// One more time.
    pub fn observe(&self, time: Duration) {
        self.observe_several(time, 1);
    }

    /// `n` more times, all of this length.
    pub fn observe_several(&self, time: Duration, n: u64) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.spans[EDGES.partition_point(|edge| *edge < nanoseconds)].add(n);
        self.nanoseconds.add(nanoseconds.saturating_mul(n));
    }

    /// Adds what was counted so far.
    pub fn add_to(&self, sum: &mut Times) {
        self.spans.iter().zip(&mut sum.counts).for_each(|(span, count)| *count += span.get());
        sum.nanoseconds = sum.nanoseconds.wrapping_add(self.nanoseconds.get());
    }
}

/// What several histograms have counted at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// In each span.
    pub counts: Counts,
    /// All times together, in nanoseconds.
    pub nanoseconds: u64,
}

impl Times {
    /// How many times were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// What was counted since an earlier moment.
    #[must_use]
    pub fn since(&self, earlier: &Times) -> Times {
        Times {
            counts: std::array::from_fn(|span| self.counts[span].saturating_sub(earlier.counts[span])),
            nanoseconds: self.nanoseconds.wrapping_sub(earlier.nanoseconds),
        }
    }

    /// The time that this part of all times does not exceed, in nanoseconds, as if the times of a span lay evenly in it; `None`
    /// when there are none. What lies beyond the last edge is told as that edge.
    pub fn percentile(&self, percent: u32) -> Option<u64> {
        let rank = (self.count() as f64 * f64::from(percent) / 100.0).max(1.0);
        let mut below = 0.0;
        let mut start = 0;
        for (count, end) in self.counts.iter().zip(EDGES) {
            let count = *count as f64;
            if count > 0.0 && below + count >= rank {
                return Some(start + ((end - start) as f64 * (rank - below) / count) as u64);
            }
            below += count;
            start = end;
        }
        (self.count() > 0).then_some(start)
    }

    /// Writes the samples of a Prometheus histogram with this name: each span with all below it, in seconds.
    pub(super) fn write(&self, out: &mut String, name: &str) -> fmt::Result {
        let mut cumulated = 0;
        for (count, edge) in self.counts.iter().zip(EDGES) {
            cumulated += count;
            writeln!(out, "{name}_bucket{{le=\"{}\"}} {cumulated}", seconds(edge))?;
        }
        let count = self.count();
        writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {count}")?;
        writeln!(out, "{name}_sum {}\n{name}_count {count}", seconds(self.nanoseconds))
    }
}

/// Nanoseconds in seconds.
pub fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(histogram: &Histogram) -> Times {
        let mut times = Times::default();
        histogram.add_to(&mut times);
        times
    }

    #[test]
    fn an_edge_belongs_to_the_span_that_it_ends() {
        for (span, edge) in EDGES.into_iter().enumerate() {
            let histogram = Histogram::default();
            histogram.observe(Duration::from_nanos(edge - 1));
            histogram.observe(Duration::from_nanos(edge));
            histogram.observe(Duration::from_nanos(edge + 1));
            let times = times(&histogram);
            assert_eq!((times.counts[span], times.counts[span + 1]), (2, 1), "{edge}");
            assert_eq!((times.count(), times.nanoseconds), (3, 3 * edge));
        }
        let histogram = Histogram::default();
        histogram.observe(Duration::ZERO);
        histogram.observe(Duration::MAX);
        assert_eq!((times(&histogram).counts[0], times(&histogram).counts[EDGES.len()]), (1, 1));
    }

    #[test]
    fn edges_rise_by_no_more_than_a_factor_of_three() {
        assert!(EDGES.windows(2).all(|pair| pair[0] < pair[1] && pair[1] <= 3 * pair[0]));
    }

    #[track_caller]
    fn check(observed: &[(u64, u64)], percent: u32, expected: Option<u64>) {
        let histogram = Histogram::default();
        observed.iter().for_each(|(time, n)| histogram.observe_several(Duration::from_nanos(*time), *n));
        assert_eq!(times(&histogram).percentile(percent), expected);
    }

    #[test]
    fn percentiles_lie_in_their_span() {
        check(&[], 50, None);
        // All in the span from 1 to 2 ms: evenly.
        check(&[(2 * MS, 100)], 50, Some(MS + MS / 2));
        check(&[(2 * MS, 100)], 100, Some(2 * MS));
        check(&[(2 * MS, 1)], 0, Some(2 * MS));
        // At the border of two spans, and behind it.
        check(&[(2 * MS, 50), (SECOND, 50)], 50, Some(2 * MS));
        check(&[(2 * MS, 50), (SECOND, 50)], 99, Some(SECOND - SECOND / 2 / 50));
        check(&[(3600 * SECOND, 1)], 50, Some(60 * SECOND));
        check(&[(5 * US, 99), (3600 * SECOND, 1)], 99, Some(10 * US));
    }

    #[test]
    fn what_was_counted_since_is_the_difference() {
        let histogram = Histogram::default();
        histogram.observe_several(Duration::from_millis(3), 7);
        let before = times(&histogram);
        histogram.observe_several(Duration::from_secs(2), 2);
        let since = times(&histogram).since(&before);
        assert_eq!((since.count(), since.nanoseconds, since.counts[16]), (2, 4 * SECOND, 2));
    }
}
