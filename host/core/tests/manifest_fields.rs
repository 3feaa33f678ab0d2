//! Every field of the manifest: misspelt, misplaced, left out, and in the published schema. Not what the fields hold.

use std::collections::BTreeSet;

use claviger_core::manifest::fields::{self, Field};
use claviger_core::manifest::{self, Manifest, Problem, code};

fn problems(text: &str) -> Vec<Problem> {
    Manifest::parse(text).map_or_else(|problems| problems, |(_, warnings)| warnings)
}

/// A manifest with every field there is, one a line, under headers.
fn every_field() -> Vec<(String, &'static [Field])> {
    let section = |header: &str, list: &'static [Field], names: &[&str]| {
        let body: String = list
            .iter()
            .filter(|field| names.is_empty() || names.contains(&field.name))
            .fold(String::new(), |text, field| {
                text + &format!("{} = {}\n", field.name, field.example)
            });
        (format!("{header}\n{body}"), list)
    };
    let no_sign: Vec<&str> = fields::GRANT
        .iter()
        .map(|field| field.name)
        .filter(|name| *name != "sign")
        .collect();
    vec![
        section("", fields::TOP, &["schema"]),
        section("[agent]", fields::AGENT, &[]),
        section("[limits]", fields::LIMITS, &[]),
        ("[env]\nLANG = \"C\"\n".to_owned(), &[]),
        section("[files.\"/work\"]", fields::FOLDER, &[]),
        section("[grants.a]", fields::GRANT, &no_sign),
        section("[grants.a.sign]", fields::SIGN, &["key", "namespace"]),
        section("[grants.b]", fields::GRANT, &[]),
        section("[grants.c]", fields::GRANT, &no_sign),
        section(
            "[grants.c.sign]",
            fields::SIGN,
            &["key", "audience", "subject", "ttl"],
        ),
        section("[grants.d]", fields::GRANT, &no_sign),
        section("[grants.d.sign]", fields::SIGN, &["key", "label"]),
    ]
}

fn misspellings(name: &str) -> Vec<String> {
    let mut chars: Vec<char> = name.chars().collect();
    chars.swap(0, 1);
    let mut all: Vec<String> = vec![
        chars.into_iter().collect(),
        format!("{name}s"),
        name[..name.len() - 1].to_owned(),
        format!("{}{name}", &name[..1]),
        format!("{}{}", name[..1].to_uppercase(), &name[1..]),
        name.replace('-', "_") + "_",
    ];
    all.retain(|wrong| wrong != name);
    all
}

#[test]
fn every_field_misspelt_is_an_error_that_names_the_right_one() {
    let sections = every_field();
    let whole = |replaced: usize, with: &str| {
        sections
            .iter()
            .enumerate()
            .fold(String::new(), |text, (index, (section, _))| {
                text + if index == replaced { with } else { section }
            })
    };
    let control = problems(&whole(usize::MAX, ""));
    assert_eq!(control, [], "the control loads without a word");
    let mut seen = BTreeSet::new();
    let mut check = |text: &str, name: &'static str, wrong: &str| {
        let found = problems(text);
        let unknown: Vec<_> = found
            .iter()
            .filter(|problem| problem.code == code::UNKNOWN_FIELD)
            .collect();
        assert_eq!(unknown.len(), 1, "{wrong}: {found:?}");
        assert_eq!(&text[unknown[0].span.clone()], wrong);
        assert_eq!(
            unknown[0].help.as_deref(),
            Some(&*format!("did you mean `{name}`?")),
            "{wrong}"
        );
        assert!(unknown[0].message.contains(&format!("`{name}`")), "{wrong}");
        let missing = found.iter().any(|problem| problem.code == code::MISSING_FIELD);
        assert!(!missing, "one mistake, one error: {found:?}");
        seen.insert(name);
    };
    for (index, (section, list)) in sections.iter().enumerate() {
        for field in *list {
            let line = format!("\n{} = ", field.name);
            if !section.contains(&line) {
                continue;
            }
            for wrong in misspellings(field.name) {
                let replaced = section.replace(&line, &format!("\n{wrong} = "));
                check(&whole(index, &replaced), field.name, &wrong);
            }
        }
    }
    let text = whole(usize::MAX, "");
    for field in fields::TOP.iter().filter(|field| field.name != "schema") {
        for wrong in misspellings(field.name) {
            let replaced = text
                .replace(&format!("[{}]", field.name), &format!("[{wrong}]"))
                .replace(&format!("[{}.", field.name), &format!("[{wrong}."));
            check(&replaced, field.name, &wrong);
        }
    }
    let all: BTreeSet<&str> = [
        fields::TOP,
        fields::AGENT,
        fields::LIMITS,
        fields::FOLDER,
        fields::GRANT,
        fields::SIGN,
    ]
    .into_iter()
    .flatten()
    .map(|field| field.name)
    .collect();
    assert_eq!(seen, all, "no field was left out");
}

