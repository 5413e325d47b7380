//! The text forms that Prometheus reads.

use std::fmt::{self, Write};

use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::registry::Registry;

/// A form in which figures are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.0
    OpenMetrics,
    /// The text format 0.0.4, which everything reads.
    Text,
}

impl Format {
    /// The form that an `Accept` header asks for; text where it doesn't say.
    #[must_use]
    pub fn accepted(accept: &str) -> Self {
        let weight = |media: &str| {
            let ranges = accept.split(',').map(|range| range.split(';').map(str::trim));
            let matching = ranges.filter_map(|mut range| {
                let is_it = range.next()?.eq_ignore_ascii_case(media);
                let q = range.find_map(|parameter| parameter.strip_prefix("q="));
                is_it.then(|| q.map_or(Ok(1.0), str::parse::<f32>).unwrap_or(0.0))
            });
            matching.fold(0.0, f32::max)
        };
        let open = weight("application/openmetrics-text");
        if open > 0.0 && open >= weight("text/plain") { Self::OpenMetrics } else { Self::Text }
    }

    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Writes out all that the registries hold.
///
/// # Errors
/// None in practice: text can be appended to.
pub fn expose(registries: &[&Registry], format: Format) -> Result<String, fmt::Error> {
    let mut text = String::new();
    for registry in registries {
        encode_registry(&mut text, registry)?;
    }
    match format {
        Format::OpenMetrics => {
            encode_eof(&mut text)?;
            Ok(text)
        }
        Format::Text => classic(&text),
    }
}

/// The samples are the same. The older form calls a family what its samples are called, knows
/// fewer types, and has neither units nor an end.
fn classic(open_metrics: &str) -> Result<String, fmt::Error> {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = "";
    for line in open_metrics.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(_), told) => help = told.unwrap_or_default(),
            (Some("#"), Some("TYPE"), Some(family), Some(kind)) => {
                let (suffix, kind) = match kind {
                    "counter" => ("_total", "counter"),
                    "info" => ("_info", "gauge"),
                    "unknown" => ("", "untyped"),
                    kind => ("", kind),
                };
                writeln!(text, "# HELP {family}{suffix} {help}")?;
                writeln!(text, "# TYPE {family}{suffix} {kind}")?;
            }
            (Some("#"), ..) => {}
            _ => writeln!(text, "{line}")?,
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::gauge::ConstGauge;
    use prometheus_client::metrics::histogram::Histogram;
    use prometheus_client::metrics::info::Info;
    use prometheus_client::registry::Unit;

    use super::*;

    fn registry() -> Registry {
        let mut registry = Registry::with_prefix("x");
        registry.register("build", "Which", Info::new([("version", "1 # 2")]));
        let counter: Counter = Counter::default();
        registry.register_with_unit("cpu", "Time spent", Unit::Seconds, counter);
        registry.register("open", "How many", ConstGauge::new(7_i64));
        let histogram = Histogram::new([0.5]);
        histogram.observe(0.1);
        registry.register_with_unit("wait", "How long", Unit::Seconds, histogram);
        registry
    }

    #[test]
    fn open_metrics_names_families_units_and_the_end() {
        let text = expose(&[&registry()], Format::OpenMetrics).unwrap();
        assert_eq!(
            text,
            "# HELP x_build Which.\n# TYPE x_build info\nx_build_info{version=\"1 # 2\"} 1\n\
             # HELP x_cpu_seconds Time spent.\n# TYPE x_cpu_seconds counter\n# UNIT x_cpu_seconds seconds\n\
             x_cpu_seconds_total 0\n\
             # HELP x_open How many.\n# TYPE x_open gauge\nx_open 7\n\
             # HELP x_wait_seconds How long.\n# TYPE x_wait_seconds histogram\n# UNIT x_wait_seconds seconds\n\
             x_wait_seconds_sum 0.1\nx_wait_seconds_count 1\n\
             x_wait_seconds_bucket{le=\"0.5\"} 1\nx_wait_seconds_bucket{le=\"+Inf\"} 1\n\
             # EOF\n"
        );
    }

    #[test]
    fn the_text_form_names_what_its_samples_are_called() {
        let text = expose(&[&registry()], Format::Text).unwrap();
        assert_eq!(
            text,
            "# HELP x_build_info Which.\n# TYPE x_build_info gauge\nx_build_info{version=\"1 # 2\"} 1\n\
             # HELP x_cpu_seconds_total Time spent.\n# TYPE x_cpu_seconds_total counter\n\
             x_cpu_seconds_total 0\n\
             # HELP x_open How many.\n# TYPE x_open gauge\nx_open 7\n\
             # HELP x_wait_seconds How long.\n# TYPE x_wait_seconds histogram\n\
             x_wait_seconds_sum 0.1\nx_wait_seconds_count 1\n\
             x_wait_seconds_bucket{le=\"0.5\"} 1\nx_wait_seconds_bucket{le=\"+Inf\"} 1\n"
        );
    }

    #[test]
    fn who_asks_for_open_metrics_gets_it_and_nobody_else() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                          application/openmetrics-text;version=0.0.1;q=0.5,\
                          text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for accept in
            [prometheus, "application/openmetrics-text", "Application/OpenMetrics-Text; q=1"]
        {
            assert_eq!(Format::accepted(accept), Format::OpenMetrics, "{accept}");
        }
        for accept in [
            "",
            "*/*",
            "text/html,application/xhtml+xml,*/*;q=0.8",
            "text/plain, application/openmetrics-text;q=0.5",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=much",
        ] {
            assert_eq!(Format::accepted(accept), Format::Text, "{accept}");
        }
    }
}
