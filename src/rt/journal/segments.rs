//! The files of a journal, as its thread has them: read once in order, appended to at the end, removed from the front.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::iter::Peekable;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::line::Appending;
use super::{Damage, Doubt, Position, Settings};
use crate::proto::journal::{self, Corruption, Decoded, HEAD_LEN, MAGIC};

/// How much of a segment is read at a time while it is replayed, in bytes.
const READ_LEN: u64 = 64 << 10;

/// How long a folder that is in use is waited for.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);

/// The longest record that is read, in bytes. What was written obeyed the bound of its time, and its length has a checksum.
const LONGEST_LEN: usize = 1 << 30;

/// The file that says what may be gone of what was written: nothing, as long as it names the boot that the machine is in.
const MARK: &str = "boot";
/// What it says instead, where it may be anything.
const DAMAGED: &[u8] = b"damaged";

/// How bytes are brought to the disk; another one in tests, because no disk fails when it is asked to.
pub(super) type Sync = fn(&File) -> io::Result<()>;

/// All files of a journal.
pub(super) struct Segments {
    pub dir: PathBuf,
    settings: Settings,
    sync: Sync,
    /// The length of each segment, in bytes.
    lengths: BTreeMap<u64, u64>,
    /// The number of the next one.
    end: u64,
    /// The last one, if it can be appended to.
    current: Option<Current>,
    /// The segment that was read from last.
    reading: Option<(u64, File)>,
    /// What the next write writes; kept for its memory.
    buffer: Vec<u8>,
    /// The last write failed, which is logged once.
    failing: bool,
    /// What may be gone of what was written.
    pub doubt: Doubt,
    /// The directory is this journal's as long as this is open.
    _lock: Flock<File>,
}

/// The segment that is appended to. Its length is in `lengths`.
struct Current {
    number: u64,
    file: File,
}

impl Segments {
    /// Opens and replays: see [`super::Journal::open`].
    pub fn open(
        dir: &Path,
        settings: Settings,
        mut replay: impl FnMut(Position, &[u8]),
    ) -> io::Result<(Self, Vec<Damage>)> {
        fs::create_dir_all(dir).map_err(|error| of_file(dir, error))?;
        let lock = lock(dir)?;
        check_kind(dir, &lock, settings.kind)?;
        let doubt = doubt(dir);
        let mut segments = Segments {
            dir: dir.to_owned(),
            settings,
            sync: File::sync_data,
            lengths: BTreeMap::new(),
            end: 1,
            current: None,
            reading: None,
            buffer: Vec::new(),
            failing: false,
            doubt,
            _lock: lock,
        };
        let numbers = segments.find()?;
        let mut damage = Vec::new();
        for (index, number) in numbers.iter().enumerate() {
            let is_last = index + 1 == numbers.len();
            damage.extend(segments.recover(*number, is_last, &mut replay)?);
        }
        if !damage.is_empty() {
            segments.doubt = Doubt::Anywhere;
        }
        Ok((segments, damage))
    }

    #[cfg(test)]
    pub fn sync_by(mut self, sync: Sync) -> Self {
        self.sync = sync;
        self
    }

    /// The numbers that there may be segments for: from the first to behind the last.
    pub fn numbers(&self) -> Range<u64> {
        self.lengths.keys().next().copied().unwrap_or(self.end)..self.end
    }

    /// Bytes of all segments.
    pub fn bytes(&self) -> u64 {
        self.lengths.values().sum()
    }

