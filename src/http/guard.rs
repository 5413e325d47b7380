//! What every request has to pass, and every answer carries.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};

use super::host::HostName;

/// Far more than any filter of ours is long.
const LONGEST_TARGET: usize = 4 * 1024;
/// An answer that takes longer to be made is given up; streams count until they begin.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Refuses what is not for this server, before any of it is looked at closely.
pub(super) async fn admit(
    State(hosts): State<Arc<[HostName]>>,
    request: Request,
    next: Next,
) -> Response {
    if !is_meant(request.uri(), request.headers(), &hosts) {
        let text = "This host name is not among http.allowed_hosts.\n";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let allow = [(header::ALLOW, "GET, HEAD")];
        let text = "ibvwatch is read only: GET and HEAD alone.\n";
        return (StatusCode::METHOD_NOT_ALLOWED, allow, text).into_response();
    }
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if target > LONGEST_TARGET {
        let text = format!("A request target may be {LONGEST_TARGET} bytes long.\n");
        return (StatusCode::URI_TOO_LONG, text).into_response();
    }
    if let Ok(answer) = tokio::time::timeout(ANSWER_WITHIN, next.run(request)).await {
        return answer;
    }
    let retry = [(header::RETRY_AFTER, "10")];
    let text = "The answer takes too long; ibvwatch is busy.\n";
    (StatusCode::SERVICE_UNAVAILABLE, retry, text).into_response()
}

/// Whether the request is for one of our names: in the `Host` header, of which there is to be
/// exactly one, and in a target that names a host as well.
fn is_meant(target: &Uri, headers: &HeaderMap, hosts: &[HostName]) -> bool {
    let allowed = |name: &str| HostName::of_header(name).is_some_and(|name| hosts.contains(&name));
    let mut named = headers.get_all(header::HOST).iter();
    let header_is_ours = named.next().and_then(|name| name.to_str().ok()).is_some_and(allowed);
    let target_is_ours = target.authority().is_none_or(|authority| allowed(authority.as_str()));
    header_is_ours && named.next().is_none() && target_is_ours
}

/// The page loads from here and nowhere else, runs nothing that stands in it, and can't be
/// framed.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'self'; \
     frame-ancestors 'none'";

const ON_EVERY_ANSWER: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Puts the security headers on, and keeps what is true only now out of caches.
pub(super) async fn harden(mut answer: Response) -> Response {
    let headers = answer.headers_mut();
    for (name, value) in ON_EVERY_ANSWER {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    answer
}