#[test]
fn a_field_of_one_section_is_unknown_in_every_other() {
    let sections = every_field();
    let everywhere: BTreeSet<&str> = sections
        .iter()
        .flat_map(|(_, list)| *list)
        .map(|field| field.name)
        .collect();
    for (index, (_, list)) in sections
        .iter()
        .enumerate()
        .filter(|(_, (_, list))| !list.is_empty())
    {
        for foreign in everywhere
            .iter()
            .filter(|name| list.iter().all(|field| field.name != **name))
        {
            let text = sections
                .iter()
                .enumerate()
                .fold(String::new(), |text, (at, (section, _))| {
                    let extra = if at == index {
                        format!("{foreign} = 1\n")
                    } else {
                        String::new()
                    };
                    text + section + &extra
                });
            let found = problems(&text);
            assert_eq!(found.len(), 1, "{foreign}: {found:?}");
            assert_eq!(found[0].code, code::UNKNOWN_FIELD);
        }
    }
}

#[test]
fn the_published_schema_has_exactly_the_fields_that_are_read() {
    let text = include_str!("../../../docs/manifest.schema.json");
    let schema: serde_json::Value = serde_json::from_str(text).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    for (list, at) in [
        (fields::TOP, ""),
        (fields::AGENT, "/$defs/agent"),
        (fields::LIMITS, "/$defs/limits"),
        (fields::FOLDER, "/$defs/folder"),
        (fields::GRANT, "/$defs/grant"),
        (fields::SIGN, "/$defs/sign"),
    ] {
        let part = schema.pointer(at).unwrap();
        let published: BTreeSet<&str> = part["properties"]
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let read: BTreeSet<&str> = list.iter().map(|field| field.name).collect();
        assert_eq!(published, read, "{at}");
        assert_eq!(part["additionalProperties"], false, "{at}");
        for field in list {
            let described = part["properties"][field.name]["description"].is_string();
            assert!(described, "{at}/{} has a description", field.name);
        }
    }
    let length = |at: &str, keyword: &str| schema.pointer(at).unwrap()[keyword].as_u64().unwrap();
    for (at, keyword, bound) in [
        ("/properties/grants", "maxProperties", manifest::MAX_GRANTS),
        ("/properties/env", "maxProperties", manifest::MAX_ENV),
        ("/properties/files", "maxProperties", manifest::MAX_FILES),
        ("/$defs/agent/properties/args", "maxItems", manifest::MAX_ARGS),
        (
            "/$defs/grant/properties/hours/oneOf/1",
            "maxItems",
            manifest::MAX_HOURS,
        ),
    ] {
        assert_eq!(length(at, keyword), bound as u64, "{at}");
    }
}

#[test]
fn the_published_schema_requires_exactly_what_is_required() {
    let text = include_str!("../../../docs/manifest.schema.json");
    let schema: serde_json::Value = serde_json::from_str(text).unwrap();
    for (at, list, header) in [
        ("", fields::TOP, ""),
        ("/$defs/agent", fields::AGENT, "[agent]"),
        ("/$defs/limits", fields::LIMITS, "[limits]"),
        ("/$defs/folder", fields::FOLDER, "[files.\"/work\"]"),
        ("/$defs/grant", fields::GRANT, "[grants.b]"),
        ("/$defs/sign", fields::SIGN, "[grants.a.sign]"),
    ] {
        let required: Vec<&str> = schema.pointer(at).unwrap()["required"]
            .as_array()
            .map(|list| list.iter().map(|name| name.as_str().unwrap()).collect())
            .unwrap_or_default();
        for field in list {
            let text: String = every_field()
                .into_iter()
                .map(|(section, _)| {
                    let own = section.starts_with(&format!("{header}\n"));
                    let line = format!("{} = {}\n", field.name, field.example);
                    let gone = section.starts_with(&format!("[{}", field.name)) && header.is_empty();
                    match (gone, own) {
                        (true, _) => String::new(),
                        (false, true) => section.replace(&line, ""),
                        (false, false) => section,
                    }
                })
                .collect();
            assert_eq!(
                Manifest::parse(&text).is_err(),
                required.contains(&field.name),
                "{at} {}",
                field.name
            );
        }
    }
}
