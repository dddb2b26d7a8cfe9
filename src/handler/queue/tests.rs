//! The queues off a worker, with and without a journal. What happens on the wire is in `tests/it` and in the simulation.

use std::collections::BTreeSet;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use super::*;
use crate::rt::testing::block_on;

const NAME: &str = "work";
const PATIENCE: Duration = Duration::from_secs(10);

fn queue(config: QueueConfig) -> Queue {
    Queue::new(config).unwrap()
}

fn small() -> QueueConfig {
    QueueConfig { queue_items: 3, item_len: 100, ..QueueConfig::default() }
}

fn on_disk(dir: &std::path::Path) -> QueueConfig {
    let journal = Some(dir.join("journal"));
    QueueConfig { journal, journal_bytes: 1 << 20, item_len: 10_000, ..QueueConfig::default() }
}

/// The same queues as the next process finds them.
fn reopened(config: &QueueConfig, before: Queue) -> Queue {
    drop(before);
    Queue::new(config.clone()).unwrap_or_else(|error| panic!("{}", error.report()))
}

fn text(text: impl Into<String>) -> Item {
    Item::new("text/plain", text.into()).unwrap()
}

fn push(queue: &Queue, item: &str) {
    block_on(queue.push(NAME, text(item))).unwrap();
}

fn take(queue: &Queue) -> String {
    let item = block_on(queue.take(NAME)).unwrap().expect("an item");
    String::from_utf8(item.data().to_vec()).unwrap()
}

fn depth(queue: &Queue) -> state::Depth {
    queue.0.core.depth(&Arc::from(NAME))
}

/// An item with a lease, which was sent.
fn lease(queue: &Queue, lease: Duration) -> (String, String) {
    let mut seat = queue.seat(NAME, Side::Consumer).unwrap();
    let mut delivery = block_on(std::future::poll_fn(|cx| seat.poll_take(true, cx, |_| ()))).expect("an item");
    let mark = delivery.mark();
    let (item, _) = block_on(delivery.item()).unwrap().expect("it can be read");
    delivery.sent(lease);
    (String::from_utf8(item.data().to_vec()).unwrap(), mark.id)
}

fn acknowledge(queue: &Queue, leases: &[&str]) -> Vec<Result<(), state::NoLease>> {
    let leases: Vec<String> = leases.iter().map(|lease| (*lease).to_owned()).collect();
    block_on(queue.0.core.acknowledge(&Arc::from(NAME), &leases)).unwrap()
}

const LONG: Duration = Duration::from_secs(3600);

#[test]
fn items_come_out_in_their_order_with_their_type() {
    let dir = tempfile::tempdir().unwrap();
    for config in [QueueConfig::default(), on_disk(dir.path())] {
        let queue = queue(config);
        (0..5).for_each(|n| push(&queue, &format!("item {n}")));
        assert_eq!((depth(&queue).items, depth(&queue).bytes), (5, 5 * (6 + 10)));
        let first = block_on(queue.take(NAME)).unwrap().expect("an item");
        assert_eq!(first, text("item 0"));
        assert_eq!((1..5).map(|_| take(&queue)).collect::<Vec<_>>(), ["item 1", "item 2", "item 3", "item 4"]);
        assert_eq!(depth(&queue), state::Depth::default());
    }
}

/// A future, and how often it was woken.
struct Polled<'a, T> {
    future: Pin<Box<dyn Future<Output = T> + 'a>>,
    woken: Arc<Woken>,
}

#[derive(Default)]
struct Woken(AtomicU64);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

impl<'a, T> Polled<'a, T> {
    fn new(future: impl Future<Output = T> + 'a) -> Self {
        let mut polled = Polled { future: Box::pin(future), woken: Arc::default() };
        assert!(polled.poll().is_pending(), "it has to wait");
        polled
    }

    fn poll(&mut self) -> Poll<T> {
        self.future.as_mut().poll(&mut Context::from_waker(&Waker::from(self.woken.clone())))
    }

    fn woken(&self) -> u64 {
        self.woken.0.load(Relaxed)
    }

