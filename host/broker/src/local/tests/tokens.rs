//! Tokens: asked for once for all, renewed in time, persisted before use, kept from agents, and dropped when they no longer work.

use claviger_core::audit::{RequestPurpose, SecretRef, SecretSource};
use claviger_core::egress::{Answer, Fault, SendError};
use claviger_core::http::InjectionKind;

use super::web::{CANARY, Given, Scene, Script, creation, failed, head, refused};
use super::*;

pub(super) const LOGIN: &str = "https://login.test";
pub(super) const FIRST: &str = "canary-access-token-1";
pub(super) const SECOND: &str = "canary-access-token-2";

pub(super) fn client_credentials() -> String {
    GRANT.replace(
        "INJECT",
        "oauth2 = \"client-credentials\", auth = \"basic\", client-secret = \"client\"",
    )
}

pub(super) fn refreshing() -> String {
    GRANT.replace(
        "INJECT",
        "oauth2 = \"refresh-token\", auth = \"none\", refresh-token = \"refresh\"",
    )
}

const GRANT: &str = "[grants.api]\n\
    http = { origin = \"https://api.test\", allow = [\"GET /repos/*\"] }\n\
    inject = { INJECT, token-endpoint = \"https://login.test/token\", client-id = \"bot\" }\n";

pub(super) const fn gives(token: &'static str, expires_in: u64, refresh: Option<&'static str>) -> Given {
    Given {
        token: Ok((token, Some(expires_in), refresh)),
        slow: false,
    }
}

pub(super) async fn scene() -> Scene {
    let scene = Scene::new().await;
    for (name, kind) in [
        ("client", InjectionKind::OauthClient),
        ("refresh", InjectionKind::OauthRefresh),
    ] {
        let value = format!("{CANARY}-{name}-1");
        scene
            .broker()
            .add_secret(creation(name, kind, LOGIN, &value))
            .await
            .unwrap();
    }
    scene
}

impl Scene {
    pub(super) fn bearers(&self) -> Vec<String> {
        let seen = self.web.seen();
        seen.into_iter()
            .map(|seen| seen.slots[0].1.trim_start_matches("Bearer ").to_owned())
            .collect()
    }

    async fn token_uses(&self) -> Vec<(u64, String)> {
        let events = self.fixture.events().await;
        events
            .into_iter()
            .filter_map(|event| match event {
                Event::Allowed(allowed) => {
                    let line = allowed.request?;
                    let of_host = line.purpose == RequestPurpose::Token;
                    of_host.then(|| (allowed.number, format!("{} {}", line.origin, line.route)))
                }
                _ => None,
            })
            .collect()
    }
}

pub(super) async fn one(scene: &Scene, who: InstanceId) -> Result<Answer, SendError> {
    scene.ask(who, "GET /repos/a").await
}

#[tokio::test]
async fn a_token_is_obtained_once_used_for_all_and_renewed_before_it_expires() {
    let scene = scene().await;
    let grants = client_credentials().replace("inject", "uses = 10\ninject");
    let who = scene.fixture.start(&grants).await;
    scene.web.will_give(gives(FIRST, 3600, None));
    for _ in 0..3 {
        one(&scene, who).await.unwrap();
    }
    assert_eq!(scene.bearers(), [FIRST; 3]);
    assert_eq!(scene.web.asked(), [format!("{CANARY}-client-1")]);
    // Thirty seconds before its end it still works, and is not used any more.
    scene.fixture.clock.advance(SignedDuration::from_secs(3600 - 31));
    one(&scene, who).await.unwrap();
    scene.fixture.clock.advance(SignedDuration::from_secs(1));
    scene.web.will_give(gives(SECOND, 3600, None));
    one(&scene, who).await.unwrap();
    assert_eq!(scene.bearers()[4], SECOND);
    // The host's own requests are on the log, and are no uses.
    let endpoint = "https://login.test POST /token".to_owned();
    assert_eq!(scene.token_uses().await, [(0, endpoint.clone()), (4, endpoint)]);
    let state = scene.broker().snapshot().grant(&name("bot"), &name("api"));
    assert_eq!(state.uses, 5);
    // Whatever comes back is looked for: the secrets of the agent's grants and its tokens.
    assert!(scene.web.seen()[4].watched >= 2);
    scene.log_is_clean().await;
}

