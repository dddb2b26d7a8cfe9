//! What a request asks of a queue, by its path and its query. A parameter that means nothing is an error: a typing error in `ack`
//! would cost the items that it was to keep.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::reply::Refusal;
use crate::limits::Limits;
use crate::proto::{query, signed_url, target};

/// How a producer asks.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Produce {
    /// How long to be held back; as long as it takes when it does not say.
    pub wait: Option<Duration>,
    pub ends: bool,
    /// A lease to give back, and nothing else.
    pub release: Option<String>,
}

/// How a consumer asks.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Consume {
    pub max: Option<u64>,
    /// How long to wait for an item when there is none; until the client leaves when it does not say.
    pub wait: Option<Duration>,
    pub raw: bool,
    pub ack: bool,
    /// Shorter than the route's.
    pub lease_for: Option<Duration>,
    pub status: bool,
}

/// The queue that the path names.
pub(super) fn queue(path_in_route: &str) -> Result<Arc<str>, Refusal> {
    let path = target::normalize(path_in_route)
        .map_err(|error| Refusal::new(error.status(), "PATH", format!("This names no queue: {error}.")))?;
    let text = std::str::from_utf8(&path.path);
    name(text.map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "NAME", "A queue's name is UTF-8."))?)
}

/// A queue's name.
pub(super) fn name(name: &str) -> Result<Arc<str>, Refusal> {
    let bad = |text: &str| Refusal::new(StatusCode::BAD_REQUEST, "NAME", text);
    match name.len() {
        0 => Err(Refusal::new(StatusCode::NOT_FOUND, "NAME", "The path behind the route is the queue's name.")),
        len if len > Limits::QUEUE_NAME_LEN => Err(bad("A queue's name has 255 bytes at most.")),
        _ if name.chars().any(char::is_control) => Err(bad("A queue's name has no control characters.")),
        _ => Ok(Arc::from(name)),
    }
}

/// The parameters of a producer.
pub(super) fn produce(query: Option<&str>) -> Result<Produce, Refusal> {
    let mut ask = Produce::default();
    each(query, |name, value| {
        match name {
            "wait" => ask.wait = Some(seconds(value).ok_or(SECONDS)?),
            "end" => ask.ends = flag(value).ok_or(FLAG)?,
            "release" => ask.release = Some(value.to_owned()),
            _ => return Err(Wrong::Name),
        }
        Ok(())
    })?;
    Ok(ask)
}

/// The parameters of a consumer.
pub(super) fn consume(query: Option<&str>) -> Result<Consume, Refusal> {
    let mut ask = Consume::default();
    each(query, |name, value| {
        match name {
            "max" => {
                let max = value.parse().ok().filter(|max| *max > 0);
                ask.max = Some(max.ok_or(Wrong::Value("how many items, 1 or more"))?);
            }
            "wait" => ask.wait = Some(seconds(value).ok_or(SECONDS)?),
            "as" if value == "raw" || value == "ndjson" => ask.raw = value == "raw",
            "as" => return Err(Wrong::Value("raw or ndjson")),
            "ack" => ask.ack = flag(value).ok_or(FLAG)?,
            "lease_for" => {
                ask.lease_for = Some(seconds(value).filter(|lease| !lease.is_zero()).ok_or(SECONDS)?);
            }
            "status" => ask.status = flag(value).ok_or(FLAG)?,
            _ => return Err(Wrong::Name),
        }
        Ok(())
    })?;
    if ask.ack && ask.raw && ask.max != Some(1) {
        let text = "Raw items have no place for a lease: write max=1 too, or leave out as=raw.";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "PARAMETER", text));
    }
    if ask.lease_for.is_some() && !ask.ack {
        let text = "lease_for is how long a lease is held: write ack=1 too.";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "PARAMETER", text));
    }
    Ok(ask)
}

/// The leases that a request acknowledges.
pub(super) fn leases(query: Option<&str>) -> Result<Vec<String>, Refusal> {
    let mut leases = Vec::new();
    for pair in query::pairs(query.unwrap_or_default()) {
        let (name, value) = pair.map_err(|error| parameter(error.to_string()))?;
        match &*name {
            "lease" if leases.iter().any(|lease| *lease == value) => {}
            "lease" if leases.len() < Limits::QUEUE_LEASES => leases.push(value.into_owned()),
            "lease" => return Err(parameter(format!("{} leases at most", Limits::QUEUE_LEASES))),
            _ if signed_url::is_parameter(&name) => {}
            _ => return Err(parameter(format!("{name:?} means nothing here"))),
        }
    }
    if leases.is_empty() { Err(parameter("no lease: write ?lease=ID".to_owned())) } else { Ok(leases) }
}

