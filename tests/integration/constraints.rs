//! Every constraint on every custody, each decided again while one agent runs: rows are data. OpenSSH once lost constraints on hardware
//! keys only.

use std::sync::Arc;

use claviger::Answer;
use claviger_broker::ManualClock;
use claviger_broker::keyring::KeyState;
use claviger_core::audit::{Event, Settlement};
use claviger_core::custody::CustodyKind;
use claviger_core::profile::{Profile, labeled_message};
use claviger_core::refusal::Rule;
use claviger_core::{Algorithm, Clock as _, PublicKey, Refusal, Signature};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan as _};
use kit::entries::uses;
use kit::stage::{ACTION, Action, Stage, events_of, operator, play};
use kit::vault::{Vault, jws, labeled, named, sshsig};
use kit::verifiers::ssh_keygen;
use tempfile::TempDir;

/// Where keys live, and under which root.
const CUSTODIES: [(Root, CustodyKind, Algorithm); 6] = [
    (Root::Passphrase, CustodyKind::Software, Algorithm::Ed25519),
    (Root::Passphrase, CustodyKind::Software, Algorithm::P256),
    (Root::Swtpm, CustodyKind::Software, Algorithm::Ed25519),
    (Root::Swtpm, CustodyKind::Software, Algorithm::P256),
    (Root::Swtpm, CustodyKind::TpmSealed, Algorithm::Ed25519),
    (Root::Swtpm, CustodyKind::Tpm, Algorithm::P256),
];

#[derive(Debug, Clone, Copy)]
pub(crate) enum Root {
    Passphrase,
    Swtpm,
}

/// What the agent or the operator does next.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    /// The agent signs.
    Signs,
    /// The agent asks in vain.
    Refused(Refusal, Rule),
    /// The agent asks for so many bytes in vain.
    RefusedBytes(usize, Refusal, Rule),
    /// The agent asks for a grant that it does not have.
    RefusedGrant,
    /// The clock moves by so many seconds.
    Later(i64),
    /// The operator suspends the grant.
    Suspend,
    /// The operator resumes the grant.
    Resume,
    /// The operator changes the state of the key.
    Key(KeyState),
}

use Step::{Key, Later, Refused, RefusedBytes, RefusedGrant, Resume, Signs, Suspend};

const SUSPENDED: Step = Refused(Refusal::Suspended, Rule::Suspension);
const REVOKED: Step = Refused(Refusal::Revoked, Rule::KeyState);
const SPENT: Step = Refused(Refusal::OverBudget, Rule::Uses);
const TOO_FAST: Step = Refused(Refusal::Throttled, Rule::Rate);
const CLOSED: Step = Refused(Refusal::Throttled, Rule::Hours);
const EXPIRED: Step = Refused(Refusal::Expired, Rule::Expires);
const TURNED_BACK: Step = Refused(Refusal::Unavailable, Rule::Clock);

/// A name, the lines of the grant, what happens. Each begins at noon UTC: `{10 s}` is so much later, `{hour}` the hour from then on.
pub(crate) const ROWS: [(&str, &str, &[Step]); 13] = [
    ("unconstrained", "", &[Signs, Signs, Signs, Signs]),
    (
        "uses",
        "uses = 2",
        &[Signs, Signs, SPENT, SPENT, Later(86_400), SPENT],
    ),
    (
        "rate",
        "rate = \"2/hour\"",
        &[
            Signs,
            Signs,
            TOO_FAST,
            Later(1799),
            TOO_FAST,
            Later(1),
            Signs,
            TOO_FAST,
        ],
    ),
    (
        "hours",
        "hours = \"{hour}\"",
        &[Signs, Later(3599), Signs, Later(1), CLOSED, Later(60), CLOSED],
    ),
    (
        "expires",
        "expires = {10 s}",
        &[Signs, Later(9), Signs, Later(1), EXPIRED, Later(86_400), EXPIRED],
    ),
    (
        "suspension",
        "",
        &[Signs, Suspend, SUSPENDED, SUSPENDED, Resume, Signs],
    ),
    (
        "violation-of-uses",
        "uses = 1\non-violation = \"suspend\"",
        &[Signs, SPENT, SUSPENDED, Resume, SPENT, SUSPENDED],
    ),
    (
        "violation-of-rate",
        "rate = \"1/hour\"\non-violation = \"suspend\"",
        &[Signs, TOO_FAST, Later(3600), SUSPENDED, Resume, Signs],
    ),
    (
        "violation-by-size",
        "on-violation = \"suspend\"",
        &[
            Signs,
            RefusedBytes(65_537, Refusal::Invalid, Rule::ContentSize),
            SUSPENDED,
        ],
    ),
    (
        "disabled",
        "",
        &[
            Signs,
            Key(KeyState::Disabled),
            REVOKED,
            Key(KeyState::Active),
            Signs,
        ],
    ),
    ("revoked", "", &[Signs, Key(KeyState::Revoked), REVOKED, REVOKED]),
    ("another-grant", "", &[Signs, RefusedGrant, Signs]),
    (
        "clock",
        "expires = {60 s}",
        &[
            Signs,
            Later(60),
            EXPIRED,
            Later(-60),
            TURNED_BACK,
            Later(60),
            EXPIRED,
        ],
    ),
];

