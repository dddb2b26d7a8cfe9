use super::*;
use crate::proto::journal::{HEAD_LEN, MAGIC};
use crate::rt::testing::block_on;
use std::fs::{self, File};
use std::pin::pin;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, mpsc};
use std::task::{Wake, Waker};
use std::time::Duration;

const MAGIC_LEN: u64 = MAGIC.len() as u64;
const PATIENCE: Duration = Duration::from_secs(10);

const SETTINGS: Settings =
    Settings { kind: "test", segment_len: 1 << 20, record_len: 1000, waiting_len: 4000, sync: false };

impl Journal {
    async fn append(&self, record: Bytes) -> io::Result<Position> {
        self.room(record.len()).await?.append(record).await
    }
}

impl Room {
    fn append(self, record: Bytes) -> Written {
        self.append_then(record, |_| ())
    }
}

/// Opens it, with what is in it.
fn reopen(dir: &Path, settings: Settings) -> (Journal, Vec<String>) {
    let mut records = Vec::new();
    let replay = |_, record: &[u8]| records.push(String::from_utf8(record.to_vec()).unwrap());
    let journal = Journal::open(dir, settings, replay).unwrap();
    (journal, records)
}

fn append(journal: &Journal, record: &str) -> Position {
    try_append(journal, record).unwrap()
}

fn try_append(journal: &Journal, record: &str) -> io::Result<Position> {
    block_on(journal.append(Bytes::copy_from_slice(record.as_bytes())))
}

fn read(journal: &Journal, position: Position) -> Result<String, io::ErrorKind> {
    let record = block_on(journal.read(position)).map_err(|error| error.kind())?;
    Ok(String::from_utf8(record.to_vec()).unwrap())
}

/// A folder with these records in one segment, whose bytes come along.
fn written(records: &[&str]) -> (tempfile::TempDir, PathBuf, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = reopen(dir.path(), SETTINGS);
    records.iter().for_each(|record| assert_eq!(append(&journal, record).segment, 1));
    let path = dir.path().join("0000000000000001.log");
    let bytes = fs::read(&path).unwrap();
    ended(journal);
    (dir, path, bytes)
}

/// Drops the last handle and waits for the thread.
fn ended(journal: Journal) {
    let shared = Arc::downgrade(&journal.0.shared);
    drop(journal);
    let end = std::time::Instant::now() + PATIENCE;
    while shared.strong_count() > 0 {
        assert!(std::time::Instant::now() < end, "the journal's thread goes on");
        std::thread::yield_now();
    }
}

#[test]
fn what_is_appended_is_replayed_in_order_at_the_same_place() {
    let dir = tempfile::tempdir().unwrap();
    for sync in [false, true] {
        let settings = Settings { sync, ..SETTINGS };
        let (journal, before) = reopen(dir.path(), settings);
        let positions: Vec<Position> = (0..5).map(|n| append(&journal, &format!("{sync} {n}"))).collect();
        assert!(positions.is_sorted());
        assert_eq!(read(&journal, positions[3]).as_deref(), Ok(format!("{sync} 3").as_str()));
        ended(journal);
        let mut found = Vec::new();
        let journal = Journal::open(dir.path(), settings, |position, _| found.push(position)).unwrap();
        assert_eq!(found[before.len()..], positions);
        ended(journal);
    }
    assert_eq!(reopen(dir.path(), SETTINGS).1.len(), 10);
}

#[test]
fn a_kill_at_any_byte_loses_only_what_was_not_whole_and_writing_goes_on_there() {
    let records = ["one", "", "three"];
    let (dir, path, bytes) = written(&records);
    let ends: Vec<usize> = [0, 3, 3, 8].iter().enumerate().map(|(n, len)| MAGIC.len() + n * HEAD_LEN + len).collect();
    assert_eq!(bytes.len(), ends[3]);
    for (cut, tail) in (0..=bytes.len()).flat_map(|cut| [(cut, 0), (cut, 100)]) {
        // Bytes that were lost with the power are zeros, as far as the file had its length already.
        fs::write(&path, [&bytes[..cut], &vec![0; tail]].concat()).unwrap();
        let whole = ends[1..].iter().filter(|end| **end <= cut).count();
        if tail > 0 && cut > 0 && !ends.contains(&cut) {
            // A record that is zeros in part is not told from a damaged one.
            continue;
        }
        let (journal, found) = reopen(dir.path(), SETTINGS);
        assert_eq!(found, records[..whole], "cut at {cut}");
        assert!(journal.damage().is_empty());
        append(&journal, "next");
        ended(journal);
        let (journal, found) = reopen(dir.path(), SETTINGS);
        assert_eq!(found, [&records[..whole], &["next"]].concat());
        ended(journal);
    }
}