/// What is wrong with a parameter.
enum Wrong {
    /// There is none of this name.
    Name,
    /// Its value is not what it has to be.
    Value(&'static str),
}

const SECONDS: Wrong = Wrong::Value("a time in seconds, like 1.5");
const FLAG: Wrong = Wrong::Value("1 or 0");

/// Takes each parameter; one that is not taken, or comes twice, is an error.
fn each(query: Option<&str>, mut take: impl FnMut(&str, &str) -> Result<(), Wrong>) -> Result<(), Refusal> {
    let mut seen = HashSet::new();
    for pair in query::pairs(query.unwrap_or_default()) {
        let (name, value) = pair.map_err(|error| parameter(error.to_string()))?;
        if signed_url::is_parameter(&name) {
            continue;
        }
        take(&name, &value).map_err(|wrong| match wrong {
            Wrong::Name => parameter(format!("{name:?} means nothing here")),
            Wrong::Value(what) => parameter(format!("{name:?} is {what}, and can't be {value:?}")),
        })?;
        if !seen.insert(name.clone()) {
            return Err(parameter(format!("{name:?} comes twice")));
        }
    }
    Ok(())
}

fn parameter(text: String) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "PARAMETER", format!("The query can't be used: {text}."))
}

/// A number of seconds, maybe with a fraction.
fn seconds(value: &str) -> Option<Duration> {
    let is_number =
        !value.is_empty() && value.len() <= 20 && value.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let seconds = value.parse().ok().filter(|_| is_number)?;
    Duration::try_from_secs_f64(seconds).ok().filter(|wait| *wait <= Limits::QUEUE_WAIT)
}

fn flag(value: &str) -> Option<bool> {
    match value {
        "" | "1" => Some(true),
        "0" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_consume(query: &str, expected: Option<Consume>) {
        assert_eq!(consume(Some(query)).ok(), expected, "{query}");
    }

    #[test]
    fn a_signed_url_s_own_parameters_are_no_mistake() {
        let signed = "expires=1&prefix=/q/&signature=x";
        assert_eq!(produce(Some(&format!("wait=0&{signed}"))).unwrap().wait, Some(Duration::ZERO));
        assert!(consume(Some(&format!("{signed}&ack=1"))).unwrap().ack);
        assert_eq!(leases(Some(&format!("lease=a&{signed}"))).unwrap(), ["a"]);
    }

    #[test]
    fn parameters_mean_one_thing_or_are_refused() {
        let seconds = Duration::from_secs_f64;
        check_consume("", Some(Consume::default()));
        let ask = Consume { max: Some(1), wait: Some(seconds(0.5)), raw: true, ack: true, ..Consume::default() };
        check_consume("max=1&wait=0.5&as=raw&ack=1", Some(ask));
        let ask = Consume { ack: true, lease_for: Some(seconds(2.0)), ..Consume::default() };
        check_consume("ack&lease_for=2&as=ndjson", Some(ask));
        check_consume(
            "status&wait=86400",
            Some(Consume { status: true, wait: Some(seconds(86400.0)), ..Consume::default() }),
        );
        for query in [
            "max=0",
            "max=-1",
            "max=99999999999999999999",
            "max=",
            "wait=86401",
            "wait=-1",
            "wait=1e3",
            "wait=NaN",
            "wait=inf",
            "wait=",
            "wait=.",
            "as=xml",
            "ack=yes",
            "acknowledge=1",
            "ack=1&ack=1",
            "as=raw&ack=1",
            "lease_for=1",
            "ack=1&lease_for=0",
            "%ff",
            "end=1",
        ] {
            check_consume(query, None);
        }
        let ask = produce(Some("wait=0&end=1")).ok();
        assert_eq!(ask, Some(Produce { wait: Some(Duration::ZERO), ends: true, release: None }));
        assert!(produce(Some("ack=1")).is_err());
        assert_eq!(leases(Some("lease=a&lease=b")).ok(), Some(vec!["a".to_owned(), "b".to_owned()]));
        assert!(leases(None).is_err() && leases(Some("leas=a")).is_err());
        let many = |count: usize| (0..count).fold(String::new(), |query, n| format!("{query}lease={n}&lease={n}&"));
        assert!(leases(Some(&many(Limits::QUEUE_LEASES))).is_ok());
        assert!(leases(Some(&many(Limits::QUEUE_LEASES + 1))).is_err());
    }

    #[test]
    fn names_are_short_text() {
        let name = |path: &str| queue(path).ok();
        assert_eq!(name("/work"), Some(Arc::from("work")));
        assert_eq!(name("/a/b%20c"), Some(Arc::from("a/b c")));
        assert_eq!(name(&format!("/{}", "a".repeat(255))).map(|name| name.len()), Some(255));
        for path in ["", "/", "/%00", "/%0a", "/%ff", "/%c2%85", "/a%2fb", &format!("/{}", "a".repeat(256))] {
            assert_eq!(name(path), None, "{path}");
        }
    }
}
