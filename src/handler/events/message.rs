//! What a publisher says: an event before it has its place in a topic.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::position::EARLIEST;
use super::refusal::Refusal;
use crate::limits::Limits;
use crate::proto::fields::Fields;
use crate::proto::{query, signed_url, sse};

/// An event to publish.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// What it says: text, of any number of lines.
    pub data: String,
    /// What clients that come back say that they have seen, in place of the server's own position: one line.
    pub id: Option<String>,
    /// The type for which a page listens; `message` without one: one line.
    pub event: Option<String>,
    /// How long clients are to wait before they connect again; at most a day.
    pub retry: Option<Duration>,
    /// What it says something about. In the history it takes the place of the earlier event of the same key.
    pub key: Option<String>,
}

impl Message {
    /// An event that says this.
    pub fn new(data: impl Into<String>) -> Self {
        Message { data: data.into(), ..Message::default() }
    }

    /// Whether it can be published where events may have `event_len` bytes.
    pub(super) fn check(&self, event_len: usize) -> Result<(), Refusal> {
        if self.data.len() > event_len {
            return Err(Refusal::TooLong(event_len));
        }
        for (what, name) in [("id", &self.id), ("event", &self.event), ("key", &self.key)] {
            let checked = name.as_deref().map_or(Ok(()), sse::check_name);
            checked.map_err(|error| Refusal::Malformed(format!("the {what} {error}")))?;
        }
        if self.id.as_deref() == Some(EARLIEST) {
            let what = format!("the id {EARLIEST:?} is what a client says that wants all there is");
            return Err(Refusal::Malformed(what));
        }
        match self.retry {
            Some(retry) if retry > Limits::EVENT_RETRY => {
                Err(Refusal::Malformed("the retry is longer than a day".into()))
            }
            _ => Ok(()),
        }
    }

    /// A value that a client gives under this name.
    fn set(&mut self, name: &str, value: &str) -> Result<(), Refusal> {
        let text = || Some(value.to_owned());
        match name {
            "id" => self.id = text(),
            "event" => self.event = text(),
            "key" => self.key = text(),
            _ => {
                let wrong = || Refusal::Malformed("the retry is no number of milliseconds".into());
                let is_number = value.bytes().all(|byte| byte.is_ascii_digit());
                let millis = value.parse().ok().filter(|_| is_number).ok_or_else(wrong)?;
                self.retry = Some(Duration::from_millis(millis));
            }
        }
        Ok(())
    }

    /// All but the data, as the query and the fields of a request say it; the query wins. Returns the topics that the query
    /// names, too.
    pub(super) fn of_request<'a>(
        query: Option<&'a str>,
        fields: &Fields,
    ) -> Result<(Self, Vec<Cow<'a, str>>), Refusal> {
        let mut message = Message::default();
        for (name, field) in
            [("id", "Event-ID"), ("event", "Event-Type"), ("retry", "Event-Retry"), ("key", "Event-Key")]
        {
            let value = fields.get_single(field).map_err(|_| Refusal::Malformed(format!("{field} comes twice")))?;
            if let Some(value) = value {
                let value =
                    std::str::from_utf8(value).map_err(|_| Refusal::Malformed(format!("{field} is not UTF-8")))?;
                message.set(name, value)?;
            }
        }
        let mut topics = Vec::new();
        for pair in query::pairs(query.unwrap_or_default()) {
            let (name, value) = pair.map_err(|error| Refusal::Malformed(error.to_string()))?;
            match &*name {
                "topic" => topics.push(value),
                "id" | "event" | "retry" | "key" => message.set(&name, &value)?,
                _ if signed_url::is_parameter(&name) => {}
                _ => return Err(unknown_parameter(&name)),
            }
        }
        Ok((message, topics))
    }

    /// Of a line of JSON: an object with `data`, text or any other value as it is written there, and beside it what a query may
    /// say. It takes memory for what it says, and not for a tree of values.
    pub(super) fn of_json(line: &[u8]) -> Result<Self, Refusal> {
        let wrong = |why: String| Refusal::Malformed(why);
        // An array would do for serde, too.
        if line.trim_ascii_start().first() != Some(&b'{') {
            return Err(wrong("no JSON object".into()));
        }
        let Said { data, id, event, retry, key } =
            serde_json::from_slice(line).map_err(|error| wrong(unread(&error)))?;
        let data = data.ok_or_else(|| wrong("no data".into()))?.get();
        let data = if data.starts_with('"') {
            serde_json::from_str(data).map_err(|_| wrong("no JSON: the data is no valid string".into()))?
        } else {
            data.to_owned()
        };
        Ok(Message { data, id, event, retry: retry.map(Duration::from_millis), key })
    }
}

/// What a line of JSON says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Said<'a> {
    #[serde(borrow, default, deserialize_with = "also_null")]
    data: Option<&'a RawValue>,
    id: Option<String>,
    event: Option<String>,
    retry: Option<u64>,
    key: Option<String>,
}

fn also_null<'de: 'a, 'a, D: Deserializer<'de>>(value: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(value).map(Some)
}