    fn ready(mut self) -> T {
        match self.poll() {
            Poll::Ready(output) => output,
            Poll::Pending => panic!("it still waits"),
        }
    }
}

#[test]
fn a_producer_over_the_bound_waits_and_the_first_one_goes_first() {
    for config in [small(), QueueConfig { queue_bytes: 100, queue_items: 99, ..small() }] {
        let queue = queue(config.clone());
        let item = || text("x".repeat(if config.queue_items == 3 { 1 } else { 23 }));
        (0..3).for_each(|_| block_on(queue.push(NAME, item())).unwrap());
        let first = Polled::new(queue.push(NAME, item()));
        let second = Polled::new(queue.push(NAME, item()));
        let third = Polled::new(queue.push(NAME, item()));
        assert_eq!(depth(&queue).held_back, 3);
        take(&queue);
        assert_eq!([first.woken(), second.woken(), third.woken()], [1, 0, 0], "exactly one is woken");
        // It leaves instead, and so the next one is told.
        drop(first);
        assert_eq!([second.woken(), third.woken()], [1, 0]);
        // One that comes now does not get ahead.
        let late = Polled::new(queue.push(NAME, item()));
        second.ready().unwrap();
        take(&queue);
        third.ready().unwrap();
        take(&queue);
        late.ready().unwrap();
        (0..3).for_each(|_| drop(take(&queue)));
        assert!(queue.0.core.is_empty());
    }
}

#[test]
fn each_item_goes_to_the_consumer_that_waits_longest() {
    let queue = queue(small());
    let [first, second, third] = [(); 3].map(|()| Polled::new(queue.take(NAME)));
    push(&queue, "a");
    assert_eq!([first.woken(), second.woken(), third.woken()], [1, 0, 0], "exactly one is woken");
    // One that comes now does not get ahead.
    let late = Polled::new(queue.take(NAME));
    drop(first);
    assert_eq!(second.woken(), 1, "it left, and the item is the next one's");
    assert_eq!(second.ready().unwrap(), Some(text("a")));
    push(&queue, "b");
    push(&queue, "c");
    assert_eq!(third.ready().unwrap(), Some(text("b")));
    assert_eq!(late.woken(), 1);
    assert_eq!(late.ready().unwrap(), Some(text("c")));
    assert!(queue.0.core.is_empty());
}

#[test]
fn what_is_dropped_unsent_is_delivered_again_first() {
    let dir = tempfile::tempdir().unwrap();
    for config in [QueueConfig::default(), on_disk(dir.path())] {
        let queue = queue(config);
        (0..3).for_each(|n| push(&queue, &n.to_string()));
        let mut seat = queue.seat(NAME, Side::Consumer).unwrap();
        let mut next = || block_on(std::future::poll_fn(|cx| seat.poll_take(false, cx, |_| ()))).expect("an item");
        let (first, second) = (next(), next());
        drop(second);
        drop(first);
        assert_eq!([take(&queue), take(&queue), take(&queue)], ["0", "1", "2"]);
        drop(seat);
        assert!(queue.0.core.is_empty());
    }
}

#[test]
fn a_lease_is_acknowledged_released_or_runs_out() {
    let dir = tempfile::tempdir().unwrap();
    for config in [QueueConfig::default(), on_disk(dir.path())] {
        let queue = queue(config);
        (0..3).for_each(|n| push(&queue, &n.to_string()));
        let (zero, lease_of_zero) = lease(&queue, LONG);
        let (one, lease_of_one) = lease(&queue, Duration::ZERO);
        assert_eq!((&*zero, &*one, depth(&queue).leased), ("0", "1", 1), "one of them has run out");
        assert_eq!(acknowledge(&queue, &[&lease_of_one]), [Err(state::NoLease::Expired)]);
        let (again, lease_of_one) = lease(&queue, LONG);
        assert_eq!(again, "1", "first, before what was never delivered");
        assert_eq!(acknowledge(&queue, &["77-0", &lease_of_zero]), [Err(state::NoLease::Unknown), Ok(())]);
        for unknown in [&*lease_of_zero, "zz", "77-0", "", "-", "1"] {
            assert_eq!(acknowledge(&queue, &[unknown]), [Err(state::NoLease::Unknown)], "{unknown:?}");
        }
        let guessed = format!("2-{}", lease_of_zero.split_once('-').unwrap().1);
        assert_eq!(acknowledge(&queue, &[&guessed]), [Err(state::NoLease::Expired)]);
        queue.0.core.release(&Arc::from(NAME), &lease_of_one).unwrap();
        assert_eq!(queue.0.core.release(&Arc::from(NAME), &lease_of_one), Err(state::NoLease::Expired));
        assert_eq!([take(&queue), take(&queue)], ["1", "2"]);
        assert!(queue.0.core.is_empty());
    }
}

