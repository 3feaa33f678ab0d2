//! `claviger panic`: stops all use of every credential at once, and lets it go on again. Revokes nothing.

use claviger_broker::operator::Command;

use crate::args::Panic;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::operate::{done, order};

pub(crate) fn run(cx: &Context, args: &Panic) -> Result<Exit, Failure> {
    let (command, text) = if args.lift {
        (
            Command::LiftPanic,
            "credentials can be used again; what was suspended, disabled or revoked by itself stays so",
        )
    } else {
        (
            Command::Panic,
            "all use of every credential is stopped, also after a restart, until `claviger panic --lift`",
        )
    };
    done(cx, order(cx, command, None)?)?;
    let json = serde_json::json!({ "panic": !args.lift });
    cx.out.value(&json, |_| text.to_owned());
    Ok(Exit::Done)
}
