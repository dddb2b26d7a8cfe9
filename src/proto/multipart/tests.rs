use http::StatusCode;
use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits {
    field_name_len: 8,
    field_len: 40,
    fields: 3,
    files: 2,
    parts: 4,
    file_len: 50,
    total_len: 90,
    header_pairs: 7,
    part_head_len: 120,
};

const NO_LIMITS: Limits = Limits {
    field_name_len: usize::MAX,
    field_len: usize::MAX,
    fields: usize::MAX,
    files: usize::MAX,
    parts: usize::MAX,
    file_len: u64::MAX,
    total_len: u64::MAX,
    header_pairs: usize::MAX,
    part_head_len: 1 << 20,
};

#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    Start(PartHead),
    /// All data between two other events.
    Data(Vec<u8>),
    PartEnd,
    End,
}

/// What was told, and how it ended.
type Outcome = (Vec<Event>, Result<(), Refusal>);

fn parser(boundary_text: &str, limits: Limits) -> Parser {
    let content_type = format!("multipart/form-data; boundary=\"{boundary_text}\"");
    Parser::new(&boundary(content_type.as_bytes()).expect("a boundary"), limits)
}

fn push_data(events: &mut Vec<Event>, data: &[u8]) {
    assert!(!data.is_empty());
    match events.last_mut() {
        Some(Event::Data(all)) => all.extend_from_slice(data),
        _ => events.push(Event::Data(data.to_vec())),
    }
}

/// Parses `pieces` one after the other, as they would arrive, and holds the parser to what it promises of each event.
fn parse<'a>(mut parser: Parser, pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let mut events = Vec::new();
    for piece in pieces {
        let mut rest = piece;
        loop {
            let parsed = match parser.parse(rest) {
                Ok(parsed) => parsed,
                Err(refusal) => {
                    assert_eq!(parser.parse(b"\r\n"), Err(refusal), "an error that is not final");
                    assert_eq!(parser.finish(), Err(refusal));
                    return (events, Err(refusal));
                }
            };
            assert!(parser.head.capacity() <= parser.limits.part_head_len, "{} bytes", parser.head.capacity());
            let used = match parsed {
                Parsed::PartStart { head, used } => {
                    events.push(Event::Start(head));
                    used
                }
                Parsed::Data { data, used } => {
                    assert!(data.start == 0 && data.end <= used);
                    push_data(&mut events, &rest[data]);
                    used
                }
                Parsed::Held { len } => {
                    assert_eq!(parser.held().len(), len);
                    push_data(&mut events, parser.held());
                    0
                }
                Parsed::PartEnd { used } => {
                    events.push(Event::PartEnd);
                    used
                }
                Parsed::End { used } => {
                    if events.last() != Some(&Event::End) {
                        events.push(Event::End);
                    }
                    used
                }
                Parsed::NeedMore { used } => {
                    assert_eq!(used, rest.len(), "asks for more before it has used what there is");
                    break;
                }
            };
            rest = &rest[used..];
            if rest.is_empty() && events.last() == Some(&Event::End) {
                break;
            }
        }
    }
    (events, parser.finish())
}

/// Byte by byte, and in two pieces cut anywhere, the outcome must be that of the whole.
#[track_caller]
fn every_split(parser: &Parser, input: &[u8]) -> Outcome {
    let whole = parse(parser.clone(), [input]);
    assert_eq!(parse(parser.clone(), input.chunks(1)), whole, "byte by byte: {}", input.escape_ascii());
    for cut in 0..=input.len() {
        let pieces = [&input[..cut], &input[cut..]];
        assert_eq!(parse(parser.clone(), pieces), whole, "cut at {cut}: {}", input.escape_ascii());
    }
    whole
}

/// The name, the file's name and the data of each part.
type Parts = Vec<(String, Option<String>, Vec<u8>)>;

