//! Bearer tokens: who may, by a secret in the Authorization field (RFC 6750 §2.1, RFC 9110 §11).
//!
//! Of the tokens that are let in only SHA-256 digests are kept, so neither memory nor a configuration gives them away,
//! and comparing takes the same time for all: a guess changes its digest in ways that nobody can steer. A token in the
//! query (§2.3) is not taken; it would stand in every log. Tokens are random, so their digests need no salt.

use std::fmt;
use std::hint::black_box;

use http::StatusCode;
use sha2::{Digest, Sha256};

use crate::proto::fields::Fields;

/// What is kept of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// The digest of this token.
    pub fn of(token: &[u8]) -> Self {
        TokenDigest(Sha256::digest(token).into())
    }

    /// The digest that is written as 64 hexadecimal digits, as `sha256sum` does; `None` if it is none.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut digest = [0; 32];
        // A sign would pass the standard parser.
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        for (place, byte) in digest.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * place..2 * place + 2], 16).ok()?;
        }
        Some(TokenDigest(digest))
    }
}

/// Whether the request brings one of these tokens. Each is looked at, whichever is right.
///
/// # Errors
/// See [`Refusal`].
pub fn check(fields: &Fields, tokens: &[TokenDigest]) -> Result<(), Refusal> {
    let TokenDigest(brought) = TokenDigest::of(token(fields)?);
    let is_known = tokens.iter().fold(false, |is_known, TokenDigest(known)| {
        let difference = brought.iter().zip(known).fold(0, |difference, (a, b)| difference | (a ^ b));
        is_known | (black_box(difference) == 0)
    });
    if is_known { Ok(()) } else { Err(Refusal::Unknown) }
}

/// The token that the request brings.
///
/// # Errors
/// [`Refusal::Missing`], also with another scheme, and [`Refusal::Malformed`].
pub fn token(fields: &Fields) -> Result<&[u8], Refusal> {
    let value = fields.get_single("authorization").map_err(|_| Refusal::Malformed)?.ok_or(Refusal::Missing)?;
    let end = value.iter().position(|&byte| byte == b' ').unwrap_or(value.len());
    let (scheme, token) = value.split_at(end);
    // Schemes compare without case (RFC 9110 §11.1).
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return Err(Refusal::Missing);
    }
    let token = token.trim_ascii_start();
    let padding = token.iter().rev().take_while(|&&byte| byte == b'=').count();
    let letters = &token[..token.len() - padding];
    let is_b64token = letters.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/".contains(byte));
    if letters.is_empty() || !is_b64token { Err(Refusal::Malformed) } else { Ok(token) }
}

/// Why a request is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It brings no bearer token.
    Missing,
    /// What it brings is no bearer token, or it brings several.
    Malformed,
    /// The token is none of those that are let in.
    Unknown,
}

impl Refusal {
    /// The status of the reply (RFC 6750 §3.1).
    pub fn status(self) -> StatusCode {
        match self {
            Refusal::Missing | Refusal::Unknown => StatusCode::UNAUTHORIZED,
            Refusal::Malformed => StatusCode::BAD_REQUEST,
        }
    }

    /// The value of WWW-Authenticate, which a 401 must carry and a 400 may. Whoever brought no token is told nothing
    /// but how (RFC 6750 §3). `realm` names what is protected; what a quoted string can't hold is left out of it.
    pub fn challenge(self, realm: &str) -> String {
        let realm: String = realm.chars().filter(|&c| matches!(c, ' '..='~') && !matches!(c, '"' | '\\')).collect();
        let error = match self {
            Refusal::Missing => "",
            Refusal::Malformed => ", error=\"invalid_request\"",
            Refusal::Unknown => ", error=\"invalid_token\"",
        };
        format!("Bearer realm=\"{realm}\"{error}")
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::Missing => "a bearer token is needed",
            Refusal::Malformed => "the Authorization field is malformed",
            Refusal::Unknown => "the bearer token is not valid",
        })
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(value: &str) -> Fields {
        Fields::from_pairs([("Host", "m.example"), ("Authorization", value)])
    }

    #[track_caller]
    fn check_token(value: &str, expected: Result<&str, Refusal>) {
        assert_eq!(token(&request(value)), expected.map(str::as_bytes), "{value:?}");
    }

    #[test]
    fn the_token_of_a_request() {
        check_token("Bearer mF_9.B5f-4.1JqM", Ok("mF_9.B5f-4.1JqM"));
        check_token("bearer abc==", Ok("abc=="));
        check_token("BEARER   a+b/c~d", Ok("a+b/c~d"));
        for value in ["", "Basic dTpw", "Bearerx abc", "abc", "Bearer,abc"] {
            check_token(value, Err(Refusal::Missing));
        }
        for value in ["Bearer", "Bearer ", "Bearer a b", "Bearer =", "Bearer a=b", "Bearer \"a\"", "Bearer a,b"] {
            check_token(value, Err(Refusal::Malformed));
        }
        assert_eq!(token(&Fields::from_pairs([])), Err(Refusal::Missing));
        let twice = Fields::from_pairs([("Authorization", "Bearer a"), ("Authorization", "Bearer a")]);
        assert_eq!(token(&twice), Err(Refusal::Malformed));
    }

    #[test]
    fn only_tokens_that_are_known() {
        let tokens = [TokenDigest::of(b"first"), TokenDigest::of(b"second")];
        assert_eq!(check(&request("Bearer first"), &tokens), Ok(()));
        assert_eq!(check(&request("Bearer second"), &tokens), Ok(()));
        for value in ["Bearer third", "Bearer First", "Bearer firs", "Bearer firstx", "Bearer first="] {
            assert_eq!(check(&request(value), &tokens), Err(Refusal::Unknown), "{value}");
        }
        assert_eq!(check(&request("Bearer first"), &[]), Err(Refusal::Unknown));
        assert_eq!(check(&request("Basic first"), &tokens), Err(Refusal::Missing));
    }

    #[test]
    fn digests_as_sha256sum_writes_them() {
        // printf abc | sha256sum
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(TokenDigest::from_hex(abc), Some(TokenDigest::of(b"abc")));
        assert_eq!(TokenDigest::from_hex(&abc.to_uppercase()), Some(TokenDigest::of(b"abc")));
        for text in ["", &abc[1..], &format!("{abc}0"), &format!("+{}", &abc[1..]), &"\u{e9}".repeat(32)] {
            assert_eq!(TokenDigest::from_hex(text), None, "{text}");
        }
    }

    #[test]
    fn challenges() {
        assert_eq!(Refusal::Missing.challenge("uploads"), "Bearer realm=\"uploads\"");
        assert_eq!(Refusal::Unknown.challenge("a\"b\\\r\n\u{e9}"), "Bearer realm=\"ab\", error=\"invalid_token\"");
        assert_eq!(Refusal::Malformed.challenge(""), "Bearer realm=\"\", error=\"invalid_request\"");
        for (refusal, status) in [(Refusal::Missing, 401), (Refusal::Unknown, 401), (Refusal::Malformed, 400)] {
            assert_eq!(refusal.status().as_u16(), status, "{refusal}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn any_authorization_is_read_without_a_panic(value in "(Bearer )?\\PC{0,30}") {
            if let Ok(token) = token(&request(&value)) {
                prop_assert!(!token.is_empty() && value.as_bytes().ends_with(token));
            }
        }
    }
}
