//! The whole server over the seeded fake kernel: worker, connections, router and handlers are the real ones; what lies behind
//! the driver is a [`World`], in which clients split, pipeline, dawdle and leave as the seed says.
//!
//! ```text
//!   guest ─┐ bytes, pace, mishap          ┌─ Turns ─ Connections ─ Router ─ Media / async fn
//!   guest ─┼──────▶ World ◀── Sim ◀───────┤
//!   guest ─┘ strict reader of replies     └─ after each scenario: nothing of it is left
//! ```
//!
//! A guest checks every byte it gets; [`Server::settle`] checks, with the server still up, that what the guests took has come
//! back, and [`Server::finish`] that nothing outlives the server. Time is virtual, so deadlines are exact and cost nothing.

mod bounds;
mod changes;
mod drain;
mod events;
mod exchanges;
mod guarded;
mod guest;
mod known;
mod left_over;
mod live;
mod paced;
mod queues;
mod reply;
mod resumable;
mod streams;
mod uploads;

use std::cell::{Cell, RefCell};
use std::os::fd::RawFd;
use std::rc::{Rc, Weak};
use std::sync::{Arc, Once};
use std::time::Duration;

use self::guest::{Guest, Manner};
use crate::config::MediaConfig;
use crate::driver::Setup;
use crate::driver::buf::BufferPool;
use crate::driver::sim::{Client, Content, Descriptors, Faults, Sim, World};
use crate::driver::slot::{Event, Token};
use crate::handler::media::Media;
use crate::http::connections::Connections;
use crate::http::{MakeHandler, Worker};
use crate::limits::Limits;
use crate::router::Routes;
use crate::rt::offload::Offload;
use crate::rt::task::Tasks;
use crate::rt::timer::Timer;
use crate::rt::worker::{Agent, Turns};
use crate::rt::{Entered, Runtime};

/// A small high water mark, so that small files are many of them.
const MARK: usize = 8 << 10;
/// All that a sound server gets through without a client noticing: everything but descriptors that run out.
const BUMPY: Faults = Faults { no_descriptors: 0.0, ..Faults::ROUGH };
/// No scenario takes longer, in virtual time and in turns.
const PATIENCE: Duration = Duration::from_secs(3600);
const MOST_TURNS: usize = 500_000;
/// What a handler says that panics because the scenario wants it.
const PLANNED: &str = "as planned";
/// As the server's own, for its deadline for draining.
const OVERDUE: Token = Token(u64::MAX - 1);

