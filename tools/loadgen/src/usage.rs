//! The CPU time and the memory of processes, as proc(5) tells them.

use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::{SysconfVar, sysconf};

/// What processes have used since they began, and what they hold now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// User and system time of all threads, those that have ended too. The unit of /proc is a hundredth of a second.
    pub cpu: Duration,
    /// Resident memory in bytes.
    pub resident: u64,
}

impl Usage {
    /// The sum over these processes.
    ///
    /// # Errors
    /// Names the process that is not there.
    pub fn of(pids: &[u32]) -> Result<Usage, String> {
        let mut sum = Usage::default();
        for pid in pids {
            let stat =
                std::fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|e| format!("process {pid}: {e}"))?;
            let usage = parse(&stat, per_second(), page_len())
                .ok_or_else(|| format!("process {pid}: /proc/{pid}/stat is not as expected"))?;
            sum.cpu += usage.cpu;
            sum.resident += usage.resident;
        }
        Ok(sum)
    }
}

/// The most memory that each of these processes has ever had resident, summed; in bytes.
///
/// # Errors
/// Names the process that is not there.
pub fn resident_peak(pids: &[u32]) -> Result<u64, String> {
    let of = |pid: &u32| {
        let path = format!("/proc/{pid}/status");
        let status = std::fs::read_to_string(&path).map_err(|e| format!("process {pid}: {e}"))?;
        parse_peak(&status).ok_or_else(|| format!("process {pid}: {path} is not as expected"))
    };
    pids.iter().map(of).sum()
}

/// `VmHWM`, which is in KiB.
fn parse_peak(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    value.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The CPU time of this process.
pub fn own_cpu() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return Duration::ZERO };
    [usage.user_time(), usage.system_time()]
        .iter()
        .map(|t| Duration::from_secs(t.tv_sec().unsigned_abs()) + Duration::from_micros(t.tv_usec().unsigned_abs()))
        .sum()
}

/// Fields 14 (utime), 15 (stime) and 24 (rss). The second field is the name in parentheses and may hold spaces and
/// parentheses itself, so counting begins after the last one.
fn parse(stat: &str, ticks_per_second: u64, page_len: u64) -> Option<Usage> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let ticks = number(14)?.checked_add(number(15)?)?;
    let nanos_per_tick = 1_000_000_000u64.checked_div(ticks_per_second)?;
    Some(Usage {
        cpu: Duration::from_nanos(ticks.checked_mul(nanos_per_tick)?),
        resident: number(24)?.checked_mul(page_len)?,
    })
}

fn per_second() -> u64 {
    configured(SysconfVar::CLK_TCK, 100)
}

fn page_len() -> u64 {
    configured(SysconfVar::PAGE_SIZE, 4096)
}

fn configured(name: SysconfVar, otherwise: u64) -> u64 {
    sysconf(name).ok().flatten().and_then(|value| u64::try_from(value).ok()).unwrap_or(otherwise)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_moves_no_field() {
        let stat =
            "42 (a) b (c) S 1 1 1 0 -1 4194560 10 0 0 0 150 50 0 0 20 0 4 0 100 1000000 25 18446744073709551615 1 1 0";
        assert_eq!(parse(stat, 100, 4096), Some(Usage { cpu: Duration::from_secs(2), resident: 102_400 }));
        assert_eq!(parse("42 (a) S 1 1", 100, 4096), None);
        assert_eq!(parse("", 100, 4096), None);
    }

    #[test]
    fn this_process_is_there() {
        let usage = Usage::of(&[std::process::id()]).unwrap();
        assert!(usage.resident > 0);
        assert!(Usage::of(&[u32::MAX]).is_err());
        assert!(resident_peak(&[std::process::id()]).unwrap() >= usage.resident / 2);
        assert!(resident_peak(&[u32::MAX]).is_err());
    }

    #[test]
    fn the_peak_has_a_line_of_its_own() {
        assert_eq!(parse_peak("VmPeak:\t  900 kB\nVmHWM:\t    12 kB\nVmRSS:\t 4 kB\n"), Some(12_288));
        assert_eq!(parse_peak("VmHWM:\t12\n"), None);
        assert_eq!(parse_peak(""), None);
    }
}
