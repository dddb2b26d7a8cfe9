//! A guard that asks a service, in a world where connects, sends and receives take their time: each guest gets the service's word on
//! its own request, and whoever leaves takes its question along.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use super::guest::{Ask, Guest, Manner, Mishap, check_bytes};
use super::{BUMPY, Server, Shared, World, add_file, tight};
use crate::config::{AuthConfig, MediaConfig};
use crate::driver::op::RemoteAddress;
use crate::driver::sim::{Backend, Client, explore};
use crate::handler::guard::Guard;
use crate::handler::media::Media;
use crate::limits::Limits;
use crate::router::Routes;

const FILM: u64 = 3000;
const SERVICE: &str = "192.0.2.9:9000";
/// Between two looks of the service at its connections.
const LOOK: Duration = Duration::from_millis(1);

/// What a service answers to a question about a request for this, and what its client gets for it.
const ANSWERS: [(&str, Option<&str>, u16); 6] = [
    ("film?yes", Some("HTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"), 200),
    ("film?no", Some("HTTP/1.1 403 No\r\n\r\n"), 403),
    ("film?who", Some("HTTP/1.1 401 No\r\nWWW-Authenticate: Basic\r\n\r\n"), 401),
    ("film?odd", Some("HTTP/1.1 500 Odd\r\n\r\n"), 502),
    ("film?cut", Some("HTTP/1.1 200 OK\r\nConten"), 502),
    ("film?hang", None, 504),
];

/// The service, which looks at its connections now and then.
struct Service {
    world: Weak<World>,
    backend: Rc<Backend>,
    questions: Vec<Question>,
    taken: usize,
}

/// One connection to it.
struct Question {
    client: Client,
    head: Vec<u8>,
    /// Still to be sent, once it is known.
    reply: Option<&'static [u8]>,
    is_over: bool,
}

impl Service {
    fn open(world: &Rc<World>) -> Shared<Self> {
        let backend = world.serve(RemoteAddress::tcp(SERVICE.parse().unwrap()));
        let service = Service { world: Rc::downgrade(world), backend, questions: Vec::new(), taken: 0 };
        let service = Rc::new(RefCell::new(service));
        look_later(&service, world);
        service
    }

    fn look(&mut self, world: &World) {
        while let Some(client) = self.backend.accept() {
            self.taken += 1;
            self.questions.push(Question { client, head: Vec::new(), reply: None, is_over: false });
        }
        self.questions.iter_mut().for_each(|question| question.go_on(world));
        self.questions.retain(|question| !question.is_over);
    }
}

fn look_later(service: &Shared<Service>, world: &Rc<World>) {
    let service = Rc::downgrade(service);
    world.schedule(LOOK, move || {
        // It goes with the test that holds it.
        let Some(service) = service.upgrade() else { return };
        let Some(world) = service.borrow().world.upgrade() else { return };
        service.borrow_mut().look(&world);
        look_later(&service, &world);
    });
}

impl Question {
    fn go_on(&mut self, world: &World) {
        self.head.extend(self.client.take_received());
        if self.client.end() != crate::driver::sim::End::Open {
            self.client.close();
            self.is_over = true;
            return;
        }
        if self.reply.is_none() && self.head.ends_with(b"\r\n\r\n") {
            let head = String::from_utf8(std::mem::take(&mut self.head)).unwrap();
            let is_about = |path: &str| head.contains(&format!("\r\nX-Original-URI: /g/{path}\r\n"));
            let (_, reply, _) = ANSWERS.iter().find(|(path, ..)| is_about(path)).unwrap_or_else(|| panic!("{head}"));
            self.reply = reply.map(str::as_bytes);
        }
        if let Some(reply) = &mut self.reply {
            let most = 1 + world.below(60) as usize;
            let (now, later) = reply.split_at(most.min(reply.len()));
            self.client.send(now);
            *reply = later;
            if later.is_empty() {
                self.client.close();
                self.is_over = true;
            }
        }
    }
}

