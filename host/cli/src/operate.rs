//! Has an operator's command done: by the running host that has the keyring open, over its socket, or else here. Both ways it is the same
//! command, done by the same function.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use claviger_broker::LocalBroker;
use claviger_broker::keyring::Keyring;
use claviger_broker::operator::{
    Client, ClientError, Command, CommandError, Fault, LifeCommand, Problem, Reply,
};
use claviger_core::Secret;

use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::interruption::Interruption;
use crate::progress;
use crate::unlock::{PATIENCE, runtime, with_broker};

/// Has it done, with the value that goes beside it if it takes one. Where a host does it, no passphrase is asked for.
pub(crate) fn order(cx: &Context, command: Command, value: Option<Secret>) -> Result<Reply, Failure> {
    done_after(cx, command, value, None, async |_| Ok(()))
}

/// As [`order`], of a command that gives a file.
pub(crate) fn order_into(cx: &Context, command: Command, file: &File) -> Result<Reply, Failure> {
    done_after(cx, command, None, Some(file), async |_| Ok(()))
}

/// As [`order`]; where no host does it, the broker is prepared for it first.
pub(crate) fn order_after(
    cx: &Context,
    command: Command,
    prepare: impl AsyncFnOnce(&Arc<LocalBroker>) -> Result<(), Failure>,
) -> Result<Reply, Failure> {
    done_after(cx, command, None, None, prepare)
}

fn done_after(
    cx: &Context,
    command: Command,
    value: Option<Secret>,
    file: Option<&File>,
    prepare: impl AsyncFnOnce(&Arc<LocalBroker>) -> Result<(), Failure>,
) -> Result<Reply, Failure> {
    let folder = cx.keyring()?;
    // Says how to make a keyring, if there is none.
    drop(Keyring::peek(&folder)?);
    if let Some(reply) = ask(cx, &folder, &command, value.as_ref(), file)? {
        return Ok(reply);
    }
    let text = words(&command);
    let mut order = Some((command, value));
    let done = with_broker(cx, async |broker| {
        prepare(broker).await?;
        let (command, value) = order
            .take()
            .ok_or_else(|| Failure::failed("the command was done already"))?;
        let mut file = file;
        let file = file.as_mut().map(|file| file as &mut (dyn Write + Send));
        Ok(progress::during(&cx.out, text, broker.command_into(command, value, file)).await?)
    });
    match (done, order) {
        // A host may have been faster to open the keyring.
        (Err(failure), Some((command, value))) => {
            ask(cx, &folder, &command, value.as_ref(), file)?.ok_or(failure)
        }
        (done, _) => done,
    }
}

/// As [`order`], of what only a running host can do: nothing else has uses that wait.
pub(crate) fn order_host(cx: &Context, command: &Command) -> Result<Reply, Failure> {
    let folder = cx.keyring()?;
    drop(Keyring::peek(&folder)?);
    ask(cx, &folder, command, None, None)?.ok_or_else(|| {
        Failure::failed("no running host has this keyring open, so nothing waits for an approval")
            .help("`claviger audit tail` shows what was asked, and what came of it")
    })
}

