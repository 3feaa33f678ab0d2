//! Requests that wait for an approval, and the web service that may give one.

use claviger_core::approval::Subject;
use claviger_core::audit::RequestPurpose;
use claviger_core::egress::Fault;

use super::approvals::{ME, pending};
use super::web::{CANARY, GRANT, Scene, Script, chunks, head, refused};
use super::*;
use crate::local::{HookError, Webhook};

fn wanting(grant: &str) -> String {
    grant.replace("inject", "approval = \"each\"\ninject")
}

#[tokio::test]
async fn a_request_waits_whole_and_goes_out_as_it_was_shown() {
    let scene = Arc::new(Scene::new().await);
    let who = scene.fixture.start(&wanting(GRANT)).await;
    let asking = |body: &'static [&'static str]| {
        let scene = Arc::clone(&scene);
        tokio::spawn(async move {
            let head = head("POST /repos/a", &[("accept", "text/plain")]);
            scene.broker().send(who, head, chunks(body)).await
        })
    };
    let sending = asking(&["hel", "lo"]);
    let one = pending(scene.broker(), 1).await.remove(0);
    let question = scene.broker().approval_question(one.id).unwrap();
    let Subject::Send {
        method,
        url,
        headers,
        inject,
        body,
        ..
    } = &question.subject
    else {
        panic!("{question:?}")
    };
    assert_eq!(
        (method.as_str(), url.as_str()),
        ("POST", "https://api.test/repos/a")
    );
    assert_eq!((inject.as_str(), body.text()), ("bearer", Some("hello")));
    assert_eq!(headers, &[("accept".to_owned(), "text/plain".to_owned())]);
    assert!(scene.web.seen().is_empty(), "nothing is sent before");
    scene.broker().approve(one.id, ME).await.unwrap();
    assert_eq!(sending.await.unwrap().unwrap().status, 200);
    assert_eq!(scene.web.seen()[0].body, b"hello");

    let sending = asking(&["bye"]);
    let two = pending(scene.broker(), 1).await.remove(0);
    scene.broker().deny_approval(two.id, ME, "").await.unwrap();
    let error = sending.await.unwrap().unwrap_err();
    assert_eq!(refused(&error), Refusal::NotApproved);
    assert_eq!(scene.web.seen().len(), 1, "nothing is sent after a denial");
    scene.log_is_clean().await;
}

#[tokio::test]
async fn a_request_that_is_approved_is_decided_anew() {
    let scene = Arc::new(Scene::new().await);
    let who = scene.fixture.start(&wanting(GRANT)).await;
    let asking = || {
        let scene = Arc::clone(&scene);
        tokio::spawn(async move { scene.get(who).await })
    };
    let sending = asking();
    let one = pending(scene.broker(), 1).await.remove(0);
    let state = |state| scene.broker().set_secret_state_of("github", state);
    state(KeyState::Disabled).await;
    scene.broker().approve(one.id, ME).await.unwrap();
    assert_eq!(refused(&sending.await.unwrap().unwrap_err()), Refusal::Revoked);
    assert!(scene.web.seen().is_empty());
    // The control.
    state(KeyState::Active).await;
    let sending = asking();
    let two = pending(scene.broker(), 1).await.remove(0);
    scene.broker().approve(two.id, ME).await.unwrap();
    sending.await.unwrap().unwrap();
}

impl LocalBroker {
    async fn set_secret_state_of(&self, secret: &str, state: KeyState) {
        drop(self.set_secret_state(&name(secret), state).await.unwrap());
    }
}

#[tokio::test]
async fn a_webhook_is_asked_with_its_secret_on_record_and_not_counted() {
    let scene = Arc::new(Scene::new().await);
    let who = scene.fixture.start(&wanting(GRANT)).await;
    let sending = {
        let scene = Arc::clone(&scene);
        tokio::spawn(async move { scene.get(who).await })
    };
    let one = pending(scene.broker(), 1).await.remove(0);
    let question = scene.broker().approval_question(one.id).unwrap();
    let manifest = Fixture::manifest(GRANT);
    let claviger_core::manifest::Capability::Http(grant) = &manifest.grants[&name("api")].capability else {
        panic!()
    };
    let target = "https://api.test/approve?x=1";
    let target = claviger_core::http::Target::parse(target, grant.encoding).unwrap();
    let hook = Webhook::new(target, grant);
    let ask = async || scene.broker().ask_webhook(&hook, &question, b"{}".to_vec()).await;
    scene.web.will(Script::Answer(202, vec!["not", " yet"]));
    let (status, body) = ask().await.unwrap();
    assert_eq!((status, &body[..]), (202, &b"not yet"[..]));
    let seen = scene.web.seen().remove(0);
    assert_eq!(seen.line, "POST https://api.test/approve?x=1");
    assert_eq!(
        seen.slots,
        [("authorization".to_owned(), format!("Bearer {CANARY}"))]
    );
    let events = scene.fixture.events().await;
    let asked = events.iter().find_map(|event| match event {
        Event::Allowed(used) => Some(used),
        _ => None,
    });
    let asked = asked.unwrap();
    assert_eq!((asked.approval, asked.number), (Some(one.id), 0));
    assert_eq!(asked.request.as_ref().unwrap().purpose, RequestPurpose::Approval);
    assert_eq!(
        scene.broker().snapshot().grant(&name("bot"), &name("api")).uses,
        0
    );

    // What fails, is too long, or may not be asked is no answer.
    scene.web.will(Script::Fail(Fault::Certificate));
    assert!(matches!(ask().await, Err(HookError::Failed(_))));
    scene
        .web
        .will(Script::Answer(200, vec!["0123456789abcdef"; 1025]));
    assert!(matches!(ask().await, Err(HookError::Failed(_))));
    scene
        .broker()
        .set_secret_state_of("github", KeyState::Disabled)
        .await;
    assert!(matches!(ask().await, Err(HookError::Refused(_))));
    scene
        .broker()
        .set_secret_state_of("github", KeyState::Active)
        .await;
    assert!(ask().await.is_ok(), "the control");
    scene.broker().suspend(&name("bot"), &name("api")).await.unwrap();
    assert!(matches!(ask().await, Err(HookError::Refused(_))));
    assert_eq!(scene.web.seen().len(), 4, "what may not be asked is not sent");
    scene.broker().deny_approval(one.id, ME, "").await.unwrap();
    assert!(sending.await.unwrap().is_err());
    scene.log_is_clean().await;
}