fn start(world: &Rc<World>, limits: Limits) -> Server {
    add_file(world, "film", FILM);
    let request = format!("http://{SERVICE}/check").parse().ok();
    let auth = AuthConfig { request, request_timeout: Duration::from_secs(1), ..AuthConfig::default() };
    let media = Media::new(MediaConfig::new("/")).expect("a root");
    let mut routes = Routes::default();
    routes.add(None, "/g", Arc::new(Guard::new(auth, media).expect("a guard")));
    Server::with_routes(world, limits, routes)
}

fn any(world: &World) -> Ask {
    let (path, _, status) = ANSWERS[world.below(ANSWERS.len() as u64) as usize];
    Ask::get(&format!("g/{path}"), "Cookie: a=b\r\n", move |reply| {
        assert_eq!(reply.status, status, "{path}");
        assert_eq!(reply.field("WWW-Authenticate"), (status == 401).then_some("Basic"));
        if status == 200 {
            check_bytes(&reply.body, 0, FILM);
        }
    })
}

#[test]
fn each_request_gets_the_services_word_on_itself() {
    explore(BUMPY, |world| {
        let service = Service::open(world);
        let mut server = start(world, tight());
        let guests: Vec<Guest> =
            (0..4).map(|_| server.invite(Manner::drawn(world), (0..4).map(|_| any(world)))).collect();
        server.serve(&guests);
        assert!(guests.iter().all(|guest| guest.answered() == 4));
        server.settle();
        assert_eq!(service.borrow().taken, 16);
        server.finish();
    });
}

/// Promise 5: a client that leaves while its request waits for the service's word leaves nothing, whatever the step.
#[test]
fn t5_a_client_that_leaves_at_any_step_cancels_its_question() {
    explore(BUMPY, |world| {
        let _service = Service::open(world);
        let mut server = start(world, tight());
        let guests: Vec<Guest> = (0..4)
            .map(|_| {
                let mishap = [Mishap::Reset, Mishap::Close][world.below(2) as usize];
                let manner = Manner { mishap: Some((world.below(30) as usize, mishap)), ..Manner::drawn(world) };
                server.invite(manner, (0..3).map(|_| any(world)))
            })
            .collect();
        server.serve(&guests);
        server.settle();
        assert_eq!(server.parts().worker.auth_requests.left(), tight().auth_requests);
        server.finish();
    });
}

#[test]
fn a_service_that_is_silent_or_gone_is_said_to_be() {
    explore(BUMPY, |world| {
        let service = Service::open(world);
        let mut server = start(world, tight());
        let mut expect = |what: &'static str, status| {
            let ask = Ask::get("g/film?yes", "", move |reply| assert_eq!(reply.status, status, "{what}"));
            let guest = server.invite(Manner::PLAIN, [ask]);
            server.serve(&[guest]);
        };
        service.borrow().backend.fall_silent(true);
        expect("no answer to the connect", 504);
        service.borrow().backend.fall_silent(false);
        expect("it is back", 200);
        drop(service);
        expect("nobody is there", 502);
        server.settle();
        server.finish();
    });
}

/// Promise 1: those who wait for a word are bounded, and who is over the bound is told to come again.
#[test]
fn questions_under_way_are_bounded() {
    explore(BUMPY, |world| {
        let service = Service::open(world);
        service.borrow().backend.fall_silent(true);
        let mut server = start(world, Limits { auth_requests: 2, ..tight() });
        let busy: Shared<usize> = Shared::default();
        let guests: Vec<Guest> = (0..5)
            .map(|_| {
                let busy = busy.clone();
                let ask = Ask::get("g/film?yes", "", move |reply| match reply.status {
                    503 => *busy.borrow_mut() += usize::from(reply.field("Retry-After") == Some("1")),
                    status => assert_eq!(status, 504),
                });
                server.invite(Manner::PLAIN, [ask])
            })
            .collect();
        server.serve(&guests);
        assert_eq!(*busy.borrow(), 3);
        server.settle();
        server.finish();
    });
}
