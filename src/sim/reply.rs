//! An answer before it has a date and a request id.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderName, LOCATION};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::answer::Problem;
use super::body::Served;
use super::session::random_uuid;
use super::world::World;

pub(super) struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    serve: Box<dyn FnOnce(Bytes) -> Served + Send>,
}

impl Reply {
    pub(super) fn json(status: StatusCode, body: Bytes) -> Self {
        Self::new(status, "application/json", body)
    }

    pub(super) fn problem(problem: &Problem) -> Self {
        Self::json(problem.status, problem.body())
    }

    /// What is no status or no header is told of in the answer: somebody is setting up a fault.
    pub(super) fn status(
        status: u16,
        headers: &BTreeMap<String, String>,
        body: Option<String>,
    ) -> Self {
        let Ok(code) = StatusCode::from_u16(status) else {
            return Self::mistake(format!("{status} is no HTTP status; set one from 100 to 999"));
        };
        let body = body.map_or_else(|| Problem::of_status(code).body(), Bytes::from);
        let mut reply = Self::json(code, body);
        for (name, value) in headers {
            let (Ok(name), Ok(value)) =
                (HeaderName::try_from(name.as_str()), HeaderValue::try_from(value.as_str()))
            else {
                return Self::mistake(format!("{name:?}: {value:?} is no HTTP header"));
            };
            reply.headers.insert(name, value);
        }
        reply
    }

    pub(super) fn garbage(body: Bytes) -> Self {
        Self::json(StatusCode::OK, body)
    }

    pub(super) fn bad_gateway() -> Self {
        let page = "<html><body>502 Bad Gateway</body></html>";
        Self::new(StatusCode::BAD_GATEWAY, "text/html", Bytes::from_static(page.as_bytes()))
    }

    pub(super) fn redirect(location: &str) -> Self {
        let Ok(value) = HeaderValue::try_from(location) else {
            return Self::mistake(format!("{location:?} is no location to redirect to"));
        };
        let mut reply = Self::new(StatusCode::FOUND, "text/plain", Bytes::new());
        reply.headers.insert(LOCATION, value);
        reply
    }

    pub(super) fn gzip_bomb(bytes: u64) -> Self {
        /// Members of a gzip file unpack to the concatenation of what each unpacks to.
        const MEMBER: &[u8] = include_bytes!("mebibyte_of_blanks.gz");
        const MOST_MEMBERS: u64 = 1 << 16;
        let members = bytes.div_ceil(1 << 20).min(MOST_MEMBERS);
        let body = MEMBER.repeat(usize::try_from(members).unwrap_or(usize::MAX));
        let mut reply = Self::json(StatusCode::OK, body.into());
        reply.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        reply
    }

    /// With another state for each resource, if the body is a configuration.
    pub(super) fn flickering(mut self, rng: &mut StdRng) -> Self {
        let Ok(mut body) = serde_json::from_slice::<serde_json::Value>(&self.body) else {
            return self;
        };
        let resources = body.pointer_mut("/capture/required_resources");
        for resource in resources.and_then(|list| list.as_array_mut()).into_iter().flatten() {
            let states = ["REQUIRED", "IN_PROGRESS", "COMPLETE"];
            resource["state"] = states[rng.random_range(0..states.len())].into();
        }
        self.body = body.to_string().into();
        self
    }

    fn mistake(text: String) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", text.into())
    }

    fn new(status: StatusCode, content_type: &'static str, body: Bytes) -> Self {
        let headers =
            HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(content_type))]);
        Self { status, headers, body, serve: Box::new(Served::whole) }
    }

    /// Sends the body in that way.
    pub(super) fn paced(self, serve: impl FnOnce(Bytes) -> Served + Send + 'static) -> Self {
        Self { serve: Box::new(serve), ..self }
    }

    /// Promises the whole body and breaks off. A body that is no longer than that is promised
    /// one byte more than it has.
    pub(super) fn cut_after(mut self, bytes: usize) -> Self {
        let promised = self.body.len().max(bytes.saturating_add(1));
        self.headers.insert(CONTENT_LENGTH, HeaderValue::from(promised));
        self.paced(move |body| Served::cut_after(body, bytes))
    }

    pub(super) fn into_response(self, world: &World) -> Response<Served> {
        let request_id = random_uuid(&mut world.state().rng).to_string();
        let mut response = Response::new((self.serve)(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        if let Ok(value) = HeaderValue::try_from(request_id) {
            headers.insert("x-request-id", value);
        }
        let millis = u64::try_from(world.api_time().as_millis()).unwrap_or(0);
        let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(millis));
        if let Ok(value) = HeaderValue::try_from(date) {
            headers.insert(DATE, value);
        }
        headers.extend(self.headers);
        response
    }
}
