//! The server: binds, starts a worker for each core, and ends in order.
//!
//! ```text
//!   bind ─▶ start: worker 0 ┐                         Handle / signals
//!                  worker 1 ├─ ready ─▶ serving ◀── orders: drain, serve other routes
//!                  worker n ┘                └─▶ drained ─▶ joined
//! ```
//!
//! Each worker has its own listening sockets on the same addresses (`SO_REUSEPORT`), so that the kernel spreads connections
//! and workers share nothing. The admin address is served by the first worker alone. Orders reach a worker through a mailbox
//! and its wake-up descriptor, and are carried out between two turns.

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, gettid};

use crate::config::{self, Config, HandlerConfig, ListenAddress, RouteConfig, SendPath, UploadConfig};
use crate::driver::Setup;
use crate::driver::slot::{Event, Token};
use crate::driver::uring::Uring;
use crate::error::Error;
use crate::handler::admin::Admin;
use crate::handler::events::Events;
use crate::handler::guard::Guard;
use crate::handler::live::Live;
use crate::handler::media::Media;
use crate::handler::queue::Queue;
use crate::handler::upload::Upload;
use crate::http::connections::Connections;
use crate::http::{MakeHandler, Worker};
use crate::limits::Limits;
use crate::router::Routes;
use crate::rt::net::{BoundAddress, Listener, Share};
use crate::rt::offload::Offload;
use crate::rt::task::{Remote, Tasks, contain};
use crate::rt::timer::Timer;
use crate::rt::{Runtime, worker};
use crate::telemetry::access_log::{AccessLog, Destination, Format};
use crate::telemetry::log::Log;
use crate::telemetry::metrics::{Depths, Metrics, Totals};

/// The token of the deadline for draining; connections use others.
const OVERDUE: Token = Token(u64::MAX - 1);
/// For how long an address that is taken is tried again.
const BIND_PATIENCE: std::time::Duration = std::time::Duration::from_millis(500);

/// Collects what a server is to serve.
pub struct Builder {
    config: Config,
    routes: Routes,
}

impl Builder {
    /// Adds a handler for every path under `prefix` on any host: an `async fn(Request) -> Response`, or a ready one such as
    /// [`Media`]. Routes of the configuration stand beside it; the longest prefix wins.
    #[must_use]
    pub fn route(mut self, prefix: &str, handler: impl MakeHandler + 'static) -> Self {
        self.routes.add(None, prefix, Arc::new(handler));
        self
    }

    /// Adds a handler for every path under `prefix` on one host.
    #[must_use]
    pub fn host_route(mut self, host: &str, prefix: &str, handler: impl MakeHandler + 'static) -> Self {
        self.routes.add(Some(host.to_owned()), prefix, Arc::new(handler));
        self
    }

    /// Checks the configuration and the kernel, and binds the addresses. Nothing is accepted yet.
    ///
    /// # Errors
    /// The operator's fault: what is wrong and what to do instead.
    pub fn bind(self) -> Result<Server, Error> {
        let Builder { config, routes: own_routes } = self;
        config.check()?;
        check_kernel()?;
        let mut standing = Standing::default();
        let routes = with_configured(&own_routes, &config, &mut standing)?;
        let workers = config.workers.get();
        let mut gates: Vec<Vec<Listener>> = (0..workers).map(|_| Vec::new()).collect();
        let mut addresses = Vec::new();
        for address in &config.listen {
            let listeners = bind_for_all(address, workers)?;
            addresses.push(listeners[0].bound().clone());
            gates.iter_mut().zip(listeners).for_each(|(gates, listener)| gates.push(listener));
        }
        let admin =
            config.admin.as_ref().map(|address| bind_for_all(address, 1)).transpose()?.and_then(|mut one| one.pop());
        let unix_sockets =
            addresses.iter().chain(admin.as_ref().map(Listener::bound)).filter_map(UnixSocket::of).collect();
        let access_log = start_access_log(&config)?;
        let metrics = Metrics::new(workers, config.memory_ceiling().bytes(), "uring");
        if let Some(log) = &access_log {
            metrics.set_access_log(log.clone());
        }
        let shared = Arc::new(Shared {
            admin_address: admin.as_ref().map(|listener| listener.bound().clone()),
            addresses,
            unix_sockets: Mutex::new(unix_sockets),
            mailboxes: (0..workers).map(|_| Mailbox::default()).collect(),
            metrics,
            access_log,
            own_routes,
            routes: Mutex::new(routes),
            standing: Mutex::new(standing),
            config,
        });
        let seen = Arc::downgrade(&shared);
        shared.metrics.set_depths(move || seen.upgrade()?.standing.try_lock().ok().map(|standing| standing.depths()));
        Ok(Server { shared, gates, admin })
    }
}

