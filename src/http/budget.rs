//! What a worker may spend in all, whoever spends it: the handlers of all its routes share one bound.

use std::cell::Cell;
use std::rc::Rc;

/// An amount of something bounded: bytes, descriptors. Cloning clones the handle.
#[derive(Clone, Debug)]
pub struct Budget(Rc<Cell<usize>>);

/// A part that was taken; dropping it gives it back.
#[derive(Debug)]
pub struct Share {
    budget: Budget,
    amount: usize,
}

impl Budget {
    /// A budget of this amount.
    pub fn new(amount: usize) -> Self {
        Budget(Rc::new(Cell::new(amount)))
    }

    /// Takes a part, if so much is left.
    pub fn take(&self, amount: usize) -> Option<Share> {
        self.0.set(self.0.get().checked_sub(amount)?);
        Some(Share { budget: self.clone(), amount })
    }

    /// What is left.
    pub fn left(&self) -> usize {
        self.0.get()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.0.set(self.budget.0.get() + self.amount);
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
}
