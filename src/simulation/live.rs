//! Live media on a kernel on which everything goes wrong: readers get the encoder's bytes or see that they don't, what came is kept,
//! and in the end neither a descriptor nor a buffer nor a task is left.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::guest::{Ask, Guest, Manner, Mishap, check_bytes};
use super::{BUMPY, MARK, Server, World, first, streams, tight};
use crate::config::{Fsync, LiveConfig, MediaConfig, OnSecondEncoder};
use crate::driver::sim::{Faults, explore};
use crate::handler::live::Live;
use crate::handler::media::Media;
use crate::router::Routes;

/// Several high water marks, not a round number of buffers.
const LEN: u64 = 5 * MARK as u64 + 333;

/// The folder is the root of the world, and what is live in it is the world's own.
fn routes(on_second_encoder: OnSecondEncoder) -> Routes {
    let config = LiveConfig { on_second_encoder, ..LiveConfig::default() };
    let folder = MediaConfig::new("/");
    let media = Arc::new(Media::new(folder.clone()).expect("a root"));
    let live = Live::simulated(config, &folder, media).expect("a folder");
    let mut routes = Routes::default();
    routes.add(None, "/live", Arc::new(live));
    routes
}

fn put(world: &World, name: &str, content: &[u8], statuses: &'static [u16]) -> Ask {
    let head = format!("PUT /live/{name} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    let bytes = [head.as_bytes(), &streams::chunked(world, content)].concat();
    Ask::new(bytes, move |reply| {
        let body = String::from_utf8_lossy(&reply.body);
        assert!(statuses.contains(&reply.status), "{} {body}", reply.status);
    })
}

/// Asks for a file that may be there, be made, or not be there yet; what comes whole is whole.
fn get(name: &str, statuses: &'static [u16]) -> Ask {
    Ask::get(&format!("live/{name}"), "", move |reply| {
        assert!(statuses.contains(&reply.status), "{}", reply.status);
        if reply.status == 200 {
            check_bytes(&reply.body, 0, LEN);
        }
    })
}

fn content(len: u64) -> Vec<u8> {
    (0..len).map(first).collect()
}

/// An encoder that is slow, so that others come while it sends.
fn slow(world: &World) -> Manner {
    Manner { split: 3000, pace: Duration::from_millis(20), ..Manner::drawn(world) }
}

/// Nothing is in the store, and each file is a beginning of what was sent: all of it, unless its name says otherwise.
#[track_caller]
fn check_folder(world: &World) -> Vec<String> {
    let names: Vec<String> = world.names(".").into_iter().filter(|name| name != ".live").collect();
    if world.names(".").iter().any(|name| name == ".live") {
        assert_eq!(world.names(".live"), [""; 0], "left in the store");
    }
    for name in &names {
        let bytes = world.content(name);
        check_bytes(&bytes, 0, if name.contains("incomplete") { bytes.len() as u64 } else { LEN });
        assert!(!bytes.is_empty(), "{name}");
    }
    names
}

/// T1: readers that come at any time, at their own pace, over short writes and sends, get every byte.
#[test]
fn t1_readers_follow_byte_for_byte_on_a_bumpy_kernel() {
    explore(BUMPY, |world| {
        let mut server = Server::with_routes(world, tight(), routes(OnSecondEncoder::Reject));
        let encoder = server.invite(slow(world), [put(world, "a.ts", &content(LEN), &[201])]);
        server.run_until("the encoder begins", |server| server.metrics().live_streams.get() == 1);
        let readers: Vec<Guest> = (0..6).map(|_| server.invite(Manner::drawn(world), [get("a.ts", &[200])])).collect();
        server.serve(std::slice::from_ref(&encoder));
        server.serve(&readers);
        assert!(readers.iter().chain([&encoder]).all(|guest| guest.answered() == 1));
        server.settle();
        assert_eq!(check_folder(world), ["a.ts"]);
        server.finish();
    });
}

/// T2, T3: an encoder that goes at any step ends its readers, who can tell, and what came of it is kept.
#[test]
fn t3_an_encoder_that_goes_at_any_step_leaves_a_beginning_and_nothing_else() {
    explore(BUMPY, |world| {
        let mut server = Server::with_routes(world, tight(), routes(OnSecondEncoder::Reject));
        let mishap = [Mishap::Reset, Mishap::Close][world.below(2) as usize];
        let mishap = Some((world.below(40) as usize, mishap));
        let manner = Manner { mishap, may_be_cut: true, ..slow(world) };
        let encoder = server.invite(manner, [put(world, "a.ts", &content(LEN), &[201])]);
        let readers: Vec<Guest> = (0..4)
            .map(|_| {
                let asks = (0..3).map(|_| get("a.ts", &[200, 404])).collect::<Vec<_>>();
                server.invite(Manner { may_be_cut: true, ..Manner::drawn(world) }, asks)
            })
            .collect();
        server.serve(std::slice::from_ref(&encoder));
        server.serve(&readers);
        server.settle();
        assert!(check_folder(world).len() <= 1);
        server.finish();
    });
}

/// T2: readers that go at any step take nothing with them: the encoder does not notice.
#[test]
fn t2_readers_that_vanish_cost_nothing() {
    explore(BUMPY, |world| {
        let mut server = Server::with_routes(world, tight(), routes(OnSecondEncoder::Reject));
        let encoder = server.invite(slow(world), [put(world, "a.ts", &content(LEN), &[201])]);
        let readers: Vec<Guest> = (0..8)
            .map(|_| {
                let mishap = [Mishap::Reset, Mishap::Close, Mishap::Stop][world.below(3) as usize];
                let mishap = Some((world.below(30) as usize, mishap));
                let manner = Manner { mishap, may_be_cut: true, ..Manner::drawn(world) };
                server.invite(manner, [get("a.ts", &[200, 404]), get("a.ts", &[200, 404])])
            })
            .collect();
        server.serve(std::slice::from_ref(&encoder));
        assert_eq!(encoder.answered(), 1);
        server.serve(&readers);
        server.settle();
        assert_eq!(check_folder(world), ["a.ts"]);
        server.finish();
    });
}

/// A disk that fails, or is full at any byte, is told to the encoder, and what came before is kept.
#[test]
fn a_disk_that_fails_or_is_full_at_any_byte_keeps_a_beginning() {
    for faults in [BUMPY, Faults { write_error: 0.02, ..BUMPY }] {
        explore(faults, |world| {
            world.limit_space(world.below(2 * LEN));
            let mut server = Server::with_routes(world, tight(), routes(OnSecondEncoder::Reject));
            let manner = || Manner { may_be_cut: true, ..Manner::drawn(world) };
            let encoders = (0..3).map(|n| {
                let ask = put(world, &format!("{n}.ts"), &content(LEN), &[201, 500, 507]);
                server.invite(manner(), [ask])
            });
            let mut guests: Vec<Guest> = encoders.collect();
            guests.extend((0..3).map(|n| server.invite(manner(), [get(&format!("{n}.ts"), &[200, 404, 500])])));
            server.serve(&guests);
            server.settle();
            // Where names can't be changed, what came stays for the next start.
            if faults.write_error == 0.0 {
                check_folder(world);
            }
            server.finish();
        });
    }
}

/// Of several encoders of one name the last one wins, and all that the others have made is kept; or the first one does.
#[test]
fn encoders_of_one_name_leave_one_file_and_what_broke_off() {
    for on_second in [OnSecondEncoder::TakeOver, OnSecondEncoder::Reject] {
        explore(BUMPY, |world| {
            let mut server = Server::with_routes(world, tight(), routes(on_second));
            let guests: Vec<Guest> = (0..4)
                .map(|_| {
                    let manner = Manner { may_be_cut: true, ..slow(world) };
                    server.invite(manner, [put(world, "a.ts", &content(LEN), &[201, 204, 409])])
                })
                .collect();
            server.serve(&guests);
            server.settle();
            let names = check_folder(world);
            assert!(names.contains(&String::from("a.ts")), "{names:?}");
            assert!(on_second == OnSecondEncoder::TakeOver || names.len() == 1, "{names:?}");
            server.finish();
        });
    }
}

/// What is replaced whole is one version or the other, whenever it is read.
#[test]
fn a_playlist_is_one_version_whenever_it_is_read() {
    explore(BUMPY, |world| {
        let mut server = Server::with_routes(world, tight(), routes(OnSecondEncoder::Reject));
        let writers: Vec<Guest> = (0..2)
            .map(|_| {
                let asks = (0..2).map(|_| put(world, "a.m3u8", &content(LEN), &[201, 204])).collect::<Vec<_>>();
                server.invite(Manner::drawn(world), asks)
            })
            .collect();
        let readers: Vec<Guest> = (0..2)
            .map(|_| {
                let asks = (0..4).map(|_| get("a.m3u8", &[200, 404])).collect::<Vec<_>>();
                server.invite(Manner::drawn(world), asks)
            })
            .collect();
        server.serve(&writers);
        server.serve(&readers);
        server.settle();
        assert_eq!(check_folder(world), ["a.m3u8"]);
        server.finish();
    });
}

/// Whoever took the name over has it at the end, however long the other's file takes to get its place.
#[test]
fn one_that_was_taken_over_while_it_gets_its_place_does_not_replace_the_next() {
    for fsync in [Fsync::None, Fsync::File] {
        explore(BUMPY, |world| {
            let config = LiveConfig { on_second_encoder: OnSecondEncoder::TakeOver, fsync, ..LiveConfig::default() };
            let folder = MediaConfig::new("/");
            let media = Arc::new(Media::new(folder.clone()).expect("a root"));
            let live = Live::simulated(config, &folder, media).expect("a folder");
            let mut routes = Routes::default();
            routes.add(None, "/live", Arc::new(live));
            let mut server = Server::with_routes(world, tight(), routes);
            let manner = Manner { may_be_cut: true, ..Manner::PLAIN };
            let old = put(world, "a.ts", &content(100 + world.below(LEN)), &[201, 204, 409]);
            let old = server.invite(manner, [old]);
            server.run_until("the encoder begins", |server| server.metrics().live_streams.get() == 1);
            let is_stored = Rc::new(Cell::new(false));
            let flag = is_stored.clone();
            let ask = put(world, "a.ts", b"new", &[201, 204, 409]);
            let new = server.invite(manner, [Ask::new(ask.bytes, move |reply| flag.set(reply.status != 409))]);
            server.serve(&[old, new]);
            server.settle();
            assert!(!is_stored.get() || world.content("a.ts").len() == 3, "{fsync:?}: the older one's file is there");
            server.finish();
        });
    }
}
