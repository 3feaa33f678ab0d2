//! Approvals of what a real guest seals, opens, tags, compares and passes on as evidence, while its operator answers elsewhere. What the
//! command shows of them is in `cli_approvals`.

use std::sync::Arc;

use claviger::{Answer, RunReport};
use claviger_broker::LocalBroker;
use claviger_broker::keyring::KeyState;
use claviger_core::Algorithm;
use claviger_core::approval::{AnsweredBy, ApprovalEnd, Subject};
use claviger_core::audit::{Entry, Event};
use claviger_core::profile::Profile;
use kit::Guest;
use kit::entries::uses;
use kit::stage::{Stage, play};
use kit::vault::{Vault, named};
use tempfile::TempDir;

const ME: AnsweredBy = AnsweredBy::Operator { uid: 7 };

/// What an operator does about what waits.
#[derive(Debug, Clone, Copy)]
enum Does {
    Approves,
    Denies,
    /// Takes the key out of use, and approves all the same.
    DisablesThenApproves(&'static str),
}

/// Answers each question in turn, as it comes: its kind must be this one. Each answer is tried a second time, which has no effect.
fn operator(broker: Arc<LocalBroker>, answers: Vec<(&'static str, Does)>) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        for (kind, does) in answers {
            let one = loop {
                if let Some(one) = broker.approvals().pop() {
                    break one;
                }
                tokio::task::yield_now().await;
            };
            let question = broker.approval_question(one.id).unwrap();
            assert_eq!(question.subject.kind(), kind, "{question:?}");
            if let Subject::Attest {
                audience, ttl, nonce, ..
            } = &question.subject
            {
                assert_eq!((audience.as_str(), *ttl), ("https://verifier.example", 60));
                assert_eq!(**nonce.start, [0xab; 16]);
            }
            if let Does::DisablesThenApproves(key) = does {
                broker
                    .set_key_state(&named(key), KeyState::Disabled)
                    .await
                    .unwrap();
            }
            match does {
                Does::Approves | Does::DisablesThenApproves(_) => broker.approve(one.id, ME).await,
                Does::Denies => broker.deny_approval(one.id, ME, "").await,
            }
            .unwrap();
            assert!(
                broker.approve(one.id, ME).await.is_err(),
                "an answer is good once"
            );
        }
    })
}

fn done(report: &RunReport) -> Vec<String> {
    match &report.answer {
        Answer::Done(answer) => answer.lines().map(str::to_owned).collect(),
        _ => panic!("{report:?}"),
    }
}

fn ends(log: &[Entry]) -> Vec<&'static str> {
    let ends = log.iter().filter_map(|entry| match &entry.event {
        Event::ApprovalEnded { end, .. } => Some(match end {
            ApprovalEnd::Approved { .. } => "approved",
            ApprovalEnd::Denied { .. } => "denied",
            ApprovalEnd::Expired => "expired",
            ApprovalEnd::Withdrawn => "withdrawn",
        }),
        _ => None,
    });
    ends.collect()
}

/// How many uses were allowed, and how many of them by an approval.
fn allowed(log: &[Entry]) -> (usize, usize) {
    let all = uses(log);
    let approved = all.values().filter(|(used, _)| used.approval.is_some());
    (all.len(), approved.count())
}

