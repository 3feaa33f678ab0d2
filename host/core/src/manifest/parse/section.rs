//! A TOML table of which it is known what may be in it. Not the sections themselves: those are beside this file.

use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::manifest::fields::Field;
use crate::manifest::problem::{Report, code};
use crate::name::{escape, nearest};

/// What is quoted from the text is cut to this many characters: a line of a terminal.
const MAX_QUOTED: usize = 64;

/// A text from the manifest, safe to show.
pub(super) fn quoted(text: &str) -> String {
    escape(text, MAX_QUOTED)
}

/// A TOML table, its unknown fields already reported.
pub(super) struct Section<'t, 'i> {
    table: &'t DeTable<'i>,
    /// Where its head is.
    pub(super) span: Range<usize>,
    /// How it is called in messages.
    pub(super) place: String,
    // Fields that were probably meant by unknown ones: that they are missing needs no second message.
    meant: Vec<&'static str>,
}

impl<'t, 'i> Section<'t, 'i> {
    /// Takes a table and reports what may not be in it.
    pub(super) fn open(
        table: &'t DeTable<'i>,
        span: Range<usize>,
        place: String,
        allowed: &'static [Field],
        reserved: &[&str],
        report: &mut Report,
    ) -> Self {
        let mut meant = Vec::new();
        let names = || allowed.iter().map(|field| field.name);
        for key in table.keys() {
            let name: &str = key.get_ref();
            if names().any(|known| known == name) || reserved.contains(&name) {
                continue;
            }
            let near = nearest(name, names());
            meant.extend(near);
            let all = names().collect::<Vec<_>>().join("`, `");
            report.error(
                code::UNKNOWN_FIELD,
                key.span(),
                format!("{place} has no field `{}`; expected one of `{all}`", quoted(name)),
                "unknown field",
                near.map(|near| format!("did you mean `{near}`?")),
            );
        }
        Self {
            table,
            span,
            place,
            meant,
        }
    }

    /// The value of a field, if it is there.
    pub(super) fn get(&self, field: Field) -> Option<&'t Spanned<DeValue<'i>>> {
        self.table.get(field.name)
    }

    /// Where the field's name is; the head of the section if the field is not there.
    pub(super) fn key_span(&self, field: Field) -> Range<usize> {
        self.table
            .get_key_value(field.name)
            .map_or_else(|| self.span.clone(), |(key, _)| key.span())
    }

    /// Whether the field is there, or was probably meant by an unknown one.
    pub(super) fn has(&self, field: Field) -> bool {
        self.get(field).is_some() || self.meant.contains(&field.name)
    }

    /// Every field that is there, of these.
    pub(super) fn given(&self, fields: &'static [Field]) -> impl Iterator<Item = Field> {
        fields.iter().copied().filter(|field| self.get(*field).is_some())
    }

    /// Reports every one of these fields that is not there.
    pub(super) fn require(&self, fields: &[Field], report: &mut Report) {
        for field in fields.iter().filter(|field| self.get(**field).is_none()) {
            self.missing(*field, report);
        }
    }

    /// Reports that a field contradicts something else: `why` is "it …; expected …".
    pub(super) fn conflict(
        &self,
        field: Field,
        why: &dyn Display,
        label: &str,
        help: &str,
        report: &mut Report,
    ) {
        report.error(
            code::CONFLICT,
            self.key_span(field),
            format!("`{}` in {}: {why}", field.name, self.place),
            label,
            (!help.is_empty()).then(|| help.to_owned()),
        );
    }

    /// Reports that a field is not there.
    pub(super) fn missing(&self, field: Field, report: &mut Report) {
        if self.meant.contains(&field.name) {
            return;
        }
        report.error(
            code::MISSING_FIELD,
            self.span.clone(),
            format!(
                "{} has no `{}`; expected {}",
                self.place, field.name, field.expected
            ),
            format!("`{}` is missing", field.name),
            Some(example(field)),
        );
    }

    /// Reports that a value is of the wrong TOML type.
    pub(super) fn wrong_type(&self, field: Field, value: &Spanned<DeValue<'i>>, report: &mut Report) {
        report.error(
            code::WRONG_TYPE,
            value.span(),
            format!(
                "`{}` in {} is {}; expected {}",
                field.name,
                self.place,
                kind(value.get_ref()),
                field.expected
            ),
            format!("{}, not {}", kind(value.get_ref()), article(field.example)),
            Some(example(field)),
        );
    }

    /// Reports that a value is not acceptable; `why` is "it is …; expected …".
    pub(super) fn wrong_value(
        &self,
        field: Field,
        span: Range<usize>,
        why: &dyn Display,
        label: &str,
        report: &mut Report,
    ) {
        report.error(
            code::WRONG_VALUE,
            span,
            format!("`{}` in {}: {why}", field.name, self.place),
            label,
            Some(example(field)),
        );
    }

