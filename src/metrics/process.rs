use std::time::Duration;

use procfs::process::LimitValue;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use crate::domain::Timestamp;

/// What the kernel says of this process, under the names that all Prometheus clients use.
///
/// Where `/proc` can't be read, what would stand there is left out.
#[derive(Debug, Clone, Copy)]
pub struct Process {
    started: Timestamp,
}

impl Process {
    #[must_use]
    pub const fn started_at(started: Timestamp) -> Self {
        Self { started }
    }

    /// The figures of this moment.
    #[must_use]
    pub fn registry(self) -> Registry {
        let mut registry = Registry::with_prefix("process");
        registry.register_with_unit(
            "start_time",
            "When the process started, in seconds since 1970",
            Unit::Seconds,
            ConstGauge::new(self.started.as_seconds()),
        );
        let Ok(process) = procfs::process::Process::myself() else { return registry };
        if let Ok(stat) = process.stat() {
            let ticks = Duration::from_secs(stat.utime + stat.stime);
            let a_second = u32::try_from(procfs::ticks_per_second()).unwrap_or(u32::MAX);
            let cpu = (ticks / a_second.max(1)).as_secs_f64();
            registry.register_with_unit(
                "cpu",
                "Processor time spent, of the user and the system",
                Unit::Seconds,
                ConstCounter::new(cpu),
            );
            registry.register_with_unit(
                "resident_memory",
                "Memory in use",
                Unit::Bytes,
                ConstGauge::new(stat.rss * procfs::page_size()),
            );
            registry.register_with_unit(
                "virtual_memory",
                "Addresses in use",
                Unit::Bytes,
                ConstGauge::new(stat.vsize),
            );
            registry.register("threads", "Threads", ConstGauge::new(stat.num_threads));
        }
        if let Ok(open) = process.fd_count() {
            let open = u64::try_from(open).unwrap_or(u64::MAX);
            registry.register("open_fds", "File descriptors in use", ConstGauge::new(open));
        }
        if let Ok(limits) = process.limits() {
            let most = match limits.max_open_files.soft_limit {
                LimitValue::Value(most) => most,
                LimitValue::Unlimited => u64::MAX,
            };
            registry.register("max_fds", "File descriptors allowed", ConstGauge::new(most));
        }
        registry
    }
}
