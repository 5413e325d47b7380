//! Chromium, driven by its own driver.

use std::future::Future;
use std::process::Stdio;
use std::time::Duration;

use fantoccini::elements::Element;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::common::PATIENCE;

const FLAGS: &[&str] = &[
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
];

/// How a page is looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    pub(super) scheme: &'static str,
    pub(super) width: u32,
    pub(super) height: u32,
}

pub(super) const LIGHT: Look = Look { scheme: "light", width: 1_280, height: 960 };
pub(super) const DARK: Look = Look { scheme: "dark", ..LIGHT };
pub(super) const PHONE: Look = Look { scheme: "light", width: 360, height: 780 };
pub(super) const LOOKS: [Look; 3] = [LIGHT, DARK, PHONE];

/// A browser with a profile of its own.
#[derive(Clone)]
pub(super) struct Browser {
    client: Client,
    /// Of this session, at the driver.
    url: String,
}

/// Runs a test in a browser, which is closed whatever becomes of the test.
pub(super) async fn browse<T, F>(test: T)
where
    T: FnOnce(Browser) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let profile = tempfile::tempdir().expect("a directory for the browser's profile");
    let (mut driver, address) = start_driver().await;
    let client = connect(&address, &profile).await;
    let session = client.session_id().await.expect("a session").expect("its id");
    let browser = Browser { client: client.clone(), url: format!("{address}/session/{session}") };
    let ended = tokio::spawn(test(browser)).await;
    client.close().await.expect("a browser that closes");
    driver.kill().await.expect("a driver that can be killed");
    if let Err(error) = ended {
        std::panic::resume_unwind(error.into_panic());
    }
}

async fn start_driver() -> (Child, String) {
    let mut driver = Command::new("chromedriver")
        .arg("--port=0")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("chromedriver, of Debian's package chromium-driver");
    let mut lines = BufReader::new(driver.stdout.take().expect("its standard output")).lines();
    let port = async {
        while let Some(line) = lines.next_line().await.expect("text") {
            if let Some((_, port)) = line.split_once("started successfully on port ") {
                return port.trim_end_matches('.').to_owned();
            }
        }
        panic!("chromedriver ended");
    };
    let port = timeout(PATIENCE, port).await.expect("a driver that starts");
    (driver, format!("http://127.0.0.1:{port}"))
}

async fn connect(address: &str, profile: &TempDir) -> Client {
    let profile = format!("--user-data-dir={}", profile.path().display());
    let flags: Vec<&str> = FLAGS.iter().copied().chain([profile.as_str()]).collect();
    let Value::Object(capabilities) = json!({
        "goog:loggingPrefs": { "browser": "ALL" },
        "goog:chromeOptions": { "args": flags },
    }) else {
        unreachable!("it is an object");
    };
    let mut builder = ClientBuilder::new(HttpConnector::new());
    builder.capabilities(capabilities);
    builder.connect(address).await.expect("a browser that starts")
}

impl Browser {
    pub(super) async fn open(&self, url: &str) {
        self.client.goto(url).await.expect("a page");
    }

    /// Waits until that text stands somewhere in the part of the page.
    pub(super) async fn shows(&self, part: &str, text: &str) {
        self.until(
            &format!("{text:?} in {part}"),
            "return document.querySelector(arguments[0])?.innerText.includes(arguments[1]) === true",
            &[json!(part), json!(text)],
        )
        .await;
    }

    /// Waits until a script says true.
    pub(super) async fn until(&self, what: &str, script: &str, arguments: &[Value]) {
        let holds = async {
            while self.run(script, arguments).await != Value::Bool(true) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if timeout(PATIENCE, holds).await.is_err() {
            let page = self.run("return document.body.innerText", &[]).await;
            panic!("there is no {what} on\n{}", page.as_str().unwrap_or_default());
        }
    }

    /// What a script returns; it runs beside the page's own, which the page's policy allows.
    pub(super) async fn run(&self, script: &str, arguments: &[Value]) -> Value {
        self.client.execute(script, arguments.to_vec()).await.expect("a script that runs")
    }

    pub(super) async fn find(&self, selector: &str) -> Element {
        self.client.find(Locator::Css(selector)).await.expect("an element")
    }

    pub(super) async fn text(&self, selector: &str) -> String {
        self.find(selector).await.text().await.expect("its text")
    }

    pub(super) async fn count(&self, selector: &str) -> usize {
        self.client.find_all(Locator::Css(selector)).await.expect("elements").len()
    }

    pub(super) async fn click(&self, selector: &str) {
        self.find(selector).await.click().await.expect("something to click");
    }

    pub(super) async fn type_into(&self, selector: &str, text: &str) {
        self.find(selector).await.send_keys(text).await.expect("something to write into");
    }

    /// Waits until the page of that path and query is shown.
    pub(super) async fn arrives_at(&self, wanted: &str) {
        let arrives = async {
            while self.path().await != wanted {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let is_there = timeout(PATIENCE, arrives).await.is_ok();
        assert!(is_there, "{} is shown, and not {wanted}", self.path().await);
    }

    async fn path(&self) -> String {
        let url = self.client.current_url().await.expect("an address");
        url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()))
    }

    pub(super) async fn look(&self, look: Look) {
        let Look { scheme, width, height } = look;
        let size = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false,
        });
        self.devtools("Emulation.setDeviceMetricsOverride", size).await;
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.devtools("Emulation.setEmulatedMedia", media).await;
    }

    /// Keeps pages from doing anything again and again by the clock.
    pub(super) async fn without_intervals(&self) {
        let source = json!({ "source": "window.setInterval = () => 0" });
        self.devtools("Page.addScriptToEvaluateOnNewDocument", source).await;
    }

    pub(super) async fn without_scripts(&self) {
        self.devtools("Emulation.setScriptExecutionDisabled", json!({ "value": true })).await;
    }

    /// As PNG.
    pub(super) async fn screenshot(&self) -> Vec<u8> {
        self.client.screenshot().await.expect("a screenshot")
    }

    /// What the browser has complained of since it was last asked.
    pub(super) async fn complaints(&self) -> Vec<String> {
        let entries = self.post("se/log", &json!({ "type": "browser" })).await;
        let entries = entries.as_array().expect("a list of entries").iter();
        entries.map(Value::to_string).collect()
    }

    async fn devtools(&self, command: &str, parameters: Value) {
        self.post("goog/cdp/execute", &json!({ "cmd": command, "params": parameters })).await;
    }

    /// A command that only this driver knows.
    async fn post(&self, path: &str, body: &Value) -> Value {
        let client = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
        let request = client.post(format!("{}/{path}", self.url)).body(body.to_string());
        let answer = request.send().await.expect("an answer").text().await.expect("a whole one");
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        assert!(answer["value"]["error"].is_null(), "{path} {body}: {answer}");
        answer["value"].clone()
    }
}
