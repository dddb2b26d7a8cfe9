//! What every driver promises of files that are written, and of names that change.

use std::rc::Rc;

use bytes::Bytes;

use super::super::op::{DirectoryMode, Taken, WriteFrom};
use super::*;

on_every_driver! {
    writes_of_parts_of_buffers_and_from_the_heap_are_read_back_as_they_were,
    a_write_that_was_given_up_keeps_its_buffer_until_its_completion,
    a_write_at_a_place_that_no_file_has_is_refused,
    an_unnamed_file_is_nowhere_until_it_is_linked,
    a_link_to_a_taken_name_changes_nothing,
    a_rename_refuses_or_replaces_as_it_was_told,
    a_rename_of_a_name_to_itself_changes_nothing,
    only_names_of_files_are_taken_away,
    a_file_is_made_under_a_free_name_only,
    reserved_space_is_no_length,
    a_close_never_overtakes_what_is_looked_up_late,
    a_link_that_was_given_up_names_that_very_file_or_none,
    a_lock_excludes_a_second_descriptor_and_ends_with_its_close,
    a_teardown_ends_writes_and_links_and_closes_what_they_kept_open,
}

fn writes_of_parts_of_buffers_and_from_the_heap_are_read_back_as_they_were(mut stage: Stage) {
    let content = pattern(4096);
    let file = stage.make("file");
    let pools = [stage.driver.upload_pool().clone(), stage.driver.transfer_pool().clone()];
    // Not the first block of either, so that one which is taken for another shows.
    let firsts = pools.clone().map(|pool| pool.try_take().unwrap());
    let [upload, transfer] = pools.clone().map(|pool| {
        let mut buf = pool.try_take().unwrap();
        assert_eq!(buf.append(&content), 4096);
        Rc::new(buf)
    });
    let part = |buf: &Rc<_>, range| WriteFrom::Buf { buf: Rc::clone(buf), range };
    let writes = [
        (0, part(&upload, 100..3000)),
        (2900, WriteFrom::Bytes(Bytes::from(content[3000..4000].to_vec()))),
        (3900, part(&upload, 4000..4096)),
        (10_000, part(&transfer, 4095..4096)),
        (10_001, part(&transfer, 0..4095)),
        (20_000, part(&upload, 7..7)),
    ];
    drop((upload, transfer));
    let lens = writes.each_ref().map(|(_, from)| from.len());
    let slots = writes.map(|(offset, from)| stage.submit(Op::Write { file, offset, from }));
    for (slot, len) in slots.into_iter().zip(lens) {
        let completion = stage.finish(slot);
        assert!(matches!(completion.op, Some(Op::Write { .. })));
        assert_eq!(completion.result.unwrap(), len as u32);
    }
    assert_eq!(pools.each_ref().map(|pool| pool.in_use()), [1, 1], "the first ones are held still");
    let gap = vec![0; 10_000 - 3996];
    let expected = [&content[100..], &gap, &content[4095..], &content[..4095]].concat();
    assert!(stage.outside.content("file").unwrap() == expected);
    assert_eq!(stage.driver.stat(file).unwrap().len, expected.len() as u64);
    for mut buf in firsts {
        assert_eq!(buf.append(b"before "), 7);
        let read = stage.submit(Op::Read { file, offset: 10_000, len: 4000, buf });
        let Some(Op::Read { buf, .. }) = stage.finish(read).op else { panic!("another operation") };
        assert!(*buf == [b"before ", &expected[10_000..14_000]].concat());
    }
}

fn a_write_that_was_given_up_keeps_its_buffer_until_its_completion(mut stage: Stage) {
    let file = stage.make("file");
    let pool = stage.driver.upload_pool().clone();
    for turns_before in 0..3 {
        let slot = stage.write_from_pool(file, 0, b"content");
        for _ in 0..turns_before {
            stage.turn();
        }
        stage.driver.abandon(slot);
        stage.turn_until("the kernel lets go", |stage| {
            let released = stage.driver.slots().in_flight() == 0;
            assert_eq!(pool.in_use(), usize::from(!released), "the kernel may still read it");
            released
        });
        let written = stage.outside.content("file").unwrap();
        assert!(matches!(&*written, b"" | b"content"), "{written:?}");
    }
}

