//! Not faster than so many bytes a second.

use std::io::{self, Read};
use std::thread;
use std::time::{Duration, Instant};

/// For how long bytes are sent at once, at most: the grain of the rate.
const GRAIN: u64 = 10;

/// How far behind its rate an upload may be and make good for it.
const MAX_DEBT: Duration = Duration::from_secs(1);

/// A rate over all that is sent.
#[derive(Debug)]
pub(super) struct Pace {
    /// Bytes a second.
    rate: u64,
    /// When the next byte may be sent.
    next: Instant,
}

impl Pace {
    pub fn new(rate: u64, now: Instant) -> Self {
        Pace { rate: rate.max(1), next: now }
    }

    /// The most bytes that may be sent at once.
    fn most(&self) -> usize {
        usize::try_from(self.rate / GRAIN).unwrap_or(usize::MAX).max(1)
    }

    /// Notes that so many bytes go out, and says how long to wait before.
    fn spend(&mut self, bytes: usize, now: Instant) -> Duration {
        // What was not used long ago is lost: a pause is not followed by a flood.
        self.next = self.next.max(now.checked_sub(MAX_DEBT).unwrap_or(now));
        let wait = self.next.saturating_duration_since(now);
        self.next += Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        wait
    }
}

/// A body that is read at a pace, if there is one, and whose bytes are told to `count`.
pub(super) struct Paced<'a, R, F> {
    pub body: R,
    pub pace: Option<&'a mut Pace>,
    pub count: F,
}

impl<R: Read, F: FnMut(u64)> Read for Paced<'_, R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(self.pace.as_ref().map_or(usize::MAX, |pace| pace.most()));
        let count = self.body.read(&mut buffer[..most])?;
        if let Some(pace) = &mut self.pace {
            thread::sleep(pace.spend(count, Instant::now()));
        }
        (self.count)(count as u64);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_due_at_the_rate_and_a_pause_makes_no_flood() {
        let start = Instant::now();
        let mut pace = Pace::new(1000, start);
        assert_eq!(pace.most(), 100);
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        assert_eq!(pace.spend(100, start), Duration::ZERO);
        assert_eq!(pace.spend(100, start), Duration::from_millis(100));
        assert_eq!(pace.spend(100, at(0.15)), Duration::from_millis(50));
        assert_eq!(pace.spend(100, at(0.35)), Duration::ZERO);
        // A minute later a second's worth goes at once, and then the rate holds again.
        for _ in 0..10 {
            assert_eq!(pace.spend(100, at(60.0)), Duration::ZERO);
        }
        assert_eq!(pace.spend(100, at(60.0)), Duration::ZERO);
        assert_eq!(pace.spend(100, at(60.0)), Duration::from_millis(100));
    }

    #[test]
    fn what_is_read_is_counted_and_never_more_than_the_pace_lets_through() {
        let mut counted = 0;
        let mut pace = Pace::new(1 << 40, Instant::now());
        let mut body = Paced { body: &[7; 5000][..], pace: Some(&mut pace), count: |count| counted += count };
        let mut all = Vec::new();
        body.read_to_end(&mut all).unwrap();
        assert_eq!((all.len(), counted), (5000, 5000));
        let mut slow = Pace::new(10, Instant::now());
        let mut body = Paced { body: &[7; 5000][..], pace: Some(&mut slow), count: |_| {} };
        assert_eq!(body.read(&mut [0; 100]).unwrap(), 1);
    }
}
