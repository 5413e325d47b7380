//! The promises of the README, each put to the real binary: a process of its own, against a
//! simulated API on a real socket, with files in a temporary directory.
//!
//! Nothing here looks into the daemon. What it prints is held against what the simulator knows
//! to have happened, and against what the contract says. A test waits for a condition, with
//! [`common::PATIENCE`], and never for a time to pass, unless that time is its subject.

mod api_trouble;
mod browser;
mod commands;
mod common;
mod demo;
mod durability;
mod exactly_once;
mod faults;
mod health;
mod hostile_api;
mod http;
mod logs;
mod lost_events;
mod manual;
mod metrics;
mod moving;
mod nats;
mod odd_answers;
mod output;
mod privacy;
mod proxies;
mod real_journald;
mod reference;
mod refusals;
mod schemas;
mod secrets;
mod service;
mod session_files;
mod shipped_configuration;
mod shipped_deployments;
mod shipped_monitoring;
mod signals;
mod signature;
