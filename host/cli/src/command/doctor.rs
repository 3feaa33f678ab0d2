//! `claviger doctor`: what is wrong or weak here, each with the command that mends it. Mends nothing and unlocks nothing.

use serde::Serialize;

use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::output::{Style, shown};

mod keyring;
mod system;

/// How a thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Warn,
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    status: Status,
    /// What was found.
    detail: String,
    /// What to type or do.
    fix: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Self {
            check,
            status: Status::Ok,
            detail: detail.into(),
            fix: None,
        }
    }

    fn warn(check: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            check,
            status: Status::Warn,
            detail: detail.into(),
            fix: Some(fix.into()),
        }
    }

    fn fail(check: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            check,
            status: Status::Fail,
            detail: detail.into(),
            fix: Some(fix.into()),
        }
    }
}

pub(crate) fn run(cx: &Context) -> Result<Exit, Failure> {
    let folder = cx.keyring()?;
    let mut findings = keyring::look(&folder);
    findings.extend(system::look(&folder));
    for finding in &findings {
        cx.out.value(finding, |finding| human(cx, finding));
    }
    let failed = findings.iter().any(|finding| finding.status == Status::Fail);
    Ok(if failed { Exit::Failed } else { Exit::Done })
}

fn human(cx: &Context, finding: &Finding) -> String {
    let (style, word) = match finding.status {
        Status::Ok => (Style::Good, "ok  "),
        Status::Warn => (Style::Warn, "warn"),
        Status::Fail => (Style::Bad, "FAIL"),
    };
    let mut line = format!(
        "{}  {:<13}  {}",
        cx.out.paint(style, word),
        finding.check,
        shown(&finding.detail)
    );
    if let Some(fix) = &finding.fix {
        line.push_str(&format!("\n      {:<13}  fix: {}", "", shown(fix)));
    }
    line
}
