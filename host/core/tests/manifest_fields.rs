//! Every field of the manifest: misspelt, misplaced, left out, and in the published schema. Not what the fields hold.

use std::collections::BTreeSet;

use claviger_core::http::MAX_ROUTES;
use claviger_core::manifest::fields::{self, Field};
use claviger_core::manifest::{self, Manifest, Problem, code};

fn problems(text: &str) -> Vec<Problem> {
    Manifest::parse(text).map_or_else(|problems| problems, |(_, warnings)| warnings)
}

/// Every table that has a list of fields, with its place in the schema.
const TABLES: [(&[Field], &str); 15] = [
    (fields::TOP, ""),
    (fields::AGENT, "/$defs/agent"),
    (fields::LIMITS, "/$defs/limits"),
    (fields::FOLDER, "/$defs/folder"),
    (fields::ROTATES, "/$defs/rotates"),
    (fields::GRANT, "/$defs/grant"),
    (fields::SIGN, "/$defs/sign"),
    (fields::SEAL, "/$defs/seal"),
    (fields::MAC, "/$defs/mac"),
    (fields::ATTEST, "/$defs/attest"),
    (fields::HTTP, "/$defs/http"),
    (fields::BUDGET, "/$defs/budget"),
    (fields::BODY, "/$defs/body"),
    (fields::PREDICATE, "/$defs/predicate"),
    (fields::INJECT, "/$defs/inject"),
];

/// Every kind of `inject`: the alias of its grant, what stands in it, and which parts of the schema say what is required.
const KINDS: [(&str, &[&str], &[&str]); 14] = [
    ("k-bearer", &["bearer"], &["/oneOf/0"]),
    ("k-basic", &["basic", "user"], &["/oneOf/1"]),
    ("k-header", &["header", "secret"], &["/oneOf/2"]),
    ("k-query", &["query", "secret"], &["/oneOf/3"]),
    (
        "k-oauth2",
        &[
            "oauth2",
            "token-endpoint",
            "client-id",
            "auth",
            "client-secret",
            "scope",
            "audience",
        ],
        &[
            "/oneOf/4",
            "obtained",
            "obtained/allOf/0/oneOf/0",
            "obtained/allOf/1/oneOf/0",
        ],
    ),
    (
        "k-jwt",
        &[
            "oauth2",
            "token-endpoint",
            "client-id",
            "auth = \"private-key-jwt\"",
            "key",
        ],
        &[
            "/oneOf/4",
            "obtained",
            "obtained/allOf/0/oneOf/1",
            "obtained/allOf/1/oneOf/0",
        ],
    ),
    (
        "k-refresh",
        &[
            "oauth2 = \"refresh-token\"",
            "token-endpoint",
            "client-id",
            "auth = \"none\"",
            "refresh-token",
        ],
        &[
            "/oneOf/4",
            "obtained",
            "obtained/allOf/0/oneOf/2",
            "obtained/allOf/1/oneOf/1",
        ],
    ),
    (
        "k-exchange",
        &[
            "oauth2 = \"token-exchange\"",
            "token-endpoint",
            "client-id",
            "auth = \"none\"",
            "subject-token",
            "subject-token-type",
        ],
        &[
            "/oneOf/4",
            "obtained",
            "obtained/allOf/0/oneOf/2",
            "obtained/allOf/1/oneOf/2",
        ],
    ),
    (
        "k-app",
        &["github-app", "installation", "repositories", "permissions"],
        &["/oneOf/5"],
    ),
    (
        "k-aws",
        &["aws-sigv4", "access-key-id", "region", "service"],
        &["/oneOf/6"],
    ),
    ("k-signature", &["http-signature", "lifetime"], &["/oneOf/7"]),
    ("k-dpop", &["dpop", "token"], &["/oneOf/8"]),
    ("k-hook", &["webhook-hmac", "scheme"], &["/oneOf/10"]),
    ("k-mtls", &["mtls", "certificate"], &["/oneOf/11"]),
];

