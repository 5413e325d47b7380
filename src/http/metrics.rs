//! Figures for Prometheus.

mod gauges;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::{ACCEPT, CONTENT_TYPE, VARY};
use http::{HeaderMap, StatusCode};

use crate::metrics::{Format, Metrics, Process, expose};
use crate::status::Status;

/// What the figures are taken from.
#[derive(Debug)]
struct Figures {
    metrics: Metrics,
    process: Process,
    status: Status,
}

pub(super) fn router(metrics: Metrics, process: Process, status: Status) -> Router {
    let figures = Arc::new(Figures { metrics, process, status });
    Router::new().route("/metrics", get(show)).with_state(figures)
}

async fn show(State(figures): State<Arc<Figures>>, headers: HeaderMap) -> Response {
    let accept = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = Format::accepted(&accept.collect::<Vec<_>>().join(","));
    // The files of /proc are read, and locks taken, which must not hold up whoever polls.
    let exposed = tokio::task::spawn_blocking(move || figures.expose(format)).await;
    match exposed {
        Ok(Ok(text)) => {
            ([(CONTENT_TYPE, format.content_type()), (VARY, ACCEPT.as_str())], text).into_response()
        }
        Ok(Err(_)) | Err(_) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "the figures could not be put together; the log says why\n",
        )
            .into_response(),
    }
}

impl Figures {
    fn expose(&self, format: Format) -> Result<String, std::fmt::Error> {
        let gauges = gauges::of(&self.status.condition());
        expose(&[self.metrics.registry(), &gauges, &self.process.registry()], format)
    }
}
