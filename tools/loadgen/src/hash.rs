//! What a hash costs on this machine by itself: the least that a server pays which names the hash of what it stores.

use std::time::{Duration, Instant};

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::args::Output;
use crate::upload::PIECE_LEN;
use crate::usage::own_cpu;
use crate::verify::rule;

/// What it took.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    len: u64,
    elapsed: Duration,
    cpu: Duration,
}

/// Hashes `len` bytes by SHA-256, from a buffer that stays in the processor's cache.
pub fn measure(len: u64) -> Cost {
    let buffer: Vec<u8> = (0..PIECE_LEN as u64).map(rule).collect();
    let (begin, cpu) = (Instant::now(), own_cpu());
    let mut hash = Sha256::new();
    let mut left = len;
    while left > 0 {
        let piece = &buffer[..PIECE_LEN.min(usize::try_from(left).unwrap_or(usize::MAX))];
        hash.update(piece);
        left -= piece.len() as u64;
    }
    std::hint::black_box(hash.finalize());
    Cost { len, elapsed: begin.elapsed(), cpu: own_cpu().saturating_sub(cpu) }
}

impl Cost {
    /// As one JSON object, or a line for people.
    pub fn shown(&self, output: Output) -> String {
        let gigabytes = self.len as f64 / 1e9;
        let cpu_ms_per_gb = self.cpu.as_secs_f64() * 1e3 / gigabytes;
        let gb_per_second = gigabytes / self.elapsed.as_secs_f64();
        match output {
            Output::Json => {
                json!({ "hash": "sha256", "bytes": self.len, "cpu_ms_per_gb": cpu_ms_per_gb, "gb_per_second": gb_per_second })
                    .to_string()
            }
            Output::Text => format!("sha256       {cpu_ms_per_gb:.1} ms/GB, {gb_per_second:.3} GB/s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_is_of_a_gigabyte() {
        let cost = Cost { len: 2_000_000_000, elapsed: Duration::from_secs(4), cpu: Duration::from_secs(3) };
        assert_eq!(cost.shown(Output::Text), "sha256       1500.0 ms/GB, 0.500 GB/s");
        let json: serde_json::Value = serde_json::from_str(&cost.shown(Output::Json)).unwrap();
        assert_eq!((&json["cpu_ms_per_gb"], &json["gb_per_second"]), (&json!(1500.0), &json!(0.5)));
    }

    #[test]
    fn all_of_it_is_hashed() {
        let cost = measure(3 * PIECE_LEN as u64 + 1);
        assert!(cost.len == 3 * PIECE_LEN as u64 + 1 && cost.elapsed > Duration::ZERO);
    }
}
