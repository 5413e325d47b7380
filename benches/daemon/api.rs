//! An API that answers at once: what is left of a poll's time and cost is the client's.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::fixtures::{MONTH, body, session_id};

/// An API in threads of this process.
pub(crate) struct Api {
    pub(crate) base_url: String,
    pub(crate) ca_file: PathBuf,
    state: Arc<State>,
    _runtime: Runtime,
}

struct State {
    started: Instant,
    requests: AtomicU64,
    first_request: Mutex<Option<Instant>>,
    /// Odd: one resource of each session is in progress.
    change: AtomicU64,
}

impl Api {
    pub(crate) fn start(home: &Path, tls: bool) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let ca_file = home.join("ca.pem");
        let acceptor = tls.then(|| acceptor(&ca_file));
        let state = Arc::new(State {
            started: Instant::now(),
            requests: AtomicU64::new(0),
            first_request: Mutex::new(None),
            change: AtomicU64::new(0),
        });
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        runtime.spawn(accept(listener, acceptor, Arc::clone(&state)));
        let base_url = if tls {
            format!("https://localhost:{port}/idverify/v1")
        } else {
            format!("http://127.0.0.1:{port}/idverify/v1")
        };
        Self { base_url, ca_file, state, _runtime: runtime }
    }

    pub(crate) fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::Relaxed)
    }

    pub(crate) fn first_request(&self) -> Option<Instant> {
        *self.state.first_request.lock().expect("a lock")
    }

    /// What a configuration says that leads here.
    pub(crate) fn keys(&self, bearer: bool) -> String {
        let Self { base_url, ca_file, .. } = self;
        let mut keys = String::new();
        if base_url.starts_with("https") {
            writeln!(keys, "api.ca_file = \"{}\"", ca_file.display()).expect("a string");
        }
        if bearer {
            writeln!(keys, "api.auth.method = \"bearer\"").expect("a string");
            writeln!(keys, "api.auth.token_url = \"{base_url}/token\"").expect("a string");
        }
        keys
    }

    /// From now on every session has changed since its last poll.
    pub(crate) fn change(&self) {
        self.state.change.fetch_add(1, Ordering::Relaxed);
    }
}

fn acceptor(ca_file: &Path) -> TlsAcceptor {
    let mut params = CertificateParams::new([]).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = || KeyPair::generate().expect("a key");
    let issuer = CertifiedIssuer::self_signed(params, key()).expect("an authority");
    std::fs::write(ca_file, issuer.pem()).expect("a file");
    let key = key();
    let params = CertificateParams::new(["localhost".to_owned()]).expect("parameters");
    let certificate = params.signed_by(&key, &issuer).expect("a certificate");
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .expect("a configuration");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

async fn accept(listener: TcpListener, acceptor: Option<TlsAcceptor>, state: Arc<State>) {
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).expect("a socket");
        let (acceptor, state) = (acceptor.clone(), Arc::clone(&state));
        tokio::spawn(async move {
            match acceptor {
                None => serve(stream, state).await,
                Some(acceptor) => {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve(stream, state).await;
                    }
                }
            }
        });
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, state: Arc<State>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = answer(&state, request.uri().path());
        async move { Ok::<_, Infallible>(response) }
    });
    // That the client goes away is how a connection ends.
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn answer(state: &State, path: &str) -> Response<Full<Bytes>> {
    let respond = |kind: &'static str, body: String| {
        let response = Response::builder().header(CONTENT_TYPE, kind);
        response.body(Full::new(Bytes::from(body))).expect("a response")
    };
    if path.ends_with("/token") {
        let token = r#"{"access_token":"local","token_type":"Bearer","expires_in":86400}"#;
        return respond("application/json", token.to_owned());
    }
    if path.starts_with("/metrics") {
        state.requests.fetch_add(1, Ordering::Relaxed);
        return respond("text/plain; version=0.0.4", exposition());
    }
    state.requests.fetch_add(1, Ordering::Relaxed);
    state.first_request.lock().expect("a lock").get_or_insert_with(Instant::now);
    let id = path.split('/').find_map(|part| part.parse().ok()).expect("an id");
    let left = MONTH.saturating_sub(state.started.elapsed()).as_secs();
    let is_odd = state.change.load(Ordering::Relaxed) % 2 == 1;
    let first = if is_odd { "IN_PROGRESS" } else { "REQUIRED" };
    respond("application/json", body(id, left, first))
}

/// Four states, and as much text as a configuration has.
fn exposition() -> String {
    let mut text = String::from("# TYPE resource_state gauge\n");
    for kind in ["ID_DOCUMENT", "SUPPLEMENTARY_DOCUMENT", "LIVENESS", "FACE_CAPTURE"] {
        writeln!(text, "resource_state{{type=\"{kind}\"}} 1").expect("a string takes everything");
    }
    let length = body(session_id(0), 0, "REQUIRED").len();
    writeln!(text, "# {}", "x".repeat(length - text.len())).expect("a string takes everything");
    text
}
