//! What a run counted, and the report of it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::reply::Malformed;
use crate::upload::Upload;
use crate::usage::Usage;

/// Why a request, or a connection, failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// The connection was not made.
    Connect,
    /// The server reset it.
    Reset,
    /// The server closed it before the first byte of a reply.
    Closed,
    /// The server closed it in the middle of a reply.
    Truncated,
    /// There was no progress for too long.
    Timeout,
    /// A reply that breaks the protocol's rules.
    Malformed(&'static str),
    /// A status that is not 2xx, or not 206 where a range was asked for.
    Status,
    /// A range other than the one asked for.
    Range,
    /// A length other than the file's.
    Length,
    /// A byte other than the file's.
    Bytes,
    /// A 2xx reply to an upload of which the server can't have had all.
    Early,
    /// An upload was created, and the reply does not say where.
    Location,
    /// Another error of the system.
    System,
}

impl Failure {
    /// The failure that a broken reply is.
    pub fn malformed(why: Malformed) -> Self {
        Failure::Malformed(match why {
            Malformed::Head => "malformed_head",
            Malformed::Framing => "malformed_framing",
            Malformed::ContentRange => "malformed_content_range",
            Malformed::Chunk => "malformed_chunk",
            Malformed::Excess => "excess_bytes",
        })
    }

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Failure::Connect => "connect",
            Failure::Reset => "reset",
            Failure::Closed => "closed",
            Failure::Truncated => "truncated",
            Failure::Timeout => "timeout",
            Failure::Malformed(name) => name,
            Failure::Status => "status",
            Failure::Range => "range",
            Failure::Length => "length",
            Failure::Bytes => "bytes",
            Failure::Early => "early",
            Failure::Location => "location",
            Failure::System => "system",
        }
    }
}

/// Counts and times since measuring began.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Replies that came whole and were right.
    pub replies: u64,
    /// Body bytes that came, of unfinished replies too; or, of uploads, the files' bytes that were sent.
    pub body_bytes: u64,
    /// Connections made.
    pub connected: u64,
    /// Connections that were to stay open and that the server closed.
    pub dropped: u64,
    /// Requests of the open loop that were due and not answered when the run ended. Their age then is in the latencies.
    pub unanswered: u64,
    statuses: BTreeMap<u16, u64>,
    failures: BTreeMap<Failure, u64>,
    latency: Histogram<u64>,
    service: Histogram<u64>,
    reply_wait: Histogram<u64>,
}

impl Default for Tally {
    fn default() -> Self {
        let histogram = histogram();
        Tally {
            replies: 0,
            body_bytes: 0,
            connected: 0,
            dropped: 0,
            unanswered: 0,
            statuses: BTreeMap::new(),
            failures: BTreeMap::new(),
            latency: histogram.clone(),
            service: histogram.clone(),
            reply_wait: histogram,
        }
    }
}

/// Of nanoseconds: from a microsecond to ten minutes, to three digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 600_000_000_000, 3).expect("the bounds are constants in order")
}

impl Tally {
    /// Begins anew; the connections that were made in the warm-up are the ones that are measured.
    pub fn after_warmup(warmup: &Tally) -> Self {
        Tally { connected: warmup.connected, ..Tally::default() }
    }

    /// A right reply: its latency counts from the moment at which it was due, its service time from the sending.
    pub fn reply(&mut self, latency: Duration, service: Duration) {
        self.replies += 1;
        self.latency.saturating_record(nanos(latency));
        self.service.saturating_record(nanos(service));
    }

    /// The first byte of a reply came this long after the last byte of an upload was sent.
    pub fn reply_wait(&mut self, wait: Duration) {
        self.reply_wait.saturating_record(nanos(wait));
    }

    /// A status line came.
    pub fn status(&mut self, status: u16) {
        *self.statuses.entry(status).or_default() += 1;
    }

    /// Something failed.
    pub fn failure(&mut self, failure: Failure) {
        *self.failures.entry(failure).or_default() += 1;
    }