/// A server whose addresses are bound.
pub struct Server {
    shared: Arc<Shared>,
    gates: Vec<Vec<Listener>>,
    admin: Option<Listener>,
}

struct Shared {
    config: Config,
    addresses: Vec<BoundAddress>,
    admin_address: Option<BoundAddress>,
    /// Those whose paths are still to be removed.
    unix_sockets: Mutex<Vec<UnixSocket>>,
    mailboxes: Vec<Mailbox>,
    metrics: Arc<Metrics>,
    access_log: Option<AccessLog>,
    /// Those that were added in code, which no configuration takes away.
    own_routes: Routes,
    routes: Mutex<Routes>,
    standing: Mutex<Standing>,
}

/// What goes on when the routes are made anew, by the host and the prefix of its route.
#[derive(Default)]
struct Standing {
    events: HashMap<(Option<String>, String), Events>,
    queues: HashMap<(Option<String>, String), Queue>,
}

impl Standing {
    fn depths(&self) -> Depths {
        let mut depths = Depths::default();
        self.queues.values().for_each(|queue| queue.add_to(&mut depths));
        self.events.values().for_each(|events| events.add_to(&mut depths));
        depths
    }
}

/// A socket in the file system, as it was when it was bound.
struct UnixSocket {
    path: PathBuf,
    identity: (u64, u64),
}

impl UnixSocket {
    fn of(address: &BoundAddress) -> Option<Self> {
        let BoundAddress::Unix(path) = address else { return None };
        // Without an identity it is left alone: whoever binds next takes it for what a crash left behind.
        Some(UnixSocket { path: path.clone(), identity: identity(path)? })
    }

    /// Removes the path if it still leads to this socket. The inode is not given to another while the socket listens.
    fn unlink(&self) {
        if identity(&self.path) == Some(self.identity)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "the socket can't be removed");
        }
    }
}

/// Device and inode.
fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

impl Server {
    /// A server with this configuration; routes may be added.
    pub fn builder(config: Config) -> Builder {
        Builder { config, routes: Routes::default() }
    }

    /// Where it listens, with real ports, in the order of the configuration.
    pub fn addresses(&self) -> &[BoundAddress] {
        &self.shared.addresses
    }

    /// A handle that other threads can keep.
    pub fn handle(&self) -> Handle {
        Handle(self.shared.clone())
    }

    /// Serves until it is drained, on threads of its own; the calling thread waits.
    ///
    /// # Errors
    /// When a worker can't start, or can't go on.
    pub fn run(self) -> Result<(), Error> {
        self.start()?.wait()
    }

    /// Starts the workers and returns when all of them accept.
    ///
    /// # Errors
    /// When a worker can't start; those that did are drained.
    pub fn start(self) -> Result<Running, Error> {
        let Server { shared, gates, mut admin } = self;
        raise_descriptor_limit(&shared.config);
        let offload = Offload::start(shared.config.limits.offload_threads, shared.config.limits.offload_queue)
            .map_err(|error| Error::server("the offload threads can't be started").because(error))?;
        let (ready, readiness) = mpsc::channel();
        let cores = cores_for(gates.len());
        let mut running = Running { shared: shared.clone(), threads: Vec::new() };
        let workers = gates.len();
        for (index, listeners) in gates.into_iter().enumerate() {
            let seat = WorkerSeat {
                index,
                core: cores.get(index).copied(),
                listeners,
                admin: admin.take(),
                shared: shared.clone(),
                offload: offload.clone(),
            };
            let ready = ready.clone();
            let thread = thread::Builder::new().name(format!("worker-{index}")).spawn(move || seat.work(&ready));
            match thread {
                Ok(thread) => running.threads.push(thread),
                Err(error) => return Err(running.give_up(Error::server("a worker can't be started").because(error))),
            }
        }
        // So that a worker that ends without a word is noticed.
        drop(ready);
        for _ in 0..workers {
            match readiness.recv() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(running.give_up(error)),
                Err(_) => return Err(running.give_up(Error::server("a worker ended before it was ready"))),
            }
        }
        Ok(running)
    }
}