/// The content of files: no two pages alike.
fn first(offset: u64) -> u8 {
    (offset.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
}

/// Another content, different at every offset.
fn second(offset: u64) -> u8 {
    !first(offset)
}

/// Bounds of a server that is short of everything.
fn tight() -> Limits {
    Limits {
        connections: 64,
        high_water_mark: MARK,
        transfer_buffers: 2,
        upload_buffers: 5,
        receive_buffers: 4,
        receive_buffer_len: 1024,
        open_files: 8,
        ..Limits::default()
    }
}

/// One worker, as `server.rs` makes it, on a thread that the test drives.
struct Server {
    world: Rc<World>,
    limits: Limits,
    listener: RawFd,
    /// `None` when it has been finished, and while it is torn down.
    parts: Option<Parts>,
    panics_before: usize,
    panics_planned: usize,
    stalls_planned: usize,
    turns_taken: usize,
}

struct Parts {
    runtime: Rc<Runtime>,
    worker: Rc<Worker>,
    turns: Turns,
    agent: Desk,
    _entered: Entered,
}

/// What `server.rs` does with a worker's events.
struct Desk {
    worker: Rc<Worker>,
    connections: Connections,
    overdue: Timer,
    is_overdue: bool,
}

impl Agent for Desk {
    fn completed(&mut self, event: Event) {
        self.connections.completed(event);
    }

    fn expired(&mut self, token: Token) {
        if token == OVERDUE {
            self.is_overdue = true;
        } else {
            self.connections.expired(token);
        }
    }

    fn woken(&mut self) {}

    fn turned(&mut self) {
        self.worker.note_resources();
    }

    fn finished(&self) -> bool {
        self.is_overdue || (self.worker.draining() && self.connections.is_empty())
    }
}

impl Server {
    /// A server of the files of this world.
    fn start(world: &Rc<World>, limits: Limits) -> Self {
        Self::with_routes(world, limits, Routes::default())
    }

    /// A server of these routes, and of the files of this world under every other path.
    fn with_routes(world: &Rc<World>, limits: Limits, mut routes: Routes) -> Self {
        let panics_before = count_panics();
        // The real root is a directory as the fake one is.
        routes.add(None, "/", Arc::new(Media::new(MediaConfig::new("/")).expect("a root")));
        let setup = Setup {
            in_flight: limits.connections * 2,
            receive_buffers: (limits.receive_buffers as u16, limits.receive_buffer_len),
            transfer_buffers: (limits.transfer_buffers as u16, limits.high_water_mark),
            upload_buffers: (limits.upload_buffers as u16, limits.upload_buffer_len()),
            pipes: limits.pipes,
        };
        let driver = Box::new(Sim::new(world, &setup));
        let offload = Offload::start(0, 1).expect("no threads");
        let runtime = Runtime::new(driver, Tasks::new().expect("an eventfd"), offload);
        let entered = runtime.enter();
        let worker = Worker::new(&runtime, limits.clone(), Arc::default(), None, crate::config::SendPath::Auto);
        let connections = Connections::new(&worker);
        let listener = world.listen();
        connections.add_gate(listener, true, routes.make(&worker));
        let overdue = Timer::new(&runtime);
        overdue.tell_worker(Some(OVERDUE));
        let agent = Desk { worker: worker.clone(), connections, overdue, is_overdue: false };
        let turns = Turns::new(&runtime);
        Server {
            world: world.clone(),
            limits,
            listener,
            parts: Some(Parts { runtime, worker, turns, agent, _entered: entered }),
            panics_before,
            panics_planned: 0,
            stalls_planned: 0,
            turns_taken: 0,
        }
    }

    fn parts(&self) -> &Parts {
        self.parts.as_ref().expect("not finished")
    }

    fn connections(&self) -> &Connections {
        &self.parts().agent.connections
    }

    fn metrics(&self) -> &crate::telemetry::metrics::WorkerMetrics {
        &self.parts().worker.metrics
    }

    fn pools(&self) -> [&BufferPool; 3] {
        let runtime = &self.parts().runtime;
        [runtime.receive_pool(), runtime.transfer_pool(), runtime.upload_pool()]
    }

    /// A client without manners of its own.
    #[track_caller]
    fn connect(&self) -> Client {
        self.world.connect(self.listener)
    }

    /// A client that asks all this.
    #[track_caller]
    fn invite(&self, manner: Manner, asks: impl IntoIterator<Item = guest::Ask>) -> Guest {
        Guest::arrive(&self.world, self.connect(), manner, asks)
    }

    fn turn(&mut self) {
        self.turns_taken += 1;
        assert!(self.turns_taken < MOST_TURNS, "turns without end");
        let parts = self.parts.as_mut().expect("not finished");
        parts.turns.turn(&mut parts.agent).expect("the fake kernel goes on");
    }

    #[track_caller]
    fn run_until(&mut self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let deadline = self.world.now() + PATIENCE;
        while !condition(self) {
            assert!(self.world.now() < deadline, "this never happens: {what}");
            self.turn();
        }
    }

    fn run_for(&mut self, time: Duration) {
        let over = Rc::new(Cell::new(false));
        let flag = over.clone();
        self.world.schedule(time, move || flag.set(true));
        self.run_until("time passes", |_| over.get());
    }

    /// Until every guest has left.
    #[track_caller]
    fn serve(&mut self, guests: &[Guest]) {
        self.run_until("every guest has left", |_| guests.iter().all(Guest::has_left));
    }

    /// Until nothing is under way, with the server up: what is left then would be left for ever.
    #[track_caller]
    fn settle(&mut self) {
        self.run_until("the last connection ends", |server| server.connections().is_empty());
        // Closes and cancellations are still with the kernel, a refused connection may linger, accepting may pause.
        let deadline = self.world.now() + self.limits.linger_timeout + Duration::from_secs(1);
        let is_quiet = |server: &Self| {
            let parts = server.parts();
            let open = server.world.open_descriptors();
            let in_flight = parts.runtime.driver().slots().in_flight();
            parts.runtime.tasks().live() == 0 && open.sockets == 0 && in_flight == 2
        };
        while !is_quiet(self) && self.world.now() < deadline {
            self.run_for(Duration::from_millis(50));
        }
        let parts = self.parts();
        let open = self.world.open_descriptors();
        assert_eq!((open.listeners, open.sockets), (1, 0), "sockets");
        assert!(open.files <= self.limits.open_files && open.directories <= 1, "{open:?}");
        assert_eq!(parts.runtime.tasks().live(), 0, "tasks");
        assert_eq!(self.pools().map(BufferPool::in_use), [0; 3], "buffers");
        assert_eq!(parts.runtime.driver().slots().in_flight(), 2, "an accept and the wake-up");
        assert_eq!(parts.runtime.timers().len(), 2, "the pause and the deadline for draining");
        let metrics = &parts.worker.metrics;
        let gauges = [&metrics.connections_idle, &metrics.connections_active, &metrics.transfers];
        assert_eq!(gauges.map(|gauge| gauge.get()), [0; 3], "gauges");
        self.check_promises();
    }

    /// Asks the server to go, as SIGTERM does.
    fn drain(&mut self) {
        let agent = &self.parts().agent;
        agent.overdue.set_after(self.limits.shutdown_timeout);
        agent.connections.drain();
    }

    fn has_drained(&self) -> bool {
        self.parts().agent.finished()
    }

    fn is_overdue(&self) -> bool {
        self.parts().agent.is_overdue
    }

    /// What holds at any time.
    fn check_promises(&self) {
        assert_eq!(self.world.stalls(), self.stalls_planned, "sendfile touched a cold page");
        assert_eq!(count_panics(), self.panics_before + self.panics_planned, "panics");
    }

    /// Ends it in the order of `server.rs`: nothing may be left.
    #[track_caller]
    fn finish(mut self) {
        self.check_promises();
        self.tear_down();
    }

    #[track_caller]
    fn tear_down(&mut self) {
        let Parts { runtime, worker, turns, agent, _entered: entered } = self.parts.take().expect("not finished");
        let pools = [runtime.receive_pool(), runtime.transfer_pool(), runtime.upload_pool()].map(Clone::clone);
        runtime.tasks().shut_down();
        assert_eq!(runtime.tasks().live(), 0, "tasks");
        drop((agent, worker));
        assert_eq!(runtime.timers().len(), 0, "timers");
        let alive: Weak<Runtime> = Rc::downgrade(&runtime);
        drop((turns, entered, runtime));
        assert_eq!(alive.strong_count(), 0, "something keeps the runtime");
        assert_eq!(pools.map(|pool| pool.in_use()), [0; 3], "buffers");
        assert_eq!(self.world.open_descriptors(), Descriptors::default());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // A second panic on the way out would hide the first, and the seed with it.
            std::mem::forget(self.parts.take());
        } else {
            assert!(self.parts.is_none(), "a scenario has to finish its server");
        }
    }
}

thread_local! {
    static PANICS: Cell<usize> = const { Cell::new(0) };
}

/// How many panics this thread has seen. A worker survives those of its tasks, and a broken invariant must not hide there.
fn count_panics() -> usize {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.set(PANICS.get() + 1);
            if panic.payload().downcast_ref() != Some(&PLANNED) {
                before(panic);
            }
        }));
    });
    PANICS.get()
}

/// Adds a file by the first rule.
fn add_file(world: &World, path: &str, len: u64) {
    world.add_file(path, Content::Rule(len, first));
}

/// Takes a file out of memory, or not. All of it: where only a part is cold, one reader's probe brings an island of pages, and
/// another may find both ends of its turn in memory before the first has read what lies between.
fn perhaps_cool(world: &World, path: &str, len: u64) {
    if world.below(2) == 0 {
        world.cool(path, 0..len);
    }
}

/// Something that both the test and the world's actions hold.
type Shared<T> = Rc<RefCell<T>>;