/// A keyring under this root with its clock.
pub(crate) struct Bench {
    // Dropped before the folder.
    pub(crate) stage: Arc<Stage>,
    clock: Arc<ManualClock>,
    _folder: TempDir,
}

impl Bench {
    pub(crate) async fn new(root: Root) -> Self {
        let folder = TempDir::new().unwrap();
        let clock = Arc::new(ManualClock::at("2026-06-01T12:00:00Z".parse().unwrap()));
        let vault = match root {
            Root::Passphrase => Vault::passphrase(folder.path(), Some(Arc::clone(&clock) as _)).await,
            Root::Swtpm => Vault::swtpm_at(folder.path(), Some(Arc::clone(&clock) as _)).await,
        };
        Self {
            stage: Arc::new(Stage::new(vault)),
            clock,
            _folder: folder,
        }
    }

    /// Moves the clock to the next noon and returns it.
    pub(crate) fn noon(&self) -> Timestamp {
        let now = self.clock.now().to_zoned(TimeZone::UTC);
        let noon = now.tomorrow().unwrap().date().at(12, 0, 0, 0);
        let noon = noon.to_zoned(TimeZone::UTC).unwrap().timestamp();
        self.clock.advance(noon.duration_since(self.clock.now()));
        noon
    }

    /// Does what the operator does.
    pub(crate) fn action(&self, step: Step, name: &'static str) -> Option<Action> {
        let (stage, clock) = (Arc::clone(&self.stage), Arc::clone(&self.clock));
        let act: Action = match step {
            Signs | Refused(..) | RefusedBytes(..) | RefusedGrant => return None,
            Later(seconds) => Box::new(move || clock.advance(SignedDuration::from_secs(seconds))),
            Suspend => Box::new(move || {
                operator(stage.vault.broker.suspend(&named(name), &named("use"))).unwrap();
            }),
            Resume => Box::new(move || {
                operator(stage.vault.broker.resume(&named(name), &named("use"))).unwrap();
            }),
            Key(state) => Box::new(move || {
                operator(stage.vault.broker.set_key_state(&named(name), state)).unwrap();
            }),
        };
        Some(act)
    }