/// An offset with all bits set would be the kernel's word for "where the last one ended".
fn a_write_at_a_place_that_no_file_has_is_refused(mut stage: Stage) {
    let file = stage.make("file");
    for offset in [u64::MAX, u64::MAX - 1, 1 << 63, i64::MAX as u64] {
        let write = stage.write_from_pool(file, offset, b"x");
        let error = stage.finish(write).result.unwrap_err().raw_os_error();
        assert!(matches!(error, Some(libc::EINVAL | libc::EFBIG | libc::EOVERFLOW)), "{error:?} at {offset}");
    }
    assert_eq!(stage.outside.content("file").unwrap(), b"");
}

fn an_unnamed_file_is_nowhere_until_it_is_linked(mut stage: Stage) {
    stage.add_directory("inner");
    let root = stage.root();
    let open = stage.outside.open_beneath();
    for linked in [true, false] {
        let file = stage.opened(open_op(root, "inner", Opening::Unnamed));
        stage.write_whole(file, b"content");
        assert_eq!(stage.driver.stat(file).unwrap().kind, FileKind::Regular);
        assert_eq!(stage.outside.names(), ["inner"]);
        if linked {
            stage.change(Op::link(file, root, name("named"))).unwrap();
            assert_eq!(stage.outside.names(), ["inner", "named"]);
            stage.write_whole(file, b"CON");
            assert_eq!(stage.change(Op::Sync { fd: file }), Ok(()));
            assert_eq!(stage.change(Op::Sync { fd: root }), Ok(()));
        }
        stage.driver.close(file, Closing::Aside);
        stage.turn_until("it is closed", |stage| stage.outside.open_beneath() == open);
        assert_eq!(stage.outside.content("named"), linked.then(|| b"CONtent".to_vec()));
        if linked {
            stage.change(Op::Unlink { directory: root, name: name("named") }).unwrap();
        }
    }
    assert_eq!(stage.outside.names(), ["inner"]);
}

fn a_link_to_a_taken_name_changes_nothing(mut stage: Stage) {
    stage.add_file("file", b"old");
    stage.add_directory("directory");
    let root = stage.root();
    let file = stage.opened(open_op(root, ".", Opening::Unnamed));
    stage.write_whole(file, b"new");
    for taken in ["file", "directory"] {
        assert_eq!(stage.change(Op::link(file, root, name(taken))), Err(libc::EEXIST));
    }
    assert_eq!(stage.outside.names(), ["directory", "file"]);
    assert_eq!(stage.outside.content("file").unwrap(), b"old");
    assert_eq!(stage.change(Op::link(file, root, name("free"))), Ok(()), "it can have another");
}

fn a_rename_refuses_or_replaces_as_it_was_told(mut stage: Stage) {
    stage.add_directory("inner");
    stage.add_directory("other");
    stage.add_file("inner/new", b"new");
    stage.add_file("old", b"old");
    let root = stage.root();
    let inner = stage.opened(open_op(root, "inner", Opening::Beneath));
    let old = stage.opened(open_op(root, "old", Opening::Beneath));
    let rename = |from, to, taken| Op::Rename {
        directory: inner,
        name: name(from),
        to_directory: root,
        to_name: name(to),
        taken,
    };
    assert_eq!(stage.change(rename("new", "old", Taken::Refuse)), Err(libc::EEXIST));
    assert_eq!(stage.change(rename("missing", "old", Taken::Refuse)), Err(libc::ENOENT));
    assert_eq!(stage.change(rename("missing", "old", Taken::Replace)), Err(libc::ENOENT));
    assert_eq!(stage.change(rename("new", "other", Taken::Replace)), Err(libc::EISDIR));
    assert_eq!(stage.outside.content("old").unwrap(), b"old");
    assert_eq!(stage.outside.content("inner/new").unwrap(), b"new");

    assert_eq!(stage.change(rename("new", "old", Taken::Replace)), Ok(()));
    assert_eq!(stage.outside.content("old").unwrap(), b"new");
    assert_eq!(stage.outside.content("inner/new"), None);
    let mut bytes = [0; 4];
    assert_eq!(stage.driver.read_resident(old, 0, &mut bytes).unwrap(), 3);
    assert_eq!(&bytes[..3], b"old", "what is open stays");

    stage.add_file("inner/new", b"newer");
    assert_eq!(stage.change(rename("new", "free", Taken::Refuse)), Ok(()));
    assert_eq!(stage.outside.names(), ["free", "inner", "old", "other"]);
    assert_eq!(stage.outside.content("free").unwrap(), b"newer");
}