/// A server that accepts connections.
#[must_use = "the server goes on by itself; wait for it"]
pub struct Running {
    shared: Arc<Shared>,
    threads: Vec<thread::JoinHandle<Result<(), Error>>>,
}

impl Running {
    /// A handle that other threads can keep.
    pub fn handle(&self) -> Handle {
        Handle(self.shared.clone())
    }

    /// Waits until it is drained.
    ///
    /// # Errors
    /// A failure of a worker, which made the others drain.
    pub fn wait(self) -> Result<(), Error> {
        let mut outcome = Ok(());
        for thread in self.threads {
            let ended = thread.join().unwrap_or_else(|_| Err(Error::server("a worker panicked")));
            outcome = outcome.and(ended);
        }
        lock(&self.shared.standing).queues.values().for_each(Queue::settle);
        if let Some(log) = &self.shared.access_log {
            log.close();
        }
        outcome
    }

    fn give_up(self, error: Error) -> Error {
        Handle(self.shared.clone()).drain();
        // The first error is the one to report.
        let _ = self.wait();
        error
    }
}

/// A way to a running server from any thread. Cloning clones the handle.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

impl Handle {
    /// Where it listens, with real ports.
    pub fn addresses(&self) -> &[BoundAddress] {
        &self.0.addresses
    }

    /// Where metrics are answered.
    pub fn admin_address(&self) -> Option<&BoundAddress> {
        self.0.admin_address.as_ref()
    }

    /// Accepts no more; requests under way finish within `shutdown_timeout`, then [`Server::run`] returns.
    pub fn drain(&self) {
        // While the sockets still listen: from then on a successor may bind these paths, and they are its own.
        std::mem::take(&mut *lock(&self.0.unix_sockets)).iter().for_each(UnixSocket::unlink);
        self.0.mailboxes.iter().for_each(|mailbox| mailbox.post(Order::Drain));
    }

    /// What has been counted, over all workers.
    pub fn metrics(&self) -> Totals {
        self.0.metrics.totals()
    }

    /// Everything that has been counted, in the Prometheus text format.
    pub fn prometheus(&self) -> String {
        self.0.metrics.prometheus()
    }

    /// Serves the routes of another configuration, beside those that were added in code, from each connection's next request
    /// on; requests under way go on as they began. Reopens the access log. What else differs needs a restart, and is said in the log.
    ///
    /// # Errors
    /// The operator's fault: the new configuration can't be used, and the old one stays.
    pub fn reload(&self, config: &Config) -> Result<(), Error> {
        config.check()?;
        let routes = with_configured(&self.0.own_routes, config, &mut lock(&self.0.standing))?;
        let old = &self.0.config;
        let fixed = [
            ("listen", old.listen == config.listen),
            ("admin", old.admin == config.admin),
            ("workers", old.workers == config.workers),
            ("access_log", old.access_log == config.access_log && old.log_format == config.log_format),
            ("driver", old.driver == config.driver),
            ("send_path", old.send_path == config.send_path),
            ("[limits]", old.limits == config.limits),
        ];
        for (name, _) in fixed.iter().filter(|(_, same)| !same) {
            tracing::warn!("{name} has changed: restart the server to apply it");
        }
        *lock(&self.0.routes) = routes;
        self.0.mailboxes.iter().for_each(|mailbox| mailbox.post(Order::Serve));
        if let Some(log) = &self.0.access_log {
            log.reopen();
        }
        Ok(())
    }
}

/// What a worker is told from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// Finish.
    Drain,
    /// Take the routes anew.
    Serve,
    /// Show what has kept the worker busiest.
    ShowBusiest,
}

/// Orders that a worker has not seen yet: one of each kind at most, so that it never grows.
#[derive(Default)]
struct Mailbox(Mutex<Pending>);

#[derive(Default)]
struct Pending {
    orders: Vec<Order>,
    worker: Option<Arc<Remote>>,
}

impl Mailbox {
    fn post(&self, order: Order) {
        let mut pending = lock(&self.0);
        if !pending.orders.contains(&order) {
            pending.orders.push(order);
        }
        if let Some(worker) = &pending.worker {
            worker.wake_up();
        }
    }

    fn take(&self) -> Vec<Order> {
        std::mem::take(&mut lock(&self.0).orders)
    }

