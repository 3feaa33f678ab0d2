//! Boxes and MACs from an agent's side: first with a broker that only remembers, then on real keyrings.

use std::sync::Arc;

use claviger::{Answer, InstanceEnd, LoadError, RunInput, RunReport};
use claviger_broker::local::MAX_GUESSES;
use claviger_core::audit::{Event, Operation, Settlement, StopLimit};
use claviger_core::custody::CustodyKind;
use claviger_core::key::SymmetricAlgorithm;
use claviger_core::profile::{BOX_OVERHEAD, MAX_MAC_CONTENT, MAX_PLAINTEXT, Profile, TAG};
use claviger_core::refusal::Rule;
use kit::entries::uses;
use kit::stage::{Stage, events_of, play};
use kit::vault::{Vault, named};
use kit::{Bench, GRANT, Guest, guest};
use tempfile::TempDir;

const BOX: &str = "[grants.box]\nseal = { key = \"state\", allow = [\"seal\", \"unseal\"] }\n";
const TICKET: &str = "[grants.ticket]\nmac = { key = \"ticket\", allow = [\"generate\", \"verify\"] }\n";

async fn toy(rest: &str, commands: &str) -> RunReport {
    let bench = Bench::new();
    let rest = format!("{BOX}{TICKET}{rest}");
    let agent = bench.load(&rest, guest(Guest::Symmetric)).await.expect("loads");
    agent.run(RunInput::text(commands)).await.expect("starts")
}

fn done(report: &RunReport) -> Vec<&str> {
    match &report.answer {
        Answer::Done(answer) => answer.lines().collect(),
        _ => panic!("{report:?}"),
    }
}

#[tokio::test]
async fn what_an_agent_asks_reaches_the_broker_and_the_answer_the_agent() {
    let commands = "seal box c text\nunseal box c 75647975\nunseal box cc 7667\nsealer box\nauthenticator ticket\ngrants";
    let report = toy("", commands).await;
    assert_eq!(
        done(&report),
        [
            "75647975",
            "text",
            "te",
            "toy-cipher toy v1",
            "toy-mac toy v1 toy",
            // The toy's word for any capability.
            "box:sign:Some(3),ticket:sign:Some(3)",
        ]
    );
    let tag = "a1".repeat(TAG);
    let right = format!(
        "verify ticket {tag} -\nverify ticket {tag} x\nverify ticket {} -",
        &tag[2..]
    );
    assert_eq!(done(&toy("", &right).await), ["true", "false", "false"]);
}

#[tokio::test]
async fn an_agent_that_is_granted_one_of_both_is_not_loaded_and_the_hint_is_the_line_that_is_missing() {
    let rows = [
        (
            BOX,
            vec![(
                "claviger:credentials/mac@0.1.0",
                "mac = { key = \"…\", allow = [ … ] }",
            )],
        ),
        (
            TICKET,
            vec![(
                "claviger:credentials/sealing@0.1.0",
                "seal = { key = \"…\", allow = [ … ] }",
            )],
        ),
        (
            GRANT,
            vec![
                ("claviger:credentials/mac@0.1.0", "mac = {"),
                ("claviger:credentials/sealing@0.1.0", "seal = {"),
            ],
        ),
    ];
    for (granted, expected) in rows {
        let error = Bench::new()
            .load(granted, guest(Guest::Symmetric))
            .await
            .unwrap_err();
        let LoadError::NotGranted(mut missing) = error else {
            panic!("{error}")
        };
        missing.sort_by(|one, other| one.import.cmp(&other.import));
        assert_eq!(missing.len(), expected.len(), "{missing:?}");
        for (missing, (import, hint)) in missing.iter().zip(expected) {
            assert_eq!(missing.import, import);
            assert!(missing.hint.contains(hint), "{missing}");
        }
    }
    // The control, and whoever does not seal needs no such grant.
    toy("", "grants").await;
    Bench::new()
        .load(GRANT, guest(Guest::Agent))
        .await
        .expect("an agent that only signs");
}

#[tokio::test]
async fn the_sixty_fifth_open_handle_of_a_kind_is_one_too_many() {
    for what in ["open-sealers box", "open-authenticators ticket"] {
        let report = toy("", &format!("{what} 65")).await;
        assert_eq!(
            report.end,
            InstanceEnd::Stopped {
                limit: StopLimit::Handles
            },
            "{what}"
        );
        let report = toy("", &format!("{what} 64\n{what} 64")).await;
        assert_eq!(
            done(&report),
            ["opened 64", "opened 64"],
            "closed ones do not count"
        );
    }
    let report = toy("", "open-sealers other 1\nopen-authenticators other 1").await;
    assert_eq!(done(&report), ["refused NotGranted after 0"; 2]);
}

