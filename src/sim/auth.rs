//! What the API demands of a signed request, written down from its documentation and from
//! nothing of ours: a client that signs something else than it sends is found out here.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::time::Duration;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{
    KeyPair as _, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384,
};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde::Serialize;
use uuid::Uuid;

use super::token::TokenRefusal;
use crate::domain::Timestamp;

/// How far a timestamp may be off the simulator's clock, in either direction.
const FRESH_FOR: Duration = Duration::from_secs(5 * 60);

/// The RSA key that requests must be signed with, seen from Yoti's side.
#[derive(Clone)]
pub struct PublicKey {
    /// For signed requests.
    pkcs1_sha256: ParsedPublicKey,
    /// For the assertions that access tokens are asked for with.
    pss_sha384: ParsedPublicKey,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    #[error("the key is no RSA key of 2048 to 8192 bits; write a PEM or DER file of one")]
    NotRsa,
    #[error("the PEM text is damaged; write the key file anew, from -----BEGIN to -----END")]
    DamagedPem,
    #[error(
        "the PEM file holds a {0:?}, not an RSA key; write a file that holds a PUBLIC KEY, an RSA PUBLIC KEY, a PRIVATE KEY or an RSA PRIVATE KEY"
    )]
    OtherPem(String),
    #[error("no RSA key could be generated; look for a broken random number source")]
    NotGenerated,
}

impl PublicKey {
    /// Reads a public key (SPKI or PKCS#1, PEM or DER), or takes the public half of a private
    /// key (PKCS#8 or PKCS#1, PEM).
    ///
    /// # Errors
    /// That the file holds no RSA key of 2048 to 8192 bits.
    pub fn parse(file: &[u8]) -> Result<Self, InvalidKey> {
        let Some((label, der)) = pem(file)? else {
            return Self::from_der(file);
        };
        match label.as_str() {
            "PUBLIC KEY" | "RSA PUBLIC KEY" => Self::from_der(&der),
            "PRIVATE KEY" => Self::of(&KeyPair::from_pkcs8(&der).map_err(|_| InvalidKey::NotRsa)?),
            "RSA PRIVATE KEY" => {
                Self::of(&KeyPair::from_der(&der).map_err(|_| InvalidKey::NotRsa)?)
            }
            _ => Err(InvalidKey::OtherPem(label)),
        }
    }

    /// A new private key (PKCS#8 PEM) for a client, and its public half for the simulator.
    ///
    /// # Errors
    /// That the machine has no random numbers to give.
    pub fn generate() -> Result<(String, Self), InvalidKey> {
        let pair = KeyPair::generate(KeySize::Rsa2048).map_err(|_| InvalidKey::NotGenerated)?;
        let der = pair.as_der().map_err(|_| InvalidKey::NotGenerated)?;
        let mut text = String::from("-----BEGIN PRIVATE KEY-----\n");
        for (place, letter) in BASE64_STANDARD.encode(der.as_ref()).chars().enumerate() {
            if place > 0 && place % 64 == 0 {
                text.push('\n');
            }
            text.push(letter);
        }
        text.push_str("\n-----END PRIVATE KEY-----\n");
        Ok((text, Self::of(&pair)?))
    }

    fn of(pair: &KeyPair) -> Result<Self, InvalidKey> {
        Self::from_der(pair.public_key().as_ref())
    }

    fn from_der(der: &[u8]) -> Result<Self, InvalidKey> {
        let parse =
            |algorithm| ParsedPublicKey::new(algorithm, der).map_err(|_| InvalidKey::NotRsa);
        Ok(Self {
            pkcs1_sha256: parse(&RSA_PKCS1_2048_8192_SHA256)?,
            pss_sha384: parse(&RSA_PSS_2048_8192_SHA384)?,
        })
    }

    pub(super) fn verifies_ps384(&self, message: &[u8], signature: &[u8]) -> bool {
        self.pss_sha384.verify_sig(message, signature).is_ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PublicKey")
    }
}

