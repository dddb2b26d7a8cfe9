//! What a run of one writer and many readers counted, and the report of it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use super::Medium;
use crate::tally::{
    Failure, ServerUsage, counts, figure, gigabytes, histogram, latencies, mebibytes, millis, percentiles, quotient,
};

/// Counts and times. Those of what went wrong are of the whole run, the others since measuring began.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Units that came to a reader in their turn, after it had joined.
    pub deliveries: u64,
    /// Units that came to a reader in their turn and had been written before it joined.
    pub caught_up: u64,
    /// Bytes of all bodies.
    pub body_bytes: u64,
    /// Replies with a head that readers were to follow.
    pub joined: u64,
    /// Readers that were to stay without reading, and that the server closed.
    pub stalled_dropped: u64,
    /// Live readers that were there before the body, each time.
    pub retries: u64,
    /// Events with a name of their own.
    pub notices: u64,
    /// Units that a reader which stayed to the end has not had.
    pub missing: u64,
    /// Units that a reader has had twice.
    pub duplicated: u64,
    /// Units that came after later ones.
    pub out_of_order: u64,
    /// Units that are none of this run's.
    pub foreign: u64,
    /// Units that were due and that the writer could not write.
    pub unwritten: u64,
    /// How often the writer failed.
    pub writer_failures: u64,
    statuses: BTreeMap<u16, u64>,
    failures: BTreeMap<Failure, u64>,
    latency: Histogram<u64>,
    spread: Histogram<u64>,
    catch_up: Histogram<u64>,
}

impl Default for Tally {
    fn default() -> Self {
        Tally {
            deliveries: 0,
            caught_up: 0,
            body_bytes: 0,
            joined: 0,
            stalled_dropped: 0,
            retries: 0,
            notices: 0,
            missing: 0,
            duplicated: 0,
            out_of_order: 0,
            foreign: 0,
            unwritten: 0,
            writer_failures: 0,
            statuses: BTreeMap::new(),
            failures: BTreeMap::new(),
            latency: histogram(),
            spread: histogram(),
            catch_up: histogram(),
        }
    }
}

impl Tally {
    /// Begins anew; what went wrong in the warm-up went wrong.
    pub fn after_warmup(warmup: Tally) -> Self {
        Tally {
            deliveries: 0,
            caught_up: 0,
            body_bytes: 0,
            latency: histogram(),
            spread: histogram(),
            catch_up: histogram(),
            ..warmup
        }
    }

    /// A unit has come in its turn, so long after it was due; `spread_ns` where it was the last reader's.
    pub fn delivery(&mut self, latency_ns: u64, spread_ns: Option<u64>) {
        self.deliveries += 1;
        self.latency.saturating_record(latency_ns);
        if let Some(spread_ns) = spread_ns {
            self.spread.saturating_record(spread_ns);
        }
    }

    /// A unit has come that was written before the reader joined; `catch_up_ns` where it was the last such.
    pub fn caught_up(&mut self, catch_up_ns: Option<u64>) {
        self.caught_up += 1;
        if let Some(catch_up_ns) = catch_up_ns {
            self.catch_up.saturating_record(catch_up_ns);
        }
    }

    /// A status line came.
    pub fn status(&mut self, status: u16) {
        *self.statuses.entry(status).or_default() += 1;
    }

    /// Something failed.
    pub fn failure(&mut self, failure: Failure) {
        *self.failures.entry(failure).or_default() += 1;
    }

    /// Everything that went wrong, by name.
    pub fn errors(&self) -> BTreeMap<String, u64> {
        let of_units = [
            ("missing", self.missing),
            ("duplicated", self.duplicated),
            ("out_of_order", self.out_of_order),
            ("foreign", self.foreign),
        ];
        let of_units = of_units.into_iter().filter(|(_, n)| *n > 0).map(|(name, n)| (name.to_string(), n));
        self.failures.iter().map(|(failure, n)| (failure.name().to_string(), *n)).chain(of_units).collect()
    }
}

/// Who read.
#[derive(Clone, Copy, Debug)]
pub struct Readers {
    /// How many were wanted.
    pub asked: u64,
    /// How many of them joined in the middle of the run.
    pub late: u64,
    /// How many had the head of a reply to follow.
    pub joined: u64,
    /// How many were there at the end and had stopped reading.
    pub stalled: u64,
    /// How many stopped reading and were closed by the server.
    pub stalled_dropped: u64,
}