    /// The numbers of the segments in the folder, in order. Other files are left alone.
    fn find(&self) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(|error| of_file(&self.dir, error))? {
            let name = entry.map_err(|error| of_file(&self.dir, error))?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".log")).filter(|number| number.len() == 16);
            numbers.extend(number.and_then(|number| number.parse::<u64>().ok()).filter(|number| *number > 0));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Replays a segment and makes it end with its last whole record.
    fn recover(
        &mut self,
        number: u64,
        is_last: bool,
        replay: &mut impl FnMut(Position, &[u8]),
    ) -> io::Result<Option<Damage>> {
        let path = self.path(number);
        let in_file = |error| of_file(&path, error);
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(in_file)?;
        let len = file.metadata().map_err(in_file)?.len();
        let scanned = scan(&file, |offset, payload| {
            replay(Position { segment: number, offset }, payload);
        });
        let Scanned { end, corruption } = scanned.map_err(in_file)?;
        let is_whole = end == len && end >= MAGIC.len() as u64;
        let is_cut_off = corruption.is_none() || is_zero(&file, end).map_err(in_file)?;
        let is_torn = !is_whole && is_last && is_cut_off;
        if is_torn && end < MAGIC.len() as u64 {
            // It was being made.
            fs::remove_file(&path).map_err(in_file)?;
            return Ok(None);
        }
        let mut damage = None;
        if is_torn {
            tracing::info!(segment = %path.display(), end, "the tail of a write that was cut off is taken off");
        } else if !is_whole {
            let why = corruption.map_or("a record is not all there".to_owned(), |corruption| corruption.to_string());
            let position = Position { segment: number, offset: end };
            let kept_in = self.set_aside(&file, position).map_err(in_file)?;
            tracing::error!(
                segment = %path.display(), offset = end, why, kept_in = %kept_in.display(),
                "a journal is damaged: what lies behind this place in the segment is lost to it, and kept aside"
            );
            damage = Some(Damage { position, kept_in });
        }
        if end < len {
            file.set_len(end).map_err(in_file)?;
            file.sync_data().map_err(in_file)?;
        }
        self.lengths.insert(number, end);
        self.end = number + 1;
        if is_last && damage.is_none() {
            self.current = Some(Current { number, file });
        }
        Ok(damage)
    }

    /// Copies what lies behind the position into a file of its own. One that is there already is of an opening that was cut off.
    fn set_aside(&self, file: &File, position: Position) -> io::Result<PathBuf> {
        // First, so that it is known when this is cut off, too.
        mark(&self.dir, DAMAGED)?;
        let path = self.dir.join(format!("{:016}-{}.damaged", position.segment, position.offset));
        let mut copy = File::create(&path)?;
        io::copy(&mut FromOffset { file, offset: position.offset }, &mut copy)?;
        copy.sync_all()?;
        File::open(&self.dir)?.sync_all()?;
        Ok(path)
    }

    /// The records that go into the present segment with the first one. A new segment begins if that one is full.
    pub fn take_group(&self, appends: &mut Peekable<impl Iterator<Item = Appending>>) -> Vec<Appending> {
        let mut len = match self.writable() {
            Some(number) => self.lengths[&number],
            None => MAGIC.len() as u64,
        };
        let mut group = Vec::new();
        while let Some(next) = appends.next_if(|_| group.is_empty() || len < self.settings.segment_len) {
            len += (HEAD_LEN + next.record.len()) as u64;
            group.push(next);
        }
        group
    }

    /// The present segment, if there is one that is not full.
    fn writable(&self) -> Option<u64> {
        let number = self.current.as_ref()?.number;
        (self.lengths[&number] < self.settings.segment_len).then_some(number)
    }

    /// Writes the records, all into one segment, and brings them to the disk if that is asked for. An outcome for each, in order.
    pub fn write<'a>(&mut self, records: impl Iterator<Item = &'a [u8]>) -> Vec<io::Result<Position>> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let mut starts = Vec::new();
        for record in records {
            starts.push(buffer.len());
            journal::encode(record, &mut buffer);
        }
        let (written, error) = self.write_whole(&buffer, &starts);
        self.note_failure(error.as_ref());
        self.buffer = buffer;
        let Some((segment, at, whole)) = written else {
            let error = error.unwrap_or_else(|| ErrorKind::WriteZero.into());
            return starts.iter().map(|_| Err(again(&error))).collect();
        };
        let outcome = |(index, start): (usize, &usize)| match &error {
            Some(error) if index >= whole => Err(again(error)),
            _ => Ok(Position { segment, offset: at + *start as u64 }),
        };
        starts.iter().enumerate().map(outcome).collect()
    }

    /// Writes what was encoded: the segment, where in it, how many records are whole there; and why not all of them.
    fn write_whole(&mut self, encoded: &[u8], starts: &[usize]) -> (Option<(u64, u64, usize)>, Option<io::Error>) {
        let Current { number, file } = match self.current_segment() {
            Ok(current) => current,
            Err(error) => return (None, Some(error)),
        };
        let at = self.lengths[&number];
        let (written, mut error) = write_until_error(&file, encoded, at);
        let ends = starts.iter().skip(1).copied().chain([encoded.len()]);
        let (mut whole, mut good) = ends.take_while(|end| *end <= written).fold((0, 0), |(n, _), end| (n + 1, end));
        let mut is_usable = true;
        if good > 0
            && self.settings.sync
            && let Err(failed) = (self.sync)(&file)
        {
            // What the disk has of it is not known, and asking again would tell of a success (fsync(2)).
            (whole, good, error, is_usable) = (0, 0, Some(failed), false);
        }
        let end = at + good as u64;
        self.lengths.insert(number, end);
        // A segment that can't be cut back is left behind; what is torn in it is found out when it is replayed.
        let is_cut = error.is_none() || file.set_len(end).is_ok();
        if is_cut && is_usable {
            self.current = Some(Current { number, file });
        }
        (Some((number, at, whole)), error)
    }

    /// Takes the segment to write to, a new one if the last is full.
    fn current_segment(&mut self) -> io::Result<Current> {
        if self.writable().is_some()
            && let Some(current) = self.current.take()
        {
            return Ok(current);
        }
        // What the power takes is the end of the journal, and not that of a segment before.
        if let Some(full) = self.current.take()
            && !self.settings.sync
        {
            (self.sync)(&full.file)?;
        }
        let number = self.end;
        let path = self.path(number);
        let file = self.make(&path).inspect_err(|_| {
            // An empty file is removed when the journal is opened, if it can't be now.
            let _ = fs::remove_file(&path);
        })?;
        self.lengths.insert(number, MAGIC.len() as u64);
        self.end = number + 1;
        Ok(Current { number, file })
    }

    fn make(&self, path: &Path) -> io::Result<File> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        file.write_all_at(&MAGIC, 0)?;
        if self.settings.sync {
            (self.sync)(&file)?;
            self.sync_directory()?;
        }
        Ok(file)
    }

    /// Reads a record again.
    pub fn read(&mut self, Position { segment, offset }: Position) -> io::Result<Bytes> {
        let Some(len) = self.lengths.get(&segment) else { return Err(ErrorKind::NotFound.into()) };
        if offset.saturating_add(HEAD_LEN as u64) > *len {
            return Err(ErrorKind::InvalidData.into());
        }
        let file = match self.reading.take() {
            Some((number, file)) if number == segment => file,
            _ => File::open(self.path(segment))?,
        };
        let record = read_record(&file, offset);
        self.reading = Some((segment, file));
        record
    }

    /// Removes the segments that end before this position.
    pub fn drop_before(&mut self, position: Position) {
        let ends_before =
            |(number, len): (&u64, &u64)| (Position { segment: *number, offset: *len } <= position).then_some(*number);
        let dropped: Vec<u64> = self.lengths.iter().map_while(ends_before).collect();
        for number in &dropped {
            let path = self.path(*number);
            if let Err(error) = fs::remove_file(&path).or_else(unless_gone) {
                tracing::warn!(segment = %path.display(), %error, "a segment of a journal can't be removed");
                return;
            }
            self.lengths.remove(number);
            self.reading.take_if(|(reading, _)| *reading == *number);
            self.current.take_if(|current| current.number == *number);
        }
        if self.settings.sync
            && !dropped.is_empty()
            && let Err(error) = self.sync_directory()
        {
            // They come back after a loss of power, and are dropped again.
            tracing::warn!(dir = %self.dir.display(), %error, "a journal's folder can't be synced");
        }
    }

    fn note_failure(&mut self, error: Option<&io::Error>) {
        match error {
            Some(error) if !self.failing => {
                tracing::error!(dir = %self.dir.display(), %error, "a journal can't be written");
            }
            None if self.failing => tracing::info!(dir = %self.dir.display(), "a journal is written again"),
            _ => {}
        }
        self.failing = error.is_some();
    }

    fn sync_directory(&self) -> io::Result<()> {
        (self.sync)(&File::open(&self.dir)?)
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:016}.log"))
    }
}

