//! How a node is let in: as whom, by whose word, and what is said where it is not.

use std::error::Error;
use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::rustls::{self, AlertDescription, CertificateError};
use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerError};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;

use super::link::{AGAIN_AFTER, ANSWERED_WITHIN, VARZ};
use super::settings::Settings;
use crate::store::StoreError;

const CONNECT_WITHIN: Duration = Duration::from_secs(15);
/// Between two lines in the log about what a node is denied.
const SAID_EVERY: Duration = Duration::from_secs(60);

fn unusable(text: String) -> StoreError {
    StoreError::Unusable(text)
}

/// Connects; waits a while for servers that can't be reached.
pub(super) async fn connect(settings: &Settings) -> Result<(Client, Denials), StoreError> {
    let deadline = tokio::time::Instant::now() + CONNECT_WITHIN;
    let denials = Denials::default();
    loop {
        let options = options(settings, denials.clone()).await?;
        match options.connect(settings.servers.clone()).await {
            Ok(client) => return Ok((client, denials)),
            Err(error) => {
                if let Some(why) = refusal(settings, &error) {
                    let servers = settings.servers.join(", ");
                    return Err(unusable(format!("store.jetstream.servers: {servers} {why}")));
                }
                if tokio::time::Instant::now() >= deadline {
                    return Err(StoreError::Failed(format!(
                        "no NATS server of store.jetstream.servers ({}) can be reached: {error}; \
                         start one, or correct the addresses",
                        settings.servers.join(", ")
                    )));
                }
            }
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

async fn options(settings: &Settings, denials: Denials) -> Result<ConnectOptions, StoreError> {
    let mut options = ConnectOptions::new()
        .name(format!("ibvwatch {}", settings.node))
        .connection_timeout(ANSWERED_WITHIN)
        .event_callback(move |event| {
            if let Event::ServerError(ServerError::Other(said)) = event {
                denials.hear(&said);
            }
            std::future::ready(())
        });
    if let Some(path) = &settings.credentials_file {
        options = options.credentials_file(path).await.map_err(|error| {
            unusable(format!(
                "store.jetstream.credentials_file: {}: {error}; name a file with a user's JWT and \
                 seed, as nsc makes it",
                path.display()
            ))
        })?;
    }
    if let Some(path) = &settings.nkey_file {
        let seed = read("store.jetstream.nkey_file", path, "the seed of a user's NKey").await?;
        options = options.nkey(String::from_utf8_lossy(&seed).trim().to_owned());
    }
    if let Some(path) = &settings.ca_file {
        certificates("store.jetstream.ca_file", path).await?;
        options = options.add_root_certificates(path.clone()).require_tls(true);
    }
    if let (Some(certificate), Some(key)) = (&settings.certificate_file, &settings.key_file) {
        certificates("store.jetstream.certificate_file", certificate).await?;
        let pem = read("store.jetstream.key_file", key, "a private key in PEM form").await?;
        PrivateKeyDer::from_pem_slice(&pem).map_err(|_| {
            unusable(format!(
                "store.jetstream.key_file: {} holds no private key; name a file with one in PEM \
                 form",
                key.display()
            ))
        })?;
        options =
            options.add_client_certificate(certificate.clone(), key.clone()).require_tls(true);
    }
    Ok(options)
}

async fn read(key: &str, path: &Path, wanted: &str) -> Result<Vec<u8>, StoreError> {
    tokio::fs::read(path).await.map_err(|error| {
        unusable(format!("{key}: {}: {error}; name a file with {wanted}", path.display()))
    })
}

/// Sees that the file holds some; it is read again at every connection, so that they may be renewed.
async fn certificates(key: &str, path: &Path) -> Result<(), StoreError> {
    let pem = read(key, path, "certificates in PEM form").await?;
    let mut found = CertificateDer::pem_slice_iter(&pem);
    if matches!(found.next(), Some(Ok(_))) {
        return Ok(());
    }
    Err(unusable(format!(
        "{key}: {} holds no certificate; name a file with certificates in PEM form",
        path.display()
    )))
}

/// What is wrong and how it is mended, if it is that they don't let each other in: no time mends
/// that.
fn refusal(settings: &Settings, error: &ConnectError) -> Option<String> {
    match error.kind() {
        ConnectErrorKind::Authentication => {
            let path = settings.nkey_file.as_deref().unwrap_or(Path::new(""));
            Some(format!(
                "can't be answered: store.jetstream.nkey_file: {} holds no seed of an NKey; name a \
                 file with the one that begins with SU",
                path.display()
            ))
        }
        ConnectErrorKind::AuthorizationViolation => Some(format!(
            "refuses this node: {error}; {}, and the servers have to know it as a user",
            known_by(settings)
        )),
        ConnectErrorKind::ServerParse => Some(format!("is no address: {error}")),
        ConnectErrorKind::Tls | ConnectErrorKind::Io => of_tls(settings, error),
        ConnectErrorKind::Dns | ConnectErrorKind::TimedOut | ConnectErrorKind::MaxReconnects => {
            None
        }
    }
}

/// By what the servers know this node.
fn known_by(settings: &Settings) -> String {
    let files = [
        ("credentials_file", &settings.credentials_file),
        ("nkey_file", &settings.nkey_file),
        ("certificate_file", &settings.certificate_file),
    ];
    let shown = files.into_iter().find_map(|(key, path)| Some((key, path.as_ref()?)));
    shown.map_or_else(
        || {
            "it shows nothing: set store.jetstream.credentials_file, nkey_file or certificate_file"
                .to_owned()
        },
        |(key, path)| format!("it shows store.jetstream.{key} ({})", path.display()),
    )
}

fn of_tls(settings: &Settings, error: &ConnectError) -> Option<String> {
    let shown = |path: &Option<std::path::PathBuf>| {
        path.as_ref().map_or_else(|| "not set".to_owned(), |path| path.display().to_string())
    };
    let Some(tls) = tls_error(error) else {
        // Whatever else is wrong with the set-up of TLS is so with the files.
        return (error.kind() == ConnectErrorKind::Tls).then(|| {
            format!(
                "can't be spoken to by TLS: {error}; check that store.jetstream.certificate_file \
                 ({}) and key_file ({}) belong together",
                shown(&settings.certificate_file),
                shown(&settings.key_file)
            )
        });
    };
    let certificate = shown(&settings.certificate_file);
    if let rustls::Error::InvalidCertificate(wrong) = tls {
        return Some(theirs(wrong, &shown(&settings.ca_file)));
    }
    let rustls::Error::AlertReceived(alert) = tls else {
        return Some(format!(
            "can't be spoken to by TLS: {tls}; check that the servers have it, or leave out \
             store.jetstream.ca_file, certificate_file and tls://"
        ));
    };
    Some(if settings.certificate_file.is_some() {
        format!(
            "doesn't accept store.jetstream.certificate_file ({certificate}): {tls}; it must be \
             signed by a root that the servers trust, for clients, and be valid now"
        )
    } else if asks_for_certificate(*alert) {
        "asks this node for a certificate: set store.jetstream.certificate_file and key_file"
            .to_owned()
    } else {
        format!("breaks off TLS: {tls}; see the server's log")
    })
}

/// What is wrong with the certificate of a server.
fn theirs(wrong: &CertificateError, ca_file: &str) -> String {
    use CertificateError as Wrong;
    if matches!(wrong, Wrong::UnknownIssuer | Wrong::BadSignature) {
        return format!(
            "shows a certificate that nobody trusted has signed: set store.jetstream.ca_file \
             ({ca_file}) to the root that has"
        );
    }
    if matches!(wrong, Wrong::NotValidForName | Wrong::NotValidForNameContext { .. }) {
        return "shows a certificate for another name: name each server as its certificate does, \
                or make one for this name"
            .to_owned();
    }
    format!(
        "shows a certificate that can't be used: {wrong}; make another, or set this machine's \
         clock right"
    )
}

/// An older TLS has no word of its own for that.
fn asks_for_certificate(alert: AlertDescription) -> bool {
    use AlertDescription as Alert;
    matches!(alert, Alert::CertificateRequired | Alert::BadCertificate | Alert::HandshakeFailure)
}

fn tls_error(error: &ConnectError) -> Option<&rustls::Error> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return Some(error);
        }
        // An IO error leaves itself out of its sources.
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(error) = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Some(error);
        }
        cause = error.source();
    }
    None
}

