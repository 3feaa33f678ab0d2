//! What the operator sees of credentials: what the keyring shows and what the log says, side by side. For showing: nothing here is
//! authenticated, and no value is read.

use std::collections::{BTreeMap, BTreeSet};

use claviger_broker::keyring::{KeyRecord, KeySource, KeyState, Keyring, SecretRecord};
use claviger_broker::ledger::{Ledger, Tally, Usage};
use claviger_broker::local::{Due, STUCK_AFTER, due};
use claviger_core::audit::{CredentialName, SecretSource};
use claviger_core::custody::Assurance;
use claviger_core::{AgentName, GrantAlias};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::context::Context;
use crate::exit::Failure;
use crate::{keys, log};

/// An expiry so near is worth a word.
const SOON: SignedDuration = SignedDuration::from_hours(14 * 24);

/// Everything there is to see.
#[derive(Debug)]
pub(crate) struct Overview {
    pub(crate) keys: Vec<KeyRecord>,
    pub(crate) secrets: Vec<SecretRecord>,
    pub(crate) ledger: Ledger,
    pub(crate) now: Timestamp,
}

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Concern {
    /// It should be rotated or replaced.
    Due,
    /// It waits for too long.
    Stuck,
    /// It stops being accepted, or has.
    Expiring,
    /// It is easier to take than it need be.
    Weak,
    /// A grant, an agent or everything is stopped.
    Suspended,
    /// It is deleted, and can be restored or purged.
    Deleted,
}

/// One thing to do something about.
#[derive(Debug, Serialize)]
pub(crate) struct Matter {
    pub(crate) concern: Concern,
    /// What it is about.
    pub(crate) of: String,
    pub(crate) detail: String,
    /// What to type.
    pub(crate) help: String,
}

/// Reads keyring and log.
pub(crate) fn read(cx: &Context) -> Result<Overview, Failure> {
    let keys = keys::list(cx)?;
    let secrets = Keyring::list_public_secrets(&cx.keyring()?)?;
    // A keyring that was never finished has no log; it has no keys either.
    let ledger = if keys.is_empty() && secrets.is_empty() {
        Ledger::default()
    } else {
        log::ledger(cx)?
    };
    Ok(Overview {
        keys,
        secrets,
        ledger,
        now: Timestamp::now(),
    })
}

impl Overview {
    /// Who may use a key: agents whose last admission granted it, with the grants.
    pub(crate) fn holders_of_key(&self, record: &KeyRecord) -> BTreeMap<AgentName, Vec<GrantAlias>> {
        self.ledger.holders(&CredentialName::Key(record.key.name.clone()))
    }

    /// As of keys.
    pub(crate) fn holders_of_secret(&self, record: &SecretRecord) -> BTreeMap<AgentName, Vec<GrantAlias>> {
        self.ledger
            .holders(&CredentialName::Secret(record.secret.name.clone()))
    }

    /// What a version of a key was used for.
    pub(crate) fn key_tally(&self, record: &KeyRecord) -> Tally {
        tally(self.ledger.key_usage(&record.key))
    }

    /// What a version of a secret was used for.
    pub(crate) fn secret_tally(&self, record: &SecretRecord) -> Tally {
        tally(self.ledger.secret_usage(&record.secret))
    }

    /// When a key is rotated next, in words.
    pub(crate) fn next_rotation(&self, record: &KeyRecord) -> String {
        match due(record, self.key_tally(record).uses, self.now) {
            Some(Due::Age { .. }) => return "due".to_owned(),
            Some(Due::Uses { .. }) => return "due by uses".to_owned(),
            None => {}
        }
        if !record.is_in_use() {
            return "-".to_owned();
        }
        match (record.due(self.now), record.plan.uses) {
            (Some(at), _) => day(at),
            (None, Some(uses)) => format!("after {uses} uses"),
            (None, None) => "no plan".to_owned(),
        }
    }

    /// How old something is, in words.
    pub(crate) fn age(&self, created: Timestamp) -> String {
        let hours = self.now.duration_since(created).as_hours().max(0);
        if hours < 48 {
            format!("{hours} h")
        } else {
            format!("{} d", hours / 24)
        }
    }

