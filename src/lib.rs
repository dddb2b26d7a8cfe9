//! Highwater: a zero-copy media server for Linux, as a library.
//!
//! ```text
//!   main → cli → server → handler → http → rt → driver
//!           │                 └─────── proto (pure) ───────┘      config, telemetry, error, limits: leaves
//!           └──▶ put, a client: proto only
//! ```
//!
//! A layer imports only from layers on its right. A worker is a thread with its own ring, connections and buffers; nothing on
//! the way of a request is shared between workers but counters, the access log's buffer, and how many transfers share an
//! address's rate where there is one.
//!
//! # Embedding
//! ```no_run
//! use highwater::{Config, Media, MediaConfig, Request, Response, Server, StatusCode};
//!
//! async fn hello(request: Request) -> Response {
//!     Response::text(StatusCode::OK, format!("hello, {}", request.path()))
//! }
//!
//! fn main() -> Result<(), highwater::Error> {
//!     let media = Media::new(MediaConfig::new("media"))?;
//!     let server = Server::builder(Config::default()).route("/media", media).route("/hello", hello).bind()?;
//!     println!("listening on {}", server.addresses()[0]);
//!     server.run()
//! }
//! ```
#![deny(unsafe_code)]

pub mod cli;
pub mod config;
mod driver;
pub mod error;
mod handler;
pub mod http;
pub mod limits;
pub mod proto;
mod put;
mod router;
mod rt;
pub mod server;
#[cfg(test)]
mod simulation;
pub mod telemetry;

pub use ::http::{Method, StatusCode};

pub use self::config::{AuthConfig, Config, EventsConfig, MediaConfig};
pub use self::error::Error;
pub use self::handler::events::{Delivery, Events, Message, Subscription, Topic};
pub use self::handler::guard::Guard;
pub use self::handler::media::Media;
pub use self::http::{Body, BodyReader, Request, Response};
pub use self::limits::Limits;
pub use self::rt::net::BoundAddress;
pub use self::server::{Handle, Server};

/// What a handler's future can do on its worker, beside answering: spawn, wait, hand blocking calls to other threads.
pub mod runtime {
    pub use crate::rt::offload::{NoResult, Offload};
    pub use crate::rt::queue::{Closed, Sender};
    pub use crate::rt::signal::{Signal, Watch};
    pub use crate::rt::task::JoinHandle;
    pub use crate::rt::timer::{Expired, Timer, sleep};
    pub use crate::rt::{Runtime, yield_now};
}
