//! Topics through their handles, as an application has them: who is in which topic, and what a client that comes back is told.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};

use futures_core::Stream;

use super::*;
use crate::config::OnLag;
use crate::rt::testing::block_on;

/// What has come already.
fn next(subscription: &mut Subscription) -> Option<Delivery> {
    match Pin::new(subscription).poll_next(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(delivery) => delivery,
        Poll::Pending => None,
    }
}

#[test]
fn a_handle_on_a_topic_outlives_its_first_subscriber() {
    let events = Events::new(EventsConfig::default()).unwrap();
    let topic = events.topic("a").unwrap();
    // A client comes and leaves before the first event.
    drop(events.topic("a").unwrap().subscribe(None).unwrap());
    let mut later = events.topic("a").unwrap().subscribe(None).unwrap();
    block_on(topic.publish(Message::new("x"))).unwrap();
    assert!(next(&mut later).is_some(), "published to a topic that nobody can subscribe to");
}

#[test]
fn a_blank_topic_does_not_take_away_its_successor() {
    let events = Events::new(EventsConfig::default()).unwrap();
    let old = events.topic("a").unwrap();
    drop(old.subscribe(None).unwrap());
    let mut later = events.topic("a").unwrap().subscribe(None).unwrap();
    drop(old.subscribe(None).unwrap());
    block_on(events.topic("a").unwrap().publish(Message::new("x"))).unwrap();
    assert!(next(&mut later).is_some(), "the topic of a living subscriber was removed");
}

#[test]
fn s1_a_topic_that_opens_again_is_read_again() {
    let events = Events::new(EventsConfig::default()).unwrap();
    let (a, b) = (events.topic("a").unwrap(), events.topic("b").unwrap());
    let shared = events.0.clone();
    let topics = vec![a.topic.clone(), b.topic.clone()];
    let seat = shared.hub.seat(9).unwrap();
    let (subscriber, lost) = Subscriber::new(shared.hub.clone(), topics, &Seen::Nothing, OnLag::Skip, seat);
    let mut both = Subscription::new(subscriber, lost);
    assert!(next(&mut both).is_none());
    block_on(shared.hub.close(&a.topic, &shared.rules, 1)).unwrap();
    assert!(next(&mut both).is_none());
    block_on(a.publish(Message::new("again"))).unwrap();
    block_on(b.publish(Message::new("other"))).unwrap();
    let got: Vec<_> = std::iter::from_fn(|| next(&mut both)).collect();
    assert_eq!(got.len(), 2, "{got:?}");
}

#[test]
fn s3_a_publishers_id_that_looks_like_a_position_is_found() {
    let events = Events::new(EventsConfig::default()).unwrap();
    let topic = events.topic("a").unwrap();
    for n in 0..3 {
        let id = Some(format!("1692632086370-{n}"));
        block_on(topic.publish(Message { id, ..Message::new("x") })).unwrap();
    }
    let mut back = topic.subscribe(Some("1692632086370-1")).unwrap();
    let got: Vec<_> = std::iter::from_fn(|| next(&mut back)).collect();
    assert_eq!(got.len(), 1, "{got:?}");
}

#[test]
fn promise1_ids_and_keys_count_as_memory() {
    let memory = 1 << 20;
    let config = EventsConfig { memory, history_events: 1_000_000, history_bytes: 1 << 30, ..EventsConfig::default() };
    let events = Events::new(config).unwrap();
    let topic = events.topic("a").unwrap();
    for n in 0..20_000 {
        let name = || Some(format!("{n:01024}"));
        let message = Message { id: name(), key: name(), ..Message::new("x") };
        block_on(topic.publish(message)).unwrap();
    }
    let mut all = topic.subscribe(Some("earliest")).unwrap();
    let got = std::iter::from_fn(|| next(&mut all)).count();
    assert!(
        got * 3 * 1024 <= memory,
        "{got} events with 3 KiB of names each are {} KiB, of {} KiB",
        got * 3,
        memory >> 10
    );
}

