//! The floor: what a bare loop of receive, parse and send takes on this machine, on the raw ring, on monoio and on tokio-uring, and
//! a bare loop of sendfile(2) or splice(2), and of send(2) to many. These are the limits that the server is held against, in the same run.
//!
//! ```sh
//! cargo bench --bench floor                                                           # all of them side by side
//! cargo bench --bench floor -- --test                                                 # only whether their bytes are right
//! cargo bench --bench floor -- serve ring --listen 127.0.0.1:0 --root FOLDER          # one of them, for others to load
//! cargo bench --bench floor -- fan-out --listen 127.0.0.1:0                           # one event to many
//! ```
//!
//! They are floors and no servers: a request that is split, pipelined, too long or for what is not there ends its connection,
//! and so does a client that half-closes. But what they send is right, which is checked.

// It stands beside the server to be compared with it, so it can't use the server's driver; each block says why it is sound.
#![allow(unsafe_code)]

#[path = "floor/buffers.rs"]
mod buffers;
#[path = "floor/check.rs"]
mod check;
#[path = "floor/client.rs"]
mod client;
#[path = "floor/compare.rs"]
mod compare;
#[path = "floor/fan_out.rs"]
mod fan_out;
#[path = "floor/file.rs"]
mod file;
#[path = "floor/http.rs"]
mod http;
#[path = "floor/ring.rs"]
mod ring;
#[path = "floor/runtimes.rs"]
mod runtimes;

use std::error::Error;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand, ValueEnum};
use nix::sys::socket::{setsockopt, sockopt};

/// The floor that Highwater is held against.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Only check the bytes of every loop.
    #[arg(long)]
    test: bool,
    /// Given by `cargo bench`, and by nobody else: what `cargo test` starts is a check.
    #[arg(long, global = true, hide = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the files of a folder until killed.
    Serve {
        #[arg(value_name = "LOOP")]
        kind: Kind,
        /// Port 0: any that is free; the address is printed.
        #[arg(long, value_name = "ADDRESS:PORT")]
        listen: SocketAddr,
        /// The folder; what is inside of folders in it is not served.
        #[arg(long, value_name = "FOLDER")]
        root: PathBuf,
    },
    /// Send what is published to all subscribers until killed.
    FanOut {
        /// Port 0: any that is free; the address is printed.
        #[arg(long, value_name = "ADDRESS:PORT")]
        listen: SocketAddr,
    },
}

/// Which loop.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Kind {
    /// The raw ring, replies up to 32 KiB by one send(2) from memory.
    Ring,
    /// The raw ring, replies up to 32 KiB by one IORING_OP_SEND from memory.
    RingSend,
    /// monoio, replies up to 32 KiB from memory.
    Monoio,
    /// tokio-uring, replies up to 32 KiB from memory.
    TokioUring,
    /// The raw ring, bodies by sendfile(2).
    Sendfile,
    /// The raw ring, bodies by splice(2).
    Splice,
}

impl Kind {
    /// As on the command line.
    fn name(self) -> String {
        self.to_possible_value().expect("no loop is hidden").get_name().to_owned()
    }

    /// Whether it serves files of any length, and ranges of them.
    fn is_for_large_files(self) -> bool {
        matches!(self, Kind::Sendfile | Kind::Splice)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    match arguments.command {
        Some(Command::Serve { kind, listen, root }) => Ok(serve(kind, listen, &root)?),
        Some(Command::FanOut { listen }) => Ok(fan_out::serve(&bind(listen)?)?),
        None if arguments.bench && !arguments.test => compare::all(),
        None => {
            check::all()?;
            fan_out::check().map_err(|error| format!("fan-out: {error}"))?;
            println!("fan-out: right");
            Ok(())
        }
    }
}

fn serve(kind: Kind, listen: SocketAddr, root: &Path) -> io::Result<()> {
    let site = http::Site::open(root)?;
    let listener = bind(listen)?;
    match kind {
        Kind::Ring => ring::serve(listener, site, ring::Reply::Call),
        Kind::RingSend => ring::serve(listener, site, ring::Reply::Operation),
        Kind::Sendfile => ring::serve(listener, site, ring::Reply::File(file::Mover::Sendfile)),
        Kind::Splice => ring::serve(listener, site, ring::Reply::File(file::Mover::Splice(Vec::new()))),
        Kind::Monoio => runtimes::monoio(listener, site),
        Kind::TokioUring => runtimes::tokio_uring(listener, site),
    }
}

fn bind(listen: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(listen)?;
    // Accepted sockets inherit it: the end of a reply does not wait for an ACK of what is before it.
    setsockopt(&listener, sockopt::TcpNoDelay, &true)?;
    writeln!(io::stdout(), "listening http://{}", listener.local_addr()?)?;
    Ok(listener)
}
