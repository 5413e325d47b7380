//! Where the API is: the base URL, the paths below it, and where access tokens come from.
//!
//! All are checked once, here, so that a request's URL is the plain concatenation of base URL
//! and path. That matters because the concatenation is what gets signed: a URL library that
//! quietly rewrote it afterwards would make every signature wrong.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use reqwest::Url;

use crate::domain::SessionId;

/// The API's base URL: https, or plain http to this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl {
    /// Its path has no slash at its end, unless it has nothing else.
    url: Url,
    origin: Origin,
}

/// Where access tokens are asked for: https, or plain http to this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenUrl {
    /// As it was written, which is what the endpoint compares the assertion's audience with.
    text: String,
    origin: Origin,
}

/// The server of a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    /// Host and, where it isn't the usual one, port.
    pub(super) authority: String,
    /// Whether it is this machine, for which no proxy is asked.
    pub(super) loopback: bool,
    /// Whether there is no TLS, and so no certificate to check.
    pub(super) plain_http: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUrl {
    #[error("{text:?} is not a URL; write it like {example:?}")]
    NotAUrl { text: String, example: &'static str },
    #[error("{text:?} is neither https nor plain http to this machine; write it like {example:?}")]
    Insecure { text: String, example: &'static str },
    /// The text is not repeated: it may hold a password.
    #[error("holds a user name or password; leave them out")]
    UserInfo,
    #[error("holds a query or fragment; leave out everything from the ? or # on")]
    QueryOrFragment,
}

impl BaseUrl {
    const EXAMPLE: &str = "https://api.yoti.com/idverify/v1";

    /// # Errors
    /// [`InvalidUrl`], whose text says what is wrong and what to write.
    pub fn parse(text: &str) -> Result<Self, InvalidUrl> {
        let (mut url, origin) = parse(text, Self::EXAMPLE)?;
        let path = url.path().trim_end_matches('/').to_owned();
        url.set_path(&path);
        Ok(Self { url, origin })
    }

    /// Host and, where it isn't the usual one, port.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.origin.authority
    }

    pub(super) const fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The base URL followed by that path and query, which come out as they went in or not at all.
    pub(super) fn join(&self, path_and_query: &str) -> Option<Url> {
        let text = format!("{self}{path_and_query}");
        // What a URL without a path has for one is not in the text.
        let own_path = self.url.path().trim_end_matches('/');
        let path_and_query = &text[text.len() - path_and_query.len() - own_path.len()..];
        let (path, query) = match path_and_query.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path_and_query, None),
        };
        // Its host need not be read again.
        let mut url = self.url.clone();
        url.set_path(path);
        url.set_query(query);
        (url.as_str() == text).then_some(url)
    }
}

/// Yoti's production API.
impl Default for BaseUrl {
    fn default() -> Self {
        Self::parse(Self::EXAMPLE).expect("a URL")
    }
}

impl FromStr for BaseUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.url.as_str().trim_end_matches('/'))
    }
}

impl TokenUrl {
    const DEFAULT: &str = "https://auth.api.yoti.com/v1/oauth/token";

    /// # Errors
    /// [`InvalidUrl`], whose text says what is wrong and what to write.
    pub fn parse(text: &str) -> Result<Self, InvalidUrl> {
        let (_, origin) = parse(text, Self::DEFAULT)?;
        Ok(Self { text: text.trim().to_owned(), origin })
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    pub(super) const fn origin(&self) -> &Origin {
        &self.origin
    }
}

/// Yoti's.
impl Default for TokenUrl {
    fn default() -> Self {
        Self { text: Self::DEFAULT.to_owned(), origin: Origin::https("auth.api.yoti.com") }
    }
}

impl FromStr for TokenUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for TokenUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Origin {
    fn https(host: &str) -> Self {
        Self { authority: host.to_owned(), loopback: false, plain_http: false }
    }
}

fn parse(text: &str, example: &'static str) -> Result<(Url, Origin), InvalidUrl> {
    let url = Url::parse(text.trim())
        .map_err(|_| InvalidUrl::NotAUrl { text: without_user_info(text).to_owned(), example })?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(InvalidUrl::UserInfo);
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(InvalidUrl::QueryOrFragment);
    }
    let loopback = is_loopback(url.host_str().unwrap_or_default());
    let plain_http = match url.scheme() {
        "https" => false,
        "http" if loopback => true,
        _ => return Err(InvalidUrl::Insecure { text: text.to_owned(), example }),
    };
    let origin = Origin { authority: url.authority().to_owned(), loopback, plain_http };
    Ok((url, origin))
}