#[test]
fn s4_a_reload_keeps_the_bound_of_subscribers() {
    let config = EventsConfig { subscribers: 2, ..EventsConfig::default() };
    let events = Events::new(config.clone()).unwrap();
    let _old: Vec<_> = (0..2).map(|_| events.topic("a").unwrap().subscribe(None).unwrap()).collect();
    assert!(events.topic("a").unwrap().subscribe(None).is_err());
    let events = events.reconfigured(config).unwrap();
    assert!(events.topic("a").unwrap().subscribe(None).is_err(), "more subscribers than there may be");
}

#[test]
fn s3_what_was_replaced_is_not_told_as_lost_to_who_comes_back() {
    let events = Events::new(EventsConfig::default()).unwrap();
    let topic = events.topic("a").unwrap();
    let mut ids = Vec::new();
    for n in 0..100 {
        ids.push(block_on(topic.publish(Message { key: Some("k".into()), ..Message::new(n.to_string()) })).unwrap());
    }
    let mut back = topic.subscribe(Some(&ids[0])).unwrap();
    let got: Vec<_> = std::iter::from_fn(|| next(&mut back)).collect();
    assert_eq!(got.len(), 1, "{got:?}");
}

/// What comes to one that has seen this.
fn behind(topic: &Topic, id: &str) -> Vec<Delivery> {
    let mut subscription = topic.subscribe(Some(id)).unwrap();
    std::iter::from_fn(|| next(&mut subscription)).collect()
}

fn data(delivery: &Delivery) -> &str {
    match delivery {
        Delivery::Event { data, .. } => data,
        Delivery::Lost(_) => "lost",
    }
}

#[test]
fn s3_what_a_power_cut_or_damage_takes_is_told_and_its_ids_are_not_given_again() {
    let dir = tempfile::tempdir().unwrap();
    let journal = dir.path().join("journal");
    let config = EventsConfig { journal: Some(journal.clone()), ..EventsConfig::default() };
    let events = || Events::new(config.clone()).unwrap();
    let publish = |topic: &Topic, text: &str| block_on(topic.publish(Message::new(text))).unwrap();
    let segment = journal.join("0000000000000001.log");
    let (before, ids) = {
        let events = events();
        publish(&events.topic("b").unwrap(), "0");
        let topic = events.topic("a").unwrap();
        let one = publish(&topic, "1");
        let before = std::fs::read(&segment).unwrap();
        (before, [one, publish(&topic, "2"), publish(&topic, "3")])
    };
    // The power took two of them.
    std::fs::write(&segment, before).unwrap();
    std::fs::write(journal.join("boot"), "another").unwrap();
    let new = {
        let events = events();
        let topic = events.topic("a").unwrap();
        assert_eq!(behind(&topic, &ids[2]), [Delivery::Lost(None)], "it is ahead");
        let new = ["4", "5", "6"].map(|text| publish(&topic, text));
        let other = publish(&events.topic("b").unwrap(), "of another topic");
        assert_eq!(behind(&topic, &other)[0], Delivery::Lost(None), "{other} is not of this topic");
        assert!(new.iter().all(|id| !ids.contains(id)), "{new:?} {ids:?}");
        new
    };
    // The next process knows it, too.
    let topic = events().topic("a").unwrap();
    for (id, expected) in [(&ids[0], vec!["4", "5", "6"]), (&ids[1], vec!["lost", "4", "5", "6"]), (&new[1], vec!["6"])]
    {
        assert_eq!(behind(&topic, id).iter().map(data).collect::<Vec<_>>(), expected, "behind {id}");
    }
    drop(topic);
    // A flipped bit in the fourth: what is behind it is gone, and of no earlier id is known what it has missed.
    let mut bytes = std::fs::read(&segment).unwrap();
    let at = bytes.windows(8).position(|found| found == b"data: 4\n").expect("the event's line");
    bytes[at + 6] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    for opening in ["first", "second"] {
        let topic = events().topic("a").unwrap();
        for id in ids.iter().chain(&new) {
            let got = behind(&topic, id);
            assert_eq!(got.iter().map(data).collect::<Vec<_>>(), ["lost", "1"], "behind {id}, {opening} opening");
            let Delivery::Event { id, .. } = &got[1] else { panic!("{got:?}") };
            assert_eq!(behind(&topic, id), [], "told once, since the id is one of now");
        }
    }
}

