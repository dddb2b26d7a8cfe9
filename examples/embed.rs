//! A media tier inside an application: the application's own routes, and a folder of media beside them on the same workers.
//!
//! ```text
//! cargo run --example embed -- [FOLDER]
//! curl http://ADDRESS/status                 what the application and the server have counted
//! curl -T clip.mp4 http://ADDRESS/received   an upload, counted as it comes and kept nowhere
//! curl -r 0-99 http://ADDRESS/media/sample.mp4
//! ```
//! It prints the address that the kernel chose, and ends in order when its standard input does (Ctrl-D).

use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::thread;

use highwater::{Config, Error, Handle, Media, MediaConfig, Method, Request, Response, Server, StatusCode};

/// What the application's handlers share. Every worker calls them on its own thread, so it is `Sync`.
#[derive(Default)]
struct Application {
    received: AtomicU64,
    server: OnceLock<Handle>,
}

impl Application {
    async fn status(self: Arc<Self>) -> Response {
        let counted = self.server.get().map(Handle::metrics).unwrap_or_default();
        let status = serde_json::json!({
            "received": self.received.load(Relaxed),
            "requests": counted.requests,
            "bytes_sent": counted.bytes_sent,
        });
        Response::new(StatusCode::OK).field("Content-Type", "application/json").with_body(status.to_string())
    }

    /// However long the upload, it takes one receive buffer at a time: the next is asked for when this one is done with.
    async fn receive(self: Arc<Self>, mut request: Request) -> Response {
        if !matches!(*request.method(), Method::PUT | Method::POST) {
            return Response::text(StatusCode::METHOD_NOT_ALLOWED, "Use PUT or POST.").field("Allow", "PUT, POST");
        }
        let mut len = 0;
        while let Some(chunk) = request.body().next().await {
            match chunk {
                Ok(chunk) => len += chunk.len() as u64,
                Err(error) => return Response::text(StatusCode::BAD_REQUEST, error.to_string()),
            }
        }
        self.received.fetch_add(len, Relaxed);
        Response::text(StatusCode::OK, format!("{len} bytes"))
    }
}

fn main() -> Result<(), Error> {
    let folder = std::env::args_os().nth(1).unwrap_or_else(|| "media".into());
    let application = Arc::new(Application::default());
    let (status, receive) = (application.clone(), application.clone());

    let config = Config { listen: vec!["127.0.0.1:0".parse()?], ..Config::default() };
    let server = Server::builder(config)
        .route("/status", move |_| status.clone().status())
        .route("/received", move |request| receive.clone().receive(request))
        .route("/media", Media::new(MediaConfig { listing: true, ..MediaConfig::new(folder) })?)
        .bind()?;

    let handle = server.handle();
    application.server.get_or_init(|| handle.clone());
    println!("listening on {}", server.addresses()[0]);
    thread::spawn(move || {
        // However it ends, there is nobody left to serve for.
        let _ = io::stdin().read_to_end(&mut Vec::new());
        handle.drain();
    });
    server.run()
}