#[tokio::test]
async fn a_list_larger_than_a_host_call_may_lift_is_not_lifted() {
    let roomy = "[limits]\nmemory = \"128 MiB\"\n";
    for command in [
        "seal-size box 1 33554432",
        "seal-size box 33554432 1",
        "unseal-size box 33554432",
        "tag-size ticket 33554432",
        "verify-size ticket 33554432",
    ] {
        let bench = Bench::new();
        let rest = format!("{roomy}{BOX}{TICKET}");
        let agent = bench.load(&rest, guest(Guest::Symmetric)).await.expect("loads");
        let report = agent.run(RunInput::text(command)).await.expect("starts");
        assert_eq!(
            report.end,
            InstanceEnd::Stopped {
                limit: StopLimit::HostCall
            },
            "{command}"
        );
    }
    for claimed in ["15728640", "1073741824", "4294967280"] {
        let report = toy("", &format!("seal-claimed box {claimed}")).await;
        let InstanceEnd::Trapped { trap } = report.end else {
            panic!("{report:?}")
        };
        assert!(trap.contains("out of bounds"), "{trap}");
    }
}

#[tokio::test]
async fn an_answer_of_a_broker_beyond_the_bounds_reaches_no_agent() {
    let lying = "[grants.lying]\nseal = { key = \"state\", allow = [\"seal\"] }\n";
    let tag = "a1".repeat(TAG);
    let commands =
        format!("seal lying c t\nunseal lying c 00\ntag lying c\nverify lying {tag} c\nseal box c t");
    let report = toy(lying, &commands).await;
    let said = done(&report);
    assert_eq!(said[..4], ["refused Unavailable"; 4]);
    assert_eq!(said[4..], ["75"], "the control");
}

/// A keyring with the keys `state` and `other` for boxes and `ticket` for MACs, in these custodies.
struct Scene {
    // Dropped before the folder.
    stage: Arc<Stage>,
    _folder: TempDir,
}

impl Scene {
    /// In the hardest custody there is.
    async fn new(swtpm: bool) -> Self {
        let folder = TempDir::new().unwrap();
        let vault = if swtpm {
            Vault::swtpm(folder.path()).await
        } else {
            Vault::passphrase(folder.path(), None).await
        };
        for (key, profile, algorithm) in [
            ("state", Profile::Seal {}, SymmetricAlgorithm::XChaCha20Poly1305),
            ("other", Profile::Seal {}, SymmetricAlgorithm::XChaCha20Poly1305),
            (
                "ticket",
                Profile::Mac {
                    label: named("acme/ticket"),
                },
                SymmetricAlgorithm::HmacSha256,
            ),
        ] {
            let custody = vault.broker.default_custody(algorithm);
            assert_eq!(custody == CustodyKind::Software, !swtpm, "{key}");
            let making = vault.broker.create_symmetric_key(named(key), profile, custody);
            making.await.expect("a key");
        }
        Self {
            stage: Arc::new(Stage::new(vault)),
            _folder: folder,
        }
    }

    async fn script(&self, name: &str, rest: &str, commands: &str) -> Vec<String> {
        let rest = format!("{BOX}{TICKET}{rest}");
        let agent = self
            .stage
            .load_guest(Guest::Symmetric, name, &rest)
            .await
            .expect("loads");
        let report = play(&agent, commands, Vec::new()).await;
        done(&report).into_iter().map(str::to_owned).collect()
    }
}

const CUSTODIES: [bool; 2] = [false, true];