#[tokio::test]
async fn many_callers_wait_for_one_token() {
    let scene = scene().await;
    let who = scene.fixture.start(&refreshing()).await;
    scene.web.will_give(Given {
        slow: true,
        ..gives(FIRST, 3600, Some("canary-refresh-2"))
    });
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let broker = Arc::clone(&scene.fixture.broker);
        tasks.spawn(async move { broker.send(who, head("GET /repos/a", &[]), None).await.is_ok() });
    }
    scene.web.entered.notified().await;
    scene.web.go_on.notify_one();
    assert!(tasks.join_all().await.into_iter().all(|sent| sent));
    assert_eq!(scene.web.asked().len(), 1);
    assert_eq!(scene.bearers(), [FIRST; 20]);
}

#[tokio::test]
async fn a_rotated_refresh_token_is_on_disk_before_its_access_token_is_used() {
    let scene = scene().await;
    let who = scene.fixture.start(&refreshing()).await;
    scene
        .web
        .will_give(gives(FIRST, 60, Some("canary-refresh-token-2")));
    one(&scene, who).await.unwrap();
    let events = scene.fixture.events().await;
    let added = events.iter().position(|event| {
        matches!(event, Event::SecretAdded { by: SecretSource::Server, secret, .. } if secret.version.0 == 2)
    });
    let used = events.iter().position(|event| {
        matches!(event, Event::Allowed(allowed)
            if allowed.request.as_ref().is_some_and(|line| line.purpose == RequestPurpose::Agent))
    });
    assert!(added.unwrap() < used.unwrap(), "{events:#?}");
    // The next one is asked for with what the server gave, once; the same one again changes nothing.
    scene.fixture.clock.advance(SignedDuration::from_secs(31));
    scene
        .web
        .will_give(gives(SECOND, 60, Some("canary-refresh-token-2")));
    one(&scene, who).await.unwrap();
    scene.fixture.clock.advance(SignedDuration::from_secs(31));
    scene.web.will_give(gives(FIRST, 60, None));
    one(&scene, who).await.unwrap();
    assert_eq!(
        scene.web.asked(),
        [
            &format!("{CANARY}-refresh-1"),
            "canary-refresh-token-2",
            "canary-refresh-token-2"
        ]
    );
    scene.log_is_clean().await;
    // After a restart it is still there.
    let fixture = scene.fixture.reopen().await;
    let refresh = SecretRef {
        name: name("refresh"),
        version: claviger_core::KeyVersion(2),
    };
    let kept = fixture.broker.keyring().secret_material(&refresh).unwrap();
    assert!(kept.equals(b"canary-refresh-token-2"));
}

#[tokio::test]
async fn a_rotation_is_kept_though_whoever_asked_for_it_went_away() {
    let scene = scene().await;
    let who = scene.fixture.start(&refreshing()).await;
    scene.web.will_give(Given {
        slow: true,
        ..gives(FIRST, 3600, Some("canary-refresh-token-2"))
    });
    {
        let asking = one(&scene, who);
        tokio::select! {
            _ = asking => panic!("the server is slow"),
            () = scene.web.entered.notified() => {}
        }
    }
    scene.web.go_on.notify_one();
    one(&scene, who).await.unwrap();
    assert_eq!(scene.web.asked().len(), 1, "the first request went on");
    assert_eq!(
        scene
            .broker()
            .keyring()
            .secret(&name("refresh"))
            .unwrap()
            .secret
            .version
            .0,
        2
    );
}

#[tokio::test]
async fn a_refresh_token_that_was_revoked_meanwhile_is_not_revived() {
    let scene = scene().await;
    let who = scene.fixture.start(&refreshing()).await;
    scene.web.will_give(Given {
        slow: true,
        ..gives(FIRST, 3600, Some("canary-refresh-token-2"))
    });
    let (asked, ()) = tokio::join!(one(&scene, who), async {
        scene.web.entered.notified().await;
        let refresh = name("refresh");
        scene
            .broker()
            .set_secret_state(&refresh, KeyState::Revoked)
            .await
            .unwrap();
        scene.web.go_on.notify_one();
    });
    assert_eq!(refused(&asked.unwrap_err()), Refusal::Revoked);
    assert!(scene.web.seen().is_empty(), "nothing was sent");
    assert!(scene.broker().keyring().secret(&name("refresh")).is_none());
}