fn a_rename_of_a_name_to_itself_changes_nothing(mut stage: Stage) {
    stage.add_file("file", b"content");
    let root = stage.root();
    for (taken, expected) in [(Taken::Replace, Ok(())), (Taken::Refuse, Err(libc::EEXIST))] {
        let (name, to_name) = (name("file"), name("file"));
        let renamed = stage.change(Op::Rename { directory: root, name, to_directory: root, to_name, taken });
        assert_eq!(renamed, expected);
        assert_eq!(stage.outside.content("file").unwrap(), b"content");
    }
}

fn only_names_of_files_are_taken_away(mut stage: Stage) {
    stage.add_file("file", b"content");
    let root = stage.root();
    let file = stage.open("file").unwrap();
    let make = Op::MakeDirectory { directory: root, name: name("directory"), mode: DirectoryMode::Private };
    assert_eq!(stage.change(make), Ok(()));
    let unlink = |path| Op::Unlink { directory: root, name: name(path) };
    assert_eq!(stage.change(unlink("directory")), Err(libc::EISDIR));
    assert_eq!(stage.change(unlink("missing")), Err(libc::ENOENT));
    assert_eq!(stage.outside.names(), ["directory", "file"]);
    assert_eq!(stage.change(unlink("file")), Ok(()));
    assert_eq!(stage.change(unlink("file")), Err(libc::ENOENT));
    assert_eq!(stage.outside.names(), ["directory"]);
    assert_eq!(stage.driver.read_resident(file, 0, &mut [0; 8]).unwrap(), 7, "what is open stays");
}

fn a_file_is_made_under_a_free_name_only(mut stage: Stage) {
    stage.add_file("file", b"content");
    let root = stage.root();
    let made = stage.opened(open_op(root, "new", Opening::New));
    stage.write_whole(made, b"new");
    for taken in ["file", "new", "."] {
        let open = stage.submit(open_op(root, taken, Opening::New));
        assert_eq!(stage.finish(open).result.unwrap_err().raw_os_error(), Some(libc::EEXIST), "{taken}");
    }
    for taken in ["file", "new"] {
        let make = Op::MakeDirectory { directory: root, name: name(taken), mode: DirectoryMode::Public };
        assert_eq!(stage.change(make), Err(libc::EEXIST));
    }
    for (path, error) in [("missing", libc::ENOENT), (".", libc::EISDIR), ("../file", libc::EXDEV)] {
        let open = stage.submit(open_op(root, path, Opening::Writable));
        assert_eq!(stage.finish(open).result.unwrap_err().raw_os_error(), Some(error), "{path}");
    }
    for (path, len) in [("file", 7), ("new", 3)] {
        let writable = stage.opened(open_op(root, path, Opening::Writable));
        assert_eq!(stage.driver.stat(writable).unwrap().len, len, "nothing is cut");
        let write = stage.write_from_pool(writable, len, b" and more");
        assert_eq!(stage.finish(write).result.unwrap(), 9);
    }
    assert_eq!(stage.outside.content("file").unwrap(), b"content and more");
    assert_eq!(stage.outside.content("new").unwrap(), b"new and more");
}

fn reserved_space_is_no_length(mut stage: Stage) {
    let file = stage.make("file");
    // Where the file system can't, it says so.
    let reserved = stage.change(Op::Allocate { file, len: 100_000 });
    assert!(matches!(reserved, Ok(()) | Err(libc::EOPNOTSUPP)), "{reserved:?}");
    assert_eq!(stage.driver.stat(file).unwrap().len, 0);
    assert_eq!(stage.change(Op::Allocate { file, len: 0 }), Err(libc::EINVAL));
    stage.write_whole(file, b"content");
    assert_eq!(stage.outside.content("file").unwrap(), b"content");
}