/// Whether the folder is of this kind, which the lock's file says; a new one is from now on.
fn check_kind(dir: &Path, lock: &File, kind: &str) -> io::Result<()> {
    let mut found = Vec::new();
    let mut reader = lock;
    reader.read_to_end(&mut found).map_err(|error| of_file(dir, error))?;
    let found = String::from_utf8_lossy(&found);
    // Not all of it was written, or the power took it.
    let is_unmarked = kind.starts_with(&*found) || found.bytes().all(|byte| byte == 0);
    if is_unmarked && found != kind {
        // A disk that is full takes it the next time.
        let _ = lock.write_all_at(kind.as_bytes(), 0);
        return Ok(());
    }
    if found != kind {
        let text = format!("{} is a journal of another kind: {found}", dir.display());
        return Err(io::Error::new(ErrorKind::InvalidData, text));
    }
    Ok(())
}

/// What the mark in the folder says.
fn doubt(dir: &Path) -> Doubt {
    match fs::read(dir.join(MARK)) {
        Ok(mark) if mark == DAMAGED => Doubt::Anywhere,
        Ok(mark) if !mark.is_empty() && mark == boot() => Doubt::None,
        Err(error) if error.kind() != ErrorKind::NotFound => Doubt::Anywhere,
        _ => Doubt::End,
    }
}

