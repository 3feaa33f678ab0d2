//! `claviger new`: writes a folder with an agent that compiles as it is, and the manifest it runs under. Builds nothing, makes no key.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use claviger_core::AgentName;
use jiff::civil::Time;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

use crate::args::{Language, New};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::interruption::to_its_end;

/// The first agent in Rust: where each file goes, and what is in it.
const RUST: [(&str, &str); 4] = [
    ("Cargo.toml", include_str!("../../templates/rust/Cargo.toml.in")),
    ("src/lib.rs", include_str!("../../templates/rust/lib.rs.in")),
    (
        "manifest.toml",
        include_str!("../../templates/rust/manifest.toml.in"),
    ),
    (".gitignore", include_str!("../../templates/rust/gitignore.in")),
];
/// A grant in a first manifest ends after this: long enough to forget, so `check` is to find an end there.
const YEARS: i64 = 1;

pub(crate) fn run(cx: &Context, args: &New) -> Result<Exit, Failure> {
    let Language::Rust = args.lang;
    let name = &args.name;
    let values = [
        ("{{name}}", name.to_string()),
        ("{{package}}", package(name)),
        ("{{sdk}}", sdk(args.sdk.as_deref())?),
        ("{{expires}}", expires(Timestamp::now())?),
    ];
    let files = RUST.map(|(path, template)| {
        let filled = values.iter().fold(template.to_owned(), |text, (mark, value)| {
            text.replace(mark, value)
        });
        (path, filled)
    });
    let folder = Path::new(name.as_str());
    to_its_end(|| write(folder, &files))?;

    let next = [
        format!("cd {name}"),
        "cargo build --release --target wasm32-wasip2".to_owned(),
        format!("claviger key create {name} --profile sshsig --namespace file"),
        "claviger check manifest.toml".to_owned(),
        "claviger pin manifest.toml".to_owned(),
        "claviger run manifest.toml hello".to_owned(),
    ];
    let json = serde_json::json!({
        "agent": name,
        "folder": folder,
        "files": files.map(|(path, _)| path),
        "next": next,
    });
    cx.out.value(&json, |_| {
        let mut out = format!("made {name}/ with an agent that signs what it is given; next:\n");
        for line in &next {
            out.push_str(&format!("  {line}\n"));
        }
        out
    });
    if !cx.out.is_json() {
        cx.out
            .note("before the first agent of all: `rustup target add wasm32-wasip2` and `claviger init`");
    }
    Ok(Exit::Done)
}

/// The name as cargo takes it: it begins with a letter, and is not that of its dependency.
fn package(name: &AgentName) -> String {
    let name = name.as_str();
    if name.starts_with(|c: char| c.is_ascii_alphabetic()) && name != "claviger-sdk" {
        name.to_owned()
    } else {
        format!("agent-{name}")
    }
}

/// The dependency on the SDK, as TOML.
fn sdk(path: Option<&Path>) -> Result<String, Failure> {
    let Some(path) = path else {
        return Ok(format!(
            "\"{}.{}\"",
            env!("CARGO_PKG_VERSION_MAJOR"),
            env!("CARGO_PKG_VERSION_MINOR")
        ));
    };
    let cannot = |why: &str| {
        Failure::failed(format!(
            "`{}` is no folder of claviger-sdk: {why}",
            path.display()
        ))
    };
    let absolute = path.canonicalize().map_err(|error| {
        Failure::failed(format!("the folder `{}` cannot be found", path.display())).because(Some(&error))
    })?;
    if !absolute.join("Cargo.toml").is_file() {
        return Err(cannot("it has no Cargo.toml").help("it is the folder `guest-sdk` of Claviger's sources"));
    }
    let text = absolute.to_str().ok_or_else(|| cannot("its path is not UTF-8"))?;
    // A JSON string is a TOML string, but for one character that TOML wants escaped.
    let quoted = serde_json::Value::from(text)
        .to_string()
        .replace('\u{7f}', "\\u007f");
    Ok(format!("{{ path = {quoted} }}"))
}

/// Midnight in UTC, some years from now.
fn expires(now: Timestamp) -> Result<String, Failure> {
    let end = now.to_zoned(TimeZone::UTC).checked_add(YEARS.years());
    let end = end.map_err(|error| Failure::failed("the clock is at its end").because(Some(&error)))?;
    Ok(end.date().to_datetime(Time::midnight()).to_string() + "Z")
}

/// Puts the folder in its place in one step: renaming succeeds where nothing is, or an empty folder.
fn write(folder: &Path, files: &[(&str, String)]) -> Result<(), Failure> {
    let name = folder.display();
    let cannot = |error: std::io::Error| {
        Failure::failed(format!("the folder `{name}` cannot be made; nothing was made")).because(Some(&error))
    };
    let new = tempfile::Builder::new()
        .prefix(".claviger-new-")
        .tempdir_in(".")
        .map_err(cannot)?;
    for (path, text) in files {
        let path = new.path().join(path);
        path.parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::write(&path, text))
            .map_err(cannot)?;
    }
    match fs::rename(new.path(), folder) {
        // What was renamed is not there any more for `new` to take away.
        Ok(()) => Ok(()),
        Err(error) => Err(match error.kind() {
            ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists | ErrorKind::NotADirectory => {
                Failure::failed(format!("`{name}` is there already; nothing was made"))
                    .help("choose another name, or another folder to type this in")
            }
            _ => cannot(error),
        }),
    }
}

#[cfg(test)]
mod tests {
    use claviger_core::Manifest;

    use super::*;

    #[test]
    fn every_name_of_an_agent_makes_a_package_that_cargo_takes() {
        for (name, expected) in [
            ("bot", "bot"),
            ("0bot", "agent-0bot"),
            ("claviger-sdk", "agent-claviger-sdk"),
            ("fn", "fn"),
        ] {
            assert_eq!(package(&name.parse().unwrap()), expected);
        }
    }

    #[test]
    fn a_path_to_the_sdk_cannot_leave_its_quotes() {
        let folder = tempfile::tempdir().unwrap();
        let odd = folder.path().join("a\"b\\ü\n\u{7f}");
        fs::create_dir(&odd).unwrap();
        assert!(sdk(Some(&odd)).is_err(), "no Cargo.toml");
        fs::write(odd.join("Cargo.toml"), "").unwrap();
        let text = sdk(Some(&odd)).unwrap();
        assert!(
            !text.contains('\n') && text.contains("a\\\"b\\\\ü\\n\\u007f\" }"),
            "{text}"
        );
        assert_eq!(sdk(None).unwrap(), "\"0.1\"");
        assert!(sdk(Some(Path::new("/nowhere"))).is_err());
    }

    #[test]
    fn the_manifest_has_nothing_to_be_warned_of_but_the_digest() {
        let (_, manifest) = RUST.iter().find(|(path, _)| *path == "manifest.toml").unwrap();
        let expires = expires("2028-02-29T12:00:00Z".parse().unwrap()).unwrap();
        assert_eq!(expires, "2029-02-28T00:00:00Z");
        let text = manifest
            .replace("{{name}}", "bot")
            .replace("{{expires}}", &expires);
        let (_, warnings) = Manifest::parse(&text).unwrap();
        let codes: Vec<_> = warnings.iter().map(|warning| warning.code).collect();
        assert_eq!(codes, ["manifest::not-pinned"]);
    }
}
