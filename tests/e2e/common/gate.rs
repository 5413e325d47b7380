use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A way to a port that can be shut: what is under way breaks off then, and nothing gets in.
pub(crate) struct Gate {
    pub(crate) port: u16,
    open: watch::Sender<bool>,
}

impl Gate {
    pub(crate) async fn before(upstream: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let (open, is_open) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, upstream, is_open.clone()));
            }
        });
        Self { port, open }
    }

    pub(crate) fn open(&self, open: bool) {
        self.open.send_replace(open);
    }
}

async fn pass(mut client: TcpStream, upstream: u16, mut is_open: watch::Receiver<bool>) {
    if !*is_open.borrow_and_update() {
        return;
    }
    // Who is on the other side may be dead at present, which is the subject of some tests.
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", upstream)).await else { return };
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => {}
        // The gate itself is gone, or is shut.
        _ = is_open.wait_for(|open| !open) => {}
    }
}
