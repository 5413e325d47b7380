use http::{Method, StatusCode};
use reqwest::header::HeaderMap;

use super::{Daemon, Home, PATIENCE};

/// What a daemon serves, asked as a browser or a script would.
pub(crate) struct Site {
    client: reqwest::Client,
    address: String,
}

/// An answer, whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Home {
    /// Has the daemon serve HTTP on a free port.
    pub(crate) fn serve_http(&mut self) {
        self.set("http.listen", "\"127.0.0.1:0\"");
    }
}

impl Daemon {
    /// What it serves, once it does.
    pub(crate) async fn site(&mut self) -> Site {
        const SERVED: &str = "the status page and the read API are served address=";
        self.logs(SERVED).await;
        let log = self.log();
        let address = log.split(SERVED).nth(1).and_then(|rest| rest.split_whitespace().next());
        let client = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
        Site { client, address: address.expect("an address behind it").to_owned() }
    }
}

impl Site {
    pub(crate) fn url(&self, target: &str) -> String {
        format!("http://{}{target}", self.address)
    }

    pub(crate) async fn get(&self, target: &str) -> Answer {
        self.ask(Method::GET, target, &[]).await
    }

    pub(crate) async fn ask(
        &self,
        method: Method,
        target: &str,
        headers: &[(&str, &str)],
    ) -> Answer {
        let mut request = self.client.request(method, self.url(target));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.expect("an answer");
        Answer {
            status: response.status(),
            headers: response.headers().clone(),
            body: response.text().await.expect("a whole answer"),
        }
    }
}

/// Server-sent events as they come.
pub(crate) struct Stream {
    answer: reqwest::Response,
    read: String,
}

impl Site {
    pub(crate) async fn follow(&self, target: &str, last_event_id: Option<&str>) -> Stream {
        let mut request = self.client.get(self.url(target)).header("accept", "text/event-stream");
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        Stream { answer: request.send().await.expect("an answer"), read: String::new() }
    }
}

impl Stream {
    /// What follows on the next line that begins so.
    pub(crate) async fn until(&mut self, begins: &str) -> String {
        loop {
            while let Some(end) = self.read.find('\n') {
                let line: String = self.read.drain(..=end).collect();
                if let Some(found) = line.trim_end().strip_prefix(begins) {
                    return found.to_owned();
                }
            }
            let chunk = tokio::time::timeout(PATIENCE, self.answer.chunk()).await;
            let chunk = chunk.expect("a line in time").expect("a whole chunk").expect("a line");
            self.read += std::str::from_utf8(&chunk).expect("UTF-8");
        }
    }
}