    /// Plays one row with a key of this custody, in one run of one agent.
    async fn play(&self, custody: CustodyKind, algorithm: Algorithm, row: (&'static str, &str, &[Step])) {
        let (name, constraints, steps) = row;
        let what = format!("{name} on {custody} {algorithm}");
        let key = self.stage.vault.key_in(custody, name, labeled(), algorithm).await;
        assert_eq!(
            (key.custody, key.algorithm),
            (custody, algorithm.into()),
            "the control"
        );
        let noon = self.noon();
        let constraints = lines(constraints, noon);
        let grant = format!("[grants.use]\nsign = {{ key = \"{name}\" }}\n{constraints}\n");
        let agent = self.stage.load(name, &grant).await.expect(&what);
        let lines = steps.iter().enumerate().map(|(n, step)| match step {
            Signs | Refused(..) => format!("sign use {n}"),
            RefusedBytes(bytes, ..) => format!("sign-size use {bytes}"),
            RefusedGrant => format!("sign other {n}"),
            Later(_) | Suspend | Resume | Key(_) => ACTION.to_owned(),
        });
        let script = lines.collect::<Vec<_>>().join("\n");
        let actions = steps.iter().filter_map(|step| self.action(*step, name)).collect();
        let report = play(&agent, &script, actions).await;
        let Answer::Done(answer) = &report.answer else {
            panic!("{what}: {report:?}")
        };
        let answers: Vec<_> = answer.lines().collect();
        assert_eq!(answers.len(), steps.len(), "{what}: {answer}");
        for (n, (step, said)) in steps.iter().zip(answers).enumerate() {
            match step {
                Signs => {
                    assert!(
                        verifies(key.public().unwrap(), &n.to_string(), said),
                        "{what}, step {n}: {said}"
                    );
                }
                Refused(refusal, _) | RefusedBytes(_, refusal, _) => {
                    assert_eq!(said, format!("refused {refusal:?}"), "{what}, step {n}");
                }
                RefusedGrant => assert_eq!(said, "refused NotGranted", "{what}, step {n}"),
                Later(_) | Suspend | Resume | Key(_) => assert_eq!(said, "printed 1"),
            }
        }
        self.check_log(&what, name, steps).await;
    }

    /// The log has the same story: each use with its number and its end, each refusal with its rule, in this order.
    pub(crate) async fn check_log(&self, what: &str, name: &'static str, steps: &[Step]) {
        let log = self.stage.log().await;
        let mut number = 0;
        let expected: Vec<_> = steps
            .iter()
            .filter_map(|step| match step {
                Signs => {
                    number += 1;
                    Some(Ok(number))
                }
                Refused(refusal, rule) | RefusedBytes(_, refusal, rule) => Some(Err((*refusal, *rule))),
                RefusedGrant => Some(Err((Refusal::NotGranted, Rule::Grant))),
                Later(_) | Suspend | Resume | Key(_) => None,
            })
            .collect();
        let logged: Vec<_> = events_of(&log, name)
            .into_iter()
            .filter_map(|event| match event {
                Event::Allowed(allowed) => Some(Ok(allowed.number)),
                Event::Denied {
                    refusal, rule, count, ..
                } => {
                    assert_eq!(*count, 1, "{what}");
                    Some(Err((*refusal, *rule)))
                }
                _ => None,
            })
            .collect();
        assert_eq!(logged, expected, "{what}");
        let released = uses(&log)
            .values()
            .filter(|(used, settled)| {
                used.agent.as_str() == name
                    && used.key.as_ref().is_some_and(|key| key.name.as_str() == name)
                    && *settled == Some(Settlement::Released)
            })
            .count();
        assert_eq!(released as u64, number, "{what}");
    }
}

/// The lines of a row, with the times that they mean at this noon.
pub(crate) fn lines(constraints: &str, noon: Timestamp) -> String {
    let hour = noon.to_zoned(TimeZone::UTC).strftime("%a 12:00-13:00 UTC");
    constraints
        .replace("{10 s}", &(noon + 10.seconds()).to_string())
        .replace("{60 s}", &(noon + 60.seconds()).to_string())
        .replace("{hour}", &hour.to_string())
}

/// Whether the agent's hexadecimal is a signature over this content.
fn verifies(key: &PublicKey, content: &str, said: &str) -> bool {
    let Some(bytes) = hex::decode(said).ok().and_then(|bytes| bytes.try_into().ok()) else {
        return false;
    };
    let message = labeled_message(&named("notes"), content.as_bytes());
    key.verify(&message, &Signature::new(key.algorithm(), bytes))
        .is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_constraint_holds_on_every_custody_while_the_agent_runs() {
    for (root, custody, algorithm) in CUSTODIES {
        let bench = Bench::new(root).await;
        for row in ROWS {
            bench.play(custody, algorithm, row).await;
        }
        bench.stage.close().await;
    }
}

/// The key's profile, the grant's narrowing of it, and whether it is admitted.
fn narrowings() -> [(Profile, &'static str, bool); 12] {
    let both = Profile::Sshsig {
        namespaces: [named("file"), named("mail")].into(),
    };
    [
        (both.clone(), "namespace = \"file\"", true),
        (both.clone(), "namespace = \"email\"", false),
        (both.clone(), "label = \"notes\"", false),
        (both, "", false),
        (sshsig(), "", true),
        (jws(), "ttl = \"30 s\", subject = \"bot\"", true),
        (jws(), "ttl = \"61 s\"", false),
        (jws(), "audience = \"other\"", false),
        (jws(), "namespace = \"file\"", false),
        (labeled(), "label = \"notes\"", true),
        (labeled(), "label = \"other\"", false),
        (labeled(), "ttl = \"30 s\"", false),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_narrows_its_keys_profile_on_every_custody_and_never_widens_it() {
    for (root, custody, algorithm) in CUSTODIES {
        let bench = Bench::new(root).await;
        for (n, (profile, narrowing, admitted)) in narrowings().into_iter().enumerate() {
            let (name, kind) = (format!("key-{n}"), profile.kind());
            let what = format!("{kind} narrowed by `{narrowing}` on {custody} {algorithm}");
            let key = bench.stage.vault.key_in(custody, &name, profile, algorithm).await;
            let comma = if narrowing.is_empty() { "" } else { ", " };
            let grant = format!("[grants.use]\nsign = {{ key = \"{name}\"{comma}{narrowing} }}\n");
            let loaded = bench.stage.load(&name, &grant).await;
            assert_eq!(loaded.is_ok(), admitted, "{what}: {loaded:?}");
            let Ok(agent) = loaded else {
                let log = bench.stage.log().await;
                assert!(
                    matches!(events_of(&log, &name).as_slice(), [Event::NotAdmitted { reasons, .. }] if reasons.len() == 1),
                    "{what}"
                );
                continue;
            };
            let report = play(&agent, "sign use {}", Vec::new()).await;
            let Answer::Done(said) = report.answer else {
                panic!("{what}: {:?}", report.end)
            };
            match kind {
                "sshsig" => {
                    let armoured = said.replace('|', "\n");
                    let taken =
                        |namespace| ssh_keygen(key.public().unwrap(), namespace, armoured.as_bytes(), b"{}");
                    assert!(taken("file") && !taken("git"), "{what}: {armoured}");
                }
                "jws" => {
                    let claims = claims(&said);
                    let life = claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap();
                    assert_eq!((life, &claims["sub"]), (30, &"bot".into()), "{what}: {claims}");
                }
                _ => assert!(verifies(key.public().unwrap(), "{}", &said), "{what}: {said}"),
            }
        }
        bench.stage.close().await;
    }
}

fn claims(token: &str) -> serde_json::Value {
    use base64ct::Encoding as _;
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&base64ct::Base64UrlUnpadded::decode_vec(payload).unwrap()).unwrap()
}
