//! How fast a media route's files are sent at most: where the rate comes from, and by how much a reply may exceed it.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;
use crate::limits::{Limits, Unit};

/// What a file's own rate is taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateSource {
    /// The average bitrate of the media in it: `bitrate`.
    Bitrate,
}

impl FromStr for RateSource {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "bitrate" => Ok(RateSource::Bitrate),
            other => Err(Error::operator(format!("`{other}` is no source of a rate: write bitrate"))),
        }
    }
}

impl fmt::Display for RateSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RateSource::Bitrate => "bitrate",
        })
    }
}

/// What a bitrate is multiplied by: 1 to 100, in hundredths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Factor(u16);

impl Factor {
    /// The default of [`super::MediaConfig::rate_factor`].
    pub const ONE_AND_A_HALF: Factor = Factor(150);

    /// So many hundredths; `None` outside of 1 to 100.
    pub fn from_hundredths(hundredths: u64) -> Option<Self> {
        u16::try_from(hundredths).ok().filter(|hundredths| (100..=10_000).contains(hundredths)).map(Factor)
    }

    /// A rate times this, in the same unit.
    pub fn of(self, rate: u64) -> u64 {
        u64::try_from(u128::from(rate) * u128::from(self.0) / 100).unwrap_or(u64::MAX)
    }
}

impl FromStr for Factor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let is_number = |text: &str| !text.is_empty() && text.len() < 10 && text.bytes().all(|b| b.is_ascii_digit());
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        if !is_number(whole) || !is_number(fraction) || fraction.len() > 2 {
            let text =
                format!("`{text}` is not a factor: write a number like 1.5, with at most two digits behind the point");
            return Err(Error::operator(text));
        }
        let digits = |text: &str| text.parse::<u64>().unwrap_or(0);
        let hundredths = 100 * digits(whole) + digits(fraction) * if fraction.len() == 1 { 10 } else { 1 };
        let wrong = || Error::operator(format!("`{text}` is out of bounds: write 1 to 100"));
        Factor::from_hundredths(hundredths).ok_or_else(wrong)
    }
}

impl fmt::Display for Factor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fraction = format!("{:02}", self.0 % 100);
        match fraction.trim_end_matches('0') {
            "" => write!(f, "{}", self.0 / 100),
            fraction => write!(f, "{}.{fraction}", self.0 / 100),
        }
    }
}

/// Whether replies may be held to this rate, in bytes a second.
pub(super) fn check_rate(rate: u64, limits: &Limits) -> Result<(), String> {
    let least = limits.least_paced_rate();
    if rate >= least {
        return Ok(());
    }
    let [rate, least] = [rate, least].map(|rate| Unit::Rate.format(rate));
    Err(format!("`{rate}` is below twice reply_min_rate: write at least {least}, or a lower reply_min_rate"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<u64, &str>) {
        let factor = text.parse::<Factor>().map_err(|error| error.report());
        assert_eq!(factor.map(|factor| factor.of(100)), expected.map_err(String::from));
    }

    #[test]
    fn a_factor_is_a_number_from_1_to_100_with_two_digits_behind_the_point() {
        for (text, hundredths) in
            [("1", 100), ("1.0", 100), ("1.05", 105), ("1.5", 150), ("99.99", 9999), ("100", 10_000)]
        {
            check(text, Ok(hundredths));
        }
        for text in ["0.99", "0", "100.01", "700"] {
            check(text, Err(&format!("`{text}` is out of bounds: write 1 to 100")));
        }
        for text in ["", ".", "1.", ".5", "1.234", "-1", "+1.5", "1e1", "inf", "nan", "1,5", "99999999999999999999"] {
            let expected = "is not a factor: write a number like 1.5, with at most two digits behind the point";
            check(text, Err(&format!("`{text}` {expected}")));
        }
    }

    #[test]
    fn a_factor_is_written_as_it_is_read() {
        for hundredths in 100..=10_000 {
            let factor = Factor::from_hundredths(hundredths).unwrap();
            assert_eq!(factor.to_string().parse::<Factor>().unwrap(), factor);
        }
        assert_eq!(Factor(150).to_string(), "1.5");
        assert_eq!(Factor(150).of(u64::MAX), u64::MAX);
    }
}
