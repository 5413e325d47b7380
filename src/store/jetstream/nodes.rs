//! The nodes of the cluster: who lives, in what order they stand in for each other, and how the
//! work is shared.
//!
//! A node publishes a heartbeat every `HEARTBEAT_EVERY`; whoever was not heard of for
//! `LIVE_FOR` is taken for dead. Nothing that must be right rests on it: it divides the request
//! budget, and keeps nodes from trying the same thing at the same moment.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::wire::Heartbeat;

pub(super) const HEARTBEAT_EVERY: Duration = Duration::from_secs(2);
pub(super) const LIVE_FOR: Duration = Duration::from_secs(7);
/// How much later than the node before it a node does what any of them can.
pub(super) const STAGGER: Duration = Duration::from_secs(2);
/// How long the stream keeps the last word of a node.
pub(super) const HEARTBEAT_TTL: &str = "60s";

/// The cluster as one node sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cluster {
    /// By name; this node among them.
    pub nodes: Vec<Node>,
    /// Polls that are due and that no node has taken up.
    pub ticks_waiting: u64,
    /// Polls under way, of all nodes.
    pub in_flight: usize,
    /// Messages about sessions that this node has yet to be told of.
    pub view_behind: u64,
    /// Messages in the stream.
    pub messages: u64,
    /// Replicas of the stream that are offline or lag.
    pub replicas_behind: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub name: String,
    pub version: String,
    /// In whose name its session files speak.
    pub owner: String,
    /// Of the last minute.
    pub polls: u64,
    pub in_flight: usize,
    pub is_this: bool,
}

#[derive(Debug)]
pub(super) struct Nodes {
    own: String,
    others: BTreeMap<String, Other>,
}

#[derive(Debug)]
struct Other {
    heartbeat: Heartbeat,
    heard: Instant,
}

impl Nodes {
    pub(super) fn new(own: &str) -> Self {
        Self { own: own.to_owned(), others: BTreeMap::new() }
    }

    /// A node says how it is, or that it has stopped.
    pub(super) fn heard(&mut self, node: String, heartbeat: Option<Heartbeat>) {
        match heartbeat {
            _ if node == self.own => {}
            Some(heartbeat) => {
                self.others.insert(node, Other { heartbeat, heard: Instant::now() });
            }
            None => {
                self.others.remove(&node);
            }
        }
    }

    fn live(&self) -> impl Iterator<Item = (&String, &Heartbeat)> {
        let live = self.others.iter().filter(|(_, other)| other.heard.elapsed() < LIVE_FOR);
        live.map(|(name, other)| (name, &other.heartbeat))
    }

    /// Nobody could be heard for a while, so that nobody is to be taken for dead for it.
    pub(super) fn give_time(&mut self) {
        for other in self.others.values_mut().filter(|other| other.heard.elapsed() < LIVE_FOR) {
            other.heard = Instant::now();
        }
    }

    /// How many nodes live, this one among them.
    pub(super) fn count(&self) -> usize {
        1 + self.live().count()
    }

    /// How long this node leaves something to those before it.
    pub(super) fn patience(&self) -> Duration {
        let before = self.live().filter(|(name, _)| **name < self.own).count();
        STAGGER * u32::try_from(before).unwrap_or(u32::MAX)
    }

    pub(super) fn is_first(&self) -> bool {
        self.patience().is_zero()
    }

    /// The sinks that other live nodes deliver to.
    pub(super) fn sinks(&self) -> impl Iterator<Item = &String> {
        self.live().flat_map(|(_, heartbeat)| &heartbeat.sinks)
    }

    pub(super) fn list(&self, own: &Heartbeat) -> Vec<Node> {
        let node = |name: &String, heartbeat: &Heartbeat, is_this| Node {
            name: name.clone(),
            version: heartbeat.version.clone(),
            owner: heartbeat.owner.clone(),
            polls: heartbeat.polls,
            in_flight: heartbeat.in_flight,
            is_this,
        };
        let mut nodes: Vec<Node> = self.live().map(|(name, h)| node(name, h, false)).collect();
        nodes.push(node(&self.own, own, true));
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        nodes
    }
}

/// Counts what happened in the last minute, by heartbeats.
#[derive(Debug, Default)]
pub(super) struct LastMinute {
    /// The newest at the back.
    counts: VecDeque<u64>,
}

impl LastMinute {
    const BEATS: usize = 30;

    pub(super) fn count(&mut self) {
        match self.counts.back_mut() {
            Some(count) => *count += 1,
            None => self.counts.push_back(1),
        }
    }

    pub(super) fn beat(&mut self) {
        self.counts.push_back(0);
        if self.counts.len() > Self::BEATS {
            self.counts.pop_front();
        }
    }

    pub(super) fn total(&self) -> u64 {
        self.counts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_node_that_is_not_heard_of_any_more_stands_in_nobodys_way() {
        let mut nodes = Nodes::new("b");
        assert_eq!((nodes.count(), nodes.patience()), (1, Duration::ZERO));
        for other in ["a", "b", "c"] {
            nodes.heard(other.to_owned(), Some(Heartbeat::default()));
        }
        assert_eq!((nodes.count(), nodes.patience()), (3, STAGGER));
        nodes.heard("c".to_owned(), None);
        assert_eq!(nodes.count(), 2);
        tokio::time::advance(LIVE_FOR / 2).await;
        nodes.give_time();
        tokio::time::advance(LIVE_FOR / 2).await;
        assert_eq!(nodes.count(), 2);
        tokio::time::advance(LIVE_FOR / 2).await;
        assert_eq!((nodes.count(), nodes.is_first()), (1, true));
        let names: Vec<String> =
            nodes.list(&Heartbeat::default()).into_iter().map(|node| node.name).collect();
        assert_eq!(names, ["b"]);
    }

    #[test]
    fn a_minute_of_beats_is_counted_and_no_more() {
        let mut polls = LastMinute::default();
        polls.count();
        for _ in 0..LastMinute::BEATS - 1 {
            polls.beat();
            polls.count();
        }
        assert_eq!(polls.total(), 30);
        polls.beat();
        assert_eq!(polls.total(), 29);
    }
}
