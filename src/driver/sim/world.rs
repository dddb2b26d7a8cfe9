//! The world behind the fake kernel: clock, chances, descriptors, files and clients. The test holds it and the [`super::Sim`]
//! does, and both sides act on it in turn, on one thread.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::{self, Write};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::os::fd::{OwnedFd, RawFd};
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant, SystemTime};

use super::files::{Content, Directory, File, Node};
use super::net::{Backend, Client, Listener, ServerSide};
use super::pipes::Queue;
use super::random::Random;
use crate::driver::op::RemoteAddress;

/// Descriptors start here, far from any real one; see [`World::open_descriptors`] for why none is used twice.
pub(super) const FIRST_DESCRIPTOR: RawFd = 1_000_000;
/// The wall clock at the start, since 1970: a morning in January 2025.
const WALL_START: Duration = Duration::from_secs(1_736_000_000);
/// The first port that a client comes from.
const FIRST_PORT: u16 = 1024;
/// How many lines of the trace are kept to be shown.
const TRACE_LINES: usize = 60;

/// What goes wrong, and how often: probabilities from 0 to 1, and times.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// A receive or read yields less than there is, or a pipe is filled with less.
    pub short_read: f64,
    /// A send takes less than there is room for.
    pub short_send: f64,
    /// A send to a socket with room answers `WouldBlock`.
    pub full_socket: f64,
    /// A receive finds no buffer although one is free.
    pub no_buffers: f64,
    /// An accept or open answers `EMFILE`, and a new pipe `ENFILE`.
    pub no_descriptors: f64,
    /// A read from a file answers `EIO`.
    pub read_error: f64,
    /// A write to a file takes less than there is room for.
    pub short_write: f64,
    /// A write, a sync or a change of names answers `EIO`.
    pub write_error: f64,
    /// Files without a name can't be made, as on some file systems.
    pub no_unnamed_files: f64,
    /// A file can't be linked, as on some of these.
    pub no_links: f64,
    /// A new pipe holds two pages, whatever was asked for.
    pub small_pipes: f64,
    /// An operation that is about to complete does so although it was cancelled.
    pub late_cancel: f64,
    /// Each completion comes up to this long after it could; with that, their order is random.
    pub max_latency: Duration,
    /// Each turn that does not wait takes up to this long.
    pub max_turn: Duration,
}

impl Faults {
    /// A kernel on its best day: everything at once, in order and whole.
    pub const NONE: Faults = Faults {
        short_read: 0.0,
        short_send: 0.0,
        full_socket: 0.0,
        no_buffers: 0.0,
        no_descriptors: 0.0,
        read_error: 0.0,
        short_write: 0.0,
        write_error: 0.0,
        no_unnamed_files: 0.0,
        no_links: 0.0,
        small_pipes: 0.0,
        late_cancel: 0.0,
        max_latency: Duration::ZERO,
        max_turn: Duration::ZERO,
    };

    /// Everything takes its time, in an order of its own, but nothing fails.
    pub const SLOW: Faults =
        Faults { max_latency: Duration::from_millis(2), max_turn: Duration::from_micros(20), ..Faults::NONE };

    /// Everything that a sound server gets through, often. Answers that end a transfer (`EIO`) are not among it.
    pub const ROUGH: Faults = Faults {
        short_read: 0.3,
        short_send: 0.3,
        full_socket: 0.2,
        no_buffers: 0.1,
        no_descriptors: 0.1,
        read_error: 0.0,
        short_write: 0.3,
        write_error: 0.0,
        no_unnamed_files: 0.0,
        no_links: 0.0,
        small_pipes: 0.3,
        late_cancel: 0.5,
        ..Faults::SLOW
    };
}

/// Runs a scenario once for each of a few dozen seeds. When it panics, the seed and the end of the trace are printed;
/// `HIGHWATER_SIM_SEED` replays one seed, `HIGHWATER_SIM_SEEDS` says how many to try.
pub fn explore(faults: Faults, scenario: impl Fn(&Rc<World>)) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("seeds are numbers"));
    let seeds = match number("HIGHWATER_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("HIGHWATER_SIM_SEEDS").unwrap_or(32),
    };
    for seed in seeds {
        let world = World::new(seed, faults);
        let run = std::panic::AssertUnwindSafe(|| scenario(&world));
        if let Err(panic) = std::panic::catch_unwind(run) {
            eprintln!("seed {seed} fails; HIGHWATER_SIM_SEED={seed} replays it. Last came:\n{}", world.recent());
            std::panic::resume_unwind(panic);
        }
    }
}

type Action = Box<dyn FnOnce()>;

