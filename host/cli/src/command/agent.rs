//! `claviger agent …`: what the log says of agents, and an operator's decision to suspend or resume one as a whole. Changes no manifest.

use std::collections::BTreeMap;

use claviger_broker::operator::Command;
use claviger_core::AgentName;

use crate::args::Agent;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::log;
use crate::operate::{done, order};
use crate::output::columns;

pub(crate) fn run(cx: &Context, args: Agent) -> Result<Exit, Failure> {
    match args {
        Agent::List => list(cx),
        Agent::Suspend { name } => {
            let agent = name.clone();
            done(cx, order(cx, Command::SuspendAgent { agent }, None)?)?;
            Ok(say(cx, &name, "suspended"))
        }
        Agent::Resume { name } => {
            let agent = name.clone();
            done(cx, order(cx, Command::ResumeAgent { agent }, None)?)?;
            Ok(say(cx, &name, "resumed"))
        }
    }
}

fn list(cx: &Context) -> Result<Exit, Failure> {
    let ledger = log::ledger(cx)?;
    let mut agents: BTreeMap<_, (u64, bool)> = BTreeMap::new();
    for (agent, _, state) in ledger.grants() {
        let (uses, _) = agents.entry(agent).or_default();
        *uses = uses.saturating_add(state.uses);
    }
    for agent in ledger.suspended_agents() {
        agents.entry(agent).or_default().1 = true;
    }
    let word = |suspended| match (ledger.in_panic(), suspended) {
        (_, true) => "suspended",
        (true, false) => "stopped by panic",
        (false, false) => "in force",
    };
    if cx.out.is_json() {
        for (agent, (uses, suspended)) in agents {
            let json = serde_json::json!({
                "agent": agent,
                "uses": uses,
                "suspended": suspended,
                "panic": ledger.in_panic(),
            });
            cx.out.value(&json, |_| String::new());
        }
        return Ok(Exit::Done);
    }
    if agents.is_empty() {
        cx.out.note("the audit log knows no use by an agent");
        return Ok(Exit::Done);
    }
    let mut rows = vec![["AGENT", "USES", "STATE"].map(str::to_owned).to_vec()];
    rows.extend(agents.iter().map(|(agent, (uses, suspended))| {
        vec![agent.to_string(), uses.to_string(), word(*suspended).to_owned()]
    }));
    cx.out.line(&columns(&rows));
    Ok(Exit::Done)
}

fn say(cx: &Context, agent: &AgentName, state: &str) -> Exit {
    let json = serde_json::json!({ "agent": agent, "state": state });
    cx.out.value(&json, |_| format!("agent `{agent}` is {state}"));
    Exit::Done
}
