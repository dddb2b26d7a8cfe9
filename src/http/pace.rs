//! The minimum rate of a transfer, as credit.
//!
//! A client may fall behind the minimum rate by a grace period in all. Waiting for it spends the credit, bytes earn it back at
//! the minimum rate, up to the grace; when it is spent, the client is too slow. Time in which the server is the one to wait
//! for does not count. A rate over fixed windows was rejected: it needs a timer for each connection and judges by when a
//! window happens to begin.

use std::time::Duration;

/// One direction of one exchange.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    rate: u64,
    grace: Duration,
    credit: Duration,
}

impl Pace {
    /// At least `rate` bytes a second, with a credit of `grace` to begin with.
    pub fn new(rate: u64, grace: Duration) -> Self {
        Pace { rate: rate.max(1), grace, credit: grace }
    }

    /// How long the client may be waited for now.
    pub fn patience(&self) -> Duration {
        self.credit
    }

    /// The client was waited for.
    pub fn waited(&mut self, time: Duration) {
        self.credit = self.credit.saturating_sub(time);
    }

    /// The client may fall this much further behind: it is not the one to blame for some of the waiting.
    pub fn extend(&mut self, by: Duration) {
        self.grace = self.grace.saturating_add(by);
        self.credit = self.credit.saturating_add(by);
    }

    /// Bytes have moved.
    pub fn moved(&mut self, bytes: u64) {
        let earned = Duration::from_micros(bytes.saturating_mul(1_000_000) / self.rate);
        self.credit = self.credit.saturating_add(earned).min(self.grace);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many seconds a client lives that moves `bytes` once a second, up to `limit`.
    fn life(bytes: u64, limit: u32) -> u32 {
        let mut pace = Pace::new(1000, Duration::from_secs(10));
        for second in 0..limit {
            if pace.patience() < Duration::from_secs(1) {
                return second;
            }
            pace.waited(Duration::from_secs(1));
            pace.moved(bytes);
        }
        limit
    }

    #[test]
    fn f11_one_byte_a_second_does_not_outlive_the_grace() {
        assert_eq!(life(0, 1000), 10);
        assert_eq!(life(1, 1000), 10);
    }

    #[test]
    fn f11_a_client_at_half_the_rate_lives_twice_as_long_and_one_at_the_rate_for_ever() {
        assert_eq!(life(500, 1000), 19);
        assert_eq!(life(1000, 1000), 1000);
    }

    #[test]
    fn f11_an_extension_is_given_once_and_earned_back_as_the_grace_is() {
        let mut pace = Pace::new(1000, Duration::from_secs(1));
        pace.extend(Duration::from_secs(8));
        // Eight seconds for 8000 bytes, again and again: at the rate, though far beyond the grace at a time.
        for _ in 0..100 {
            assert!(pace.patience() > Duration::from_secs(8));
            pace.waited(Duration::from_secs(8));
            pace.moved(8000);
        }
        // Half the rate is too slow all the same.
        pace.waited(Duration::from_secs(8));
        pace.moved(4000);
        assert!(pace.patience() < Duration::from_secs(8));
    }

    #[test]
    fn f11_credit_never_exceeds_the_grace() {
        let mut pace = Pace::new(1000, Duration::from_secs(10));
        pace.moved(u64::MAX);
        assert_eq!(pace.patience(), Duration::from_secs(10));
    }
}
