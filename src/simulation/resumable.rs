//! Uploads that are resumed, on a kernel that writes short, slowly and with errors, with clients that go and servers that end at
//! any step: what was told to be there is there, the file is byte-exact in the end, and the store holds nothing of others.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::reply::{self, Reply};
use super::{BUMPY, MARK, Server, World, first, tight};
use crate::config::{Names, UploadConfig};
use crate::driver::sim::{End, Faults, explore};
use crate::handler::upload::Upload;
use crate::router::Routes;

/// Several high water marks, not a round number of buffers.
const LEN: u64 = 4 * MARK as u64 + 333;
const SPACE: u64 = 1 << 30;
const STORE: &str = ".uploads";
/// Requests that may go wrong before all goes well again.
const ROUNDS: usize = 12;

fn serve(world: &Rc<World>) -> Server {
    let config = UploadConfig { names: Names::Client, ..UploadConfig::new("/") };
    let mut routes = Routes::default();
    routes.add(None, "/up", Arc::new(Upload::new(config).expect("a folder")));
    Server::with_routes(world, tight(), routes)
}

/// What becomes of a client and its server, and before which of the client's steps.
#[derive(Clone, Copy)]
enum Mishap {
    /// The client breaks the connection.
    Reset(usize),
    /// It ends as a process does.
    Close(usize),
    /// It neither sends nor reads any more, and its connection stays.
    Stall(usize),
    /// The worker is shut down with all that is under way.
    End(usize),
}

impl Mishap {
    fn drawn(world: &World) -> Option<Self> {
        let step = world.below(40) as usize;
        Some(match world.below(6) {
            0 => Mishap::Reset(step),
            1 => Mishap::Close(step),
            2 => Mishap::Stall(step),
            3 => Mishap::End(step),
            _ => return None,
        })
    }

    fn step(self) -> usize {
        let (Mishap::Reset(step) | Mishap::Close(step) | Mishap::Stall(step) | Mishap::End(step)) = self;
        step
    }
}

/// A server that is followed by another one when it ends.
struct Site {
    world: Rc<World>,
    server: Option<Server>,
}

impl Site {
    fn open(world: &Rc<World>) -> Self {
        Site { world: world.clone(), server: Some(serve(world)) }
    }

    fn server(&mut self) -> &mut Server {
        self.server.as_mut().expect("one serves")
    }

    fn restart(&mut self) {
        self.server.take().expect("one serves").finish();
        self.server = Some(serve(&self.world));
    }

    /// Sends a request in splits and returns its reply, unless something happens before.
    fn ask(&mut self, request: &[u8], mishap: Option<Mishap>) -> Option<Reply> {
        let world = self.world.clone();
        let client = self.server().connect();
        client.window(64 << 10);
        let (to_head, mut outgoing, mut incoming) = (request.starts_with(b"HEAD "), request, Vec::new());
        for step in 0.. {
            match mishap.filter(|mishap| mishap.step() == step) {
                None => {}
                Some(Mishap::Reset(_)) => client.reset(),
                Some(Mishap::Close(_)) => client.close(),
                Some(Mishap::End(_)) => self.restart(),
                // The others are faster than the server's patience.
                Some(Mishap::Stall(_)) => {}
            }
            if mishap.is_some_and(|mishap| mishap.step() == step) {
                return None;
            }
            let most = 1 + world.below(9000) as usize;
            let sent = client.try_send(&outgoing[..most.min(outgoing.len())]);
            outgoing = &outgoing[sent..];
            self.server().run_for(Duration::from_micros(1 + world.below(2000)));
            incoming.extend(client.take_received());
            let ended = client.end() != End::Open;
            if let Some((reply, _)) = reply::take(&incoming, to_head, ended) {
                client.close();
                return Some(reply);
            }
            if ended {
                return None;
            }
        }
        None
    }
}

