//! The most that replies are sent at: the kernel paces, this tells it how fast (`SO_MAX_PACING_RATE`, socket(7)).
//!
//! ```text
//!   handler ── Response::paced ──▶ Body::Paced ──▶ Throttle ── before each turn ──▶ the socket's rate
//!                      AddressRates ── the address's rate / its transfers ──┘
//! ```
//!
//! No timer runs and no turn is put off: the send queue fills, and the socket is full for as long as the rate says. The rate
//! stays on the socket when the reply is over, because its last bytes are still in the queue then; the next reply on the
//! connection lifts or changes it. What is not paced pays nothing: the pacing is boxed into the body, and a body without one
//! takes the same way as ever.
//!
//! A bucket of tokens with a timer for each transfer was rejected: it wakes the worker for each portion, sends in bursts, and
//! the kernel has the better clock.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::body::Body;
use super::pace::Pace;
use super::wire::Wire;
use crate::limits::Limits;

/// How fast a reply may be sent. Where both bounds are there, the lower one holds. Neither goes below
/// [`Limits::least_paced_rate`], so that nobody who reads as fast as is sent counts as slow.
#[derive(Debug, Default)]
pub struct Pacing {
    /// The reply's own bound, in bytes a second.
    pub rate: Option<u64>,
    /// How many bytes go out before the reply's own bound holds; the address's holds from the first.
    pub burst: u64,
    /// The reply's part in what its client's address may get, for as long as it is sent.
    pub address: Option<AddressShare>,
}

/// A body and how fast it may be sent; made by [`super::Response::paced`].
#[derive(Debug)]
pub struct PacedBody {
    pub(super) body: Body,
    pub(super) pacing: Pacing,
}

impl Pacing {
    /// This body at this pace; unchanged where that makes no difference, so that it may go out at once.
    pub(super) fn apply(self, body: Body) -> Body {
        let body = match body {
            Body::Paced(paced) => paced.body,
            body => body,
        };
        let in_burst = self.rate.is_none() || body.len().is_some_and(|len| len <= self.burst);
        if in_burst && self.address.is_none() { body } else { Body::Paced(Box::new(PacedBody { body, pacing: self })) }
    }

    /// What holds now, in bytes a second.
    fn rate_now(&self) -> Option<u64> {
        let own = self.rate.filter(|_| self.burst == 0);
        let of_address = self.address.as_ref().map(AddressShare::rate);
        own.into_iter().chain(of_address).min()
    }
}

/// Keeps one reply to its pacing, if it has one.
pub(super) struct Throttle(Option<Box<PacedReply>>);

struct PacedReply {
    pacing: Pacing,
    /// What the socket was told last, for this reply.
    rate: Option<u64>,
    /// What the client was given beyond the grace of the minimum rate.
    allowed: Duration,
}

impl Throttle {
    /// Of a body without a pacing.
    pub(super) fn none() -> Self {
        Throttle(None)
    }

    /// Parts a body from its pacing.
    pub(super) fn of(body: Body) -> (Body, Self) {
        match body {
            Body::Paced(paced) => {
                let PacedBody { body, pacing } = *paced;
                (body, Throttle(Some(Box::new(PacedReply { pacing, rate: None, allowed: Duration::ZERO }))))
            }
            body => (body, Throttle::none()),
        }
    }

    /// Tells the kernel the rate that holds now, and answers how many of `len` bytes may be given to the socket before it is
    /// to be asked again.
    pub(super) fn turn(&mut self, wire: &Wire, pace: &mut Pace, len: usize) -> usize {
        self.0.as_mut().map_or(len, |paced| paced.turn(wire, pace, len))
    }

    /// The socket has taken so many bytes.
    pub(super) fn moved(&mut self, bytes: usize) {
        if let Some(PacedReply { pacing, .. }) = self.0.as_deref_mut() {
            pacing.burst = pacing.burst.saturating_sub(bytes as u64);
        }
    }
}

impl PacedReply {
    fn turn(&mut self, wire: &Wire, pace: &mut Pace, len: usize) -> usize {
        let limits = &wire.worker.limits;
        let rate = self.pacing.rate_now().map(|rate| rate.max(limits.least_paced_rate()));
        if let Some(rate) = rate.filter(|_| self.rate != rate) {
            if self.rate.is_none() {
                wire.worker.metrics.paced_replies.increment();
            }
            let needed = time_to_drain(limits, rate);
            pace.extend(needed.saturating_sub(self.allowed));
            self.allowed = self.allowed.max(needed);
        }
        self.rate = rate;
        wire.socket.limit_rate(rate);
        let burst = match self.pacing.burst {
            0 => usize::MAX,
            left => usize::try_from(left).unwrap_or(usize::MAX),
        };
        len.min(burst).min(limits.high_water_mark)
    }
}

/// How long a full socket may take to have room again when the kernel, not the client, holds the bytes back: twice the time
/// that the send queue takes at this rate, because a pace is kept on average and not to the packet.
fn time_to_drain(limits: &Limits, rate: u64) -> Duration {
    let queue = 2 * limits.notsent_lowat() as u64;
    Duration::from_micros((2 * queue).saturating_mul(1_000_000) / rate.max(1))
}