/// What the servers don't let this node do, which they say beside the request that then has no
/// answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Denials {
    last: watch::Sender<Option<String>>,
    said: Arc<Mutex<Option<Instant>>>,
}

impl Denials {
    fn hear(&self, said: &str) {
        // That one it can do without.
        if !said.starts_with("Permissions Violation") || said.contains(VARZ) {
            return;
        }
        let mend = "give its user what deploy/nats/accounts.conf gives CN=ibvwatch";
        let mut at = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if at.is_none_or(|at| at.elapsed() >= SAID_EVERY) {
            *at = Some(Instant::now());
            tracing::error!("NATS denies this node what it needs: {said}; {mend}");
        }
        let denied = format!("NATS denies this node what it needs: {said}; {mend}");
        self.last.send_replace(Some(denied));
    }

    /// What was denied since this was last asked.
    pub(super) fn take(&self) -> Option<String> {
        self.last.send_replace(None)
    }

    /// What comes of that, unless something is denied meanwhile.
    pub(super) async fn none_in<T>(
        &self,
        asking: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let mut last = self.last.subscribe();
        tokio::select! {
            result = asking => result,
            Ok(denied) = last.wait_for(Option::is_some) => {
                Err(unusable(denied.clone().unwrap_or_default()))
            }
        }
    }
}
