//! What a worker may spend in all, whoever spends it: the handlers of all its routes share one bound.
//!
//! A share goes with what it was taken for. Bytes that it counts are given to replies as [`Bytes`], which a slow client may
//! hold for minutes, so the share comes back with the last of their clones; and because `Bytes` may be dropped on any thread,
//! the count is atomic.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// By how much text that is printed grows at least, in bytes.
const GROWTH: usize = 16 << 10;

/// An amount of something bounded: bytes, descriptors. Cloning clones the handle.
#[derive(Clone, Debug)]
pub struct Budget(Arc<AtomicUsize>);

/// A part that was taken; dropping it gives it back.
#[derive(Debug)]
pub struct Share {
    budget: Budget,
    amount: usize,
}

impl Budget {
    /// A budget of this amount.
    pub fn new(amount: usize) -> Self {
        Budget(Arc::new(AtomicUsize::new(amount)))
    }

    /// Takes a part, if so much is left.
    pub fn take(&self, amount: usize) -> Option<Share> {
        // The count guards nothing but itself.
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(amount));
        taken.ok().map(|_| Share { budget: self.clone(), amount })
    }

    /// What is left.
    pub fn left(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// The text as bytes that stay counted until the last reader of any of them lets go. `None` if they are more than is
    /// left; what they take on the way, while they grow, is counted too.
    pub fn print(&self, text: impl fmt::Display) -> Option<Bytes> {
        let mut printed = Counted { bytes: Vec::new(), share: self.take(0)? };
        fmt::Write::write_fmt(&mut printed, format_args!("{text}")).ok()?;
        printed.bytes.shrink_to_fit();
        printed.share.keep(printed.bytes.len());
        Some(Bytes::from_owner(printed))
    }
}

impl Share {
    /// The bytes that this part was taken for. It comes back when the last reader of any of them lets go.
    pub fn of(self, bytes: Vec<u8>) -> Bytes {
        Bytes::from_owner(Counted { bytes, share: self })
    }

    /// Takes more of the same budget, if so much is left.
    pub fn extend(&mut self, amount: usize) -> Option<()> {
        let mut more = self.budget.take(amount)?;
        self.amount += std::mem::take(&mut more.amount);
        Some(())
    }

    /// Gives back what is over this amount.
    fn keep(&mut self, amount: usize) {
        let over = self.amount.saturating_sub(amount);
        self.amount -= over;
        self.budget.0.fetch_add(over, Ordering::Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.keep(0);
    }
}

/// Bytes and the share that counts them.
struct Counted {
    bytes: Vec<u8>,
    share: Share,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Write for Counted {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let missing = text.len().saturating_sub(self.bytes.capacity() - self.bytes.len());
        if missing > 0 {
            // In proportion to what there is, so that few of the bytes are moved often.
            let wished = missing.max(self.bytes.capacity() / 4).max(GROWTH);
            let growth =
                [wished, missing.max(GROWTH), missing].into_iter().find(|growth| self.share.extend(*growth).is_some());
            let spare = self.bytes.capacity() - self.bytes.len();
            self.bytes.reserve_exact(spare + growth.ok_or(fmt::Error)?);
        }
        self.bytes.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promise1_no_more_is_given_than_there_is_and_what_is_dropped_comes_back() {
        let budget = Budget::new(10);
        let (large, small) = (budget.take(7), budget.take(3));
        assert!(large.is_some() && small.is_some() && budget.take(1).is_none());
        drop(large);
        assert_eq!(budget.left(), 7);
        assert!(budget.take(8).is_none());
        assert_eq!(budget.left(), 7, "a refusal takes nothing");
    }

    #[test]
    fn promise1_bytes_are_counted_until_their_last_reader_lets_go() {
        let budget = Budget::new(10);
        let bytes = budget.take(10).expect("all of it").of(vec![7; 10]);
        let part = bytes.slice(3..4);
        drop(bytes);
        assert_eq!((budget.left(), &part[..]), (0, &[7][..]));
        drop(part);
        assert_eq!(budget.left(), 10);
    }

    /// So many pieces of 999 bytes.
    struct Pieces(usize);

    impl fmt::Display for Pieces {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            (0..self.0).try_for_each(|_| write!(f, "{:999}", ""))
        }
    }

    #[test]
    fn promise1_text_is_counted_as_it_grows_and_refused_when_it_does_not_fit() {
        let budget = Budget::new(100_000);
        assert!(budget.print(Pieces(101)).is_none());
        assert_eq!(budget.left(), 100_000);
        let printed = budget.print(Pieces(100)).expect("it fits");
        assert_eq!((printed.len(), budget.left()), (99_900, 100));
        assert!(budget.print("y".repeat(101)).is_none());
        drop(printed);
        assert_eq!(budget.left(), 100_000);
        assert_eq!(budget.print("").expect("nothing fits").len(), 0);
    }
}