/// A manifest with every field there is, one a line, under headers.
fn every_field() -> Vec<(String, &'static [Field])> {
    // A name is a field with its example; `name = value` has a value of its own.
    let section = |header: &str, list: &'static [Field], names: &[&str]| {
        let body: String = list.iter().fold(String::new(), |text, field| {
            let own = names
                .iter()
                .find(|name| name.starts_with(&format!("{} = ", field.name)));
            match own {
                Some(line) => text + line + "\n",
                None if names.is_empty() || names.contains(&field.name) => {
                    text + &format!("{} = {}\n", field.name, field.example)
                }
                None => text,
            }
        });
        (format!("{header}\n{body}"), list)
    };
    let without = |absent: &[&str]| -> Vec<&str> {
        fields::GRANT
            .iter()
            .map(|field| field.name)
            .filter(|name| !absent.contains(name))
            .collect()
    };
    let bare = without(&["sign", "http", "inject", "seal", "mac", "attest"]);
    let http: Vec<&str> = fields::HTTP
        .iter()
        .map(|field| field.name)
        .filter(|name| !matches!(*name, "body" | "budget" | "origin"))
        .chain(["origin = \"https://all.example.com\""])
        .collect();
    let mut all = vec![
        section("", fields::TOP, &["schema"]),
        section("[agent]", fields::AGENT, &[]),
        section("[limits]", fields::LIMITS, &[]),
        ("[env]\nLANG = \"C\"\n".to_owned(), &[][..]),
        section("[files.\"/work\"]", fields::FOLDER, &[]),
        section(
            "[rotates]",
            fields::ROTATES,
            &[
                "secret = \"github-token\"",
                "issue = \"k-basic\"",
                "probe = \"k-bearer\"",
                "value",
                "id",
                "lifetime",
            ],
        ),
        section("[grants.a]", fields::GRANT, &bare),
        section("[grants.a.sign]", fields::SIGN, &["key", "namespace"]),
        section(
            "[grants.b]",
            fields::GRANT,
            &without(&["http", "inject", "seal", "mac", "attest"]),
        ),
        section("[grants.c]", fields::GRANT, &bare),
        section(
            "[grants.c.sign]",
            fields::SIGN,
            &["key", "audience", "subject", "ttl"],
        ),
        section("[grants.d]", fields::GRANT, &bare),
        section("[grants.d.sign]", fields::SIGN, &["key", "label"]),
        section(
            "[grants.e]",
            fields::GRANT,
            &without(&["sign", "seal", "mac", "attest"]),
        ),
        section(
            "[grants.h]",
            fields::GRANT,
            &without(&["sign", "http", "inject", "mac", "attest"]),
        ),
        section("[grants.i]", fields::GRANT, &bare),
        section("[grants.i.seal]", fields::SEAL, &[]),
        section(
            "[grants.j]",
            fields::GRANT,
            &without(&["sign", "http", "inject", "seal", "attest"]),
        ),
        section("[grants.l]", fields::GRANT, &bare),
        section("[grants.l.mac]", fields::MAC, &[]),
        section(
            "[grants.m]",
            fields::GRANT,
            &without(&["sign", "http", "inject", "seal", "mac"]),
        ),
        section("[grants.n]", fields::GRANT, &bare),
        section(
            "[grants.n.attest]",
            fields::ATTEST,
            &["key", "audiences = [\"https://other.example\"]", "ttl"],
        ),
        section("[grants.q]", fields::GRANT, &bare),
        section("[grants.q.sign]", fields::SIGN, &["key", "object", "mail", "tag"]),
        section("[grants.r]", fields::GRANT, &bare),
        section("[grants.r.sign]", fields::SIGN, &["key", "user", "host-keys"]),
        section("[grants.f]", fields::GRANT, &bare),
        section("[grants.f.http]", fields::HTTP, &http),
        section("[grants.f.http.budget]", fields::BUDGET, &[]),
        section("[grants.f.http.body]", fields::BODY, &[]),
        section("[grants.f.http.body.\"/to\"]", fields::PREDICATE, &["one-of"]),
        section("[grants.f.http.body.\"/to/cc\"]", fields::PREDICATE, &["absent"]),
        section("[grants.f.http.body.\"/text\"]", fields::PREDICATE, &["equals"]),
        section(
            "[grants.f.http.body.\"/text/1\"]",
            fields::PREDICATE,
            &["pattern"],
        ),
        section("[grants.g]", fields::GRANT, &bare),
        section(
            "[grants.g.http]",
            fields::HTTP,
            &[
                "origin = \"https://encoded.example.com\"",
                "allow",
                "budget",
                "body",
            ],
        ),
    ];
    for (alias, names, _) in KINDS {
        all.push(section(&format!("[grants.{alias}]"), fields::GRANT, &bare));
        let origin = format!("origin = \"https://{alias}.example.com\"");
        all.push(section(
            &format!("[grants.{alias}.http]"),
            fields::HTTP,
            &[&origin, "allow"],
        ));
        all.push(section(
            &format!("[grants.{alias}.inject]"),
            fields::INJECT,
            names,
        ));
    }
    all
}