/// Everything outside of the server.
pub struct World {
    pub(super) random: RefCell<Random>,
    faults: Cell<Faults>,
    multishot_accept: bool,
    start: Instant,
    elapsed: Cell<Duration>,
    actions: RefCell<BTreeMap<(Duration, u64), Action>>,
    next_action: Cell<u64>,
    patience: Cell<Duration>,
    descriptors: RefCell<BTreeMap<RawFd, Descriptor>>,
    next_descriptor: Cell<RawFd>,
    descriptor_limit: Cell<usize>,
    next_client: Cell<u32>,
    /// Servers that the one under test may connect to.
    backends: RefCell<Vec<(RemoteAddress, Weak<Backend>)>>,
    root: Rc<Directory>,
    next_inode: Cell<u64>,
    /// Bytes that files of the server's own may still take.
    free_space: Rc<Cell<u64>>,
    stalls: Cell<usize>,
    /// Real directories that live as long as the world.
    mirrors: RefCell<Vec<tempfile::TempDir>>,
    trace: RefCell<Trace>,
}

/// Descriptors that are open, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptors {
    /// Listening sockets.
    pub listeners: usize,
    /// Connections.
    pub sockets: usize,
    /// Files and FIFOs.
    pub files: usize,
    /// Directories.
    pub directories: usize,
    /// Pipes, each with two descriptors.
    pub pipes: usize,
}

impl World {
    /// A world in which everything follows from the seed and from what the test does.
    pub fn new(seed: u64, faults: Faults) -> Rc<Self> {
        let mut random = Random::new(seed);
        Rc::new(World {
            multishot_accept: random.chance(0.5),
            random: RefCell::new(random),
            faults: Cell::new(faults),
            start: Instant::now(),
            elapsed: Cell::default(),
            actions: RefCell::default(),
            next_action: Cell::default(),
            patience: Cell::default(),
            descriptors: RefCell::default(),
            next_descriptor: Cell::new(FIRST_DESCRIPTOR),
            descriptor_limit: Cell::new(usize::MAX),
            next_client: Cell::default(),
            backends: RefCell::default(),
            root: Directory::new(1),
            next_inode: Cell::new(2),
            free_space: Rc::new(Cell::new(1 << 40)),
            stalls: Cell::default(),
            mirrors: RefCell::default(),
            trace: RefCell::default(),
        })
    }

    /// From now on these faults.
    pub fn set_faults(&self, faults: Faults) {
        self.faults.set(faults);
    }

    /// Virtual time; it moves while a turn waits.
    pub fn now(&self) -> Instant {
        self.start + self.elapsed.get()
    }

    /// The time of day.
    pub fn wall_clock(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.wall()
    }

    /// Has the test act when this much virtual time has passed, in the midst of a turn: clients are written this way. The turn
    /// then returns.
    pub fn schedule(&self, after: Duration, action: impl FnOnce() + 'static) {
        let number = self.next_action.get();
        self.next_action.set(number + 1);
        self.actions.borrow_mut().insert((self.elapsed.get() + after, number), Box::new(action));
    }

    /// How long, in real time, a turn waits for other threads before virtual time moves; zero at first. A test whose worker
    /// calls other threads sets it, so that their answers come before every deadline.
    pub fn set_patience(&self, patience: Duration) {
        self.patience.set(patience);
    }

    /// A number in `0..bound` for the test's own choices, from the same seed.
    pub fn below(&self, bound: u64) -> u64 {
        self.random.borrow_mut().below(bound)
    }

    /// A new listening socket.
    pub fn listen(&self) -> RawFd {
        self.add_descriptor(Object::Listener(Listener::default()))
    }

    /// A new client of this listener; each comes from a port of its own.
    ///
    /// # Panics
    /// When nobody listens.
    #[track_caller]
    pub fn connect(&self, listener: RawFd) -> Client {
        self.try_connect(listener).expect("connection refused")
    }

    /// A new client, or `None` when the listener has been closed.
    pub fn try_connect(&self, listener: RawFd) -> Option<Client> {
        let descriptors = self.descriptors.borrow();
        let object = &descriptors.get(&listener)?.object;
        let number = self.next_client.get();
        self.next_client.set(number + 1);
        let ports = u32::from(u16::MAX - FIRST_PORT);
        let address = Ipv4Addr::from_bits(Ipv4Addr::new(192, 0, 2, 1).to_bits() + number / ports);
        Some(object.listener().connect(SocketAddr::from((address, FIRST_PORT + (number % ports) as u16))))
    }