    /// Everything to do something about.
    pub(crate) fn matters(&self) -> Vec<Matter> {
        let mut matters = Vec::new();
        for record in &self.keys {
            self.key_matters(record, &mut matters);
        }
        for record in &self.secrets {
            self.secret_matters(record, &mut matters);
        }
        self.left_behind(&mut matters);
        if self.ledger.in_panic() {
            matters.push(Matter {
                concern: Concern::Suspended,
                of: "everything".to_owned(),
                detail: "all use of every credential is stopped".to_owned(),
                help: "claviger panic --lift".to_owned(),
            });
        }
        for agent in self.ledger.suspended_agents() {
            matters.push(Matter {
                concern: Concern::Suspended,
                of: format!("agent {agent}"),
                detail: "every grant of it is refused until it is resumed".to_owned(),
                help: format!("claviger agent resume {agent}"),
            });
        }
        for (agent, grant, state) in self.ledger.grants() {
            if state.suspended {
                matters.push(Matter {
                    concern: Concern::Suspended,
                    of: format!("grant {agent}/{grant}"),
                    detail: "it is refused until it is resumed".to_owned(),
                    help: format!("claviger grant resume {agent} {grant}"),
                });
            }
        }
        matters
    }

    fn key_matters(&self, record: &KeyRecord, matters: &mut Vec<Matter>) {
        let (name, key) = (&record.key.name, &record.key);
        let mut push = |concern, detail, help| {
            matters.push(Matter {
                concern,
                of: format!("key {key}"),
                detail,
                help,
            });
        };
        if let Some(since) = record.deleted {
            let until = record.until.map_or_else(|| "now".to_owned(), day);
            push(
                Concern::Deleted,
                format!("deleted {}, may be purged from {until}", day(since)),
                format!("claviger key restore {name}, or claviger key purge {name}"),
            );
            return;
        }
        match record.state {
            KeyState::Pending if self.is_stuck(record.created) => push(
                Concern::Stuck,
                format!("waits for its promotion since {}", day(record.created)),
                format!("claviger key promote {name}, or claviger key cancel {name}"),
            ),
            KeyState::Active => {
                match due(record, self.key_tally(record).uses, self.now) {
                    Some(Due::Age { since }) => push(
                        Concern::Due,
                        format!("due since {}", day(since)),
                        format!("claviger key rotate {name}"),
                    ),
                    Some(Due::Uses { uses, plan }) => push(
                        Concern::Due,
                        format!("used {uses} times, planned for {plan}"),
                        format!("claviger key rotate {name}"),
                    ),
                    None => {}
                }
                match record.assurance {
                    Assurance::Swtpm => push(
                        Concern::Weak,
                        "a software TPM protects it: whoever has the disk has the key".to_owned(),
                        "a keyring made with `claviger init --custody tpm`".to_owned(),
                    ),
                    Assurance::Hardware | Assurance::Passphrase => {}
                }
                match record.source {
                    KeySource::Imported => push(
                        Concern::Weak,
                        "it was imported: whoever had it before may have it still".to_owned(),
                        format!("claviger key rotate {name}"),
                    ),
                    KeySource::Restored => push(
                        Concern::Weak,
                        "it was restored: whoever has the backup, and an identity that opens it, has the key"
                            .to_owned(),
                        format!("claviger key rotate {name}"),
                    ),
                    KeySource::Generated => {}
                }
            }
            KeyState::Revoked if record.lacks_successor() => push(
                Concern::Stuck,
                "it was compromised, and nothing has taken its place yet".to_owned(),
                format!("claviger key compromise {key}, or claviger key rotate {name} --stage"),
            ),
            KeyState::Pending
            | KeyState::Retiring
            | KeyState::Retired
            | KeyState::Disabled
            | KeyState::Revoked
            | KeyState::Destroyed => {}
        }
    }

