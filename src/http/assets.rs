//! The stylesheet, the script and the icon, under names that change with their content.

use std::sync::LazyLock;

use axum::Router;
use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{StatusCode, header};

/// A file that the pages load.
#[derive(Debug)]
pub(super) struct Asset {
    /// Where it is served: for ever the same under the same name.
    pub(super) path: String,
    content_type: &'static str,
    content: &'static str,
}

pub(super) static STYLE: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("page.css", "text/css", include_str!("assets/page.css")));
pub(super) static SCRIPT: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("page.js", "text/javascript", include_str!("assets/page.js")));
pub(super) static ICON: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("icon.svg", "image/svg+xml", include_str!("assets/icon.svg")));

const PREFIX: &str = "/assets/";

impl Asset {
    fn new(name: &str, content_type: &'static str, content: &'static str) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, content.as_bytes());
        let print = URL_SAFE_NO_PAD.encode(&digest.as_ref()[..9]);
        Self { path: format!("{PREFIX}{print}-{name}"), content_type, content }
    }
}

pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new().route("/assets/{name}", get(asset))
}

async fn asset(Path(name): Path<String>) -> Response {
    let assets = [&*STYLE, &*SCRIPT, &*ICON];
    let named = |asset: &&&Asset| asset.path.strip_prefix(PREFIX) == Some(name.as_str());
    let Some(asset) = assets.iter().find(named) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let headers = [
        (header::CONTENT_TYPE, asset.content_type),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
    ];
    (headers, asset.content).into_response()
}