/// What each client's address gets in all, over all its connections to all workers. Its transfers under way share the rate
/// equally, whether or not each uses its part.
///
/// The one lock on the way of a request, and only where a route has such a rate: taken when a transfer begins and when it
/// ends. There is an entry for each address with a transfer under way, so their number is bounded by that of the connections.
#[derive(Debug)]
pub struct AddressRates {
    rate: u64,
    transfers: Mutex<HashMap<IpAddr, Arc<AtomicU64>>>,
}

/// One transfer's part; dropping it leaves more for the others.
#[derive(Debug)]
pub struct AddressShare {
    rates: Arc<AddressRates>,
    network: IpAddr,
    transfers: Arc<AtomicU64>,
}

impl AddressRates {
    /// So many bytes a second for each address.
    pub fn new(rate: u64) -> Arc<Self> {
        Arc::new(AddressRates { rate, transfers: Mutex::default() })
    }

    /// The part of one more transfer to this address.
    pub fn share(self: &Arc<Self>, address: IpAddr) -> AddressShare {
        let network = network_of(address);
        let mut all = self.transfers.lock().unwrap_or_else(PoisonError::into_inner);
        let transfers = all.entry(network).or_default().clone();
        // The lock orders what changes the count; those that only read it may be a turn late.
        transfers.fetch_add(1, Ordering::Relaxed);
        AddressShare { rates: self.clone(), network, transfers }
    }
}

impl AddressShare {
    /// What falls to it now, in bytes a second.
    pub fn rate(&self) -> u64 {
        self.rates.rate / self.transfers.load(Ordering::Relaxed).max(1)
    }
}

impl Drop for AddressShare {
    fn drop(&mut self) {
        let mut all = self.rates.transfers.lock().unwrap_or_else(PoisonError::into_inner);
        if self.transfers.fetch_sub(1, Ordering::Relaxed) == 1 {
            all.remove(&self.network);
        }
    }
}

/// What counts as one client: an IPv4 address, or the /64 that one IPv6 subscriber has for himself (RFC 6177).
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(rates: &Arc<AddressRates>, address: &str) -> AddressShare {
        rates.share(address.parse().unwrap())
    }

    #[test]
    fn an_addresss_transfers_share_its_rate_and_the_last_leaves_nothing_behind() {
        let rates = AddressRates::new(1200);
        let shares = ["192.0.2.1", "192.0.2.1", "::ffff:192.0.2.1"].map(|address| share(&rates, address));
        let other = share(&rates, "192.0.2.2");
        assert_eq!(shares.each_ref().map(AddressShare::rate), [400; 3]);
        assert_eq!(other.rate(), 1200);
        let [first, second, third] = shares;
        drop((second, third));
        assert_eq!(first.rate(), 1200, "two have left");
        drop((first, other));
        assert!(rates.transfers.lock().unwrap().is_empty());
        // One that comes after the last is counted anew.
        assert_eq!(share(&rates, "192.0.2.1").rate(), 1200);
    }

    #[test]
    fn an_ipv6_subscriber_is_a_64() {
        let rates = AddressRates::new(1000);
        let same = ["2001:db8:0:1::1", "2001:db8:0:1:ffff::2"].map(|address| share(&rates, address));
        let other = share(&rates, "2001:db8:0:2::1");
        assert_eq!((same[0].rate(), same[1].rate(), other.rate()), (500, 500, 1000));
    }

    #[test]
    fn a_reply_within_its_burst_is_not_paced_unless_its_address_is() {
        let rates = AddressRates::new(1000);
        let is_paced = |len: usize, pacing: Pacing| {
            let body = pacing.apply(Body::from(String::from_utf8(vec![b'x'; len]).unwrap()));
            assert_eq!(body.len(), Some(len as u64));
            matches!(body, Body::Paced(_))
        };
        let own = || Pacing { rate: Some(1), burst: 10, address: None };
        assert!(!is_paced(10, own()));
        assert!(is_paced(11, own()));
        assert!(!is_paced(11, Pacing { rate: None, ..own() }));
        assert!(is_paced(1, Pacing { address: Some(share(&rates, "192.0.2.1")), ..own() }));
        // What is paced again has only the last pacing.
        let Body::Paced(twice) = own().apply(Pacing { burst: 3, ..own() }.apply(Body::from("0123456789ab"))) else {
            panic!("not paced")
        };
        assert!(matches!((&twice.body, twice.pacing.burst), (Body::Bytes(_), 10)));
    }

    #[test]
    fn the_lowest_rate_that_holds_wins() {
        let rates = AddressRates::new(1000);
        let mut pacing = Pacing { rate: Some(700), burst: 1, address: Some(share(&rates, "192.0.2.1")) };
        assert_eq!(pacing.rate_now(), Some(1000), "within the burst the address's holds");
        pacing.burst = 0;
        assert_eq!(pacing.rate_now(), Some(700));
        let _second = share(&rates, "192.0.2.1");
        assert_eq!(pacing.rate_now(), Some(500));
        pacing.address = None;
        assert_eq!(pacing.rate_now(), Some(700));
    }
}
