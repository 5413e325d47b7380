//! The private key that requests are signed with.
//!
//! Yoti hands the key out as a PEM file, which then passes through editors, secret stores and
//! templates: line ends and surrounding white space are forgiven. What would make the key less of
//! a secret, or what is not this key at all, is refused with the reason and the remedy.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RSA_PSS_SHA384, RsaSignatureEncoding};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use zeroize::Zeroizing;

use super::secret::Secret;

/// An RSA private key of at least 2048 bits.
pub struct PrivateKey(KeyPair);

/// Why a private key can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error(
        "can't read the private key {path}: {source}; set api.auth.private_key_file to the PEM file that belongs to api.sdk_id"
    )]
    Unreadable { path: PathBuf, source: io::Error },
    #[error(
        "the private key {path} may be read by others (mode {mode:04o}); run: chmod 600 {path}"
    )]
    Exposed { path: PathBuf, mode: u32 },
    #[error(
        "the private key {path} is larger than {} bytes, so it is no key; set api.auth.private_key_file to the PEM file that belongs to api.sdk_id",
        PrivateKey::LARGEST_FILE
    )]
    TooLarge { path: PathBuf },
    #[error("the private key {path} {fault}")]
    Unusable { path: PathBuf, fault: KeyFault },
}

/// What is wrong with what a key file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    #[error(
        "is not a PEM file; it must hold a block that begins with -----BEGIN RSA PRIVATE KEY----- or -----BEGIN PRIVATE KEY-----"
    )]
    NotPem,
    #[error("is a {0}; give the private key that was made with it")]
    NotPrivate(&'static str),
    #[error(
        "is encrypted, and there is nobody to ask for its passphrase; decrypt it with: openssl pkey -in FILE -out NEW_FILE"
    )]
    Encrypted,
    #[error(
        "is in OpenSSH's own format; write it as PEM with: ssh-keygen -p -m PEM -f FILE (this rewrites the file in place)"
    )]
    OpenSsh,
    #[error("holds {0} private keys; leave only the one that belongs to api.sdk_id")]
    Several(usize),
    #[error("is not an RSA key; Yoti signs with RSA, so give the key that belongs to api.sdk_id")]
    NotRsa,
    #[error("is an RSA key of fewer than 2048 bits, which is too weak; create a new one at Yoti")]
    Weak,
    #[error("is an RSA key of more than 8192 bits, which is not supported; create a smaller one")]
    Oversized,
    #[error("is damaged: its PEM block does not hold a valid key; copy the file again")]
    Damaged,
}

/// The cryptographic library declined to sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request can't be signed with the private key; check api.auth.private_key_file")]
pub struct SigningFailed;

impl PrivateKey {
    /// No key of 8192 bits with a certificate beside it comes near this, in bytes.
    const LARGEST_FILE: u64 = 64 * 1024;

    /// Reads a key from a PEM file, PKCS#1 or PKCS#8, that its owner alone may read.
    ///
    /// A file within `credentials_directory` (systemd's `$CREDENTIALS_DIRECTORY`) may have any
    /// mode: systemd guards that directory by other means.
    ///
    /// # Errors
    /// [`KeyError`], whose text says which file, what is wrong with it, and what to do.
    pub fn load(path: &Path, credentials_directory: Option<&Path>) -> Result<Self, KeyError> {
        let unreadable = |source| KeyError::Unreadable { path: path.to_owned(), source };
        let file = File::open(path).map_err(unreadable)?;
        // The open file's own mode: the path may name another file by now.
        let metadata = file.metadata().map_err(unreadable)?;
        let mode = metadata.permissions().mode() & 0o7777;
        let exempt = credentials_directory.is_some_and(|directory| lies_in(path, directory));
        if metadata.is_file() && mode & 0o077 != 0 && !exempt {
            return Err(KeyError::Exposed { path: path.to_owned(), mode });
        }
        if metadata.len() > Self::LARGEST_FILE {
            return Err(KeyError::TooLarge { path: path.to_owned() });
        }
        // Room for the whole file at once, as a buffer that grows leaves copies behind.
        let mut pem = Vec::with_capacity(usize::try_from(Self::LARGEST_FILE).unwrap_or_default());
        let read = file.take(Self::LARGEST_FILE).read_to_end(&mut pem);
        let pem = Secret::new(pem);
        read.map_err(unreadable)?;
        Self::from_pem(&pem).map_err(|fault| KeyError::Unusable { path: path.to_owned(), fault })
    }

