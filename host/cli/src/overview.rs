//! What the operator sees of credentials: what the keyring shows and what the log says, side by side. For showing: nothing here is
//! authenticated, and no value is read.

use std::collections::{BTreeMap, BTreeSet};

use claviger_broker::keyring::{KeyRecord, KeySource, KeyState, Keyring, Life, SecretRecord};
use claviger_broker::ledger::{Ledger, Tally, Usage};
use claviger_broker::local::{Due, STUCK_AFTER, WITHDRAWAL, due};
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

/// One version of a key or secret, as far as it has a life.
struct Living<'a> {
    kind: &'static str,
    name: &'a str,
    version: String,
    life: Life,
    created: Timestamp,
    /// What to type if it was compromised, and nothing has taken its place.
    successor: String,
}

impl Living<'_> {
    fn matter(&self, concern: Concern, detail: String, help: String) -> Matter {
        Matter {
            concern,
            of: format!("{} {}", self.kind, self.version),
            detail,
            help,
        }
    }
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

    /// What is to be done about one version of a key or secret because of where it is in its life.
    fn life_matter(&self, of: &Living<'_>) -> Option<Matter> {
        let Living { kind, name, life, .. } = of;
        let (concern, detail, help) = match (life.deleted, life.state) {
            (Some(since), _) => {
                let until = life.until.map_or_else(|| "now".to_owned(), day);
                (
                    Concern::Deleted,
                    format!("deleted {}, may be purged from {until}", day(since)),
                    format!("claviger {kind} restore {name}, or claviger {kind} purge {name}"),
                )
            }
            (None, KeyState::Pending) if self.is_stuck(of.created) => (
                Concern::Stuck,
                format!("waits for its promotion since {}", day(of.created)),
                format!("claviger {kind} promote {name}, or claviger {kind} cancel {name}"),
            ),
            (None, KeyState::Revoked) if life.lacks_successor() => (
                Concern::Stuck,
                "it was compromised, and nothing has taken its place yet".to_owned(),
                of.successor.clone(),
            ),
            (
                None,
                KeyState::Pending
                | KeyState::Active
                | KeyState::Retiring
                | KeyState::Retired
                | KeyState::Disabled
                | KeyState::Revoked
                | KeyState::Destroyed,
            ) => return None,
        };
        Some(of.matter(concern, detail, help))
    }

    fn key_matters(&self, record: &KeyRecord, matters: &mut Vec<Matter>) {
        let (name, key) = (&record.key.name, &record.key);
        let of = Living {
            kind: "key",
            name: name.as_str(),
            version: key.to_string(),
            life: record.life(),
            created: record.created,
            successor: format!("claviger key compromise {key}, or claviger key rotate {name} --stage"),
        };
        matters.extend(self.life_matter(&of));
        if !record.is_in_use() {
            return;
        }
        let rotate = || format!("claviger key rotate {name}");
        let mut push = |concern, detail, help| matters.push(of.matter(concern, detail, help));
        match due(record, self.key_tally(record).uses, self.now) {
            Some(Due::Age { since }) => push(Concern::Due, format!("due since {}", day(since)), rotate()),
            Some(Due::Uses { uses, plan }) => push(
                Concern::Due,
                format!("used {uses} times, planned for {plan}"),
                rotate(),
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
                rotate(),
            ),
            KeySource::Restored => push(
                Concern::Weak,
                "it was restored: whoever has the backup, and an identity that opens it, has the key"
                    .to_owned(),
                rotate(),
            ),
            KeySource::Generated => {}
        }
    }

    fn secret_matters(&self, record: &SecretRecord, matters: &mut Vec<Matter>) {
        let name = &record.secret.name;
        let new_value = match record.source {
            SecretSource::Operator | SecretSource::Server => format!("claviger secret replace {name}"),
            SecretSource::Rotator => format!("claviger secret rotate {name} --with MANIFEST"),
        };
        let of = Living {
            kind: "secret",
            name: name.as_str(),
            version: record.secret.to_string(),
            life: record.life(),
            created: record.created,
            successor: new_value.clone(),
        };
        if record.source == SecretSource::Rotator
            && record.state == KeyState::Pending
            && record.deleted.is_none()
        {
            let day = day(record.created);
            matters.push(of.matter(
                Concern::Stuck,
                format!("was issued {day}, and its provider was not seen to take it"),
                format!("{new_value}, or claviger secret cancel {name}"),
            ));
            return;
        }
        matters.extend(self.life_matter(&of));
        if !record.is_in_use() {
            return;
        }
        let mut push = |concern, detail| matters.push(of.matter(concern, detail, new_value.clone()));
        if let Some(at) = record.due(self.now).filter(|at| *at <= self.now) {
            push(Concern::Due, format!("due for a new value since {}", day(at)));
        }
        let near = self.now.saturating_add(SOON).unwrap_or(Timestamp::MAX);
        if let Some(at) = record.expires.filter(|at| *at <= near) {
            let word = if record.is_expired(self.now) {
                "expired"
            } else {
                "expires"
            };
            push(Concern::Expiring, format!("{word} {}", day(at)));
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
                // A replaced one that is kept to be tried is past its overlap.
                let overlap_is_over = |record: &SecretRecord| {
                    let tried = SignedDuration::try_from(WITHDRAWAL).unwrap_or(SignedDuration::MAX);
                    record.state == KeyState::Retiring
                        && record
                            .until
                            .is_none_or(|until| until.duration_since(self.now) <= tried)
                };
                let has_a_use =
                    |record: &SecretRecord| record.is_good() || record.state == KeyState::Disabled;
                if version.is_some_and(|record| has_a_use(record) && !overlap_is_over(record)) {
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