/// Whether a section is one of many alike, of which another is looked at.
fn is_repeated(section: &str) -> bool {
    section.starts_with("[grants.k-") && !section.contains(".inject]\n")
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
    for (index, (section, list)) in sections
        .iter()
        .enumerate()
        .filter(|(_, (section, _))| !is_repeated(section))
    {
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
    let all: BTreeSet<&str> = TABLES
        .into_iter()
        .flat_map(|(list, _)| list)
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
        .filter(|(_, (section, list))| !list.is_empty() && !is_repeated(section))
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
    for (list, at) in TABLES {
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
        ("/$defs/http/properties/allow", "maxItems", MAX_ROUTES),
        ("/$defs/http/properties/headers", "maxItems", manifest::MAX_LIST),
        (
            "/$defs/inject/properties/repositories",
            "maxItems",
            manifest::MAX_REPOSITORIES,
        ),
    ] {
        assert_eq!(length(at, keyword), bound as u64, "{at}");
    }
}

#[test]
fn the_published_schema_requires_exactly_what_is_required() {
    let text = include_str!("../../../docs/manifest.schema.json");
    let schema: serde_json::Value = serde_json::from_str(text).unwrap();
    let mut rows: Vec<(Vec<String>, &[Field], String)> = [
        ("", fields::TOP, ""),
        ("/$defs/agent", fields::AGENT, "[agent]"),
        ("/$defs/limits", fields::LIMITS, "[limits]"),
        ("/$defs/folder", fields::FOLDER, "[files.\"/work\"]"),
        ("/$defs/rotates", fields::ROTATES, "[rotates]"),
        ("/$defs/grant/oneOf/0", fields::GRANT, "[grants.b]"),
        ("/$defs/grant/oneOf/1", fields::GRANT, "[grants.e]"),
        ("/$defs/grant/oneOf/2", fields::GRANT, "[grants.h]"),
        ("/$defs/grant/oneOf/3", fields::GRANT, "[grants.j]"),
        ("/$defs/grant/oneOf/4", fields::GRANT, "[grants.m]"),
        ("/$defs/sign", fields::SIGN, "[grants.a.sign]"),
        ("/$defs/seal", fields::SEAL, "[grants.i.seal]"),
        ("/$defs/mac", fields::MAC, "[grants.l.mac]"),
        ("/$defs/attest", fields::ATTEST, "[grants.n.attest]"),
        ("/$defs/http", fields::HTTP, "[grants.f.http]"),
        ("/$defs/budget", fields::BUDGET, "[grants.f.http.budget]"),
        ("/$defs/body", fields::BODY, "[grants.f.http.body]"),
    ]
    .into_iter()
    .map(|(at, list, header)| (vec![at.to_owned()], list, header.to_owned()))
    .collect();
    for (alias, _, at) in KINDS {
        let at = at.iter().map(|at| match at.strip_prefix("obtained") {
            Some(rest) => format!("/$defs/obtained{rest}"),
            None => format!("/$defs/inject{at}"),
        });
        rows.push((at.collect(), fields::INJECT, format!("[grants.{alias}.inject]")));
    }
    for (at, list, header) in rows {
        let required: Vec<&str> = at
            .iter()
            .filter_map(|at| schema.pointer(at).unwrap()["required"].as_array())
            .flatten()
            .map(|name| name.as_str().unwrap())
            .collect();
        for field in list {
            let text: String = every_field()
                .into_iter()
                .map(|(section, _)| {
                    let own = section.starts_with(&format!("{header}\n"));
                    let top = header.is_empty();
                    let gone = section.starts_with(&format!("[{}", field.name)) && top;
                    let lines = |keep: &dyn Fn(&str) -> bool| -> String {
                        section.split_inclusive('\n').filter(|line| keep(line)).collect()
                    };
                    match (gone, own) {
                        (true, _) => String::new(),
                        // Without an approval nothing waits for one.
                        (false, true) if field.name == "approval" => {
                            lines(&|line| !line.starts_with("approval"))
                        }
                        (false, true) => lines(&|line| !line.starts_with(&format!("{} = ", field.name))),
                        // Without grants there is nothing to acknowledge, and none to rotate with.
                        (false, false)
                            if top && field.name == "grants" && section.starts_with("[rotates]") =>
                        {
                            String::new()
                        }
                        (false, false) if top && field.name == "grants" => {
                            lines(&|line| !line.starts_with("acknowledged"))
                        }
                        (false, false) => section,
                    }
                })
                .collect();
            assert_eq!(
                Manifest::parse(&text).is_err(),
                required.contains(&field.name),
                "{at:?} {} {:?}",
                field.name,
                Manifest::parse(&text).err()
            );
        }
    }
}
