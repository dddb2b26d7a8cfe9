use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// What the probe tells of a file, of which each read yields at most `most` bytes.
fn probe(file: &[u8], most: usize) -> Option<Duration> {
    let mut probe = Probe::new(file.len() as u64);
    let mut reads = 0;
    while let Some((offset, len)) = probe.wanted() {
        assert!((1..=READ_LEN).contains(&len) && offset + len as u64 <= file.len() as u64, "{offset} {len}");
        assert_eq!(probe.duration(), None, "before its end");
        let bytes = &file[offset as usize..offset as usize + len];
        probe.feed(&bytes[..len.min(most)]);
        reads += 1;
        assert!(reads <= READS);
    }
    probe.duration()
}

/// Checks the whole, and that reads of any length tell the same, or nothing where they are too short.
#[track_caller]
fn check(file: &[u8], expected: Option<Duration>) {
    assert_eq!(probe(file, usize::MAX), expected);
    for most in 0..file.len().min(READ_LEN) {
        let told = probe(file, most);
        assert!(told.is_none() || told == expected, "reads of {most} bytes tell {told:?}");
    }
    // Cut off anywhere, it tells the same or nothing. What tells by its length is told less.
    for end in 0..file.len() {
        let told = probe(&file[..end], usize::MAX);
        assert!(told <= expected, "of {end} bytes: {told:?}");
    }
}

fn seconds(seconds: f64) -> Option<Duration> {
    Some(Duration::from_secs_f64(seconds))
}

fn mp4_box(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
    [&(content.len() as u32 + 8).to_be_bytes(), &kind[..], content].concat()
}

/// A box with its length in 64 bits.
fn large_box(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
    [&[0, 0, 0, 1], &kind[..], &(content.len() as u64 + 16).to_be_bytes(), content].concat()
}

fn mvhd(timescale: u32, duration: u32) -> Vec<u8> {
    let fields = [&[0; 12][..], &timescale.to_be_bytes(), &duration.to_be_bytes(), &[0; 80]];
    mp4_box(b"mvhd", &fields.concat())
}

fn long_mvhd(timescale: u32, duration: u64) -> Vec<u8> {
    let fields = [&[1, 0, 0, 0][..], &[0; 16], &timescale.to_be_bytes(), &duration.to_be_bytes(), &[0; 80]];
    mp4_box(b"mvhd", &fields.concat())
}

fn mp4(movie: &[Vec<u8>]) -> Vec<u8> {
    [
        mp4_box(b"ftyp", b"isom\0\0\0\0"),
        mp4_box(b"free", &[0; 30]),
        mp4_box(b"moov", &movie.concat()),
        mp4_box(b"mdat", &[0; 50]),
    ]
    .concat()
}

#[test]
fn an_mp4_tells_its_duration_in_its_movie_header() {
    check(&mp4(&[mvhd(600, 1500)]), seconds(2.5));
    check(&mp4(&[long_mvhd(1000, 5_000_000_000)]), seconds(5_000_000.0));
    // Behind other boxes of the movie, and behind the samples.
    check(&mp4(&[mp4_box(b"iods", &[0; 20]), mp4_box(b"trak", &[7; 300]), mvhd(1, 3)]), seconds(3.0));
    let moov = mp4_box(b"moov", &mvhd(1000, 1));
    for samples in [mp4_box(b"mdat", &[0; 9000]), large_box(b"mdat", &[0; 9000])] {
        check(&[mp4_box(b"ftyp", b"qt  "), mp4_box(b"wide", b""), samples, moov.clone()].concat(), seconds(0.001));
    }
    // The last box may reach to the end of the file.
    let mut open_ended = [mp4_box(b"ftyp", b"isom"), moov.clone()].concat();
    open_ended[12..16].copy_from_slice(&[0; 4]);
    assert_eq!(probe(&open_ended, usize::MAX), seconds(0.001));
}

