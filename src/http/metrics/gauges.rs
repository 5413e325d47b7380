//! The figures of this moment, each from the part that knows it.

use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::{Registry, Unit};

use crate::domain::{Cause, Timestamp};
use crate::metrics::Label;
use crate::status::{Condition, SinkCondition};
use crate::store::jetstream::Cluster;

pub(super) fn of(condition: &Condition) -> Registry {
    let mut registry = Registry::with_prefix("ibvwatch");
    sessions(&mut registry, condition);
    polling(&mut registry, condition);
    api(&mut registry, condition);
    sinks(&mut registry, &condition.sinks, condition.at);
    directory(&mut registry, condition);
    store(&mut registry, condition);
    if let Some(cluster) = &condition.cluster {
        nodes(&mut registry, cluster);
    }
    registry
}

fn sessions(registry: &mut Registry, condition: &Condition) {
    let census = &condition.census;
    registry.register(
        "sessions",
        "Sessions known, by phase",
        by(
            "phase",
            [
                ("pending", census.pending),
                ("quiet", census.quiet),
                ("active", census.active),
                ("failing", census.failing),
                ("ended", census.ended),
            ],
        ),
    );
    registry.register(
        "resources",
        "Required resources of sessions that have not ended, by state",
        by(
            "state",
            [
                ("required", census.required),
                ("in_progress", census.in_progress),
                ("complete", census.complete),
                ("other", census.other),
            ],
        ),
    );
}

fn polling(registry: &mut Registry, condition: &Condition) {
    let poller = &condition.poller;
    registry.register_with_unit(
        "poll_stretch",
        "How many times as far apart as configured polls come",
        Unit::Other("ratio".to_owned()),
        ConstGauge::new(poller.stretch),
    );
    registry.register("polls_in_flight", "Polls under way", count(poller.in_flight));
    registry.register(
        "polls_overdue",
        "Polls that were due by the last whole second and have not gone out",
        count(condition.census.overdue),
    );
    registry.register_with_unit(
        "poll_loop_heartbeat_timestamp",
        "When the poll loop last went round, which it does at least once a second",
        Unit::Seconds,
        time(condition.at.minus(poller.heartbeat.elapsed())),
    );
}

fn api(registry: &mut Registry, condition: &Condition) {
    let cause = condition.poller.unavailable.map(|(cause, _)| cause);
    registry.register(
        "api_unavailable",
        "1 for the reason why polls pause, 0 for all others",
        by("cause", Cause::ALL.map(|each| (each.as_str(), usize::from(cause == Some(each))))),
    );
    if let Some(ahead) = condition.api.server_ahead_seconds {
        registry.register_with_unit(
            "clock_skew",
            "By how much the API's clock was ahead of this machine's at its last answer",
            Unit::Seconds,
            ConstGauge::new(ahead),
        );
    }
    if let Some(expires_in) = condition.api.token_expires_in {
        registry.register_with_unit(
            "token_expiry_timestamp",
            "When the access token at hand expires; it is replaced before",
            Unit::Seconds,
            time(condition.at.plus(expires_in)),
        );
    }
}

fn sinks(registry: &mut Registry, sinks: &[SinkCondition], now: Timestamp) {
    let age = |sink: &SinkCondition| sink.report.oldest.map_or(Duration::ZERO, |at| now.since(at));
    registry.register(
        "sink_undelivered_events",
        "Events that the sink has yet to be given",
        of_each(sinks, |sink| ConstGauge::new(sink.undelivered)),
    );
    registry.register_with_unit(
        "sink_oldest_undelivered_age",
        "How long ago the oldest event happened that the sink has yet to be given; 0 where there is none",
        Unit::Seconds,
        of_each(sinks, |sink| ConstGauge::new(age(sink).as_secs_f64())),
    );
    registry.register(
        "sink_failures",
        "Deliveries that failed and were tried again",
        of_each(sinks, |sink| ConstCounter::new(sink.report.failures)),
    );
}

fn directory(registry: &mut Registry, condition: &Condition) {
    let report = &condition.directory;
    registry.register("directory_files", "Session files, good or bad", count(report.files));
    registry.register(
        "directory_sessions",
        "Sessions that session files name",
        count(report.sessions),
    );
    registry.register(
        "directory_problems",
        "What keeps session files or directories from being believed at present",
        count(report.problems.len()),
    );
    registry.register(
        "directory_errors",
        "What has kept session files or directories from being believed since the start",
        ConstCounter::new(report.problems_total),
    );
    if let Some(at) = report.last_scan {
        registry.register_with_unit(
            "directory_last_scan_timestamp",
            "When the session files were last read",
            Unit::Seconds,
            time(at),
        );
    }
    if let Some(at) = report.last_good_scan {
        registry.register_with_unit(
            "directory_last_good_scan_timestamp",
            "When the session files were last read without a problem",
            Unit::Seconds,
            time(at),
        );
    }
}

fn store(registry: &mut Registry, condition: &Condition) {
    if let Some(size) = condition.store_size {
        registry.register_with_unit(
            "store_size",
            "What the database and its write-ahead log, or the stream, take on the disk",
            Unit::Bytes,
            ConstGauge::new(size),
        );
    }
    registry.register(
        "store_write_failing",
        "1 while the store can't be written, which polling waits for, else 0",
        count(usize::from(condition.write_failure.is_some())),
    );
}

/// What a node sees of its cluster. Names of nodes are in no label: each node shows itself.
fn nodes(registry: &mut Registry, cluster: &Cluster) {
    registry.register("cluster_nodes", "Nodes heard of lately", count(cluster.nodes.len()));
    registry.register(
        "cluster_polls_in_flight",
        "Polls that are handed out, of all nodes",
        count(cluster.in_flight),
    );
    registry.register(
        "cluster_ticks_waiting",
        "Polls that are due and that no node has taken up",
        ConstGauge::new(cluster.ticks_waiting),
    );
    registry.register(
        "cluster_view_behind_messages",
        "Changes of sessions that this node has yet to hear of",
        ConstGauge::new(cluster.view_behind),
    );
    registry.register(
        "cluster_stream_messages",
        "Messages in the stream",
        ConstGauge::new(cluster.messages),
    );
    registry.register(
        "cluster_replicas_behind",
        "Replicas of the stream that are offline or not up to date",
        count(cluster.replicas_behind),
    );
}

/// A metric for each value of a label, in the order in which they are given.
#[derive(Debug)]
struct Each<M>(Vec<(Label, M)>);

impl<M: EncodeMetric + TypedMetric> EncodeMetric for Each<M> {
    fn encode(&self, mut encoder: MetricEncoder) -> Result<(), std::fmt::Error> {
        let mut metrics = self.0.iter();
        metrics.try_for_each(|(label, metric)| metric.encode(encoder.encode_family(label)?))
    }

    fn metric_type(&self) -> MetricType {
        M::TYPE
    }
}

fn by<const N: usize>(
    label: &'static str,
    counts: [(&'static str, usize); N],
) -> Each<ConstGauge<u64>> {
    Each(counts.map(|(value, number)| ([(label, value)], count(number))).into())
}

fn of_each<M>(sinks: &[SinkCondition], metric: impl Fn(&SinkCondition) -> M) -> Each<M> {
    Each(sinks.iter().map(|sink| ([("sink", sink.name)], metric(sink))).collect())
}

fn count(number: usize) -> ConstGauge<u64> {
    ConstGauge::new(u64::try_from(number).unwrap_or(u64::MAX))
}

fn time(at: Timestamp) -> ConstGauge<f64> {
    ConstGauge::new(at.as_seconds())
}
