//! Where a subscriber is: what an event's id says, and what a client that comes back says with it.
//!
//! ```text
//!   19a7c3f42b01a-17                     the 17th event of a topic whose count began at that time
//!   19a7c3f42b01a-17.19a7c3f42c7d3-4     of two topics, in the order of their names
//! ```
//!
//! A topic's count begins anew when nothing of it is left, or the server has forgotten it. So a number alone would be taken for an
//! event that it never named; with the epoch, the time at which the count began, an old position is told from one of now.
//! A subscription to several topics has a position in each, so each of its events says all of them, and a client that comes
//! back is told exactly what it has lost of which. One id for the whole route was rejected: of an old one nobody knows any more how many
//! events of which topic came after it.

use std::fmt;

/// A place in a topic: behind the event with this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// When the topic's count began.
    pub epoch: u64,
    /// The event's number; 0 is before the first.
    pub number: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{}", self.epoch, self.number)
    }
}

/// Several, as one id.
pub(super) struct Positions<I>(pub I);

impl<I: Iterator<Item = Position> + Clone> fmt::Display for Positions<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.clone().enumerate().try_for_each(|(index, position)| {
            let dot = if index == 0 { "" } else { "." };
            write!(f, "{dot}{position}")
        })
    }
}

/// What a client says that it has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen<'a> {
    /// Nothing, and it wants what comes from now on.
    Nothing,
    /// Nothing, and it wants all that is kept.
    NothingYet,
    /// Up to these places, one in each topic.
    Positions(Vec<Position>, &'a str),
    /// Up to the event to which its publisher gave this id.
    Id(&'a str),
}

/// What a client writes for [`Seen::NothingYet`].
pub(super) const EARLIEST: &str = "earliest";

impl<'a> Seen<'a> {
    /// What a Last-Event-ID means, of a subscription to so many topics.
    pub fn of(id: Option<&'a str>, topics: usize) -> Self {
        match id {
            None | Some("") => Seen::Nothing,
            Some(EARLIEST) => Seen::NothingYet,
            Some(id) => {
                let positions: Option<Vec<Position>> = id.split('.').take(topics + 1).map(parse).collect();
                let positions = positions.filter(|positions| positions.len() == topics);
                positions.map_or(Seen::Id(id), |positions| Seen::Positions(positions, id))
            }
        }
    }
}

fn parse(text: &str) -> Option<Position> {
    let (epoch, number) = text.split_once('-')?;
    let plain = |text: &str| !text.starts_with('+');
    let position = Position { epoch: u64::from_str_radix(epoch, 16).ok()?, number: number.parse().ok()? };
    (plain(epoch) && plain(number)).then_some(position)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn s3_what_is_no_position_is_an_id_of_a_publisher() {
        let position = |epoch, number| Position { epoch, number };
        assert_eq!(Seen::of(Some("1f-7"), 1), Seen::Positions(vec![position(31, 7)], "1f-7"));
        assert_eq!(Seen::of(Some("1-2.3-4"), 2), Seen::Positions(vec![position(1, 2), position(3, 4)], "1-2.3-4"));
        for (id, topics) in [("1-2.3-4", 1), ("1-2", 2), ("1-", 1), ("-1", 1), ("x", 1), ("+1-2", 1), ("1-+2", 1)] {
            assert_eq!(Seen::of(Some(id), topics), Seen::Id(id));
        }
        let far = format!("{:x}-{}", u64::MAX, u64::MAX);
        assert_eq!(Seen::of(Some(&far), 1), Seen::Positions(vec![position(u64::MAX, u64::MAX)], &far));
        assert_eq!(Seen::of(Some("1-99999999999999999999"), 1), Seen::Id("1-99999999999999999999"));
        assert_eq!((Seen::of(None, 1), Seen::of(Some("earliest"), 3)), (Seen::Nothing, Seen::NothingYet));
    }

    proptest! {
        #[test]
        fn s3_a_position_comes_back_as_it_was_sent(
            all in proptest::collection::vec((any::<u64>(), any::<u64>()), 1..9),
        ) {
            let all: Vec<Position> = all.into_iter().map(|(epoch, number)| Position { epoch, number }).collect();
            let id = Positions(all.iter().copied()).to_string();
            prop_assert_eq!(Seen::of(Some(&id), all.len()), Seen::Positions(all, &id));
        }

        #[test]
        fn no_id_makes_it_panic(id in ".{0,40}", topics in 1usize..5) {
            let _ = Seen::of(Some(&id), topics);
        }
    }
}