/// Asks the running host, if there is one.
fn ask(
    cx: &Context,
    folder: &Path,
    command: &Command,
    value: Option<&Secret>,
    mut file: Option<&File>,
) -> Result<Option<Reply>, Failure> {
    let runtime = runtime()?;
    let asked = runtime.block_on(async {
        let host = match Client::connect(folder).await {
            Ok(host) => host,
            Err(ClientError::NoHost) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let pid = host.pid();
        let mut interruption = Interruption::new()?;
        let file = file.as_mut().map(|file| file as &mut (dyn Write + Send));
        let asking = host.command_into(command, value, file);
        let asking = progress::during(&cx.out, "asking the running host", asking);
        let reply = tokio::select! {
            reply = asking => reply?,
            signal = interruption.next() => {
                return Err(signal.stopped().help("the running host may do it all the same"));
            }
        };
        cx.out.note(&format!("the running host, process {pid}, did it"));
        Ok(Some(reply))
    });
    runtime.shutdown_timeout(PATIENCE);
    asked
}

/// What is going on, if it takes long.
const fn words(command: &Command) -> &'static str {
    match command {
        Command::CreateKey { .. } => "making the key",
        Command::Life(LifeCommand::RotateSecret { .. }) => "replacing the secret",
        Command::Life(_) => "changing the keyring",
        Command::ImportKey { .. } => "importing the key",
        Command::RequestCertificate { .. } => "signing the request",
        Command::BackUp { .. } => "writing the backup",
        Command::Status
        | Command::SuspendGrant { .. }
        | Command::ResumeGrant { .. }
        | Command::SuspendAgent { .. }
        | Command::ResumeAgent { .. }
        | Command::Panic
        | Command::LiftPanic
        | Command::ChangeKey { .. }
        | Command::AddSecret { .. }
        | Command::ReplaceSecret { .. }
        | Command::StageSecret { .. }
        | Command::ChangeSecret { .. }
        | Command::DestroySecret { .. }
        | Command::Approvals
        | Command::ShowApproval { .. }
        | Command::Approve { .. }
        | Command::Deny { .. }
        | Command::DismissProposal { .. }
        | Command::Checkpoint
        | Command::AcceptClock => "writing the audit log",
    }
}

/// A reply of another kind than the command has.
pub(crate) fn unexpected() -> Failure {
    Failure::failed("the running host answered something else than it was asked")
        .help("use the command of the host's version; `claviger audit tail` shows what was done")
}

/// Done, with a word of warning if there is one.
pub(crate) fn done(cx: &Context, reply: Reply) -> Result<(), Failure> {
    match reply {
        Reply::Done { warning } => {
            if let Some(warning) = warning {
                cx.out.warn(&warning);
            }
            Ok(())
        }
        Reply::Keys(_)
        | Reply::Secrets(_)
        | Reply::Text(_)
        | Reply::Status(_)
        | Reply::Approvals(_)
        | Reply::Rotated { .. }
        | Reply::SecretRotated(_)
        | Reply::BackedUp(_)
        | Reply::Approval(_) => Err(unexpected()),
    }
}

/// The text that was made.
pub(crate) fn text(reply: Reply) -> Result<String, Failure> {
    match reply {
        Reply::Text(text) => Ok(text),
        Reply::Done { .. }
        | Reply::Keys(_)
        | Reply::Secrets(_)
        | Reply::Status(_)
        | Reply::Approvals(_)
        | Reply::Rotated { .. }
        | Reply::SecretRotated(_)
        | Reply::BackedUp(_)
        | Reply::Approval(_) => Err(unexpected()),
    }
}

impl From<CommandError> for Failure {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Key(error) => error.into(),
            CommandError::Secret(error) => error.into(),
            CommandError::Certificate(error) => error.into(),
            CommandError::Audit(error) => error.into(),
            CommandError::Backup(error) => error.into(),
            other => Self::from(Problem::from(&other)),
        }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let exit = match problem.fault {
            Fault::Failed => Exit::Failed,
            Fault::Usage => Exit::Usage,
            Fault::Denied => Exit::Denied,
            Fault::AuditUnavailable => Exit::AuditUnavailable,
            Fault::Integrity => Exit::Integrity,
        };
        let mut failure = Self::new(exit, problem.message);
        failure.causes = problem.causes;
        failure
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Keyring(error) => error.into(),
            ClientError::Refused(problem) => problem.into(),
            ClientError::Lost => Self::of(Exit::Failed, &ClientError::Lost)
                .help("`claviger audit tail` shows what was done; to do it again harms nothing"),
            ClientError::Protocol { .. } => {
                Self::of(Exit::Failed, &error).help("use the command of the host's version, or stop the host")
            }
            other => Self::of(Exit::Failed, &other),
        }
    }
}