/// Label and content of the first PEM section, or nothing where the file isn't PEM.
fn pem(file: &[u8]) -> Result<Option<(String, Vec<u8>)>, InvalidKey> {
    let Some((_, section)) =
        std::str::from_utf8(file).ok().and_then(|text| text.split_once("-----BEGIN "))
    else {
        return Ok(None);
    };
    let (label, rest) = section.split_once("-----").ok_or(InvalidKey::DamagedPem)?;
    let (content, _) =
        rest.split_once(&format!("-----END {label}-----")).ok_or(InvalidKey::DamagedPem)?;
    let content: String = content.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let der = BASE64_STANDARD.decode(content).map_err(|_| InvalidKey::DamagedPem)?;
    Ok(Some((label.to_owned(), der)))
}

/// Why a request was turned away before its session was looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    MissingDigest,
    /// Left out, empty, or given more than once.
    MissingParameter(Parameter),
    WrongSdkId,
    WrongSignature,
    NonceNotUuid4,
    NonceRepeated,
    TimestampNotMilliseconds,
    TimestampStale,
    /// A bearer token, and with it a part of a signed request.
    MixedCredentials,
    /// The access token was never given out, has expired, or was revoked.
    BadToken,
    /// By the token endpoint.
    Token(TokenRefusal),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Parameter {
    SdkId,
    Nonce,
    Timestamp,
}

impl Parameter {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::SdkId => "sdkId",
            Self::Nonce => "nonce",
            Self::Timestamp => "timestamp",
        }
    }
}

/// Checks requests against one application's SDK id and key.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) sdk_id: String,
    /// Without a key every signature is taken for good; all else is still checked.
    pub(super) public_key: Option<PublicKey>,
}

/// The nonce of a request that is well signed; it remains to be seen whether it is new.
pub(super) struct Signed {
    nonce: Uuid,
}

impl Gate {
    /// `target` is path and query exactly as they came, without the base URL's path.
    pub(super) fn check(
        &self,
        target: &str,
        digest: Option<&[u8]>,
        now: Timestamp,
    ) -> Result<Signed, Refusal> {
        let digest = digest.filter(|d| !d.is_empty()).ok_or(Refusal::MissingDigest)?;
        let query = target.split_once('?').map_or("", |(_, query)| query);
        if only(query, Parameter::SdkId)? != self.sdk_id {
            return Err(Refusal::WrongSdkId);
        }
        let nonce = only(query, Parameter::Nonce)?;
        let timestamp = only(query, Parameter::Timestamp)?;
        if let Some(PublicKey { pkcs1_sha256: key, .. }) = &self.public_key {
            let signature = BASE64_STANDARD.decode(digest).map_err(|_| Refusal::WrongSignature)?;
            key.verify_sig(format!("GET&{target}").as_bytes(), &signature)
                .map_err(|_| Refusal::WrongSignature)?;
        }
        let nonce = Uuid::try_parse(nonce)
            .ok()
            .filter(|uuid| uuid.get_version_num() == 4 && uuid.to_string() == nonce)
            .ok_or(Refusal::NonceNotUuid4)?;
        fresh(timestamp, now)?;
        Ok(Signed { nonce })
    }
}

/// Whether a query has a part of a signed request in it.
pub(super) fn has_parameters(query: &str) -> bool {
    let names = [Parameter::SdkId, Parameter::Nonce, Parameter::Timestamp].map(Parameter::as_str);
    query.split('&').any(|pair| names.contains(&pair.split('=').next().unwrap_or(pair)))
}

fn fresh(timestamp: &str, now: Timestamp) -> Result<(), Refusal> {
    const DIGITS: usize = 13;
    if timestamp.len() != DIGITS || !timestamp.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Refusal::TimestampNotMilliseconds);
    }
    let millis = timestamp.parse().map_err(|_| Refusal::TimestampNotMilliseconds)?;
    if Timestamp::from_millis(millis).distance(now) > FRESH_FOR {
        return Err(Refusal::TimestampStale);
    }
    Ok(())
}

