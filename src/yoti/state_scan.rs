//! Finds a session's state in its body while the body streams past.
//!
//! The body of `GET /sessions/{id}` may be megabytes of what applicants handed in. Nothing of
//! that is wanted, so nothing of it is kept: this scans for the value of `state` in the outermost
//! object, and holds no more than one of its keys at a time. It finds its way by braces and quotes,
//! and doesn't judge the parts it skips.

use std::mem;

use super::wire::Unreadable;

/// Longest key or state that is kept, in bytes as sent. Fully escaped, `state` takes 30.
const LONGEST_TOKEN: usize = 256;

/// A scan in progress. Feed it chunks until it finds the state, or finish it at the body's end.
#[derive(Debug, Default)]
pub(super) struct StateScan {
    place: Place,
    /// Within a string, whether the last byte was a backslash that escapes the next one.
    escaped: bool,
    /// The key or state being read, without its quotes, still escaped.
    token: Vec<u8>,
}

#[derive(Debug, Clone, Copy, Default)]
enum Place {
    #[default]
    Start,
    BeforeKey,
    Key,
    AfterKey,
    BeforeValue {
        wanted: bool,
    },
    State,
    /// Within a string that isn't wanted, `depth` objects and lists below the outermost object.
    Text {
        depth: u64,
    },
    Nested {
        depth: u64,
    },
    /// After or within a number, boolean or null.
    Value,
}

impl StateScan {
    /// Takes the next chunk of the body; gives the state once it is known.
    pub(super) fn feed(&mut self, chunk: &[u8]) -> Result<Option<String>, Unreadable> {
        for &byte in chunk {
            if let Some(state) = self.step(byte)? {
                return Ok(Some(state));
            }
        }
        Ok(None)
    }

    /// What is wrong with a body that ends here.
    pub(super) const fn finish(&self) -> Unreadable {
        match self.place {
            Place::Start => Unreadable::Empty,
            Place::BeforeKey
            | Place::Key
            | Place::AfterKey
            | Place::BeforeValue { .. }
            | Place::State
            | Place::Text { .. }
            | Place::Nested { .. }
            | Place::Value => Unreadable::CutShort,
        }
    }

    fn step(&mut self, byte: u8) -> Result<Option<String>, Unreadable> {
        let space = byte.is_ascii_whitespace();
        self.place = match self.place {
            Place::Key => {
                if self.string_goes_on(byte, true) {
                    return Ok(None);
                }
                Place::AfterKey
            }
            Place::State => {
                if self.string_goes_on(byte, true) {
                    return Ok(None);
                }
                return Ok(Some(self.take_token()));
            }
            Place::Text { depth } => {
                if self.string_goes_on(byte, false) {
                    return Ok(None);
                }
                if depth == 0 { Place::Value } else { Place::Nested { depth } }
            }
            Place::Start if byte == b'{' => Place::BeforeKey,
            Place::Start if !space => {
                return Err(match byte {
                    b'[' | b'"' => Unreadable::NotASession,
                    _ => Unreadable::NotJson,
                });
            }
            Place::BeforeKey if byte == b'"' => Place::Key,
            Place::BeforeKey | Place::Value if byte == b'}' => return Err(Unreadable::NoState),
            Place::AfterKey if byte == b':' => {
                Place::BeforeValue { wanted: self.take_token() == "state" }
            }
            Place::BeforeKey | Place::AfterKey if !space => return Err(Unreadable::NotJson),
            Place::BeforeValue { wanted: true } if byte == b'"' => Place::State,
            Place::BeforeValue { wanted: true } if !space => return Err(Unreadable::NoState),
            Place::BeforeValue { wanted: false } if !space => match byte {
                b'"' => Place::Text { depth: 0 },
                b'{' | b'[' => Place::Nested { depth: 1 },
                b'}' | b']' | b',' | b':' => return Err(Unreadable::NotJson),
                _ => Place::Value,
            },
            Place::Value if byte == b',' => Place::BeforeKey,
            Place::Nested { depth } => match byte {
                b'"' => Place::Text { depth },
                b'{' | b'[' => Place::Nested { depth: depth + 1 },
                b'}' | b']' if depth == 1 => Place::Value,
                b'}' | b']' => Place::Nested { depth: depth - 1 },
                _ => return Ok(None),
            },
            Place::Start
            | Place::BeforeKey
            | Place::AfterKey
            | Place::BeforeValue { .. }
            | Place::Value => return Ok(None),
        };
        Ok(None)
    }

    /// Takes the next byte of a string, up to the quote that ends it.
    fn string_goes_on(&mut self, byte: u8, keep: bool) -> bool {
        let escaped = mem::take(&mut self.escaped);
        if byte == b'"' && !escaped {
            return false;
        }
        self.escaped = byte == b'\\' && !escaped;
        if keep && self.token.len() < LONGEST_TOKEN {
            self.token.push(byte);
        }
        true
    }

