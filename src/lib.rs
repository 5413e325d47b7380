//! ibvwatch: knows the moment a Yoti in-branch verification session changes.
//!
//! In reading order: what a session is and what an answer means for it (`domain`), where the
//! ids come from (`directory`), how the API is asked (`yoti`), where things are kept (`store`),
//! the loop that joins them (`poller`), where events go (`sinks`), what is shown of it (`http`), and
//! how it all becomes a daemon (`config`, `app`) with commands (`cli`). `sim` is a Yoti API to try
//! it all against.

pub mod domain;

pub mod clock;
pub mod directory;
pub mod failpoint;
pub mod sinks;
pub mod store;
pub mod yoti;

pub mod config;
pub mod limiter;
pub mod metrics;
pub mod notify;
pub mod poller;
pub mod refresh;
pub mod schema;
pub mod status;
pub mod view;

pub mod http;

pub mod app;
pub mod cli;

pub mod sim;

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;

#[cfg(test)]
mod simulation;
