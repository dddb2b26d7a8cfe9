//! Sizes and durations as people write them on a command line: `256KiB`, `100MB`, `30s`.

use std::time::Duration;

/// A number of bytes: digits and, if wanted, `B`, `kB`, `MB`, `GB` (powers of 1000) or `KiB`, `MiB`, `GiB` (powers of 1024).
pub fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let scale = match unit {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(format!("`{unit}` is no unit of size; write B, kB, MB, GB, KiB, MiB or GiB")),
    };
    scaled(number, scale)
}

/// The same, and not 0.
pub fn size_above_0(text: &str) -> Result<u64, String> {
    size(text).and_then(|size| if size > 0 { Ok(size) } else { Err("it has to be at least 1".to_string()) })
}

/// A rate.
pub fn per_second(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.001..=10_000_000.0).contains(&rate) => Ok(rate),
        _ => Err("write a number a second between 0.001 and 10000000".to_string()),
    }
}

/// A duration: digits and `ms`, `s` or `m`; digits alone are seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let scale_ms = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        _ => return Err(format!("`{unit}` is no unit of time; write ms, s or m")),
    };
    scaled(number, scale_ms).map(Duration::from_millis)
}

fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim_start())
}

fn scaled(number: &str, scale: u64) -> Result<u64, String> {
    let value: u64 =
        number.parse().map_err(|_| "write a whole number with a unit, such as 256KiB or 30s".to_string())?;
    value.checked_mul(scale).ok_or_else(|| "the number is too large".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_size(text: &str, expected: Option<u64>) {
        assert_eq!(size(text).ok(), expected, "{text}");
    }

    #[test]
    fn sizes() {
        check_size("0", Some(0));
        check_size("1KiB", Some(1024));
        check_size("100 MB", Some(100_000_000));
        check_size("6GiB", Some(6 << 30));
        check_size("", None);
        check_size("KiB", None);
        check_size("-1", None);
        check_size("1.5MiB", None);
        check_size("1mib", None);
        check_size("18446744073709551615B", Some(u64::MAX));
        check_size("18446744073709551615kB", None);
        check_size("18446744073709551616", None);
    }

    #[test]
    fn durations() {
        assert_eq!(duration("2"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("3m"), Ok(Duration::from_secs(180)));
        assert!(duration("3h").is_err());
        assert!(duration("s").is_err());
    }
}
