//! Restores a backup into a keyring: looks at all of it first, and then writes item by item, each in one transaction and each on the log.
//! What is there already stays as it is, so that a restore that was interrupted is simply done again. Not the backup's format.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek};
use std::sync::Arc;

use claviger_core::audit::Event;
use claviger_core::custody::{Assurance, CustodyError, CustodyKind};
use claviger_core::name::escape;
use claviger_core::{AuditError, KeyAlgorithm, KeyIdentity, KeyName, KeyRef, Secret};
use jiff::Timestamp;

use super::LocalBroker;
use super::act::{Act, who};
use super::backup::is_left_out;
use super::keys::created;
use super::secrets::added;
use crate::backup::{BackupError, Identity, Item, Reader};
use crate::custody::purpose_of;
use crate::keyring::{KeyRecord, KeySource, KeyState, KeyringError, SecretRecord, check_restored, has_use};

/// Problems are listed up to this many.
const MAX_PROBLEMS: usize = 16;

/// How to restore.
#[derive(Clone, Copy)]
pub struct Restoring<'a> {
    /// What may open the backup.
    pub identities: &'a [Identity],
    /// The verifier key of the audit log of the keyring that the backup must be of, if that was noted.
    pub of: Option<&'a str>,
    /// Whether something may be kept less hard than it was.
    pub weaken: bool,
    /// Who restores it.
    pub by: &'a str,
}

impl std::fmt::Debug for Restoring<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Restoring")
            .field("of", &self.of)
            .field("weaken", &self.weaken)
            .finish_non_exhaustive()
    }
}

/// What was restored.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Restored {
    /// When the backup was made.
    pub made: Timestamp,
    /// The verifier key of the audit log of its keyring, which signed it; escaped.
    pub of: String,
    /// The versions of keys that were restored.
    pub keys: Vec<Arc<KeyRecord>>,
    /// The versions of secrets that were restored.
    pub secrets: Vec<Arc<SecretRecord>>,
    /// How many versions were there already, and were left as they are.
    pub there: u64,
    /// Keys that lived in a TPM: they cannot be restored.
    pub lost: Vec<KeyRecord>,
}

/// Why a backup was not restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// It cannot be read.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The keyring has other credentials of the same names, or the backup has something that no keyring takes. Nothing was restored.
    #[error("nothing was restored: {}", .0.join("; "))]
    Conflict(Vec<String>),
    /// Something would be kept less hard than it was. Nothing was restored.
    #[error("nothing was restored: this keyring is `{to}`, and {}", .what.join(", "))]
    Weaker {
        /// How hard this keyring is.
        to: Assurance,
        /// What was harder.
        what: Vec<String>,
    },
    /// The custody failed. What was restored before stays.
    #[error("key `{key}` cannot be restored")]
    Key {
        /// Which.
        key: KeyRef,
        /// Why.
        #[source]
        source: CustodyError,
    },
    /// The keyring failed. What was restored before stays; nothing was if it is too full.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// The log cannot be written. What was restored before stays.
    #[error(transparent)]
    Audit(#[from] AuditError),
}

/// What is done about one item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// It is there already.
    There,
    /// It lived in a TPM.
    Lost,
    /// It is over, and so is all else that could be restored of a key that is lost: on record it would only keep the name.
    Left,
    /// It is written.
    Write,
}

/// What is done about all, by what tells each item from every other.
#[derive(Default)]
struct Plan {
    steps: Vec<([u8; 32], Step)>,
    keys: u64,
    secrets: u64,
    problems: Vec<String>,
    weaker: Vec<String>,
    // Of keys: whose version in use is lost, which have one that is here or comes, and where those stand that are over.
    lost: BTreeSet<KeyName>,
    living: BTreeSet<KeyName>,
    over: Vec<(usize, KeyName)>,
    // By the public half or identifier, which of the file's keys it is of.
    identities: BTreeMap<Vec<u8>, KeyRef>,
    // What stands against versions that are over, unless their key is lost anyway.
    doubtful: Vec<(KeyName, String)>,
}

impl Plan {
    /// Takes note of what is done about a version of a key.
    fn note_key(&mut self, record: &KeyRecord, step: Step) {
        let name = record.key.name.clone();
        match step {
            Step::Lost => drop(self.lost.insert(name)),
            Step::Write if !has_use(record.state) => self.over.push((self.steps.len(), name)),
            Step::There | Step::Write => drop(self.living.insert(name)),
            Step::Left => {}
        }
    }

    /// One key has one profile, in a file as in a keyring: whoever made the file may have given it two.
    fn refuse_twins(&mut self, record: &KeyRecord) {
        if record.state == KeyState::Destroyed {
            return;
        }
        let identity = record.identity.as_bytes().to_vec();
        if let Some(first) = self.identities.get(&identity) {
            self.problems.push(format!(
                "key `{}` is the same key as `{first}` in the backup",
                record.key
            ));
            return;
        }
        self.identities.insert(identity, record.key.clone());
    }