    /// From now on, a post wakes this worker.
    fn connect(&self, worker: Arc<Remote>) {
        worker.wake_up();
        lock(&self.0).worker = Some(worker);
    }
}

/// What a worker is made of, before it is on its thread.
struct WorkerSeat {
    index: usize,
    core: Option<usize>,
    listeners: Vec<Listener>,
    admin: Option<Listener>,
    shared: Arc<Shared>,
    offload: Offload,
}

impl WorkerSeat {
    /// The worker's thread: a failure, a panic included, makes all others drain, however long this one is not joined.
    fn work(self, ready: &mpsc::Sender<Result<(), Error>>) -> Result<(), Error> {
        if let Some(core) = self.core {
            pin(core);
        }
        let (index, handle) = (self.index, Handle(self.shared.clone()));
        self.serve(ready).inspect_err(|error| {
            tracing::error!(worker = index, error = error.report(), "draining the server");
            handle.drain();
            // Only who starts the server may still be waiting for this.
            let _ = ready.send(Err(Error::server("a worker can't be started")));
        })
    }

    fn serve(self, ready: &mpsc::Sender<Result<(), Error>>) -> Result<(), Error> {
        let runtime = match self.runtime() {
            Ok(runtime) => runtime,
            Err(error) => {
                // The starter may have given up already.
                let _ = ready.send(Err(Error::server("a worker can't be started").because(error)));
                return Ok(());
            }
        };
        let _entered = runtime.enter();
        let mut agent = None;
        let result = contain(|| {
            let agent = agent.insert(self.agent(&runtime));
            agent.mailbox().connect(runtime.tasks().remote().clone());
            let _ = ready.send(Ok(()));
            worker::run(&runtime, agent)
        });
        // Whatever is left at the deadline or by a panic ends here: futures first, then the connections that they held. The
        // tasks hold the runtime that holds them, and would keep the ring and every socket.
        runtime.tasks().shut_down();
        drop(agent);
        match result {
            Ok(result) => result.map_err(|error| Error::server("a worker can't go on").because(error)),
            Err(_) => Err(Error::server("a worker panicked")),
        }
    }

    fn runtime(&self) -> io::Result<Rc<Runtime>> {
        let driver = Uring::new(&setup(&self.shared.config.limits))?;
        let runtime = Runtime::new(Box::new(driver), Tasks::new()?, self.offload.clone());
        let send_path = self.shared.config.send_path;
        let is_supported = match send_path {
            SendPath::RingSplice => runtime.supports_ring_splice(),
            SendPath::SendZc => runtime.supports_zero_copy_send(),
            _ => true,
        };
        if !is_supported {
            let why = format!("this kernel can't do send_path = \"{send_path}\": write auto");
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        }
        Ok(runtime)
    }

    fn agent(self, runtime: &Rc<Runtime>) -> WorkerAgent {
        let WorkerSeat { index, listeners, admin, shared, .. } = self;
        let metrics = shared.metrics.worker(index).clone();
        let (limits, send_path) = (shared.config.limits.clone(), shared.config.send_path);
        metrics.thread.set(u64::from(gettid().as_raw().unsigned_abs()));
        let worker = Worker::new(runtime, limits, metrics, shared.access_log.clone(), send_path);
        if shared.admin_address.is_some() {
            worker.count_paths();
        }
        let connections = Connections::new(&worker);
        let routes = lock(&shared.routes).clone();
        let handler = routes.make(&worker);
        let gates = listeners.len();
        for listener in listeners {
            connections.open_gate(listener, handler.clone(), 0);
        }
        if let Some(admin) = admin {
            let ceiling = shared.config.memory_ceiling();
            let asked = shared.clone();
            let ask = move || asked.mailboxes.iter().for_each(|mailbox| mailbox.post(Order::ShowBusiest));
            let handler = Admin::new(shared.metrics.clone(), ceiling, ask).make(&worker);
            connections.open_gate(admin, handler, Limits::ADMIN_RESERVE);
        }
        let overdue = Timer::new(runtime);
        overdue.tell_worker(Some(OVERDUE));
        WorkerAgent { index, shared, worker, connections, gates, overdue, is_overdue: false }
    }
}

/// What one worker does with its events.
struct WorkerAgent {
    index: usize,
    shared: Arc<Shared>,
    worker: Rc<Worker>,
    connections: Connections,
    /// Gates that serve the routes; the admin gate comes after them.
    gates: usize,
    overdue: Timer,
    is_overdue: bool,
}