/// The parts, if the events make sense: start, perhaps data, end, for each part, and the form's end.
#[track_caller]
fn parts(events: &[Event]) -> Parts {
    let mut parts = Parts::new();
    let mut is_open = false;
    for (at, event) in events.iter().enumerate() {
        match event {
            Event::Start(head) if !is_open => {
                parts.push((head.name.clone(), head.file_name.clone(), Vec::new()));
                is_open = true;
            }
            Event::Data(data) if is_open => parts.last_mut().unwrap().2.clone_from(data),
            Event::PartEnd if is_open => is_open = false,
            Event::End if !is_open && at + 1 == events.len() => return parts,
            _ => panic!("event {at} of {events:?}"),
        }
    }
    panic!("no end: {events:?}");
}

#[track_caller]
fn check(input: impl AsRef<[u8]>, expected: &[(&str, Option<&str>, &str)]) {
    let (events, end) = every_split(&parser("AaB", LIMITS), input.as_ref());
    assert_eq!(end, Ok(()), "{}", input.as_ref().escape_ascii());
    let expected: Parts = expected
        .iter()
        .map(|&(name, file, data)| (name.to_string(), file.map(str::to_string), data.as_bytes().to_vec()))
        .collect();
    assert_eq!(parts(&events), expected, "{}", input.as_ref().escape_ascii());
}

#[track_caller]
fn check_refusal(input: impl AsRef<[u8]>, refusal: Refusal) {
    let (_, end) = every_split(&parser("AaB", LIMITS), input.as_ref());
    assert_eq!(end, Err(refusal), "{}", input.as_ref().escape_ascii());
}

/// A part with its delimiter, but for the line end before that.
fn field(name: &str, data: &str) -> String {
    format!("--AaB\r\nContent-Disposition: form-data; name={name}\r\n\r\n{data}\r\n")
}

fn file(name: &str, data: &str) -> String {
    format!("--AaB\r\nContent-Disposition: form-data; name={name}; filename=f\r\nContent-Type: a/b\r\n\r\n{data}\r\n")
}

/// `data` as a field of a whole form.
#[track_caller]
fn check_data(data: &str) {
    check(format!("{}--AaB--", field("a", data)), &[("a", None, data)]);
}

#[test]
fn forms() {
    check("--AaB--", &[]);
    check("--AaB--\r\n", &[]);
    check(field("a", "b") + "--AaB--\r\n", &[("a", None, "b")]);
    check(field("a", "") + "--AaB--\r\n", &[("a", None, "")]);
    check(
        field("a", "b") + &file("c", "d\0\u{e9}") + &field("a", "e") + "--AaB--\r\n",
        &[("a", None, "b"), ("c", Some("f"), "d\0\u{e9}"), ("a", None, "e")],
    );
}

#[test]
fn what_surrounds_a_form_is_dropped() {
    check("\r\n".to_string() + &field("a", "b") + "--AaB--", &[("a", None, "b")]);
    check("This is a form.\r\n\r\r\n".to_string() + &field("a", "b") + "--AaB--", &[("a", None, "b")]);
    check("-\r\n--\r\n--Aa\r\n--AaB--", &[]);
    check("--AaB--\r\n--AaB\r\nmore\r\n--AaB--\r\n", &[]);
    check("--AaB--x", &[]);
    check("--AaB-- \t", &[]);
}

#[test]
fn the_preamble_is_bounded() {
    let preamble = "p".repeat(LIMITS.part_head_len);
    check(format!("{preamble}\r\n--AaB--"), &[]);
    check_refusal(format!("{preamble}p\r\n--AaB--"), Refusal::MissingBoundary);
    check_refusal("\r\n--Aa".repeat(LIMITS.part_head_len), Refusal::MissingBoundary);
}

#[test]
fn data_that_looks_like_a_delimiter() {
    for data in [
        "\r",
        "\n",
        "\r\n",
        "\r\r\n",
        "\r\n\r\n",
        "-",
        "--",
        "--Aa",
        "\r\n-",
        "\r\n--",
        "\r\n--Aa",
        "\r\n--Aa\r\n--Aab",
        "\r\n--A\r\n--AB\r",
        "\r\r\n--A",
        "\r\n\r\n--",
        "x--AaB",
        "x\n--AaB",
        "x\r--AaB",
        "\n--AaB",
        "\r\n --AaB",
        "\r\n-AaB",
        "\r\n--aAB",
        "\r\n---AaB",
    ] {
        check_data(data);
        check_data(&format!("{data}{data}"));
    }
}