    /// A key that is lost as a whole is made anew under its name, so nothing of it is put there.
    fn leave_lost_names(&mut self) {
        let (lost, living) = (&self.lost, &self.living);
        let is_lost = |name: &KeyName| lost.contains(name) && !living.contains(name);
        let doubtful = std::mem::take(&mut self.doubtful);
        let problems = doubtful.into_iter().filter(|(name, _)| !is_lost(name));
        self.problems.extend(problems.map(|(_, problem)| problem));
        for (at, name) in &self.over {
            if !is_lost(name) {
                continue;
            }
            if let Some((_, step)) = self.steps.get_mut(*at) {
                *step = Step::Left;
                self.keys = self.keys.saturating_sub(1);
            }
        }
    }
}

impl LocalBroker {
    /// Restores what a backup holds, and seals it under this keyring's root and custody. Reads it twice: nothing is written before all of
    /// it was seen to be whole, signed, and in no conflict with what is here. Restoring the same again changes nothing.
    ///
    /// Dropping the future, or a crash, leaves a part restored, each item whole; restoring again completes it.
    ///
    /// # Errors
    /// When it cannot be read, is not of the keyring it should be of, contradicts what is here, or would be kept less hard than it was
    /// without leave; then nothing was changed. Or when custody, keyring or log fail; then what was restored before stays.
    pub async fn restore(
        &self,
        source: &mut (impl Read + Seek + Send),
        how: Restoring<'_>,
    ) -> Result<Restored, RestoreError> {
        self.agree(source, how.identities).await?;
        let mut reader = Reader::new(&mut *source, how.identities)?;
        let head = reader.head().clone();
        if let Some(of) = how.of.filter(|of| *of != head.vkey) {
            return Err(BackupError::Untrusted(format!(
                "it is of the keyring with the audit log `{}`, not of the one with `{}`",
                escape(&head.vkey, 200),
                escape(of, 200)
            ))
            .into());
        }
        let mut plan = Plan::default();
        let mut before: Option<Item> = None;
        while let Some((item, digest)) = reader.next()? {
            self.look_at(&item, before.as_ref(), digest, &mut plan)?;
            before = Some(without_value(item));
        }
        drop(reader);
        plan.leave_lost_names();
        if !plan.problems.is_empty() {
            return Err(RestoreError::Conflict(shortened(plan.problems)));
        }
        if plan.keys.saturating_add(plan.secrets) > self.keyring.room()? {
            return Err(KeyringError::Full.into());
        }
        if !how.weaken && !plan.weaker.is_empty() {
            return Err(RestoreError::Weaker {
                to: self.assurance,
                what: shortened(plan.weaker),
            });
        }
        source.rewind().map_err(|source| BackupError::Io {
            action: "read",
            source,
        })?;
        let reader = Reader::new(source, how.identities)?;
        let mut restored = Restored {
            made: head.made,
            of: escape(&head.vkey, 200),
            keys: Vec::new(),
            secrets: Vec::new(),
            there: 0,
            lost: Vec::new(),
        };
        if plan.keys == 0 && plan.secrets == 0 {
            // Nothing is done, so nothing is put on the log.
            self.write(reader, &plan, &mut restored).await?;
            return Ok(restored);
        }
        let act = Act::begin(
            self,
            Event::RestoreRequested {
                by: who(how.by),
                made: head.made,
                of: restored.of.clone(),
                keys: plan.keys,
                secrets: plan.secrets,
                weaken: how.weaken,
            },
        )
        .await?;
        let written = self.write(reader, &plan, &mut restored).await;
        act.end(written)?;
        Ok(restored)
    }

    /// Decides what is done about one item.
    fn look_at(
        &self,
        item: &Item,
        before: Option<&Item>,
        digest: [u8; 32],
        plan: &mut Plan,
    ) -> Result<(), RestoreError> {
        let step = match item {
            Item::Key(record, material) => {
                if !in_order(before, item) {
                    plan.problems
                        .push(format!("key `{}` is out of order in the backup", record.key));
                }
                plan.refuse_twins(record);
                let step = self.step_for_key(record, material.as_ref(), plan);
                plan.note_key(record, step);
                if step == Step::Write {
                    plan.keys = plan.keys.saturating_add(1);
                    if has_use(record.state) && record.assurance > self.assurance {
                        plan.weaker
                            .push(format!("key `{}` was `{}`", record.key, record.assurance));
                    }
                }
                step
            }
            Item::Secret(record, value) => {
                if !in_order(before, item) {
                    plan.problems.push(format!(
                        "secret `{}` is out of order in the backup",
                        record.secret
                    ));
                }
                let step = self.step_for_secret(record, value.as_ref(), plan)?;
                if step == Step::Write {
                    plan.secrets = plan.secrets.saturating_add(1);
                    if has_use(record.state) && record.assurance > self.assurance {
                        plan.weaker
                            .push(format!("secret `{}` was `{}`", record.secret, record.assurance));
                    }
                }
                step
            }
        };
        plan.steps.push((digest, step));
        Ok(())
    }

