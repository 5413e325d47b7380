use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Passes bytes on to the simulator and remembers those that were sent to it.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    sent: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Proxy {
    pub(crate) async fn before(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let sent = Arc::new(Mutex::new(Vec::new()));
        let remembered = Arc::clone(&sent);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, upstream, Arc::clone(&remembered)));
            }
        });
        Self { address, sent }
    }

    pub(crate) fn base_url(&self) -> String {
        format!("http://{}/idverify/v1", self.address)
    }

    /// The head of every request so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        let sent = self.sent.lock().expect("nobody panicked");
        let texts = sent.iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        texts
            .flat_map(|text| {
                text.split_terminator("\r\n\r\n").map(str::to_owned).collect::<Vec<_>>()
            })
            .collect()
    }
}

async fn pass(client: TcpStream, upstream: SocketAddr, sent: Arc<Mutex<Vec<Vec<u8>>>>) {
    // A connection that breaks is the subject of some tests.
    let Ok(server) = TcpStream::connect(upstream).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let place = {
        let mut sent = sent.lock().expect("nobody panicked");
        sent.push(Vec::new());
        sent.len() - 1
    };
    let requests = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
            sent.lock().expect("nobody panicked")[place].extend_from_slice(&buffer[..read]);
            if to_server.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    };
    let answers = tokio::io::copy(&mut from_server, &mut to_client);
    tokio::select! {
        () = requests => {}
        _ = answers => {}
    }
}