#[test]
fn a_flipped_bit_sets_aside_what_is_behind_it_and_tells() {
    let records = ["one", "two", "three"];
    let (dir, path, bytes) = written(&records);
    let second = MAGIC.len() + HEAD_LEN + 3;
    for bit in second * 8..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &changed).unwrap();
        let (journal, found) = reopen(dir.path(), SETTINGS);
        let whole = if bit / 8 < second + HEAD_LEN + 3 { 1 } else { 2 };
        assert_eq!(found, records[..whole], "bit {bit}");
        let offset = second + (whole - 1) * (HEAD_LEN + 3);
        let kept_in = dir.path().join(format!("0000000000000001-{offset}.damaged"));
        let position = Position { segment: 1, offset: offset as u64 };
        assert_eq!(journal.damage(), [Damage { position, kept_in: kept_in.clone() }]);
        assert_eq!(fs::read(&kept_in).unwrap(), changed[offset..]);
        // What comes next is not written where that was.
        assert_eq!(append(&journal, "next"), Position { segment: 2, offset: MAGIC_LEN });
        ended(journal);
        let (journal, found) = reopen(dir.path(), SETTINGS);
        assert_eq!(found, [&records[..whole], &["next"]].concat());
        assert!(journal.damage().is_empty(), "told once");
        ended(journal);
        fs::remove_file(dir.path().join("0000000000000002.log")).unwrap();
    }
}

#[test]
fn what_may_be_gone_is_told_until_its_user_has_drawn_the_consequences() {
    let (dir, path, bytes) = written(&["one", "two"]);
    let opened = |expected: Doubt| {
        let (journal, _) = reopen(dir.path(), SETTINGS);
        assert_eq!(journal.doubt(), expected);
        journal
    };
    ended(opened(Doubt::End));
    let journal = opened(Doubt::End);
    journal.note_no_doubt().unwrap();
    ended(journal);
    ended(opened(Doubt::None));
    // Another boot.
    fs::write(dir.path().join("boot"), "6c1a2a3e-0000-4000-8000-000000000000\n").unwrap();
    ended(opened(Doubt::End));
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    ended(opened(Doubt::End));
    let mut changed = bytes.clone();
    changed[MAGIC.len() + HEAD_LEN] ^= 1;
    fs::write(&path, &changed).unwrap();
    ended(opened(Doubt::Anywhere));
    let journal = opened(Doubt::Anywhere);
    assert!(journal.damage().is_empty(), "that was before");
    journal.note_no_doubt().unwrap();
    ended(journal);
    ended(opened(Doubt::None));
}

#[test]
fn damage_in_one_segment_spares_the_later_ones() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { segment_len: 40, ..SETTINGS };
    let (journal, _) = reopen(dir.path(), settings);
    let segments: Vec<u64> = (0..6).map(|n| append(&journal, &format!("record {n}")).segment).collect();
    assert_eq!(segments, [1, 1, 2, 2, 3, 3]);
    ended(journal);
    // The file was cut: a torn tail, but not at the end of the journal.
    File::options().write(true).open(dir.path().join("0000000000000002.log")).unwrap().set_len(40).unwrap();
    let (journal, found) = reopen(dir.path(), settings);
    assert_eq!(found, ["record 0", "record 1", "record 2", "record 4", "record 5"]);
    assert_eq!(journal.damage().len(), 1);
}