#[test]
fn a_fragmented_mp4_tells_it_in_its_extends_header_or_not_at_all() {
    let extends = |content: &[u8]| mp4_box(b"mvex", &[mp4_box(b"trex", &[0; 24]), mp4_box(b"mehd", content)].concat());
    let short = extends(&[0, 0, 0, 0, 0, 0, 0x0B, 0xB8]);
    let long = extends(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0B, 0xB8]);
    for unknown in [mvhd(1000, 0), mvhd(1000, u32::MAX), long_mvhd(1000, 0), long_mvhd(1000, u64::MAX)] {
        check(&mp4(&[unknown.clone(), mp4_box(b"trak", &[0; 40]), short.clone()]), seconds(3.0));
        check(&mp4(&[unknown.clone(), long.clone()]), seconds(3.0));
        check(&mp4(std::slice::from_ref(&unknown)), None);
        check(&mp4(&[unknown, mp4_box(b"mvex", &mp4_box(b"trex", &[0; 24]))]), None);
    }
}

#[test]
fn a_broken_mp4_tells_nothing() {
    for movie in [vec![], vec![mp4_box(b"trak", b"")], vec![mvhd(0, 100)], vec![mp4_box(b"mvhd", b"")]] {
        check(&mp4(&movie), None);
    }
    let with_len =
        |len: u32| [mp4_box(b"ftyp", b"isom"), len.to_be_bytes().to_vec(), b"freexxxxxxxxxxxx".to_vec()].concat();
    for len in [2, 7, 21, u32::MAX] {
        check(&with_len(len), None);
    }
    // A length of 64 bits that wraps around, or is shorter than its own head.
    for len in [u64::MAX, u64::MAX - 11, 15] {
        check(&[&mp4_box(b"ftyp", b"isom")[..], b"\0\0\0\x01moov", &len.to_be_bytes(), &[0; 40]].concat(), None);
    }
    // A header that is longer than the movie that it is in.
    let mut long = mp4(&[mp4_box(b"trak", &[0; 8]), mvhd(1, 1)]);
    let at = long.windows(4).position(|window| window == b"moov").unwrap();
    long[at - 1] = 40;
    assert_eq!(probe(&long, usize::MAX), None);
}

#[test]
fn a_file_in_more_pieces_than_it_is_worth_tells_nothing() {
    let padded = |boxes: usize| {
        let padding = mp4_box(b"free", &[0; READ_LEN]).repeat(boxes);
        [mp4_box(b"ftyp", b"isom"), padding, mp4_box(b"moov", &mvhd(1, 1))].concat()
    };
    assert_eq!(probe(&padded(READS - 1), usize::MAX), seconds(1.0));
    assert_eq!(probe(&padded(READS), usize::MAX), None);
}

fn element(id: &[u8], data: &[u8]) -> Vec<u8> {
    [id, &(data.len() as u32 | 0x1000_0000).to_be_bytes(), data].concat()
}

const EBML: &[u8] = &[0x1A, 0x45, 0xDF, 0xA3];
const SEGMENT: &[u8] = &[0x18, 0x53, 0x80, 0x67];
const INFO: &[u8] = &[0x15, 0x49, 0xA9, 0x66];
const CLUSTER: &[u8] = &[0x1F, 0x43, 0xB6, 0x75];
const SCALE: &[u8] = &[0x2A, 0xD7, 0xB1];
const DURATION: &[u8] = &[0x44, 0x89];
const VOID: &[u8] = &[0xEC];

fn matroska(segment: &[Vec<u8>]) -> Vec<u8> {
    [element(EBML, b"\x42\x82\x84webm"), element(SEGMENT, &segment.concat())].concat()
}

fn info(elements: &[Vec<u8>]) -> Vec<u8> {
    element(INFO, &elements.concat())
}

#[test]
fn a_matroska_file_tells_its_duration_in_its_info() {
    let short = element(DURATION, &2500_f32.to_be_bytes());
    let long = element(DURATION, &2500_f64.to_be_bytes());
    let cluster = element(CLUSTER, &[0; 60]);
    check(&matroska(&[info(std::slice::from_ref(&short)), cluster.clone()]), seconds(2.5));
    check(&matroska(&[element(VOID, &[0; 90]), info(&[element(VOID, b""), long.clone()])]), seconds(2.5));
    let scale = element(SCALE, &[0x0F, 0x42, 0x40, 0x00]);
    check(&matroska(&[info(&[scale.clone(), long.clone()]), cluster.clone()]), seconds(640.0));
    check(&matroska(&[cluster, info(&[long.clone(), scale])]), seconds(640.0));
    // An info whose end is the file's, further on than one read.
    let padded = matroska(&[info(&[long.clone(), element(VOID, &[0; 2 * READ_LEN])])]);
    assert_eq!(probe(&padded, usize::MAX), seconds(2.5));
    // A segment of unknown length.
    let live =
        [element(EBML, b""), SEGMENT.to_vec(), vec![0x01, 255, 255, 255, 255, 255, 255, 255], info(&[long])].concat();
    check(&live, seconds(2.5));
}

