//! What a poll can't do without: one signature, and one GET with the connection settings that the
//! daemon has. Runs in a process of its own, so that its times are its alone.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use reqwest::{Certificate, Client};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

use crate::api::Api;
use crate::fixtures::session_id;
use crate::stage::PRIVATE_KEY;
use crate::usage::{number, usage_of};

/// Set for the process that is to be the bare client.
const WANTED: &str = "IBVWATCH_BENCH_BARE";

/// Seconds of CPU for one request, and a signature before it if it is to be signed, where so many
/// tasks ask as fast as they can, or so many times a second.
pub(crate) fn get(api: &Api, signed: bool, tasks: u32, rate: Option<f64>, time: Duration) -> f64 {
    let ca_file = api.base_url.starts_with("https").then(|| api.ca_file.display().to_string());
    let ca_file = ca_file.unwrap_or_default();
    let rate = rate.unwrap_or(0.0);
    let wanted =
        format!("{} {signed} {tasks} {rate} {} {ca_file}", api.base_url, time.as_secs_f64());
    let this = std::env::current_exe().expect("a path");
    let output = Command::new(this).env(WANTED, wanted).output().expect("the bare client");
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

/// Whether this process was the bare client, which it has been then.
pub(crate) fn was_wanted() -> bool {
    let Ok(wanted) = std::env::var(WANTED) else { return false };
    let words: Vec<&str> = wanted.split(' ').collect();
    let [base_url, signed, tasks, rate, seconds, ca_file] = words[..] else { panic!("{wanted}") };
    let read = |word: &str| word.parse::<f64>().expect("a number");
    let (rate, seconds) = (read(rate), read(seconds));
    let tasks: u32 = tasks.parse().expect("a number");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let client = client(ca_file);
    let key = (signed == "true").then(|| Arc::new(key()));
    let ask = |time: f64| {
        let until = Instant::now() + Duration::from_secs_f64(time);
        let each = (0..u64::from(tasks)).map(|n| {
            let (client, key) = (client.clone(), key.clone());
            let base_url = base_url.to_owned();
            let pause = (rate > 0.0).then(|| Duration::from_secs_f64(f64::from(tasks) / rate));
            tokio::spawn(async move {
                let mut done = 0_u64;
                let mut again = pause.map(tokio::time::interval);
                while Instant::now() < until {
                    if let Some(again) = &mut again {
                        again.tick().await;
                    }
                    if let Some(key) = &key {
                        sign(key);
                    }
                    let id = session_id(n + done % 1_000);
                    let url = format!("{base_url}/sessions/{id}/configuration");
                    let mut answer = client.get(url).send().await.expect("an answer");
                    while answer.chunk().await.expect("a body").is_some() {}
                    done += 1;
                }
                done
            })
        });
        each.collect::<Vec<_>>()
    };
    let (requests, used) = runtime.block_on(async {
        for task in ask(1.0) {
            task.await.expect("a task");
        }
        let before = usage_of(std::process::id());
        let mut requests = 0;
        for task in ask(seconds) {
            requests += task.await.expect("a task");
        }
        (number(requests), usage_of(std::process::id()).since(before))
    });
    println!("{}", used.cpu() / requests);
    true
}

/// As `src/yoti/server.rs` builds it.
fn client(ca_file: &str) -> Client {
    let builder = Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .retry(reqwest::retry::never())
        .no_proxy()
        .http2_keep_alive_interval(Duration::from_secs(15))
        .http2_keep_alive_timeout(Duration::from_secs(5))
        .http2_keep_alive_while_idle(true);
    let certificates = if ca_file.is_empty() {
        Vec::new()
    } else {
        Certificate::from_pem_bundle(&std::fs::read(ca_file).expect("a file"))
            .expect("certificates")
    };
    builder.tls_certs_only(certificates).build().expect("a client")
}

fn key() -> KeyPair {
    let key = match PrivateKeyDer::from_pem_slice(PRIVATE_KEY.as_bytes()).expect("a key") {
        PrivateKeyDer::Pkcs1(key) => KeyPair::from_der(key.secret_pkcs1_der()),
        PrivateKeyDer::Pkcs8(key) => KeyPair::from_pkcs8(key.secret_pkcs8_der()),
        PrivateKeyDer::Sec1(_) | _ => panic!("not an RSA key"),
    };
    key.expect("a key")
}

fn sign(key: &KeyPair) {
    let mut signature = vec![0; key.public_modulus_len()];
    let message = [b'x'; 190];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), &message, &mut signature)
        .expect("a signature");
}

/// Seconds of CPU for one signature with RSA-2048, one after the other.
pub(crate) fn signature() -> f64 {
    let key = key();
    (0..100).for_each(|_| sign(&key));
    let before = usage_of(std::process::id());
    (0..1_000).for_each(|_| sign(&key));
    usage_of(std::process::id()).since(before).cpu() / 1_000.0
}