impl WorkerAgent {
    fn mailbox(&self) -> &Mailbox {
        &self.shared.mailboxes[self.index]
    }

    fn drain(&mut self) {
        if !self.worker.draining() {
            self.overdue.set_after(self.worker.limits.shutdown_timeout);
            self.connections.drain();
        }
    }

    fn serve_routes(&self) {
        // Cloned first: a handler that is being made may reload the server, and must not find the routes locked.
        let routes = lock(&self.shared.routes).clone();
        let handler = routes.make(&self.worker);
        (0..self.gates).for_each(|gate| self.connections.replace_handler(gate, handler.clone()));
    }
}

impl worker::Agent for WorkerAgent {
    fn completed(&mut self, event: Event) {
        self.connections.completed(event);
    }

    fn expired(&mut self, token: Token) {
        if token == OVERDUE {
            tracing::warn!(connections = self.connections.len(), "the time for draining is over: cutting what is left");
            self.is_overdue = true;
        } else {
            self.connections.expired(token);
        }
    }

    fn woken(&mut self) {
        for order in self.mailbox().take() {
            match order {
                Order::Drain => self.drain(),
                Order::Serve => self.serve_routes(),
                Order::ShowBusiest => self.shared.metrics.show_busiest(self.index, self.worker.busiest_paths()),
            }
        }
    }

    fn turned(&mut self) {
        self.worker.note_resources();
    }

    fn finished(&self) -> bool {
        self.is_overdue || (self.worker.draining() && self.connections.is_empty())
    }
}

/// Sends what the process has to say, and whatever it panics with, to standard error, without ever waiting for its reader.
///
/// Blocks the signals that [`run`] obeys: the log's thread is the first one.
///
/// # Errors
/// The server's: no thread or no descriptor is to be had.
pub fn log_to_stderr() -> Result<Log, Error> {
    block_signals()?;
    Log::to_stderr(Limits::LOG_BUFFER_LEN).map_err(|error| Error::server("the log can't be started").because(error))
}

/// Serves a configuration until a signal ends it: what the binary does. `reread` gives the configuration as it is now, for
/// SIGHUP.
///
/// # Errors
/// The operator's fault when it can't start; the server's when a worker fails.
pub fn run(config: Config, reread: impl Fn() -> Result<Config, Error> + Send + 'static) -> Result<(), Error> {
    let signals = block_signals()?;
    let running = Server::builder(config).bind()?.start()?;
    let handle = running.handle();
    let mut lines: String = handle.addresses().iter().map(|address| format!("listening on {address}\n")).collect();
    if let Some(admin) = handle.admin_address() {
        lines.push_str(&format!("admin on {admin}\n"));
    }
    let in_background = |name: &str, work: Box<dyn FnOnce() + Send>| {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(work);
        thread.map_err(|error| Error::server(format!("the thread for {name} can't be started")).because(error))
    };
    let threads = in_background("signals", Box::new(move || obey_signals(&signals, &handle, &reread)))
        // On a thread of its own, so that a reader that has stopped keeps the server neither from serving nor from ending.
        .and_then(|_| in_background("addresses", Box::new(move || announce(&lines))));
    match threads {
        Ok(_) => running.wait(),
        Err(error) => Err(running.give_up(error)),
    }
}

/// To be called before the first thread starts, so that every thread inherits it and only the waiting one is told.
fn block_signals() -> Result<SigSet, Error> {
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
    // A write beyond RLIMIT_FSIZE is to fail, not to end the process (setrlimit(2)).
    let unwanted = SigSet::from(Signal::SIGXFSZ);
    let blocked = signals.thread_block().and_then(|()| unwanted.thread_block());
    blocked.map_err(|error| Error::server("signals can't be blocked").because(error))?;
    Ok(signals)
}

fn announce(lines: &str) {
    // A reader that has gone away is no reason not to serve.
    let _ = io::stdout().write_all(lines.as_bytes()).and_then(|()| io::stdout().flush());
}

fn obey_signals(signals: &SigSet, handle: &Handle, reread: &dyn Fn() -> Result<Config, Error>) {
    while let Ok(signal) = signals.wait() {
        if signal != Signal::SIGHUP {
            tracing::info!(%signal, "draining");
            handle.drain();
            continue;
        }
        match reread().and_then(|config| handle.reload(&config)) {
            Ok(()) => tracing::info!("the configuration was read again"),
            Err(error) => {
                tracing::error!(error = error.report(), "the new configuration is refused; the old one stays")
            }
        }
    }
}

