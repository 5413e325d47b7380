use std::borrow::Cow;

use ::toml::Spanned;
use ::toml::de::{DeTable, DeValue};

use super::{DEEPEST, Fault, List, Node, Value};

pub(super) fn parse(text: &str) -> Result<Node<'_>, Fault> {
    let table = DeTable::parse(text).map_err(|error| Fault {
        at: error.span().map_or(0, |span| span.start),
        message: format!("is not TOML: {}; correct it there", error.message()),
    })?;
    Ok(Node { at: 0, value: fields(table.into_inner(), DEEPEST) })
}

fn fields(table: DeTable<'_>, depth: usize) -> Value<'_> {
    let field = |(name, value): (Spanned<Cow<'_, str>>, _)| {
        (Cow::Owned(name.into_inner().into_owned()), node(value, depth))
    };
    Value::Table(table.into_iter().map(field).collect())
}

fn node(spanned: Spanned<DeValue<'_>>, depth: usize) -> Node<'_> {
    let at = spanned.span().start;
    let value = match spanned.into_inner() {
        DeValue::String(text) => Value::Text(text),
        DeValue::Datetime(moment) => Value::Moment(moment),
        DeValue::Integer(_) | DeValue::Float(_) => Value::Other("a number"),
        DeValue::Boolean(_) => Value::Other("a truth value"),
        DeValue::Array(_) | DeValue::Table(_) if depth == 0 => Value::Other("a nested value"),
        DeValue::Array(values) => {
            let nodes = values.into_iter().map(|value| node(value, depth - 1)).collect();
            Value::List(List::Read(nodes))
        }
        DeValue::Table(table) => fields(table, depth - 1),
    };
    Node { at, value }
}