#[test]
fn a_matroska_file_without_one_or_a_broken_one_tells_nothing() {
    let number = |number: f64| info(&[element(DURATION, &number.to_be_bytes())]);
    for segment in [vec![], vec![info(&[])], vec![info(&[element(SCALE, &[1])])], vec![element(CLUSTER, &[0; 9])]] {
        check(&matroska(&segment), None);
    }
    for wrong in [f64::NAN, f64::INFINITY, -1.0, 0.0, 1e300] {
        check(&matroska(&[number(wrong)]), None);
    }
    for data in [&[][..], &[0; 3], &[1; 9]] {
        check(&matroska(&[info(&[element(DURATION, data)])]), None);
    }
    let known = element(DURATION, &1_f64.to_be_bytes());
    check(&matroska(&[info(&[element(SCALE, &[1; 9]), known.clone()])]), None);
    // A cluster of unknown length in front, and an ID of no length.
    check(&matroska(&[CLUSTER.to_vec(), vec![0xFF], info(std::slice::from_ref(&known))]), None);
    check(&matroska(&[vec![0, 0x81, 0], info(&[known])]), None);
}

fn wave_chunk(kind: &[u8; 4], len: u32, content: &[u8]) -> Vec<u8> {
    [&kind[..], &len.to_le_bytes(), content].concat()
}

fn wave(kind: &[u8; 4], chunks: &[Vec<u8>]) -> Vec<u8> {
    [&kind[..], &[0xFF; 4], b"WAVE", &chunks.concat()].concat()
}

#[test]
fn a_wave_tells_the_bytes_of_a_second() {
    let format = wave_chunk(
        b"fmt ",
        16,
        &[&[1, 0, 2, 0][..], &8000_u32.to_le_bytes(), &1000_u32.to_le_bytes(), &[4, 0, 16, 0]].concat(),
    );
    let data = |len| wave_chunk(b"data", len, &[0; 500]);
    check(&wave(b"RIFF", &[format.clone(), data(500)]), seconds(0.5));
    // An odd chunk is padded; one behind the samples does not count.
    let odd = wave_chunk(b"LIST", 3, &[0; 4]);
    check(&wave(b"RIFF", &[odd.clone(), format.clone(), data(500), odd]), seconds(0.5));
    // A writer that could not seek back.
    check(&wave(b"RIFF", &[format.clone(), data(0)]), seconds(0.5));
    check(&wave(b"RF64", &[wave_chunk(b"ds64", 28, &[0; 28]), format.clone(), data(u32::MAX)]), seconds(0.5));
    check(&wave(b"RIFF", &[data(500), format]), None);
    check(&wave(b"RIFF", &[wave_chunk(b"fmt ", 16, &[0; 16]), data(500)]), None);
}

/// A frame of MPEG-1, layer III, 128 kbit/s, 44,100 Hz, stereo: 417 bytes.
fn frame(index: &[u8], at: usize) -> Vec<u8> {
    let mut frame = vec![0; 417];
    frame[..4].copy_from_slice(&[0xFF, 0xFB, 0x90, 0x00]);
    frame[at..at + index.len()].copy_from_slice(index);
    frame
}

#[test]
fn an_mp3_tells_its_frames_or_its_bitrate() {
    let plain = frame(b"", 4).repeat(100);
    // The bytes of a cut file tell as much as there is of it.
    check(&plain, seconds(41_700.0 * 8.0 / 128_000.0));
    // 1000 frames of 1152 samples.
    let thousand = duration(1_152_000, 44_100);
    for name in [b"Xing", b"Info"] {
        let index = [&name[..], &[0, 0, 0, 0x0F], &1000_u32.to_be_bytes()].concat();
        check(&[frame(&index, 36), plain.clone()].concat(), thousand);
        let without = [&name[..], &[0, 0, 0, 0x0E], &1000_u32.to_be_bytes()].concat();
        assert_eq!(probe(&[frame(&without, 36), plain.clone()].concat(), usize::MAX), seconds(42_117.0 / 16_000.0));
    }
    let index = [&b"VBRI"[..], &[0; 10], &1000_u32.to_be_bytes()].concat();
    check(&[frame(&index, 36), plain.clone()].concat(), thousand);
    // Behind a tag, which is longer than a read.
    let tag = [&b"ID3\x04\0\0\0\0\x27\x08"[..], &[0; 5000]].concat();
    check(&[tag, plain].concat(), seconds(41_700.0 / 16_000.0));
}