/// Why a line can't be read. There is only one, whose number is told beside it.
fn unread(error: &serde_json::Error) -> String {
    let what = error.to_string().replace(" at line 1 column ", ", at byte ");
    // It may quote the line, which may be long.
    let what: String = what.chars().take(Limits::UNREAD_LINE_LEN).collect();
    if error.is_data() { what } else { format!("no JSON: {what}") }
}

/// A parameter that means nothing: a typing error would cost what it was to say.
pub(super) fn unknown_parameter(name: &str) -> Refusal {
    Refusal::Malformed(format!("the parameter {name:?} means nothing here"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(data: &str, id: Option<&str>, event: Option<&str>, retry: Option<u64>, key: Option<&str>) -> Message {
        let text = |text: Option<&str>| text.map(str::to_owned);
        let retry = retry.map(Duration::from_millis);
        Message { data: data.into(), id: text(id), event: text(event), retry, key: text(key) }
    }

    #[track_caller]
    fn check_json(line: &str, expected: Result<Message, &str>) {
        let found = Message::of_json(line.as_bytes()).map_err(|refusal| refusal.to_string());
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{line}"),
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{line}: {found}"),
            (found, expected) => panic!("{line}: {found:?}, not {expected:?}"),
        }
    }

    #[test]
    fn a_line_of_json_is_a_message() {
        check_json(r#"{"data":"a\nb"}"#, Ok(message("a\nb", None, None, None, None)));
        let all = r#" {"data":{"x":[1,"é"]},"id":"7","event":"tick","retry":1500,"key":"k"} "#;
        check_json(all, Ok(message(r#"{"x":[1,"é"]}"#, Some("7"), Some("tick"), Some(1500), Some("k"))));
        check_json(r#"{"data":null,"id":null}"#, Ok(message("null", None, None, None, None)));
        check_json("{}", Err("no data"));
        check_json("[1]", Err("no JSON object"));
        check_json("{\"data\":", Err("no JSON: "));
        check_json("{\"data\":1} 2", Err("no JSON: "));
        // As it is written: the order of members, and numbers of any size.
        let exact = r#"{"b": 1, "a": 123456789012345678901234567890.10, "b": 2}"#;
        check_json(&format!(r#"{{"data":{exact}}}"#), Ok(message(exact, None, None, None, None)));
        check_json(r#"{"data":1,"id":2}"#, Err("invalid type: integer `2`, expected a string"));
        check_json(r#"{"data":1,"retry":-1}"#, Err("invalid value: integer `-1`, expected u64"));
        check_json(r#"{"data":1,"retry":1.5}"#, Err("invalid type: floating point `1.5`, expected u64"));
        check_json(r#"{"data":1,"topic":"a"}"#, Err("unknown field `topic`, expected one of `data`, `id`"));
        check_json(r#"{"data":1,"id":"a","id":"b"}"#, Err("duplicate field `id`"));
        check_json(r#"{"data":x}"#, Err("no JSON: expected value, at byte 9"));
        check_json(r#"{"data":"\ud800"}"#, Err("no JSON: the data is no valid string"));
        let long = format!(r#"{{"data":1,"retry":"{}"}}"#, "x".repeat(100_000));
        let refusal = Message::of_json(long.as_bytes()).unwrap_err().to_string();
        assert!(refusal.len() < 300, "{} bytes", refusal.len());
    }

    #[test]
    fn a_request_says_it_by_its_query_or_its_fields() {
        let fields =
            Fields::from_pairs([("event-id", "1"), ("Event-Type", "a"), ("Event-Retry", "5"), ("Event-Key", "k")]);
        let (found, topics) = Message::of_request(Some("event=b%20c&topic=x&topic=y&expires=1"), &fields).unwrap();
        assert_eq!(found, message("", Some("1"), Some("b c"), Some(5), Some("k")));
        assert_eq!(topics, ["x", "y"]);
        let none = Fields::default();
        for query in ["evnt=x", "retry=x", "retry=-1", "retry=99999999999999999999", "id=%ff"] {
            assert!(Message::of_request(Some(query), &none).is_err(), "{query}");
        }
        let twice = Fields::from_pairs([("Event-ID", "1"), ("Event-ID", "1")]);
        assert!(Message::of_request(None, &twice).is_err());
    }

    #[test]
    fn s2_a_name_of_two_lines_is_refused() {
        let message = Message::new("x\r\n\0y");
        assert!(message.check(5).is_ok() && matches!(message.check(4), Err(Refusal::TooLong(4))));
        for wrong in ["", "a\nb", "a\rb", "a\0", &"a".repeat(sse::NAME_LEN + 1)] {
            for message in [
                Message { id: Some(wrong.into()), ..Message::default() },
                Message { event: Some(wrong.into()), ..Message::default() },
                Message { key: Some(wrong.into()), ..Message::default() },
            ] {
                assert!(matches!(message.check(9), Err(Refusal::Malformed(_))), "{message:?}");
            }
        }
        let message = Message { retry: Some(Limits::EVENT_RETRY + Duration::from_millis(1)), ..Message::default() };
        assert!(matches!(message.check(9), Err(Refusal::Malformed(_))));
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = Message::of_json(&line);
        }
    }
}