    /// A server at this address, until it is dropped; then a connect is refused, as before.
    pub fn serve(&self, address: RemoteAddress) -> Rc<Backend> {
        let backend = Rc::<Backend>::default();
        self.backends.borrow_mut().push((address, Rc::downgrade(&backend)));
        backend
    }

    /// Adds a directory; those above it have to be there. All paths begin at the root, without a slash.
    pub fn add_directory(&self, path: &str) {
        self.add(path, Node::Directory(Directory::new(self.inode())));
    }

    /// Adds a file, or puts a new one (another inode) in the place of what has that name.
    pub fn add_file(&self, path: &str, content: Content) {
        self.add(path, Node::File(File::new(self.inode(), content, &self.free_space, self.wall())));
    }

    /// Adds a FIFO.
    pub fn add_fifo(&self, path: &str) {
        self.add(path, Node::Fifo(self.inode()));
    }

    /// Takes the name away; what is open stays.
    pub fn remove(&self, path: &str) {
        let (directory, name) = self.parent(path);
        directory.remove(name.as_bytes()).unwrap_or_else(|| panic!("no entry {path}"));
    }

    /// Makes a file shorter or longer.
    pub fn set_len(&self, path: &str, len: u64) {
        self.file(path).borrow_mut().set_len(len, self.wall());
    }

    /// Changes a file in place (the same inode).
    pub fn overwrite(&self, path: &str, content: Content) {
        self.file(path).borrow_mut().overwrite(content, self.wall());
    }

    /// Takes the pages of these bytes out of memory.
    pub fn cool(&self, path: &str, range: Range<u64>) {
        self.file(path).borrow_mut().cool(range);
    }

    /// How many of `len` bytes at `offset` are in memory, before the first that is not.
    pub fn resident(&self, path: &str, offset: u64, len: usize) -> usize {
        self.file(path).borrow_mut().resident(offset, len, self.elapsed.get())
    }

    /// Makes every later open of the file fail with `EACCES`.
    pub fn deny(&self, path: &str) {
        self.file(path).borrow_mut().denied = true;
    }

    /// Makes every later read of the file fail with `EIO`, also through descriptors that are open.
    pub fn break_reads(&self, path: &str) {
        self.file(path).borrow_mut().broken = true;
    }

    /// Leaves so much space on the disk for what is written from now on; files that go give theirs back.
    pub fn limit_space(&self, bytes: u64) {
        self.free_space.set(bytes);
    }

    /// How much of that is left.
    pub fn free_space(&self) -> u64 {
        self.free_space.get()
    }

    /// The names in a directory, in order.
    pub fn names(&self, path: &str) -> Vec<String> {
        let Ok(Node::Directory(directory)) = self.resolve(path.as_bytes()) else { panic!("no directory {path}") };
        directory.names().iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    }

    /// What a file holds.
    pub fn content(&self, path: &str) -> Vec<u8> {
        let file = self.file(path);
        let file = file.borrow();
        file.bytes(0, usize::MAX).collect()
    }

    /// Lets accepts and opens fail with `EMFILE` while this many descriptors are open.
    pub fn limit_descriptors(&self, limit: usize) {
        self.descriptor_limit.set(limit);
    }

    /// What is open now. A number is never used twice, so that every use of one that was closed is noticed; a real kernel
    /// would hand it to a stranger, and the bug would show far from its place.
    pub fn open_descriptors(&self) -> Descriptors {
        let (mut open, mut ends) = (Descriptors::default(), 0);
        for descriptor in self.descriptors.borrow().values() {
            match &*descriptor.object {
                Object::Listener(_) => open.listeners += 1,
                Object::Socket(_) => open.sockets += 1,
                Object::Entry(Node::Directory(_)) => open.directories += 1,
                Object::Entry(Node::File(_) | Node::Fifo(_)) => open.files += 1,
                Object::Pipe(_) => ends += 1,
            }
        }
        open.pipes = ends / 2;
        open
    }

    /// How many times a file was sent from with a page that was not in memory: the worker would have waited for the disk.
    pub fn stalls(&self) -> usize {
        self.stalls.get()
    }

    /// A digest of all that has happened: equal for equal seeds and tests.
    pub fn trace(&self) -> u64 {
        self.trace.borrow().digest.finish()
    }

    /// The last lines of what has happened.
    pub fn recent(&self) -> String {
        self.trace.borrow().recent.iter().flat_map(|line| [line, "\n"]).collect()
    }

    fn add(&self, path: &str, node: Node) {
        let (directory, name) = self.parent(path);
        directory.insert(name.as_bytes(), node);
    }

