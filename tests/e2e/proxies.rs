//! A proxy from the environment: it passes on what it can't read, and this machine is reached
//! without it.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ibvwatch::domain::SessionId;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::common::{Home, Printed, Proxy, SDK_ID};

/// A name that no resolver knows: only the proxy can lead there.
const HOST: &str = "api.ibv.test";

/// A server for [`HOST`] that answers one request a connection with the configuration of the
/// session, and the certificate to trust.
async fn api(id: SessionId) -> (TcpListener, TlsAcceptor, String, String) {
    let mut authority = CertificateParams::new([]).expect("no names");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = || KeyPair::generate().expect("a key");
    let authority = CertifiedIssuer::self_signed(authority, key()).expect("an authority");
    let server_key = key();
    let certificate = CertificateParams::new([HOST.to_owned()])
        .and_then(|params| params.signed_by(&server_key, &authority))
        .expect("a certificate");
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(server_key.serialize_der()).expect("a key as DER"),
        )
        .expect("a certificate with its key");
    let body = format!(
        "{{\"session_id\":\"{id}\",\"client_session_token_ttl\":900,\"capture\":{{\
         \"required_resources\":[{{\"type\":\"LIVENESS\",\"id\":\"a\",\"state\":\"REQUIRED\"}}]}}}}"
    );
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    (listener, TlsAcceptor::from(Arc::new(config)), authority.pem(), answer)
}

/// The head of a request, up to its empty line.
async fn head(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a request"));
    }
    String::from_utf8(head).expect("a head in ASCII")
}

#[tokio::test]
async fn a_proxy_of_the_environment_is_told_the_host_and_sees_nothing_of_the_request() {
    let id: SessionId = "3fa85f64-5717-4562-b3fc-2c963f66afa6".parse().expect("a session id");
    let (listener, acceptor, ca, answer) = api(id).await;
    let upstream = listener.local_addr().expect("its address");
    let served = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a connection");
        let mut stream = acceptor.accept(stream).await.expect("a handshake");
        let request = head(&mut stream).await;
        stream.write_all(answer.as_bytes()).await.expect("an answer that goes out");
        stream.shutdown().await.expect("an end that goes out");
        request
    });
    // Behind the proxy's own port, one that remembers what passes.
    let remembering = Proxy::before(upstream).await;
    let port = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let proxy = port.local_addr().expect("its address");
    let beyond = remembering.address;
    let proxied = tokio::spawn(async move {
        let (mut client, _) = port.accept().await.expect("a connection");
        let asked = head(&mut client).await;
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.expect("a client that listens");
        let mut api = TcpStream::connect(beyond).await.expect("a server that listens");
        // It ends as either side likes.
        let _ = copy_bidirectional(&mut client, &mut api).await;
        asked
    });

    let mut home = Home::new().await;
    home.set("api.base_url", &format!("\"https://{HOST}/idverify/v1\""));
    fs::write(home.path("ca.pem"), ca).expect("a file that can be written");
    home.set("api.ca_file", &format!("{:?}", home.path("ca.pem").display().to_string()));
    let mut command = home.command(&["poll", &id.to_string()]);
    command.env("HTTPS_PROXY", format!("http://{proxy}"));
    let printed = Printed::of(command).await.succeeded();
    assert!(printed.contains("LIVENESS"), "{printed}");

    let asked = proxied.await.expect("a proxy that was asked");
    assert!(asked.starts_with(&format!("CONNECT {HOST}:443 ")), "{asked}");
    let request = served.await.expect("a request that was served");
    assert!(request.contains("nonce=") && request.contains(SDK_ID), "{request}");
    let passed = [asked, remembering.requests().concat()].concat().to_lowercase();
    assert!(passed.len() > 500, "nothing passed: {passed}");
    for secret in ["nonce=", "sdkid=", SDK_ID, "x-yoti-auth-digest", "idverify", &id.to_string()] {
        assert!(!passed.contains(secret), "the proxy saw {secret}: {passed}");
    }
}

#[tokio::test]
async fn an_api_on_this_machine_is_reached_without_the_proxies_of_the_environment() {
    let home = Home::new().await;
    let id = home.track_new();
    let port = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let proxy = format!("http://{}", port.local_addr().expect("its address"));
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    tokio::spawn(async move {
        while port.accept().await.is_ok() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    let mut command = home.command(&["poll", &id.to_string()]);
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]
    {
        command.env(name, &proxy);
    }
    Printed::of(command).await.succeeded();
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}
