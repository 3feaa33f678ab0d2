//! What the driver process does to the lives of credentials while a test kills it: one change after the other, each said when it is done.
//! Not a test: the test knows what each change leaves.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail};
use claviger_broker::LocalBroker;
use claviger_broker::audit::Durability;
use claviger_broker::keyring::{LifeEvent, SecretReplacement, Start};
use claviger_broker::local::{Options, Rotation, SecretCreation};
use claviger_core::http::InjectionKind;
use claviger_core::{KeyRef, KeyVersion, Secret};

use crate::driver::say;
use crate::vault::{PASSPHRASE, named, sealer};

/// One change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The key gets its second version.
    Rotate,
    /// The third waits.
    Stage,
    /// The third is used.
    Promote,
    /// It is out of use.
    Disable,
    /// It is back.
    Enable,
    /// The first is revoked.
    Revoke,
    /// All are revoked, and the fourth is used.
    Compromise,
    /// The secret gets its second value.
    Replace,
    /// The third waits.
    StageValue,
    /// The third is used.
    PromoteValue,
    /// Both values are revoked.
    CompromiseValue,
    /// The fourth is used.
    ReplaceCompromised,
    /// The key is deleted.
    Remove,
    /// It is back.
    Restore,
    /// It is deleted.
    RemoveAgain,
    /// Its material is gone.
    Purge,
    /// The secret is deleted.
    RemoveValue,
    /// Its values are gone.
    PurgeValue,
}

/// All changes, in an order in which each can be made.
pub const CHANGES: [Change; 18] = [
    Change::Rotate,
    Change::Stage,
    Change::Promote,
    Change::Disable,
    Change::Enable,
    Change::Revoke,
    Change::Compromise,
    Change::Replace,
    Change::StageValue,
    Change::PromoteValue,
    Change::CompromiseValue,
    Change::ReplaceCompromised,
    Change::Remove,
    Change::Restore,
    Change::RemoveAgain,
    Change::Purge,
    Change::RemoveValue,
    Change::PurgeValue,
];

/// The secret that is changed beside the key `notes`.
///
/// # Errors
/// When it is not added.
pub async fn add_token(broker: &LocalBroker) -> anyhow::Result<()> {
    let creation = SecretCreation {
        name: named("token"),
        kind: InjectionKind::Bearer,
        origin: "https://api.test".parse()?,
        expires: None,
        rotate_every: None,
        value: value("the-first-value")?,
    };
    broker.add_secret(creation).await?;
    Ok(())
}

/// Makes one change.
///
/// # Errors
/// When it cannot be made.
pub async fn make(broker: &LocalBroker, change: Change) -> anyhow::Result<()> {
    let (key, token) = (named("notes"), named("token"));
    let version = |version| KeyRef {
        name: named("notes"),
        version: KeyVersion(version),
    };
    match change {
        Change::Rotate => drop(broker.rotate_key(&key, Rotation::default()).await?),
        Change::Stage => {
            let rotation = Rotation {
                start: Start::Staged,
                ..Rotation::default()
            };
            broker.rotate_key(&key, rotation).await?;
        }
        Change::Promote => drop(broker.promote_key(&key).await?),
        Change::Disable => drop(broker.step_key(&version(3), &LifeEvent::Disable(None)).await?),
        Change::Enable => drop(broker.step_key(&version(3), &LifeEvent::Enable).await?),
        Change::Revoke => drop(broker.step_key(&version(1), &LifeEvent::Revoke(None)).await?),
        Change::Compromise => drop(broker.compromise_key(&key, None, None).await?),
        Change::Replace => drop(broker.replace_secret(replacement("the-second-value")?).await?),
        Change::StageValue => drop(broker.stage_secret(replacement("the-third-value")?).await?),
        Change::PromoteValue => drop(broker.promote_secret(&token).await?),
        Change::CompromiseValue => drop(broker.compromise_secret(&token, None, None).await?),
        Change::ReplaceCompromised => drop(broker.replace_secret(replacement("the-fourth-value")?).await?),
        Change::Remove | Change::RemoveAgain => drop(broker.delete_key(&key, Duration::ZERO).await?),
        Change::Restore => drop(broker.restore_key(&key).await?),
        Change::Purge => drop(broker.purge_key(&key).await?),
        Change::RemoveValue => drop(broker.delete_secret(&token, Duration::ZERO).await?),
        Change::PurgeValue => drop(broker.purge_secret(&token).await?),
    }
    Ok(())
}

/// What one change leaves if it is killed when it has begun and not finished: a key that is revoked and not replaced. Nothing of other
/// changes, which are one step.
#[must_use]
pub fn begun(change: Change, before: &BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    if change != Change::Compromise {
        return None;
    }
    let mut after = before.clone();
    for (_, state) in after.iter_mut().filter(|(name, _)| name.starts_with("key ")) {
        *state = "revoked".to_owned();
    }
    Some(after)
}

/// The state of every version of everything, by its name.
#[must_use]
pub fn standings(broker: &LocalBroker) -> BTreeMap<String, String> {
    let keyring = broker.keyring();
    let keys = keyring
        .keys()
        .into_iter()
        .map(|record| (format!("key {}", record.key), record.standing().to_owned()));
    let secrets = keyring
        .secrets()
        .into_iter()
        .map(|record| (format!("secret {}", record.secret), record.standing().to_owned()));
    keys.chain(secrets).collect()
}

/// `FOLDER`: opens the keyring, makes every change, and closes it.
///
/// # Errors
/// When anything fails.
pub async fn live(words: &[String]) -> anyhow::Result<()> {
    let [folder] = words else {
        bail!("expected a folder")
    };
    say("starting");
    let options = Options::new(folder, sealer(PASSPHRASE)).durability(Durability::Process);
    let broker = LocalBroker::open(options).await.context("open")?;
    for (number, change) in CHANGES.into_iter().enumerate() {
        make(&broker, change)
            .await
            .with_context(|| format!("{change:?}"))?;
        say(&format!("done {number}"));
    }
    broker.close().await.context("close")?;
    say("closed");
    Ok(())
}

fn replacement(text: &str) -> anyhow::Result<SecretReplacement> {
    Ok(SecretReplacement {
        name: named("token"),
        of: None,
        expires: None,
        rotate_every: None,
        value: value(text)?,
    })
}

fn value(text: &str) -> anyhow::Result<Secret> {
    Ok(Secret::take(&mut text.as_bytes().to_vec())?)
}