#[test]
fn boundaries_that_repeat_their_beginning() {
    for text in ["aaaaaa", "aabaabaab", "------", "--a--a", "a"] {
        let parser = parser(text, NO_LIMITS);
        for data in [text[..text.len() - 1].to_string(), format!("\r\n-{text}"), format!("\r\n--{}", &text[1..])] {
            let data = format!("{data}\r\n--{}", &text[..text.len() - 1]);
            let form = format!("--{text}\r\nContent-Disposition: form-data; name=n\r\n\r\n{data}\r\n--{text}--");
            let (events, end) = every_split(&parser, form.as_bytes());
            // `------` followed by hyphens is the boundary; what matters there is that all splits agree.
            if text != "------" {
                assert_eq!(end, Ok(()), "{form:?}");
                assert_eq!(parts(&events), [("n".to_string(), None, data.into_bytes())], "{form:?}");
            }
        }
    }
}

#[test]
fn a_part_without_data_needs_one_line_end_only() {
    let head = "--AaB\r\nContent-Disposition: form-data; name=a\r\n\r\n";
    check(format!("{head}--AaB--"), &[("a", None, "")]);
    check(format!("{head}{head}--AaB--"), &[("a", None, ""), ("a", None, "")]);
    check(format!("{head}--AaC\r\n--AaB--"), &[("a", None, "--AaC")]);
    check(format!("{head}-\r\n--AaB--"), &[("a", None, "-")]);
}

#[test]
fn white_space_after_a_boundary_is_dropped_and_bounded() {
    let form = |blanks: &str| field("a", "b").replace("--AaB", &format!("--AaB{blanks}")) + "--AaB--";
    check(form(" "), &[("a", None, "b")]);
    check(form(&"\t ".repeat(LIMITS.part_head_len / 2)), &[("a", None, "b")]);
    check_refusal(form(&" ".repeat(LIMITS.part_head_len + 1)), Refusal::PartHead(LIMITS.part_head_len));
}

#[test]
fn u2_anything_else_after_a_boundary_is_refused() {
    for after in ["x", "AaB", "-", "-\r\n", "-x", " --", "\n", "\rx", "\r\r\n", " x", "\0", ":"] {
        check_refusal(format!("--AaB{after}\r\n\r\n--AaB--"), Refusal::Delimiter);
        check_refusal(format!("{}--AaB{after}\r\n\r\n--AaB--", field("a", "b")), Refusal::Delimiter);
    }
}

#[test]
fn u2_every_prefix_of_a_form_is_unclosed() {
    let form = field("a", "b") + &file("c", "d\r\n--A") + "--AaB--";
    let parser = parser("AaB", LIMITS);
    for len in 0..form.len() {
        let (_, end) = parse(parser.clone(), [&form.as_bytes()[..len]]);
        let expected = if len < "--AaB".len() { Refusal::MissingBoundary } else { Refusal::Unclosed };
        assert_eq!(end, Err(expected), "{len} bytes");
    }
    check_refusal(form.replace("--AaB", "--AaC"), Refusal::MissingBoundary);
}

#[test]
fn lines_of_a_head_end_in_cr_lf() {
    for head in ["Content-Disposition: form-data; name=a\n\r\n", "\n", "Content-Disposition: form-data; name=a\r\n\n"] {
        check_refusal(format!("--AaB\r\n{head}b\r\n--AaB--"), Refusal::Malformed(HeadFault::BareLineFeed));
    }
    check_refusal("--AaB\r\nX: y\r\r\n\r\nb\r\n--AaB--", Refusal::Malformed(HeadFault::Value));
    check_refusal("--AaB\r\nX: y\r\n folded\r\n\r\nb\r\n--AaB--", Refusal::Malformed(HeadFault::Field));
    check_refusal("--AaB\r\n\r\nb\r\n--AaB--", Refusal::MissingFieldName);
}

