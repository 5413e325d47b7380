//! A second opinion on what the daemon signs.

use std::fs;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use tokio::process::Command;
use tokio::time::timeout;

use crate::common::{Daemon, Home, PATIENCE, Proxy, SDK_ID};

async fn openssl(home: &Home, arguments: &str) -> bool {
    let mut command = Command::new("openssl");
    command.current_dir(home.path("")).args(arguments.split(' '));
    command.output().await.expect("these tests need the openssl command").status.success()
}

#[tokio::test]
async fn openssl_accepts_the_digest_of_what_the_daemon_sent() {
    let mut home = Home::new().await;
    let proxy = Proxy::before(home.address()).await;
    home.set("api.base_url", &format!("{:?}", proxy.base_url()));
    let id = home.track_new();
    let daemon = Daemon::start(&home);
    timeout(PATIENCE, home.asked(id, 1)).await.unwrap();
    daemon.stop().await;

    let requests = proxy.requests();
    let request = &requests[0];
    let target = request.strip_prefix("GET ").and_then(|r| r.split(' ').next()).unwrap();
    let signed = target.strip_prefix("/idverify/v1").unwrap();
    assert!(signed.starts_with(&format!("/sessions/{id}/configuration?sdkId={SDK_ID}&nonce=")));
    let header = |line: &str| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("x-yoti-auth-digest").then(|| value.to_owned())
    };
    let digest = request.lines().find_map(header).unwrap();
    fs::write(home.path("digest"), BASE64_STANDARD.decode(digest).unwrap()).unwrap();
    fs::write(home.path("message"), format!("GET&{signed}")).unwrap();
    assert!(openssl(&home, "rsa -in yoti.pem -pubout -out public.pem").await);
    let verify = "dgst -sha256 -verify public.pem -signature digest message";
    assert!(openssl(&home, verify).await);
    fs::write(home.path("message"), format!("GET&{target}")).unwrap();
    assert!(!openssl(&home, verify).await);
}