/// A finished run.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was read.
    pub medium: Medium,
    /// The length of a unit in bytes.
    pub unit_len: usize,
    /// How many units were written, in the warm-up too.
    pub written: u64,
    /// From the beginning of measuring to the last arrival.
    pub elapsed: Duration,
    /// Who read.
    pub readers: Readers,
    /// What was counted.
    pub tally: Tally,
    /// CPU time of the load generator itself.
    pub client_cpu: Duration,
    /// The server's processes, where they were named.
    pub server: Option<ServerUsage>,
    /// Their resident memory before the first reader came, in bytes.
    pub resident_first: u64,
    /// The same when all subscribers were there and nothing had been published yet.
    pub resident_attached: u64,
}

impl Report {
    /// Everything that went wrong, by name.
    pub fn errors(&self) -> BTreeMap<String, u64> {
        self.tally.errors()
    }

    /// The report as one object; units stand in the names, and a quotient without a divisor is null.
    pub fn to_json(&self) -> Value {
        let (tally, readers) = (&self.tally, &self.readers);
        json!({
            "medium": match self.medium { Medium::Events => "events", Medium::Live => "live" },
            "seconds": self.elapsed.as_secs_f64(),
            "unit_bytes": self.unit_len,
            "written": self.written,
            "unwritten": tally.unwritten,
            "readers": {
                "asked": readers.asked,
                "late": readers.late,
                "joined": readers.joined,
                "stalled": readers.stalled,
                "stalled_dropped": readers.stalled_dropped,
                "retries": tally.retries,
            },
            "deliveries": tally.deliveries,
            "deliveries_per_second": self.per_second(tally.deliveries as f64),
            "caught_up": tally.caught_up,
            "notices": tally.notices,
            "missing": tally.missing,
            "duplicated": tally.duplicated,
            "out_of_order": tally.out_of_order,
            "body_bytes": tally.body_bytes,
            "gb_per_second": self.per_second(gigabytes(tally.body_bytes)),
            "latency_us": latencies(&tally.latency),
            "spread_us": latencies(&tally.spread),
            "catch_up_us": latencies(&tally.catch_up),
            "statuses": tally.statuses.iter().map(|(status, n)| (status.to_string(), json!(n))).collect::<Map<_, _>>(),
            "errors": tally.errors(),
            "client": {
                "cpu_ms": millis(self.client_cpu),
                "cpu_share": self.share(self.client_cpu),
                "cpu_us_per_delivery": self.us_per_delivery(self.client_cpu),
            },
            "server": self.server.map(|server| json!({
                "cpu_ms": millis(server.cpu()),
                "cpu_share": self.share(server.cpu()),
                "cpu_us_per_delivery": self.us_per_delivery(server.cpu()),
                "cpu_ms_per_gb": quotient(millis(server.cpu()), gigabytes(tally.body_bytes)),
                "resident_first_bytes": self.resident_first,
                "resident_attached_bytes": self.resident_attached,
                "resident_after_bytes": server.after.resident,
                "resident_max_bytes": server.resident_max,
                "resident_growth_bytes": server.resident_max.saturating_sub(self.resident_attached),
                "resident_bytes_per_reader": self.per_reader(self.resident_attached),
                "resident_max_bytes_per_reader": self.per_reader(server.resident_max),
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

    fn us_per_delivery(&self, cpu: Duration) -> Option<f64> {
        quotient(millis(cpu) * 1e3, self.tally.deliveries as f64)
    }

    fn per_reader(&self, resident: u64) -> Option<f64> {
        quotient(resident.saturating_sub(self.resident_first) as f64, self.readers.joined as f64)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tally, readers) = (&self.tally, &self.readers);
        let unit = match self.medium {
            Medium::Events => "events",
            Medium::Live => "pieces",
        };
        writeln!(
            f,
            "written      {} {unit} of {} bytes, {} due and not written",
            self.written, self.unit_len, tally.unwritten
        )?;
        writeln!(
            f,
            "deliveries   {} in {:.2} s, {:.0} a second, {:.3} GB/s, {} more to catch up",
            tally.deliveries,
            self.elapsed.as_secs_f64(),
            self.per_second(tally.deliveries as f64),
            self.per_second(gigabytes(tally.body_bytes)),
            tally.caught_up,
        )?;
        writeln!(f, "latency      {}, from the moment a unit was due", percentiles(&tally.latency))?;
        writeln!(f, "spread       {}, from the first reader to the last", percentiles(&tally.spread))?;
        writeln!(f, "catching up  {}", percentiles(&tally.catch_up))?;
        writeln!(
            f,
            "readers      {} of {} joined, {} late; {} stopped reading, {} of these were dropped by the server",
            readers.joined,
            readers.asked,
            readers.late,
            readers.stalled + readers.stalled_dropped,
            readers.stalled_dropped,
        )?;
        if let Some(server) = &self.server {
            writeln!(
                f,
                "server       {} us/delivery, {:.0} % of a processor, resident {:.1} MiB before, {:.1} with readers ({} bytes each), {:.1} at most, {:.1} after",
                figure(self.us_per_delivery(server.cpu())),
                self.share(server.cpu()) * 100.0,
                mebibytes(self.resident_first),
                mebibytes(self.resident_attached),
                figure(self.per_reader(self.resident_attached)),
                mebibytes(server.resident_max),
                mebibytes(server.after.resident),
            )?;
        }
        writeln!(
            f,
            "client       {:.0} % of a processor, {} us/delivery",
            self.share(self.client_cpu) * 100.0,
            figure(self.us_per_delivery(self.client_cpu))
        )?;
        writeln!(f, "statuses     {}", counts(tally.statuses.iter().map(|(status, n)| (status.to_string(), n))))?;
        writeln!(f, "notices      {}", tally.notices)?;
        write!(f, "errors       {}", counts(tally.errors().iter().map(|(name, n)| (name.clone(), n))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::Usage;

    fn report(tally: Tally) -> Report {
        let usage = |ms, mib: u64| Usage { cpu: Duration::from_millis(ms), resident: mib << 20 };
        let server =
            ServerUsage { before: usage(100, 5), after: usage(600, 6), resident_max: 7 << 20, resident_peak: 9 << 20 };
        Report {
            medium: Medium::Events,
            unit_len: 1024,
            written: 10,
            elapsed: Duration::from_secs(2),
            readers: Readers { asked: 1024, late: 0, joined: 1024, stalled: 1, stalled_dropped: 2 },
            tally,
            client_cpu: Duration::from_secs(1),
            server: Some(server),
            resident_first: 4 << 20,
            resident_attached: 5 << 20,
        }
    }

    #[test]
    fn figures_are_quotients_of_what_was_counted() {
        let mut tally = Tally { body_bytes: 4_000_000_000, ..Tally::default() };
        (1..=1000).for_each(|ms| tally.delivery(ms * 1_000_000, (ms == 1000).then_some(5_000_000)));
        tally.caught_up(None);
        tally.caught_up(Some(7_000_000));
        let report = report(tally);
        let json = report.to_json();
        assert_eq!((&json["deliveries_per_second"], &json["gb_per_second"]), (&json!(500.0), &json!(2.0)));
        assert_eq!((&json["caught_up"], &json["errors"]), (&json!(2), &json!({})));
        let server = &json["server"];
        assert_eq!((&server["cpu_us_per_delivery"], &server["cpu_share"]), (&json!(500.0), &json!(0.25)));
        assert_eq!(server["resident_bytes_per_reader"], 1024.0);
        assert_eq!(server["resident_max_bytes_per_reader"], 3072.0);
        assert_eq!(server["resident_growth_bytes"], 2 << 20);
        assert_eq!(
            (&json["client"]["cpu_share"], &json["client"]["cpu_us_per_delivery"]),
            (&json!(0.5), &json!(1000.0))
        );
        let of = |what: &str, name: &str| json[what][name].as_f64().unwrap();
        assert!((989_000.0..991_500.0).contains(&of("latency_us", "p99")));
        assert!((4_990.0..5_010.0).contains(&of("spread_us", "p50")) && of("catch_up_us", "max") > 6_990.0);
        let text = report.to_string();
        assert!(text.contains("500 a second") && text.contains("3 stopped reading, 2 of these"), "{text}");
    }

    #[test]
    fn nothing_is_divided_by_zero() {
        let json = report(Tally::default()).to_json();
        assert_eq!((&json["server"]["cpu_us_per_delivery"], &json["latency_us"]), (&Value::Null, &Value::Null));
    }

    #[test]
    fn what_went_wrong_in_the_warm_up_went_wrong() {
        let mut warmup = Tally { missing: 0, duplicated: 1, out_of_order: 2, foreign: 3, ..Tally::default() };
        warmup.failure(Failure::Bytes);
        warmup.delivery(1, None);
        let tally = Tally { missing: 4, ..Tally::after_warmup(warmup) };
        let errors = report(tally).to_json()["errors"].clone();
        assert_eq!(errors, json!({ "bytes": 1, "duplicated": 1, "out_of_order": 2, "foreign": 3, "missing": 4 }));
    }
}