/// With one limit the form passes, with one less it is refused, and nothing is told of what is beyond the limit.
#[track_caller]
fn check_limit(form: &str, limit: impl Fn(&mut Limits, u64), exact: u64, refusal: Refusal, data_len: usize) {
    let outcome = |most: u64| {
        let mut limits = NO_LIMITS;
        limit(&mut limits, most);
        every_split(&parser("AaB", limits), form.as_bytes())
    };
    assert_eq!(outcome(exact).1, Ok(()), "{form}");
    let (events, end) = outcome(exact - 1);
    assert_eq!(end, Err(refusal), "{form}");
    let told: usize = events.iter().map(|event| if let Event::Data(data) = event { data.len() } else { 0 }).sum();
    assert_eq!(told, data_len, "{form}");
}

#[test]
fn u1_each_limit_may_be_reached_and_not_be_broken() {
    let parts = field("a", "b") + &file("c", "") + &field("d", "ef") + &file("g", "hij") + "--AaB--";
    check_limit(&parts, |limits, most| limits.parts = most as usize, 4, Refusal::PartCount(3), 3);
    check_limit(&parts, |limits, most| limits.files = most as usize, 2, Refusal::FileCount(1), 3);
    check_limit(&parts, |limits, most| limits.fields = most as usize, 2, Refusal::FieldCount(1), 1);
    check_limit(&parts, |limits, most| limits.field_len = most as usize, 2, Refusal::FieldValue(1), 2);
    check_limit(&parts, |limits, most| limits.file_len = most, 3, Refusal::FileSize(2), 5);
    check_limit(&parts, |limits, most| limits.total_len = most, 6, Refusal::TotalSize(5), 5);
    check_limit(&parts, |limits, most| limits.header_pairs = most as usize, 6, Refusal::HeaderPairs(5), 3);
    let names = field("é", "b") + &file("\"c%22c\"", "d") + "--AaB--";
    check_limit(&names, |limits, most| limits.field_name_len = most as usize, 3, Refusal::FieldKey(2), 1);
    let head_len = (file("a", "").len() - "--AaB\r\n\r\n".len()) as u64;
    let head = field("a", "b") + &file("a", "") + "--AaB--";
    let refusal = Refusal::PartHead(head_len as usize - 1);
    check_limit(&head, |limits, most| limits.part_head_len = most as usize, head_len, refusal, 1);
}

#[test]
fn u1_a_limit_may_be_broken_by_bytes_that_were_held() {
    let almost = "\r\n--Aa";
    let form = file("a", &format!("12{almost}{almost}")) + "--AaB--";
    for exact in 3..=2 + 2 * almost.len() {
        let input = file("a", &format!("12{almost}{almost}")[..exact]) + "--AaB--";
        let refusal = Refusal::FileSize(exact as u64 - 1);
        check_limit(&input, |limits, most| limits.file_len = most, exact as u64, refusal, exact - 1);
    }
    let total = 2 + 2 * almost.len();
    let refusal = Refusal::TotalSize(total as u64 - 1);
    check_limit(&form, |limits, most| limits.total_len = most, total as u64, refusal, total - 1);
}

#[test]
fn u1_a_head_that_never_ends_is_refused_at_its_limit() {
    let mut parser = parser("AaB", NO_LIMITS);
    assert_eq!(parser.parse(b"--AaB\r\n"), Ok(Parsed::NeedMore { used: 7 }));
    let mut len = 0;
    let refusal = loop {
        match parser.parse(&[b'x'; 1000]) {
            Ok(_) => len += 1000,
            Err(refusal) => break refusal,
        }
        assert!(parser.head.capacity() <= NO_LIMITS.part_head_len);
    };
    assert_eq!(refusal, Refusal::PartHead(NO_LIMITS.part_head_len));
    assert_eq!(len, NO_LIMITS.part_head_len / 1000 * 1000);
}