#[tokio::test(flavor = "multi_thread")]
async fn a_box_opens_for_its_key_and_context_and_what_is_changed_does_not() {
    for swtpm in CUSTODIES {
        let scene = Scene::new(swtpm).await;
        let other = "[grants.other]\nseal = { key = \"other\", allow = [\"unseal\"] }\n";
        let sealed = scene
            .script("maker", "", "seal box of-alice secret")
            .await
            .remove(0);
        assert_eq!(sealed.len(), 2 * (6 + BOX_OVERHEAD));
        let length = sealed.len() / 2;
        // Another agent with a grant of the same key: who may open is the operator's to say.
        let opened = scene
            .script("reader", "", &format!("unseal box of-alice {sealed}"))
            .await;
        assert_eq!(opened, ["secret"]);
        let commands = format!(
            "unseal box of-bob {sealed}\nunseal other of-alice {sealed}\nunseal box - {sealed}\nseal box - text\n\
             seal-size box 1025 1\nseal-size box 1024 {MAX_PLAINTEXT}\nseal-size box 1 {}\nunseal-size box 65582\nunseal-size box 16000000",
            MAX_PLAINTEXT + 1
        );
        let said = scene.script("attacker", other, &commands).await;
        let invalid = "refused Invalid";
        let largest = format!("sealed {}", MAX_PLAINTEXT + BOX_OVERHEAD);
        assert_eq!(
            said,
            [
                invalid, invalid, invalid, invalid, invalid, &largest, invalid, invalid, invalid
            ]
        );
        // Whoever tries every length and every byte is soon not answered any more.
        for (name, command) in [("cutter", "unseal-cut"), ("flipper", "unseal-changed")] {
            let said = scene
                .script(name, "", &format!("{command} box of-alice {sealed}"))
                .await;
            let throttled = length - MAX_GUESSES;
            assert_eq!(
                said,
                [format!("Invalid={MAX_GUESSES} Throttled={throttled}")],
                "{name}"
            );
        }
        let log = scene.stage.close().await;
        let alerts = |name: &str| {
            let events = events_of(&log, name);
            let guessing = |event: &&&Event| {
                matches!(
                    event,
                    Event::Alert {
                        rule: Rule::Guesses,
                        ..
                    }
                )
            };
            events.iter().filter(guessing).count()
        };
        assert_eq!([alerts("cutter"), alerts("flipper"), alerts("reader")], [1, 1, 0]);
        let of = |name: &str| -> Vec<_> {
            let uses = uses(&log).into_values();
            uses.filter(|(used, _)| used.agent.as_str() == name)
                .map(|(used, settled)| (used.operation, settled))
                .collect()
        };
        assert_eq!(
            of("reader"),
            [(Some(Operation::Unseal), Some(Settlement::Released))]
        );
        let guess = (Some(Operation::Unseal), Some(Settlement::Mismatch));
        assert_eq!(of("cutter"), vec![guess; MAX_GUESSES]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_is_right_for_its_content_and_what_is_changed_is_not() {
    for swtpm in CUSTODIES {
        let scene = Scene::new(swtpm).await;
        let made = scene
            .script("maker", "", "tag ticket alice\ntag ticket alice\ntag ticket bob")
            .await;
        assert_eq!(made[0], made[1], "a MAC is a function");
        assert_ne!(made[0], made[2]);
        let tag = &made[0];
        assert_eq!(tag.len(), 2 * TAG);
        let commands = format!(
            "verify ticket {tag} alice\nverify ticket {tag} bob\nverify ticket {} alice\nverify ticket - alice\n\
             verify-size ticket 16000000\ntag-size ticket {MAX_MAC_CONTENT}\ntag-size ticket {}",
            &tag[2..],
            MAX_MAC_CONTENT + 1
        );
        let said = scene.script("reader", "", &commands).await;
        let largest = format!("tag {TAG}");
        assert_eq!(
            said,
            [
                "true",
                "false",
                "false",
                "false",
                "false",
                &largest,
                "refused Invalid"
            ]
        );
        let said = scene
            .script("flipper", "", &format!("verify-changed ticket alice {tag}"))
            .await;
        assert_eq!(
            said,
            [format!("Throttled={} false={MAX_GUESSES}", TAG - MAX_GUESSES)]
        );
        scene.stage.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_learns_of_its_keys_and_grants_and_nothing_that_opens_a_box() {
    let scene = Scene::new(false).await;
    let keys = scene.stage.vault.broker.keyring();
    let id = |key: &str| keys.key(&named(key)).unwrap().key_id();
    let said = scene
        .script("asker", "", "sealer box\nauthenticator ticket\ngrants")
        .await;
    assert_eq!(
        said,
        [
            format!("xchacha20-poly1305 {} v1", id("state")),
            format!("hmac-sha256 {} v1 acme/ticket", id("ticket")),
            "box:seal:None,ticket:mac:None".to_owned(),
        ]
    );
    scene.stage.close().await;
}
