//! `[agent]`: who it is, what it runs and with which arguments. Does not look at the component.

use toml::Spanned;

use super::mix::Acknowledgement;
use super::section::{Section, kind};
use crate::manifest::problem::{Report, code};
use crate::manifest::{Agent, MAX_ARGS, MAX_PATH, MAX_TEXT, fields};

/// `[agent]`, read.
pub(super) struct Read {
    pub(super) agent: Agent,
    pub(super) args: Vec<String>,
    pub(super) acknowledged: Vec<Spanned<Acknowledgement>>,
}

/// The agent, its arguments, and what its operator thought over.
pub(super) fn read(top: &Section<'_, '_>, report: &mut Report) -> Option<Read> {
    if top.get(fields::AGENT_TABLE).is_none() {
        top.missing(fields::AGENT_TABLE, report);
        return None;
    }
    let agent = top.section(fields::AGENT_TABLE, "[agent]".to_owned(), fields::AGENT, report)?;
    for field in [fields::NAME, fields::COMPONENT] {
        if agent.get(field).is_none() {
            agent.missing(field, report);
        }
    }
    if agent.get(fields::DIGEST).is_none() {
        report.warning(
            code::NOT_PINNED,
            agent.span.clone(),
            "[agent] pins no digest; until it does, the agent is not admitted".to_owned(),
            "no `digest`",
            "run `claviger pin` to approve the component's bytes",
        );
    }
    let name = agent.parsed(fields::NAME, report);
    let component = agent.read(fields::COMPONENT, report, host_path);
    let digest = agent.parsed(fields::DIGEST, report);
    let args = read_args(&agent, report);
    let acknowledged = agent.list(fields::ACKNOWLEDGED, 1..=1, report, |text| {
        text.parse().map_err(str::to_owned)
    });
    Some(Read {
        agent: Agent {
            name: name?.into_inner(),
            component: component?.into_inner(),
            digest: digest.map(Spanned::into_inner),
        },
        args,
        acknowledged,
    })
}

/// A path on the host: any text that can be one. What it leads to is the operator's business.
pub(super) fn host_path(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > MAX_PATH || text.contains('\0') {
        return Err(format!("expected a path of 1 to {MAX_PATH} bytes without NUL"));
    }
    Ok(text.to_owned())
}

/// A text that a C program can take as an argument or variable.
pub(super) fn check_text(text: &str) -> Result<(), String> {
    if text.len() > MAX_TEXT {
        return Err(format!("{} bytes; expected at most {MAX_TEXT}", text.len()));
    }
    if text.contains('\0') {
        return Err("a NUL character; expected none, since it would end the text".to_owned());
    }
    Ok(())
}

fn read_args(agent: &Section<'_, '_>, report: &mut Report) -> Vec<String> {
    let field = fields::ARGS;
    let Some(value) = agent.get(field) else {
        return Vec::new();
    };
    let Some(items) = value.get_ref().as_array() else {
        agent.wrong_type(field, value, report);
        return Vec::new();
    };
    if items.len() > MAX_ARGS {
        let why = format!("{} arguments; expected at most {MAX_ARGS}", items.len());
        agent.wrong_value(field, value.span(), &why, "too many", report);
    }
    let mut args = Vec::new();
    for item in items {
        let Some(text) = item.get_ref().as_str() else {
            report.error(
                code::WRONG_TYPE,
                item.span(),
                format!(
                    "`args` in [agent] holds {}; expected only strings",
                    kind(item.get_ref())
                ),
                "not a string",
                Some("put it in quotes".to_owned()),
            );
            continue;
        };
        match check_text(text) {
            Ok(()) => args.push(text.to_owned()),
            Err(why) => agent.wrong_value(field, item.span(), &why, "not acceptable", report),
        }
    }
    args
}
