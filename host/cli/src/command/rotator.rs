//! Rotators on the command line: loading them into a host, and `claviger secret rotate NAME --with MANIFEST`. What a rotation does and
//! decides is the broker's.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use claviger::{Host, Manifest};
use claviger_broker::LocalBroker;
use claviger_broker::local::{OldVersion, Replaced, SecretRotation, Withdrawal, WithdrawalEnd};
use claviger_broker::operator::{Command as Order, LifeCommand, Reply, RotatedSecret};
use claviger_core::{SecretName, name::nearest};

use crate::command::run::{Lines, build_host, serve_control};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::manifest::ManifestFile;
use crate::operate::{order_after, unexpected};
use crate::output::shown;
use crate::overview;
use crate::progress;

/// A rotator's manifest and component, read.
pub(crate) struct RotatorFile {
    pub(crate) file: ManifestFile,
    manifest: Manifest,
    secret: SecretName,
    component: Vec<u8>,
}

impl RotatorFile {
    /// Reads them, to act on them.
    fn read(cx: &Context, path: &Path) -> Result<Self, Failure> {
        let file = ManifestFile::read_to_obey(path)?;
        // Warnings are for `claviger check`.
        let (manifest, _) = file.parse(&cx.out)?;
        let Some(rotates) = &manifest.rotates else {
            return Err(Failure::failed(format!(
                "the manifest `{}` is no rotator's: it has no `[rotates]`",
                path.display()
            ))
            .help("`claviger run` runs an agent; examples/openbao-rotator shows a rotator"));
        };
        let secret = rotates.secret.clone();
        let component = file.component(&manifest)?;
        Ok(Self {
            file,
            manifest,
            secret,
            component,
        })
    }
}

/// Reads rotators, each for a secret of its own.
pub(crate) fn read(cx: &Context, paths: &[PathBuf]) -> Result<Vec<RotatorFile>, Failure> {
    let mut all: Vec<RotatorFile> = Vec::new();
    for path in paths {
        let one = RotatorFile::read(cx, path)?;
        if let Some(other) = all.iter().find(|other| other.secret == one.secret) {
            return Err(Failure::usage(format!(
                "`{}` and `{}` both rotate secret `{}`; expected one",
                other.file.path.display(),
                path.display(),
                one.secret
            )));
        }
        all.push(one);
    }
    Ok(all)
}

/// The secrets that they are for.
pub(crate) fn secrets(files: &[RotatorFile]) -> Vec<SecretName> {
    files.iter().map(|one| one.secret.clone()).collect()
}

/// Has them admitted, compiled and linked, and gives them to the broker.
pub(crate) async fn load(
    cx: &Context,
    broker: &Arc<LocalBroker>,
    host: &Host,
    files: &[RotatorFile],
) -> Result<(), Failure> {
    for one in files {
        let loading = host.load_rotator(&one.manifest, one.file.folder(), &one.component);
        let rotator = progress::during(&cx.out, "compiling the rotator", loading).await?;
        let rotator = if cx.out.is_json() {
            rotator
        } else {
            rotator.output(Lines::new(&one.manifest.agent.name).sink())
        };
        broker.add_rotator(Arc::new(rotator));
    }
    Ok(())
}

/// Has a command done that needs rotators: by a running host with its own, or else here with these.
pub(crate) fn order_with(
    cx: &Context,
    command: LifeCommand,
    files: &[RotatorFile],
) -> Result<Reply, Failure> {
    order_after(cx, Order::Life(command), async |broker| {
        if files.is_empty() {
            return Ok(());
        }
        // A use that waits for an approval waits for a command of an operator, and so does a revocation.
        serve_control(cx, broker);
        let manifests = files.iter().map(|one| one.file.path.as_path());
        let host = build_host(cx, broker, manifests)?;
        load(cx, broker, &host, files).await
    })
}