#[test]
fn a_strange_file_is_refused_and_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0000000000000001.log");
    fs::write(&path, "Dear diary, today").unwrap();
    fs::write(dir.path().join("notes.log"), "others may lie here").unwrap();
    let error = Journal::open(dir.path(), SETTINGS, |_, _| panic!("nothing is replayed")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(error.to_string().contains("0000000000000001.log: this is no segment"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"Dear diary, today");
    fs::remove_file(&path).unwrap();
    assert_eq!(reopen(dir.path(), SETTINGS).1.len(), 0);
}

#[test]
fn one_of_another_kind_is_refused_and_not_touched() {
    let (dir, path, bytes) = written(&["one", "two"]);
    let error =
        Journal::open(dir.path(), Settings { kind: "other", ..SETTINGS }, |_, _| panic!("replayed")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(error.to_string().contains("is a journal of another kind: test"), "{error}");
    assert_eq!(fs::read(path).unwrap(), bytes);
    assert_eq!(reopen(dir.path(), SETTINGS).1, ["one", "two"]);
}

#[test]
fn a_second_one_is_refused_and_told_why() {
    let dir = tempfile::tempdir().unwrap();
    let _first = reopen(dir.path(), SETTINGS);
    let error = Journal::open(dir.path(), SETTINGS, |_, _| ()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    assert!(error.to_string().contains("is in use by another process"), "{error}");
}

#[test]
fn one_that_was_just_dropped_can_be_opened_again_at_once() {
    let dir = tempfile::tempdir().unwrap();
    for before in 0..20 {
        let (journal, found) = reopen(dir.path(), SETTINGS);
        assert_eq!(found.len(), before);
        append(&journal, "one more");
    }
}

#[test]
fn segments_that_nobody_needs_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { segment_len: 1, sync: true, ..SETTINGS };
    let (journal, _) = reopen(dir.path(), settings);
    let positions: Vec<Position> = (0..5).map(|n| append(&journal, &format!("{n}"))).collect();
    assert_eq!((journal.segments(), journal.bytes()), (1..6, 5 * (MAGIC_LEN + HEAD_LEN as u64 + 1)));
    assert_eq!(read(&journal, positions[1]).as_deref(), Ok("1"));
    journal.drop_before(Position { segment: 3, offset: 0 });
    append(&journal, "5");
    append(&journal, "6");
    assert_eq!(journal.segments(), 3..8);
    assert_eq!(read(&journal, positions[1]), Err(io::ErrorKind::NotFound));
    assert_eq!(read(&journal, positions[2]).as_deref(), Ok("2"));
    assert_eq!(read(&journal, Position { segment: 3, offset: 999 }), Err(io::ErrorKind::InvalidData));
    ended(journal);
    assert_eq!(reopen(dir.path(), settings).1, ["2", "3", "4", "5", "6"]);
}

#[test]
fn the_last_segment_is_removed_if_nothing_was_written_behind_the_place_that_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = reopen(dir.path(), SETTINGS);
    append(&journal, "one");
    let end = |position: Position| Position { offset: position.offset + HEAD_LEN as u64 + 3, ..position };
    let before_two = end(append(&journal, "two"));
    append(&journal, "six");
    journal.drop_before(before_two);
    let behind = end(append(&journal, "ten"));
    assert_eq!(journal.segments(), 1..2);
    journal.drop_before(behind);
    assert_eq!(append(&journal, "new").segment, 2, "its number is not used again");
    ended(journal);
    assert_eq!(reopen(dir.path(), SETTINGS).1, ["new"]);
}

#[test]
fn settling_waits_for_all_that_was_appended() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = reopen(dir.path(), SETTINGS);
    let release = hold(&journal);
    drop(journal.append_beside(Bytes::from_static(b"last"), |_| ()));
    journal.settle(Duration::from_millis(1));
    assert_eq!(journal.bytes(), MAGIC_LEN + HEAD_LEN as u64, "it gives up on a disk that is stuck");
    release.send(()).unwrap();
    journal.settle(PATIENCE);
    assert_eq!(journal.bytes(), MAGIC_LEN + 2 * HEAD_LEN as u64 + 4);
}

/// What the test and a commit share: the thread stands still in it until it is let go.
fn hold(journal: &Journal) -> mpsc::Sender<()> {
    let (release, held) = mpsc::channel();
    let (began, wait) = mpsc::channel();
    let room = block_on(journal.room(0)).unwrap();
    room.append_then(Bytes::new(), move |_| {
        began.send(()).unwrap();
        let _ = held.recv_timeout(PATIENCE);
    });
    wait.recv_timeout(PATIENCE).unwrap();
    release
}

