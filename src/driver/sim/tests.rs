//! What the fake kernel itself promises: that it replays, that it is strict, and that its faults happen.

use std::cell::Cell;
use std::os::fd::AsRawFd;
use std::task::{Context, Poll, Waker};

use super::super::op::{Closing, OpenHow, WriteFrom};
use super::super::slot::{Completion, Token};
use super::*;

const SETUP: Setup =
    Setup { in_flight: 16, receive_buffers: (4, 64), transfer_buffers: (4, 4096), upload_buffers: (2, 4096), pipes: 2 };

fn open_op(root: RawFd, path: &str, opening: Opening) -> Op {
    Op::Open { root, path: std::ffi::CString::new(path).unwrap(), opening, how: Box::<OpenHow>::default() }
}

fn submit(sim: &mut Sim, op: Op) -> Slot {
    sim.submit(op, Owner::Task(None))
}

#[track_caller]
fn finish(sim: &mut Sim, slot: Slot) -> Completion {
    loop {
        match sim.poll(slot, &mut Context::from_waker(Waker::noop())) {
            Poll::Ready(completion) => return completion,
            Poll::Pending => sim.turn(Wait::Forever).unwrap(),
        }
    }
}

#[track_caller]
fn open(sim: &mut Sim, path: &str) -> io::Result<RawFd> {
    let slot = submit(sim, open_op(libc::AT_FDCWD, "/", Opening::Anywhere));
    let root = finish(sim, slot).result? as RawFd;
    let slot = submit(sim, open_op(root, path, Opening::Beneath));
    let opened = finish(sim, slot).result.map(|fd| fd as RawFd);
    sim.close(root, Closing::Inline);
    opened
}

#[track_caller]
fn accept(sim: &mut Sim, listener: RawFd) -> io::Result<RawFd> {
    let slot = sim.submit(Op::Accept { listener }, Owner::Worker(Token(0)));
    while sim.slots.events() == 0 {
        sim.turn(Wait::Forever).unwrap();
    }
    let event = sim.next_event().unwrap();
    if event.completion.op.is_none() {
        sim.abandon(slot);
    }
    event.completion.result.map(|fd| fd as RawFd)
}

fn pass(sim: &mut Sim, time: Duration) {
    let deadline = sim.now() + time;
    while sim.now() < deadline {
        sim.turn(Wait::Until(deadline)).unwrap();
    }
}

/// An echo server with a slow, rude client: enough to draw many numbers.
fn echo(world: &Rc<World>) -> Vec<u8> {
    let mut sim = Sim::new(world, &SETUP);
    let listener = world.listen();
    let client = world.connect(listener);
    client.window(100);
    let socket = (0..100).find_map(|_| accept(&mut sim, listener).ok()).unwrap();
    let mut echoed = Vec::new();
    while echoed.len() < 500 {
        client.try_send(b"a few bytes");
        let slot = submit(&mut sim, Op::Receive { socket, expect: Expect::Later });
        let Some(bytes) = finish(&mut sim, slot).lease else { continue };
        let mut rest = &*bytes;
        while !rest.is_empty() {
            match sim.send(socket, rest, More::No) {
                Ok(n) => rest = &rest[n..],
                Err(_) => {
                    echoed.extend(client.take_received());
                    let slot = submit(&mut sim, Op::Poll { socket, interest: Interest::Writable });
                    finish(&mut sim, slot);
                }
            }
        }
        echoed.extend(client.take_received());
    }
    echoed
}

#[test]
fn the_same_seed_gives_the_same_story_and_another_seed_another() {
    let story = |seed| {
        let world = World::new(seed, Faults::ROUGH);
        (echo(&world), world.trace(), world.elapsed())
    };
    let stories: Vec<_> = (0..8).map(story).collect();
    assert_eq!(stories, (0..8).map(story).collect::<Vec<_>>());
    let distinct: std::collections::HashSet<_> = stories.iter().map(|(_, trace, _)| trace).collect();
    assert_eq!(distinct.len(), stories.len());
}

