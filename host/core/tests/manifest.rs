//! The manifest from outside: hostile texts and what is said of them, bounds, pinning. Not the grammar of quantities and hours,
//! which is tested beside their code, and not the fields one by one: that is in `manifest_fields.rs`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::fmt::Write as _;
use std::path::Path;

use claviger_core::ComponentDigest;
use claviger_core::manifest::{self, Access, Manifest, OnViolation, Problem, Severity, code};
use expect_test::{expect, expect_file};
use proptest::prelude::*;

const VALID: &str = include_str!("../fixtures/manifest/valid-complete.toml");
const MINIMAL: &str = include_str!("../fixtures/manifest/valid-minimal.toml");

/// Everything said of a text, after checking what holds for any text.
fn problems(text: &str) -> Vec<Problem> {
    let problems = match Manifest::parse(text) {
        Ok((_, warnings)) => {
            assert!(
                warnings
                    .iter()
                    .all(|problem| problem.severity == Severity::Warning)
            );
            warnings
        }
        Err(problems) => {
            assert!(problems.iter().any(|problem| problem.severity == Severity::Error));
            problems
        }
    };
    let mut last = 0;
    for problem in &problems {
        assert!(
            text.get(problem.span.clone()).is_some(),
            "{problem:?} is not a part of the text"
        );
        assert!(problem.span.start >= last, "{problem:?} is out of order");
        last = problem.span.start;
        for shown in [
            Some(&problem.message),
            Some(&problem.label),
            problem.help.as_ref(),
        ]
        .into_iter()
        .flatten()
        {
            assert!(
                !shown.chars().any(char::is_control),
                "{shown:?} could forge a terminal's output"
            );
            assert!(shown.len() < 1200, "{shown:?} is too long");
        }
    }
    problems
}

/// Problems as an operator might see them, one a paragraph.
fn render(text: &str) -> String {
    let mut out = match Manifest::parse(text) {
        Ok(_) => "loaded\n".to_owned(),
        Err(_) => "refused\n".to_owned(),
    };
    for problem in problems(text) {
        let line = text[..problem.span.start].matches('\n').count() + 1;
        let place = text[problem.span.clone()].escape_debug();
        let severity = match problem.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        writeln!(out, "\n{line}: {severity} {}: {}", problem.code, problem.message).unwrap();
        writeln!(out, "   `{place}` {}", problem.label).unwrap();
        if let Some(help) = problem.help {
            writeln!(out, "   help: {help}").unwrap();
        }
    }
    out
}

#[test]
fn of_every_hostile_manifest_it_is_said_what_is_wrong_with_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/manifest");
    let mut seen = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let rendered = render(&text);
        let valid = path.file_name().unwrap().to_str().unwrap().starts_with("valid-");
        assert_eq!(
            rendered.starts_with("loaded"),
            valid,
            "{}: {rendered}",
            path.display()
        );
        expect_file![path.with_extension("expected")].assert_eq(&rendered);
        seen += 1;
    }
    assert!(seen > 20, "only {seen} fixtures were found");
}

