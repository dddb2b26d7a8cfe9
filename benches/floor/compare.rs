//! The loops side by side: each pinned to one processor, loaded by one thread on another, in alternating rounds.
//!
//! For more than a look (other servers, other sizes, latency) load them with `tools/loadgen`.

use std::error::Error;
use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{MsgFlags, recv, send};
use nix::unistd::{Pid, SysconfVar, sysconf};

use crate::Kind;
use crate::client::{Head, Server, request, write_file};

const ROUNDS: usize = 3;
const WARM_UP: Duration = Duration::from_millis(200);
const MEASURED: Duration = Duration::from_secs(1);
const CONNECTIONS: usize = 32;
const SMALL: (&str, u64) = ("1k.bin", 1 << 10);
const LARGE: (&str, u64) = ("64m.bin", 64 << 20);
const RANGE_LEN: u64 = 1 << 20;
/// The first read of a reply: a small one whole, and little of a large one, whose rest is dropped in the kernel.
const HEAD_READ_LEN: usize = 2048;
/// A loop that does not answer for this long fails.
const PATIENCE_MS: u16 = 5_000;

/// What was seen of a loop in one round.
struct Sample {
    requests_a_second: f64,
    cpu_us_a_request: f64,
    cpu_ms_a_gigabyte: f64,
    /// The part of its processor that the loop used: where that is not nearly all, the client was measured too.
    busy: f64,
}

/// Measures every loop and prints a table.
///
/// # Errors
/// A loop does not start or does not answer.
pub fn all() -> Result<(), Box<dyn Error>> {
    let root = tempfile::tempdir()?;
    for (name, len) in [SMALL, LARGE] {
        write_file(&root.path().join(name), len)?;
    }
    let [server_cpu, client_cpu] = processors()?;
    pin(server_cpu)?;
    let kinds = Kind::value_variants();
    let servers = kinds.iter().map(|kind| Server::start(*kind, root.path())).collect::<io::Result<Vec<_>>>()?;
    pin(client_cpu)?;
    let mut samples: Vec<Vec<Sample>> = servers.iter().map(|_| Vec::new()).collect();
    for round in 0..ROUNDS {
        // Each round begins with another, so that none is always first.
        for turn in 0..servers.len() {
            let number = (round + turn) % servers.len();
            let server = &servers[number];
            let sample = measure(server).map_err(|error| format!("{}: {error}", server.kind.name()))?;
            samples[number].push(sample);
        }
    }
    println!(
        "servers on processor {server_cpu}, client on {client_cpu}; {CONNECTIONS} connections, medians of {ROUNDS} rounds of {} s",
        MEASURED.as_secs_f64()
    );
    println!(
        "| loop | reply | requests/s | CPU us/request | CPU ms/GB | busy |\n| --- | --- | ---: | ---: | ---: | ---: |"
    );
    for (server, samples) in servers.iter().zip(&samples) {
        println!(
            "| {} | {} | {:.0} | {:.2} | {:.1} | {:.0} % |",
            server.kind.name(),
            if server.kind.is_for_large_files() { "1 MiB range" } else { "1 KiB file" },
            median(samples, |sample| sample.requests_a_second),
            median(samples, |sample| sample.cpu_us_a_request),
            median(samples, |sample| sample.cpu_ms_a_gigabyte),
            median(samples, |sample| sample.busy * 100.0),
        );
    }
    Ok(())
}

fn median(samples: &[Sample], of: impl Fn(&Sample) -> f64) -> f64 {
    let mut values: Vec<f64> = samples.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The first processor that we may use and the one after it.
fn processors() -> Result<[usize; 2], Box<dyn Error>> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    let mut usable = (0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false));
    let two =
        usable.next().zip(usable.next()).ok_or("two processors are needed: one for the loop, one for the client")?;
    Ok(two.into())
}

/// Runs this thread, and what it starts from now on, on one processor.
fn pin(cpu: usize) -> nix::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set)
}

/// One connection: how much of the reply is still to come.
struct Connection {
    stream: TcpStream,
    /// Of the body; `None` before the head.
    left: Option<usize>,
}

/// What a client counts.
#[derive(Clone, Copy, Default)]
struct Count {
    requests: u64,
    bytes: u64,
}

