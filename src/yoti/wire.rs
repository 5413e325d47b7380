//! Bodies as the API sends them, read leniently.
//!
//! Only `session_id` is certain. Any other field may be missing, null, of another type than
//! documented, in any order, beside fields nobody has documented yet. Fields are picked out as
//! raw slices of the body and read one by one, so that one odd field spoils nothing beside it,
//! and what isn't needed is skipped.
//!
//! One kind of oddity is an error all the same: a list of resources that is there and is no
//! list. Reading it as an empty list would tell of every resource that it has been removed.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

use crate::domain::{Fingerprint, Listed, Listing, SessionId, Snapshot};

use super::text;

/// Why a body that should have been good makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("is empty")]
    Empty,
    #[error("is not JSON; check that api.base_url leads to Yoti and not to a proxy's own page")]
    NotJson,
    #[error("is cut short")]
    CutShort,
    #[error("is JSON, but not a session's; check api.base_url and the paths below it")]
    NotASession,
    #[error("has no session_id")]
    NoSessionId,
    #[error("has a session_id that is no UUID")]
    OddSessionId,
    #[error("is about another session, {0}")]
    OtherSession(SessionId),
    #[error("has a {0} of an unknown form")]
    UnknownForm(&'static str),
    #[error("lists {0} resources, more than the {MOST_RESOURCES} that any session could ask for")]
    TooManyResources(usize),
    #[error("has a resource with a {0} of more than {LONGEST_FIELD} bytes")]
    TooLong(&'static str),
    #[error("has no state")]
    NoState,
    #[error("has the unknown state {0:?}")]
    UnknownState(String),
}

/// Ten times over what a session could ask of one person. What is listed is kept in memory, and
/// told in events.
const MOST_RESOURCES: usize = 100;
/// Of a resource's type, id and state each, in bytes. All that are known are below 40.
const LONGEST_FIELD: usize = 256;

#[derive(Deserialize)]
struct Configuration<'a> {
    #[serde(borrow)]
    session_id: Option<&'a RawValue>,
    #[serde(borrow)]
    client_session_token_ttl: Option<&'a RawValue>,
    #[serde(default, deserialize_with = "capture")]
    capture: Resources,
}

/// What is listed, or why that can't be known.
struct Resources(Result<Vec<Listed>, Unreadable>);

impl Default for Resources {
    fn default() -> Self {
        Self(Ok(Vec::new()))
    }
}

/// A configuration that was read.
pub(super) struct Read<'a> {
    ttl: Option<&'a RawValue>,
    pub(super) resources: Vec<Listed>,
}

impl<'a> Read<'a> {
    /// The time remaining as the body has it.
    pub(super) fn seconds(&self) -> Option<&'a str> {
        self.ttl.map(RawValue::get)
    }

    pub(super) fn snapshot(self, fingerprint: Option<Fingerprint>) -> Snapshot {
        let listing = Listing::Read { resources: self.resources, fingerprint };
        Snapshot { ttl: self.ttl.and_then(seconds), listing }
    }
}

/// Reads the configuration of the session that was asked about.
pub(super) fn configuration(body: &[u8], asked: SessionId) -> Result<Read<'_>, Unreadable> {
    let body: Configuration = object(body)?;
    let id = body.session_id.and_then(as_text).ok_or(Unreadable::NoSessionId)?;
    let id: SessionId = id.parse().map_err(|_| Unreadable::OddSessionId)?;
    if id != asked {
        return Err(Unreadable::OtherSession(id));
    }
    Ok(Read { ttl: body.client_session_token_ttl, resources: body.capture.0? })
}

fn capture<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Resources, D::Error> {
    Level::Capture.deserialize(deserializer)
}

/// Where in a body resources are looked for. It is walked through once, whatever is there: that is
/// most of what there is to be done about a poll that finds nothing new.
#[derive(Clone, Copy)]
enum Level {
    Capture,
    List,
}

impl Level {
    const fn unknown(self) -> Resources {
        let name = match self {
            Self::Capture => "capture",
            Self::List => "capture.required_resources",
        };
        Resources(Err(Unreadable::UnknownForm(name)))
    }
}

