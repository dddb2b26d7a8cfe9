//! Content codings: which of the precompressed siblings of a file a client takes (RFC 9110 §8.4.1, §12.5.3).
//!
//! Nothing is compressed here; the answer only says in which order to look for siblings. The file as it is comes last
//! and is always allowed, even if the client excluded it: the RFC prefers an uncoded reply to none.

use std::cmp::Reverse;

use crate::proto::fields::Fields;

/// A content coding in which a sibling of a file may be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Coding {
    /// `br` (RFC 7932).
    Brotli,
    /// `zstd` (RFC 8878).
    Zstd,
    /// `gzip` (RFC 9110 §8.4.1.3).
    Gzip,
}

impl Coding {
    /// Every coding, in the order the server prefers: by how small text becomes.
    pub const ALL: [Coding; 3] = [Coding::Brotli, Coding::Zstd, Coding::Gzip];

    /// The name in Content-Encoding.
    pub fn token(self) -> &'static str {
        match self {
            Coding::Brotli => "br",
            Coding::Zstd => "zstd",
            Coding::Gzip => "gzip",
        }
    }

    /// What a sibling's name has behind the name of the file.
    pub fn suffix(self) -> &'static str {
        match self {
            Coding::Brotli => ".br",
            Coding::Zstd => ".zst",
            Coding::Gzip => ".gz",
        }
    }
}

/// The codings that the client accepts, best first: by its weights, then by the order of [`Coding::ALL`].
///
/// Without Accept-Encoding there are none. The RFC would allow any, but a client that does not say it can decode is one
/// that can't. A coding that the client wants less than `identity` is left out.
pub fn acceptable(fields: &Fields) -> impl Iterator<Item = Coding> + use<> {
    let mut weights = Weights::default();
    for value in fields.get_all("accept-encoding") {
        value.split(|&byte| byte == b',').filter_map(parse_element).for_each(|(name, q)| weights.set(name, q));
    }
    let mut ranked = Coding::ALL.map(|coding| (weights.of(coding), coding));
    ranked.sort_by_key(|&(q, _)| Reverse(q));
    let least = weights.identity.unwrap_or(0).max(1);
    ranked.into_iter().filter(move |&(q, _)| q >= least).map(|(_, coding)| coding)
}

/// The weights a client gave, in thousandths. `None` is for what it did not name.
#[derive(Default)]
struct Weights {
    codings: [Option<u16>; Coding::ALL.len()],
    identity: Option<u16>,
    any_other: Option<u16>,
}

impl Weights {
    fn set(&mut self, name: &[u8], q: u16) {
        if name == b"*" {
            self.any_other = Some(q);
        } else if name.eq_ignore_ascii_case(b"identity") {
            self.identity = Some(q);
        } else if let Some(coding) = Coding::ALL.into_iter().position(|coding| is_named(coding, name)) {
            self.codings[coding] = Some(q);
        }
    }

    /// "An asterisk […] matches any available content coding not explicitly listed" (RFC 9110 §12.5.3).
    fn of(&self, coding: Coding) -> u16 {
        self.codings[coding as usize].or(self.any_other).unwrap_or(0)
    }
}

/// Codings compare without case, and `x-gzip` is `gzip` (RFC 9110 §8.4.1, §8.4.1.3).
fn is_named(coding: Coding, name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(coding.token().as_bytes())
        || (coding == Coding::Gzip && name.eq_ignore_ascii_case(b"x-gzip"))
}

/// `codings [ weight ]`; an element that is malformed counts as not there.
fn parse_element(element: &[u8]) -> Option<(&[u8], u16)> {
    let (name, weight) = match element.iter().position(|&byte| byte == b';') {
        Some(at) => (&element[..at], parse_weight(element[at + 1..].trim_ascii())?),
        None => (element, 1000),
    };
    Some((name.trim_ascii(), weight))
}

/// `"q=" qvalue` in thousandths: `0`, `1`, or either with up to three decimals, at most 1 (RFC 9110 §12.4.2).
fn parse_weight(weight: &[u8]) -> Option<u16> {
    let (whole, decimals) = match weight {
        [b'q' | b'Q', b'=', whole @ (b'0' | b'1')] => (whole, &[][..]),
        [b'q' | b'Q', b'=', whole @ (b'0' | b'1'), b'.', decimals @ ..] => (whole, decimals),
        _ => return None,
    };
    if decimals.len() > 3 || !decimals.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |at: usize| decimals.get(at).map_or(0, |&byte| u16::from(byte - b'0'));
    let q = u16::from(whole - b'0') * 1000 + digit(0) * 100 + digit(1) * 10 + digit(2);
    (q <= 1000).then_some(q)
}

#[cfg(test)]
mod tests {
    use super::Coding::{Brotli, Gzip, Zstd};
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(values: &[&str], expected: &[Coding]) {
        let fields = Fields::from_pairs(values.iter().map(|&value| ("Accept-Encoding", value)));
        assert_eq!(acceptable(&fields).collect::<Vec<_>>(), expected, "{values:?}");
    }

    #[test]
    fn r11_nothing_named_is_nothing_accepted() {
        check(&[], &[]);
        check(&[""], &[]);
        check(&["identity"], &[]);
        check(&["deflate, compress"], &[]);
    }

    #[test]
    fn r11_server_order_among_equals() {
        check(&["gzip, deflate, br, zstd"], &[Brotli, Zstd, Gzip]);
        check(&["gzip", "br"], &[Brotli, Gzip]);
        check(&["*"], &[Brotli, Zstd, Gzip]);
        check(&["GZIP ,, X-Gzip"], &[Gzip]);
    }

    #[test]
    fn r11_client_order_by_weight() {
        check(&["br;q=0.5, gzip"], &[Gzip, Brotli]);
        check(&["br; q=0.001 , zstd ;Q=1.000,gzip;q=0.9"], &[Zstd, Gzip, Brotli]);
    }

    #[test]
    fn r11_zero_excludes() {
        check(&["br;q=0, gzip"], &[Gzip]);
        check(&["br;q=0.000, *"], &[Zstd, Gzip]);
        check(&["*;q=0"], &[]);
        check(&["gzip, *;q=0"], &[Gzip]);
        check(&["identity;q=0, *;q=0"], &[]);
    }

    #[test]
    fn r11_identity_preferred() {
        check(&["identity, br;q=0.5"], &[]);
        check(&["identity;q=0.5, br;q=0.7, gzip;q=0.2"], &[Brotli]);
        check(&["identity;q=0, gzip;q=0.2"], &[Gzip]);
    }

    #[test]
    fn r11_malformed_elements_count_as_absent() {
        for weight in
            ["q=", "q=2", "q=1.001", "q=0.5000", "q=1.0000", "q=.5", "q=-1", "q = 1", "q=0,5", "", "x=1", "q=1;q=1"]
        {
            check(&[&format!("br;{weight}")], &[]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn r11_any_value_is_answered(value in "[brgzipstd*;q=.01, ]{0,40}") {
            let fields = Fields::from_pairs([("accept-encoding", value.as_str())]);
            prop_assert!(acceptable(&fields).count() <= 3);
        }
    }
}