/// The owner of a descriptor may close it with the operation in flight; on a real kernel the number may be another file's at once.
fn a_close_never_overtakes_what_is_looked_up_late(mut stage: Stage) {
    stage.add_file("file", b"content");
    stage.add_file("old", b"old");
    stage.add_file("gone", b"gone");
    let open = stage.outside.open_beneath();
    let ops: [fn(RawFd, RawFd) -> Op; 7] = [
        |file, _| Op::Allocate { file, len: 8192 },
        |file, _| Op::Sync { fd: file },
        |file, directory| Op::link(file, directory, name("linked")),
        |_, directory| open_op(directory, "file", Opening::Beneath),
        |_, directory| Op::Unlink { directory, name: name("gone") },
        |_, directory| Op::MakeDirectory { directory, name: name("made"), mode: DirectoryMode::Private },
        |_, directory| Op::Rename {
            directory,
            name: name("old"),
            to_directory: directory,
            to_name: name("renamed"),
            taken: Taken::Refuse,
        },
    ];
    for op in ops {
        let root = stage.root();
        let file = stage.opened(open_op(root, ".", Opening::Unnamed));
        let slot = stage.submit(op(file, root));
        stage.driver.close(file, Closing::Inline);
        stage.driver.close(root, Closing::Inline);
        let Completion { result, op, .. } = stage.finish(slot);
        let yielded = result.unwrap_or_else(|error| panic!("{op:?}: {error}"));
        if let Some(Op::Open { .. }) = op {
            stage.driver.close(yielded as RawFd, Closing::Inline);
        }
        stage.turn_until("all is closed", |stage| stage.outside.open_beneath() == open);
    }
    assert_eq!(stage.outside.names(), ["file", "linked", "made", "renamed"]);
}

fn a_link_that_was_given_up_names_that_very_file_or_none(mut stage: Stage) {
    stage.add_directory("right");
    stage.add_directory("wrong");
    stage.add_file("stranger", b"stranger");
    let root = stage.root();
    let open = stage.outside.open_beneath();
    for (turns_before, cancelled) in [(0, true), (0, false), (0, true), (0, false), (1, true), (1, false)] {
        let right = stage.opened(open_op(root, "right", Opening::Beneath));
        let file = stage.opened(open_op(right, ".", Opening::Unnamed));
        stage.write_whole(file, b"ours");
        let slot = stage.submit(Op::link(file, right, name("name")));
        for _ in 0..turns_before {
            stage.turn();
        }
        if cancelled {
            stage.driver.abandon(slot);
        } else {
            // As when the cancellation comes too late.
            let _ = stage.driver.slots().abandon(slot);
        }
        stage.driver.close(file, Closing::Inline);
        stage.driver.close(right, Closing::Inline);
        // On a real kernel these are likely to get the numbers that become free.
        let strangers = ["stranger", "wrong"].map(|path| stage.opened(open_op(root, path, Opening::Beneath)));
        stage.turn_until("the kernel lets go", |stage| stage.driver.slots().in_flight() == 0);
        assert!(stage.outside.content("wrong/name").is_none());
        let linked = stage.outside.content("right/name");
        assert!(cancelled || linked.is_some());
        if let Some(content) = linked {
            assert_eq!(content, b"ours");
            let right = stage.opened(open_op(root, "right", Opening::Beneath));
            assert_eq!(stage.change(Op::Unlink { directory: right, name: name("name") }), Ok(()));
            stage.driver.close(right, Closing::Inline);
        }
        strangers.into_iter().for_each(|fd| stage.driver.close(fd, Closing::Inline));
        stage.turn_until("all is closed", |stage| stage.outside.open_beneath() == open);
    }
}

