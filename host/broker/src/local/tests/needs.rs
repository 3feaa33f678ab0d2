//! What a grant needs of the keyring: the same whether it is asked when an agent is admitted or of the keyring's file alone, and each lack
//! says what to do.

use claviger_core::http::InjectionKind;
use claviger_core::profile::AssertionType;

use super::proofs::{ENDPOINT, grant, key};
use super::web::{API, CANARY, Scene, creation};
use super::*;
use crate::fit::Shelf;
use crate::keyring::Keyring;

/// What admission says of each grant, and what the file alone says.
async fn said(scene: &Scene, grants: &str) -> (Vec<String>, Vec<String>) {
    let manifest = Fixture::manifest(grants);
    let admitted = scene.broker().admit(&manifest, ComponentDigest::of(CODE)).await;
    let refused = admitted.err().map(|no| no.reasons).unwrap_or_default();
    let refused = refused.iter().map(ToString::to_string).collect();
    let folder = scene.fixture.folder.path().join("keyring");
    let shelf = Shelf::new(
        Keyring::list_public(&folder).unwrap(),
        Keyring::list_public_secrets(&folder).unwrap(),
    );
    let now = scene.fixture.clock.now();
    let lacks = manifest.grants.keys().flat_map(|alias| {
        let needs = shelf.needs(&manifest, alias, now).into_iter();
        needs.filter_map(move |need| Some(format!("grant `{alias}`: {}", need.found.err()?)))
    });
    (refused, lacks.collect())
}

#[tokio::test]
async fn a_file_says_what_admission_says_of_each_credential_and_what_to_do() {
    let scene = Scene::new().await;
    let assertion = Profile::ClientAssertion {
        client_id: name("me"),
        audience: name(ENDPOINT),
        typ: AssertionType::Explicit,
    };
    key(&scene, "client", assertion, Algorithm::P256).await;
    key(
        &scene,
        "gone",
        Profile::Labeled { label: name("l") },
        Algorithm::Ed25519,
    )
    .await;
    let broker = scene.broker();
    broker
        .set_key_state(&name("gone"), KeyState::Disabled)
        .await
        .unwrap();
    for (secret, kind, origin) in [
        ("old", InjectionKind::Bearer, API),
        ("off", InjectionKind::Bearer, API),
        ("elsewhere", InjectionKind::Bearer, "https://other.test"),
        ("query", InjectionKind::Query, API),
    ] {
        let mut creation = creation(secret, kind, origin, CANARY);
        creation.expires = (secret == "old").then(|| "2026-06-01T12:00:30Z".parse().unwrap());
        broker.add_secret(creation).await.unwrap();
    }
    broker
        .set_secret_state(&name("off"), KeyState::Disabled)
        .await
        .unwrap();
    scene.fixture.clock.advance(SignedDuration::from_secs(60));
    let sign = |what: &str| format!("[grants.api]\n{what}\n");
    let client = |id: &str| {
        grant(&format!(
            "oauth2 = \"client-credentials\", token-endpoint = \"{ENDPOINT}\", client-id = \"{id}\", auth = \"private-key-jwt\", key = \"client\""
        ))
    };
    let rows = [
        // Each with the one that is as it must be.
        (sign("sign = { key = \"release\", namespace = \"file\" }"), None),
        (
            sign("sign = { key = \"relase\" }"),
            Some("did you mean `release`?"),
        ),
        (
            sign("sign = { key = \"x\", label = \"l\" }"),
            Some("make one with `claviger key create x --profile labeled`"),
        ),
        (
            sign("seal = { key = \"x\", allow = [\"seal\"] }"),
            Some("make one with `claviger key create x --profile seal`"),
        ),
        (
            sign("seal = { key = \"release\", allow = [\"seal\"] }"),
            Some("`claviger key create NAME --profile seal`"),
        ),
        (
            sign("mac = { key = \"release\", allow = [\"verify\"] }"),
            Some("`claviger key create NAME --profile mac`"),
        ),
        (
            sign("attest = { key = \"release\", audiences = [\"a\"] }"),
            Some("`claviger key create NAME --profile attest`"),
        ),
        (
            sign("sign = { key = \"gone\" }"),
            Some("`claviger key enable gone`"),
        ),
        (
            sign("sign = { key = \"client\" }"),
            Some("name it in `inject` of a grant with `http`"),
        ),
        (grant("bearer = \"github\""), None),
        (
            grant("bearer = \"absent\""),
            Some("add it with `claviger secret add absent --kind bearer --origin https://api.test`"),
        ),
        (grant("bearer = \"off\""), Some("`claviger secret enable off`")),
        (grant("bearer = \"old\""), Some("`claviger secret replace old`")),
        (
            grant("bearer = \"elsewhere\""),
            Some("may be sent to https://other.test alone"),
        ),
        (
            grant("bearer = \"query\""),
            Some("is for `query`, not for `bearer`"),
        ),
        (client("me"), None),
        (client("you"), Some("correct `client-id` or the endpoint")),
        (
            grant("http-signature = \"release\""),
            Some("`claviger key create NAME --profile http-signature`"),
        ),
    ];
    for (grants, expected) in rows {
        let (refused, lacks) = said(&scene, &grants).await;
        assert_eq!(refused, lacks, "{grants}");
        match expected {
            None => assert!(lacks.is_empty(), "the control: {grants}: {lacks:?}"),
            Some(part) => assert!(lacks.len() == 1 && lacks[0].contains(part), "{grants}: {lacks:?}"),
        }
    }
    scene.log_is_clean().await;
}
