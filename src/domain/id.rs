use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use super::text;

/// The id of a Yoti session: a UUID in its hyphenated form.
///
/// ```
/// use ibvwatch::domain::SessionId;
///
/// let id: SessionId = "3FA85F64-5717-4562-b3fc-2c963f66afa6".parse()?;
/// assert_eq!(id.to_string(), "3fa85f64-5717-4562-b3fc-2c963f66afa6");
/// assert!("3fa85f64".parse::<SessionId>().is_err());
/// # Ok::<(), ibvwatch::domain::InvalidSessionId>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(Uuid);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a session id; write the UUID that Yoti returned as session_id, like 3fa85f64-5717-4562-b3fc-2c963f66afa6"
)]
pub struct InvalidSessionId(pub String);

impl SessionId {
    /// The one before all others.
    pub const FIRST: Self = Self(Uuid::nil());

    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// Whether the id begins with that text, which is in lower case.
    #[must_use]
    pub fn starts_with(&self, text: &str) -> bool {
        let mut written = Uuid::encode_buffer();
        self.0.as_hyphenated().encode_lower(&mut written).starts_with(text)
    }
}

impl FromStr for SessionId {
    type Err = InvalidSessionId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const HYPHENATED: usize = 36;
        if text.len() != HYPHENATED {
            return Err(InvalidSessionId(shortened(text)));
        }
        Uuid::try_parse(text).map(Self).map_err(|_| InvalidSessionId(shortened(text)))
    }
}

/// Enough of a wrong id to recognise it by, however long the text is.
fn shortened(text: &str) -> String {
    const LONGEST: usize = 48;
    if text.chars().count() <= LONGEST {
        text.to_owned()
    } else {
        text.chars().take(LONGEST).chain("...".chars()).collect()
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.0.as_hyphenated(), f)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for SessionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for SessionId {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "SessionId".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "format": "uuid",
            "pattern": "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$",
        })
    }
}

impl<'de> Deserialize<'de> for SessionId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text::read(deserializer, str::parse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_every_form_but_the_hyphenated_one() {
        for text in [
            "",
            "3fa85f6457174562b3fc2c963f66afa6",
            "{3fa85f64-5717-4562-b3fc-2c963f66afa6}",
            "urn:uuid:3fa85f64-5717-4562-b3fc-2c963f66afa6",
            " 3fa85f64-5717-4562-b3fc-2c963f66afa",
            "3fa85f64-5717-4562-b3fc-2c963f66afag",
        ] {
            assert!(text.parse::<SessionId>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn an_error_shows_what_was_written_but_no_megabyte_of_it() {
        let error = |text: &str| text.parse::<SessionId>().unwrap_err().to_string();
        assert!(error("3fa85f64").contains("3fa85f64"), "{}", error("3fa85f64"));
        let (longest, longer) = ("x".repeat(48), "x".repeat(49));
        assert!(error(&longest).contains(&longest) && !error(&longest).contains("..."));
        assert!(
            error(&longer).contains(&format!("{longest}...")) && !error(&longer).contains(&longer)
        );
        assert!(error(&"x".repeat(1 << 20)).len() < 250);
    }

    #[test]
    fn an_id_has_one_spelling_wherever_it_is_shown() {
        let text = "3fa85f64-5717-4562-b3fc-2c963f66afa6";
        let id: SessionId = text.to_uppercase().parse().unwrap();
        assert_eq!((id.to_string(), format!("{id:?}")), (text.to_owned(), text.to_owned()));
        assert_eq!(serde_json::to_value(id).unwrap(), text);
    }

    /// Editors show the schema where an id stands, and not a reference to it.
    #[test]
    fn the_schema_says_how_an_id_is_written() {
        let ids = schemars::schema_for!(Vec<SessionId>);
        assert_eq!(ids.get("items").unwrap()["format"], "uuid");
        let id = schemars::schema_for!(SessionId);
        assert_eq!(id.get("title").unwrap(), "SessionId");
    }
}
