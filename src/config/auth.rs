//! `api.auth`: how requests are authenticated.

use std::path::PathBuf;

use super::shape::Shape;
use super::{Environment, Sources};
use crate::yoti::{Scopes, TokenUrl};

/// How requests are authenticated, and with which key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    pub method: AuthMethod,
    pub private_key_file: PathBuf,
    /// systemd's, whose files may be readable by the group.
    pub credentials_directory: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthMethod {
    SignedRequest,
    Bearer { token_url: TokenUrl, scopes: Scopes },
}

pub(super) fn auth(sources: &mut Sources, environment: &Environment) -> Auth {
    let method = method(sources);
    let written = sources.text("api.auth.private_key_file", Shape::filled_text());
    let private_key_file = written.map(PathBuf::from);
    let credentials_directory = environment.get("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    let credential = credentials_directory
        .as_ref()
        .map(|directory| directory.join("yoti.pem"))
        .filter(|file| file.exists());
    let private_key_file = private_key_file.or(credential).unwrap_or_else(|| {
        sources.problem(
            "api.auth.private_key_file",
            "required: the path of the PEM file with your application's private key",
        );
        PathBuf::new()
    });
    Auth { method, private_key_file, credentials_directory }
}

/// What only bearer tokens need is read in any case, so that it may stay in the file while the
/// other method is tried.
fn method(sources: &mut Sources) -> AuthMethod {
    let token_url = sources.parsed("api.auth.token_url", TokenUrl::default());
    let scopes = scopes(sources);
    let methods = [("signed_request", false), ("bearer", true)];
    if sources.choice("api.auth.method", methods).unwrap_or_default() {
        AuthMethod::Bearer { token_url, scopes }
    } else {
        AuthMethod::SignedRequest
    }
}

fn scopes(sources: &mut Sources) -> Scopes {
    let default = Scopes::default();
    let listed: Vec<_> = default.to_string().split(' ').map(str::to_owned).collect();
    let shape = Shape::list().not_empty().default(listed);
    let parse = |texts| Scopes::new(texts).map_err(|error| error.to_string());
    let what = "texts, like [\"idv:sessions\"]";
    sources.texts("api.auth.scopes", shape, what, parse).unwrap_or(default)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Place, Problem, load};

    const TEMPLATE: &str = include_str!("../../config/ibvwatch.toml");

    fn read(toml: &str, environment: &[(&str, &str)]) -> (Auth, Vec<Problem>) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.toml");
        let rest = "private_key_file = \"key.pem\"\n";
        let text = format!("[api]\nsdk_id = \"me\"\n[api.auth]\n{rest}{toml}");
        std::fs::write(&file, text).unwrap();
        let environment =
            environment.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        let loaded = load(&[file], &environment);
        (loaded.config().api.auth.clone(), loaded.problems().to_vec())
    }

    fn bearer(token_url: &str, scopes: &[&str]) -> AuthMethod {
        let token_url = TokenUrl::parse(token_url).unwrap();
        AuthMethod::Bearer { token_url, scopes: Scopes::new(scopes).unwrap() }
    }

    fn mistake(toml: &str) -> Problem {
        let (_, problems) = read(toml, &[]);
        let [problem] = problems.try_into().unwrap();
        problem
    }

    #[test]
    fn requests_are_signed_unless_told_otherwise() {
        for toml in ["", "method = \"signed_request\""] {
            let (auth, problems) = read(toml, &[]);
            assert_eq!((auth.method, problems), (AuthMethod::SignedRequest, vec![]));
            assert_eq!(auth.private_key_file, PathBuf::from("key.pem"));
        }
    }

    #[test]
    fn bearer_alone_asks_yoti_for_the_scope_of_sessions() {
        let (auth, problems) = read("method = \"bearer\"", &[]);
        assert_eq!(problems, []);
        let expected = bearer("https://auth.api.yoti.com/v1/oauth/token", &["idv:sessions"]);
        assert_eq!(auth.method, expected);
    }

    #[test]
    fn token_url_and_scopes_are_taken_from_file_and_environment() {
        let toml = "method = \"bearer\"\n\
                    token_url = \"http://127.0.0.1:9000/v1/oauth/token\"\nscopes = [\"a\", \"b\"]";
        let (auth, problems) = read(toml, &[]);
        assert_eq!(problems, []);
        assert_eq!(auth.method, bearer("http://127.0.0.1:9000/v1/oauth/token", &["a", "b"]));
        for (written, scopes) in [("c", &["c"][..]), ("c,d", &["c", "d"])] {
            let (auth, problems) = read(
                toml,
                &[
                    ("IBVWATCH__API__AUTH__SCOPES", written),
                    ("IBVWATCH__API__AUTH__TOKEN_URL", "https://auth.example/t"),
                ],
            );
            assert_eq!((auth.method, problems), (bearer("https://auth.example/t", scopes), vec![]));
        }
    }

    #[test]
    fn what_only_bearer_needs_may_stand_beside_signed_requests() {
        let toml = "token_url = \"https://auth.example/t\"\nscopes = [\"a\"]";
        let (auth, problems) = read(toml, &[]);
        assert_eq!((auth.method, problems), (AuthMethod::SignedRequest, vec![]));
    }

    #[test]
    fn a_mistake_is_told_with_its_place_and_what_to_write() {
        for (toml, key, words) in [
            ("method = \"oauth\"", "api.auth.method", "\"signed_request\" or \"bearer\""),
            ("scopes = []", "api.auth.scopes", "at least one scope, like \"idv:sessions\""),
            ("scopes = \"idv:sessions\"", "api.auth.scopes", "write a list of texts"),
            ("scopes = [\"a b\"]", "api.auth.scopes", "\"a b\" is no scope"),
            ("token_url = \"http://auth.example/t\"", "api.auth.token_url", "neither https nor"),
            ("token_url = \"https://u:p@auth.example/\"", "api.auth.token_url", "leave them out"),
            ("token_url = \"https://auth.example/?a=b\"", "api.auth.token_url", "query"),
            ("token_uri = \"x\"", "api.auth.token_uri", "did you mean api.auth.token_url?"),
        ] {
            let problem = mistake(toml);
            assert_eq!(problem.key.as_deref(), Some(key), "{problem}");
            assert!(problem.message.contains(words), "{problem}");
            assert!(matches!(problem.place, Some(Place::File { line: Some(5), .. })), "{problem}");
        }
    }

    #[test]
    fn the_documented_defaults_are_the_defaults() {
        let section = TEMPLATE.split("[api.auth]").nth(1).unwrap().split("\n[").next().unwrap();
        let defaults: Vec<&str> = section
            .lines()
            .filter_map(|line| line.strip_prefix('#'))
            .filter(|line| line.starts_with(char::is_alphabetic) && line.contains(" = "))
            .collect();
        assert_eq!(defaults.len(), 3, "{defaults:?}");
        let (signed, problems) = read(&defaults.join("\n"), &[]);
        assert_eq!((signed.method, problems), (AuthMethod::SignedRequest, vec![]));
        let (given, problems) = read(&defaults.join("\n").replace("signed_request", "bearer"), &[]);
        assert_eq!(problems, []);
        assert_eq!(given.method, read("method = \"bearer\"", &[]).0.method);
    }
}