#[test]
fn every_fault_happens_and_none_that_was_not_asked_for() {
    let errors = |faults: Faults| {
        let world = World::new(3, Faults::NONE);
        world.add_file("file", Content::Rule(100, |offset| offset as u8));
        let mut sim = Sim::new(&world, &SETUP);
        let file = open(&mut sim, "file").unwrap();
        let listener = world.listen();
        let client = world.connect(listener);
        let socket = accept(&mut sim, listener).unwrap();
        world.set_faults(faults);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..200 {
            client.try_send(b"0123456789");
            let buf = sim.transfer_pool.try_take().unwrap();
            let receive = submit(&mut sim, Op::Receive { socket, expect: Expect::Later });
            let read = submit(&mut sim, Op::Read { file, offset: 0, len: 100, buf });
            let results = [("receive", finish(&mut sim, receive)), ("read", finish(&mut sim, read))];
            let results = results.map(|(name, completion)| (name, completion.result.map(|n| n as usize)));
            let sent = ("send", sim.send(socket, b"0123456789", More::No));
            let opened = ("open", open(&mut sim, "file").map(|fd| sim.close(fd, Closing::Inline)).map(|()| 0));
            seen.extend(results.into_iter().chain([sent, opened]).filter_map(|(name, result)| match result {
                Ok(0 | 10..) => None,
                Ok(_) => Some(format!("short {name}")),
                Err(error) => Some(format!("{name}: {:?}", error.raw_os_error())),
            }));
            client.take_received();
        }
        seen.into_iter().collect::<Vec<_>>()
    };
    assert_eq!(errors(Faults::SLOW), Vec::<String>::new());
    let all = [
        "open: Some(24)",
        "read: Some(5)",
        "receive: Some(105)",
        "send: None",
        "short read",
        "short receive",
        "short send",
    ];
    assert_eq!(errors(Faults { read_error: 0.2, ..Faults::ROUGH }), all);
}

#[test]
fn every_fault_of_pipes_happens_and_none_that_was_not_asked_for() {
    let seen = |faults: Faults| {
        let world = World::new(3, Faults::NONE);
        world.add_file("file", Content::Rule(1 << 20, |offset| offset as u8));
        let mut sim = Sim::new(&world, &Setup { transfer_buffers: (1, 16 << 10), ..SETUP });
        let file = open(&mut sim, "file").unwrap();
        let listener = world.listen();
        let client = world.connect(listener);
        let socket = accept(&mut sim, listener).unwrap();
        world.set_faults(faults);
        let mut seen = std::collections::BTreeSet::new();
        for round in 0..200 {
            // Its last handle closes all of them, so that each is a new one.
            sim.pipe_pool = PipePool::new(1, 16 << 10, Box::new(FakePipes(world.clone())));
            let mut pipe = match sim.pipe_pool.try_take() {
                Ok(pipe) => pipe.unwrap(),
                Err(error) => {
                    seen.insert(format!("open: {:?}", error.raw_os_error()));
                    continue;
                }
            };
            let wanted = pipe.fill_len();
            if wanted < 16 << 10 {
                seen.insert(format!("room for {wanted}"));
            }
            let filled = if round % 2 == 0 {
                let slot = submit(&mut sim, Op::FillPipe { file, offset: 5, len: wanted, pipe });
                let Completion { result, op: Some(Op::FillPipe { pipe: filled, .. }), .. } = finish(&mut sim, slot)
                else {
                    panic!("another operation")
                };
                pipe = filled;
                result.map(|len| len as usize)
            } else {
                sim.fill_pipe(&mut pipe, file, 5, wanted)
            };
            let drained = filled.as_ref().is_ok().then(|| sim.drain_pipe(&mut pipe, socket, More::No));
            for (name, whole, result) in [("fill", wanted, Some(filled)), ("drain", wanted, drained)] {
                seen.extend(match result {
                    Some(Ok(len)) if len < whole => Some(format!("short {name}")),
                    Some(Err(error)) => Some(format!("{name}: {:?}", error.raw_os_error())),
                    _ => None,
                });
            }
            client.take_received();
        }
        drop(sim);
        assert_eq!(world.open_descriptors().pipes, 0);
        seen.into_iter().collect::<Vec<_>>()
    };
    assert_eq!(seen(Faults::SLOW), Vec::<String>::new());
    let all = ["drain: None", "fill: Some(5)", "open: Some(23)", "room for 4096", "short drain", "short fill"];
    assert_eq!(seen(Faults { read_error: 0.2, ..Faults::ROUGH }), all);
}