    /// A string field.
    pub(super) fn string(&self, field: Field, report: &mut Report) -> Option<Spanned<&'t str>> {
        let value = self.get(field)?;
        match value.get_ref() {
            DeValue::String(text) => Some(Spanned::new(value.span(), &**text)),
            DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_)
            | DeValue::Table(_) => {
                self.wrong_type(field, value, report);
                None
            }
        }
    }

    /// A string field in the form of a type.
    pub(super) fn parsed<T>(&self, field: Field, report: &mut Report) -> Option<Spanned<T>>
    where
        T: FromStr<Err: Display>,
    {
        self.read(field, report, |text| {
            text.parse::<T>().map_err(|error| error.to_string())
        })
    }

    /// A string field read by a function that says what was expected.
    pub(super) fn read<T>(
        &self,
        field: Field,
        report: &mut Report,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<Spanned<T>> {
        let text = self.string(field, report)?;
        match read(text.get_ref()) {
            Ok(value) => Some(Spanned::new(text.span(), value)),
            Err(why) => {
                let why = format!("`{}` is not acceptable; {why}", quoted(text.get_ref()));
                self.wrong_value(field, text.span(), &why, "not acceptable", report);
                None
            }
        }
    }

    /// As [`Section::read`], for texts that could hold a credential by mistake: nothing of them is quoted.
    pub(super) fn read_unquoted<T>(
        &self,
        field: Field,
        report: &mut Report,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.string(field, report)?;
        read(text.get_ref())
            .map_err(|why| {
                let why = format!("the text is not acceptable; {why}");
                self.wrong_value(field, text.span(), &why, "not acceptable", report);
            })
            .ok()
    }

    /// A field that is a list of strings, each read by a function that says what was expected. What is in it twice is an error.
    pub(super) fn list<T: PartialEq>(
        &self,
        field: Field,
        count: RangeInclusive<usize>,
        report: &mut Report,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<Spanned<T>> {
        let Some(value) = self.get(field) else {
            return Vec::new();
        };
        let Some(items) = value.get_ref().as_array() else {
            self.wrong_type(field, value, report);
            return Vec::new();
        };
        let mut all: Vec<Spanned<T>> = Vec::new();
        if !self.counted(field, value, items.len(), count, report) {
            return all;
        }
        for item in items.iter() {
            let Some(text) = item.get_ref().as_str() else {
                self.wrong_type(field, item, report);
                continue;
            };
            match read(text) {
                Ok(read) if all.iter().any(|other| *other.get_ref() == read) => {
                    let why = format!("`{}` is there twice; expected it once", quoted(text));
                    self.wrong_value(field, item.span(), &why, "given again", report);
                }
                Ok(read) => all.push(Spanned::new(item.span(), read)),
                Err(why) => {
                    let why = format!("`{}` is not acceptable; {why}", quoted(text));
                    self.wrong_value(field, item.span(), &why, "not acceptable", report);
                }
            }
        }
        all
    }

    /// Whether a list has so many items; if not, that is reported, and they are not looked at.
    pub(super) fn counted(
        &self,
        field: Field,
        value: &Spanned<DeValue<'i>>,
        found: usize,
        count: RangeInclusive<usize>,
        report: &mut Report,
    ) -> bool {
        let fits = count.contains(&found);
        if !fits {
            let (min, max) = count.into_inner();
            let why = format!("the list has {found} items; expected {min} to {max}");
            self.wrong_value(field, value.span(), &why, "too few or too many", report);
        }
        fits
    }

    /// A field that is a table with fields of its own.
    pub(super) fn section(
        &self,
        field: Field,
        place: String,
        allowed: &'static [Field],
        report: &mut Report,
    ) -> Option<Section<'t, 'i>> {
        let (table, span) = self.table(field, report)?;
        Some(Section::open(table, span, place, allowed, &[], report))
    }

    /// A field that is a table with free keys.
    pub(super) fn table(&self, field: Field, report: &mut Report) -> Option<(&'t DeTable<'i>, Range<usize>)> {
        let value = self.get(field)?;
        let table = value.get_ref().as_table();
        if table.is_none() {
            self.wrong_type(field, value, report);
        }
        table.map(|table| (table, value.span()))
    }
}

/// How a value's type is called.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// How an example's type is called.
fn article(example: &str) -> &'static str {
    match example.bytes().next() {
        Some(b'"') => "a string",
        Some(b'[') => "an array",
        Some(b'{') => "a table",
        Some(b't') => "a boolean",
        _ if example.contains(':') => "a date and time",
        _ => "a whole number",
    }
}

fn example(field: Field) -> String {
    format!("for example `{} = {}`", field.name, field.example)
}
