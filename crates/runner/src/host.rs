//! The machine and its clock, as records describe them. Linux tells all of it in `/proc`; elsewhere what is not
//! known is empty or 0.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use sharelora_report::Host;

/// The machine that this process runs on.
pub fn host() -> Host {
    let first = |file: &str, key: &str| -> Option<String> {
        let text = fs::read_to_string(file).ok()?;
        let line = text.lines().find(|l| l.starts_with(key))?;
        let value = line.split_once([':', '='])?.1;
        Some(value.trim().trim_matches('"').to_owned())
    };
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let system =
        first("/etc/os-release", "PRETTY_NAME").unwrap_or_else(|| std::env::consts::OS.to_owned());
    Host {
        cpu: first("/proc/cpuinfo", "model name")
            .unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        cores: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
        memory_bytes: meminfo("MemTotal"),
        os: format!("{system} {}", kernel.trim()).trim().to_owned(),
    }
}

/// The machine's name in its network; empty where the kernel does not tell.
pub fn name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

/// Bytes of a line of `/proc/meminfo`, `MemAvailable` say; 0 where there is none.
pub fn meminfo(key: &str) -> u64 {
    kibibytes("/proc/meminfo", key)
}

/// Resident memory of this process in bytes, now.
pub fn resident_bytes() -> u64 {
    kibibytes("/proc/self/status", "VmRSS")
}

/// The most resident memory of this process in bytes, since it started or [`reset_peak`] worked.
pub fn peak_resident_bytes() -> u64 {
    kibibytes("/proc/self/status", "VmHWM")
}

/// Seconds since the kernel started this process, to a hundredth, so with the loading of its libraries; `None`
/// where `/proc` does not say.
pub fn process_age() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // proc(5): `starttime` is field 22, in hundredths of a second since boot. Field 2, the name, may hold anything and
    // ends in the last parenthesis.
    let fields = stat.rsplit_once(')')?.1;
    let started: f64 = fields.split_whitespace().nth(19)?.parse().ok()?;
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let uptime: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    // A container may tell an uptime of its own.
    Some(uptime - started / 100.0).filter(|age| *age >= 0.0)
}

/// Processes that ran or waited to run, a mean of the last minute.
pub fn load_average() -> Option<f64> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// Starts the peak anew, so that a run is not given the peak of those before it. Linux since 4.0; elsewhere nothing.
pub fn reset_peak() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}

fn kibibytes(file: &str, key: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix(key)?.strip_prefix(':'));
    line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok())
        .unwrap_or(0)
        * 1024
}

/// The time now, RFC 3339 in UTC to the second.
pub fn now() -> String {
    rfc3339(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_secs()),
    )
}

/// Seconds since 1970 as `2026-11-23T21:00:00Z`. The calendar is Howard Hinnant's `civil_from_days`.
fn rfc3339(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days since 1 March of the year 0, so that leap days end a year.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = 400 * era + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    use super::rfc3339;

    /// Records are ordered and read by people by these times.
    #[test]
    fn times_are_written_in_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_868_799, "2000-02-29T23:59:59Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (1_772_323_200, "2026-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
        }
    }
}