    fn parent<'p>(&self, path: &'p str) -> (Rc<Directory>, &'p str) {
        let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
        match self.resolve(parent.as_bytes()) {
            Ok(Node::Directory(directory)) => (directory, name),
            _ => panic!("no directory {parent}"),
        }
    }

    fn file(&self, path: &str) -> Rc<RefCell<File>> {
        match self.resolve(path.as_bytes()) {
            Ok(Node::File(file)) => file,
            _ => panic!("no file {path}"),
        }
    }

    pub(super) fn inode(&self) -> u64 {
        self.next_inode.replace(self.next_inode.get() + 1)
    }

    pub(super) fn wall(&self) -> Duration {
        WALL_START + self.elapsed.get()
    }
}

/// What a descriptor is open on. It lives as long as a descriptor or an operation in flight refers to it, as in the kernel.
#[derive(Debug)]
pub(super) enum Object {
    Listener(Listener),
    Socket(ServerSide),
    Entry(Node),
    Pipe(Queue),
}

#[derive(Debug)]
struct Descriptor {
    object: Rc<Object>,
    /// Its close was submitted: nobody may use it any more.
    closing: bool,
}

impl Object {
    #[track_caller]
    pub fn listener(&self) -> &Listener {
        match self {
            Object::Listener(listener) => listener,
            _ => panic!("sim: {self:?} is no listener"),
        }
    }

    #[track_caller]
    pub fn socket(&self) -> &ServerSide {
        match self {
            Object::Socket(socket) if socket.get().is_connected => socket,
            _ => panic!("sim: {self:?} is no connected socket"),
        }
    }

    #[track_caller]
    pub fn unconnected(&self) -> &ServerSide {
        match self {
            Object::Socket(socket) if !socket.get().is_connected => socket,
            _ => panic!("sim: {self:?} is no socket that could be connected"),
        }
    }

    #[track_caller]
    pub fn file(&self) -> &Rc<RefCell<File>> {
        match self {
            Object::Entry(Node::File(file)) => file,
            _ => panic!("sim: {self:?} is no regular file"),
        }
    }

    #[track_caller]
    pub fn pipe(&self) -> &Queue {
        match self {
            Object::Pipe(queue) => queue,
            _ => panic!("sim: {self:?} is no pipe"),
        }
    }

    #[track_caller]
    pub fn directory(&self) -> &Rc<Directory> {
        match self {
            Object::Entry(Node::Directory(directory)) => directory,
            _ => panic!("sim: {self:?} is no directory"),
        }
    }
}

/// The driver's side.
impl World {
    /// What a descriptor that may be used is open on.
    #[track_caller]
    pub(super) fn object(&self, fd: RawFd) -> Rc<Object> {
        match self.descriptors.borrow().get(&fd) {
            Some(descriptor) if !descriptor.closing => descriptor.object.clone(),
            Some(_) => panic!("sim: descriptor {fd} is used after its close was submitted"),
            None => panic!("sim: descriptor {fd} is not open"),
        }
    }

    /// Whether a descriptor leads to this still.
    pub(super) fn is_open(&self, object: &Rc<Object>) -> bool {
        self.descriptors.borrow().values().any(|descriptor| Rc::ptr_eq(&descriptor.object, object))
    }

    /// Forbids further use, as soon as the close is submitted.
    #[track_caller]
    pub(super) fn begin_close(&self, fd: RawFd) {
        drop(self.object(fd));
        self.descriptors.borrow_mut().entry(fd).and_modify(|descriptor| descriptor.closing = true);
    }

    pub(super) fn finish_close(&self, fd: RawFd) {
        let closed = self.descriptors.borrow_mut().remove(&fd);
        if let Some(Object::Entry(Node::File(file))) = closed.as_ref().map(|descriptor| &*descriptor.object)
            && file.borrow().locked_by == Some(fd)
        {
            file.borrow_mut().locked_by = None;
        }
    }

    /// A new file of the server's own, not in any directory yet.
    pub(super) fn new_file(&self) -> Node {
        Node::File(File::new(self.inode(), Content::Bytes(Vec::new()), &self.free_space, self.wall()))
    }

    /// A new directory, not in any other yet.
    pub(super) fn new_directory(&self) -> Node {
        Node::Directory(Directory::new(self.inode()))
    }

    /// Whether an accept or open finds a free descriptor.
    pub(super) fn descriptor_is_free(&self) -> bool {
        !self.chance(|faults| faults.no_descriptors) && self.descriptors.borrow().len() < self.descriptor_limit.get()
    }

    pub(super) fn add_descriptor(&self, object: impl Into<Rc<Object>>) -> RawFd {
        let fd = self.next_descriptor.replace(self.next_descriptor.get() + 1);
        self.descriptors.borrow_mut().insert(fd, Descriptor { object: object.into(), closing: false });
        fd
    }