/// The value of a parameter that must be there exactly once.
fn only(query: &str, parameter: Parameter) -> Result<&str, Refusal> {
    let mut values = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .filter(|(name, _)| *name == parameter.as_str())
        .map(|(_, value)| value);
    match (values.next(), values.next()) {
        (Some(value), None) if !value.is_empty() => Ok(value),
        _ => Err(Refusal::MissingParameter(parameter)),
    }
}

/// Nonces seen, for as long as a timestamp could still let a repetition pass.
#[derive(Debug, Default)]
pub(super) struct Nonces {
    known: HashSet<Uuid>,
    in_order: VecDeque<(Timestamp, Uuid)>,
}

impl Nonces {
    pub(super) fn admit(&mut self, signed: &Signed, now: Timestamp) -> Result<(), Refusal> {
        while let Some((seen, nonce)) = self.in_order.front().copied()
            && now.since(seen) > 2 * FRESH_FOR
        {
            self.known.remove(&nonce);
            self.in_order.pop_front();
        }
        if !self.known.insert(signed.nonce) {
            return Err(Refusal::NonceRepeated);
        }
        self.in_order.push_back((now, signed.nonce));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_key_reads_back_as_the_same_public_key() {
        let (private, public) = PublicKey::generate().unwrap();
        let message = b"GET&/sessions";
        let (_, der) = pem(private.as_bytes()).unwrap().unwrap();
        let pair = KeyPair::from_pkcs8(&der).unwrap();
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(
            &aws_lc_rs::signature::RSA_PKCS1_SHA256,
            &aws_lc_rs::rand::SystemRandom::new(),
            message,
            &mut signature,
        )
        .unwrap();
        let read = PublicKey::parse(private.as_bytes()).unwrap();
        let spki = pair.public_key().as_der().unwrap();
        let from_spki = PublicKey::parse(spki.as_ref()).unwrap();
        for key in [public, read, from_spki] {
            key.pkcs1_sha256.verify_sig(message, &signature).unwrap();
        }
    }

    #[test]
    fn every_form_of_public_key_is_read() {
        let (private, _) = PublicKey::generate().unwrap();
        let (_, der) = pem(private.as_bytes()).unwrap().unwrap();
        let pair = KeyPair::from_pkcs8(&der).unwrap();
        let pkcs1 = pair.public_key().as_ref().to_vec();
        let spki = pair.public_key().as_der().unwrap().as_ref().to_vec();
        for (label, der) in [("RSA PUBLIC KEY", pkcs1), ("PUBLIC KEY", spki)] {
            let body = BASE64_STANDARD.encode(&der);
            let text = format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n  \n");
            PublicKey::parse(text.as_bytes()).unwrap();
            PublicKey::parse(&der).unwrap();
        }
    }

    #[test]
    fn what_is_no_rsa_key_is_refused_by_what_is_wrong_with_it() {
        let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let error = PublicKey::parse(certificate.as_bytes()).unwrap_err();
        assert_eq!(error, InvalidKey::OtherPem("CERTIFICATE".into()));
        let cut = "-----BEGIN PUBLIC KEY-----\nAAAA\n";
        assert_eq!(PublicKey::parse(cut.as_bytes()).unwrap_err(), InvalidKey::DamagedPem);
        assert_eq!(PublicKey::parse(b"hello").unwrap_err(), InvalidKey::NotRsa);
    }

    #[test]
    fn a_nonce_may_return_only_once_no_timestamp_could_let_it_pass() {
        let start = Timestamp::from_millis(1_800_000_000_000);
        let signed = Signed { nonce: Uuid::from_u128(7) };
        let mut nonces = Nonces::default();
        assert_eq!(nonces.admit(&signed, start), Ok(()));
        let later = start.plus(2 * FRESH_FOR);
        assert_eq!(nonces.admit(&signed, later), Err(Refusal::NonceRepeated));
        let after = later.plus(Duration::from_secs(1));
        assert_eq!(nonces.admit(&signed, after), Ok(()));
        assert_eq!(nonces.in_order.len(), 1);
    }
}