    /// Reads a key from the text of a PEM file.
    ///
    /// # Errors
    /// The [`KeyFault`] of the text.
    pub fn from_pem(pem: &Secret<Vec<u8>>) -> Result<Self, KeyFault> {
        let pem = trimmed(pem.expose());
        the_one_private_key(&pem)?;
        let der = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| KeyFault::Damaged)?;
        let der = Zeroizing::new(der);
        match &*der {
            PrivateKeyDer::Pkcs1(key) => KeyPair::from_der(key.secret_pkcs1_der()),
            PrivateKeyDer::Pkcs8(key) => KeyPair::from_pkcs8(key.secret_pkcs8_der()),
            // SEC 1 is for elliptic curves alone; any other form is newer than this code.
            PrivateKeyDer::Sec1(_) | _ => return Err(KeyFault::NotRsa),
        }
        .map(Self)
        .map_err(|rejected| match rejected.to_string().as_str() {
            "TooSmall" => KeyFault::Weak,
            "TooLarge" => KeyFault::Oversized,
            "WrongAlgorithm" => KeyFault::NotRsa,
            _ => KeyFault::Damaged,
        })
    }

    /// Signs with RSA PKCS#1 v1.5 over SHA-256.
    ///
    /// # Errors
    /// [`SigningFailed`] if the cryptographic library declines.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SigningFailed> {
        self.sign_as(&RSA_PKCS1_SHA256, message)
    }

    /// Signs with RSASSA-PSS over SHA-384, with a salt of the hash's length: the PS384 of RFC 7518.
    ///
    /// # Errors
    /// [`SigningFailed`] if the cryptographic library declines.
    pub fn sign_ps384(&self, message: &[u8]) -> Result<Vec<u8>, SigningFailed> {
        self.sign_as(&RSA_PSS_SHA384, message)
    }

    fn sign_as(
        &self,
        encoding: &'static RsaSignatureEncoding,
        message: &[u8],
    ) -> Result<Vec<u8>, SigningFailed> {
        let mut signature = vec![0; self.0.public_modulus_len()];
        self.0
            .sign(encoding, &SystemRandom::new(), message, &mut signature)
            .map_err(|_| SigningFailed)?;
        Ok(signature)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({} bits)", self.0.public_modulus_len() * 8)
    }
}

/// Whether the file, wherever links lead, lies below the directory.
fn lies_in(path: &Path, directory: &Path) -> bool {
    match (fs::canonicalize(path), fs::canonicalize(directory)) {
        (Ok(path), Ok(directory)) => path.starts_with(directory),
        (Err(_), _) | (_, Err(_)) => false,
    }
}

/// The text with white space taken off both ends of every line, and a byte order mark off its
/// start: the PEM reader takes only lines that begin with their dashes.
fn trimmed(pem: &[u8]) -> Zeroizing<Vec<u8>> {
    let pem = pem.strip_prefix(b"\xef\xbb\xbf").unwrap_or(pem);
    let mut lines = Zeroizing::new(Vec::with_capacity(pem.len() + 1));
    for line in pem.split(|&byte| byte == b'\n' || byte == b'\r') {
        let line = line.trim_ascii();
        if !line.is_empty() {
            lines.extend_from_slice(line);
            lines.push(b'\n');
        }
    }
    lines
}

/// Refuses a file that doesn't hold exactly one plain private key. What else it holds beside
/// that, as a certificate, is left alone.
fn the_one_private_key(pem: &[u8]) -> Result<(), KeyFault> {
    let mut private = 0;
    let mut other = None;
    for line in pem.split(|&byte| byte == b'\n') {
        let label = line.strip_prefix(b"-----BEGIN ").and_then(|l| l.strip_suffix(b"-----"));
        match label {
            Some(b"RSA PRIVATE KEY" | b"PRIVATE KEY") => private += 1,
            Some(b"ENCRYPTED PRIVATE KEY") => return Err(KeyFault::Encrypted),
            Some(b"OPENSSH PRIVATE KEY") => return Err(KeyFault::OpenSsh),
            Some(b"EC PRIVATE KEY" | b"DSA PRIVATE KEY") => other = Some(KeyFault::NotRsa),
            Some(b"PUBLIC KEY" | b"RSA PUBLIC KEY") => {
                other = other.or(Some(KeyFault::NotPrivate("public key")));
            }
            Some(b"CERTIFICATE") => other = other.or(Some(KeyFault::NotPrivate("certificate"))),
            Some(b"CERTIFICATE REQUEST") => {
                other = other.or(Some(KeyFault::NotPrivate("certificate request")));
            }
            None if line.starts_with(b"Proc-Type:") && line.ends_with(b"ENCRYPTED") => {
                return Err(KeyFault::Encrypted);
            }
            Some(_) | None => {}
        }
    }
    match private {
        0 => Err(other.unwrap_or(KeyFault::NotPem)),
        1 => Ok(()),
        several => Err(KeyFault::Several(several)),
    }
}