fn symmetric(constraints: &str) -> String {
    format!(
        "[grants.box]\nseal = {{ key = \"state\", allow = [\"seal\", \"unseal\"] }}\n{constraints}\
         [grants.ticket]\nmac = {{ key = \"ticket\", allow = [\"generate\", \"verify\"] }}\n{constraints}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_waits_for_each_box_and_each_tag_and_gets_what_was_approved() {
    for swtpm in [false, true] {
        let folder = TempDir::new().unwrap();
        let vault = match swtpm {
            true => Vault::swtpm(folder.path()).await,
            false => Vault::passphrase(folder.path(), None).await,
        };
        let label = named("acme/ticket");
        for (key, profile, algorithm) in [
            (
                "state",
                Profile::Seal {},
                claviger_core::key::SymmetricAlgorithm::XChaCha20Poly1305,
            ),
            (
                "ticket",
                Profile::Mac { label },
                claviger_core::key::SymmetricAlgorithm::HmacSha256,
            ),
        ] {
            let custody = vault.broker.default_custody(algorithm);
            let making = vault.broker.create_symmetric_key(named(key), profile, custody);
            making.await.unwrap();
        }
        let stage = Stage::new(vault);
        let script = async |rest: &str, commands: String, answers: Vec<(&'static str, Does)>| {
            let agent = stage
                .load_guest(Guest::Symmetric, "bot", rest)
                .await
                .expect("loads");
            let answering = operator(Arc::clone(&stage.vault.broker), answers);
            let said = done(&play(&agent, &commands, Vec::new()).await);
            answering.await.unwrap();
            said
        };
        use Does::{Approves, Denies, DisablesThenApproves};
        let each = symmetric("approval = \"each\"\n");
        let made = script(
            &each,
            "seal box pin canary-pin\nseal box pin canary-pin\ntag ticket alice\ntag ticket alice".to_owned(),
            vec![
                ("seal", Approves),
                ("seal", Denies),
                ("generate", Denies),
                ("generate", Approves),
            ],
        )
        .await;
        let refused = "refused NotApproved";
        assert_eq!((made[1].as_str(), made[2].as_str()), (refused, refused));
        let (sealed, tag) = (&made[0], &made[3]);
        let opened = script(
            &each,
            format!(
                "unseal box pin {sealed}\nunseal box pin {sealed}\nverify ticket {tag} alice\nverify ticket {tag} bob\n\
                 verify ticket {tag} alice"
            ),
            vec![
                ("unseal", Denies),
                ("unseal", Approves),
                ("verify", Approves),
                ("verify", Approves),
                ("verify", Denies),
            ],
        )
        .await;
        assert_eq!(opened, [refused, "canary-pin", "true", "false", refused]);
        // A first use stands for its own right, until the manifest changes.
        let first = symmetric("approval = \"first-use\"\n");
        let commands = format!("seal box pin x\nseal box pin y\nunseal box pin {sealed}");
        let said = script(&first, commands, vec![("seal", Approves), ("unseal", Denies)]).await;
        assert_eq!((said.len(), said[2].as_str()), (3, refused));
        let changed = format!("{first}# another revision\n");
        let said = script(&changed, "seal box pin x".to_owned(), vec![("seal", Denies)]).await;
        assert_eq!(said, [refused]);
        // Nobody there.
        let alone = symmetric("approval = \"each\"\napproval-timeout = \"1 s\"\n");
        let said = script(&alone, "tag ticket alice".to_owned(), Vec::new()).await;
        assert_eq!(said, [refused]);
        let said = script(
            &each,
            format!("unseal box pin {sealed}"),
            vec![("unseal", DisablesThenApproves("state"))],
        )
        .await;
        assert_eq!(said, ["refused Revoked"]);
        let log = stage.close().await;
        let text = serde_json::to_string(&log).unwrap();
        assert!(
            !text.contains("canary") && !text.contains("alice"),
            "no content on the log"
        );
        assert_eq!(allowed(&log), (7, 7));
        let ends = ends(&log);
        let counted = |how| ends.iter().filter(|end| **end == how).count();
        assert_eq!(
            (counted("approved"), counted("denied"), counted("expired")),
            (7, 6, 1)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_is_given_for_the_audience_and_nonce_that_were_approved() {
    let folder = TempDir::new().unwrap();
    let vault = Vault::swtpm(folder.path()).await;
    vault.key("evidence", Profile::Attest {}, Algorithm::P256).await;
    let stage = Stage::new(vault);
    let grants = |rest: &str| {
        format!(
            "[grants.who]\nattest = {{ key = \"evidence\", audiences = [\"https://verifier.example\"] }}\n{rest}"
        )
    };
    let attest = format!("attest https://verifier.example {}", "ab".repeat(16));
    let script = async |rest: &str, commands: &str, answers: Vec<(&'static str, Does)>| {
        let agent = stage
            .load_guest(Guest::Evidence, "witness", &grants(rest))
            .await
            .expect("loads");
        let answering = operator(Arc::clone(&stage.vault.broker), answers);
        let said = done(&play(&agent, commands, Vec::new()).await);
        answering.await.unwrap();
        said
    };
    let refused = "refused NotApproved";
    let each = "approval = \"each\"\n";
    let said = script(
        each,
        &format!("{attest}\n{attest}\nattest https://verifier.example abcd\n{attest}"),
        vec![
            ("attest", Does::Denies),
            ("attest", Does::Approves),
            ("attest", Does::Denies),
        ],
    )
    .await;
    let given = |text: &str| text.split(' ').count() == 6;
    // Of a nonce that is too short nobody is asked.
    assert!(given(&said[1]), "{said:?}");
    assert_eq!(
        [&said[0], &said[2], &said[3]],
        [refused, "refused Invalid", refused]
    );
    let first = "approval = \"first-use\"\n";
    let said = script(
        first,
        &format!("{attest}\n{attest}"),
        vec![("attest", Does::Approves)],
    )
    .await;
    assert!(said.iter().all(|text| given(text)), "{said:?}");
    let changed = format!("{first}# another revision\n");
    let said = script(&changed, &attest, vec![("attest", Does::Denies)]).await;
    assert_eq!(said, [refused]);
    let alone = "approval = \"each\"\napproval-timeout = \"1 s\"\n";
    assert_eq!(script(alone, &attest, Vec::new()).await, [refused]);
    let stopped = vec![("attest", Does::DisablesThenApproves("evidence"))];
    assert_eq!(script(each, &attest, stopped).await, ["refused Revoked"]);
    let log = stage.close().await;
    assert_eq!(allowed(&log), (3, 3));
    assert_eq!(
        ends(&log),
        [
            "denied", "approved", "denied", "approved", "denied", "expired", "approved"
        ]
    );
}
