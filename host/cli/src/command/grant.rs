//! `claviger grant …`: what the log says of grants, and an operator's decision to suspend or resume one. Changes no manifest.

use claviger_broker::ledger::{GrantState, Stopped};
use claviger_broker::operator::Command;

use crate::args::{Grant, GrantName};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::log;
use crate::operate::{done, order};
use crate::output::{columns, shown};

pub(crate) fn run(cx: &Context, args: Grant) -> Result<Exit, Failure> {
    match args {
        Grant::List => list(cx),
        Grant::Suspend(name) => suspend(cx, &name),
        Grant::Resume(name) => resume(cx, &name),
        Grant::Proposals => proposals(cx),
        Grant::Dismiss(name) => dismiss(cx, &name),
    }
}

/// What agents ask for. Nothing of it is granted: the lines are for whoever writes the manifest.
fn proposals(cx: &Context) -> Result<Exit, Failure> {
    let ledger = log::ledger(cx)?;
    let mut any = false;
    for (agent, grant, proposal) in ledger.proposals() {
        any = true;
        let json = serde_json::json!({
            "agent": agent,
            "grant": grant,
            "time": proposal.time,
            "wish": proposal.wish,
            "lines": proposal.wish.lines(grant),
            "reason": proposal.reason,
        });
        cx.out.value(&json, |_| {
            // The log's words, whoever wrote it.
            let reason = shown(&proposal.reason).replace('\n', "\\u{a}");
            let lines = shown(&proposal.wish.lines(grant));
            format!("# agent `{agent}`, {}, because: {reason}\n{lines}", proposal.time)
        });
    }
    if !any {
        cx.out.note("no agent asks for a grant");
    }
    Ok(Exit::Done)
}

fn dismiss(cx: &Context, name: &GrantName) -> Result<Exit, Failure> {
    let command = Command::DismissProposal {
        agent: name.agent.clone(),
        grant: name.grant.clone(),
    };
    done(cx, order(cx, command, None)?)?;
    let json = serde_json::json!({ "agent": name.agent, "grant": name.grant, "state": "dismissed" });
    cx.out.value(&json, |_| {
        format!("proposal `{}` of agent `{}` is put aside", name.grant, name.agent)
    });
    Ok(Exit::Done)
}

fn list(cx: &Context) -> Result<Exit, Failure> {
    let ledger = log::ledger(cx)?;
    let mut grants: Vec<_> = ledger.grants().collect();
    grants.sort_by_key(|(agent, grant, _)| (*agent, *grant));
    if cx.out.is_json() {
        for (agent, grant, state) in grants {
            let json = serde_json::json!({
                "agent": agent,
                "grant": grant,
                "uses": state.uses,
                "suspended": state.suspended,
                "stopped": state.stopped,
                "rate_until": state.rate_until,
            });
            cx.out.value(&json, |_| String::new());
        }
        return Ok(Exit::Done);
    }
    if grants.is_empty() {
        cx.out.note(
            "the audit log knows no use of a grant; `claviger check MANIFEST` shows what a manifest grants",
        );
        return Ok(Exit::Done);
    }
    let mut rows = vec![["AGENT", "GRANT", "USES", "STATE"].map(str::to_owned).to_vec()];
    rows.extend(grants.iter().map(|(agent, grant, state)| {
        vec![
            agent.to_string(),
            grant.to_string(),
            state.uses.to_string(),
            word(state).to_owned(),
        ]
    }));
    cx.out.line(&columns(&rows));
    Ok(Exit::Done)
}

const fn word(state: &GrantState) -> &'static str {
    match (state.suspended, state.stopped) {
        (true, _) => "suspended",
        (false, Some(Stopped::Agent)) => "suspended with its agent",
        (false, Some(Stopped::Everything)) => "stopped by panic",
        (false, None) => "in force",
    }
}

fn suspend(cx: &Context, name: &GrantName) -> Result<Exit, Failure> {
    let command = Command::SuspendGrant {
        agent: name.agent.clone(),
        grant: name.grant.clone(),
    };
    done(cx, order(cx, command, None)?)?;
    say(cx, name, "suspended");
    Ok(Exit::Done)
}

fn resume(cx: &Context, name: &GrantName) -> Result<Exit, Failure> {
    let command = Command::ResumeGrant {
        agent: name.agent.clone(),
        grant: name.grant.clone(),
    };
    done(cx, order(cx, command, None)?)?;
    say(cx, name, "resumed");
    Ok(Exit::Done)
}

fn say(cx: &Context, name: &GrantName, state: &str) {
    let json = serde_json::json!({ "agent": name.agent, "grant": name.grant, "state": state });
    cx.out.value(&json, |_| {
        format!("grant `{}` of agent `{}` is {state}", name.grant, name.agent)
    });
}