/// Puts the mark in its place whole, and on the disk: it may be what is left when the power fails again.
fn mark(dir: &Path, text: &[u8]) -> io::Result<()> {
    let (path, next) = (dir.join(MARK), dir.join("boot.next"));
    let write = || -> io::Result<()> {
        let mut file = File::create(&next)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&next, &path)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(|error| of_file(&path, error))
}

/// Notes that there is no doubt any more, until the machine is started anew. What was written before is on the disk then, because
/// the mark that says `damaged` goes.
///
/// # Errors
/// As writing and syncing files: the doubt is still there with the next opening.
pub(super) fn note_no_doubt(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir).map_err(|error| of_file(dir, error))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            File::open(&path).and_then(|file| file.sync_data()).map_err(|error| of_file(&path, error))?;
        }
    }
    mark(dir, &boot())
}

/// What names the machine's boot (random(4)); empty where that is not to be had, which is taken for another one each time.
fn boot() -> Vec<u8> {
    fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

/// Takes the folder for this journal alone. One that was just dropped gives it up when its thread has written what was left.
fn lock(dir: &Path) -> io::Result<Flock<File>> {
    let path = dir.join("lock");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = file.map_err(|error| of_file(&path, error))?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => return Ok(locked),
            Err((unlocked, Errno::EWOULDBLOCK)) if Instant::now() < deadline => file = unlocked,
            Err((_, Errno::EWOULDBLOCK)) => {
                let text = format!("the journal {} is in use by another process or another route", dir.display());
                return Err(io::Error::new(ErrorKind::WouldBlock, text));
            }
            Err((_, errno)) => return Err(of_file(&path, errno.into())),
        }
        std::thread::sleep(LOCK_PATIENCE / 25);
    }
}

