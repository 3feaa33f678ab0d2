//! `claviger check`: every problem of a manifest at once, what stands against its grants in the keyring, every limit, every grant in words.
//! Admits nothing, opens no keyring and logs nothing.

use claviger_broker::fit::Unmet;
use claviger_core::manifest::{Capability, Grant, Problem};
use claviger_core::{ComponentDigest, GrantAlias, Manifest};
use jiff::Timestamp;

use crate::args::ManifestArg;
use crate::context::Context;
use crate::credentials::Lack;
use crate::diagnose;
use crate::exit::{Exit, Failure};
use crate::manifest::{ManifestFile, count_errors};
use crate::output::{Style, columns};
use crate::words;

/// What was found, beside the problems of the text.
struct Findings {
    /// What stands against admitting the agent now.
    against: Vec<String>,
    /// What could not be checked, and why.
    unchecked: Vec<String>,
    component: Option<ComponentDigest>,
}

pub(crate) fn run(cx: &Context, args: &ManifestArg) -> Result<Exit, Failure> {
    let file = ManifestFile::read(&args.path)?;
    let (manifest, mut problems) = match Manifest::parse(&file.text) {
        Ok(parsed) => parsed,
        Err(problems) if cx.out.is_json() => {
            let problems: Vec<_> = problems
                .iter()
                .map(|problem| diagnose::to_json(&file.text, problem))
                .collect();
            cx.out.value(
                &serde_json::json!({ "manifest": file.path, "ok": false, "problems": problems }),
                |_| String::new(),
            );
            return Ok(Exit::Failed);
        }
        Err(problems) => return Err(file.refuse(&cx.out, &problems)),
    };
    let mut findings = Findings {
        against: Vec::new(),
        unchecked: Vec::new(),
        component: None,
    };
    findings.look_at_writers(&file);
    findings.look_at_component(&file, &manifest);
    problems.extend(findings.look_at_keyring(cx, &file, &manifest));
    problems.sort_by_key(|problem| problem.span.start);
    if !cx.out.is_json() {
        file.draw(&cx.out, &problems);
    }
    let ok = count_errors(&problems) == 0 && findings.against.is_empty();
    let json = serde_json::json!({
        "manifest": file.path,
        "ok": ok,
        "agent": manifest.agent.name,
        "component": file.component_path(&manifest),
        "digest": findings.component.map(|digest| digest.to_string()),
        "pinned": manifest.agent.digest.map(|digest| digest.to_string()),
        "limits": words::limits(&manifest).into_iter().map(|(name, value, default)| {
            serde_json::json!({ "name": name, "value": value, "default": default })
        }).collect::<Vec<_>>(),
        "world": words::world(&manifest),
        "grants": manifest.grants.iter().map(|(alias, grant)| {
            grant_json(alias, grant)
        }).collect::<Vec<_>>(),
        "problems": problems.iter().map(|problem| diagnose::to_json(&file.text, problem)).collect::<Vec<_>>(),
        "against": findings.against,
        "unchecked": findings.unchecked,
    });
    cx.out.value(&json, |_| human(cx, &file, &manifest, &findings));
    Ok(if ok { Exit::Done } else { Exit::Failed })
}

impl Findings {
    fn look_at_writers(&mut self, file: &ManifestFile) {
        if let Some(problem) = file.writers.problem() {
            self.against
                .push(format!("the manifest {problem}; {}", file.closing()));
        }
    }

    fn look_at_component(&mut self, file: &ManifestFile, manifest: &Manifest) {
        let digest = match file.component(manifest) {
            Ok(bytes) => ComponentDigest::of(&bytes),
            Err(failure) => {
                let because: Vec<_> = std::iter::once(failure.message).chain(failure.causes).collect();
                self.against.push(because.join(": "));
                return;
            }
        };
        self.component = Some(digest);
        match manifest.agent.digest {
            Some(pinned) if pinned != digest => self.against.push(format!(
                "the component is {digest}, the manifest pins {pinned}; if the change is yours, run `claviger pin {}`",
                file.path.display()
            )),
            // Without a digest there is a warning already, with its place.
            Some(_) | None => {}
        }
    }

