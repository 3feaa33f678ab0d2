//! Every command of an operator: what it does, what stands against it, and that no value is in it. Not how it gets to a host.

use std::num::NonZeroU64;
use std::time::Duration;

use claviger_core::audit::SecretRef;
use claviger_core::http::InjectionKind;
use claviger_core::key::KeyVersion;

use super::web::{API, CANARY};
use super::*;
use crate::keyring::{Lock, RotationPlan};
use crate::operator::{Change, Command, CommandError, Fault, Problem, Reply};

pub(super) fn value(text: &str) -> Option<Secret> {
    Some(Secret::take(&mut text.as_bytes().to_vec()).unwrap())
}

pub(super) fn add(secret: &str) -> Command {
    Command::AddSecret {
        name: name(secret),
        kind: InjectionKind::Bearer,
        origin: API.parse().unwrap(),
        expires: None,
        rotate_every: None,
        overlap: Duration::ZERO,
        lock: None,
    }
}

fn key(text: &str) -> Reply {
    Reply::Keys(vec![KeyRef {
        name: name(text),
        version: KeyVersion::FIRST,
    }])
}

fn secret(text: &str, version: u32) -> Reply {
    Reply::Secrets(vec![SecretRef {
        name: name(text),
        version: KeyVersion(version),
    }])
}

const DONE: Reply = Reply::Done { warning: None };

#[tokio::test]
async fn each_command_does_what_it_says() {
    let fixture = Fixture::new().await;
    let who = fixture.start(RELEASE).await;
    fixture.sign(who, "release", b"x").await.unwrap();
    let (agent, grant) = (name::<AgentName>("bot"), name::<GrantAlias>("release"));
    let (agent, grant) = (|| agent.clone(), || grant.clone());
    let change = |change| Command::ChangeKey {
        name: name("release"),
        change,
    };
    let changed = |change| Command::ChangeSecret {
        name: name("github"),
        change,
    };
    let create = Command::CreateKey {
        name: name("new"),
        profile: Profile::Labeled { label: name("new") },
        algorithm: None,
        custody: None,
        enforced: Enforced::Keyring,
        plan: RotationPlan::default(),
        lock: None,
    };
    let replace = Command::ReplaceSecret {
        name: name("github"),
        expires: None,
        rotate_every: None,
    };
    let rm = Command::DestroySecret { name: name("github") };
    // What is done, what comes of it, and whether the agent can sign afterwards.
    let rows = [
        (
            Command::SuspendGrant {
                agent: agent(),
                grant: grant(),
            },
            None,
            DONE,
            Err(Refusal::Suspended),
        ),
        (
            Command::ResumeGrant {
                agent: agent(),
                grant: grant(),
            },
            None,
            DONE,
            Ok(()),
        ),
        (
            Command::SuspendAgent { agent: agent() },
            None,
            DONE,
            Err(Refusal::Suspended),
        ),
        (Command::ResumeAgent { agent: agent() }, None, DONE, Ok(())),
        (Command::Panic, None, DONE, Err(Refusal::Suspended)),
        (Command::LiftPanic, None, DONE, Ok(())),
        (
            change(Change::Disable),
            None,
            key("release"),
            Err(Refusal::Revoked),
        ),
        (change(Change::Enable), None, key("release"), Ok(())),
        (create, None, key("new"), Ok(())),
        (add("github"), value(CANARY), secret("github", 1), Ok(())),
        (replace, value("canary-2-of-github"), secret("github", 2), Ok(())),
        (changed(Change::Disable), None, secret("github", 2), Ok(())),
        (changed(Change::Enable), None, secret("github", 2), Ok(())),
        (changed(Change::Revoke), None, secret("github", 2), Ok(())),
        (
            rm,
            None,
            Reply::Secrets(
                [1, 2]
                    .map(|version| SecretRef {
                        name: name("github"),
                        version: KeyVersion(version),
                    })
                    .into(),
            ),
            Ok(()),
        ),
        (Command::AcceptClock, None, DONE, Ok(())),
        (
            change(Change::Revoke),
            None,
            key("release"),
            Err(Refusal::Revoked),
        ),
    ];
    for (command, value, expected, signs) in rows {
        let said = format!("{command:?}");
        assert_eq!(
            fixture.broker.command(command, value).await.unwrap(),
            expected,
            "{said}"
        );
        let signed = fixture.sign(who, "release", b"x").await.map(drop);
        assert_eq!(signed, signs, "{said}");
    }
    let note = fixture.broker.command(Command::Checkpoint, None).await.unwrap();
    assert!(matches!(note, Reply::Text(note) if note.starts_with("claviger/audit\n")));
}

