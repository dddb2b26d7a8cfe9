//! What the protocol costs a request, without a socket: `cargo bench --bench proto`.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use highwater::proto::conditional::{FileVersion, Validators, evaluate};
use highwater::proto::http1::chunked::{ChunkLimits, Decoded, Decoder};
use highwater::proto::http1::encode::{Payload, Persistence, ResponseHead, encode, http_date};
use highwater::proto::http1::framing;
use highwater::proto::http1::head::{HeadLimits, HeadParser, RequestHead};
use highwater::proto::multipart::{Limits, Parsed, Parser, boundary};
use highwater::proto::range::{RangeLimits, resolve};
use highwater::proto::target::normalize;
use highwater::{Method, StatusCode};

const LIMITS: HeadLimits = HeadLimits { target_len: 8192, head_len: 32768, fields: 100 };

const SMALL: &[u8] = b"GET /1k.bin HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n";

const BROWSER: &[u8] = b"GET /films/a%20film.mp4?t=1 HTTP/1.1\r\n\
    Host: media.example.org\r\nConnection: keep-alive\r\nsec-ch-ua: \"Chromium\";v=\"140\"\r\nsec-ch-ua-mobile: ?0\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\n\
    Accept-Encoding: identity;q=1, *;q=0\r\nAccept: */*\r\nSec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: no-cors\r\n\
    Sec-Fetch-Dest: video\r\nReferer: https://media.example.org/\r\nAccept-Language: en\r\n\
    If-Range: \"98e034-7fbb1-18e9e97432aa049a-18e9e9743c93cff9\"\r\nRange: bytes=1048576-2097151\r\n\r\n";

fn parse(input: &[u8]) -> RequestHead {
    HeadParser::default().parse(input, &LIMITS).expect("a sound head").expect("a whole head").0
}

fn heads(c: &mut Criterion) {
    c.bench_function("head/small", |b| b.iter(|| parse(black_box(SMALL))));
    c.bench_function("head/browser", |b| b.iter(|| parse(black_box(BROWSER))));
    let head = parse(BROWSER);
    c.bench_function("framing/browser", |b| {
        b.iter(|| {
            (framing::of_request(black_box(&head)), framing::keeps_alive(&head), framing::expects_continue(&head))
        });
    });
}

fn decisions(c: &mut Criterion) {
    let head = parse(BROWSER);
    let version = FileVersion {
        inode: 1,
        len: 50 << 30,
        modified_ns: 1_700_000_000_000_000_000,
        changed_ns: 1_700_000_000_000_000_000,
    };
    let now_ns = 1_800_000_000_000_000_000;
    c.bench_function("validators", |b| b.iter(|| Validators::of_file(black_box(&version), None, now_ns)));
    let validators = Validators::of_file(&version, None, now_ns);
    c.bench_function("conditional/browser", |b| {
        b.iter(|| evaluate(&Method::GET, black_box(&head.fields), &validators));
    });
    let limits = RangeLimits::default();
    c.bench_function("range/one", |b| b.iter(|| resolve(black_box(b"bytes=1048576-2097151"), version.len, &limits)));
    c.bench_function("target/escaped", |b| {
        b.iter(|| normalize(black_box("/films/a%20film.mp4")).expect("a sound path").hidden)
    });
}

fn replies(c: &mut Criterion) {
    let date = http_date(1_800_000_000);
    let mut out = Vec::with_capacity(512);
    c.bench_function("encode/206", |b| {
        b.iter(|| {
            out.clear();
            let mut head = ResponseHead::new(StatusCode::PARTIAL_CONTENT);
            head.field("ETag", b"\"98e034-7fbb1-18e9e97432aa049a\"");
            head.field("Content-Type", b"video/mp4");
            head.field("Content-Range", b"bytes 1048576-2097151/53687091200");
            encode(
                &mut out,
                http::Version::HTTP_11,
                &head,
                Some(&date),
                Payload::Length(1 << 20),
                Persistence::KeepAlive,
            );
            out.len()
        });
    });
}

fn chunks(c: &mut Criterion) {
    let mut body = Vec::new();
    for _ in 0..64 {
        body.extend_from_slice(b"4000\r\n");
        body.extend(std::iter::repeat_n(b'x', 0x4000));
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"0\r\n\r\n");
    let mut group = c.benchmark_group("chunked");
    group.throughput(criterion::Throughput::Bytes(body.len() as u64));
    group.bench_function("16 KiB chunks", |b| {
        b.iter(|| {
            let mut decoder = Decoder::new(ChunkLimits { extension_len: 4096, trailer_len: 8192 });
            let (mut at, mut data_len) = (0, 0);
            loop {
                match decoder.decode(black_box(&body[at..])).expect("a sound body") {
                    Decoded::Data { data, used } => (at, data_len) = (at + used, data_len + data.len()),
                    Decoded::NeedMore { used } => at += used,
                    Decoded::End { .. } => return data_len,
                }
            }
        });
    });
    group.finish();
}

const FORM_LIMITS: Limits = Limits {
    field_name_len: 100,
    field_len: 1 << 20,
    fields: 1000,
    files: 100,
    parts: 1100,
    file_len: u64::MAX,
    total_len: u64::MAX,
    header_pairs: 2000,
    part_head_len: 16 << 10,
};

/// Takes `rounds` times `data` as the beginning of a file, in inputs of `input_len` bytes; how much of it was data.
fn upload(parser: &Parser, data: &[u8], input_len: usize, rounds: usize) -> usize {
    let mut parser = parser.clone();
    let mut len = 0;
    for input in (0..rounds).flat_map(|_| data.chunks(input_len)) {
        let mut at = 0;
        loop {
            match parser.parse(black_box(&input[at..])).expect("a sound form") {
                Parsed::Data { data, used } => (at, len) = (at + used, len + data.len()),
                Parsed::Held { len: held } => len += held,
                Parsed::NeedMore { .. } => break,
                other => panic!("{other:?}"),
            }
        }
    }
    len
}

fn forms(c: &mut Criterion) {
    // The longest of the usual delimiters is that of Firefox.
    let text = "---------------------------9051914041544843365972754266";
    let boundary = boundary(format!("multipart/form-data; boundary={text}").as_bytes()).expect("a boundary");
    let mut parser = Parser::new(&boundary, FORM_LIMITS);
    let head = format!("--{text}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.mp4\"\r\n\r\n");
    assert!(matches!(parser.parse(head.as_bytes()), Ok(Parsed::PartStart { .. })));

    // Xorshift (Marsaglia 2003): media are as random as this. A mebibyte of it stays in the cache, as a receive buffer does.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = (0..1 << 17).map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    });
    let random: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    let almost = &boundary.delimiter()[..boundary.delimiter().len() - 1];
    let mut group = c.benchmark_group("multipart");
    for (name, data, rounds) in [
        ("random", random.clone(), 64),
        ("line ends and hyphens", b"\r\n--".repeat(random.len() / 4), 4),
        ("carriage returns", vec![b'\r'; random.len()], 4),
        ("hyphens", vec![b'-'; random.len()], 4),
        ("delimiters but for a byte", almost.repeat(random.len() / almost.len()), 4),
    ] {
        group.throughput(criterion::Throughput::Bytes((rounds * data.len()) as u64));
        for input_len in [16 << 10, 128 << 10] {
            group.bench_function(format!("{name}, {} KiB", input_len >> 10), |b| {
                b.iter(|| upload(&parser, &data, input_len, rounds));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, heads, decisions, replies, chunks, forms);
criterion_main!(benches);
