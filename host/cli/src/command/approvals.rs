//! `claviger approvals`, `approve` and `deny`: what waits in a running host for an operator, and the answer. Decides nothing: the host does.

use claviger_broker::local::PendingApproval;
use claviger_broker::operator::{Command, Reply};
use claviger_core::approval::ApprovalId;

use crate::args::{Approvals, Approve, Deny};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::operate::{done, order_host, unexpected};
use crate::output::columns;
use crate::question;

pub(crate) fn list(cx: &Context, args: &Approvals) -> Result<Exit, Failure> {
    match args.id {
        Some(id) => show(cx, id),
        None => list_all(cx),
    }
}

fn show(cx: &Context, id: ApprovalId) -> Result<Exit, Failure> {
    let Reply::Approval(question) = order_host(cx, &Command::ShowApproval { id })? else {
        return Err(unexpected());
    };
    cx.out.value(&*question, question::shown_whole);
    Ok(Exit::Done)
}

fn list_all(cx: &Context) -> Result<Exit, Failure> {
    let Reply::Approvals(all) = order_host(cx, &Command::Approvals)? else {
        return Err(unexpected());
    };
    if cx.out.is_json() {
        for one in &all {
            cx.out.value(one, |_| String::new());
        }
        return Ok(Exit::Done);
    }
    if all.is_empty() {
        cx.out.note("nothing waits for an approval");
        return Ok(Exit::Done);
    }
    let mut rows = vec![
        ["ID", "AGENT", "GRANT", "ASKS TO", "BYTES", "UNTIL"]
            .map(str::to_owned)
            .to_vec(),
    ];
    rows.extend(all.iter().map(row));
    cx.out.line(&columns(&rows));
    cx.out.note("`claviger approvals ID` shows what would be done; `claviger approve ID` and `claviger deny ID` answer");
    Ok(Exit::Done)
}

fn row(one: &PendingApproval) -> Vec<String> {
    // The host's words, which came over a socket.
    let kind = claviger_core::name::escape(&one.kind, 16);
    vec![
        one.id.to_string(),
        one.agent.to_string(),
        one.grant.to_string(),
        kind,
        one.size.to_string(),
        format!("{:.0}", one.expires),
    ]
}

pub(crate) fn approve(cx: &Context, args: &Approve) -> Result<Exit, Failure> {
    done(cx, order_host(cx, &Command::Approve { id: args.id })?)?;
    Ok(say(cx, args.id, "approved"))
}

pub(crate) fn deny(cx: &Context, args: &Deny) -> Result<Exit, Failure> {
    let command = Command::Deny {
        id: args.id,
        reason: args.reason.clone(),
    };
    done(cx, order_host(cx, &command)?)?;
    Ok(say(cx, args.id, "denied"))
}

fn say(cx: &Context, id: ApprovalId, state: &str) -> Exit {
    let json = serde_json::json!({ "id": id, "state": state });
    cx.out.value(&json, |_| format!("approval `{id}` is {state}"));
    Exit::Done
}