    /// A request that was due this long ago and has no answer.
    pub fn unanswered(&mut self, age: Duration) {
        self.unanswered += 1;
        self.latency.saturating_record(nanos(age));
    }

    /// How many failures there were.
    pub fn failures(&self) -> u64 {
        self.failures.values().sum()
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The server's use of the machine over the run.
#[derive(Clone, Copy, Debug)]
pub struct ServerUsage {
    /// When measuring began.
    pub before: Usage,
    /// When it ended.
    pub after: Usage,
    /// The most resident memory that was seen in between, in bytes.
    pub resident_max: u64,
    /// The most that the processes have ever had resident, each by itself, in bytes (VmHWM).
    pub resident_peak: u64,
}

/// How paced readers fared.
#[derive(Clone, Copy, Debug)]
pub struct PaceReport {
    /// How many there were.
    pub readers: u64,
    /// How many got their pace over the time that was measured.
    pub kept: u64,
}

/// A finished run.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was counted.
    pub tally: Tally,
    /// How long was measured.
    pub elapsed: Duration,
    /// Connections that were open and silent when the run ended.
    pub held: u64,
    /// The readers with a rate, where there were any.
    pub pace: Option<PaceReport>,
    /// CPU time of the load generator itself.
    pub client_cpu: Duration,
    /// The server's processes, where they were named.
    pub server: Option<ServerUsage>,
    /// Whether latencies count from the moment at which requests were due.
    pub open_loop: bool,
    /// What was uploaded, where that was the work.
    pub upload: Option<Upload>,
}

impl Report {
    /// The report as one object; units stand in the names, and a quotient without a divisor is null.
    pub fn to_json(&self) -> Value {
        let tally = &self.tally;
        json!({
            "seconds": self.elapsed.as_secs_f64(),
            "requests": tally.replies,
            "requests_per_second": self.per_second(tally.replies as f64),
            "body_bytes": tally.body_bytes,
            "gb_per_second": self.per_second(gigabytes(tally.body_bytes)),
            "latency_us": latencies(&tally.latency),
            "service_us": self.open_loop.then(|| latencies(&tally.service)),
            "unanswered": tally.unanswered,
            "upload": self.upload.as_ref().map(|upload| json!({
                "form": upload.form.name(),
                "file_bytes": upload.len,
                "reply_wait_us": latencies(&tally.reply_wait),
            })),
            "statuses": tally.statuses.iter().map(|(status, n)| (status.to_string(), json!(n))).collect::<serde_json::Map<_, _>>(),
            "errors": tally.failures.iter().map(|(failure, n)| (failure.name().to_string(), json!(n))).collect::<serde_json::Map<_, _>>(),
            "connections": { "made": tally.connected, "held": self.held, "dropped": tally.dropped },
            "pace": self.pace.map(|pace| json!({ "readers": pace.readers, "kept": pace.kept })),
            "client": { "cpu_ms": millis(self.client_cpu), "cpu_share": self.share(self.client_cpu) },
            "server": self.server.map(|server| json!({
                "cpu_ms": millis(server.cpu()),
                "cpu_share": self.share(server.cpu()),
                "cpu_us_per_request": quotient(millis(server.cpu()) * 1e3, tally.replies as f64),
                "cpu_ms_per_gb": quotient(millis(server.cpu()), gigabytes(tally.body_bytes)),
                "resident_before_bytes": server.before.resident,
                "resident_after_bytes": server.after.resident,
                "resident_max_bytes": server.resident_max,
                "resident_growth_bytes": server.resident_max.saturating_sub(server.before.resident),
                "resident_peak_bytes": server.resident_peak,
            })),
        })
    }

    fn per_second(&self, amount: f64) -> f64 {
        quotient(amount, self.elapsed.as_secs_f64()).unwrap_or(0.0)
    }