/// A fill that is to be waited for takes no time of the worker's, and a direct one does.
#[test]
fn filling_a_pipe_from_a_cold_page_is_noted_only_where_the_worker_waits() {
    let world = World::new(0, Faults::NONE);
    world.add_file("file", Content::Rule(1 << 20, |_| b'x'));
    world.cool("file", 0..1 << 20);
    let mut sim = Sim::new(&world, &SETUP);
    let file = open(&mut sim, "file").unwrap();
    let pipe = sim.pipe_pool.try_take().unwrap().unwrap();
    let fill = submit(&mut sim, Op::FillPipe { file, offset: 0, len: 4096, pipe });
    assert_eq!((finish(&mut sim, fill).result.unwrap(), world.stalls()), (4096, 0));
    for (offset, stalls) in [(0, 0), (512 << 10, 1)] {
        let mut pipe = sim.pipe_pool.try_take().unwrap().unwrap();
        assert_eq!(sim.fill_pipe(&mut pipe, file, offset, 4096).unwrap(), 4096);
        assert_eq!(world.stalls(), stalls);
    }
}

/// A cancellation that comes when the socket has taken the bytes changes nothing.
#[test]
fn a_zero_copy_send_that_was_taken_is_acknowledged_or_the_connection_ends() {
    explore(Faults { late_cancel: 0.5, ..Faults::SLOW }, |world| {
        for ending in ["taken", "reset", "closed"] {
            let mut sim = Sim::new(world, &SETUP);
            let listener = world.listen();
            let client = world.connect(listener);
            let socket = accept(&mut sim, listener).unwrap();
            let mut buf = sim.transfer_pool.try_take().unwrap();
            buf.append(b"bytes");
            let slot = submit(&mut sim, Op::SendZeroCopy { socket, buf, from: 0 });
            sim.turn(Wait::No).unwrap();
            pass(&mut sim, Duration::from_millis(5));
            sim.cancel(slot);
            pass(&mut sim, Duration::from_millis(5));
            assert_eq!(sim.slots.in_flight(), 1);
            match ending {
                "taken" => assert_eq!(client.take_received(), b"bytes"),
                "reset" => client.reset(),
                _ => sim.close(socket, Closing::Inline),
            }
            assert_eq!(finish(&mut sim, slot).result.unwrap(), 5);
        }
    });
}

#[test]
fn a_cancellation_wins_or_loses_its_race() {
    let (won, lost) = (Cell::new(0), Cell::new(0));
    explore(Faults::ROUGH, |world| {
        world.add_file("file", Content::Bytes(b"content".to_vec()));
        let mut sim = Sim::new(world, &SETUP);
        let Some(file) = (0..200).find_map(|_| open(&mut sim, "file").ok()) else { return };
        let buf = sim.transfer_pool.try_take().unwrap();
        let slot = submit(&mut sim, Op::Read { file, offset: 0, len: 7, buf });
        sim.turn(Wait::No).unwrap();
        sim.cancel(slot);
        let counted = if finish(&mut sim, slot).result.is_ok() { &lost } else { &won };
        counted.set(counted.get() + 1);
    });
    assert!(won.get() > 0 && lost.get() > 0, "{won:?} {lost:?}");
}

#[test]
fn an_accept_ends_with_a_cancellation_even_if_a_connection_came_first() {
    explore(Faults { late_cancel: 1.0, ..Faults::SLOW }, |world| {
        let mut sim = Sim::new(world, &SETUP);
        let listener = world.listen();
        let slot = sim.submit(Op::Accept { listener }, Owner::Worker(Token(0)));
        let _client = world.connect(listener);
        sim.turn(Wait::No).unwrap();
        sim.cancel(slot);
        while sim.slots.in_flight() > 0 {
            sim.turn(Wait::Forever).unwrap();
        }
        assert!(sim.next_event().unwrap().completion.result.is_ok());
    });
}

