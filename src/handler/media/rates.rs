//! What the files of a route are held to: bounds of the operator's, and the average bitrate of the media in them.
//!
//! The bitrate is a file's length over its duration, see [`super::play_time`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::open_files::OpenFile;
use crate::config::{Factor, MediaConfig, RateSource};
use crate::driver::FileStat;
use crate::http::{AddressRates, Pacing, Response, Worker};

/// The bounds of one route, as one worker has them.
pub struct Rates {
    limit: Option<u64>,
    /// What the bitrate is multiplied by, if it counts.
    factor: Option<Factor>,
    burst: u64,
    addresses: Option<Arc<AddressRates>>,
}

impl Rates {
    /// What the configuration says, if it says anything; `addresses` is what all workers share of it.
    pub fn of(config: &MediaConfig, addresses: Option<Arc<AddressRates>>) -> Option<Self> {
        let factor = config.rate_from.map(|RateSource::Bitrate| config.rate_factor);
        let is_any = config.limit_rate.is_some() || factor.is_some() || addresses.is_some();
        is_any.then_some(Rates { limit: config.limit_rate, factor, burst: config.rate_burst, addresses })
    }

    /// Whether there is nothing to wait for before [`Rates::hold`].
    pub fn are_known(&self, file: &OpenFile) -> bool {
        self.unknown(file).is_none_or(|stat| file.play_time.tell_now(&file.file, &stat))
    }

    /// Waits until there is nothing to wait for.
    pub async fn learn(&self, worker: &Worker, file: &OpenFile) {
        if let Some(stat) = self.unknown(file) {
            // A file that can't be read is not held by its bitrate; sending it fails in its own way.
            let _ = file.play_time.tell(worker, &file.file, &stat).await;
        }
    }

    /// The file as it is now, if its bitrate counts and is not known.
    fn unknown(&self, file: &OpenFile) -> Option<FileStat> {
        self.factor?;
        // A file that can't be looked at is the reply's trouble.
        file.file.stat().ok().filter(|stat| stat.len > self.burst && !file.play_time.is_known_of(stat))
    }

    /// The reply with this file, held to what is known.
    pub fn hold(&self, response: Response, file: &OpenFile, peer: Option<SocketAddr>) -> Response {
        let of_file = self.factor.and_then(|factor| {
            let (len, duration) = file.play_time.told()?;
            Some(factor.of(average_rate(len, duration)))
        });
        let address = self.addresses.as_ref().zip(peer).map(|(rates, peer)| rates.share(peer.ip()));
        response.paced(Pacing { rate: self.limit.into_iter().chain(of_file).min(), burst: self.burst, address })
    }
}

/// Bytes a second, at least one.
fn average_rate(len: u64, duration: Duration) -> u64 {
    let rate = u128::from(len) * 1_000_000_000 / duration.as_nanos().max(1);
    u64::try_from(rate).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_average_rate_is_the_length_over_the_duration() {
        assert_eq!(average_rate(3_000_000, Duration::from_millis(1500)), 2_000_000);
        assert_eq!(average_rate(u64::MAX, Duration::from_nanos(1)), u64::MAX);
        assert_eq!(average_rate(1, Duration::MAX), 1);
        assert_eq!(average_rate(5, Duration::ZERO), 5_000_000_000);
    }
}