#[test]
fn data_is_reported_in_as_few_pieces_as_there_can_be() {
    let mut parser = parser("AaB", NO_LIMITS);
    let form = file("a", &"\r\n--Aa, ".repeat(1000)) + "--AaB--";
    let Ok(Parsed::PartStart { used, .. }) = parser.parse(form.as_bytes()) else { panic!("no part") };
    let rest = &form.as_bytes()[used..];
    assert_eq!(parser.parse(rest), Ok(Parsed::Data { data: 0..8000, used: 8007 }));
    assert_eq!(parser.parse(&rest[8007..]), Ok(Parsed::PartEnd { used: 0 }));
    assert_eq!(parser.parse(&rest[8007..]), Ok(Parsed::End { used: 2 }));
    assert_eq!(parser.parse(b"epilogue"), Ok(Parsed::End { used: 8 }));
}

#[test]
fn what_is_held_is_given_back() {
    let mut parser = parser("AaB", NO_LIMITS);
    let head = b"--AaB\r\nContent-Disposition: form-data; name=a\r\n\r\n";
    assert!(matches!(parser.parse(head), Ok(Parsed::PartStart { .. })));
    assert_eq!(parser.parse(b"x\r\n--"), Ok(Parsed::Data { data: 0..1, used: 5 }));
    assert_eq!(parser.parse(b""), Ok(Parsed::NeedMore { used: 0 }));
    assert_eq!(parser.parse(b"Aa"), Ok(Parsed::NeedMore { used: 2 }));
    assert_eq!(parser.parse(b"\r\n"), Ok(Parsed::Held { len: 6 }));
    assert_eq!(parser.held(), b"\r\n--Aa");
    assert_eq!(parser.parse(b"\r\n"), Ok(Parsed::NeedMore { used: 2 }));
    assert_eq!(parser.parse(b"--AaB-"), Ok(Parsed::PartEnd { used: 5 }));
    assert_eq!(parser.parse(b"-"), Ok(Parsed::NeedMore { used: 1 }));
    assert_eq!(parser.parse(b"-"), Ok(Parsed::End { used: 1 }));
}

#[test]
fn u1_u2_codes_and_statuses() {
    for (refusal, code) in [
        (Refusal::PartCount(1), "LIMIT_PART_COUNT"),
        (Refusal::FileSize(1), "LIMIT_FILE_SIZE"),
        (Refusal::FileCount(1), "LIMIT_FILE_COUNT"),
        (Refusal::FieldKey(1), "LIMIT_FIELD_KEY"),
        (Refusal::FieldValue(1), "LIMIT_FIELD_VALUE"),
        (Refusal::FieldCount(1), "LIMIT_FIELD_COUNT"),
        (Refusal::UnexpectedFile, "LIMIT_UNEXPECTED_FILE"),
        (Refusal::TotalSize(1), "LIMIT_TOTAL_SIZE"),
        (Refusal::HeaderPairs(1), "LIMIT_HEADER_PAIRS"),
        (Refusal::PartHead(1), "LIMIT_PART_HEAD"),
        (Refusal::MissingFieldName, "MISSING_FIELD_NAME"),
        (Refusal::Malformed(HeadFault::Field), "MALFORMED_PART_HEAD"),
        (Refusal::TransferEncoding, "UNSUPPORTED_TRANSFER_ENCODING"),
        (Refusal::Delimiter, "MALFORMED_DELIMITER"),
        (Refusal::MissingBoundary, "MISSING_BOUNDARY"),
        (Refusal::Unclosed, "UNCLOSED"),
    ] {
        assert_eq!(refusal.code(), code);
        let is_limit = refusal.status() == StatusCode::PAYLOAD_TOO_LARGE;
        assert_eq!(is_limit, code.starts_with("LIMIT_"), "{code}");
        assert!(is_limit || refusal.status() == StatusCode::BAD_REQUEST, "{code}");
        let sentence = refusal.to_string();
        assert!(sentence.ends_with('.') && sentence.len() > 20, "{sentence}");
    }
    assert_eq!(Refusal::FileSize(1024).to_string(), "A file of the form is longer than 1024 bytes.");
}

/// The pieces of `input` whose lengths go round in `lens`.
fn cut<'a>(input: &'a [u8], lens: &[usize]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    let mut rest = input;
    for &len in lens.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, after) = rest.split_at(len.min(rest.len()));
        pieces.push(piece);
        rest = after;
    }
    pieces
}

