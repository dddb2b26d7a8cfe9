//! When requests are due and how fast a reply may be read: arithmetic on times, no clock of its own.

use std::time::{Duration, Instant};

/// The open loop: request number `k` is due at `begin + k / rate`, whether or not the earlier ones were answered.
///
/// Its latency counts from that moment. A closed loop stops asking while the server stalls and so forgets the requests that
/// would have waited (Gil Tene calls it coordinated omission).
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    begin: Instant,
    per_second: f64,
    taken: u64,
}

impl Schedule {
    /// `per_second` requests a second from `begin` on.
    pub fn new(begin: Instant, per_second: f64) -> Self {
        Schedule { begin, per_second, taken: 0 }
    }

    /// When the next request is due.
    pub fn next_due(&self) -> Instant {
        self.begin + Duration::from_secs_f64(self.taken as f64 / self.per_second)
    }

    /// The moment at which the next request was due, if that moment has come; it counts as taken then.
    pub fn take_due(&mut self, now: Instant) -> Option<Instant> {
        let due = self.next_due();
        (due <= now).then(|| {
            self.taken += 1;
            due
        })
    }
}

/// The body bytes that a paced reader has left to take.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    bytes_per_second: u64,
    begin: Instant,
    taken: u64,
}

impl Pace {
    /// A reader that takes `bytes_per_second` from `begin` on; what it does not take at once it may take later.
    pub fn new(bytes_per_second: u64, begin: Instant) -> Self {
        Pace { bytes_per_second, begin, taken: 0 }
    }

    /// How many bytes may be read at `now`; 0 until a twentieth of a second's worth has gathered, so that a slow reader costs
    /// twenty receive calls a second and not one a byte.
    pub fn allowance(&self, now: Instant) -> u64 {
        let earned = now.saturating_duration_since(self.begin).as_secs_f64() * self.bytes_per_second as f64;
        let left = (earned as u64).saturating_sub(self.taken);
        if left < self.least() { 0 } else { left }
    }

    /// Accounts for bytes that were read.
    pub fn took(&mut self, len: u64) {
        self.taken += len;
    }

    /// When [`Pace::allowance`] will be above 0 again.
    pub fn next_allowance(&self) -> Instant {
        let seconds = (self.taken + self.least()) as f64 / self.bytes_per_second as f64;
        self.begin + Duration::from_secs_f64(seconds) + Duration::from_micros(1)
    }

    fn least(&self) -> u64 {
        turn_len(self.bytes_per_second)
    }
}

/// A paced reader waits until it may take this much.
fn turn_len(bytes_per_second: u64) -> u64 {
    (bytes_per_second / 20).max(1)
}

/// Whether a reader who took this much in `elapsed` got its pace: nineteen twentieths of it, less the turn that was still to come
/// when time was up.
pub fn kept(bytes_per_second: u64, taken: u64, elapsed: Duration) -> bool {
    (taken + turn_len(bytes_per_second)) as f64 >= bytes_per_second as f64 * elapsed.as_secs_f64() * 0.95
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_does_not_move_what_is_due_later() {
        let begin = Instant::now();
        let mut schedule = Schedule::new(begin, 1000.0);
        assert_eq!(schedule.take_due(begin), Some(begin));
        assert_eq!(schedule.take_due(begin), None);
        let late = begin + Duration::from_millis(10);
        let due: Vec<Instant> = std::iter::from_fn(|| schedule.take_due(late)).collect();
        assert_eq!(due.len(), 10);
        assert_eq!(due[0], begin + Duration::from_millis(1));
        assert_eq!(schedule.next_due(), begin + Duration::from_millis(11));
    }

    #[test]
    fn a_pace_is_kept_but_for_a_twentieth_and_the_last_turn() {
        let check = |taken, expected| assert_eq!(kept(1000, taken, Duration::from_secs(10)), expected, "{taken}");
        check(10_000, true);
        check(9_450, true);
        check(9_449, false);
        check(0, false);
    }

    #[test]
    fn a_paced_reader_gets_its_rate_and_no_more() {
        let begin = Instant::now();
        for rate in [1, 7, 1000, 50_000_000] {
            let mut pace = Pace::new(rate, begin);
            let (mut now, mut total) = (begin, 0);
            while now < begin + Duration::from_secs(4) {
                let len = pace.allowance(now);
                pace.took(len);
                total += len;
                now = pace.next_allowance();
                assert!(pace.allowance(now) > 0, "rate {rate}");
            }
            assert!(total <= rate * 4 && total + rate / 20 + 2 >= rate * 4, "{total} at rate {rate}");
        }
    }
}
