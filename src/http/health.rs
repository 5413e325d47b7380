//! Whether the daemon works, for whoever restarts it or sends work to it: a status code, and a
//! line that says why.
//!
//! Neither answer waits for any part of the daemon, so each comes also when one is stuck.

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use http::StatusCode;

use crate::status::{Stage, Status};

pub(super) fn router(status: Status) -> Router {
    Router::new().route("/healthz", get(health)).route("/readyz", get(readiness)).with_state(status)
}

/// 503 means that a restart is the remedy.
async fn health(State(status): State<Status>) -> (StatusCode, String) {
    if status.live() {
        let seconds = status.silence().as_secs();
        return (StatusCode::OK, format!("ok: the poll loop went round {seconds} s ago\n"));
    }
    (StatusCode::SERVICE_UNAVAILABLE, stuck(&status))
}

/// 503 means that sessions aren't being watched: not yet, not any more, or not at present.
async fn readiness(State(status): State<Status>) -> (StatusCode, String) {
    let why_not = match status.stage() {
        Stage::Starting => "starting: the session files have yet to be read\n".to_owned(),
        Stage::Draining => "draining: the daemon was told to stop\n".to_owned(),
        Stage::Running if status.live() => {
            return (StatusCode::OK, "ok: sessions are watched\n".to_owned());
        }
        Stage::Running => stuck(&status),
    };
    (StatusCode::SERVICE_UNAVAILABLE, why_not)
}

fn stuck(status: &Status) -> String {
    let seconds = status.silence().as_secs();
    format!(
        "stuck: the poll loop has stood still for {seconds} s, so no session is polled; restart ibvwatch\n"
    )
}
