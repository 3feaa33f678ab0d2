//! `body` of `http`: what stands at which place of a JSON body. Looks at no body.

use toml::Spanned;
use toml::de::DeValue;

use super::section::{Section, quoted};
use crate::http::{JsonPlace, JsonPredicate, JsonRule, JsonTest, MAX_PREDICATES};
use crate::manifest::fields::{self, Field};
use crate::manifest::problem::{Report, code};
use crate::manifest::{MAX_LIST, MAX_TEXT};

/// The name of a member, or a pattern, has at most this many bytes.
const MAX_NAME: usize = 256;
/// The members of an object that is closed: as many as a large form has.
const MAX_MEMBERS: usize = 128;

pub(super) fn read(http: &Section<'_, '_>, alias: &str, report: &mut Report) -> Option<JsonRule> {
    let (table, span) = http.table(fields::BODY_TABLE, report)?;
    let place = format!("`body` of [grants.{alias}]");
    let pointers: Vec<&str> = table
        .keys()
        .map(|key| &**key.get_ref())
        .filter(|key| key.starts_with('/'))
        .collect();
    let section = Section::open(table, span.clone(), place, fields::BODY, &pointers, report);
    if table.is_empty() || pointers.len() > MAX_PREDICATES {
        let why = format!(
            "it has {} rules; expected 1 to {MAX_PREDICATES} JSON pointers, or `fields`",
            pointers.len()
        );
        http.wrong_value(fields::BODY_TABLE, span, &why, "none or too many", report);
    }
    let mut rule = JsonRule::default();
    if section.get(fields::BODY_FIELDS).is_some() {
        let names = section.list(fields::BODY_FIELDS, 0..=MAX_MEMBERS, report, |text| {
            if text.len() > MAX_NAME {
                return Err(format!("expected at most {MAX_NAME} bytes"));
            }
            Ok(text.to_owned())
        });
        rule.fields = Some(names.into_iter().map(Spanned::into_inner).collect());
    }
    for (key, value) in table
        .iter()
        .filter(|(key, _)| key.get_ref().starts_with('/'))
        .take(MAX_PREDICATES)
    {
        let pointer: &str = key.get_ref();
        let shown = quoted(pointer);
        let place = pointer.parse::<JsonPlace>();
        if let Err(error) = &place {
            report.error(
                code::WRONG_VALUE,
                key.span(),
                format!("{} names the place `{shown}`; {error}", section.place),
                "not a JSON pointer",
                None,
            );
        }
        let closed_out = rule
            .fields
            .as_ref()
            .zip(place.as_ref().ok())
            .is_some_and(|(fields, place)| !fields.iter().any(|field| field == place.member()));
        let Some(table) = value.get_ref().as_table() else {
            report.error(
                code::WRONG_TYPE,
                value.span(),
                format!(
                    "`{shown}` in {} is {}; expected a table",
                    section.place,
                    super::section::kind(value.get_ref())
                ),
                "not a table",
                Some("for example `\"/bcc\" = { absent = true }`".to_owned()),
            );
            continue;
        };
        let named = format!("`{shown}` of {}", section.place);
        let predicate = Section::open(table, value.span(), named, fields::PREDICATE, &[], report);
        let Some(test) = read_test(&predicate, report) else {
            continue;
        };
        if closed_out {
            report.error(
                code::CONFLICT,
                key.span(),
                format!(
                    "{} has a rule for `{shown}`, and `fields` keeps it out; expected it in `fields`, or no rule for it",
                    section.place
                ),
                "never there",
                None,
            );
        }
        if let Ok(place) = place {
            rule.predicates.push(JsonPredicate { place, test });
        }
    }
    Some(rule)
}

fn read_test(predicate: &Section<'_, '_>, report: &mut Report) -> Option<JsonTest> {
    let given: Vec<Field> = predicate.given(fields::PREDICATE).collect();
    let Some(first) = given.first() else {
        if !fields::PREDICATE.iter().any(|field| predicate.has(*field)) {
            report.error(
                code::MISSING_FIELD,
                predicate.span.clone(),
                format!(
                    "{} has no rule; expected one of `absent`, `equals`, `one-of`, `pattern`",
                    predicate.place
                ),
                "a rule is missing",
                Some("for example `{ absent = true }`".to_owned()),
            );
        }
        return None;
    };
    for other in given.iter().skip(1) {
        let why = format!(
            "it is there beside `{}`; expected one rule for one place",
            first.name
        );
        predicate.conflict(*other, &why, "a second rule", "", report);
    }
    let value = predicate.get(*first)?;
    if *first == fields::ABSENT {
        if value.get_ref().as_bool() == Some(true) {
            return Some(JsonTest::Absent);
        }
        if value.get_ref().as_bool().is_some() {
            let why = "it is `false`; expected `true`, or no rule for this place";
            predicate.wrong_value(*first, value.span(), &why, "says nothing", report);
        } else {
            predicate.wrong_type(*first, value, report);
        }
        return None;
    }
    if *first == fields::EQUALS {
        return scalar(predicate, *first, value, report).map(JsonTest::Equals);
    }
    if *first == fields::PATTERN {
        let text = predicate.read(*first, report, |text| {
            if text.is_empty() || text.len() > MAX_NAME {
                return Err(format!("expected 1 to {MAX_NAME} bytes"));
            }
            Ok(text.to_owned())
        })?;
        return Some(JsonTest::Pattern(text.into_inner()));
    }
    let Some(items) = value.get_ref().as_array() else {
        predicate.wrong_type(*first, value, report);
        return None;
    };
    if !predicate.counted(*first, value, items.len(), 1..=MAX_LIST, report) {
        return None;
    }
    let values: Vec<_> = items
        .iter()
        .filter_map(|item| scalar(predicate, *first, item, report))
        .collect();
    (values.len() == items.len()).then_some(JsonTest::OneOf(values))
}

/// A value that TOML and JSON both have, and that compares exactly: no floats, no dates.
fn scalar<'i>(
    predicate: &Section<'_, 'i>,
    field: Field,
    value: &Spanned<DeValue<'i>>,
    report: &mut Report,
) -> Option<serde_json::Value> {
    match value.get_ref() {
        DeValue::String(text) if text.len() <= MAX_TEXT => Some(serde_json::Value::String(text.to_string())),
        DeValue::String(text) => {
            let why = format!("the text has {} bytes; expected at most {MAX_TEXT}", text.len());
            predicate.wrong_value(field, value.span(), &why, "too long", report);
            None
        }
        DeValue::Boolean(truth) => Some(serde_json::Value::Bool(*truth)),
        DeValue::Integer(number) => {
            let read = i64::from_str_radix(number.as_str(), number.radix()).ok();
            if read.is_none() {
                let why = "the number is out of range; expected at most 64 bits with sign";
                predicate.wrong_value(field, value.span(), &why, "out of range", report);
            }
            read.map(Into::into)
        }
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
            predicate.wrong_type(field, value, report);
            None
        }
    }
}
