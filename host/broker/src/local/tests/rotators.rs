//! Secrets that a provider issues, replaced by a rotator: what the tests of it share. The provider is scripted, the component is written here.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use claviger_core::audit::{SecretRef, SecretSource};
use claviger_core::egress::{Fault, SendError};
use claviger_core::rotator::{RotationStep, Rotator, RotatorError};

use super::super::{
    Attended, OldVersion, Replaced, SecretRotation, SecretRotationError, WITHDRAWAL, WithdrawalEnd,
};
use super::web::{CANARY, Scene, Script, head, refused, rest};
use super::*;
use crate::keyring::{LifeEvent, SecretReplacement};

mod attacks;
mod course;

const ROTATOR: &str = "[rotates]\n\
    secret = \"github\"\n\
    issue = \"issue\"\n\
    probe = \"probe\"\n\
    value = \"/token\"\n\
    id = \"/id\"\n\
    lifetime = \"/ttl\"\n\
    [grants.issue]\n\
    http = { origin = \"https://api.test\", allow = [\"POST /tokens\"] }\n\
    inject = { bearer = \"github\" }\n\
    [grants.probe]\n\
    http = { origin = \"https://api.test\", allow = [\"GET /whoami\"] }\n\
    inject = { bearer = \"github\" }\n\
    [grants.withdraw]\n\
    http = { origin = \"https://api.test\", allow = [\"DELETE /tokens/*\"] }\n\
    inject = { bearer = \"github\" }\n";

const SECOND: &str = "canary-second-7c1d";
const ISSUED: &str = "{\"token\":\"canary-second-7c1d\",\"id\":\"tok_2\",\"ttl\":0}";
const THIRD: &str = "{\"token\":\"canary-third-99ab\",\"id\":\"tok_3\",\"ttl\":3600}";

/// How a component does its steps.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Honest,
    /// Says that all went well and asks for nothing.
    Idle,
    /// Does it, and says that it failed.
    Gloomy,
    /// Goes away while the provider thinks.
    Hasty,
}

struct Bot {
    broker: Arc<LocalBroker>,
    admission: AdmissionId,
    secret: claviger_core::SecretName,
    manner: Mutex<Manner>,
    // All that an instance was given.
    learned: Mutex<Vec<String>>,
    steps: AtomicUsize,
    web: Arc<web::Web>,
}

impl std::fmt::Debug for Bot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bot")
    }
}

impl Bot {
    async fn of(scene: &Scene, manifest: &str) -> Self {
        let broker = Arc::clone(&scene.fixture.broker);
        let admission = broker
            .admit(&Fixture::manifest(manifest), ComponentDigest::of(CODE))
            .await
            .unwrap();
        Self {
            broker,
            admission: admission.id,
            secret: name("github"),
            manner: Mutex::new(Manner::Honest),
            learned: Mutex::default(),
            steps: AtomicUsize::new(0),
            web: Arc::clone(&scene.web),
        }
    }

    fn will_be(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    async fn ask(&self, who: InstanceId, line: &str) -> Result<u16, SendError> {
        let asked = self.broker.send(who, head(line, &[]), None).await;
        let answer = match asked {
            Ok(mut answer) => {
                let body = rest(&mut answer).await;
                let said = format!("{line} {} {:?} {body:?}", answer.status, answer.headers);
                self.learned.lock().unwrap().push(said);
                body.map(|_| answer.status)
            }
            Err(error) => Err(error),
        };
        if let Err(error) = &answer {
            self.learned.lock().unwrap().push(format!("{line} {error:?}"));
        }
        answer
    }
}

impl Rotator for Bot {
    fn secret(&self) -> &claviger_core::SecretName {
        &self.secret
    }

    fn step(&self, step: RotationStep) -> BoxFuture<'_, Result<(), RotatorError>> {
        Box::pin(async move {
            self.steps.fetch_add(1, Ordering::Relaxed);
            let manner = *self.manner.lock().unwrap();
            let who = self.broker.start(self.admission).unwrap();
            let line = match &step {
                RotationStep::Issue => "POST /tokens".to_owned(),
                RotationStep::Probe => "GET /whoami".to_owned(),
                RotationStep::Withdraw(id) => format!("DELETE /tokens/{id}"),
            };
            let done = match manner {
                Manner::Idle => Ok(200),
                Manner::Honest | Manner::Gloomy => self.ask(who, &line).await,
                Manner::Hasty => {
                    tokio::select! {
                        biased;
                        // The provider has it.
                        () = self.web.entered.notified() => {}
                        _ = self.ask(who, &line) => {}
                    }
                    Err(Fault::Timeout.into())
                }
            };
            self.broker.end(who, InstanceEnd::Finished);
            match (manner, done) {
                (Manner::Gloomy, _) => Err(RotatorError::new("it went \x1b[2J wrong")),
                (_, Ok(200..300)) => Ok(()),
                (_, other) => Err(RotatorError::new(&format!("{other:?}"))),
            }
        })
    }
}

fn at(version: u32) -> SecretRef {
    SecretRef {
        name: name("github"),
        version: claviger_core::KeyVersion(version),
    }
}

fn old(version: u32, becomes: Replaced) -> OldVersion {
    let secret = at(version);
    OldVersion { secret, becomes }
}

fn state(scene: &Scene, version: u32) -> KeyState {
    scene
        .broker()
        .keyring()
        .secret_record(&at(version))
        .unwrap()
        .state
}

/// What reached the provider: each line with the last four characters of the token.
fn seen(scene: &Scene) -> Vec<String> {
    let short = |slot: &str| slot[slot.len() - 4..].to_owned();
    scene
        .web
        .seen()
        .iter()
        .map(|seen| {
            let line = seen.line.replace("https://api.test", "");
            format!("{line} {}", short(&seen.slots[0].1))
        })
        .collect()
}

fn will(scene: &Scene, answers: &[(u16, &'static str)]) {
    for (status, body) in answers {
        scene.web.will(Script::Answer(*status, vec![body]));
    }
}

/// The rotator learned no value, and the log has none.
async fn kept(scene: &Scene, bot: &Bot) {
    let learned = bot.learned.lock().unwrap().join("\n");
    assert!(!learned.contains("canary"), "{learned}");
    scene.log_is_clean().await;
}
