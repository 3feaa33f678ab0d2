//! From TOML text to a manifest, collecting every problem on the way. Not serde: its derive stops at the first problem and would
//! let a duplicate or misspelt field through somewhere; this walks the spanned tables by hand.

use std::ops::Range;

use toml::de::DeTable;

use crate::digest::ManifestDigest;
use crate::manifest::problem::{Report, code};
use crate::manifest::{MAX_MANIFEST, Manifest, Problem, fields};
use section::{Section, quoted};

mod agent;
mod approval;
mod attest;
mod body;
mod grants;
mod http;
mod inject;
mod limits;
mod mix;
mod oauth;
mod pem;
mod rotates;
mod section;
mod symmetric;
mod world;

/// The revision of the format that this version reads.
const SCHEMA: &str = "1";

pub(super) fn parse(text: &str) -> Result<(Manifest, Vec<Problem>), Vec<Problem>> {
    let mut report = Report::default();
    if text.len() > MAX_MANIFEST {
        report.error(
            code::WRONG_VALUE,
            0..0,
            format!(
                "the manifest has {} bytes; expected at most {MAX_MANIFEST}",
                text.len()
            ),
            "too long",
            None,
        );
        return Err(report.finish(text));
    }
    let (document, broken) = read_toml(text, &mut report);
    let manifest = read_document(&document, text, &mut report);
    if !broken.is_empty() {
        report.keep_certain(text, &broken);
    }
    match manifest {
        Some(manifest) if !report.has_errors() => Ok((manifest, report.finish(text))),
        Some(_) | None => Err(report.finish(text)),
    }
}

/// Reads TOML as far as it can be read; says where it is broken.
fn read_toml<'t>(text: &'t str, report: &mut Report) -> (DeTable<'t>, Vec<Range<usize>>) {
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut broken = Vec::new();
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        if error.message() == "duplicate key" {
            let name = text.get(span.clone()).unwrap_or_default();
            report.error(
                code::DUPLICATE_FIELD,
                span,
                format!("`{}` is given twice; expected it once", quoted(name)),
                "given again",
                Some("remove one of the two: which of them counts would be a guess".to_owned()),
            );
        } else {
            report.error(
                code::SYNTAX,
                span.clone(),
                format!("this is not TOML: {}", quoted(error.message())),
                "not understood",
                None,
            );
            broken.push(span);
        }
    }
    (document.into_inner(), broken)
}

/// Every section. None if one of them cannot be had: then the report holds an error.
fn read_document(document: &DeTable<'_>, text: &str, report: &mut Report) -> Option<Manifest> {
    if !read_schema(document, report) {
        // Another revision has other fields: what else is wrong cannot be said.
        return None;
    }
    let top = Section::open(
        document,
        0..0,
        "the manifest".to_owned(),
        fields::TOP,
        &[],
        report,
    );
    if top.get(fields::SCHEMA).is_none() {
        top.missing(fields::SCHEMA, report);
    }
    let agent = agent::read(&top, report);
    let limits = limits::read(&top, report);
    let env = world::read_env(&top, report);
    let files = world::read_files(&top, report);
    let grants = grants::read(&top, &limits, report);
    let rotates = rotates::read(&top, &grants, report);
    let agent::Read {
        agent,
        args,
        acknowledged,
    } = agent?;
    let manifest = Manifest {
        digest: ManifestDigest::of(text.as_bytes()),
        agent,
        limits,
        world: crate::manifest::World { args, env, files },
        rotates,
        grants,
    };
    mix::judge(
        &manifest,
        &acknowledged,
        top.key_span(fields::GRANTS_TABLE),
        report,
    );
    Some(manifest)
}

/// Whether the manifest may be of this version's format: not if it says that it is of another.
fn read_schema(document: &DeTable<'_>, report: &mut Report) -> bool {
    let Some(value) = document.get(fields::SCHEMA.name) else {
        return true;
    };
    let number = value.get_ref().as_integer();
    if number.is_some_and(|number| number.as_str() == SCHEMA) {
        return true;
    }
    let found = number.map_or_else(
        || section::kind(value.get_ref()).to_owned(),
        |number| quoted(&number.to_string()),
    );
    report.error(
        code::UNSUPPORTED,
        value.span(),
        format!("`schema` is {found}; this version reads only `schema = {SCHEMA}`"),
        "another format",
        Some(format!(
            "write `schema = {SCHEMA}`, or use the version of Claviger that this manifest is for"
        )),
    );
    false
}
