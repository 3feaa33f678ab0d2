//! `claviger grant …`: what the log says of grants, and an operator's decision to suspend or resume one. Changes no manifest.

use claviger_broker::LocalBroker;
use claviger_core::name::nearest;
use claviger_core::{AgentName, GrantAlias};

use crate::args::{Grant, GrantName};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::log;
use crate::output::columns;
use crate::unlock::with_broker;

pub(crate) fn run(cx: &Context, args: Grant) -> Result<Exit, Failure> {
    match args {
        Grant::List => list(cx),
        Grant::Suspend(name) => suspend(cx, &name),
        Grant::Resume(name) => resume(cx, &name),
    }
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
        let word = if state.suspended { "suspended" } else { "in force" };
        vec![
            agent.to_string(),
            grant.to_string(),
            state.uses.to_string(),
            word.to_owned(),
        ]
    }));
    cx.out.line(&columns(&rows));
    Ok(Exit::Done)
}

fn suspend(cx: &Context, name: &GrantName) -> Result<Exit, Failure> {
    with_broker(cx, async |broker| {
        if let Some(hint) = unknown(broker, &name.agent, &name.grant) {
            cx.out.warn(&hint);
        }
        Ok(broker.suspend(&name.agent, &name.grant).await?)
    })?;
    say(cx, name, "suspended");
    Ok(Exit::Done)
}

fn resume(cx: &Context, name: &GrantName) -> Result<Exit, Failure> {
    let was_suspended = with_broker(cx, async |broker| {
        let suspended = broker.snapshot().grant(&name.agent, &name.grant).suspended;
        if suspended {
            broker.resume(&name.agent, &name.grant).await?;
        }
        Ok(suspended)
    })?;
    if !was_suspended {
        return Err(Failure::failed(format!(
            "grant `{}` of agent `{}` is not suspended",
            name.grant, name.agent
        ))
        .help("`claviger grant list` shows the grants and their states"));
    }
    say(cx, name, "resumed");
    Ok(Exit::Done)
}

fn say(cx: &Context, name: &GrantName, state: &str) {
    let json = serde_json::json!({ "agent": name.agent, "grant": name.grant, "state": state });
    cx.out.value(&json, |_| {
        format!("grant `{}` of agent `{}` is {state}", name.grant, name.agent)
    });
}

/// A word of warning if the log never saw this grant: a misspelt name would suspend nothing.
fn unknown(broker: &LocalBroker, agent: &AgentName, grant: &GrantAlias) -> Option<String> {
    let ledger = broker.snapshot();
    let known: Vec<_> = ledger
        .grants()
        .map(|(agent, grant, _)| format!("{agent} {grant}"))
        .collect();
    let asked = format!("{agent} {grant}");
    if known.contains(&asked) {
        return None;
    }
    let near = nearest(&asked, known.iter().map(String::as_str));
    let hint = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
    Some(format!(
        "the audit log knows no use of grant `{grant}` by agent `{agent}`{hint}"
    ))
}