#[tokio::test]
async fn what_stands_against_a_command_has_its_kind_and_nothing_is_done() {
    let fixture = Fixture::new().await;
    let who = fixture.start(RELEASE).await;
    let before = fixture.events().await;
    let resume = |agent: &str, grant: &str| Command::ResumeGrant {
        agent: name(agent),
        grant: name(grant),
    };
    let create = |profile, algorithm| Command::CreateKey {
        name: name("release"),
        profile,
        algorithm,
        custody: None,
        enforced: Enforced::Keyring,
        plan: RotationPlan::default(),
        lock: None,
    };
    let empty = Profile::Sshsig {
        namespaces: std::collections::BTreeSet::new(),
    };
    let rows = [
        (resume("bot", "release"), None, Fault::Failed, "is not suspended"),
        (
            Command::ResumeAgent { agent: name("bot") },
            None,
            Fault::Failed,
            "is not suspended",
        ),
        (Command::LiftPanic, None, Fault::Failed, "not stopped"),
        (create(empty, None), None, Fault::Usage, "namespace"),
        (
            create(Profile::Labeled { label: name("x") }, None),
            None,
            Fault::Failed,
            "already",
        ),
        (
            create(Profile::Labeled { label: name("x") }, Some(Algorithm::Rsa2048)),
            None,
            Fault::Usage,
            "rsa2048",
        ),
        (
            Command::ChangeKey {
                name: name("none"),
                change: Change::Revoke,
            },
            None,
            Fault::Failed,
            "no key",
        ),
        (
            Command::RequestCertificate {
                name: name("release"),
                subject: "CN=x".to_owned(),
            },
            None,
            Fault::Failed,
            "mtls",
        ),
        (add("github"), None, Fault::Usage, "came without"),
        (add("github"), value("short"), Fault::Failed, "at least"),
        (Command::Panic, value(CANARY), Fault::Usage, "came with one"),
    ];
    for (command, value, fault, part) in rows {
        let said = format!("{command:?}");
        let error = fixture.broker.command(command, value).await.unwrap_err();
        assert_eq!(error.fault(), fault, "{said}: {error}");
        let problem = Problem::from(&error);
        assert!(problem.message.contains(part), "{said}: {problem:?}");
        assert!(!format!("{error:?}{problem:?}").contains("canary"));
    }
    assert_eq!(fixture.events().await.len(), before.len());
    fixture.sign(who, "release", b"x").await.unwrap();
}

#[tokio::test]
async fn a_misspelt_name_is_suspended_with_a_word_of_warning() {
    let fixture = Fixture::new().await;
    let who = fixture.start(RELEASE).await;
    fixture.sign(who, "release", b"x").await.unwrap();
    let warning = async |command| match fixture.broker.command(command, None).await.unwrap() {
        Reply::Done { warning } => warning,
        other => panic!("{other:?}"),
    };
    let grant = Command::SuspendGrant {
        agent: name("bot"),
        grant: name("relase"),
    };
    assert!(
        warning(grant)
            .await
            .unwrap()
            .contains("did you mean `bot release`?")
    );
    let agent = |agent: &str| Command::SuspendAgent { agent: name(agent) };
    assert!(
        warning(agent("bto"))
            .await
            .unwrap()
            .contains("did you mean `bot`?")
    );
    assert_eq!(warning(agent("bot")).await, None);
}

#[tokio::test]
async fn the_status_says_what_runs_and_what_does_not() {
    let fixture = Fixture::new().await;
    let status = async || match fixture.broker.command(Command::Status, None).await.unwrap() {
        Reply::Status(status) => status,
        other => panic!("{other:?}"),
    };
    let idle = status().await;
    assert!(!idle.panic && idle.suspended.is_empty() && idle.running.is_empty() && idle.requests == 0);
    fixture.start(RELEASE).await;
    fixture.start(RELEASE).await;
    fixture.broker.suspend_agent(&name("bot")).await.unwrap();
    fixture.broker.panic().await.unwrap();
    let busy = status().await;
    assert!(busy.panic);
    assert_eq!(busy.suspended, [name("bot")]);
    assert_eq!(busy.running, [(name("bot"), 2)].into());
}