fn a_lock_excludes_a_second_descriptor_and_ends_with_its_close(mut stage: Stage) {
    stage.add_file("file", b"content");
    let [first, second] = [(); 2].map(|()| stage.open("file").unwrap());
    stage.driver.try_lock(first).unwrap();
    stage.driver.try_lock(first).unwrap();
    assert_eq!(stage.driver.try_lock(second).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    stage.driver.close(first, Closing::Inline);
    stage.turn_until("it is closed", |stage| stage.driver.slots().in_flight() == 0);
    stage.driver.try_lock(second).unwrap();
    let third = stage.open("file").unwrap();
    assert_eq!(stage.driver.try_lock(third).unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

fn a_teardown_ends_writes_and_links_and_closes_what_they_kept_open(mut stage: Stage) {
    let open = stage.outside.open_beneath();
    let pool = stage.driver.upload_pool().clone();
    let root = stage.root();
    let [given_up, wanted] = [(); 2].map(|()| stage.opened(open_op(root, ".", Opening::Unnamed)));
    for file in [given_up, wanted] {
        stage.write_from_pool(file, 0, b"content");
    }
    let link = stage.submit(Op::link(given_up, root, name("given up")));
    stage.driver.abandon(link);
    stage.submit(Op::link(wanted, root, name("wanted")));
    stage.submit(Op::Sync { fd: wanted });
    for fd in [given_up, wanted, root] {
        stage.driver.close(fd, Closing::Aside);
    }
    let Stage { driver, outside } = stage;
    drop(driver);
    assert_eq!((pool.in_use(), outside.open_beneath()), (0, open));
}

fn name(name: &str) -> CString {
    CString::new(name).unwrap()
}

impl Stage {
    /// A new file in the root.
    fn make(&mut self, path: &str) -> RawFd {
        let root = self.root();
        let file = self.opened(open_op(root, path, Opening::New));
        self.driver.close(root, Closing::Inline);
        self.turn_until("the root is closed", |stage| stage.driver.slots().in_flight() == 0);
        file
    }

    #[track_caller]
    fn opened(&mut self, op: Op) -> RawFd {
        let open = self.submit(op);
        self.finish(open).result.unwrap() as RawFd
    }

    /// Begins to write from an upload buffer that nobody else holds.
    fn write_from_pool(&mut self, file: RawFd, offset: u64, bytes: &[u8]) -> Slot {
        let mut buf = self.driver.upload_pool().try_take().unwrap();
        buf.append(bytes);
        self.submit(Op::Write { file, offset, from: WriteFrom::Buf { buf: Rc::new(buf), range: 0..bytes.len() } })
    }

    #[track_caller]
    fn write_whole(&mut self, file: RawFd, bytes: &[u8]) {
        let write = self.write_from_pool(file, 0, bytes);
        assert_eq!(self.finish(write).result.unwrap() as usize, bytes.len());
    }

    /// The outcome of a change, or its error number.
    #[track_caller]
    fn change(&mut self, op: Op) -> Result<(), i32> {
        let slot = self.submit(op);
        self.finish(slot).result.map(drop).map_err(|error| error.raw_os_error().unwrap())
    }
}

impl Outside {
    /// How many descriptors are open on the root and on what lies in it.
    fn open_beneath(&self) -> usize {
        match self {
            Outside::Real(root) => {
                let links = std::fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
                links.filter(|link| std::fs::read_link(link).is_ok_and(|to| to.starts_with(root.path()))).count()
            }
            Outside::Fake(world) => {
                let open = world.open_descriptors();
                open.files + open.directories
            }
        }
    }

    /// What is in the root, in order.
    fn names(&self) -> Vec<String> {
        match self {
            Outside::Real(root) => {
                let entries = std::fs::read_dir(root.path()).unwrap();
                let mut names: Vec<_> =
                    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
                names.sort();
                names
            }
            Outside::Fake(world) => world.names("root"),
        }
    }

    /// What a file in the root holds, if there is one.
    fn content(&self, path: &str) -> Option<Vec<u8>> {
        match self {
            Outside::Real(root) => std::fs::read(root.path().join(path)).ok(),
            Outside::Fake(world) => {
                let path = format!("root/{path}");
                let (directory, name) = path.rsplit_once('/').unwrap();
                world.names(directory).iter().any(|there| there == name).then(|| world.content(&path))
            }
        }
    }
}
