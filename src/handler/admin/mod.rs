//! What an operator asks of a running server, on an address of its own: a page that shows it live at `/`, the events that feed
//! the page at `/events`, `/metrics` and `/healthz`.

mod dashboard;

use std::rc::Rc;
use std::sync::Arc;

use http::{Method, StatusCode};

use self::dashboard::{Ask, Dashboard};
use crate::http::page::Page;
use crate::http::{Answer, Handler, MakeHandler, Request, Response, Worker};
use crate::limits::MemoryCeiling;
use crate::telemetry::metrics::Metrics;

/// Answers for the whole process.
pub struct Admin {
    metrics: Arc<Metrics>,
    ceiling: MemoryCeiling,
    ask: Ask,
}

impl Admin {
    /// An admin endpoint over these metrics. `ask` asks all workers to show what keeps them busiest
    /// ([`Metrics::show_busiest`]); it is called once a second while somebody watches.
    pub fn new(metrics: Arc<Metrics>, ceiling: MemoryCeiling, ask: impl Fn() + Send + Sync + 'static) -> Self {
        Admin { metrics, ceiling, ask: Arc::new(ask) }
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
        let dashboard = Dashboard::new(worker, &self.metrics, &self.ceiling, self.ask.clone());
        Rc::new(Endpoint { metrics: self.metrics.clone(), worker: worker.clone(), page, dashboard })
    }
}

struct Endpoint {
    metrics: Arc<Metrics>,
    worker: Rc<Worker>,
    page: Page,
    dashboard: Rc<Dashboard>,
}

impl Endpoint {
    fn answer(&self, request: &Request) -> Response {
        let known = matches!(request.path(), "/" | "/events" | "/metrics" | "/healthz");
        if known && !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Response::text(StatusCode::METHOD_NOT_ALLOWED, "Use GET.").field("Allow", "GET, HEAD");
        }
        match request.path() {
            "/" => self.page.response(),
            "/events" => self.dashboard.answer(request.method()),
            "/metrics" => Response::new(StatusCode::OK)
                .field("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                .with_body(self.metrics.prometheus()),
            // A server that drains should get no new work from a load balancer.
            "/healthz" if self.worker.draining() => Response::text(StatusCode::SERVICE_UNAVAILABLE, "draining"),
            "/healthz" => Response::text(StatusCode::OK, "ok"),
            _ => Response::text(StatusCode::NOT_FOUND, "Here are the dashboard at /, /metrics and /healthz."),
        }
    }
}

impl Handler for Endpoint {
    fn call(&self, request: Request) -> Answer {
        self.answer(&request).into()
    }
}