    fn share(&self, cpu: Duration) -> f64 {
        self.per_second(cpu.as_secs_f64())
    }
}

impl ServerUsage {
    /// The processor time of the run.
    pub fn cpu(&self) -> Duration {
        self.after.cpu.saturating_sub(self.before.cpu)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tally = &self.tally;
        let seconds = self.elapsed.as_secs_f64();
        writeln!(
            f,
            "requests     {} in {seconds:.2} s, {:.0} a second",
            tally.replies,
            self.per_second(tally.replies as f64)
        )?;
        writeln!(
            f,
            "body         {:.3} GB, {:.3} GB/s",
            gigabytes(tally.body_bytes),
            self.per_second(gigabytes(tally.body_bytes))
        )?;
        let from = if self.open_loop { ", from the moment a request was due" } else { "" };
        writeln!(f, "latency      {}{from}", percentiles(&tally.latency))?;
        if self.open_loop {
            writeln!(f, "service      {}, from the moment it was sent", percentiles(&tally.service))?;
            writeln!(f, "unanswered   {}", tally.unanswered)?;
        }
        if let Some(upload) = &self.upload {
            writeln!(
                f,
                "uploads      {}, {:.3} GB each; reply {} after the last byte",
                upload.form.name(),
                gigabytes(upload.len),
                percentiles(&tally.reply_wait)
            )?;
        }
        writeln!(
            f,
            "connections  {} made, {} held at the end, {} dropped by the server",
            tally.connected, self.held, tally.dropped
        )?;
        if let Some(pace) = &self.pace {
            writeln!(f, "pace         kept by {} of {} readers", pace.kept, pace.readers)?;
        }
        if let Some(server) = &self.server {
            writeln!(
                f,
                "server       {} us/request, {} ms/GB, {:.0} % of a processor, resident {:.1} MiB before, {:.1} at most, {:.1} after, {:.1} ever",
                figure(quotient(millis(server.cpu()) * 1e3, tally.replies as f64)),
                figure(quotient(millis(server.cpu()), gigabytes(tally.body_bytes))),
                self.share(server.cpu()) * 100.0,
                mebibytes(server.before.resident),
                mebibytes(server.resident_max),
                mebibytes(server.after.resident),
                mebibytes(server.resident_peak),
            )?;
        }
        writeln!(f, "client       {:.0} % of a processor", self.share(self.client_cpu) * 100.0)?;
        writeln!(f, "statuses     {}", counts(tally.statuses.iter().map(|(status, n)| (status.to_string(), n))))?;
        write!(f, "errors       {}", counts(tally.failures.iter().map(|(failure, n)| (failure.name().to_string(), n))))
    }
}

/// A histogram of nanoseconds as an object of microseconds, or null where it is empty.
pub fn latencies(histogram: &Histogram<u64>) -> Value {
    if histogram.is_empty() {
        return Value::Null;
    }
    let us = |value: u64| value as f64 / 1e3;
    json!({
        "mean": histogram.mean() / 1e3,
        "p50": us(histogram.value_at_quantile(0.5)),
        "p90": us(histogram.value_at_quantile(0.9)),
        "p99": us(histogram.value_at_quantile(0.99)),
        "p99_9": us(histogram.value_at_quantile(0.999)),
        "max": us(histogram.max()),
    })
}

/// A histogram of nanoseconds for people.
pub fn percentiles(histogram: &Histogram<u64>) -> String {
    if histogram.is_empty() {
        return "none".to_string();
    }
    let ms = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e6;
    format!(
        "p50 {:.3} ms, p99 {:.3}, p99.9 {:.3}, max {:.3}",
        ms(0.5),
        ms(0.99),
        ms(0.999),
        histogram.max() as f64 / 1e6
    )
}

/// `name: count` of each.
pub fn counts<'n>(counts: impl Iterator<Item = (String, &'n u64)>) -> String {
    let all: Vec<String> = counts.map(|(name, n)| format!("{name}: {n}")).collect();
    if all.is_empty() { "none".to_string() } else { all.join(", ") }
}