/// A form as a browser writes it.
fn encode(boundary: &str, parts: &Parts) -> Vec<u8> {
    let escape = |name: &str| name.replace('\n', "%0A").replace('\r', "%0D").replace('"', "%22");
    let mut form = Vec::new();
    for (name, file_name, data) in parts {
        form.extend(format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{}\"", escape(name)).into_bytes());
        if let Some(file_name) = file_name {
            form.extend(format!("; filename=\"{}\"\r\nContent-Type: a/b", escape(file_name)).into_bytes());
        }
        form.extend_from_slice(b"\r\n\r\n");
        form.extend_from_slice(data);
        form.extend_from_slice(b"\r\n");
    }
    form.extend(format!("--{boundary}--\r\n").into_bytes());
    form
}

/// Data of arbitrary bytes and of pieces of the delimiter `\r\n--aab`, but not of the whole boundary.
fn data() -> impl Strategy<Value = Vec<u8>> {
    let pieces = vec![&b"\r"[..], b"\n", b"\r\n", b"-", b"--", b"\r\n--", b"\r\n--a", b"\r\n--aa", b"a", b"b", b"\0"];
    let almost = prop::collection::vec(prop::sample::select(pieces), 0..12).prop_map(|pieces| pieces.concat());
    let any = prop::collection::vec(any::<u8>(), 0..60);
    prop_oneof![almost, any].prop_filter("the boundary", |data| memchr::memmem::find(data, b"--aab").is_none())
}

fn any_parts() -> impl Strategy<Value = Parts> {
    // What browsers send unescaped is what no quoted-string can hold: backslashes and, escaped or not, percent signs.
    let name = "[^\\\\%\\x00-\\x09\\x0b\\x0c\\x0e-\\x1f\\x7f]{1,10}";
    prop::collection::vec((name, prop::option::of("[^\\\\%\\x00-\\x1f\\x7f]{0,10}"), data()), 0..5)
}

/// Pieces that forms are made of, and that break them.
fn form_like() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        &b"--AaB\r\nContent-Disposition: form-data; name=a\r\n\r\n"[..],
        b"--AaB\r\nContent-Disposition: form-data; name=a; filename=b\r\n\r\n",
        b"\r\n--AaB",
        b"\r\n--AaB\r\n",
        b"\r\n--AaB--",
        b"\r\n--Aa",
        b"\r\n",
        b"\r",
        b"\n",
        b"-",
        b" ",
        b"Content-Disposition: form-data; name=\"x\"; filename*=UTF-8''%41\r\n",
        b"X: y\r\n",
        b"some data",
        b"\0",
        b"\xff",
    ]);
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_bytes_have_one_outcome(input in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = every_split(&parser("AaB", LIMITS), &input);
    }

    #[test]
    fn almost_forms_have_one_outcome(
        input in form_like(),
        limits in prop::sample::select(vec![LIMITS, NO_LIMITS]),
        lens in prop::collection::vec(1usize..20, 1..10),
    ) {
        let parser = parser("AaB", limits);
        let whole = every_split(&parser, &input);
        prop_assert_eq!(parse(parser, cut(&input, &lens)), whole);
    }

    #[test]
    fn any_part_head_has_one_outcome(
        input in prop::collection::vec(any::<u8>(), 0..60),
        value in "[a-z \"\\\\;=*%'\\x00-\\x1f\u{e9}]{0,40}",
    ) {
        let parser = parser("AaB", NO_LIMITS);
        let _ = every_split(&parser, &[b"--AaB\r\n", &input[..], b"\r\n\r\n--AaB--"].concat());
        let head = format!("--AaB\r\nContent-Disposition: form-data; name=a;{value}\r\n\r\n--AaB--");
        let _ = every_split(&parser, head.as_bytes());
    }

    #[test]
    fn what_is_encoded_is_parsed(form in any_parts(), lens in prop::collection::vec(1usize..30, 1..20)) {
        let wire = encode("aab", &form);
        let (events, end) = parse(parser("aab", NO_LIMITS), cut(&wire, &lens));
        prop_assert_eq!(end, Ok(()));
        prop_assert_eq!(parts(&events), form);
    }
}
