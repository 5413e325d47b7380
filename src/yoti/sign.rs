//! Signed requests, as Yoti's public SDKs make them.
//!
//! What is signed is `GET&` and then the very path and query that are sent, without the base
//! URL's path. The query carries a nonce and the time, so a signature is good for one try.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use uuid::Uuid;

use crate::domain::Timestamp;

use super::key::{PrivateKey, SigningFailed};

/// Signs requests in the name of one SDK id.
#[derive(Debug)]
pub struct Signer {
    /// Percent-encoded.
    sdk_id: String,
    key: PrivateKey,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("api.sdk_id is empty; write the SDK id that Yoti's console shows for the application")]
pub struct InvalidSdkId;

impl Signer {
    /// # Errors
    /// [`InvalidSdkId`] if the id is empty. Beyond that any text will do: Yoti doesn't say what
    /// an id may look like.
    pub fn new(sdk_id: &str, key: PrivateKey) -> Result<Self, InvalidSdkId> {
        Ok(Self { sdk_id: percent_encoded(trimmed(sdk_id)?), key })
    }

    /// The path with its query, which is what gets signed and sent.
    pub(super) fn path_and_query(&self, path: &str, nonce: Uuid, now: Timestamp) -> String {
        let (sdk_id, nonce, timestamp) = (&self.sdk_id, nonce.as_hyphenated(), now.as_millis());
        format!("{path}?sdkId={sdk_id}&nonce={nonce}&timestamp={timestamp}")
    }

    /// The value of `X-Yoti-Auth-Digest` for a GET of that path and query.
    pub(super) fn digest(&self, path_and_query: &str) -> Result<String, SigningFailed> {
        let signature = self.key.sign(format!("GET&{path_and_query}").as_bytes())?;
        Ok(BASE64_STANDARD.encode(signature))
    }
}

/// The SDK id without white space around it.
pub(super) fn trimmed(sdk_id: &str) -> Result<&str, InvalidSdkId> {
    Some(sdk_id.trim()).filter(|id| !id.is_empty()).ok_or(InvalidSdkId)
}

/// All but the unreserved characters of RFC 3986 encoded, so that no URL library finds
/// anything left to change.
pub(super) fn percent_encoded(text: &str) -> String {
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| match byte {
            byte if unreserved(byte) => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;

    use crate::yoti::{BaseUrl, Secret};

    use super::*;

    /// The key of RFC 7515, appendix A.2, which everybody knows.
    const PUBLISHED_KEY: &[u8] = include_bytes!("../../tests/data/yoti/rfc7515_a2.pem");

    fn published_key() -> PrivateKey {
        PrivateKey::from_pem(&Secret::new(PUBLISHED_KEY.to_vec())).unwrap()
    }

    #[test]
    fn reproduces_the_signature_published_in_rfc_7515() {
        let message = concat!(
            "eyJhbGciOiJSUzI1NiJ9",
            ".",
            "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFt",
            "cGxlLmNvbS9pc19yb290Ijp0cnVlfQ",
        );
        let signature = concat!(
            "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7",
            "AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4",
            "BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K",
            "0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqv",
            "hJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrB",
            "p0igcN_IoypGlUPQGe77Rw",
        );
        let made = published_key().sign(message.as_bytes()).unwrap();
        assert_eq!(BASE64_URL_SAFE_NO_PAD.encode(made), signature);
    }

    #[test]
    fn signs_the_method_and_the_path_without_the_base_urls_path() {
        let signer = Signer::new(" 0f5c-sdk ", published_key()).unwrap();
        let target = signer.path_and_query(
            "/sessions/x/configuration",
            Uuid::from_bytes([0xab; 16]),
            Timestamp::from_millis(1_700_000_000_123),
        );
        assert_eq!(
            target,
            "/sessions/x/configuration?sdkId=0f5c-sdk\
             &nonce=abababab-abab-abab-abab-abababababab&timestamp=1700000000123"
        );
        let expected = published_key().sign(format!("GET&{target}").as_bytes()).unwrap();
        assert_eq!(signer.digest(&target).unwrap(), BASE64_STANDARD.encode(expected));
    }

    #[test]
    fn an_odd_sdk_id_is_sent_as_it_was_signed() {
        let base_url = BaseUrl::parse("https://api.yoti.com/idverify/v1").unwrap();
        let all: String = (1..=255).map(char::from).collect();
        for id in ["a b&c=d#e?f", "%2F%2e%zz", "50%", "é€😀", "../..", "a+b/c\\d'e\"", all.as_str()]
        {
            let signer = Signer::new(id, published_key()).unwrap();
            let now = Timestamp::from_millis(0);
            let target = signer.path_and_query("/sessions/x", Uuid::from_bytes([0; 16]), now);
            let url = base_url.join(&target).unwrap();
            let sent: http::Uri = url.as_str().parse().unwrap();
            assert_eq!(
                sent.path_and_query().unwrap().as_str(),
                format!("/idverify/v1{target}"),
                "{id}"
            );
            let (_, read) = url.query_pairs().find(|(name, _)| name == "sdkId").unwrap();
            assert_eq!(read, id.trim(), "a server reads another id");
        }
    }

    #[test]
    fn an_empty_sdk_id_is_refused() {
        assert_eq!(Signer::new(" \n", published_key()).unwrap_err(), InvalidSdkId);
    }

    #[test]
    fn a_signer_prints_nothing_of_its_key() {
        let printed = format!("{:?}", Signer::new("me", published_key()).unwrap());
        assert_eq!(printed, r#"Signer { sdk_id: "me", key: PrivateKey(2048 bits) }"#);
    }
}