fn is_loopback(host: &str) -> bool {
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

/// What can't be parsed can't be searched for a password either, so all before an @ goes.
fn without_user_info(text: &str) -> &str {
    text.rsplit_once('@').map_or(text, |(_, rest)| rest)
}

/// The path of an endpoint below the base URL, with `{session_id}` where the id goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionPath {
    before: String,
    after: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path:?} {fault}; write it like \"/sessions/{{session_id}}/configuration\"")]
pub struct InvalidSessionPath {
    path: String,
    fault: &'static str,
}

impl SessionPath {
    const PLACE: &str = "{session_id}";

    /// Where SDKs find a session's configuration.
    #[must_use]
    pub fn configuration() -> Self {
        Self { before: "/sessions/".to_owned(), after: "/configuration".to_owned() }
    }

    /// Where SDKs find the session itself.
    #[must_use]
    pub fn session() -> Self {
        Self { before: "/sessions/".to_owned(), after: String::new() }
    }

    /// # Errors
    /// [`InvalidSessionPath`], whose text says what is wrong and what to write.
    pub fn parse(text: &str) -> Result<Self, InvalidSessionPath> {
        let refuse = |fault| Err(InvalidSessionPath { path: text.to_owned(), fault });
        if !text.starts_with('/') {
            return refuse("does not begin with a slash");
        }
        if text.contains(['?', '#']) {
            return refuse("holds a query or fragment");
        }
        let Some((before, after)) = text.split_once(Self::PLACE) else {
            return refuse("does not say where {session_id} goes");
        };
        if after.contains(Self::PLACE) {
            return refuse("holds {session_id} more than once");
        }
        let path = Self { before: before.to_owned(), after: after.to_owned() };
        let sample = format!("https://host{}", path.of(SessionId::from_bytes([0; 16])));
        if Url::parse(&sample).is_ok_and(|url| url.as_str() == sample) {
            Ok(path)
        } else {
            refuse("is not in its plainest form (no .. or spaces; percent-encode other characters)")
        }
    }

    #[must_use]
    pub fn of(&self, id: SessionId) -> String {
        format!("{}{id}{}", self.before, self.after)
    }
}

impl fmt::Display for SessionPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", self.before, Self::PLACE, self.after)
    }
}

impl FromStr for SessionPath {
    type Err = InvalidSessionPath;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_this_machine_alone() {
        for text in ["http://127.0.0.1:8080/idverify/v1", "http://localhost", "http://[::1]:1/x"] {
            let url = BaseUrl::parse(text).unwrap();
            assert!(url.origin.loopback && url.origin.plain_http);
            assert_eq!(url.to_string(), text);
        }
        for text in
            ["http://api.yoti.com/idverify/v1", "http://localhost.example", "ftp://127.0.0.1/"]
        {
            assert!(matches!(BaseUrl::parse(text), Err(InvalidUrl::Insecure { .. })), "{text}");
        }
        assert_eq!(BaseUrl::default().to_string(), BaseUrl::EXAMPLE);
        assert_eq!(BaseUrl::default().authority(), "api.yoti.com");
    }

