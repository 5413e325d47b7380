use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserializer, Error, Visitor};

/// Reads a text and makes something of it, without a copy of the text in between: a start reads
/// millions.
pub(super) fn read<'de, D, T, E>(
    deserializer: D,
    make: impl Fn(&str) -> Result<T, E>,
) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    E: fmt::Display,
{
    deserializer.deserialize_str(Text { make, made: PhantomData })
}

struct Text<F, T> {
    make: F,
    made: PhantomData<T>,
}

impl<F, T, E> Visitor<'_> for Text<F, T>
where
    F: Fn(&str) -> Result<T, E>,
    E: fmt::Display,
{
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<V: Error>(self, text: &str) -> Result<T, V> {
        (self.make)(text).map_err(V::custom)
    }
}
