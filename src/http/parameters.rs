//! The parameters of a query, each taken by name; what nobody takes is a mistake.

use axum::extract::Query;
use http::Uri;

/// A request that asks for something there is not: which parameter, and what to write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{parameter}: {message}")]
pub(super) struct BadParameter {
    pub(super) parameter: String,
    pub(super) message: String,
}

impl BadParameter {
    pub(super) fn new(parameter: impl Into<String>, message: impl Into<String>) -> Self {
        Self { parameter: parameter.into(), message: message.into() }
    }
}

#[derive(Debug)]
pub(super) struct Parameters {
    given: Vec<(String, String)>,
    asked: Vec<&'static str>,
}

impl Parameters {
    /// One without a value counts as not given: a form sends all of its fields.
    pub(super) fn of(target: &Uri) -> Result<Self, BadParameter> {
        let Query(mut given) = Query::<Vec<(String, String)>>::try_from_uri(target)
            .map_err(|error| BadParameter::new("", format!("the query can't be read: {error}")))?;
        given.retain(|(_, value)| !value.is_empty());
        Ok(Self { given, asked: Vec::new() })
    }

    /// All values of a parameter that may be repeated.
    pub(super) fn all(&mut self, name: &'static str) -> Vec<String> {
        self.asked.push(name);
        let taken = self.given.extract_if(.., |(given, _)| given == name);
        taken.map(|(_, value)| value).collect()
    }

    /// A parameter's value as `parse` reads it. `expected` goes on where the value leaves off:
    /// "is no number; write ...".
    pub(super) fn take<T>(
        &mut self,
        name: &'static str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, BadParameter> {
        let values = self.all(name);
        let [value] = values.as_slice() else {
            let twice = BadParameter::new(name, "is given more than once; give it once");
            return if values.is_empty() { Ok(None) } else { Err(twice) };
        };
        let wrong = || BadParameter::new(name, format!("{:?} {expected}", shortened(value)));
        parse(value).map(Some).ok_or_else(wrong)
    }

    /// A whole number from 1 to `most`, which is also what it is without being given.
    pub(super) fn limit(&mut self, default: usize, most: usize) -> Result<usize, BadParameter> {
        let expected = format!("is out of range; write a whole number from 1 to {most}");
        let parse = |text: &str| text.parse().ok().filter(|limit| (1..=most).contains(limit));
        Ok(self.take("limit", &expected, parse)?.unwrap_or(default))
    }

    /// Refuses what nobody has asked for.
    pub(super) fn finish(self) -> Result<(), BadParameter> {
        let Some((name, _)) = self.given.first() else { return Ok(()) };
        let known = self.asked.join(", ");
        let message = format!("there is no such parameter; there are {known}");
        Err(BadParameter::new(shortened(name), message))
    }
}

/// Enough of a value to recognise it by.
fn shortened(value: &str) -> String {
    const LONGEST: usize = 64;
    if value.chars().count() <= LONGEST {
        return value.to_owned();
    }
    value.chars().take(LONGEST).chain(['\u{2026}']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(query: &str) -> Parameters {
        Parameters::of(&format!("/x?{query}").parse().unwrap()).unwrap()
    }

    fn mistake(query: &str) -> String {
        let mut given = parameters(query);
        let limit = given.limit(10, 50).map(|_| ());
        limit.and_then(|()| given.finish()).unwrap_err().to_string()
    }

    #[test]
    fn what_is_not_given_or_empty_has_its_default() {
        for query in ["", "limit=", "limit=&limit="] {
            let mut given = parameters(query);
            assert_eq!(given.limit(10, 50), Ok(10));
            assert_eq!(given.finish(), Ok(()));
        }
        assert_eq!(parameters("limit=50").limit(10, 50), Ok(50));
        assert_eq!(parameters("label=a%3D%26&label=b+c").all("label"), ["a=&", "b c"]);
    }

    #[test]
    fn a_mistake_names_the_parameter_and_says_what_to_write() {
        let range = "is out of range; write a whole number from 1 to 50";
        for wrong in ["0", "51", "-1", "many", "1e1"] {
            assert_eq!(mistake(&format!("limit={wrong}")), format!("limit: {wrong:?} {range}"));
        }
        assert_eq!(mistake("limit=1&limit=2"), "limit: is given more than once; give it once");
        assert_eq!(mistake("limits=1"), "limits: there is no such parameter; there are limit");
        assert!(mistake(&format!("limit={}", "9".repeat(4_000))).len() < 200);
    }
}