fn measure(server: &Server) -> io::Result<Sample> {
    let mut client = Client::connect(server)?;
    client.run(WARM_UP)?;
    let (ticks, count, begin) = (server.ticks()?, client.count, Instant::now());
    client.run(MEASURED)?;
    let (ticks, elapsed) = (server.ticks()? - ticks, begin.elapsed());
    let requests = (client.count.requests - count.requests) as f64;
    let bytes = (client.count.bytes - count.bytes) as f64;
    let ticks_a_second = sysconf(SysconfVar::CLK_TCK)?.ok_or(io::ErrorKind::Unsupported)? as f64;
    let cpu_s = ticks as f64 / ticks_a_second;
    Ok(Sample {
        requests_a_second: requests / elapsed.as_secs_f64(),
        cpu_us_a_request: cpu_s * 1e6 / requests,
        cpu_ms_a_gigabyte: cpu_s * 1e3 / (bytes / 1e9),
        busy: cpu_s / elapsed.as_secs_f64(),
    })
}

/// Connections that each have one request out, always.
struct Client {
    connections: Vec<Connection>,
    epoll: Epoll,
    large: bool,
    /// Bodies that are dropped in the kernel never come here, but the system call wants a place for them.
    scratch: Vec<u8>,
    count: Count,
}

impl Client {
    fn connect(server: &Server) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mut connections = Vec::new();
        for number in 0..CONNECTIONS {
            let stream = TcpStream::connect(server.address)?;
            stream.set_nodelay(true)?;
            epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, number as u64))?;
            connections.push(Connection { stream, left: None });
        }
        let (large, scratch) = (server.kind.is_for_large_files(), vec![0; RANGE_LEN as usize]);
        let mut client = Client { connections, epoll, large, scratch, count: Count::default() };
        for number in 0..CONNECTIONS {
            client.ask(number, number as u64)?;
        }
        Ok(client)
    }

    fn run(&mut self, duration: Duration) -> io::Result<()> {
        let end = Instant::now() + duration;
        let mut events = [EpollEvent::empty(); CONNECTIONS];
        while Instant::now() < end {
            let ready = self.epoll.wait(&mut events, EpollTimeout::from(PATIENCE_MS))?;
            if ready == 0 {
                return Err(io::ErrorKind::TimedOut.into());
            }
            for event in &events[..ready] {
                self.read(event.data() as usize)?;
            }
        }
        Ok(())
    }

    /// Reads once, and asks again when the reply is whole.
    fn read(&mut self, number: usize) -> io::Result<()> {
        let connection = &mut self.connections[number];
        let (wanted, flags) = match connection.left {
            None => (HEAD_READ_LEN, MsgFlags::empty()),
            // MSG_TRUNC on a TCP socket drops the bytes instead of copying them out (tcp(7)).
            Some(left) => (left, MsgFlags::MSG_TRUNC),
        };
        let fd = connection.stream.as_raw_fd();
        let len = match recv(fd, &mut self.scratch[..wanted], flags | MsgFlags::MSG_DONTWAIT) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(Errno::EAGAIN) => return Ok(()),
            result => result?,
        };
        let left = match connection.left {
            Some(left) => left - len,
            None => {
                let head = Head::parse(&self.scratch[..len])?.ok_or_else(|| io::Error::other("a part of a head"))?;
                head.content_length + head.len - len
            }
        };
        connection.left = Some(left);
        self.count.bytes += len as u64;
        if left == 0 {
            self.count.requests += 1;
            self.ask(number, self.count.requests)?;
        }
        Ok(())
    }

    /// Sends a request; `seed` chooses the range.
    fn ask(&mut self, number: usize, seed: u64) -> io::Result<()> {
        let connection = &mut self.connections[number];
        connection.left = None;
        let bytes = if self.large {
            // An odd factor walks through all residues: ranges that begin anywhere, all over the file.
            let start = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (LARGE.1 - RANGE_LEN);
            request(LARGE.0, Some(start..start + RANGE_LEN))
        } else {
            request(SMALL.0, None)
        };
        match send(connection.stream.as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL)? {
            sent if sent == bytes.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }
}
