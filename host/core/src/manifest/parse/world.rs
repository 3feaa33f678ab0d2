//! `[env]` and `[files]`: what the agent finds around it. Opens no folder.

use std::collections::BTreeMap;

use toml::de::DeValue;

use super::agent::{check_text, host_path};
use super::section::{Section, kind, quoted};
use crate::manifest::problem::{Report, code};
use crate::manifest::{Access, Folder, MAX_ENV, MAX_FILES, MAX_PATH, fields};
use crate::name::VariableName;

/// Parts of a variable's name that say that it holds a credential.
const SECRET_WORDS: [&str; 5] = ["KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD"];

pub(super) fn read_env(top: &Section<'_, '_>, report: &mut Report) -> BTreeMap<VariableName, String> {
    let mut env = BTreeMap::new();
    let Some((table, span)) = top.table(fields::ENV_TABLE, report) else {
        return env;
    };
    if table.len() > MAX_ENV {
        report.error(
            code::WRONG_VALUE,
            span,
            format!("[env] has {} variables; expected at most {MAX_ENV}", table.len()),
            "too many",
            None,
        );
    }
    for (key, value) in table.iter() {
        let name: Option<VariableName> = match key.get_ref().parse() {
            Ok(name) => Some(name),
            Err(why) => {
                let shown = quoted(key.get_ref());
                report.error(
                    code::WRONG_VALUE,
                    key.span(),
                    format!("[env] names a variable `{shown}`; {why}"),
                    "not a variable's name",
                    None,
                );
                None
            }
        };
        let DeValue::String(text) = value.get_ref() else {
            report.error(
                code::WRONG_TYPE,
                value.span(),
                format!(
                    "`{}` in [env] is {}; expected a string",
                    quoted(key.get_ref()),
                    kind(value.get_ref())
                ),
                "not a string",
                Some("put it in quotes".to_owned()),
            );
            continue;
        };
        if let Err(why) = check_text(text) {
            report.error(
                code::WRONG_VALUE,
                value.span(),
                format!("`{}` in [env]: {why}", quoted(key.get_ref())),
                "not acceptable",
                None,
            );
            continue;
        }
        let Some(name) = name else { continue };
        if SECRET_WORDS.iter().any(|word| name.as_str().contains(word)) {
            report.warning(
                code::SECRET_IN_ENV,
                key.span(),
                format!("`{name}` in [env] looks like a credential; the agent reads every variable"),
                "a credential?",
                "keep credentials in the keyring and grant their use under [grants]",
            );
        }
        env.insert(name, text.to_string());
    }
    env
}

pub(super) fn read_files(top: &Section<'_, '_>, report: &mut Report) -> BTreeMap<String, Folder> {
    let mut files = BTreeMap::new();
    let Some((table, span)) = top.table(fields::FILES_TABLE, report) else {
        return files;
    };
    if table.len() > MAX_FILES {
        report.error(
            code::WRONG_VALUE,
            span,
            format!(
                "[files] has {} folders; expected at most {MAX_FILES}",
                table.len()
            ),
            "too many",
            None,
        );
    }
    for (key, value) in table.iter().take(MAX_FILES) {
        let path: &str = key.get_ref();
        let shown = quoted(path);
        if let Err(why) = check_guest_path(path) {
            report.error(
                code::WRONG_VALUE,
                key.span(),
                format!("[files] names the folder `{shown}`, which {why}; expected a path such as `/work`"),
                "not an absolute path",
                None,
            );
        } else if let Some(outer) = files.keys().find(|other| nested(other, path)) {
            report.error(
                code::CONFLICT,
                key.span(),
                format!(
                    "[files] has `{shown}` and `{}`, one inside the other; expected separate folders",
                    quoted(outer)
                ),
                "nested",
                Some("which access holds inside would be a guess".to_owned()),
            );
        }
        let Some(folder) = value.get_ref().as_table() else {
            report.error(
                code::WRONG_TYPE,
                value.span(),
                format!(
                    "`{shown}` in [files] is {}; expected a table",
                    kind(value.get_ref())
                ),
                format!("{}, not a table", kind(value.get_ref())),
                Some(format!(
                    "for example `\"/work\" = {{ host = {}, access = \"read\" }}`",
                    fields::HOST.example
                )),
            );
            continue;
        };
        let place = format!("`{shown}` of [files]");
        let folder = Section::open(folder, value.span(), place, fields::FOLDER, &[], report);
        for field in [fields::HOST, fields::ACCESS] {
            if folder.get(field).is_none() {
                folder.missing(field, report);
            }
        }
        let host = folder.read(fields::HOST, report, host_path);
        let access = folder.read(fields::ACCESS, report, |text| match text {
            "read" => Ok(Access::Read),
            "read-write" => Ok(Access::ReadWrite),
            _ => Err("expected `read` or `read-write`".to_owned()),
        });
        // A folder with a problem of its own is kept, too: the next is compared with it.
        let host = host.map(toml::Spanned::into_inner).unwrap_or_default();
        let access = access.map_or(Access::Read, toml::Spanned::into_inner);
        if check_guest_path(path).is_ok() {
            files.insert(path.to_owned(), Folder { host, access });
        }
    }
    files
}

/// One spelling for each folder: absolute, without empty, `.` and `..` parts.
fn check_guest_path(path: &str) -> Result<(), &'static str> {
    let Some(rest) = path.strip_prefix('/') else {
        return Err("does not begin with `/`");
    };
    if path.len() > MAX_PATH {
        return Err("is too long");
    }
    if path.chars().any(char::is_control) {
        return Err("has a control character");
    }
    if rest.is_empty() {
        return Ok(()); // `/` itself
    }
    for part in rest.split('/') {
        match part {
            "" => return Err("has an empty part"),
            "." | ".." => return Err("has a part `.` or `..`"),
            _ => {}
        }
    }
    Ok(())
}

fn nested(a: &str, b: &str) -> bool {
    let inside = |outer: &str, inner: &str| {
        inner
            .strip_prefix(outer)
            .is_some_and(|rest| outer.ends_with('/') || rest.starts_with('/'))
    };
    inside(a, b) || inside(b, a)
}