#[test]
fn commits_run_in_order_after_the_write_and_before_anybody_goes_on() {
    for sync in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (journal, _) = reopen(dir.path(), Settings { sync, segment_len: 200, ..SETTINGS });
        let release = hold(&journal);
        let order = Arc::new(Mutex::new(Vec::new()));
        let written: Vec<Written> = (0..50u8)
            .map(|n| {
                let (order, dir) = (order.clone(), dir.path().to_owned());
                let room = block_on(journal.room(1)).unwrap();
                room.append_then(Bytes::from(vec![n]), move |position| {
                    let Position { segment, offset } = *position.as_ref().unwrap();
                    let bytes = fs::read(dir.join(format!("{segment:016}.log"))).unwrap();
                    assert_eq!(bytes[offset as usize + HEAD_LEN], n, "it is in the file");
                    order.lock().unwrap().push(n);
                })
            })
            .collect();
        release.send(()).unwrap();
        for (n, written) in written.into_iter().enumerate() {
            block_on(written).unwrap();
            assert!(order.lock().unwrap().len() > n, "committed before it was told");
        }
        assert_eq!(*order.lock().unwrap(), (0..50).collect::<Vec<u8>>());
    }
}

/// Counts how often it was woken.
#[derive(Default)]
struct Woken(AtomicU64);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

type Waiting = Pin<Box<dyn Future<Output = io::Result<Room>>>>;

#[test]
fn what_waits_is_bounded_and_who_asked_first_has_room_first() {
    let dir = tempfile::tempdir().unwrap();
    let bound = 3 * (100 + HEAD_LEN);
    let (journal, _) = reopen(dir.path(), Settings { waiting_len: bound, record_len: 200, ..SETTINGS });
    let mut rooms: Vec<Room> = (0..3).map(|_| block_on(journal.room(100)).unwrap()).collect();
    let woken: [Arc<Woken>; 3] = Default::default();
    let mut waiting: Vec<Option<Waiting>> =
        [200, 10, 10].into_iter().map(|len| Some(Box::pin(journal.room(len)) as Waiting)).collect();
    let poll = |waiting: &mut Vec<Option<Waiting>>, n: usize| {
        let waker = Waker::from(woken[n].clone());
        waiting[n].as_mut().unwrap().as_mut().poll(&mut Context::from_waker(&waker))
    };
    (0..3).for_each(|n| assert!(poll(&mut waiting, n).is_pending()));
    // There is room for the later ones, and still they do not pass the first.
    rooms.pop().unwrap().append(Bytes::from(vec![b'x'; 100]));
    let end = std::time::Instant::now() + PATIENCE;
    while woken[0].0.load(Relaxed) == 0 {
        assert!(std::time::Instant::now() < end, "nobody is woken");
        std::thread::yield_now();
    }
    (0..3).for_each(|n| assert!(poll(&mut waiting, n).is_pending()));
    assert_eq!(woken[1].0.load(Relaxed), 0);
    // The first gives up: the next is told, goes on, and tells the one behind.
    waiting[0] = None;
    assert_eq!(woken[1].0.load(Relaxed), 1);
    let Poll::Ready(Ok(second)) = poll(&mut waiting, 1) else { panic!("there is room for it") };
    waiting[1] = None;
    assert_eq!(woken[2].0.load(Relaxed), 1);
    assert!(poll(&mut waiting, 2).is_ready());
    drop((second, rooms));
    assert!(block_on(journal.room(201)).is_err_and(|error| error.kind() == io::ErrorKind::InvalidInput));
    drop(block_on(journal.room(200)).unwrap());
}

#[test]
fn what_has_room_is_written_by_the_end_and_nothing_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = reopen(dir.path(), SETTINGS);
    let release = hold(&journal);
    let room = block_on(journal.room(5)).unwrap();
    let written = block_on(journal.room(4)).unwrap().append(Bytes::from_static(b"kept"));
    drop(written);
    let shared = Arc::downgrade(&journal.0.shared);
    drop(journal);
    // A room is a handle too.
    let mut last = pin!(room.append(Bytes::from_static(b"last")));
    release.send(()).unwrap();
    block_on(&mut last).unwrap();
    let end = std::time::Instant::now() + PATIENCE;
    while shared.strong_count() > 0 {
        assert!(std::time::Instant::now() < end, "the journal's thread goes on");
        std::thread::yield_now();
    }
    let descriptors = fs::read_dir("/proc/self/fd").unwrap();
    let links = descriptors.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    assert!(!links.into_iter().any(|link| link.starts_with(dir.path())));
    assert_eq!(reopen(dir.path(), SETTINGS).1, ["", "kept", "last"]);
}

#[test]
fn a_commit_that_panics_costs_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = reopen(dir.path(), SETTINGS);
    let room = block_on(journal.room(3)).unwrap();
    block_on(room.append_then(Bytes::from_static(b"one"), |_| panic!("as planned"))).unwrap();
    append(&journal, "two");
}