#[test]
fn s3_what_a_journal_has_and_memory_has_no_room_for_is_told_as_lost() {
    let dir = tempfile::tempdir().unwrap();
    let wide = EventsConfig {
        journal: Some(dir.path().join("journal")),
        history_events: 1_000_000,
        history_bytes: 1 << 30,
        ..EventsConfig::default()
    };
    let ids = {
        let events = Events::new(wide.clone()).unwrap();
        let (large, small) = (events.topic("large").unwrap(), events.topic("small").unwrap());
        (0..100).for_each(|_| drop(block_on(large.publish(Message::new("x".repeat(20_000)))).unwrap()));
        [(); 5].map(|()| block_on(small.publish(Message::new("x".repeat(20_000)))).unwrap())
    };
    let narrow = Events::new(EventsConfig { memory: 1 << 20, ..wide.clone() }).unwrap();
    let small = narrow.topic("small").unwrap();
    assert_eq!(behind(&small, &ids[4]), []);
    assert_eq!(behind(&small, &ids[2]), [Delivery::Lost(Some(2))]);
    drop((small, narrow));
    let events = Events::new(wide).unwrap();
    assert_eq!(behind(&events.topic("small").unwrap(), &ids[2]).len(), 2, "the journal has them still");
}

#[test]
fn s4_topics_of_a_journal_whose_events_are_too_old_keep_no_others_out() {
    let dir = tempfile::tempdir().unwrap();
    let config = EventsConfig {
        journal: Some(dir.path().join("journal")),
        history_age: Duration::from_secs(60),
        ..EventsConfig::default()
    };
    let (early, late) = (1_000_000, 2_000_000);
    let publish = |hub: &Hub, name: &str, now_ms| {
        let rules = Rules::of(&config);
        let topic = hub.topic(name, &rules, now_ms).unwrap();
        block_on(hub.publish(&topic, Message::new("x"), &rules, now_ms)).unwrap();
    };
    let hub = Hub::open(&config, early).unwrap();
    ["a", "b", "c", "d"].into_iter().for_each(|name| publish(&hub, name, early));
    ["e", "f"].into_iter().for_each(|name| publish(&hub, name, late));
    publish(&hub, "a", late);
    drop(hub);
    let hub = Hub::open(&EventsConfig { topics: 3, ..config.clone() }, late).unwrap();
    for (name, next) in [("a", 2), ("e", 1), ("f", 1)] {
        let topic = hub.find(name).unwrap_or_else(|| panic!("{name} is not there"));
        assert!(matches!(topic.read(next), topic::Next::Event { .. }), "{name} has no event");
    }
}

#[test]
fn s4_ends_are_bounded_in_the_journal_too() {
    let dir = tempfile::tempdir().unwrap();
    let journal = dir.path().join("journal");
    let config = EventsConfig { journal: Some(journal.clone()), journal_bytes: 1 << 20, ..EventsConfig::default() };
    let rules = Rules::of(&config);
    let hub = Hub::open(&config, 1).unwrap();
    let topic = hub.topic(&"n".repeat(200), &rules, 1).unwrap();
    (0..6000).for_each(|_| block_on(hub.close(&topic, &rules, 1)).unwrap());
    let files = std::fs::read_dir(&journal).unwrap().filter_map(|entry| entry.ok()?.metadata().ok());
    let len: u64 = files.map(|file| file.len()).sum();
    assert!(len < (1 << 20) + (200 << 10), "{len} bytes");
}

#[test]
fn a_subscriber_that_comes_while_the_last_one_leaves_is_in_the_topic() {
    let events = Events::new(EventsConfig::default()).unwrap();
    let stop = AtomicBool::new(false);
    let orphans = std::thread::scope(|scope| {
        let churn = || {
            while !stop.load(Relaxed) {
                drop(events.topic("a").unwrap().subscribe(None).unwrap());
            }
        };
        scope.spawn(churn);
        let mut orphans = 0;
        for _ in 0..200_000 {
            let handle = events.topic("a").unwrap();
            let subscription = handle.subscribe(None).unwrap();
            // What a publisher would find now.
            let found = events.topic("a").unwrap();
            orphans += usize::from(!Arc::ptr_eq(&found.topic, &handle.topic));
            drop(subscription);
        }
        stop.store(true, Relaxed);
        orphans
    });
    assert_eq!(orphans, 0, "of 200000 subscribers");
}
