//! What a running host says of budgets and uses is what its log says, over every kind of use: a restart changes no answer. Every test that
//! reads its log compares the two; here each kind of use is there. Evidence is not: it needs a TPM.

use std::collections::BTreeSet;

use claviger_core::audit::{Operation, RequestPurpose, SecretRef, Use};
use claviger_core::http::InjectionKind;

use super::approvals::{ME, pending};
use super::proofs::{ENDPOINT, grant, key};
use super::symmetric::{HOOK, STATE};
use super::web::{API, CANARY, Given, Scene, Script, creation};
use super::*;
use crate::keyring::SecretReplacement;
use crate::ledger::Usage;

/// The two ledgers say the same.
pub(super) fn same(live: &Ledger, folded: &Ledger) {
    assert_eq!(live.said(), folded.said(), "what runs, and what the log says");
}

/// What tells one kind of use from another: which credentials it has, for what, and on whose behalf.
type Kind = (bool, bool, Option<Operation>, Option<RequestPurpose>);

fn kind(used: &Use) -> Kind {
    let purpose = used.request.as_ref().map(|request| request.purpose);
    (used.key.is_some(), used.secret.is_some(), used.operation, purpose)
}

/// The kinds that the log has, once the running host was seen to count each, and to count the same when it is opened again.
async fn kinds(fixture: Fixture) -> BTreeSet<String> {
    let events = fixture.events().await;
    let uses: Vec<_> = events
        .into_iter()
        .filter_map(|event| match event {
            Event::Allowed(used) => Some(used),
            _ => None,
        })
        .collect();
    let count = |ledger: &Ledger| {
        let keyring = fixture.broker.keyring();
        let keys = keyring.keys().into_iter().map(|record| {
            let usage = ledger.key_usage(&record.key).cloned();
            (record.key.to_string(), usage)
        });
        let secrets = keyring.secrets().into_iter().map(|record| {
            let usage = ledger.secret_usage(&record.secret).cloned();
            (record.secret.to_string(), usage)
        });
        keys.chain(secrets).collect::<Vec<(String, Option<Usage>)>>()
    };
    let live = fixture.broker.snapshot();
    let counted = count(&live);
    let all = |usage: &Option<Usage>| usage.as_ref().map_or(0, |usage| usage.all.uses);
    for (name, usage) in &counted {
        let of = |used: &&Use| {
            let key = used.key.as_ref().map(ToString::to_string);
            let secret = used.secret.as_ref().map(SecretRef::to_string);
            key.as_ref() == Some(name) || secret.as_ref() == Some(name)
        };
        let logged = uses.iter().filter(of).count();
        assert_eq!(all(usage), u64::try_from(logged).unwrap(), "{name}");
    }
    let grants = |ledger: &Ledger| {
        let mut grants: Vec<_> = ledger
            .grants()
            .map(|(_, grant, state)| (grant.clone(), state))
            .collect();
        grants.sort_by(|(one, _), (other, _)| one.cmp(other));
        grants
    };
    let held = grants(&live);
    let Fixture {
        folder,
        clock,
        resident,
        egress,
        broker,
    } = fixture;
    broker.close().await.unwrap();
    drop(broker);
    let broker = LocalBroker::open(options(&folder, &clock, resident.as_ref(), egress.as_ref()))
        .await
        .unwrap();
    let reopened = broker.snapshot();
    let keyring = broker.keyring();
    let again: Vec<_> = counted
        .iter()
        .map(|(name, _)| {
            let key = keyring
                .keys()
                .into_iter()
                .find(|record| record.key.to_string() == *name);
            let secret = keyring
                .secrets()
                .into_iter()
                .find(|record| record.secret.to_string() == *name);
            let of_key = key.and_then(|record| reopened.key_usage(&record.key).cloned());
            let of_secret = secret.and_then(|record| reopened.secret_usage(&record.secret).cloned());
            (name.clone(), of_key.or(of_secret))
        })
        .collect();
    assert_eq!(again, counted, "opened again");
    assert_eq!(grants(&reopened), held, "opened again");
    uses.iter().map(|used| format!("{:?}", kind(used))).collect()
}

async fn without_requests() -> Fixture {
    let fixture = symmetric::fixture().await;
    let creation = KeyCreation {
        name: name("mtls"),
        profile: Profile::Mtls {},
        algorithm: Algorithm::P256,
        custody: CustodyKind::Software,
    };
    fixture.broker.create_key(creation).await.unwrap();
    let tokens = "[grants.tokens]\nsign = { key = \"tokens\" }\nuses = 1\n";
    let who = fixture.start(&format!("{RELEASE}{tokens}{STATE}{HOOK}")).await;
    fixture.sign(who, "release", b"x").await.unwrap();
    fixture.clock.advance(SignedDuration::from_secs(60));
    fixture
        .broker
        .rotate_key(&name("release"), Rotation::default())
        .await
        .unwrap();
    fixture.sign(who, "release", b"y").await.unwrap();
    fixture.sign(who, "tokens", b"{}").await.unwrap();
    fixture.sign(who, "tokens", b"{}").await.unwrap_err();
    let sealed = fixture.seal(who, "state", b"text", b"said").await.unwrap();
    fixture.unseal(who, "state", &sealed, b"said").await.unwrap();
    fixture
        .unseal(who, "state", &sealed, b"another")
        .await
        .unwrap_err();
    fixture
        .unseal(who, "state", b"no box", b"said")
        .await
        .unwrap_err();
    let tag = fixture.tag(who, "hook", b"x").await.unwrap();
    assert!(fixture.verify(who, "hook", b"x", &tag).await.unwrap());
    fixture
        .broker
        .certificate_request(&name("mtls"), "CN=bot")
        .await
        .unwrap();
    fixture
}