    #[test]
    fn a_joined_url_is_what_reading_the_whole_would_give_or_none() {
        for base in [
            "https://api.yoti.com/idverify/v1",
            "https://api.yoti.com",
            "https://api.yoti.com//",
            "http://[::1]:1//a%2Fb/",
            "http://localhost/a;b/~c",
        ] {
            let base = BaseUrl::parse(base).unwrap();
            for path in [
                "/sessions/x/configuration",
                "/sessions/x/configuration?sdkId=a&nonce=b%20c&timestamp=1",
                "/a?b?c",
                "/a?",
                "/../a",
                "/a b",
                "/a?b c",
                "/a#b",
                "//a",
                "/s\u{e9}ance",
            ] {
                let whole = format!("{base}{path}");
                let expected = Url::parse(&whole).ok().filter(|url| url.as_str() == whole);
                // Nothing that is asked for has a fragment.
                let expected = expected.filter(|url| url.fragment().is_none());
                assert_eq!(base.join(path), expected, "{whole}");
            }
        }
    }

    #[test]
    fn a_slash_at_the_end_of_the_base_url_changes_nothing() {
        let plain = BaseUrl::parse("https://api.yoti.com/idverify/v1").unwrap();
        assert_eq!(BaseUrl::parse("https://api.yoti.com/idverify/v1//").unwrap(), plain);
        assert_eq!(BaseUrl::parse(" HTTPS://API.yoti.com:443/idverify/v1/").unwrap(), plain);
        assert_eq!(plain.authority(), "api.yoti.com");
    }

    #[test]
    fn a_base_url_with_a_password_is_refused_without_repeating_it() {
        for text in ["https://me:hunter2@api.yoti.com/", "https://me:hunter2@api yoti com/"] {
            let message = BaseUrl::parse(text).unwrap_err().to_string();
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn a_base_url_with_a_query_or_fragment_is_refused() {
        for text in ["https://api.yoti.com/?a=b", "https://api.yoti.com/#x"] {
            assert_eq!(BaseUrl::parse(text), Err(InvalidUrl::QueryOrFragment));
        }
        for text in ["", "api.yoti.com/idverify/v1", "https://"] {
            assert!(BaseUrl::parse(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn a_token_url_stays_as_it_was_written() {
        for text in [TokenUrl::DEFAULT, "https://AUTH.example:443/v1/../token/", "http://[::1]"] {
            assert_eq!(TokenUrl::parse(&format!(" {text}\n")).unwrap().as_str(), text);
        }
        assert_eq!(TokenUrl::parse(TokenUrl::DEFAULT).unwrap(), TokenUrl::default());
    }

    #[test]
    fn a_token_url_that_would_give_the_assertion_away_or_hold_a_secret_is_refused() {
        for text in ["http://auth.api.yoti.com/v1/oauth/token", "auth.api.yoti.com", ""] {
            let message = TokenUrl::parse(text).unwrap_err().to_string();
            assert!(message.contains(TokenUrl::DEFAULT), "{message}");
        }
        let user = TokenUrl::parse("https://me:hunter2@auth.api.yoti.com/").unwrap_err();
        assert_eq!(user, InvalidUrl::UserInfo);
        for text in ["https://auth.api.yoti.com/?a=b", "https://auth.api.yoti.com/#x"] {
            assert_eq!(TokenUrl::parse(text), Err(InvalidUrl::QueryOrFragment));
        }
    }

    #[test]
    fn a_session_path_puts_the_id_in_its_place() {
        let id = SessionId::from_bytes([0x3f; 16]);
        for (path, full) in [
            ("/sessions/{session_id}", "/sessions/3f3f3f3f-3f3f-3f3f-3f3f-3f3f3f3f3f3f"),
            ("/session/{session_id}/x", "/session/3f3f3f3f-3f3f-3f3f-3f3f-3f3f3f3f3f3f/x"),
        ] {
            assert_eq!(SessionPath::parse(path).unwrap().of(id), full);
        }
    }

    #[test]
    fn a_session_path_that_a_url_library_would_rewrite_is_refused() {
        for path in [
            "sessions/{session_id}",
            "/sessions",
            "/{session_id}/{session_id}",
            "/sessions/{session_id}?x=y",
            "/../{session_id}",
            "/a b/{session_id}",
            "/%2e%2e/{session_id}",
            "/s\u{e9}ance/{session_id}",
        ] {
            assert!(SessionPath::parse(path).is_err(), "{path} was accepted");
        }
    }
}
