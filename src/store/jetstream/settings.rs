use std::path::PathBuf;
use std::time::Duration;

/// Where NATS is, how to be let in, and as whom; the validated form of `store.jetstream.*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `nats://` or `tls://` URLs.
    pub servers: Vec<String>,
    pub credentials_file: Option<PathBuf>,
    /// Holds the seed of an `NKey`.
    pub nkey_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
    pub certificate_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// Of the stream, and what all subjects begin with.
    pub name: String,
    pub replicas: usize,
    /// This node's name, which no other has.
    pub node: String,
    /// In whose name this node's session files speak.
    pub owner: String,
    pub sweep: Sweep,
}

/// How ticks that were lost are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sweep {
    /// Between two looks.
    pub every: Duration,
    /// How long a session is overdue before its tick may be taken for lost.
    pub lost_after: Duration,
}

impl Default for Sweep {
    /// The server publishes a tick within a second or so.
    fn default() -> Self {
        Self { every: Duration::from_millis(100), lost_after: Duration::from_secs(5) }
    }
}

impl Settings {
    /// A stream's, node's and owner's name is a token of subjects and a name of NATS at once.
    #[must_use]
    pub fn is_name(text: &str) -> bool {
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        !text.is_empty() && text.len() <= 64 && text.chars().all(fits)
    }
}