    /// What the keyring does not have of what the grants need, with the place of each.
    fn look_at_keyring(&mut self, cx: &Context, file: &ManifestFile, manifest: &Manifest) -> Vec<Problem> {
        if manifest.grants.is_empty() {
            return Vec::new();
        }
        let shown = match crate::credentials::shown(cx) {
            Ok(shown) => shown,
            Err(failure) => {
                let what = format!(
                    "whether the keyring has the keys and secrets: {}",
                    failure.message
                );
                self.unchecked.push(what);
                return Vec::new();
            }
        };
        let now = Timestamp::now();
        for due in shown.due(manifest, now) {
            cx.out.warn(&due);
        }
        let mut problems = Vec::new();
        for Lack { alias, field, unmet } in shown.lacks(manifest, now) {
            self.against.push(format!("grant `{alias}`: {unmet}"));
            let Unmet { problem, fix, .. } = &unmet;
            problems.push(Problem::of_credential(&file.text, alias, field, problem, fix));
        }
        problems
    }
}

/// A grant in words; of one for requests, every limit and what is attached, too.
fn grant_json(alias: &GrantAlias, grant: &Grant) -> serde_json::Value {
    let words = words::grant(grant);
    match &grant.capability {
        Capability::Sign { .. }
        | Capability::Seal { .. }
        | Capability::Mac { .. }
        | Capability::Attest(_) => {
            serde_json::json!({ "alias": alias, "words": words })
        }
        Capability::Http(http) => serde_json::json!({
            "alias": alias,
            "words": words,
            "origin": http.origin,
            "inject": http.inject.as_ref().map(words::http::slot),
            "limits": words::http::limits(http).into_iter().map(|(name, value)| {
                serde_json::json!({ "name": name, "value": value })
            }).collect::<Vec<_>>(),
        }),
    }
}

fn human(cx: &Context, file: &ManifestFile, manifest: &Manifest, findings: &Findings) -> String {
    let heading = |text: &str| cx.out.paint(Style::Bold, text);
    let pinned = match (manifest.agent.digest, findings.component) {
        (Some(pinned), Some(digest)) if pinned == digest => format!("{digest}, pinned"),
        (Some(pinned), _) => format!("{pinned} pinned, but the bytes are others or not there"),
        (None, Some(digest)) => format!("{digest}, not pinned"),
        (None, None) => "not pinned".to_owned(),
    };
    let mut out = format!(
        "{} {}\n  {}\n  {pinned}\n",
        heading("agent"),
        manifest.agent.name,
        file.component_path(manifest).display()
    );
    for line in words::world(manifest) {
        out.push_str(&format!("  {line}\n"));
    }
    out.push_str(&heading("limits"));
    out.push('\n');
    let rows: Vec<_> = words::limits(manifest)
        .into_iter()
        .map(|(name, value, default)| {
            vec![
                String::new(),
                name.to_owned(),
                value,
                if default { "default" } else { "" }.to_owned(),
            ]
        })
        .collect();
    out.push_str(&columns(&rows));
    out.push_str(&heading("grants"));
    out.push('\n');
    if manifest.grants.is_empty() {
        out.push_str("  none: the agent may use no credential\n");
    }
    for (alias, grant) in &manifest.grants {
        out.push_str(&format!(
            "  {} {}\n",
            cx.out.paint(Style::Bold, alias.as_str()),
            words::grant(grant)
        ));
        if let Capability::Http(http) = &grant.capability {
            let rows: Vec<_> = words::http::limits(http)
                .into_iter()
                .map(|(name, value)| vec![String::new(), String::new(), name.to_owned(), value])
                .collect();
            out.push_str(&columns(&rows));
        }
    }
    for text in &findings.unchecked {
        out.push_str(&format!("{} {text}\n", cx.out.paint(Style::Warn, "not checked:")));
    }
    for text in &findings.against {
        out.push_str(&format!(
            "{} {text}\n",
            cx.out.paint(Style::Bad, "not admitted now:")
        ));
    }
    crate::output::shown_styled(&out)
}