#[test]
fn a_stream_ends_after_its_items_and_can_begin_anew() {
    let dir = tempfile::tempdir().unwrap();
    for config in [QueueConfig::default(), on_disk(dir.path())] {
        let queue = queue(config);
        let name = Arc::from(NAME);
        let waiting = [(); 2].map(|()| Polled::new(queue.take(NAME)));
        block_on(queue.0.core.end(&name)).unwrap();
        waiting.into_iter().for_each(|waiting| assert_eq!(waiting.ready().unwrap(), None));
        push(&queue, "a");
        block_on(queue.0.core.end(&name)).unwrap();
        assert_eq!(take(&queue), "a");
        push(&queue, "b");
        assert_eq!(take(&queue), "b");
        assert!(queue.0.core.is_empty());
    }
}

#[test]
fn queues_are_bounded_in_number_and_an_empty_one_is_none() {
    let queue = queue(QueueConfig { queues: 2, ..QueueConfig::default() });
    block_on(queue.push("a", text("x"))).unwrap();
    let waiting = Polled::new(queue.take("b"));
    assert!(block_on(queue.push("c", text("x"))).is_err() && block_on(queue.take("c")).is_err());
    drop(waiting);
    block_on(queue.push("c", text("x"))).unwrap();
    assert!(block_on(queue.push("", text("x"))).is_err() && block_on(queue.push("a\n", text("x"))).is_err());
}

#[test]
fn the_memory_is_shared_by_all_queues_and_its_end_holds_back() {
    let config = QueueConfig { memory: 4000, item_len: 1000, ..QueueConfig::default() };
    let queue = queue(config);
    let large = || text("x".repeat(1000));
    block_on(queue.push("a", large())).unwrap();
    block_on(queue.push("b", large())).unwrap();
    let held = Polled::new(queue.push("c", large()));
    block_on(queue.take("a")).unwrap();
    assert_eq!(held.woken(), 1, "room in one queue is room for another");
    held.ready().unwrap();
    block_on(queue.take("b")).unwrap();
    block_on(queue.take("c")).unwrap();
    assert!(queue.0.core.is_empty());
}

#[test]
fn what_was_not_taken_or_acknowledged_outlives_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let config = on_disk(dir.path());
    let before = queue(config.clone());
    (0..6).for_each(|n| push(&before, &n.to_string()));
    block_on(before.push("other", text("elsewhere"))).unwrap();
    assert_eq!(take(&before), "0");
    let (_, one) = lease(&before, LONG);
    let (_, two) = lease(&before, LONG);
    assert_eq!(acknowledge(&before, &[&one]), [Ok(())]);
    block_on(before.0.core.end(&Arc::from(NAME))).unwrap();
    let after = reopened(&config, before);
    assert_eq!(depth(&after).items, 4);
    assert_eq!(acknowledge(&after, &[&two]), [Err(state::NoLease::Expired)], "a lease ends with the process");
    assert_eq!([(); 4].map(|()| take(&after)), ["2", "3", "4", "5"]);
    assert_eq!(block_on(after.take("other")).unwrap(), Some(text("elsewhere")));
    assert!(after.0.core.is_empty());
    let again = reopened(&config, after);
    assert!(again.0.core.is_empty());
}