#[tokio::test]
async fn a_server_that_fails_is_left_alone_for_a_while() {
    let scene = scene().await;
    let who = scene.fixture.start(&client_credentials()).await;
    let fails = || Given {
        token: Err(Fault::Timeout),
        slow: false,
    };
    scene.web.will_give(fails());
    for _ in 0..5 {
        assert_eq!(one(&scene, who).await.unwrap_err(), failed(Fault::Token));
    }
    assert_eq!(scene.web.asked().len(), 1);
    scene.fixture.clock.advance(SignedDuration::from_secs(1));
    scene.web.will_give(fails());
    for _ in 0..2 {
        assert_eq!(one(&scene, who).await.unwrap_err(), failed(Fault::Token));
    }
    assert_eq!(scene.web.asked().len(), 2);
    // Twice as long after the second failure.
    scene.fixture.clock.advance(SignedDuration::from_secs(1));
    assert!(one(&scene, who).await.is_err());
    scene.fixture.clock.advance(SignedDuration::from_secs(1));
    scene.web.will_give(gives(FIRST, 3600, None));
    one(&scene, who).await.unwrap();
    assert_eq!(scene.web.seen().len(), 1);
    assert!(
        scene
            .fixture
            .rules()
            .await
            .iter()
            .all(|rule| *rule == Rule::Token)
    );
    let failed = scene.traffic().await;
    assert_eq!(failed[0].0, Settlement::Failed);
    assert_eq!(failed[0].1.as_ref().unwrap().fault, Some(Fault::Timeout));
}

#[tokio::test]
async fn a_token_that_is_none_is_not_attached() {
    let scene = scene().await;
    let who = scene.fixture.start(&client_credentials()).await;
    scene.web.will_give(gives("canary\r\nx-evil: 1", 3600, None));
    assert_eq!(one(&scene, who).await.unwrap_err(), failed(Fault::Token));
    assert!(scene.web.seen().is_empty());
}

#[tokio::test]
async fn an_api_that_refuses_a_token_gets_another_one_with_the_next_request() {
    let scene = scene().await;
    let who = scene.fixture.start(&client_credentials()).await;
    scene.web.will_give(gives(FIRST, 3600, None));
    scene.web.will(Script::Answer(401, vec![]));
    assert_eq!(one(&scene, who).await.unwrap().status, 401);
    assert_eq!(scene.web.seen().len(), 1, "it is not asked again by itself");
    scene.web.will_give(gives(SECOND, 3600, None));
    one(&scene, who).await.unwrap();
    assert_eq!(scene.bearers(), [FIRST, SECOND]);
}

#[tokio::test]
async fn a_replaced_client_gets_its_own_token_and_agents_do_not_share() {
    let scene = scene().await;
    let who = scene.fixture.start(&client_credentials()).await;
    scene.web.will_give(gives(FIRST, 3600, None));
    one(&scene, who).await.unwrap();
    let replacement = crate::keyring::SecretReplacement {
        name: name("client"),
        of: None,
        expires: None,
        rotate_every: None,
        value: Secret::take(&mut b"canary-another-client".to_vec()).unwrap(),
    };
    scene.broker().replace_secret(replacement).await.unwrap();
    scene.web.will_give(gives(SECOND, 3600, None));
    one(&scene, who).await.unwrap();
    assert_eq!(scene.web.asked()[1], "canary-another-client");
    // Another revision of the manifest is another place.
    let other = scene
        .fixture
        .start(&client_credentials().replace("inject", "uses = 9\ninject"))
        .await;
    scene.web.will_give(gives(FIRST, 3600, None));
    one(&scene, other).await.unwrap();
    assert_eq!(scene.web.asked().len(), 3);
}