    /// What a path names from the root, which is also where the process stands.
    pub(super) fn resolve(&self, path: &[u8]) -> Result<Node, i32> {
        match path {
            b"/" => self.root.resolve(b"."),
            _ => self.root.resolve(path.strip_prefix(b"/").unwrap_or(path)),
        }
    }

    /// Who answers at an address; `upgrade` finds nobody where nobody does.
    pub(super) fn backend(&self, address: &RemoteAddress) -> Weak<Backend> {
        let mut backends = self.backends.borrow_mut();
        backends.retain(|(_, backend)| backend.strong_count() > 0);
        backends.iter().find(|(own, _)| own == address).map(|(_, backend)| backend.clone()).unwrap_or_default()
    }

    /// Opens a directory entry, as openat2(2) would once a number was found and the path is resolved.
    pub(super) fn open(&self, node: Node) -> io::Result<RawFd> {
        if matches!(&node, Node::File(file) if file.borrow().denied) {
            return Err(io::Error::from_raw_os_error(libc::EACCES));
        }
        Ok(self.add_descriptor(Object::Entry(node)))
    }

    /// A real descriptor for other threads, which know no world: of a copy of the tree as it is now.
    pub(super) fn mirror(&self, directory: &Directory) -> io::Result<OwnedFd> {
        if !self.descriptor_is_free() {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        let copy = tempfile::tempdir()?;
        directory.mirror(copy.path())?;
        let real = std::fs::File::open(copy.path())?;
        self.mirrors.borrow_mut().push(copy);
        Ok(real.into())
    }

    pub(super) fn note_stall(&self) {
        self.stalls.set(self.stalls.get() + 1);
    }

    pub(super) fn chance(&self, probability: impl Fn(&Faults) -> f64) -> bool {
        self.random.borrow_mut().chance(probability(&self.faults.get()))
    }

    /// `len`, or in this share of cases less, but at least 1.
    pub(super) fn perhaps_less(&self, len: usize, probability: impl Fn(&Faults) -> f64) -> usize {
        let less = 1 + self.random.borrow_mut().below(len.saturating_sub(1) as u64) as usize;
        if self.chance(probability) { len.min(less) } else { len }
    }

    pub(super) fn latency(&self) -> Duration {
        self.random.borrow_mut().time(self.faults.get().max_latency)
    }

    pub(super) fn multishot_accept(&self) -> bool {
        self.multishot_accept
    }

    pub(super) fn patience(&self) -> Duration {
        self.patience.get()
    }

    /// Virtual time since the start.
    pub(super) fn elapsed(&self) -> Duration {
        self.elapsed.get()
    }

    pub(super) fn since_start(&self, time: Instant) -> Duration {
        time.saturating_duration_since(self.start)
    }

    pub(super) fn advance_to(&self, elapsed: Duration) {
        self.elapsed.set(self.elapsed.get().max(elapsed));
    }

    /// A turn that does not wait takes time, too.
    pub(super) fn spend_turn(&self) {
        let turn = self.random.borrow_mut().time(self.faults.get().max_turn);
        self.elapsed.set(self.elapsed.get() + turn);
    }

    pub(super) fn next_action_at(&self) -> Option<Duration> {
        self.actions.borrow().keys().next().map(|(at, _)| *at)
    }

    /// Lets the test do what it scheduled up to now; whether there was anything.
    pub(super) fn act(&self) -> bool {
        let mut acted = false;
        while self.next_action_at().is_some_and(|at| at <= self.elapsed.get()) {
            // Outside of the borrow: an action may schedule the next one.
            let action = self.actions.borrow_mut().pop_first();
            if let Some((_, action)) = action {
                action();
                acted = true;
            }
        }
        acted
    }

    pub(super) fn note(&self, event: fmt::Arguments<'_>) {
        self.trace.borrow_mut().note(self.elapsed.get(), event);
    }
}

/// What happened, digested, and the last lines of it to be read.
#[derive(Default)]
struct Trace {
    digest: DefaultHasher,
    recent: VecDeque<String>,
}

impl Trace {
    fn note(&mut self, elapsed: Duration, event: fmt::Arguments<'_>) {
        let mut line = if self.recent.len() < TRACE_LINES { None } else { self.recent.pop_front() }.unwrap_or_default();
        line.clear();
        // Writing to a string does not fail.
        let _ = write!(line, "{elapsed:>12?}  {event}");
        line.hash(&mut self.digest);
        self.recent.push_back(line);
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("elapsed", &self.elapsed)
            .field("open", &self.open_descriptors())
            .finish_non_exhaustive()
    }
}