/// The routes of a configuration beside those of the code. What stands goes on in them, and ends with its route.
fn with_configured(own: &Routes, config: &Config, standing: &mut Standing) -> Result<Routes, Error> {
    let mut routes = own.clone();
    let mut stands = Standing::default();
    for route in &config.routes {
        let place = (route.host.clone(), route.prefix.clone());
        let (handler, cors): (Arc<dyn MakeHandler>, _) = match &route.handler {
            HandlerConfig::Media(media) => {
                let places = config.uploads_beneath(route.host.as_deref(), &media.root);
                let files = Media::new(media.clone())?.with_uploads(places);
                let files = if config.takes_pages_beneath(&media.root) { files.with_pages_of_others() } else { files };
                let handler: Arc<dyn MakeHandler> = match &route.live {
                    Some(live) => {
                        let addresses = files.addresses();
                        Arc::new(Live::around(live.clone(), media, addresses, Arc::new(files))?)
                    }
                    None => Arc::new(files),
                };
                (handler, media.sharing())
            }
            HandlerConfig::Upload(upload) => {
                let url = upload.url.clone().or_else(|| config.url_of_folder(route.host.as_deref(), &upload.dir));
                (Arc::new(Upload::new(UploadConfig { url, ..upload.clone() })?), upload.sharing())
            }
            HandlerConfig::Events(config) => {
                let events = match standing.events.get(&place) {
                    Some(events) => events.reconfigured(config.clone())?,
                    None => Events::new(config.clone())?,
                };
                stands.events.insert(place, events.clone());
                (Arc::new(events), config.sharing())
            }
            HandlerConfig::Queue(config) => {
                let queue = match standing.queues.get(&place) {
                    Some(queue) => queue.reconfigured(config.clone())?,
                    None => Queue::new(config.clone())?,
                };
                stands.queues.insert(place, queue.clone());
                (Arc::new(queue), config.sharing())
            }
        };
        let guarded = route.auth.iter().try_fold(handler, |handler, auth| {
            Guard::around(auth.clone(), handler, cors.clone()).map(|guard| Arc::new(guard) as Arc<dyn MakeHandler>)
        });
        let handler = guarded?;
        routes.add(route.host.clone(), &route.prefix, handler);
    }
    // Behind the last that could fail: a configuration that is refused changes nothing.
    stands.queues.values().for_each(Queue::apply);
    *standing = stands;
    Ok(routes)
}

/// A listener for each worker on one address.
fn bind_for_all(address: &ListenAddress, workers: usize) -> Result<Vec<Listener>, Error> {
    let bound = match address {
        ListenAddress::Tcp(address) => bind_tcp(*address, workers),
        ListenAddress::Unix(path) => Listener::unix(path).and_then(|first| share(first, workers)),
    };
    bound.map_err(|error| {
        let what = match error.kind() {
            io::ErrorKind::AddrInUse => "is taken: stop what listens there, or choose another address",
            io::ErrorKind::PermissionDenied => {
                "may not be bound: choose a port from 1024 up, or give the binary CAP_NET_BIND_SERVICE"
            }
            io::ErrorKind::AddrNotAvailable => "is not an address of this machine: choose one that is, or 0.0.0.0",
            _ => "can't be bound",
        };
        Error::operator(format!("{address} {what}")).because(error)
    })
}

fn bind_tcp(address: std::net::SocketAddr, workers: usize) -> io::Result<Vec<Listener>> {
    let alone = bind_patiently(address)?;
    let BoundAddress::Tcp(real) = *alone.bound() else { return share(alone, workers) };
    if workers == 1 {
        return Ok(vec![alone]);
    }
    // That it could be bound alone shows that no other server shares the address; now it is shared among our own.
    drop(alone);
    (0..workers).map(|_| Listener::tcp(real, Share::PerWorker)).collect()
}

/// Binds an address that nobody else has. The kernel winds up the ring of a process that was killed, and with it the listening
/// socket, only after the process is gone: whoever starts it again at once would find the address taken.
fn bind_patiently(address: std::net::SocketAddr) -> io::Result<Listener> {
    let deadline = std::time::Instant::now() + BIND_PATIENCE;
    loop {
        match Listener::tcp(address, Share::Alone) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && std::time::Instant::now() < deadline => {
                thread::sleep(BIND_PATIENCE / 25);
            }
            result => return result,
        }
    }
}

