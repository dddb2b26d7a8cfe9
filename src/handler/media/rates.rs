//! What the files of a route are held to: bounds of the operator's, and the average bitrate of the media in them.
//!
//! The bitrate is told once for each version of an open file, by reading what is in memory if that is enough, else through the
//! ring. So a request whose file is known still costs no future.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::open_files::OpenFile;
use crate::config::{Factor, MediaConfig, RateSource};
use crate::driver::FileStat;
use crate::http::{AddressRates, Pacing, Response, Worker};
use crate::proto::media_duration::{Probe, READ_LEN};
use crate::rt::fs::File;

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
        self.unknown(file).is_none_or(|stat| file.bitrate.tell_now(&file.file, &stat))
    }

    /// Waits until there is nothing to wait for.
    pub async fn learn(&self, worker: &Worker, file: &OpenFile) {
        if let Some(stat) = self.unknown(file)
            && !file.bitrate.tell_now(&file.file, &stat)
        {
            file.bitrate.tell(worker, &file.file, &stat).await;
        }
    }

    /// The file as it is now, if its bitrate counts and is not known.
    fn unknown(&self, file: &OpenFile) -> Option<FileStat> {
        self.factor?;
        // A file that can't be looked at is the reply's trouble.
        file.file.stat().ok().filter(|stat| stat.len > self.burst && !file.bitrate.is_known_of(stat))
    }

    /// The reply with this file, held to what is known.
    pub fn hold(&self, response: Response, file: &OpenFile, peer: Option<SocketAddr>) -> Response {
        let of_file = self.factor.and_then(|factor| Some(factor.of(file.bitrate.told()?)));
        let address = self.addresses.as_ref().zip(peer).map(|(rates, peer)| rates.share(peer.ip()));
        response.paced(Pacing { rate: self.limit.into_iter().chain(of_file).min(), burst: self.burst, address })
    }
}

/// The average bitrate of an open file, in bytes a second.
#[derive(Default)]
pub struct Bitrate(RefCell<Option<Box<Told>>>);

/// What a version of the file told, which may be nothing.
struct Told {
    stat: FileStat,
    rate: Option<u64>,
}

impl Bitrate {
    fn is_known_of(&self, stat: &FileStat) -> bool {
        self.0.borrow().as_ref().is_some_and(|told| told.stat == *stat)
    }

    /// What was told last.
    fn told(&self) -> Option<u64> {
        self.0.borrow().as_ref()?.rate
    }

    fn note(&self, stat: &FileStat, duration: Option<Duration>) {
        let rate = duration.map(|duration| average_rate(stat.len, duration));
        *self.0.borrow_mut() = Some(Box::new(Told { stat: *stat, rate }));
    }

    /// Looks at what is in memory; whether that was enough.
    fn tell_now(&self, file: &File, stat: &FileStat) -> bool {
        let mut probe = Probe::new(stat.len);
        let mut bytes = [0; READ_LEN];
        while let Some((offset, len)) = probe.wanted() {
            // Cold, cut meanwhile or broken: left to the way that can wait.
            if file.read_resident(offset, &mut bytes[..len]).is_ok_and(|read| read == len) {
                probe.feed(&bytes[..len]);
            } else {
                return false;
            }
        }
        self.note(stat, probe.duration());
        true
    }

    async fn tell(&self, worker: &Worker, file: &File, stat: &FileStat) {
        match read_duration(worker, file, stat.len).await {
            Ok(duration) => self.note(stat, duration),
            // The next request tries again; nothing of an earlier version holds for this one.
            Err(_) => *self.0.borrow_mut() = None,
        }
    }
}

/// Reads from the disk what the probe wants, one short read at a time.
async fn read_duration(worker: &Worker, file: &File, len: u64) -> io::Result<Option<Duration>> {
    let mut probe = Probe::new(len);
    while let Some((offset, len)) = probe.wanted() {
        let buf = worker.runtime.transfer_pool().acquire().await;
        let (read, buf) = file.read(offset, len, buf).await;
        read?;
        probe.feed(&buf);
    }
    Ok(probe.duration())
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
