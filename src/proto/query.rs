//! The pairs of a query, as pages and programs write them (WHATWG URL, "application/x-www-form-urlencoded").
//!
//! Names and values are decoded, `+` is a blank, and what is no UTF-8 is an error rather than replaced: a name that was changed on
//! the way would be another's.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// A value is no UTF-8, once it is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotText;

impl std::fmt::Display for NotText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the query is not UTF-8")
    }
}

/// The pairs, in their order. A name without `=` has an empty value; empty pairs are passed over.
pub fn pairs(query: &str) -> impl Iterator<Item = Result<(Cow<'_, str>, Cow<'_, str>), NotText>> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Ok((decoded(name)?, decoded(value)?))
    })
}

fn decoded(text: &str) -> Result<Cow<'_, str>, NotText> {
    if !text.contains(['%', '+']) {
        return Ok(Cow::Borrowed(text));
    }
    let blanks = text.replace('+', " ");
    percent_decode_str(&blanks).decode_utf8().map(|text| Cow::Owned(text.into_owned())).map_err(|_| NotText)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(query: &str, expected: &[(&str, &str)]) {
        let found: Result<Vec<_>, _> = pairs(query).collect();
        let found = found.unwrap();
        let found: Vec<_> = found.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(found, expected, "{query}");
    }

    #[test]
    fn pairs_are_decoded_in_their_order() {
        check("", &[]);
        check("&&", &[]);
        check("topic=a&topic=b", &[("topic", "a"), ("topic", "b")]);
        check("a", &[("a", "")]);
        check("a=b=c&=d", &[("a", "b=c"), ("", "d")]);
        check("x%20y=%c3%a9+%2B%", &[("x y", "é +%")]);
        assert!(pairs("a=%ff").any(|pair| pair == Err(NotText)));
    }

    proptest! {
        #[test]
        fn no_query_makes_it_panic(query in ".{0,60}") {
            let _ = pairs(&query).count();
        }
    }
}