/// One queue for all workers: what a path in the file system allows.
fn share(first: Listener, workers: usize) -> io::Result<Vec<Listener>> {
    let mut listeners = (1..workers).map(|_| first.try_clone()).collect::<io::Result<Vec<_>>>()?;
    listeners.push(first);
    Ok(listeners)
}

fn start_access_log(config: &Config) -> Result<Option<AccessLog>, Error> {
    let destination = match &config.access_log {
        config::AccessLog::Off => return Ok(None),
        config::AccessLog::Stdout => Destination::Stdout,
        config::AccessLog::File(path) => Destination::File(path.clone()),
    };
    let format = match config.log_format {
        config::LogFormat::Text => Format::Text,
        config::LogFormat::Json => Format::Json,
    };
    AccessLog::start(destination, format, config.limits.access_log_buffer).map(Some).map_err(|error| {
        Error::operator(format!("the access log {} can't be opened", config.access_log)).because(error)
    })
}

/// Says early, and in one line, when this kernel or this container has no io_uring.
fn check_kernel() -> Result<(), Error> {
    let smallest = Setup {
        in_flight: 1,
        receive_buffers: (1, 4096),
        transfer_buffers: (1, 4096),
        upload_buffers: (1, 4096),
        pipes: 1,
    };
    Uring::new(&smallest).map(drop).map_err(|error| {
        let what = match error.raw_os_error() {
            Some(libc::ENOSYS) => "this kernel has no io_uring: Linux 5.19 or newer is needed",
            Some(libc::EPERM | libc::EACCES) => {
                "io_uring is switched off here: allow it in the container's seccomp profile and set sysctl kernel.io_uring_disabled to 0"
            }
            Some(libc::ENOMEM) => "there is not enough lockable memory for io_uring: raise `ulimit -l`",
            _ => "io_uring can't be used here",
        };
        Error::operator(what).because(error)
    })
}

fn setup(limits: &Limits) -> Setup {
    let receive_buffers = u16::try_from(limits.receive_buffers.next_power_of_two()).unwrap_or(1 << 15);
    Setup {
        // A receive for each connection, and an operation or two for each that is busy.
        in_flight: limits.connections.saturating_mul(2),
        receive_buffers: (receive_buffers, limits.receive_buffer_len),
        transfer_buffers: (u16::try_from(limits.transfer_buffers).unwrap_or(u16::MAX), limits.high_water_mark),
        upload_buffers: (u16::try_from(limits.upload_buffers).unwrap_or(u16::MAX), limits.upload_buffer_len()),
        pipes: limits.pipes,
    }
}

/// One core for each worker, if there are exactly as many; otherwise the scheduler knows better.
fn cores_for(workers: usize) -> Vec<usize> {
    let Ok(allowed) = sched_getaffinity(Pid::from_raw(0)) else { return Vec::new() };
    let cores: Vec<usize> = (0..CpuSet::count()).filter(|core| allowed.is_set(*core).unwrap_or(false)).collect();
    if cores.len() == workers { cores } else { Vec::new() }
}

fn pin(core: usize) {
    let mut set = CpuSet::new();
    let pinned = set.set(core).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
    if let Err(error) = pinned {
        tracing::info!(%error, core, "a worker is not pinned");
    }
}

