//! Nonces that servers demand in DPoP proofs: the next proof holds the last one of its server, and no agent sees any.

use claviger_core::audit::RequestPurpose;
use claviger_core::egress::DpopNonce;

use super::proofs::{ENDPOINT, grant, key, opened, purpose, slot, uses};
use super::web::{CANARY, Given, Scene, Script, creation, head};
use super::*;

async fn scene() -> (Scene, InstanceId, PublicKey) {
    let scene = Scene::new().await;
    let public = key(&scene, "bound", Profile::Dpop {}, Algorithm::P256).await;
    scene
        .broker()
        .add_secret(creation(
            "client",
            claviger_core::http::InjectionKind::OauthClient,
            "https://as.test",
            &format!("{CANARY}-client"),
        ))
        .await
        .unwrap();
    let who = scene
        .fixture
        .start(&grant(&format!(
            "dpop = \"bound\", oauth2 = \"client-credentials\", token-endpoint = \"{ENDPOINT}\", client-id = \"bot\", \
             auth = \"basic\", client-secret = \"client\""
        )))
        .await;
    (scene, who, public)
}

fn give(scene: &Scene, token: &'static str) {
    scene.web.will_give(Given {
        token: Ok((token, Some(3600), None)),
        slow: false,
    });
}

/// The nonces in the proofs for the token endpoint.
fn at_the_endpoint(scene: &Scene, key: &PublicKey) -> Vec<Option<String>> {
    let proofs = scene.web.proofs.lock().unwrap();
    let proofs = proofs
        .iter()
        .map(|(_, proof)| nonce(proof.as_ref().unwrap(), key));
    proofs.collect()
}

/// The nonces in the proofs for the API.
fn at_the_api(scene: &Scene, key: &PublicKey) -> Vec<Option<String>> {
    let seen = scene.web.seen();
    seen.iter().map(|seen| nonce(slot(seen, "dpop"), key)).collect()
}

fn nonce(proof: &str, key: &PublicKey) -> Option<String> {
    let (_, payload) = opened(proof, key);
    payload
        .get("nonce")
        .map(|nonce| nonce.as_str().unwrap().to_owned())
}

fn some(nonce: &str) -> Option<String> {
    Some(nonce.to_owned())
}

#[tokio::test]
async fn a_demanded_nonce_is_in_the_second_proof_and_each_request_is_on_the_log() {
    let (scene, who, public) = scene().await;
    scene.web.demands.lock().unwrap().push_back("as-nonce-1");
    *scene.web.beside.lock().unwrap() = Some("as-nonce-2");
    give(&scene, "canary-token-1");
    scene.get(who).await.unwrap();
    assert_eq!(at_the_endpoint(&scene, &public), [None, some("as-nonce-1")]);
    assert_eq!(at_the_api(&scene, &public), [None], "the nonce of another server");
    let uses = uses(&scene).await;
    let purposes: Vec<_> = uses.iter().map(purpose).collect();
    let (proof, token) = (RequestPurpose::Proof, RequestPurpose::Token);
    assert_eq!(purposes, [proof, token, proof, token, RequestPurpose::Agent]);
    let settled: Vec<_> = scene
        .traffic()
        .await
        .into_iter()
        .map(|(settlement, _)| settlement)
        .collect();
    let (released, failed) = (Settlement::Released, Settlement::Failed);
    assert_eq!(settled, [released, failed, released, released, released]);

    // What came beside the token is for the next one.
    scene.fixture.clock.advance(SignedDuration::from_secs(3600));
    give(&scene, "canary-token-2");
    scene.get(who).await.unwrap();
    assert_eq!(at_the_endpoint(&scene, &public)[2..], [some("as-nonce-2")]);
    scene.log_is_clean().await;
}

#[tokio::test]
async fn a_server_that_demands_another_nonce_each_time_is_asked_twice() {
    let (scene, who, public) = scene().await;
    scene.web.demands.lock().unwrap().extend(["n-1", "n-2", "n-3"]);
    scene.get(who).await.unwrap_err();
    assert_eq!(at_the_endpoint(&scene, &public), [None, some("n-1")]);
    assert!(
        scene.web.seen().is_empty(),
        "nothing goes to the API without a token"
    );
    // After the pause the last one it said is tried first.
    scene.fixture.clock.advance(SignedDuration::from_secs(2));
    give(&scene, "canary-token-1");
    scene.get(who).await.unwrap();
    assert_eq!(at_the_endpoint(&scene, &public)[2..], [some("n-2"), some("n-3")]);
}

#[tokio::test]
async fn a_nonce_of_the_api_is_in_the_next_proof_and_no_agent_sees_it() {
    let (scene, who, public) = scene().await;
    give(&scene, "canary-token-1");
    let demanded = DpopNonce::Demanded("api-nonce-1".to_owned());
    let supplied = DpopNonce::Supplied("api-nonce-2".to_owned());
    scene.web.will(Script::Nonce(401, demanded));
    scene.web.will(Script::Nonce(200, supplied));
    let mut statuses = Vec::new();
    for _ in 0..3 {
        let answer = scene
            .broker()
            .send(who, head("GET /repos/a", &[]), None)
            .await
            .unwrap();
        assert_eq!(answer.dpop_nonce, None);
        statuses.push(answer.status);
    }
    assert_eq!(statuses, [401, 200, 200]);
    assert_eq!(
        at_the_api(&scene, &public),
        [None, some("api-nonce-1"), some("api-nonce-2")]
    );
    assert_eq!(scene.web.asked().len(), 1, "the token was not what was refused");
    // The control: a 401 that demands no nonce ends the token.
    scene
        .web
        .will(Script::Nonce(401, DpopNonce::Supplied("api-nonce-3".to_owned())));
    scene.ask(who, "GET /repos/a").await.unwrap();
    give(&scene, "canary-token-2");
    scene.get(who).await.unwrap();
    assert_eq!(at_the_api(&scene, &public)[4..], [some("api-nonce-3")]);
    assert_eq!(scene.web.asked().len(), 2);
    scene.log_is_clean().await;
}

#[tokio::test]
async fn a_nonce_beside_an_answer_without_proofs_changes_nothing() {
    let scene = Scene::new().await;
    let who = scene.fixture.start(web::GRANT).await;
    scene
        .web
        .will(Script::Nonce(401, DpopNonce::Demanded("api-nonce-1".to_owned())));
    for _ in 0..2 {
        scene.ask(who, "GET /repos/a").await.unwrap();
    }
    let seen = scene.web.seen();
    assert_eq!(seen[0].slots, seen[1].slots);
}