    fn step_for_key(&self, record: &KeyRecord, material: Option<&Secret>, plan: &mut Plan) -> Step {
        // Nothing is written, so nothing is in the way.
        if is_left_out(record) {
            return Step::Lost;
        }
        if let Some(here) = self.keyring.record(&record.key) {
            // What happened to it since is not undone.
            if here.identity == record.identity && here.profile == record.profile {
                return Step::There;
            }
            let problem = format!(
                "key `{}` is another one here: restore into a new keyring",
                record.key
            );
            if has_use(record.state) {
                plan.problems.push(problem);
            } else {
                plan.doubtful.push((record.key.name.clone(), problem));
            }
            return Step::Left;
        }
        let mut problem = |text: String| plan.problems.push(format!("key `{}` {text}", record.key));
        // One key has one profile: under another name it would have two, and what was revoked under one would be back under the other.
        let keys = self.keyring.keys();
        let is_over = |record: &KeyRecord| record.state == KeyState::Destroyed;
        let same = keys.iter().find(|here| {
            here.key.name != record.key.name && here.identity == record.identity && !is_over(here)
        });
        if let Some(same) = same.filter(|_| !is_over(record)) {
            problem(format!("is here already, as `{}`", same.key));
        }
        if let Some(active) = self.keyring.key(&record.key.name)
            && record.state == KeyState::Active
        {
            problem(format!("cannot be in use beside `{}`, which is here", active.key));
        }
        let newest = self
            .keyring
            .keys()
            .into_iter()
            .filter(|here| here.key.name == record.key.name)
            .max_by_key(|here| here.key.version);
        if let Some(newest) = newest.filter(|newest| newest.key.version > record.key.version) {
            problem(format!("cannot come after `{}`, which is here", newest.key));
        }
        match (has_use(record.state), material) {
            (true, Some(material)) => {
                if let Err(why) = fits(record, material) {
                    problem(why);
                }
            }
            (true, None) => problem("has no material in the backup".to_owned()),
            (false, Some(_)) => problem(format!("is {} and has material in the backup", record.state)),
            (false, None) => {}
        }
        Step::Write
    }

    fn step_for_secret(
        &self,
        record: &SecretRecord,
        value: Option<&Secret>,
        plan: &mut Plan,
    ) -> Result<Step, RestoreError> {
        let mut problem = |text: String| plan.problems.push(format!("secret `{}` {text}", record.secret));
        if let Some(here) = self.keyring.secret_record(&record.secret) {
            let same_value = match value {
                Some(value) if self.keyring.has_value(&here.secret)? => {
                    self.keyring.secret_material(&here.secret)?.equals(value.expose())
                }
                // Destroyed or retired since, or before.
                Some(_) | None => true,
            };
            if here.kind != record.kind || here.origin != record.origin || !same_value {
                problem("is another one here: restore into a new keyring".to_owned());
            }
            return Ok(Step::There);
        }
        if let Some(active) = self.keyring.secret(&record.secret.name)
            && record.state == KeyState::Active
        {
            problem(format!(
                "cannot be in use beside `{}`, which is here",
                active.secret
            ));
        }
        let newest = self
            .keyring
            .secrets()
            .into_iter()
            .filter(|here| here.secret.name == record.secret.name)
            .max_by_key(|here| here.secret.version);
        if let Some(newest) = newest.filter(|newest| newest.secret.version > record.secret.version) {
            problem(format!("cannot come after `{}`, which is here", newest.secret));
        }
        match value {
            Some(_) if !has_use(record.state) => {
                problem(format!("is {} and has a value in the backup", record.state));
            }
            Some(value) => {
                if let Err(why) = check_restored(record.kind, value) {
                    problem(format!("is none that a keyring takes: {why}"));
                }
            }
            None if record.state == KeyState::Active => problem("has no value in the backup".to_owned()),
            None => {}
        }
        Ok(Step::Write)
    }

