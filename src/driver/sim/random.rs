//! Where a simulation's chances come from: splitmix64 (Steele, Lea and Flood, 2014), so that a seed means the same everywhere
//! and for ever. A crate was rejected: its stream may change with its version, and then an old seed replays nothing.

use std::time::Duration;

/// A stream of numbers that its seed determines.
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// True with this probability. A number is drawn in any case, so that switching one fault off shifts no other's chances.
    pub fn chance(&mut self, probability: f64) -> bool {
        ((self.next() >> 11) as f64) < probability * (1_u64 << 53) as f64
    }

    /// A number in `0..bound`; 0 when the bound is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        let number = self.next();
        if bound == 0 { 0 } else { number % bound }
    }

    /// A time up to and including `longest`.
    pub fn time(&mut self, longest: Duration) -> Duration {
        let longest = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX - 1);
        Duration::from_nanos(self.below(longest + 1))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_the_published_one() {
        let mut random = Random::new(1_234_567);
        assert_eq!([random.next(), random.next()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }

    #[test]
    fn chances_and_times_keep_their_bounds() {
        let mut random = Random::new(1);
        assert!((0..100).all(|_| !random.chance(0.0) && random.chance(1.0)));
        assert!((0..100).all(|_| random.below(3) < 3 && random.time(Duration::from_nanos(2)).as_nanos() <= 2));
        assert_eq!((random.below(0), random.time(Duration::ZERO)), (0, Duration::ZERO));
        let hits = (0..10_000).filter(|_| random.chance(0.25)).count();
        assert!((2_300..2_700).contains(&hits), "{hits} of 10,000");
    }
}
