//! What an operator asks of a running server: a page at `/`, `/metrics` and `/healthz`, on an address of their own.

use std::rc::Rc;
use std::sync::Arc;

use http::{Method, StatusCode};

use crate::http::page::Page;
use crate::http::{Answer, Handler, MakeHandler, Request, Response, Worker};
use crate::telemetry::metrics::Metrics;

/// Answers for the whole process.
pub struct Admin(Arc<Metrics>);

impl Admin {
    /// An admin endpoint over these metrics.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Admin(metrics)
    }
}

impl MakeHandler for Admin {
    fn make(&self, worker: &Rc<Worker>) -> Rc<dyn Handler> {
        let page = Page::new(
            include_str!("page.html"),
            include_str!("page.css"),
            include_str!("page.js"),
            "connect-src 'self'; img-src 'self' data:",
        );
        Rc::new(Endpoint { metrics: self.0.clone(), worker: worker.clone(), page })
    }
}

struct Endpoint {
    metrics: Arc<Metrics>,
    worker: Rc<Worker>,
    page: Page,
}

impl Endpoint {
    fn answer(&self, request: &Request) -> Response {
        let known = matches!(request.path(), "/" | "/metrics" | "/healthz");
        if known && !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Response::text(StatusCode::METHOD_NOT_ALLOWED, "Use GET.").field("Allow", "GET, HEAD");
        }
        match request.path() {
            "/" => self.page.response(),
            "/metrics" => Response::new(StatusCode::OK)
                .field("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                .with_body(self.metrics.prometheus()),
            // A server that drains should get no new work from a load balancer.
            "/healthz" if self.worker.draining() => Response::text(StatusCode::SERVICE_UNAVAILABLE, "draining"),
            "/healthz" => Response::text(StatusCode::OK, "ok"),
            _ => Response::text(StatusCode::NOT_FOUND, "Here are /metrics and /healthz."),
        }
    }
}

impl Handler for Endpoint {
    fn call(&self, request: Request) -> Answer {
        self.answer(&request).into()
    }
}