/// Every connection and every cached file is a descriptor, and a pipe is two: takes what the hard limit allows.
fn raise_descriptor_limit(config: &Config) {
    let Limits { connections, open_files, pipes, auth_requests, uploads, .. } = config.limits;
    let sub_requests = if config.routes.iter().any(RouteConfig::asks_a_service) { auth_requests } else { 0 };
    let takes_files = |route: &RouteConfig| route.live.is_some() || matches!(route.handler, HandlerConfig::Upload(_));
    let takes_uploads = config.routes.iter().any(takes_files);
    let of_uploads = if takes_uploads { uploads.saturating_mul(Limits::UPLOAD_DESCRIPTORS) } else { 0 };
    let per_worker =
        [open_files, 2 * pipes, sub_requests, of_uploads].into_iter().fold(connections, usize::saturating_add);
    let wanted = (per_worker.saturating_mul(config.workers.get()) as u64).saturating_add(64);
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    if soft >= wanted {
        return;
    }
    let reachable = wanted.min(hard);
    if setrlimit(Resource::RLIMIT_NOFILE, reachable, hard).is_err() || reachable < wanted {
        tracing::warn!(
            wanted,
            limit = reachable,
            "fewer descriptors than the limits may take: accepting will pause when they run out; raise the limit (ulimit -n, \
             LimitNOFILE), or lower connections, open_files or uploads"
        );
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Handler, Request, Response};
    use std::io::Read;
    use std::net::TcpStream;
    use std::num::NonZero;
    use std::sync::OnceLock;
    use std::time::Duration;

    /// How long anything may take before a test fails.
    const PATIENCE: Duration = Duration::from_secs(30);

    /// Handlers that never answer; `at_make` runs before each is made, on its worker.
    struct Making<F>(F);

    impl<F: Fn() + Send + Sync> MakeHandler for Making<F> {
        fn make(&self, worker: &Rc<Worker>) -> Rc<dyn Handler> {
            (self.0)();
            (async |_: Request| -> Response { std::future::pending().await }).make(worker)
        }
    }

    fn config() -> Config {
        Config {
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            workers: NonZero::new(2).unwrap(),
            limits: Limits { shutdown_timeout: Duration::from_millis(50), ..Limits::default() },
            ..Config::default()
        }
    }

    fn start(at_make: impl Fn() + Send + Sync + 'static) -> Running {
        Server::builder(config()).route("/", Making(at_make)).bind().unwrap().start().unwrap()
    }

    /// How it ends, which it has to do by itself.
    #[track_caller]
    fn end_of(running: Running) -> Result<(), Error> {
        let (told, outcome) = mpsc::channel();
        thread::spawn(move || told.send(running.wait()));
        outcome.recv_timeout(PATIENCE).expect("it ends")
    }

    fn on_second_worker() -> bool {
        thread::current().name() == Some("worker-1")
    }

    #[test]
    fn a_worker_that_panics_drains_the_others_and_leaves_nothing() {
        let reloaded = Arc::new(OnceLock::new());
        let planned = reloaded.clone();
        let running =
            start(move || assert!(planned.get().is_none() || !on_second_worker(), "as planned, outside of a task"));
        let handle = running.handle();
        let BoundAddress::Tcp(address) = handle.addresses()[0] else { panic!("a TCP address") };
        // As many as leave no worker without one.
        let mut clients: Vec<TcpStream> = (0..32).map(|_| TcpStream::connect(address).unwrap()).collect();
        clients.iter_mut().for_each(|client| client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap());
        reloaded.set(()).unwrap();
        handle.reload(&config()).unwrap();
        let failure = end_of(running).expect_err("a worker has failed");
        assert_eq!(failure.report(), "a worker panicked");
        for mut client in clients {
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            let end = client.read(&mut [0; 64]).map_err(|error| error.kind());
            assert!(matches!(end, Ok(0) | Err(io::ErrorKind::ConnectionReset)), "{end:?}");
        }
        assert!(TcpStream::connect(address).is_err(), "a listener is left");
    }

    #[test]
    fn a_worker_that_panics_before_it_is_ready_is_a_failure_to_start() {
        let (told, outcome) = mpsc::channel();
        thread::spawn(move || {
            let making = Making(|| assert!(!on_second_worker(), "as planned"));
            told.send(Server::builder(config()).route("/", making).bind().unwrap().start().map(drop))
        });
        let started = outcome.recv_timeout(PATIENCE).expect("the start ends");
        assert_eq!(started.map_err(|error| error.report()), Err(String::from("a worker can't be started")));
    }

    #[test]
    fn a_handler_that_is_made_may_reload_the_server() {
        let slot = Arc::new(OnceLock::<Handle>::new());
        let (told, made) = mpsc::channel();
        let inside = slot.clone();
        let once = Mutex::new(Some(told));
        let running = start(move || {
            let Some(handle) = inside.get() else { return };
            if let Some(told) = lock(&once).take() {
                told.send(handle.reload(&config()).is_ok()).unwrap();
            }
        });
        let handle = running.handle();
        assert!(slot.set(running.handle()).is_ok());
        let outside = handle.clone();
        thread::spawn(move || outside.reload(&config()).unwrap());
        assert!(made.recv_timeout(PATIENCE).expect("the routes are not locked"));
        handle.drain();
        end_of(running).unwrap();
    }
}