/// How far a segment is what was written.
struct Scanned {
    /// The end of the last whole record.
    end: u64,
    /// What lies behind it, if it is no part of a record.
    corruption: Option<Corruption>,
}

/// Reads a segment from its beginning, with memory for a record and for one read.
fn scan(file: &File, mut replay: impl FnMut(u64, &[u8])) -> io::Result<Scanned> {
    let mut buffer = Vec::new();
    while buffer.len() < MAGIC.len() {
        if file.take(READ_LEN).read_to_end(&mut buffer)? == 0 {
            break;
        }
    }
    let magic = &buffer[..buffer.len().min(MAGIC.len())];
    if !MAGIC.starts_with(magic) && magic.iter().any(|byte| *byte != 0) {
        return Err(io::Error::new(ErrorKind::InvalidData, "this is no segment of a journal"));
    }
    if magic != MAGIC {
        let corruption = (buffer.len() >= MAGIC.len()).then_some(Corruption::Head);
        return Ok(Scanned { end: 0, corruption });
    }
    buffer.drain(..MAGIC.len());
    let mut end = MAGIC.len() as u64;
    loop {
        let mut used = 0;
        let needed = loop {
            match journal::decode(&buffer[used..], LONGEST_LEN) {
                Decoded::Record { payload, used: of_record } => {
                    replay(end, payload);
                    used += of_record;
                    end += of_record as u64;
                }
                Decoded::NeedMore { len } => break len,
                Decoded::Corrupt(corruption) => return Ok(Scanned { end, corruption: Some(corruption) }),
            }
        };
        buffer.drain(..used);
        let wanted = (needed - buffer.len()) as u64;
        if file.take(wanted.max(READ_LEN)).read_to_end(&mut buffer)? == 0 {
            return Ok(Scanned { end, corruption: None });
        }
    }
}

/// Whether there are only zeros from here on: the file had its length already, and its bytes were lost with the power.
fn is_zero(file: &File, offset: u64) -> io::Result<bool> {
    let mut from = FromOffset { file, offset };
    let mut piece = vec![0; READ_LEN as usize];
    loop {
        match from.read(&mut piece)? {
            0 => return Ok(true),
            len if piece[..len].iter().any(|byte| *byte != 0) => return Ok(false),
            _ => {}
        }
    }
}

fn read_record(file: &File, offset: u64) -> io::Result<Bytes> {
    let mut bytes = vec![0; HEAD_LEN];
    file.read_exact_at(&mut bytes, offset)?;
    loop {
        match journal::decode(&bytes, LONGEST_LEN) {
            Decoded::Record { used, .. } => return Ok(Bytes::from(bytes).slice(HEAD_LEN..used)),
            Decoded::NeedMore { len } => {
                let has = bytes.len();
                bytes.resize(len, 0);
                file.read_exact_at(&mut bytes[has..], offset + has as u64)?;
            }
            Decoded::Corrupt(corruption) => {
                return Err(io::Error::new(ErrorKind::InvalidData, corruption.to_string()));
            }
        }
    }
}

/// How many bytes were written, and why not all of them.
fn write_until_error(file: &File, bytes: &[u8], at: u64) -> (usize, Option<io::Error>) {
    let mut written = 0;
    while written < bytes.len() {
        match file.write_at(&bytes[written..], at + written as u64) {
            Ok(0) => return (written, Some(ErrorKind::WriteZero.into())),
            Ok(len) => written += len,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return (written, Some(error)),
        }
    }
    (written, None)
}

/// A file from an offset to its end.
struct FromOffset<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for FromOffset<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = self.file.read_at(into, self.offset)?;
        self.offset += len as u64;
        Ok(len)
    }
}

/// The same error once more: it is told to everybody whose record was in the write.
fn again(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

fn of_file(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn unless_gone(error: io::Error) -> io::Result<()> {
    if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) }
}