#[test]
fn an_end_outlives_the_process_while_there_is_something_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let config = on_disk(dir.path());
    let before = queue(config.clone());
    push(&before, "last");
    block_on(before.0.core.end(&Arc::from(NAME))).unwrap();
    let after = reopened(&config, before);
    let mut seat = after.seat(NAME, Side::Consumer).unwrap();
    let mut next = || block_on(std::future::poll_fn(|cx| seat.poll_take(false, cx, |_| ())));
    next().expect("the last").sent(LONG);
    assert!(next().is_none());
}

fn disk_of(config: &QueueConfig) -> u64 {
    let entries = std::fs::read_dir(config.journal.as_ref().unwrap()).unwrap();
    entries.map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

#[test]
fn the_disk_is_bounded_and_an_item_that_stays_does_not_keep_what_goes() {
    let dir = tempfile::tempdir().unwrap();
    let config = on_disk(dir.path());
    let before = queue(config.clone());
    block_on(before.push("stays", text("the first"))).unwrap();
    let (_, leased) = {
        block_on(before.push(NAME, text("leased"))).unwrap();
        lease(&before, LONG)
    };
    for n in 0..1000 {
        push(&before, &format!("{n} {}", "x".repeat(9000)));
        assert!(take(&before).starts_with(&format!("{n} ")));
        assert!(disk_of(&config) <= config.journal_bytes, "after {n} items");
    }
    assert_eq!(acknowledge(&before, &[&leased]), [Ok(())]);
    let after = reopened(&config, before);
    assert_eq!(block_on(after.take("stays")).unwrap(), Some(text("the first")));
    assert!(after.0.core.is_empty());
}

#[test]
fn a_journal_that_is_full_of_items_holds_back_until_some_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    let config = QueueConfig { item_len: 100_000, ..on_disk(dir.path()) };
    let queue = queue(config.clone());
    let item = || text("x".repeat(90_000));
    let mut count = 0;
    let held = loop {
        let mut pushing = pin!(queue.push(NAME, item()));
        let woken: Arc<Woken> = Arc::default();
        let mut cx = Context::from_waker(Waker::noop());
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        let done = loop {
            match pushing.as_mut().poll(&mut cx) {
                Poll::Ready(result) => break result.is_ok(),
                Poll::Pending if depth(&queue).held_back == 1 => break false,
                Poll::Pending => assert!(std::time::Instant::now() < deadline, "neither taken nor held back"),
            }
            thread::yield_now();
        };
        drop(woken);
        if !done {
            break Polled::new(queue.push(NAME, item()));
        }
        count += 1;
    };
    assert!((5..12).contains(&count), "{count} items");
    assert!(disk_of(&config) <= config.journal_bytes);
    drop(held);
    (0..count).for_each(|_| drop(take(&queue)));
    push(&queue, "room again");
    assert_eq!(take(&queue), "room again");
    assert!(queue.0.core.is_empty());
}

#[test]
fn many_threads_get_each_item_once() {
    const ITEMS: usize = 2000;
    let dir = tempfile::tempdir().unwrap();
    let bounds = QueueConfig { queue_items: 7, ..QueueConfig::default() };
    for config in [bounds.clone(), QueueConfig { queue_items: 7, ..on_disk(dir.path()) }] {
        let queue = queue(config);
        let found: Vec<String> = thread::scope(|scope| {
            for producer in 0..4 {
                let queue = &queue;
                scope.spawn(move || (0..ITEMS / 4).for_each(|n| push(queue, &format!("{producer} {n}"))));
            }
            let consumers: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..ITEMS / 4).map(|_| take(&queue)).collect::<Vec<_>>())).collect();
            consumers.into_iter().flat_map(|consumer| consumer.join().unwrap()).collect()
        });
        assert_eq!(found.len(), ITEMS);
        assert_eq!(found.iter().collect::<BTreeSet<_>>().len(), ITEMS);
        assert!(queue.0.core.is_empty());
    }
}

