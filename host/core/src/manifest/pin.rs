//! Writing the digest of approved bytes into a manifest's text, leaving every other byte as the operator wrote it. Writes no file.

use toml::de::{DeTable, DeValue};

use crate::digest::ComponentDigest;
use crate::manifest::problem::{Report, code};
use crate::manifest::{Manifest, Problem, fields};

pub(super) fn with_digest(text: &str, digest: ComponentDigest) -> Result<String, Vec<Problem>> {
    let pinned = edit(text, digest).unwrap_or_else(|| text.to_owned());
    match Manifest::parse(&pinned) {
        Ok((manifest, _)) if manifest.agent.digest == Some(digest) => Ok(pinned),
        // The places must be those of the text that the operator has.
        Ok(_) | Err(_) => Err(match Manifest::parse(text) {
            Err(problems) => problems,
            Ok(_) => {
                let mut report = Report::default();
                report.error(
                    code::UNSUPPORTED,
                    0..0,
                    "the digest cannot be written into this manifest; expected a table `[agent]` with `component`".to_owned(),
                    "cannot be pinned",
                    Some(format!("write `digest = \"{digest}\"` into [agent] by hand")),
                );
                report.finish(text)
            }
        }),
    }
}

/// The text with the digest, if it is plain where to put it.
fn edit(text: &str, digest: ComponentDigest) -> Option<String> {
    let (document, _) = DeTable::parse_recoverable(text);
    let agent = document.get_ref().get(fields::AGENT_TABLE.name)?;
    let DeValue::Table(table) = agent.get_ref() else {
        return None;
    };
    if let Some(old) = table.get(fields::DIGEST.name) {
        return splice(text, old.span(), &format!("\"{digest}\""));
    }
    let (key, component) = table.get_key_value(fields::COMPONENT.name)?;
    let end = component.span().end;
    if text.get(agent.span())?.starts_with('{') {
        // An inline table: on the same line, after the component.
        return splice(text, end..end, &format!(", digest = \"{digest}\""));
    }
    // A line of its own below the component's, with what stands before its key: indentation, or `agent.`.
    let line = text.get(..key.span().start)?.rfind('\n').map_or(0, |at| at + 1);
    let before = text.get(line..key.span().start)?.trim_start_matches('\u{feff}');
    let rest = text.get(end..)?;
    let (at, line_end) = match rest.find('\n') {
        Some(newline) if rest.get(..newline)?.ends_with('\r') => (end + newline - 1, "\r\n"),
        Some(newline) => (end + newline, "\n"),
        None => (text.len(), if text.contains("\r\n") { "\r\n" } else { "\n" }),
    };
    splice(text, at..at, &format!("{line_end}{before}digest = \"{digest}\""))
}

fn splice(text: &str, span: std::ops::Range<usize>, with: &str) -> Option<String> {
    Some(format!(
        "{}{with}{}",
        text.get(..span.start)?,
        text.get(span.end..)?
    ))
}