    fn secret_matters(&self, record: &SecretRecord, matters: &mut Vec<Matter>) {
        let (name, secret) = (&record.secret.name, &record.secret);
        let new_value = match record.source {
            SecretSource::Operator | SecretSource::Server => format!("claviger secret replace {name}"),
            SecretSource::Rotator => format!("claviger secret rotate {name} --with MANIFEST"),
        };
        let mut push = |concern, detail, help| {
            matters.push(Matter {
                concern,
                of: format!("secret {secret}"),
                detail,
                help,
            });
        };
        if let Some(since) = record.deleted {
            let until = record.until.map_or_else(|| "now".to_owned(), day);
            push(
                Concern::Deleted,
                format!("deleted {}, may be purged from {until}", day(since)),
                format!("claviger secret restore {name}, or claviger secret purge {name}"),
            );
            return;
        }
        match record.state {
            KeyState::Pending if record.source == SecretSource::Rotator => push(
                Concern::Stuck,
                format!(
                    "was issued {}, and its provider was not seen to take it",
                    day(record.created)
                ),
                format!("{new_value}, or claviger secret cancel {name}"),
            ),
            KeyState::Pending if self.is_stuck(record.created) => push(
                Concern::Stuck,
                format!("waits for its promotion since {}", day(record.created)),
                format!("claviger secret promote {name}, or claviger secret cancel {name}"),
            ),
            KeyState::Active => {
                if let Some(at) = record.due().filter(|at| *at <= self.now) {
                    push(
                        Concern::Due,
                        format!("due for a new value since {}", day(at)),
                        new_value.clone(),
                    );
                }
                let near = self.now.saturating_add(SOON).unwrap_or(Timestamp::MAX);
                if let Some(at) = record.expires.filter(|at| *at <= near) {
                    let word = if record.is_expired(self.now) {
                        "expired"
                    } else {
                        "expires"
                    };
                    push(
                        Concern::Expiring,
                        format!("{word} {}", day(at)),
                        new_value.clone(),
                    );
                }
            }
            KeyState::Revoked if record.lacks_successor() => push(
                Concern::Stuck,
                "it was compromised, and nothing has taken its place yet".to_owned(),
                new_value,
            ),
            KeyState::Pending
            | KeyState::Retiring
            | KeyState::Retired
            | KeyState::Disabled
            | KeyState::Revoked
            | KeyState::Destroyed => {}
        }
    }

    /// What providers have issued that is of no more use, and not withdrawn.
    fn left_behind(&self, matters: &mut Vec<Matter>) {
        let names: BTreeSet<_> = self.secrets.iter().map(|record| &record.secret.name).collect();
        for name in names {
            for issued in self.ledger.issued(name) {
                let version = self
                    .secrets
                    .iter()
                    .find(|record| record.secret.name == *name && record.secret.version == issued.version);
                if version.is_some_and(|record| record.is_good() || record.state == KeyState::Disabled) {
                    continue;
                }
                matters.push(Matter {
                    concern: Concern::Stuck,
                    of: format!("secret {name}@{}", issued.version),
                    detail: format!(
                        "is of no more use and not withdrawn at its provider, which calls it {}",
                        issued.id
                    ),
                    help: format!("claviger secret rotate {name} --with MANIFEST"),
                });
            }
        }
    }

    fn is_stuck(&self, since: Timestamp) -> bool {
        let limit = SignedDuration::try_from(STUCK_AFTER).unwrap_or(SignedDuration::MAX);
        self.now.duration_since(since) >= limit
    }
}

fn tally(usage: Option<&Usage>) -> Tally {
    usage.map_or_else(Tally::default, |usage| usage.all)
}

/// A time to the day.
pub(crate) fn day(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d").to_string()
}

/// A time to the minute, or that there was none.
pub(crate) fn minute(at: Option<Timestamp>) -> String {
    at.map_or_else(
        || "never".to_owned(),
        |at| at.strftime("%Y-%m-%d %H:%M").to_string(),
    )
}

/// Agents and grants on one line.
pub(crate) fn holders(holders: &BTreeMap<AgentName, Vec<GrantAlias>>) -> String {
    let each = |(agent, grants): (&AgentName, &Vec<GrantAlias>)| {
        let grants: Vec<_> = grants.iter().map(GrantAlias::as_str).collect();
        format!("{agent}/{}", grants.join("+"))
    };
    if holders.is_empty() {
        return "-".to_owned();
    }
    holders.iter().map(each).collect::<Vec<_>>().join(" ")
}