fn request(method: &str, target: &str, fields: &str, body: &[u8]) -> Vec<u8> {
    let len = body.len();
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: a\r\nTus-Resumable: 1.0.0\r\n{fields}Content-Length: {len}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// The request that goes on with `len` bytes from this offset on.
fn patch(location: &str, offset: u64, len: u64) -> Vec<u8> {
    let bytes: Vec<u8> = (offset..offset + len).map(first).collect();
    let fields = format!("Content-Type: application/offset+octet-stream\r\nUpload-Offset: {offset}\r\n");
    request("PATCH", location, &fields, &bytes)
}

fn offset_of(reply: &Reply) -> u64 {
    reply.field("Upload-Offset").expect("an offset").parse().expect("digits")
}

/// Creates an upload of [`LEN`] bytes called `film`.
fn create(site: &mut Site) -> String {
    let fields = format!("Upload-Length: {LEN}\r\nUpload-Metadata: filename ZmlsbQ==\r\n");
    let reply = site.ask(&request("POST", "/up", &fields, b""), None).expect("a reply");
    assert_eq!(reply.status, 201);
    reply.field("Location").expect("an address").to_owned()
}

/// Sends the rest on a kernel that works, and checks what it has become.
fn complete(site: &mut Site, location: &str, told: u64) {
    let reply = site.ask(&request("HEAD", location, "", b""), None).expect("a reply");
    assert_eq!(reply.status, 200);
    let offset = offset_of(&reply);
    assert!((told..=LEN).contains(&offset), "{offset} of {told} that were told to be there");
    let reply = site.ask(&patch(location, offset, LEN - offset), None).expect("a reply");
    assert_eq!((reply.status, offset_of(&reply)), (204, LEN), "{}", String::from_utf8_lossy(&reply.body));
    let world = site.world.clone();
    assert!(world.content("film") == (0..LEN).map(first).collect::<Vec<u8>>(), "not the bytes that were sent");
    let files: Vec<String> = world.names(".").into_iter().filter(|name| name != STORE).collect();
    assert_eq!(files, ["film"]);
    let id = location.rsplit('/').next().expect("a number");
    assert!(world.names(STORE).iter().all(|name| name.starts_with(id)), "{:?}", world.names(STORE));
}

/// Until nothing is held but what every server holds, and then the end.
fn close(mut site: Site) {
    let mut server = site.server.take().expect("one serves");
    server.run_until("nothing is held", |server| {
        let open = server.world.open_descriptors();
        let runtime = &server.parts().runtime;
        server.connections().is_empty() && open.sockets == 0 && open.files == 0 && runtime.upload_pool().in_use() == 0
    });
    assert_eq!(server.pools().map(|pool| pool.in_use()), [0; 3]);
    server.finish();
}

/// U4, U6, T2: whatever happens in a row of requests, the offset that was told is there, and the rest makes the file.
#[test]
fn u4_an_upload_survives_what_happens_to_clients_disks_and_servers() {
    for write_error in [0.0, 0.02] {
        explore(BUMPY, |world| {
            world.limit_space(SPACE);
            let mut site = Site::open(world);
            let location = create(&mut site);
            let mut told = 0;
            for _ in 0..ROUNDS {
                world.set_faults(Faults { write_error, ..BUMPY });
                if write_error > 0.0 && world.below(3) == 0 {
                    world.limit_space(world.below(3000));
                }
                let mishap = Mishap::drawn(world);
                if let Some(head) =
                    site.ask(&request("HEAD", &location, "", b""), mishap.filter(|_| world.below(4) == 0))
                    && head.status == 200
                {
                    let offset = offset_of(&head);
                    assert!((told..=LEN).contains(&offset), "{offset} of {told} that were told to be there");
                    told = offset;
                }
                let len = world.below(LEN - told + 1);
                if let Some(reply) = site.ask(&patch(&location, told, len), mishap) {
                    let allowed: &[u16] = if write_error > 0.0 { &[204, 409, 500, 507] } else { &[204, 409] };
                    assert!(allowed.contains(&reply.status), "{}", reply.status);
                    if reply.status == 204 {
                        assert_eq!(offset_of(&reply), told + len);
                        told += len;
                    }
                }
                world.limit_space(SPACE);
            }
            world.set_faults(BUMPY);
            complete(&mut site, &location, told);
            close(site);
        });
    }
}

/// U6: the client that comes back gets the upload at once from one that has stopped at any step, however slow the disk is.
#[test]
fn u6_a_stalled_client_is_taken_over_at_any_step() {
    explore(BUMPY, |world| {
        let mut site = Site::open(world);
        let location = create(&mut site);
        let mut told = 0;
        for _ in 0..5 {
            let step = world.below(25) as usize;
            let stalled = site.ask(&patch(&location, told, LEN - told), Some(Mishap::Stall(step)));
            assert!(stalled.is_none_or(|reply| reply.status == 204));
            let before = world.now();
            let reply = site.ask(&request("HEAD", &location, "", b""), None).expect("a reply");
            assert!(world.now() - before < Duration::from_millis(500), "after {:?}", world.now() - before);
            told = offset_of(&reply);
        }
        complete(&mut site, &location, told);
        close(site);
    });
}