/// A quotient, where there is a divisor.
pub fn quotient(amount: f64, divisor: f64) -> Option<f64> {
    (divisor > 0.0).then(|| amount / divisor)
}

/// A figure of two digits, or a dash.
pub fn figure(value: Option<f64>) -> String {
    value.map_or("-".to_string(), |value| format!("{value:.2}"))
}

/// In milliseconds.
pub fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Powers of 1000.
pub fn gigabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

/// Powers of 1024.
pub fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / (1 << 20) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upload::Form;

    fn report(tally: Tally, server_cpu_ms: u64) -> Report {
        let usage = |ms| Usage { cpu: Duration::from_millis(ms), resident: 1 << 20 };
        let (before, after) = (usage(500), usage(500 + server_cpu_ms));
        let server = ServerUsage { before, after, resident_max: 2 << 20, resident_peak: 3 << 20 };
        let elapsed = Duration::from_secs(2);
        let client_cpu = Duration::from_secs(1);
        Report { tally, elapsed, held: 0, pace: None, client_cpu, server: Some(server), open_loop: true, upload: None }
    }

    #[test]
    fn figures_are_quotients_of_what_was_counted() {
        let mut tally = Tally::default();
        for ms in 1..=1000 {
            tally.reply(Duration::from_millis(ms), Duration::from_millis(1));
            tally.status(200);
        }
        tally.body_bytes = 4_000_000_000;
        tally.failure(Failure::Reset);
        let report = report(tally, 1000);
        let json = report.to_json();
        assert_eq!(json["requests_per_second"], 500.0);
        assert_eq!(json["gb_per_second"], 2.0);
        assert_eq!(json["server"]["cpu_us_per_request"], 1000.0);
        assert_eq!(json["server"]["cpu_ms_per_gb"], 250.0);
        assert_eq!(json["client"]["cpu_share"], 0.5);
        assert_eq!(json["errors"], json!({ "reset": 1 }));
        assert_eq!(json["statuses"], json!({ "200": 1000 }));
        let p99 = json["latency_us"]["p99"].as_f64().unwrap();
        assert!((989_000.0..991_500.0).contains(&p99), "{p99}");
        assert!(report.to_string().contains("500 a second"));
    }

    #[test]
    fn uploads_have_the_wait_for_their_replies() {
        let mut tally = Tally::default();
        tally.reply_wait(Duration::from_millis(2));
        tally.reply_wait(Duration::from_millis(30));
        let upload = Upload { form: Form::Put, len: 5_000_000_000, prefix: "/up".to_string() };
        let report = Report { upload: Some(upload), ..report(tally, 0) };
        let json = report.to_json();
        assert_eq!((&json["upload"]["form"], &json["upload"]["file_bytes"]), (&json!("put"), &json!(5_000_000_000u64)));
        let wait = |name: &str| json["upload"]["reply_wait_us"][name].as_f64().unwrap();
        assert!((1_990.0..2_010.0).contains(&wait("p50")) && (29_900.0..30_100.0).contains(&wait("max")));
        let server = &json["server"];
        assert_eq!(
            (&server["resident_growth_bytes"], &server["resident_peak_bytes"]),
            (&json!(1 << 20), &json!(3 << 20))
        );
        assert!(report.to_string().contains("put, 5.000 GB each"));
    }

    #[test]
    fn nothing_is_divided_by_zero() {
        let json = report(Tally::default(), 0).to_json();
        assert_eq!(json["server"]["cpu_us_per_request"], Value::Null);
        assert_eq!(json["latency_us"], Value::Null);
    }

    #[test]
    fn what_was_not_answered_still_counts_in_the_latencies() {
        let mut tally = Tally::default();
        tally.unanswered(Duration::from_secs(5));
        let json = report(tally, 0).to_json();
        assert_eq!(json["unanswered"], 1);
        assert!(json["latency_us"]["max"].as_f64().unwrap() >= 4_990_000.0);
    }
}