#[test]
fn an_mp3_of_a_lower_sample_rate_has_shorter_frames() {
    // MPEG-2, 64 kbit/s, 24,000 Hz, mono: 576 samples in 192 bytes.
    let mut frame = vec![0; 192];
    frame[..4].copy_from_slice(&[0xFF, 0xF3, 0x84, 0xC0]);
    check(&frame.repeat(50), seconds(50.0 * 576.0 / 24_000.0));
    let index = [&b"Xing"[..], &[0, 0, 0, 1], &500_u32.to_be_bytes()].concat();
    let mut first = frame.clone();
    first[13..13 + index.len()].copy_from_slice(&index);
    check(&[first, frame.repeat(5)].concat(), duration(500 * 576, 24_000));
}

#[test]
fn what_is_no_mp3_tells_nothing() {
    let alone = frame(b"", 4);
    check(&alone, None);
    check(&[alone.clone(), vec![0; 500]].concat(), None);
    // Another sample rate, layer II, a free format, a forbidden bitrate, a reserved version.
    for head in
        [[0xFF, 0xFB, 0x94, 0], [0xFF, 0xFD, 0x90, 0], [0xFF, 0xFB, 0, 0], [0xFF, 0xFB, 0xF0, 0], [0xFF, 0xEB, 0x90, 0]]
    {
        check(&[&alone[..], &head, &[0; 500]].concat(), None);
        check(&[&head[..], &[0; 500]].concat(), None);
    }
    check(b"ID3\x04\0\0\x7F\x7F\x7F\x7F", None);
}

#[test]
fn what_is_no_media_tells_nothing() {
    for file in
        [&b""[..], b"\0", b"\0\0\0\x08", b"<!doctype html>", b"RIFF\0\0\0\0AVI LIST", b"OggS", b"fLaC", &[0; 5000]]
    {
        check(file, None);
    }
}

fn samples() -> Vec<Vec<u8>> {
    let extends = mp4_box(b"mvex", &mp4_box(b"mehd", &[0, 0, 0, 0, 0, 0, 1, 0]));
    let long = element(DURATION, &2500_f64.to_be_bytes());
    vec![
        mp4(&[mvhd(600, 1500)]),
        mp4(&[long_mvhd(600, 0), mp4_box(b"trak", &[0; 40]), extends]),
        matroska(&[element(VOID, &[0; 90]), info(&[element(SCALE, &[1, 0]), long])]),
        wave(b"RIFF", &[wave_chunk(b"fmt ", 16, &[1; 16]), wave_chunk(b"data", 40, &[0; 40])]),
        [b"ID3\x04\0\0\0\0\0\x10".to_vec(), vec![0; 16], frame(b"Xing\0\0\0\x01\0\0\x10\0", 36), frame(b"", 4)]
            .concat(),
    ]
}

proptest! {
    #[test]
    fn no_file_makes_the_probe_panic_or_read_on_for_ever(
        which in 0..5_usize,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        cut: prop::sample::Index,
        most in 1_usize..5000,
    ) {
        let mut file = samples().swap_remove(which);
        for (at, byte) in changes {
            let at = at.index(file.len());
            file[at] = byte;
        }
        file.truncate(cut.index(file.len()) + 1);
        let _ = probe(&file, most);
    }

    #[test]
    fn no_bytes_make_the_probe_panic(magic in 0..6_usize, bytes in proptest::collection::vec(any::<u8>(), 0..10_000)) {
        let magic: &[u8] = [&b""[..], b"\0\0\0\x08ftyp", EBML, b"RIFF\0\0\0\0WAVE", b"ID3", b"\xFF\xFB"][magic];
        let _ = probe(&[magic, &bytes].concat(), usize::MAX);
    }
}