pub(crate) fn rotate(cx: &Context, name: SecretName, manifest: &Path) -> Result<Exit, Failure> {
    let files = read(cx, &[manifest.to_owned()])?;
    if let Some(one) = files.iter().find(|one| one.secret != name) {
        let failure = Failure::usage(format!(
            "`{}` rotates secret `{}`, not `{name}`",
            manifest.display(),
            one.secret
        ));
        return Err(match nearest(name.as_str(), [one.secret.as_str()]) {
            Some(near) => failure.help(format!("did you mean `{near}`?")),
            None => failure,
        });
    }
    let rotation = match order_with(cx, LifeCommand::RotateSecret { name }, &files)? {
        Reply::SecretRotated(rotation) => rotation,
        Reply::Done { .. }
        | Reply::Keys(_)
        | Reply::Secrets(_)
        | Reply::Rotated { .. }
        | Reply::Text(_)
        | Reply::BackedUp(_)
        | Reply::Status(_)
        | Reply::Approvals(_)
        | Reply::Approval(_) => return Err(unexpected()),
    };
    cx.out.value(&rotation, |rotation| shown(&in_words(rotation)));
    remind(cx, &rotation);
    Ok(exit_of(&rotation.withdrawn))
}

/// What came of a secret that has a rotator, for `claviger rotate --due`.
pub(crate) fn tell(cx: &Context, done: &RotatedSecret) -> Exit {
    cx.out.value(done, |done| {
        let text = match (&done.rotation, &done.problem) {
            (Some(rotation), _) => in_words(rotation),
            (None, Some(problem)) => format!("{} not rotated: {problem}", done.secret),
            (None, None) => done
                .withdrawn
                .iter()
                .map(withdrawn)
                .collect::<Vec<_>>()
                .join("\n"),
        };
        shown(&text)
    });
    if let Some(rotation) = &done.rotation {
        remind(cx, rotation);
    }
    let withdrawn = done
        .rotation
        .as_ref()
        .map_or(&done.withdrawn, |done| &done.withdrawn);
    match &done.problem {
        Some(_) => Exit::Failed,
        None => exit_of(withdrawn),
    }
}

/// Whether something is good at its provider that should not be.
fn exit_of(all: &[Withdrawal]) -> Exit {
    if all.iter().any(Withdrawal::has_failed) {
        Exit::Failed
    } else {
        Exit::Done
    }
}

fn in_words(rotation: &SecretRotation) -> String {
    let mut lines = vec![match rotation.expires {
        Some(expires) => format!("{} is in use, until {expires:.0}", rotation.new),
        None => format!("{} is in use", rotation.new),
    }];
    if let OldVersion {
        secret,
        becomes: Replaced::Later { after },
    } = &rotation.old
    {
        lines.push(format!(
            "{secret} is withdrawn after {}",
            overview::minute(Some(*after))
        ));
    }
    lines.extend(rotation.withdrawn.iter().map(withdrawn));
    lines.join("\n")
}

fn withdrawn(one: &Withdrawal) -> String {
    let Withdrawal { secret, id, end } = one;
    match end {
        WithdrawalEnd::Refused => format!("{secret} ({id}) is withdrawn; its provider refuses it"),
        WithdrawalEnd::NotSeen => format!("{secret} ({id}) is withdrawn; it was not tried again"),
        WithdrawalEnd::StillTaken => {
            format!("{secret} ({id}) is withdrawn, and its provider takes it all the same: revoke it there")
        }
        WithdrawalEnd::Failed(why) => {
            format!("{secret} ({id}) is not withdrawn, the next rotation tries again: {why}")
        }
    }
}

/// What an operator has to do by hand.
fn remind(cx: &Context, rotation: &SecretRotation) {
    if let OldVersion {
        secret,
        becomes: Replaced::ByHand,
    } = &rotation.old
    {
        cx.out.warn(&format!(
            "nobody told what its provider calls {secret}: revoke it there by hand"
        ));
    }
}