#[test]
fn a_command_is_read_strictly_and_holds_no_value() {
    let command = add("github");
    let json = serde_json::to_string(&command).unwrap();
    assert_eq!(serde_json::from_str::<Command>(&json).unwrap(), command);
    assert!(!json.contains("value"), "{json}");
    for bad in [
        r#"{"add-secret":{"name":"github","kind":"bearer","origin":"https://api.test","value":"canary"}}"#,
        r#"{"suspend-agent":{"agent":"../x"}}"#,
        r#"{"suspend-agent":{"agent":"bot","grant":"x"}}"#,
        r#"{"suspend-agent":{}}"#,
        r#"{"panic":{}}"#,
        r#"{"change-key":{"name":"release","change":"destroy"}}"#,
        r#""export-key""#,
        r#"{"panic":null,"status":null}"#,
        "[]",
        "null",
    ] {
        assert!(serde_json::from_str::<Command>(bad).is_err(), "{bad}");
    }
    assert_eq!(
        serde_json::from_str::<Command>(r#""panic""#).unwrap(),
        Command::Panic
    );
}

#[tokio::test]
async fn a_log_that_cannot_be_written_is_said_to_be_so() {
    let fixture = Fixture::new().await;
    std::fs::remove_dir_all(fixture.folder.path().join("keyring").join(AUDIT_FOLDER)).unwrap();
    let revoke = Command::ChangeKey {
        name: name("release"),
        change: Change::Revoke,
    };
    let error = fixture.broker.command(revoke, None).await.unwrap_err();
    assert!(
        matches!(error, CommandError::Key(NewKeyError::Audit(_))),
        "{error:?}"
    );
    assert!(matches!(
        error.fault(),
        Fault::AuditUnavailable | Fault::Integrity
    ));
    // It holds all the same.
    assert!(fixture.broker.keyring().key(&name("release")).is_none());
}

#[tokio::test]
async fn a_plan_comes_with_its_credential_in_one_transaction_or_neither_does() {
    let fixture = Fixture::new().await;
    let day = Duration::from_secs(86_400);
    let generation = || fixture.broker.keyring().info().generation;
    let plan = RotationPlan {
        every: Some(90 * day),
        uses: NonZeroU64::new(1000),
        overlap: day,
    };
    let create = |text: &str, profile, plan| Command::CreateKey {
        name: name(text),
        profile,
        algorithm: None,
        custody: None,
        enforced: Enforced::Keyring,
        plan,
        lock: Some(Lock::ForGood),
    };
    let labeled = || Profile::Labeled { label: name("new") };
    for (text, profile) in [("signs", labeled()), ("seals", Profile::Seal {})] {
        let before = generation();
        fixture
            .broker
            .command(create(text, profile, plan), None)
            .await
            .unwrap();
        assert_eq!(generation(), before + 1, "{text}");
        let record = fixture.broker.keyring().key(&name(text)).unwrap();
        assert_eq!((record.plan, record.locked), (plan, true), "{text}");
    }
    let planned = |every, overlap| Command::AddSecret {
        name: name("planned"),
        kind: InjectionKind::Bearer,
        origin: API.parse().unwrap(),
        expires: None,
        rotate_every: Some(every),
        overlap,
        lock: Some(Lock::ForGood),
    };
    // Not one that is due all the time, nor one that is another after a restart.
    let before = generation();
    let tick = Duration::from_millis(1500);
    for plan in [
        RotationPlan {
            every: Some(Duration::ZERO),
            ..plan
        },
        RotationPlan {
            every: Some(tick),
            ..plan
        },
        RotationPlan {
            overlap: tick,
            ..plan
        },
    ] {
        let refused = fixture
            .broker
            .command(create("wrong", labeled(), plan), None)
            .await;
        assert!(refused.unwrap_err().to_string().contains("plan"), "{plan:?}");
        let refused = fixture.broker.plan_key(&name("signs"), plan, None);
        assert!(refused.unwrap_err().to_string().contains("plan"), "{plan:?}");
    }
    for (every, overlap) in [(Duration::ZERO, day), (tick, day), (day, tick)] {
        let refused = fixture
            .broker
            .command(planned(every, overlap), value(CANARY))
            .await;
        assert!(refused.unwrap_err().to_string().contains("plan"), "{every:?}");
    }
    assert_eq!(generation(), before);
    fixture
        .broker
        .command(planned(90 * day, day), value(CANARY))
        .await
        .unwrap();
    assert_eq!(generation(), before + 1);
    let record = fixture.broker.keyring().secret(&name("planned")).unwrap();
    assert_eq!(
        (record.rotate_every, record.overlap, record.locked),
        (Some(90 * day), day, true)
    );
    let fixture = fixture.reopen().await;
    assert_eq!(fixture.broker.keyring().key(&name("signs")).unwrap().plan, plan);
}