    /// Does what the plan says, and only with the very items that the plan was made for.
    async fn write(
        &self,
        mut reader: Reader<impl Read + Send>,
        plan: &Plan,
        restored: &mut Restored,
    ) -> Result<(), RestoreError> {
        let mut steps = plan.steps.iter();
        while let Some((item, digest)) = reader.next()? {
            let step = match steps.next() {
                Some((planned, step)) if *planned == digest => *step,
                Some(_) | None => {
                    return Err(
                        BackupError::Untrusted("the file was changed while it was read".to_owned()).into(),
                    );
                }
            };
            match (step, item) {
                (Step::There, _) => restored.there = restored.there.saturating_add(1),
                (Step::Lost, Item::Key(record, _)) => restored.lost.push(*record),
                (Step::Lost, Item::Secret(..)) | (Step::Left, _) => {}
                (Step::Write, Item::Key(record, material)) => {
                    let record = self.write_key(*record, material).await?;
                    restored.keys.push(record);
                }
                (Step::Write, Item::Secret(record, value)) => {
                    let record = SecretRecord {
                        assurance: self.assurance,
                        updated: self.clock.now(),
                        ..*record
                    };
                    let record = self.keyring.restore_secret(record, value.as_ref())?;
                    self.append(added(&record)).await?;
                    if record.state != KeyState::Active {
                        self.append(self.secret_changed(&record)).await?;
                    }
                    restored.secrets.push(record);
                }
            }
        }
        Ok(())
    }

    async fn write_key(
        &self,
        record: KeyRecord,
        material: Option<Secret>,
    ) -> Result<Arc<KeyRecord>, RestoreError> {
        let sealed = self.custodies.contains_key(CustodyKind::TpmSealed.as_str());
        let custody = match record.custody {
            // Whoever has come so far has leave for it.
            CustodyKind::TpmSealed if !sealed => CustodyKind::Software,
            kind @ (CustodyKind::Tpm | CustodyKind::TpmSealed | CustodyKind::Software) => kind,
        };
        let material = match (custody, material) {
            (CustodyKind::TpmSealed, Some(seed)) => {
                let failed = |source| RestoreError::Key {
                    key: record.key.clone(),
                    source,
                };
                let sealed = self
                    .sealer
                    .seal(&purpose_of(&record.key, &record.identity), &seed)
                    .await;
                let mut sealed = sealed.map_err(failed)?;
                Some(Secret::take(&mut sealed).map_err(|error| failed(error.into()))?)
            }
            (CustodyKind::Tpm | CustodyKind::TpmSealed | CustodyKind::Software, material) => material,
        };
        let record = KeyRecord {
            custody,
            assurance: self.assurance,
            source: match record.source {
                // Whoever had it before may have it still, wherever else it has been since.
                KeySource::Imported => KeySource::Imported,
                KeySource::Generated | KeySource::Restored => KeySource::Restored,
            },
            updated: self.clock.now(),
            ..record
        };
        let record = self.keyring.restore_key(record, material.as_ref())?;
        self.append(created(&record)).await?;
        if record.state != KeyState::Active {
            self.append(self.key_changed(&record)).await?;
        }
        Ok(record)
    }
}

/// Keys by name and version, then secrets by name and version, none twice.
fn in_order(before: Option<&Item>, item: &Item) -> bool {
    match (before, item) {
        (None, _) | (Some(Item::Key(..)), Item::Secret(..)) => true,
        (Some(Item::Secret(..)), Item::Key(..)) => false,
        (Some(Item::Key(before, _)), Item::Key(record, _)) => {
            (&before.key.name, before.key.version) < (&record.key.name, record.key.version)
        }
        (Some(Item::Secret(before, _)), Item::Secret(record, _)) => before.secret < record.secret,
    }
}

/// Whether this material is that of the public half beside it.
fn fits(record: &KeyRecord, material: &Secret) -> Result<(), String> {
    match (&record.identity, record.algorithm) {
        (KeyIdentity::Public(public), KeyAlgorithm::Signing(_)) => {
            crate::custody::open(record.custody, &record.key, public, material)
                .map(drop)
                .map_err(|error| format!("has material of another key: {error}"))
        }
        (KeyIdentity::Symmetric(_), KeyAlgorithm::Symmetric(_)) => match material.len() {
            32 => Ok(()),
            other => Err(format!("has material of {other} bytes; expected 32")),
        },
        (KeyIdentity::Public(_), KeyAlgorithm::Symmetric(_))
        | (KeyIdentity::Symmetric(_), KeyAlgorithm::Signing(_)) => {
            Err("has an identity of another algorithm".to_owned())
        }
    }
}

fn without_value(item: Item) -> Item {
    match item {
        Item::Key(record, _) => Item::Key(record, None),
        Item::Secret(record, _) => Item::Secret(record, None),
    }
}

fn shortened(mut problems: Vec<String>) -> Vec<String> {
    let more = problems.len().saturating_sub(MAX_PROBLEMS);
    problems.truncate(MAX_PROBLEMS);
    if more > 0 {
        problems.push(format!("and {more} more"));
    }
    problems
}