    /// The token's text. One that was cut within an escape, or is no text, is taken as it stands:
    /// it is no state that anybody knows.
    fn take_token(&mut self) -> String {
        let token = mem::take(&mut self.token);
        let raw = String::from_utf8_lossy(&token);
        serde_json::from_str(&format!("\"{raw}\"")).unwrap_or_else(|_| raw.into_owned())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::*;

    fn scan(body: &[u8]) -> Result<String, Unreadable> {
        scan_in_chunks([body])
    }

    fn scan_in_chunks<'a>(
        chunks: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<String, Unreadable> {
        let mut scan = StateScan::default();
        for chunk in chunks {
            if let Some(state) = scan.feed(chunk)? {
                return Ok(state);
            }
        }
        Err(scan.finish())
    }

    #[test]
    fn only_the_outermost_state_counts() {
        let body = br#" {"checks":[{"state":"PENDING","a":["}"]},{"state":"DONE"}],
            "resources":{"state":"REQUIRED"},"note":"\"state\":\"EXPIRED\"","n":-1.5e3,
            "state" : "COMPLETED","user":{}}"#;
        assert_eq!(scan(body).as_deref(), Ok("COMPLETED"));
    }

    #[test]
    fn an_escaped_key_is_the_same_key() {
        assert_eq!(scan(br#"{"st\u0061te":"ONG\u004fING"}"#).as_deref(), Ok("ONGOING"));
        assert_eq!(scan(br#"{"state\\":"A","state":"B"}"#).as_deref(), Ok("B"));
        assert_eq!(scan(br#"{"a\"":1,"state":"B"}"#).as_deref(), Ok("B"));
    }

    #[test]
    fn the_state_is_known_before_the_body_ends() {
        let mut scan = StateScan::default();
        let first = br#"{"state":"EXPIRED","resources":["#;
        assert_eq!(scan.feed(first), Ok(Some("EXPIRED".to_owned())));
    }

    #[test]
    fn no_more_than_one_short_token_is_ever_held() {
        let mut scan = StateScan::default();
        let megabyte = vec![b'x'; 1 << 20];
        for opening in [&br#"{""#[..], br#"":{"a":""#, br#""},"state":""#] {
            assert_eq!(scan.feed(opening), Ok(None));
            assert_eq!(scan.feed(&megabyte), Ok(None));
            assert!(scan.token.capacity() <= LONGEST_TOKEN, "{}", scan.token.capacity());
        }
        let state = scan.feed(b"\"").unwrap().unwrap();
        assert_eq!(state.len(), LONGEST_TOKEN);
    }

    #[test]
    fn a_body_without_a_state_says_what_is_wrong() {
        for (body, error) in [
            ("", Unreadable::Empty),
            (" ", Unreadable::Empty),
            ("<html>", Unreadable::NotJson),
            ("[1]", Unreadable::NotASession),
            ("{}", Unreadable::NoState),
            (r#"{"a":{"state":"X"}}"#, Unreadable::NoState),
            (r#"{"a":1}"#, Unreadable::NoState),
            (r#"{"state":null}"#, Unreadable::NoState),
            (r#"{"state":{"state":"ONGOING"}}"#, Unreadable::NoState),
            (r#"{"state":"COMPL"#, Unreadable::CutShort),
            (r#"{"a":[{"#, Unreadable::CutShort),
            (r#"{"a" 1}"#, Unreadable::NotJson),
            (r#"{"a":}"#, Unreadable::NotJson),
            (r"{a:1}", Unreadable::NotJson),
        ] {
            assert_eq!(scan(body.as_bytes()), Err(error), "{body}");
        }
    }

    fn document() -> impl Strategy<Value = Value> {
        let text = prop_oneof![
            Just("state".to_owned()),
            Just("COMPLETED".to_owned()),
            r#"["\\{}\[\],:\PCé\n\t]{0,12}"#,
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            text.clone().prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 60, 6, move |inner| {
            let fields = prop::collection::vec((text.clone(), inner.clone()), 0..6);
            prop_oneof![
                1 => prop::collection::vec(inner, 0..6).prop_map(Value::from),
                3 => fields.prop_map(|fields| Value::Object(Map::from_iter(fields))),
            ]
        })
    }

    /// The same document with the letters of all strings escaped.
    fn escaped(json: &str) -> String {
        let parts = json.split('"').enumerate();
        let parts = parts.map(|(place, part)| match place % 2 {
            0 => part.to_owned(),
            _ => part.chars().map(escape).collect(),
        });
        parts.collect::<Vec<_>>().join("\"")
    }

    fn escape(c: char) -> String {
        if c.is_ascii_alphabetic() { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() }
    }

    proptest! {
        #[test]
        fn agrees_with_a_full_parser_however_the_body_is_split(
            document in document(),
            pretty in any::<bool>(),
            escape in any::<bool>(),
            length in 1_usize..9,
        ) {
            let mut json =
                if pretty { format!("{document:#}") } else { document.to_string() };
            // What holds escapes already is left as it is.
            if escape && !json.contains('\\') {
                json = escaped(&json);
            }
            let expected = document.as_object().and_then(|o| o.get("state")?.as_str());
            let found = scan_in_chunks(json.as_bytes().chunks(length));
            prop_assert_eq!(found.as_deref().ok(), expected, "{}", json);
        }

        #[test]
        fn no_bytes_panic_and_no_split_matters(
            body in prop::collection::vec(
                prop_oneof![Just(b'"'), Just(b'{'), Just(b'}'), Just(b':'), any::<u8>()], 0..60),
            length in 1_usize..9,
        ) {
            let whole = scan(&body);
            prop_assert_eq!(scan_in_chunks(body.chunks(length)), whole.clone());
            let within = [b"{\"a\":[", &body[..]].concat();
            let _ = scan(&within);
            let value = [b"{\"state\":\"", &body[..], b"\""].concat();
            let _ = scan(&value);
        }
    }
}
