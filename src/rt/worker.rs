//! The loop of one worker: one thread, one driver, everything that happens on it.
//!
//! A turn, in this order:
//! 1. run the tasks that are ready, each once;
//! 2. hand over what they submitted and wait: not at all if a task is ready again or events came while they ran, else until
//!    the next deadline;
//! 3. give the worker's own events (accepted, readable, woken) to the [`Agent`];
//! 4. tell the owners of deadlines that have passed: after the events, so that bytes that came in time count.
//!
//! Nothing is run while answers are collected, so nothing is re-entered.

use std::io;
use std::rc::Rc;

use super::Runtime;
use crate::driver::Wait;
use crate::driver::op::{Interest, Op};
use crate::driver::slot::{Event, Owner, Token};

/// The token of the wake-up descriptor; an agent uses others.
const WAKE_UP: Token = Token(u64::MAX);

/// What reacts to a worker's own events.
pub trait Agent {
    /// An operation that was submitted for [`Owner::Worker`] has an answer.
    fn completed(&mut self, event: Event);

    /// A deadline with this token has passed.
    fn expired(&mut self, token: Token);

    /// Another thread asked for attention.
    fn woken(&mut self);

    /// A turn is over.
    fn turned(&mut self);

    /// Whether the worker may end.
    fn finished(&self) -> bool;
}

/// Runs turns until the agent has finished.
///
/// # Errors
/// When the driver can't go on.
pub fn run(runtime: &Rc<Runtime>, agent: &mut dyn Agent) -> io::Result<()> {
    let mut turns = Turns::new(runtime);
    while !agent.finished() {
        turns.turn(agent)?;
    }
    Ok(())
}

/// Turns of one worker, one at a time.
pub struct Turns {
    runtime: Rc<Runtime>,
    tokens: Vec<Token>,
}

impl Turns {
    /// The turns of this runtime; other threads can wake it from now on.
    pub fn new(runtime: &Rc<Runtime>) -> Self {
        watch_wake_up(runtime);
        Turns { runtime: runtime.clone(), tokens: Vec::new() }
    }

    /// Takes one turn.
    ///
    /// # Errors
    /// When the driver can't go on.
    pub fn turn(&mut self, agent: &mut dyn Agent) -> io::Result<()> {
        let ready_again = self.runtime.tasks().run_ready();
        // A driver that is handed much collects answers on the way, and then the kernel has nothing left to wake us for.
        let has_events = self.runtime.driver().slots().events() > 0;
        let wait = match self.runtime.timers().next() {
            _ if ready_again || has_events || agent.finished() => Wait::No,
            Some(deadline) => Wait::Until(deadline),
            None => Wait::Forever,
        };
        self.runtime.driver().turn(wait)?;
        let now = self.runtime.precise_now();
        self.runtime.set_now(now);
        // Only the events that have come: what an agent does may cause more.
        let events = self.runtime.driver().slots().events();
        for _ in 0..events {
            let Some(event) = self.runtime.driver().next_event() else { break };
            if event.token == WAKE_UP {
                self.runtime.tasks().remote().acknowledge();
                watch_wake_up(&self.runtime);
                agent.woken();
            } else {
                agent.completed(event);
            }
        }
        self.runtime.timers().fire(now, &mut self.tokens);
        for token in self.tokens.drain(..) {
            agent.expired(token);
        }
        agent.turned();
        Ok(())
    }
}

fn watch_wake_up(runtime: &Rc<Runtime>) {
    let socket = runtime.tasks().remote().descriptor();
    runtime.driver().submit(Op::Poll { socket, interest: Interest::Readable }, Owner::Worker(WAKE_UP));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::Setup;
    use crate::driver::uring::Uring;
    use crate::rt::offload::Offload;
    use crate::rt::task::Tasks;
    use std::sync::mpsc;
    use std::time::Duration;

    /// Keeps the tokens of what has completed.
    struct Seen(Vec<Token>);

    impl Agent for Seen {
        fn completed(&mut self, event: Event) {
            self.0.push(event.token);
        }

        fn expired(&mut self, _token: Token) {}

        fn woken(&mut self) {}

        fn turned(&mut self) {}

        fn finished(&self) -> bool {
            false
        }
    }

    /// A turn in which a task makes the driver collect, as handing over more than a ring holds does.
    fn turn_with_an_event_from_a_task() -> Vec<Token> {
        let setup = Setup {
            in_flight: 4,
            receive_buffers: (1, 4096),
            transfer_buffers: (1, 4096),
            upload_buffers: (1, 1024),
            pipes: 2,
        };
        let driver = Uring::new(&setup).unwrap();
        let runtime = Runtime::new(Box::new(driver), Tasks::new().unwrap(), Offload::start(0, 1).unwrap());
        let mut turns = Turns::new(&runtime);
        let (reader, writer) = std::io::pipe().unwrap();
        // The end of the pipe is what there is to read.
        drop(writer);
        let op = Op::Poll { socket: std::os::fd::AsRawFd::as_raw_fd(&reader), interest: Interest::Readable };
        runtime.driver().submit(op, Owner::Worker(Token(1)));
        let inside = runtime.clone();
        let task = runtime.spawn(async move {
            while inside.driver().slots().events() == 0 {
                inside.driver().turn(Wait::No).unwrap();
            }
        });
        task.detach();
        let mut seen = Seen(Vec::new());
        turns.turn(&mut seen).unwrap();
        seen.0
    }

    #[test]
    fn an_event_that_came_while_tasks_ran_is_not_waited_for() {
        let (told, tokens) = mpsc::channel();
        std::thread::spawn(move || told.send(turn_with_an_event_from_a_task()));
        let seen = tokens.recv_timeout(Duration::from_secs(30)).expect("the turn ends");
        assert_eq!(seen, [Token(1)]);
    }
}
