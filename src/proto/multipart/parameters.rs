//! The parameters of a field value: `form-data; name="a"; filename=b` (RFC 9110 §5.6.6, RFC 2183 §2).
//!
//! Strict where leniency would let two parties read different values, lenient where real clients are sloppy and only one
//! reading is left: white space around `;` and `=`, empty parameters, unquoted values of more than token characters.

use std::borrow::Cow;

use super::super::http1::head::is_token_byte;

/// The value is not `type *( ";" name "=" value )`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// What stands before the first semicolon, without white space around it, and the parameters behind it.
pub(super) fn split(value: &[u8]) -> (&[u8], Parameters<'_>) {
    let end = memchr::memchr(b';', value).unwrap_or(value.len());
    (value[..end].trim_ascii(), Parameters { rest: &value[end..] })
}

/// The one value of the parameter `name`, which compares without case.
///
/// # Errors
/// The parameters are malformed, or this one is given twice: there is no telling which of the two others would take.
pub(super) fn unique<'a>(parameters: Parameters<'a>, name: &str) -> Result<Option<Cow<'a, [u8]>>, Malformed> {
    let mut found = None;
    for parameter in parameters {
        let (key, value) = parameter?;
        if key.eq_ignore_ascii_case(name.as_bytes()) && found.replace(value).is_some() {
            return Err(Malformed);
        }
    }
    Ok(found)
}

/// Names and values in order. After an error there is nothing more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parameters<'a> {
    /// Empty, or begins with the semicolon before the next parameter.
    rest: &'a [u8],
}

impl<'a> Iterator for Parameters<'a> {
    type Item = Result<(&'a [u8], Cow<'a, [u8]>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.rest = self.rest.trim_ascii_start();
            self.rest = match self.rest {
                [] => return None,
                [b';', rest @ ..] => rest,
                _ => break,
            };
        }
        let parameter = one(std::mem::take(&mut self.rest));
        Some(parameter.map(|(name, value, rest)| {
            self.rest = rest;
            (name, value)
        }))
    }
}

/// A name, a value, and what follows them: nothing, or a semicolon.
type One<'a> = (&'a [u8], Cow<'a, [u8]>, &'a [u8]);

fn one(text: &[u8]) -> Result<One<'_>, Malformed> {
    let name_len = text.iter().position(|&byte| !is_token_byte(byte)).unwrap_or(text.len());
    let (name, rest) = text.split_at(name_len);
    if name.is_empty() {
        return Err(Malformed);
    }
    let rest = rest.trim_ascii_start().strip_prefix(b"=").ok_or(Malformed)?.trim_ascii_start();
    let (value, rest) = match rest.strip_prefix(b"\"") {
        Some(inside) => quoted(inside)?,
        None => unquoted(rest)?,
    };
    let rest = rest.trim_ascii_start();
    if matches!(rest, [] | [b';', ..]) { Ok((name, value, rest)) } else { Err(Malformed) }
}

/// What stands up to the closing quote, and what follows that.
///
/// A backslash escapes a quote and a backslash. Before anything else it stands for itself: Internet Explorer sent
/// `filename="C:\dir\file.mp4"`, and no client has a reason to escape any other character.
fn quoted(inside: &[u8]) -> Result<(Cow<'_, [u8]>, &[u8]), Malformed> {
    let end = memchr::memchr2(b'"', b'\\', inside).ok_or(Malformed)?;
    if inside[end] == b'"' {
        return Ok((Cow::Borrowed(&inside[..end]), &inside[end + 1..]));
    }
    let mut value = inside[..end].to_vec();
    let mut rest = &inside[end..];
    loop {
        rest = match rest {
            [] => return Err(Malformed),
            [b'"', after @ ..] => return Ok((Cow::Owned(value), after)),
            [b'\\', byte @ (b'"' | b'\\'), after @ ..] | [byte, after @ ..] => {
                value.push(*byte);
                after
            }
        };
    }
}

/// What stands up to white space or a semicolon. RFC 9110 wants a token here; clients send paths, parentheses and UTF-8.
fn unquoted(text: &[u8]) -> Result<(Cow<'_, [u8]>, &[u8]), Malformed> {
    let end = text.iter().position(|byte| matches!(byte, b';' | b' ' | b'\t')).unwrap_or(text.len());
    let (value, rest) = text.split_at(end);
    if value.contains(&b'"') { Err(Malformed) } else { Ok((Cow::Borrowed(value), rest)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(value: &str, expected: &[(&str, &str)]) {
        let (kind, parameters) = split(value.as_bytes());
        assert_eq!(kind, b"x", "{value}");
        let pairs: Result<Vec<_>, _> = parameters.collect();
        let pairs = pairs.unwrap_or_else(|_| panic!("{value}: malformed"));
        let pairs: Vec<_> =
            pairs.iter().map(|(name, value)| (str::from_utf8(name).unwrap(), str::from_utf8(value).unwrap())).collect();
        assert_eq!(pairs, expected, "{value}");
    }

    #[test]
    fn sound_parameters() {
        check("x", &[]);
        check(" x ; ", &[]);
        check("x;a=b", &[("a", "b")]);
        check("x; a=b; C=\"d\"", &[("a", "b"), ("C", "d")]);
        check("x;; ;a=b;", &[("a", "b")]);
        check("x ;\ta \t=  b\t; c = \"d\" ;", &[("a", "b"), ("c", "d")]);
        check("x;a=;b=\"\"", &[("a", ""), ("b", "")]);
        check("x;a=dir/b(1).mp4;b=\u{e9}", &[("a", "dir/b(1).mp4"), ("b", "\u{e9}")]);
        check("x;a=\"; b=c\"", &[("a", "; b=c")]);
        check("x;a=b;a=c", &[("a", "b"), ("a", "c")]);
    }

    #[test]
    fn backslashes() {
        check(r#"x;a="\"b\"""#, &[("a", "\"b\"")]);
        check(r#"x;a="b\\";c=d"#, &[("a", "b\\"), ("c", "d")]);
        check(r#"x;a="C:\dir\file.mp4""#, &[("a", r"C:\dir\file.mp4")]);
        check(r#"x;a="\\server\share\f""#, &[("a", r"\server\share\f")]);
        check(r"x;a=C:\dir\f", &[("a", r"C:\dir\f")]);
    }

    #[test]
    fn malformed_parameters() {
        for value in ["x;a", "x;=b", "x;a b", "x;a\"b\"", "x;\"a\"=b", "x;a=b c", "x;a=\"b\"c", "x;a=b\"c\""] {
            let (_, mut parameters) = split(value.as_bytes());
            assert_eq!(parameters.next(), Some(Err(Malformed)), "{value}");
            assert_eq!(parameters.next(), None, "{value}");
        }
        for value in ["x;a=\"", "x;a=\"b", r#"x;a="b\""#, r#"x;a="b\\\""#] {
            assert_eq!(split(value.as_bytes()).1.next(), Some(Err(Malformed)), "{value}");
        }
    }

    #[test]
    fn a_parameter_that_is_given_twice_has_no_value() {
        let value = |text: &'static str, name| unique(split(text.as_bytes()).1, name);
        assert_eq!(value("x;a=b;A=c", "a"), Err(Malformed));
        assert_eq!(value("x;a=b;a=b", "A"), Err(Malformed));
        assert_eq!(value("x;a=b;c=d;c=e", "A"), Ok(Some(Cow::Borrowed(&b"b"[..]))));
        assert_eq!(value("x;a=b", "c"), Ok(None));
        assert_eq!(value("x;a=b;c", "a"), Err(Malformed));
    }
}