#[test]
fn a_complete_manifest_says_what_it_says() {
    let (manifest, warnings) = Manifest::parse(VALID).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(manifest.agent.name.as_str(), "release-bot");
    assert_eq!(manifest.agent.component, "release_bot.wasm");
    assert_eq!(manifest.agent.digest, Some(ComponentDigest::of(b"abc")));
    assert_eq!(manifest.world.args, ["--verbose", "Grüezi"]);
    assert_eq!(manifest.world.env.len(), 1);
    assert_eq!(manifest.world.files["/work"].access, Access::ReadWrite);
    assert_eq!(manifest.world.files["/data"].host, "/srv/data");
    expect![[r#"
        [("memory", "128 MiB"), ("deadline", "5 min"), ("cpu", "90 s"), ("output", "4 MiB")]
    "#]]
    .assert_debug_eq(&Compact(manifest.limits.rows()));
    let told: Vec<String> = manifest
        .grants
        .iter()
        .map(|(alias, grant)| {
            let constraints = &grant.constraints;
            format!(
                "{alias}: {} uses={:?} rate={:?} hours={:?} expires={} {:?}{}",
                match &grant.capability {
                    manifest::Capability::Sign { key, narrowing } => format!(
                        "{key} namespace={:?} audience={:?} subject={:?} ttl={:?} label={:?}",
                        narrowing.namespace,
                        narrowing.audience,
                        narrowing.subject,
                        narrowing.ttl,
                        narrowing.label
                    ),
                    manifest::Capability::Http(http) => format!("{http:?}"),
                    manifest::Capability::Attest(attest) => format!("{attest:?}"),
                    manifest::Capability::Seal { key, allow, bytes } => {
                        format!("{key} allow={allow:?} bytes={bytes:?}")
                    }
                    manifest::Capability::Mac { key, label, allow } => {
                        format!("{key} label={label:?} allow={allow:?}")
                    }
                },
                constraints.uses.map(u64::from),
                constraints.rate.map(|rate| rate.to_string()),
                constraints
                    .hours
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>(),
                constraints.expires.unwrap(),
                constraints.on_violation,
                constraints.approval.map_or(String::new(), |approval| format!(
                    " asks={:?} within {:?}",
                    approval.mode, approval.timeout
                )),
            )
        })
        .collect();
    expect![[r#"
        check: hook label=Some("acme/webhook") allow={Verify} uses=None rate=Some("1/second") hours=[] expires=2027-01-01T00:00:00Z Deny asks=Each within 30s
        evidence: AttestGrant { key: "host", audiences: {"https://verifier.example"}, ttl: 120 } uses=Some(9) rate=None hours=[] expires=2027-01-01T00:00:00Z Deny asks=Each within 300s
        label: build namespace=None audience=None subject=None ttl=None label=Some("acme/build") uses=None rate=Some("1/second") hours=[] expires=2027-01-01T00:00:00.5Z Deny
        sign-release: release namespace=Some("file") audience=None subject=None ttl=None label=None uses=Some(500) rate=Some("30/hour") hours=["Mon-Fri 08:00-18:00 Europe/Zurich"] expires=2027-01-01T00:00:00Z Suspend
        state: state allow={Seal, Unseal} bytes=Some(Bytes(10485760)) uses=Some(9) rate=None hours=[] expires=2027-01-01T00:00:00Z Deny asks=FirstUse within 300s
        token: api namespace=None audience=Some("https://api.example.com") subject=Some("release-bot") ttl=Some(600) label=None uses=Some(16) rate=None hours=["Mon-Fri 22:00-06:00 UTC", "Sat,Sun 00:00-24:00 UTC"] expires=2026-12-31T23:00:00Z Deny"#]].assert_eq(&told.join("\n"));
}

/// `Debug` on one line.
struct Compact<T>(T);

impl<T: std::fmt::Debug> std::fmt::Debug for Compact<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

#[test]
fn what_is_not_said_has_the_documented_defaults() {
    let (manifest, warnings) = Manifest::parse(MINIMAL).unwrap();
    assert_eq!(warnings.len(), 1);
    assert_eq!(warnings[0].code, code::NOT_PINNED);
    assert_eq!(manifest.limits, manifest::Limits::default());
    expect![[r#"
        [("memory", "64 MiB"), ("deadline", "1 min"), ("cpu", "10 s"), ("output", "1 MiB")]
    "#]]
    .assert_debug_eq(&Compact(manifest.limits.rows()));
    assert_eq!(manifest.world, manifest::World::default());
    assert!(manifest.grants.is_empty());
    assert_eq!(OnViolation::default(), OnViolation::Deny);
    // A deadline below the default of `cpu` lowers it: that is no contradiction, since nobody said otherwise.
    let (manifest, _) = Manifest::parse(&format!("{MINIMAL}limits.deadline = \"2 s\"")).unwrap();
    assert_eq!(manifest.limits.cpu, manifest.limits.deadline);
}

#[test]
fn counts_and_lengths_are_bounded() {
    let grants = |count: usize| {
        (0..count).fold(MINIMAL.to_owned(), |text, number| {
            text + &format!(
                "[grants.g{number}]\nsign.key = \"a\"\nuses = 1\nexpires = 2027-01-01T00:00:00Z\n"
            )
        })
    };
    let list = |item: &str, count: usize| vec![item; count].join(", ");
    let args = |count: usize| {
        format!(
            "schema = 1\n[agent]\nname = \"a\"\ncomponent = \"a\"\nargs = [{}]",
            list("\"a\"", count)
        )
    };
    let arg = |length: usize| {
        format!(
            "schema = 1\n[agent]\nname = \"a\"\ncomponent = \"a\"\nargs = [\"{}\"]",
            "a".repeat(length)
        )
    };
    let env = |count: usize| {
        (0..count).fold(format!("{MINIMAL}[env]\n"), |text, number| {
            text + &format!("V{number} = \"\"\n")
        })
    };
    let value = |length: usize| format!("{MINIMAL}[env]\nV = \"{}\"", "a".repeat(length));
    let files = |count: usize| {
        (0..count).fold(format!("{MINIMAL}[files]\n"), |text, number| {
            text + &format!("\"/{number}\" = {{ host = \"a\", access = \"read\" }}\n")
        })
    };
    let hours = |count: usize| {
        format!(
            "{MINIMAL}[grants.a]\nsign.key = \"a\"\nhours = [{}]",
            list("\"Mon 08:00-09:00 UTC\"", count)
        )
    };
    let size = |length: usize| format!("{MINIMAL}#{}", "x".repeat(length - MINIMAL.len() - 1));
    for (what, build, max) in [
        (
            "grants",
            &grants as &dyn Fn(usize) -> String,
            manifest::MAX_GRANTS,
        ),
        ("args", &args, manifest::MAX_ARGS),
        ("arg", &arg, manifest::MAX_TEXT),
        ("env", &env, manifest::MAX_ENV),
        ("value", &value, manifest::MAX_TEXT),
        ("files", &files, manifest::MAX_FILES),
        ("hours", &hours, manifest::MAX_HOURS),
        ("size", &size, manifest::MAX_MANIFEST),
    ] {
        assert!(Manifest::parse(&build(max)).is_ok(), "{what} {max}");
        let errors = problems(&build(max + 1));
        assert!(Manifest::parse(&build(max + 1)).is_err(), "{what} {max}");
        let errors: Vec<_> = errors
            .iter()
            .filter(|problem| problem.severity == Severity::Error)
            .collect();
        assert_eq!(errors.len(), 1, "{what}: {errors:?}");
        assert_eq!(errors[0].code, code::WRONG_VALUE, "{what}: {errors:?}");
        assert!(errors[0].message.contains(&max.to_string()), "{what}: {errors:?}");
    }
}

#[test]
fn pinning_changes_the_digest_and_no_other_byte() {
    let digest = ComponentDigest::of(b"new");
    let line = format!("digest = \"{digest}\"");
    let head = "# top\r\nschema = 1\r\n";
    for (text, expected) in [
        // Replaced where it stands.
        (VALID.to_owned(), VALID.replace(&format!("digest = \"{}\"", ComponentDigest::of(b"abc")), &line)),
        (
            "schema = 1\nagent = { digest = \"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\", name = \"a\", component = \"b\" } # c".into(),
            format!("schema = 1\nagent = {{ {line}, name = \"a\", component = \"b\" }} # c"),
        ),
        // A value that is no digest is replaced, too: that is what pinning is for.
        (
            "schema = 1\n[agent]\ndigest = '' # todo\nname = \"a\"\ncomponent = \"b\"".into(),
            format!("schema = 1\n[agent]\n{line} # todo\nname = \"a\"\ncomponent = \"b\""),
        ),
        // Inserted below the component.
        (
            format!("{head}[agent]\r\n\tcomponent = \"b\" # c\r\n\tname = \"a\"\r\n"),
            format!("{head}[agent]\r\n\tcomponent = \"b\" # c\r\n\t{line}\r\n\tname = \"a\"\r\n"),
        ),
        (
            "schema = 1\n[ \"agent\" ]\nname = \"a\"\ncomponent = '''\nb'''".into(),
            format!("schema = 1\n[ \"agent\" ]\nname = \"a\"\ncomponent = '''\nb'''\n{line}"),
        ),
        (
            "agent.component = \"b\"\nschema = 1\nagent . name = \"a\"\n".into(),
            format!("agent.component = \"b\"\nagent.{line}\nschema = 1\nagent . name = \"a\"\n"),
        ),
        (
            "\u{feff}agent.component = \"b\"\nschema = 1\nagent.name = \"a\"\n".into(),
            format!("\u{feff}agent.component = \"b\"\nagent.{line}\nschema = 1\nagent.name = \"a\"\n"),
        ),
        (
            MINIMAL.to_owned(),
            MINIMAL.replace("\"a.wasm\"", &format!("\"a.wasm\", {line}")),
        ),
        (
            "schema = 1\nagent = {\n  component = \"b\", # c\n  name = \"a\"\n}".into(),
            format!("schema = 1\nagent = {{\n  component = \"b\", {line}, # c\n  name = \"a\"\n}}"),
        ),
    ] {
        let pinned = Manifest::with_digest(&text, digest).unwrap_or_else(|problems| panic!("{text}: {problems:?}"));
        assert_eq!(pinned, expected);
        assert_eq!(Manifest::parse(&pinned).unwrap().0.agent.digest, Some(digest));
        assert_eq!(Manifest::with_digest(&pinned, digest).unwrap(), pinned);
    }
}

#[test]
fn what_is_no_manifest_is_not_pinned() {
    let digest = ComponentDigest::of(b"new");
    for text in [
        "",
        "schema = 1",
        "schema = 1\n[agent]\nname = \"a\"\ncomponent = ",
        "[agent]\ncomponent = \"a\"",
        "schema = 1\nagent = []",
    ] {
        let problems = Manifest::with_digest(text, digest).unwrap_err();
        assert_eq!(
            Err(problems),
            Manifest::parse(text).map(|_| ()),
            "the problems are those of the operator's text"
        );
    }
    // Full to the brim: there is no room for the digest.
    let full = format!(
        "{MINIMAL}#{}",
        "x".repeat(manifest::MAX_MANIFEST - MINIMAL.len() - 1)
    );
    assert!(Manifest::parse(&full).is_ok());
    assert!(Manifest::with_digest(&full, digest).is_err());
}

/// What holds for every text.
fn hold(text: &str) {
    problems(text);
    let digest = ComponentDigest::of(b"new");
    let loads = Manifest::parse(text).is_ok();
    match Manifest::with_digest(text, digest) {
        Ok(pinned) => assert_eq!(Manifest::parse(&pinned).unwrap().0.agent.digest, Some(digest)),
        Err(problems) => assert!(!loads, "loads and cannot be pinned: {text} {problems:?}"),
    }
}

/// Pieces of which texts that are nearly manifests are made.
const PIECES: &[&str] = &[
    "schema = 1\n",
    "[agent]\n",
    "[agent",
    "]\n",
    "[[grants.a]]\n",
    "[grants.a]\n",
    "[grants.a.sign]\n",
    "name",
    "component",
    " = ",
    "=",
    ".",
    "\"a\"",
    "\"",
    "'",
    "'''",
    "\"\"\"",
    "{ ",
    " }",
    "[ ",
    " ]",
    ", ",
    "\n",
    "\r\n",
    "\r",
    "#",
    "1",
    "-1",
    "0x",
    "1e400",
    "2027-01-01T00:00:00Z",
    "2027-13-01",
    "true",
    "inf",
    "é",
    "\u{feff}",
    "\u{0}",
    "\\",
    "\\u",
    "sign",
    "key",
    "uses",
    "hours",
    "\"Mon-Fri 08:00-18:00 Europe/Zurich\"",
    "files",
    "\"/work\"",
    "limits",
    "memory",
    "\"64 MiB\"",
    "expires",
    "  ",
    "digest",
    "agent",
    "a",
];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn no_text_is_too_strange(text in any::<String>()) {
        hold(&text);
    }

    #[test]
    fn no_heap_of_pieces_is_too_strange(pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..40)) {
        hold(&pieces.concat());
    }

    #[test]
    fn no_damage_to_a_manifest_is_too_strange(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), 0_usize..12, proptest::sample::select(PIECES)), 1..4),
    ) {
        let mut text = VALID.to_owned();
        for (at, removed, put) in damage {
            let start = text.floor_char_boundary(at.index(text.len().max(1)));
            let end = text.ceil_char_boundary((start + removed).min(text.len()));
            text.replace_range(start..end, put);
        }
        hold(&text);
    }
}