static SYNC_FAILS: AtomicBool = AtomicBool::new(false);

#[test]
fn a_sync_that_fails_fails_its_records_and_leaves_the_segment() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { sync: true, ..SETTINGS };
    let (segments, damage) = Segments::open(dir.path(), settings, |_, _| ()).unwrap();
    let segments = segments.sync_by(|file| match SYNC_FAILS.load(Relaxed) {
        false => file.sync_data(),
        true => Err(io::Error::from_raw_os_error(nix::libc::EIO)),
    });
    let journal = Journal::start(segments, damage, settings).unwrap();
    append(&journal, "one");
    SYNC_FAILS.store(true, Relaxed);
    assert_eq!(try_append(&journal, "two").unwrap_err().raw_os_error(), Some(nix::libc::EIO));
    assert!(try_append(&journal, "three").is_err());
    SYNC_FAILS.store(false, Relaxed);
    assert_eq!(append(&journal, "four"), Position { segment: 2, offset: MAGIC_LEN });
    ended(journal);
    let (journal, found) = reopen(dir.path(), settings);
    assert_eq!(found, ["one", "four"]);
    assert!(journal.damage().is_empty());
}

/// Else the power could take what is in the middle, with whole records on both sides.
#[test]
fn a_segment_that_is_full_is_on_the_disk_before_the_next_one_begins() {
    static SYNCED: AtomicU64 = AtomicU64::new(0);
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { segment_len: 1, ..SETTINGS };
    let (segments, _) = Segments::open(dir.path(), settings, |_, _| ()).unwrap();
    let segments = segments.sync_by(|file| {
        SYNCED.fetch_add(1, Relaxed);
        file.sync_data()
    });
    let journal = Journal::start(segments, Vec::new(), settings).unwrap();
    for full in 0..3 {
        assert_eq!(append(&journal, "one").segment, full + 1);
        assert_eq!(SYNCED.load(Relaxed), full);
    }
}

/// Runs as a process of its own, because the limit is the process's: see the test below.
#[test]
#[ignore = "run by a_disk_that_is_full_takes_what_is_whole_and_goes_on_when_there_is_room"]
fn on_a_disk_that_is_full() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = reopen(dir.path(), SETTINGS);
    let release = hold(&journal);
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    let record_len = (HEAD_LEN + 10) as u64;
    // Room for the empty one, three records, and some bytes of a fourth.
    setrlimit(Resource::RLIMIT_FSIZE, MAGIC_LEN + HEAD_LEN as u64 + 3 * record_len + 7, hard).unwrap();
    let committed = Arc::new(Mutex::new(Vec::new()));
    let written: Vec<Written> = (0..6)
        .map(|n| {
            let committed = committed.clone();
            let room = block_on(journal.room(10)).unwrap();
            let commit = move |outcome: Result<Position, &io::Error>| committed.lock().unwrap().push(outcome.is_ok());
            room.append_then(Bytes::from(format!("record {n}  ")), commit)
        })
        .collect();
    release.send(()).unwrap();
    let outcomes: Vec<Option<i32>> =
        written.into_iter().map(|written| block_on(written).err().map(|error| error.raw_os_error().unwrap())).collect();
    let full = Some(nix::libc::EFBIG);
    assert_eq!(outcomes, [None, None, None, full, full, full]);
    assert_eq!(*committed.lock().unwrap(), [true, true, true, false, false, false]);
    let len = fs::metadata(dir.path().join("0000000000000001.log")).unwrap().len();
    assert_eq!(len, MAGIC_LEN + HEAD_LEN as u64 + 3 * record_len, "cut back");
    assert!(try_append(&journal, "too much").is_err());
    setrlimit(Resource::RLIMIT_FSIZE, hard, hard).unwrap();
    append(&journal, "room again");
    ended(journal);
    let (journal, found) = reopen(dir.path(), SETTINGS);
    assert_eq!(found, ["", "record 0  ", "record 1  ", "record 2  ", "room again"]);
    assert!(journal.damage().is_empty());
}

#[test]
fn a_disk_that_is_full_takes_what_is_whole_and_goes_on_when_there_is_room() {
    let program = std::env::current_exe().unwrap();
    // Without the signal, a write over the limit is an error, as the server has it.
    let output = std::process::Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$0\" --ignored --exact rt::journal::tests::on_a_disk_that_is_full"])
        .arg(program)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}