impl<'de> DeserializeSeed<'de> for Level {
    type Value = Resources;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Resources, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level {
    type Value = Resources;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Resources, A::Error> {
        let mut found = None;
        let mut twice = false;
        while let Some(name) = map.next_key_seed(Name(&["required_resources"]))? {
            match self {
                Self::Capture if name.is_some() => {
                    twice |= found.replace(map.next_value_seed(Self::List)?).is_some();
                }
                Self::Capture | Self::List => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        match self {
            Self::Capture if !twice => Ok(found.unwrap_or_default()),
            Self::Capture | Self::List => Ok(self.unknown()),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Resources, A::Error> {
        let mut resources = Ok(Vec::new());
        let mut count = 0;
        while let Some(Item(item)) = list.next_element()? {
            count += 1;
            if count <= MOST_RESOURCES
                && let Ok(known) = &mut resources
            {
                match item {
                    Ok(listed) => known.push(listed),
                    Err(unreadable) => resources = Err(unreadable),
                }
            }
        }
        match self {
            Self::Capture => Ok(self.unknown()),
            Self::List if count > MOST_RESOURCES => {
                Ok(Resources(Err(Unreadable::TooManyResources(count))))
            }
            Self::List => Ok(Resources(resources)),
        }
    }

    /// Serializers write an absent value so.
    fn visit_unit<E>(self) -> Result<Resources, E> {
        Ok(Resources::default())
    }

    fn visit_bool<E>(self, _: bool) -> Result<Resources, E> {
        Ok(self.unknown())
    }

    fn visit_i64<E>(self, _: i64) -> Result<Resources, E> {
        Ok(self.unknown())
    }

    fn visit_u64<E>(self, _: u64) -> Result<Resources, E> {
        Ok(self.unknown())
    }

    fn visit_f64<E>(self, _: f64) -> Result<Resources, E> {
        Ok(self.unknown())
    }

    fn visit_str<E>(self, _: &str) -> Result<Resources, E> {
        Ok(self.unknown())
    }
}

/// One of a list of resources. One of a form that nobody knows is still a resource.
struct Item(Result<Listed, Unreadable>);

impl Item {
    const FIELDS: [&str; 3] = ["type", "id", "state"];

    fn unknown() -> Self {
        Self(Ok(Listed::new(None, None, None)))
    }

    fn of(fields: [Option<&RawValue>; 3]) -> Result<Listed, Unreadable> {
        let text = |place: usize| match fields[place].and_then(as_text) {
            Some(text) if text.len() > LONGEST_FIELD => {
                Err(Unreadable::TooLong(Self::FIELDS[place]))
            }
            text => Ok(text),
        };
        let (kind, id, state) = (text(0)?, text(1)?, text(2)?);
        Ok(Listed::new(kind.as_deref(), id.as_deref(), state.as_deref()))
    }
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ItemVisitor)
    }
}

struct ItemVisitor;

impl<'de> Visitor<'de> for ItemVisitor {
    type Value = Item;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Item, A::Error> {
        let mut fields = [None, None, None];
        let mut seen = [false; 3];
        let mut twice = false;
        while let Some(name) = map.next_key_seed(Name(&Item::FIELDS))? {
            if let Some(place) = name {
                twice |= std::mem::replace(&mut seen[place], true);
                fields[place] = map.next_value::<Option<&RawValue>>()?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(if twice { Item::unknown() } else { Item(Item::of(fields)) })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Item, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Item::unknown())
    }

    fn visit_unit<E>(self) -> Result<Item, E> {
        Ok(Item::unknown())
    }

    fn visit_bool<E>(self, _: bool) -> Result<Item, E> {
        Ok(Item::unknown())
    }

    fn visit_i64<E>(self, _: i64) -> Result<Item, E> {
        Ok(Item::unknown())
    }

    fn visit_u64<E>(self, _: u64) -> Result<Item, E> {
        Ok(Item::unknown())
    }

    fn visit_f64<E>(self, _: f64) -> Result<Item, E> {
        Ok(Item::unknown())
    }

    fn visit_str<E>(self, _: &str) -> Result<Item, E> {
        Ok(Item::unknown())
    }
}

/// Which of these names a key is.
struct Name<'a>(&'a [&'static str]);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, text: &str) -> Result<Option<usize>, E> {
        Ok(self.0.iter().position(|name| *name == text))
    }
}

/// Reads an object; serde would take a list for a struct, too.
pub(super) fn object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, Unreadable> {
    match json.trim_ascii_start().first() {
        None => return Err(Unreadable::Empty),
        Some(b'{') => {}
        Some(b'[' | b'"') => return Err(Unreadable::NotASession),
        Some(_) => return Err(Unreadable::NotJson),
    }
    // serde_json's own words may quote the body.
    serde_json::from_slice(json).map_err(|error| match error.classify() {
        Category::Eof => Unreadable::CutShort,
        Category::Data => Unreadable::NotASession,
        Category::Syntax | Category::Io => Unreadable::NotJson,
    })
}

/// A string's text, or a number's or boolean's as it stands; an object or a list is none.
pub(super) fn as_text(value: &RawValue) -> Option<String> {
    match value.get().as_bytes().first()? {
        // Fails only for half a surrogate pair, which is no text.
        b'"' => serde_json::from_str(value.get()).ok(),
        b'{' | b'[' => None,
        _ => Some(value.get().to_owned()),
    }
}

/// A time remaining, in seconds: zero if less; also as a fraction or in quotes.
pub(super) fn seconds(value: &RawValue) -> Option<Duration> {
    let text = as_text(value)?;
    // Rust's parser also takes "nan" and "infinity".
    let numeric = |c: char| c.is_ascii_digit() || "+-.eE".contains(c);
    let seconds: f64 = text.trim().chars().all(numeric).then(|| text.trim().parse().ok())??;
    if seconds <= 0.0 {
        return Some(Duration::ZERO);
    }
    Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

/// What an answer that refuses says of why.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Reason {
    /// Yoti's `code`.
    pub(super) code: Option<String>,
    /// Yoti's `message`, or else the first of its `errors`.
    pub(super) words: Option<String>,
}

#[derive(Deserialize)]
struct ErrorBody<'a> {
    #[serde(borrow)]
    code: Option<&'a RawValue>,
    #[serde(borrow)]
    message: Option<&'a RawValue>,
    #[serde(borrow)]
    errors: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct FieldError<'a> {
    #[serde(borrow)]
    property: Option<&'a RawValue>,
    #[serde(borrow)]
    message: Option<&'a RawValue>,
}

/// Reads the body of a refusal. It may just as well be a proxy's page, or cut short: the
/// status alone has the meaning, and this explains it where it can.
pub(super) fn reason(body: &[u8]) -> Reason {
    let Ok(body) = object::<ErrorBody>(body) else { return Reason::default() };
    Reason {
        code: body.code.and_then(as_text).as_deref().and_then(text::identifier),
        words: body
            .message
            .and_then(as_text)
            .or_else(|| body.errors.and_then(first_error))
            .as_deref()
            .and_then(text::one_line),
    }
}

fn first_error(errors: &RawValue) -> Option<String> {
    let errors: Vec<&RawValue> = serde_json::from_str(errors.get()).ok()?;
    let first: FieldError = object(errors.first()?.get().as_bytes()).ok()?;
    let words = [first.property, first.message].map(|field| field.and_then(as_text));
    Some(words.into_iter().flatten().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "3fa85f64-5717-4562-b3fc-2c963f66afa6";

    fn read(body: &str) -> Result<Snapshot, Unreadable> {
        configuration(body.as_bytes(), ID.parse().unwrap()).map(|read| read.snapshot(None))
    }

    fn with(rest: &str) -> Result<Snapshot, Unreadable> {
        read(&format!(r#"{{"session_id":"{ID}",{rest}}}"#))
    }

    fn ttl_of(json: &str) -> Option<Duration> {
        with(&format!(r#""client_session_token_ttl":{json}"#)).unwrap().ttl
    }

    fn listed(snapshot: &Snapshot) -> &[Listed] {
        snapshot.listing.resources().unwrap()
    }

    fn resources_of(json: &str) -> Vec<Listed> {
        let with = with(&format!(r#""capture":{{"required_resources":{json}}}"#));
        listed(&with.unwrap()).to_vec()
    }

    #[test]
    fn a_ttl_is_read_from_every_form_of_number() {
        for json in ["599", "599.0", r#""599""#, r#"" 599 ""#, "5.99e2"] {
            assert_eq!(ttl_of(json), Some(Duration::from_secs(599)), "{json}");
        }
        assert_eq!(ttl_of("2637668"), Some(Duration::from_secs(2_637_668)));
        assert_eq!(ttl_of("0.5"), Some(Duration::from_millis(500)));
    }

    #[test]
    fn a_ttl_of_zero_or_less_is_zero() {
        for json in ["0", "-0", "-1", "-1e300", "-9223372036854775809", r#""-5""#] {
            assert_eq!(ttl_of(json), Some(Duration::ZERO), "{json}");
        }
    }

    #[test]
    fn an_absurd_ttl_saturates() {
        for json in ["1e30", "1e999", "18446744073709551616", r#""1e30""#] {
            assert_eq!(ttl_of(json), Some(Duration::MAX), "{json}");
        }
        assert!(ttl_of("9223372036854775807").unwrap() > Duration::from_secs(1 << 62));
    }

    #[test]
    fn what_is_no_number_is_no_ttl() {
        for json in ["null", "true", "{}", "[1]", r#""""#, r#""soon""#, r#""NaN""#, r#""inf""#] {
            assert_eq!(ttl_of(json), None, "{json}");
        }
        assert_eq!(read(&format!(r#"{{"session_id":"{ID}"}}"#)).unwrap().ttl, None);
    }

    #[test]
    fn a_missing_or_null_list_is_no_resources() {
        for rest in [
            r#""x":1"#,
            r#""capture":null"#,
            r#""capture":{}"#,
            r#""capture":{"required_resources":null}"#,
        ] {
            assert_eq!(*listed(&with(rest).unwrap()), [], "{rest}");
        }
    }

    #[test]
    fn a_list_of_unknown_form_is_not_taken_for_an_empty_one() {
        for capture in ["3", "[]", r#""""#, "false"] {
            let odd = with(&format!(r#""capture":{capture}"#));
            assert_eq!(odd, Err(Unreadable::UnknownForm("capture")), "{capture}");
        }
        for list in ["3", "{}", r#""""#, "false"] {
            let odd = with(&format!(r#""capture":{{"required_resources":{list}}}"#));
            assert_eq!(odd, Err(Unreadable::UnknownForm("capture.required_resources")), "{list}");
        }
    }

    #[test]
    fn a_resource_that_is_no_object_is_kept_as_unknown() {
        let unknown = Listed::new(None, None, None);
        assert_eq!(resources_of(r#"[null, 1, "x", [], {}, true]"#), vec![unknown; 6]);
    }

    #[test]
    fn a_list_that_would_fill_the_memory_is_refused_whole() {
        let list = |count: usize| format!("[{}]", vec!["{}"; count].join(","));
        assert_eq!(resources_of(&list(MOST_RESOURCES)).len(), MOST_RESOURCES);
        let long = with(&format!(r#""capture":{{"required_resources":{}}}"#, list(200_000)));
        assert_eq!(long, Err(Unreadable::TooManyResources(200_000)));
        for field in ["type", "id", "state"] {
            let listed = |bytes| {
                let text = "x".repeat(bytes);
                with(&format!(r#""capture":{{"required_resources":[{{"{field}":"{text}"}}]}}"#))
            };
            assert!(listed(LONGEST_FIELD).is_ok());
            assert_eq!(listed(LONGEST_FIELD + 1), Err(Unreadable::TooLong(field)));
        }
    }

    #[test]
    fn a_field_of_another_type_becomes_its_text_or_counts_as_missing() {
        let listed = resources_of(
            r#"[{"type":1.50,"id":7,"state":true},
                {"state":["REQUIRED"],"id":{"a":1},"type":null,"more":{"state":"COMPLETE"}},
                {"id":"\ud800","type":"A\u0042","state":"COMPLETE"}]"#,
        );
        assert_eq!(
            listed,
            [
                Listed::new(Some("1.50"), Some("7"), Some("true")),
                Listed::new(None, None, None),
                Listed::new(Some("AB"), None, Some("COMPLETE")),
            ]
        );
    }

    #[test]
    fn the_session_id_must_be_the_one_asked_for_in_either_case() {
        assert!(read(&format!(r#"{{"session_id":"{}"}}"#, ID.to_uppercase())).is_ok());
        let other = "54de4aa9-1a35-4c78-b070-3330d40ce31f";
        let error = read(&format!(r#"{{"session_id":"{other}"}}"#)).unwrap_err();
        assert_eq!(error, Unreadable::OtherSession(other.parse().unwrap()));
        assert_eq!(read(r#"{"session_id":null}"#), Err(Unreadable::NoSessionId));
        assert_eq!(read("{}"), Err(Unreadable::NoSessionId));
        assert_eq!(read(r#"{"session_id":"Jane Doe"}"#), Err(Unreadable::OddSessionId));
    }

    #[test]
    fn what_is_no_configuration_says_what_it_is() {
        assert_eq!(read(" \n"), Err(Unreadable::Empty));
        assert_eq!(read("<html>"), Err(Unreadable::NotJson));
        assert_eq!(read("null"), Err(Unreadable::NotJson));
        assert_eq!(read(&format!(r#"{{"session_id":"{ID}""#)), Err(Unreadable::CutShort));
        assert_eq!(read(&format!(r#"["{ID}",599,null]"#)), Err(Unreadable::NotASession));
        assert_eq!(read(&format!(r#"{{"session_id":"{ID}"}} x"#)), Err(Unreadable::NotJson));
    }

    #[test]
    fn a_deeply_nested_unknown_field_is_skipped() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(with(&format!(r#""future":{deep}"#)).is_ok());
    }

    #[test]
    fn a_refusal_gives_its_code_and_its_message_or_first_error() {
        let full = reason(br#"{"code":"BAD_TOKEN","message":"No\nway","errors":[]}"#);
        assert_eq!(full.code.as_deref(), Some("BAD_TOKEN"));
        assert_eq!(full.words.as_deref(), Some("No way"));
        let fields = reason(br#"{"errors":[{"property":"query.sdkId","message":"is null"}, 1]}"#);
        assert_eq!(fields.words.as_deref(), Some("query.sdkId is null"));
        for body in ["", "<html>", "[]", "{", r#"{"code":[],"message":{},"errors":"x"}"#, "{}"] {
            assert_eq!(reason(body.as_bytes()), Reason::default(), "{body}");
        }
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        use serde_json::{Map, Value};
        let name = prop_oneof![
            Just("session_id".to_owned()),
            Just("client_session_token_ttl".to_owned()),
            Just("capture".to_owned()),
            Just("required_resources".to_owned()),
            Just("type".to_owned()),
            Just("state".to_owned()),
            ".*",
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            Just(Value::from(ID)),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 6, move |inner| {
            let fields = prop::collection::vec((name.clone(), inner.clone()), 0..6);
            prop_oneof![
                prop::collection::vec(inner, 0..6).prop_map(Value::from),
                fields.prop_map(|fields| Value::Object(Map::from_iter(fields))),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_bytes_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = configuration(&body, ID.parse().unwrap());
            let _ = reason(&body);
        }

        #[test]
        fn no_document_panics_and_no_listed_resource_is_lost(capture in json(), ttl in json()) {
            let list = capture.pointer("/required_resources").and_then(|l| l.as_array());
            let body = serde_json::json!({
                "client_session_token_ttl": ttl, "capture": capture, "session_id": ID
            })
            .to_string();
            if let Ok(snapshot) = read(&body) {
                prop_assert_eq!(listed(&snapshot).len(), list.map_or(0, Vec::len));
            }
            let _ = reason(body.as_bytes());
        }
    }
}
