use std::convert::Infallible;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use ibvwatch::domain::Observation;
use ibvwatch::yoti::{Client, ClientError, SessionApi};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use super::server::{Connection, PATIENCE, Server};
use super::{StoppedClock, client, id, problem, settings};

/// An authority that nobody trusts yet.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, directory }
    }

    pub(crate) fn ca_file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// What makes a connection one to `localhost` with a certificate of this authority.
    pub(crate) fn acceptor(
        &self,
        protocols: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> TlsAcceptor {
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }

    /// A server that speaks these protocols, and tells which one each request came by.
    pub(crate) async fn server(
        &self,
        protocols: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> (SocketAddr, UnboundedReceiver<http::Version>) {
        let acceptor = self.acceptor(protocols, change);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, sender) = (acceptor.clone(), sender.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request: http::Request<_>| {
                        let _: &hyper::body::Incoming = request.body();
                        sender.send(request.version()).unwrap();
                        let asks_for_token = request.method() == http::Method::POST;
                        async move { Ok::<_, Infallible>(good(asks_for_token)) }
                    });
                    let served = auto::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                    drop(served);
                });
            }
        });
        (address, receiver)
    }
}

pub(crate) const ACCESS_TOKEN: &str = "token-by-tls";

fn good(asks_for_token: bool) -> http::Response<Full<Bytes>> {
    let token = format!(r#"{{"access_token":"{ACCESS_TOKEN}"}}"#);
    let body = if asks_for_token { &token } else { r#"{"state":"ONGOING"}"# };
    http::Response::new(Full::from(body.to_owned()))
}

fn trusting(address: SocketAddr, ca_file: Option<&Path>) -> Client {
    let mut settings = settings(&format!("https://localhost:{}/idverify/v1", address.port()));
    settings.ca_file = ca_file.map(Path::to_owned);
    client(settings)
}

#[tokio::test]
async fn http_2_is_spoken_where_the_server_offers_it_and_http_1_elsewhere() {
    for (protocols, version) in [
        (&["h2", "http/1.1"][..], http::Version::HTTP_2),
        (&["http/1.1"], http::Version::HTTP_11),
        (&[], http::Version::HTTP_11),
    ] {
        let authority = Authority::new("ours");
        let (address, mut versions) = authority.server(protocols, |_| {}).await;
        let client = trusting(address, Some(&authority.ca_file()));
        assert_eq!(client.session_state(id()).await, Observation::Ongoing);
        assert_eq!(versions.recv().await, Some(version));
    }
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_refused_with_the_remedy() {
    let authority = Authority::new("ours");
    let (address, _versions) = authority.server(&["h2"], |_| {}).await;
    for other in [Authority::new("theirs"), Authority::new("ours")] {
        let observation = trusting(address, Some(&other.ca_file())).session_state(id()).await;
        assert!(matches!(observation, Observation::Unreachable(_)), "{observation:?}");
        let message = &problem(&observation).message;
        assert!(message.contains("TLS") && message.contains("api.ca_file"), "{message}");
    }
}

#[tokio::test]
async fn an_expired_certificate_is_refused_and_points_at_the_clock() {
    let authority = Authority::new("ours");
    let (address, _versions) = authority
        .server(&["h2"], |params| params.not_after = rcgen::date_time_ymd(2001, 1, 1))
        .await;
    let observation = trusting(address, Some(&authority.ca_file())).session_state(id()).await;
    let message = &problem(&observation).message;
    assert!(message.contains("expired") && message.contains("clock"), "{message}");
}

#[tokio::test]
async fn a_certificate_of_another_name_is_refused_and_points_at_the_base_url() {
    let authority = Authority::new("ours");
    let (address, _versions) = authority
        .server(&["h2"], |params| {
            *params = CertificateParams::new(["elsewhere.example".to_owned()]).unwrap();
        })
        .await;
    let observation = trusting(address, Some(&authority.ca_file())).session_state(id()).await;
    let message = &problem(&observation).message;
    assert!(message.contains("TLS") && message.contains("api.base_url"), "{message}");
}

#[tokio::test]
async fn a_server_without_tls_is_no_answer() {
    let server = Server::start(|mut connection| async move {
        connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        connection.hang().await;
    })
    .await;
    let authority = Authority::new("ours");
    let client = trusting(server.address, Some(&authority.ca_file()));
    let observation = client.session_state(id()).await;
    assert!(matches!(observation, Observation::Unreachable(_)), "{observation:?}");
    let message = &problem(&observation).message;
    assert!(message.contains("can't connect to localhost"), "{message}");
    assert!(message.contains("corrupt message"), "{message}");
}

#[tokio::test]
async fn a_handshake_that_hangs_is_given_up_after_the_time_to_connect() {
    let server = Server::start(Connection::hang).await;
    let authority = Authority::new("ours");
    let mut settings = settings(&format!("https://{}/idverify/v1", server.address));
    settings.ca_file = Some(authority.ca_file());
    settings.connect_timeout = Duration::from_millis(200);
    settings.timeout = 2 * PATIENCE;
    let client = client(settings);
    let observation = tokio::time::timeout(PATIENCE, client.session_state(id())).await.unwrap();
    assert!(matches!(observation, Observation::Unreachable(_)), "{observation:?}");
    let message = &problem(&observation).message;
    assert!(message.contains("within 200ms") && message.contains("connect_timeout"), "{message}");
}

#[test]
fn a_ca_file_without_certificates_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let try_with = |name: &str, text: Option<&str>| {
        let path = directory.path().join(name);
        if let Some(text) = text {
            fs::write(&path, text).unwrap();
        }
        let mut settings = settings("https://localhost/");
        settings.ca_file = Some(path.clone());
        let error = Client::new(settings, Arc::new(StoppedClock)).unwrap_err();
        let message = error.to_string();
        assert!(message.contains(&path.display().to_string()), "{message}");
        assert!(message.contains("api.ca_file"), "{message}");
        error
    };
    assert!(matches!(try_with("missing", None), ClientError::CaUnreadable { .. }));
    assert!(matches!(try_with("empty", Some("")), ClientError::CaUnusable { .. }));
    let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(matches!(try_with("nonsense", Some(nonsense)), ClientError::CaUnusable { .. }));
}
