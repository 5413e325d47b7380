use std::io::Write;
use std::time::Duration;

use crate::config::{self, Config, Environment};

/// A configuration file and, after a NUL byte each, environment variables as `NAME=VALUE`.
pub(super) fn configuration(data: &[u8]) {
    let mut parts = data.split(|&byte| byte == 0);
    let mut file = tempfile::Builder::new().suffix(".toml").tempfile().expect("a temporary file");
    file.write_all(parts.next().unwrap_or_default()).expect("a file that can be written");
    let variables = parts.filter_map(|part| std::str::from_utf8(part).ok()?.split_once('='));
    let environment: Environment =
        variables.map(|(name, value)| (format!("IBVWATCH__{name}"), value.to_owned())).collect();
    let files = [file.path().to_owned()];
    let loaded = config::load(&files, &environment);
    let again = config::load(&files, &environment);
    assert_eq!(loaded.problems(), again.problems(), "equal sources, equal problems");
    for problem in loaded.problems() {
        assert!(!problem.message.is_empty(), "{problem:?} says nothing");
    }
    if let (Ok(config), Ok(again)) = (loaded.complete(), again.complete()) {
        // With problems it is not used.
        assert_eq!(format!("{config:?}"), format!("{again:?}"), "equal sources, equal values");
        sensible(&config);
    }
}

/// What every part may rely on in a configuration without problems.
fn sensible(config: &Config) {
    let policy = &config.policy;
    assert!((0.0..1.0).contains(&policy.jitter), "{policy:?}");
    for duration in [policy.interval, policy.active_interval, policy.backoff_initial] {
        assert!(duration > Duration::ZERO, "{policy:?}");
    }
    assert!(policy.backoff_initial <= policy.backoff_max, "{policy:?}");
    assert!(policy.failing_after >= 1, "{policy:?}");
    let limits = &config.limits;
    assert!(limits.rate.is_finite() && limits.rate > 0.0, "{limits:?}");
    assert!(limits.burst >= 1 && limits.max_in_flight >= 1, "{limits:?}");
    assert!(!config.api.sdk_id.is_empty(), "{:?}", config.api);
    let base_url = config.api.base_url.to_string();
    let host = base_url.strip_prefix("http://").unwrap_or_default();
    let loopback = ["127.", "localhost", "[::1]"].iter().any(|name| host.starts_with(name));
    assert!(base_url.starts_with("https://") || loopback, "{base_url}");
}