async fn with_requests() -> Fixture {
    let scene = Scene::new().await;
    let manifest = web::GRANT.replace("inject", "approval = \"first-use\"\ninject");
    let who = scene.fixture.start(&manifest).await;
    let sending = {
        let broker = Arc::clone(&scene.fixture.broker);
        tokio::spawn(async move {
            broker
                .send(who, web::head("GET /repos/a", &[]), None)
                .await
                .map(drop)
        })
    };
    let one = pending(scene.broker(), 1).await.remove(0);
    let question = scene.broker().approval_question(one.id).unwrap();
    let manifest = Fixture::manifest(web::GRANT);
    let claviger_core::manifest::Capability::Http(http) = &manifest.grants[&name("api")].capability else {
        panic!()
    };
    let target = claviger_core::http::Target::parse("https://api.test/approve", http.encoding).unwrap();
    let hook = Webhook::new(target, http);
    scene.web.will(Script::Answer(202, Vec::new()));
    scene
        .broker()
        .ask_webhook(&hook, &question, b"{}".to_vec())
        .await
        .unwrap();
    scene.broker().approve(one.id, ME).await.unwrap();
    sending.await.unwrap().unwrap();
    let replacement = SecretReplacement {
        name: name("github"),
        of: None,
        expires: None,
        rotate_every: None,
        value: Secret::take(&mut format!("{CANARY}-2").into_bytes()).unwrap(),
    };
    scene.broker().replace_secret(replacement).await.unwrap();
    scene.get(who).await.unwrap();
    scene
        .web
        .will(Script::Fail(claviger_core::egress::Fault::Certificate));
    scene.get(who).await.unwrap_err();
    scene.fixture
}

async fn with_tokens() -> Fixture {
    let scene = Scene::new().await;
    key(&scene, "bound", Profile::Dpop {}, Algorithm::P256).await;
    let client = creation(
        "client",
        InjectionKind::OauthClient,
        "https://as.test",
        &format!("{CANARY}-client"),
    );
    scene.broker().add_secret(client).await.unwrap();
    let inject = format!(
        "dpop = \"bound\", oauth2 = \"client-credentials\", token-endpoint = \"{ENDPOINT}\", client-id = \"bot\", \
         auth = \"basic\", client-secret = \"client\""
    );
    let who = scene.fixture.start(&grant(&inject)).await;
    // One that fails comes first, and then nothing that the agent did stands on the log under its grant.
    scene.web.will_give(Given {
        token: Err(claviger_core::egress::Fault::Certificate),
        slow: false,
    });
    scene.get(who).await.unwrap_err();
    let ledger = scene.broker().snapshot();
    assert_eq!(ledger.grant(&name("bot"), &name("api")).uses, 0);
    let usage = ledger.secret_usage(&SecretRef {
        name: name("client"),
        version: claviger_core::KeyVersion::FIRST,
    });
    assert_eq!(
        usage.map(|usage| usage.all.uses),
        Some(1),
        "the host's own request"
    );
    scene.fixture.clock.advance(SignedDuration::from_secs(60));
    scene.web.will_give(Given {
        token: Ok(("canary-access-token-1", Some(3600), None)),
        slow: false,
    });
    scene.get(who).await.unwrap();
    // Its key signs, and no secret goes along.
    let signed = "[grants.signed]\nhttp = { origin = \"API\", allow = [\"GET /repos/*\"] }\ninject = { http-signature = \"signer\", lifetime = \"30 s\" }\n";
    let profile = Profile::HttpSignature {
        tag: None,
        max_lifetime: 60,
    };
    key(&scene, "signer", profile, Algorithm::Ed25519).await;
    let who = scene.fixture.start(&signed.replace("API", API)).await;
    scene.get(who).await.unwrap();
    scene.fixture
}

#[tokio::test]
async fn what_a_running_host_counts_is_what_its_log_says_whatever_it_was_used_for() {
    let mut seen = kinds(without_requests().await).await;
    seen.extend(kinds(with_requests().await).await);
    seen.extend(kinds(with_tokens().await).await);
    // The control: every kind is there. A key or a secret; sealing, unsealing, making and checking tags; requests of agents and of the
    // host's own: tokens, proofs, approvals.
    let agent = Some(RequestPurpose::Agent);
    let expected: [Kind; 11] = [
        (true, false, None, None),
        (true, false, Some(Operation::Seal), None),
        (true, false, Some(Operation::Unseal), None),
        (false, false, Some(Operation::Unseal), None),
        (true, false, Some(Operation::Generate), None),
        (true, false, Some(Operation::Verify), None),
        (false, true, None, agent),
        (true, false, None, agent),
        (false, true, None, Some(RequestPurpose::Approval)),
        (false, true, None, Some(RequestPurpose::Token)),
        (true, false, None, Some(RequestPurpose::Proof)),
    ];
    let expected: BTreeSet<_> = expected.iter().map(|kind| format!("{kind:?}")).collect();
    let missing: Vec<_> = expected.difference(&seen).collect();
    assert!(missing.is_empty(), "{missing:?} of {seen:?}");
}

#[test]
fn two_that_differ_by_one_use_are_not_the_same() {
    let mut one = Ledger::default();
    let other = Ledger::default();
    same(&one, &other);
    one.certified(&KeyRef {
        name: name("k"),
        version: claviger_core::KeyVersion::FIRST,
    });
    let differs = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| same(&one, &other)));
    assert!(differs.is_err(), "the control");
}