#[test]
fn bounds_change_under_the_items_and_a_journal_stays_open() {
    let dir = tempfile::tempdir().unwrap();
    let config = QueueConfig { queue_items: 1, ..on_disk(dir.path()) };
    let before = queue(config.clone());
    push(&before, "a");
    let held = Polled::new(before.push(NAME, text("b")));
    let after = before.reconfigured(QueueConfig { queue_items: 2, ..config.clone() }).unwrap();
    after.apply();
    assert!(held.woken() <= 1);
    assert!(before.reconfigured(QueueConfig { journal_sync: true, ..config.clone() }).is_err());
    drop(held);
    push(&after, "b");
    assert_eq!([take(&after), take(&before)], ["a", "b"]);
    let second = Queue::new(config).unwrap_err();
    assert!(second.report().contains("is in use by another process or another route"), "{}", second.report());
}

#[test]
fn items_have_bounds() {
    let queue = queue(small());
    assert!(block_on(queue.push(NAME, text("x".repeat(101)))).is_err());
    assert!(block_on(queue.push(NAME, text("x".repeat(100)))).is_ok());
    assert!(block_on(queue.push(NAME, Item::new("t".repeat(256), "x").unwrap())).is_err());
}

#[test]
fn an_item_that_is_damaged_on_the_disk_is_told_and_not_in_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let config = on_disk(dir.path());
    let queue = queue(config.clone());
    ["one", "two"].iter().for_each(|item| push(&queue, item));
    let segment = config.journal.unwrap().join("0000000000000001.log");
    let mut bytes = std::fs::read(&segment).unwrap();
    let at = bytes.windows(3).position(|window| window == b"one").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    assert_eq!(take(&queue), "two");
    assert!(queue.0.core.is_empty());
}

#[test]
fn larger_bounds_wake_who_waits_for_them() {
    let config = QueueConfig { queue_items: 1, ..QueueConfig::default() };
    let before = queue(config.clone());
    push(&before, "a");
    let held = Polled::new(before.push(NAME, text("b")));
    before.reconfigured(QueueConfig { queue_items: 2, ..config }).unwrap().apply();
    assert_eq!(held.woken(), 1, "there is room, and nobody is told");
}

#[test]
fn a_producer_that_puts_nothing_in_leaves_the_end_where_it_is() {
    let queue = queue(QueueConfig::default());
    push(&queue, "a");
    block_on(queue.0.core.end(&Arc::from(NAME))).unwrap();
    drop(queue.seat(NAME, Side::Producer).unwrap());
    let mut seat = queue.seat(NAME, Side::Consumer).unwrap();
    let mut next = || block_on(std::future::poll_fn(|cx| seat.poll_take(false, cx, |_| ())));
    next().expect("an item").sent(Duration::ZERO);
    assert!(next().is_none(), "its end");
}

#[test]
fn who_takes_in_code_is_woken_by_a_lease_that_runs_out() {
    let queue = queue(QueueConfig::default());
    push(&queue, "a");
    let (_, _lease) = lease(&queue, Duration::from_millis(20));
    let (told, taken) = mpsc::channel();
    let taker = queue.clone();
    thread::spawn(move || told.send(take(&taker)));
    assert_eq!(taken.recv_timeout(PATIENCE).as_deref(), Ok("a"));
}

/// The end does not wait for leases, so that a consumer may acknowledge all that it got behind it.
#[test]
fn an_end_leaves_what_is_leased_to_who_asks_when_it_comes_back() {
    let queue = queue(QueueConfig::default());
    push(&queue, "a");
    let (_, _lease) = lease(&queue, Duration::from_millis(1));
    block_on(queue.0.core.end(&Arc::from(NAME))).unwrap();
    let mut seat = queue.seat(NAME, Side::Consumer).unwrap();
    let mut cx = Context::from_waker(Waker::noop());
    let mut came_back = false;
    // Told the end until the lease has run out, and then given the item.
    while !came_back {
        match seat.poll_take(true, &mut cx, |_| ()) {
            Poll::Ready(taken) => came_back = taken.is_some(),
            Poll::Pending => panic!("neither the end nor an item"),
        }
    }
}