#[test]
fn a_large_file_costs_nothing_and_has_its_bytes_at_any_offset() {
    let world = World::new(0, Faults::NONE);
    let rule = |offset: u64| (offset % 251) as u8;
    let len = 6 << 30;
    world.add_file("sparse", Content::Rule(len, rule));
    let mut sim = Sim::new(&world, &SETUP);
    let file = open(&mut sim, "sparse").unwrap();
    assert_eq!(sim.stat(file).unwrap().len, len);
    for offset in [0, (4 << 30) - 1, len - 3] {
        let mut bytes = [0; 3];
        assert_eq!(sim.read_resident(file, offset, &mut bytes).unwrap(), 3);
        assert_eq!(bytes, [rule(offset), rule(offset + 1), rule(offset + 2)]);
    }
    assert_eq!(sim.read_resident(file, len, &mut [0; 3]).unwrap(), 0);
}

#[test]
fn a_cold_page_is_not_read_at_once_and_sending_it_is_noted() {
    let world = World::new(0, Faults::SLOW);
    world.add_file("file", Content::Rule(1 << 20, |_| b'x'));
    world.cool("file", 8192..1 << 20);
    let mut sim = Sim::new(&world, &SETUP);
    let file = open(&mut sim, "file").unwrap();
    let mut block = [0; 4096];
    assert_eq!(sim.read_resident(file, 8000, &mut block).unwrap(), 192, "up to the cold page");
    assert_eq!(sim.read_resident(file, 8192, &mut block).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    pass(&mut sim, Duration::from_millis(5));
    assert_eq!(sim.read_resident(file, 8192, &mut block).unwrap(), 4096, "the probe brought it");

    let buf = sim.transfer_pool.try_take().unwrap();
    let read = submit(&mut sim, Op::Read { file, offset: 600_000, len: 4096, buf });
    assert_eq!(finish(&mut sim, read).result.unwrap(), 4096);
    assert_eq!(sim.read_resident(file, 600_000, &mut block).unwrap(), 4096, "the read brought it");

    let listener = world.listen();
    let client = world.connect(listener);
    let socket = accept(&mut sim, listener).unwrap();
    assert_eq!((sim.send_file(socket, file, 0, 16_384).unwrap(), world.stalls()), (16_384, 0));
    assert_eq!((sim.send_file(socket, file, 900_000, 10).unwrap(), world.stalls()), (10, 1));
    assert_eq!((sim.send_file(socket, file, 900_000, 10).unwrap(), world.stalls()), (10, 1));
    assert_eq!(client.take_received().len(), 16_404);
}

#[test]
fn files_change_under_their_descriptors_as_on_a_disk() {
    let world = World::new(0, Faults::NONE);
    world.add_file("file", Content::Bytes(b"0123456789".to_vec()));
    let mut sim = Sim::new(&world, &SETUP);
    let file = open(&mut sim, "file").unwrap();
    let before = sim.stat(file).unwrap();
    pass(&mut sim, Duration::from_secs(1));
    let mut bytes = [0; 12];

    world.set_len("file", 4);
    assert_eq!(sim.read_resident(file, 0, &mut bytes).unwrap(), 4);
    assert_eq!(sim.stat(file).unwrap().modified_ns - before.modified_ns, 1_000_000_000);
    world.set_len("file", 6);
    assert_eq!(sim.read_resident(file, 0, &mut bytes).unwrap(), 6);
    assert_eq!(&bytes[..6], b"0123\0\0", "what was cut does not come back");
    world.overwrite("file", Content::Bytes(b"same inode".to_vec()));
    assert_eq!((sim.stat(file).unwrap().inode, sim.stat(file).unwrap().len), (before.inode, 10));

    world.add_file("file", Content::Bytes(b"another".to_vec()));
    let another = open(&mut sim, "file").unwrap();
    assert_ne!(sim.stat(another).unwrap().inode, before.inode);
    world.remove("file");
    assert_eq!(open(&mut sim, "file").unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(sim.read_resident(another, 0, &mut bytes).unwrap(), 7, "what is open stays");

    world.add_file("file", Content::Bytes(b"bad".to_vec()));
    world.break_reads("file");
    let broken = open(&mut sim, "file").unwrap();
    assert_eq!(sim.read_resident(broken, 0, &mut bytes).unwrap_err().raw_os_error(), Some(libc::EIO));
    world.deny("file");
    assert_eq!(open(&mut sim, "file").unwrap_err().raw_os_error(), Some(libc::EACCES));
}

#[test]
fn descriptors_run_out_and_come_back() {
    let world = World::new(0, Faults::NONE);
    let mut sim = Sim::new(&world, &SETUP);
    let listener = world.listen();
    let clients = [world.connect(listener), world.connect(listener)];
    assert_ne!(clients[0].address(), clients[1].address());
    world.limit_descriptors(2);
    let first = accept(&mut sim, listener).unwrap();
    assert_eq!(sim.peer(first).unwrap(), Some(clients[0].address()));
    assert_eq!(accept(&mut sim, listener).unwrap_err().raw_os_error(), Some(libc::EMFILE));
    assert_eq!(world.open_descriptors(), Descriptors { listeners: 1, sockets: 1, ..Descriptors::default() });
    sim.close(first, Closing::Inline);
    sim.turn(Wait::No).unwrap();
    let second = accept(&mut sim, listener).unwrap();
    assert_eq!(sim.peer(second).unwrap(), Some(clients[1].address()));
    sim.close(listener, Closing::Inline);
    sim.turn(Wait::No).unwrap();
    assert!(world.try_connect(listener).is_none());
}

#[test]
fn a_client_that_closes_resets_at_the_next_bytes() {
    let world = World::new(0, Faults::NONE);
    let mut sim = Sim::new(&world, &SETUP);
    let listener = world.listen();
    let client = world.connect(listener);
    let socket = accept(&mut sim, listener).unwrap();
    client.close();
    assert_eq!(sim.send(socket, b"first", More::No).unwrap(), 5);
    assert_eq!(sim.send(socket, b"second", More::No).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(sim.send(socket, b"third", More::No).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

/// Why the lingering close of F9 is needed.
#[test]
fn f9_bytes_that_arrive_after_a_close_cost_the_client_its_reply() {
    let world = World::new(0, Faults::NONE);
    let mut sim = Sim::new(&world, &SETUP);
    let listener = world.listen();
    let client = world.connect(listener);
    let socket = accept(&mut sim, listener).unwrap();
    sim.send(socket, b"413", More::No).unwrap();
    sim.close(socket, Closing::Inline);
    sim.turn(Wait::No).unwrap();
    client.send(b"the rest of the body");
    assert_eq!((client.end(), client.take_received()), (End::Reset, vec![]));
}

#[test]
fn actions_come_at_their_time_and_end_a_wait() {
    let world = World::new(0, Faults::NONE);
    let mut sim = Sim::new(&world, &SETUP);
    let listener = world.listen();
    sim.submit(Op::Accept { listener }, Owner::Worker(Token(0)));
    let start = (world.now(), world.wall_clock());
    let theirs = world.clone();
    world.schedule(Duration::from_secs(2), move || drop(theirs.connect(listener)));
    sim.turn(Wait::Until(start.0 + Duration::from_secs(1))).unwrap();
    assert_eq!((sim.now() - start.0, sim.slots.events()), (Duration::from_secs(1), 0));
    sim.turn(Wait::Forever).unwrap();
    assert_eq!((sim.now() - start.0, sim.slots.events()), (Duration::from_secs(2), 1));
    assert_eq!(sim.wall_clock(), start.1 + Duration::from_secs(2));
}

#[test]
fn other_threads_see_a_copy_of_a_directory() {
    let world = World::new(0, Faults::NONE);
    world.add_directory("inner");
    world.add_file("inner/file", Content::Rule(6 << 30, |_| 0));
    world.add_fifo("inner/fifo");
    let mut sim = Sim::new(&world, &SETUP);
    let inner = open(&mut sim, "inner").unwrap();
    let real = sim.duplicate(inner).unwrap();
    let path = format!("/proc/self/fd/{}", real.as_raw_fd());
    assert_eq!(std::fs::read_dir(&path).unwrap().count(), 2);
    assert_eq!(std::fs::metadata(format!("{path}/file")).unwrap().len(), 6 << 30);
}

#[test]
fn a_thread_that_wakes_the_worker_comes_before_virtual_time() {
    let world = World::new(0, Faults::NONE);
    world.set_patience(OTHER_THREADS);
    let mut sim = Sim::new(&world, &SETUP);
    let (reader, writer) = std::io::pipe().unwrap();
    sim.submit(Op::Poll { socket: reader.as_raw_fd(), interest: Interest::Readable }, Owner::Worker(Token(0)));
    let start = sim.now();
    let thread = std::thread::spawn(move || std::io::Write::write_all(&mut &writer, b"x").unwrap());
    sim.turn(Wait::Until(start + Duration::from_secs(1))).unwrap();
    assert_eq!((sim.slots.events(), sim.now()), (1, start));
    thread.join().unwrap();
}

#[test]
#[should_panic(expected = "sim: deadlock")]
fn a_wait_that_nothing_can_end_is_a_panic() {
    let world = World::new(0, Faults::NONE);
    let mut sim = Sim::new(&world, &SETUP);
    let listener = world.listen();
    submit_accept(&mut sim, listener);
    sim.turn(Wait::Forever).unwrap();
}

fn submit_accept(sim: &mut Sim, listener: RawFd) {
    sim.submit(Op::Accept { listener }, Owner::Worker(Token(0)));
}

#[test]
#[should_panic(expected = "something spins")]
fn turns_that_do_nothing_for_ever_are_a_panic() {
    let mut sim = Sim::new(&World::new(0, Faults::SLOW), &SETUP);
    loop {
        sim.turn(Wait::No).unwrap();
    }
}

#[test]
#[should_panic(expected = "used after its close was submitted")]
fn a_second_close_is_a_panic() {
    let world = World::new(0, Faults::NONE);
    let mut sim = Sim::new(&world, &SETUP);
    let listener = world.listen();
    sim.close(listener, Closing::Inline);
    sim.close(listener, Closing::Inline);
}

#[test]
#[should_panic(expected = "is not open")]
fn a_use_long_after_the_close_is_a_panic() {
    let world = World::new(0, Faults::NONE);
    let mut sim = Sim::new(&world, &SETUP);
    let listener = world.listen();
    sim.close(listener, Closing::Inline);
    sim.turn(Wait::No).unwrap();
    submit_accept(&mut sim, listener);
}

#[test]
#[should_panic(expected = "is no connected socket")]
fn a_descriptor_of_the_wrong_kind_is_a_panic() {
    let world = World::new(0, Faults::NONE);
    let mut sim = Sim::new(&world, &SETUP);
    let listener = world.listen();
    let _ = sim.send(listener, b"x", More::No);
}

#[test]
#[should_panic(expected = "is closed before its poll")]
fn a_close_before_a_poll_was_given_up_is_a_panic() {
    let world = World::new(0, Faults::NONE);
    let mut sim = Sim::new(&world, &SETUP);
    let listener = world.listen();
    let _client = world.connect(listener);
    let socket = accept(&mut sim, listener).unwrap();
    submit(&mut sim, Op::Poll { socket, interest: Interest::HangUp });
    sim.close(socket, Closing::Inline);
}

#[test]
#[should_panic(expected = "is closed before its fill")]
fn a_close_before_a_fill_was_given_up_is_a_panic() {
    let world = World::new(0, Faults::NONE);
    world.add_file("file", Content::Bytes(b"content".to_vec()));
    let mut sim = Sim::new(&world, &SETUP);
    let file = open(&mut sim, "file").unwrap();
    let pipe = sim.pipe_pool.try_take().unwrap().unwrap();
    submit(&mut sim, Op::FillPipe { file, offset: 0, len: 7, pipe });
    sim.close(file, Closing::Inline);
}

#[track_caller]
fn open_root(sim: &mut Sim) -> RawFd {
    let slot = submit(sim, open_op(libc::AT_FDCWD, "/", Opening::Anywhere));
    finish(sim, slot).result.unwrap() as RawFd
}

#[track_caller]
fn done(sim: &mut Sim, op: Op) -> Result<u32, i32> {
    let slot = submit(sim, op);
    finish(sim, slot).result.map_err(|error| error.raw_os_error().unwrap())
}

#[test]
fn a_full_disk_takes_what_fits_and_has_the_space_again_when_the_file_goes() {
    let world = World::new(0, Faults::NONE);
    world.add_file("given", Content::Bytes(vec![b'g'; 10]));
    world.limit_space(100);
    let mut sim = Sim::new(&world, &SETUP);
    let root = open_root(&mut sim);
    let file = done(&mut sim, open_op(root, "file", Opening::New)).unwrap() as RawFd;
    let write = |offset, len| Op::Write { file, offset, from: WriteFrom::Bytes(vec![b'w'; len].into()) };
    assert_eq!(done(&mut sim, write(0, 60)), Ok(60));
    assert_eq!(done(&mut sim, write(30, 30)), Ok(30), "what is overwritten takes nothing");
    assert_eq!((done(&mut sim, write(60, 60)), world.free_space()), (Ok(40), 0));
    assert_eq!(done(&mut sim, write(100, 20)), Err(libc::ENOSPC));
    assert_eq!(done(&mut sim, Op::Allocate { file, len: 101 }), Err(libc::ENOSPC));
    assert_eq!(done(&mut sim, Op::Allocate { file, len: 100 }), Ok(0), "it has so much");
    assert_eq!(world.content("file"), [b'w'; 100]);

    let name = || std::ffi::CString::new("file").unwrap();
    assert_eq!(done(&mut sim, Op::Unlink { directory: root, name: name() }), Ok(0));
    assert_eq!(world.free_space(), 0, "it is open still");
    sim.close(file, Closing::Aside);
    pass(&mut sim, Duration::from_millis(1));
    assert_eq!(world.free_space(), 100);

    let unnamed = done(&mut sim, open_op(root, ".", Opening::Unnamed)).unwrap() as RawFd;
    assert_eq!((done(&mut sim, Op::Allocate { file: unnamed, len: 70 }), world.free_space()), (Ok(0), 30));
    let given = done(&mut sim, open_op(root, "given", Opening::Writable)).unwrap() as RawFd;
    let from = WriteFrom::Bytes(vec![b'w'; 41].into());
    assert_eq!(done(&mut sim, Op::Write { file: given, offset: 0, from }), Ok(40), "10 of its own and what is left");
    sim.close(unnamed, Closing::Aside);
    pass(&mut sim, Duration::from_millis(1));
    assert_eq!(world.free_space(), 70);
}

#[test]
fn every_fault_of_writing_happens_and_none_that_was_not_asked_for() {
    let seen = |faults: Faults| {
        let world = World::new(3, Faults::NONE);
        let mut sim = Sim::new(&world, &SETUP);
        let root = open_root(&mut sim);
        let file = done(&mut sim, open_op(root, "file", Opening::New)).unwrap() as RawFd;
        world.set_faults(faults);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let write = Op::Write { file, offset: 0, from: WriteFrom::Bytes(vec![b'w'; 10].into()) };
            let unnamed = done(&mut sim, open_op(root, ".", Opening::Unnamed));
            seen.extend(unnamed.err().map(|error| format!("unnamed: {error}")));
            for (name, op, whole) in [("write", write, 10), ("sync", Op::Sync { fd: file }, 0)] {
                seen.extend(match done(&mut sim, op) {
                    Ok(len) if len == whole => None,
                    Ok(_) => Some(format!("short {name}")),
                    Err(error) => Some(format!("{name}: {error}")),
                });
            }
        }
        seen.into_iter().collect::<Vec<_>>()
    };
    assert_eq!(seen(Faults::SLOW), Vec::<String>::new());
    let all = ["short write", "sync: 5", "unnamed: 95", "write: 5"];
    let faults = Faults { short_write: 0.3, write_error: 0.2, no_unnamed_files: 0.3, ..Faults::SLOW };
    assert_eq!(seen(faults), all);
}

#[test]
fn a_file_that_finds_no_descriptor_is_not_made() {
    let world = World::new(0, Faults::NONE);
    let mut sim = Sim::new(&world, &SETUP);
    let root = open_root(&mut sim);
    world.limit_descriptors(1);
    assert_eq!(done(&mut sim, open_op(root, "file", Opening::New)), Err(libc::EMFILE));
    assert_eq!(world.names("."), Vec::<String>::new());
}

#[test]
#[should_panic(expected = "is closed before its sync")]
fn a_close_that_overtakes_what_is_looked_up_late_is_a_panic() {
    let world = World::new(0, Faults::NONE);
    let mut sim = Sim::new(&world, &SETUP);
    let root = open_root(&mut sim);
    let sync = submit(&mut sim, Op::Sync { fd: root });
    sim.submit(Op::Close { fd: root, closing: Closing::Inline }, Owner::Nobody);
    finish(&mut sim, sync);
}
