//! Clocks that jump both ways, for keys and secrets alike: what is over stays over, what was written by a clock that had run ahead is cut to
//! its length once the clock is set right, and nothing is destroyed before its window.

use std::time::Duration;

use claviger_core::http::InjectionKind;
use claviger_core::{KeyVersion, SecretName};

use super::super::WITHDRAWAL;
use super::web::{API, CANARY, creation};
use super::*;
use crate::keyring::{RotationPlan, SecretReplacement};
use crate::local::Rotation;

const HOUR: i64 = 3600;
const YEAR: i64 = 365 * 24 * HOUR;

/// What has a life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Key,
    Secret,
}

const KINDS: [Kind; 2] = [Kind::Key, Kind::Secret];

struct Scene {
    kind: Kind,
    fixture: Fixture,
}

fn key() -> KeyName {
    name("notes")
}

fn secret() -> SecretName {
    name("token")
}

impl Scene {
    /// With an overlap of an hour.
    async fn new(kind: Kind) -> Self {
        let fixture = Fixture::new().await;
        let token = creation("token", InjectionKind::Bearer, API, CANARY);
        fixture.broker.add_secret(token).await.unwrap();
        let scene = Self { kind, fixture };
        scene.plan(None);
        scene
    }

    fn plan(&self, every: Option<Duration>) {
        let overlap = Duration::from_secs(3600);
        let broker = &self.fixture.broker;
        match self.kind {
            Kind::Key => {
                let plan = RotationPlan {
                    every,
                    uses: None,
                    overlap,
                };
                drop(broker.plan_key(&key(), plan, None).unwrap());
            }
            Kind::Secret => drop(broker.plan_secret(&secret(), every, overlap, None).unwrap()),
        }
    }

    async fn replace(&self) {
        let broker = &self.fixture.broker;
        match self.kind {
            Kind::Key => drop(broker.rotate_key(&key(), Rotation::default()).await.unwrap()),
            Kind::Secret => {
                let replacement = SecretReplacement {
                    name: secret(),
                    of: None,
                    expires: None,
                    rotate_every: None,
                    value: Secret::take(&mut CANARY.as_bytes().to_vec()).unwrap(),
                };
                drop(broker.replace_secret(replacement).await.unwrap());
            }
        }
    }

    async fn delete(&self) {
        let window = Duration::from_secs(3600);
        let broker = &self.fixture.broker;
        match self.kind {
            Kind::Key => drop(broker.delete_key(&key(), window).await.unwrap()),
            Kind::Secret => drop(broker.delete_secret(&secret(), window).await.unwrap()),
        }
    }

    async fn restore(&self) {
        let broker = &self.fixture.broker;
        match self.kind {
            Kind::Key => drop(broker.restore_key(&key()).await.unwrap()),
            Kind::Secret => drop(broker.restore_secret(&secret()).await.unwrap()),
        }
    }

    async fn purges(&self) -> bool {
        let broker = &self.fixture.broker;
        match self.kind {
            Kind::Key => broker.purge_key(&key()).await.is_ok(),
            Kind::Secret => broker.purge_secret(&secret()).await.is_ok(),
        }
    }

    /// The version in use, if it is due.
    fn due(&self) -> bool {
        let keyring = self.fixture.broker.keyring();
        let now = self.fixture.clock.now();
        let due = match self.kind {
            Kind::Key => keyring.key(&key()).unwrap().due(now),
            Kind::Secret => keyring.secret(&secret()).unwrap().due(now),
        };
        due.is_some_and(|at| at <= now)
    }

    fn states(&self) -> String {
        let keyring = self.fixture.broker.keyring();
        let each: Vec<(KeyVersion, &str)> = match self.kind {
            Kind::Key => {
                let versions = keyring.versions(&key());
                versions
                    .iter()
                    .map(|one| (one.key.version, one.standing()))
                    .collect()
            }
            Kind::Secret => {
                let versions = keyring.secret_versions(&secret());
                versions
                    .iter()
                    .map(|one| (one.secret.version, one.standing()))
                    .collect()
            }
        };
        let each = each.iter().map(|(version, state)| format!("{version} {state}"));
        each.collect::<Vec<_>>().join(", ")
    }

    /// The time passes by so much, and the schedule looks.
    async fn passes(&self, seconds: i64) {
        self.fixture.clock.advance(SignedDuration::from_secs(seconds));
        self.fixture.broker.rotate_due().await.unwrap();
    }

    /// The clock is set by so much, an operator vouches for it, and the schedule looks.
    async fn is_set(&self, seconds: i64) {
        self.fixture.clock.advance(SignedDuration::from_secs(seconds));
        self.fixture.broker.accept_clock().await.unwrap();
        self.fixture.broker.rotate_due().await.unwrap();
    }

    async fn reopen(self) -> Self {
        Self {
            kind: self.kind,
            fixture: self.fixture.reopen().await,
        }
    }
}

#[tokio::test]
async fn an_overlap_ends_once_and_no_clock_brings_back_what_it_was_of() {
    for kind in KINDS {
        let scene = Scene::new(kind).await;
        scene.replace().await;
        scene.passes(HOUR - 1).await;
        assert_eq!(scene.states(), "v1 retiring, v2 active", "{kind:?}");
        // Back: it lasts as long as it was meant to, and not a second less.
        scene.passes(-2 * HOUR).await;
        assert_eq!(scene.states(), "v1 retiring, v2 active", "{kind:?}");
        scene.passes(2 * HOUR).await;
        assert_eq!(scene.states(), "v1 retiring, v2 active", "{kind:?}");
        scene.passes(1).await;
        assert_eq!(scene.states(), "v1 retired, v2 active", "{kind:?}");
        for jump in [-YEAR, 0, YEAR, -YEAR] {
            scene.passes(jump).await;
            assert_eq!(scene.states(), "v1 retired, v2 active", "{kind:?} {jump}");
        }
        scene.is_set(-YEAR).await;
        let scene = scene.reopen().await;
        assert_eq!(scene.states(), "v1 retired, v2 active", "{kind:?}");
    }
}

#[tokio::test]
async fn an_overlap_that_a_clock_wrote_which_had_run_ahead_is_cut_to_its_length() {
    for kind in KINDS {
        let scene = Scene::new(kind).await;
        scene.passes(YEAR).await;
        scene.replace().await;
        scene.is_set(-YEAR).await;
        assert_eq!(scene.states(), "v1 retiring, v2 active", "{kind:?}");
        scene.passes(HOUR - 1).await;
        assert_eq!(scene.states(), "v1 retiring, v2 active", "{kind:?}");
        // What a rotator replaced may be kept for a while longer, to be tried.
        let longer = match kind {
            Kind::Key => 0,
            Kind::Secret => i64::try_from(WITHDRAWAL.as_secs()).unwrap(),
        };
        scene.passes(1 + longer).await;
        assert_eq!(scene.states(), "v1 retired, v2 active", "{kind:?}");
    }
}

#[tokio::test]
async fn nothing_is_purged_before_its_window_whatever_the_clock_does() {
    for kind in KINDS {
        let scene = Scene::new(kind).await;
        scene.delete().await;
        scene.passes(HOUR - 1).await;
        assert!(!scene.purges().await, "{kind:?}");
        scene.passes(-2 * HOUR).await;
        assert!(!scene.purges().await, "{kind:?}: a clock that went back");
        scene.is_set(0).await;
        assert!(!scene.purges().await, "{kind:?}: an operator vouched for it");
        let scene = scene.reopen().await;
        // Nothing is purged by itself, however much time passes, and it comes back as it was.
        scene.passes(YEAR).await;
        assert_eq!(scene.states(), "v1 deleted", "{kind:?}");
        scene.restore().await;
        assert_eq!(scene.states(), "v1 active", "{kind:?}");
        scene.delete().await;
        scene.passes(HOUR).await;
        assert!(scene.purges().await, "{kind:?}: the control");
        assert_eq!(scene.states(), "v1 destroyed", "{kind:?}");
    }
}

#[tokio::test]
async fn a_window_that_a_clock_wrote_which_had_run_ahead_is_cut_to_its_length() {
    for kind in KINDS {
        let scene = Scene::new(kind).await;
        scene.passes(YEAR).await;
        scene.delete().await;
        scene.is_set(-YEAR).await;
        assert_eq!(scene.states(), "v1 deleted", "{kind:?}");
        scene.passes(HOUR - 1).await;
        assert!(!scene.purges().await, "{kind:?}: not a second less");
        let scene = scene.reopen().await;
        scene.passes(1).await;
        assert!(scene.purges().await, "{kind:?}: not for a year");
    }
}

#[tokio::test]
async fn what_is_due_by_its_age_is_due_once_and_a_clock_that_ran_ahead_delays_nothing() {
    for kind in KINDS {
        let scene = Scene::new(kind).await;
        scene.plan(Some(Duration::from_secs(24 * 3600)));
        scene
            .fixture
            .clock
            .advance(SignedDuration::from_hours(24) - SignedDuration::from_secs(1));
        assert!(!scene.due(), "{kind:?}");
        scene.fixture.clock.advance(SignedDuration::from_secs(-2 * HOUR));
        assert!(!scene.due(), "{kind:?}: a clock that went back");
        scene
            .fixture
            .clock
            .advance(SignedDuration::from_secs(2 * HOUR + 1));
        assert!(scene.due(), "{kind:?}: the control");
        // A clock that is a year ahead: what it makes is due when the clock is set right, not in a year.
        scene.fixture.clock.advance(SignedDuration::from_secs(YEAR));
        scene.replace().await;
        assert!(!scene.due(), "{kind:?}");
        scene.fixture.clock.advance(SignedDuration::from_secs(-YEAR));
        scene.fixture.broker.accept_clock().await.unwrap();
        assert!(scene.due(), "{kind:?}: for a year");
        scene.replace().await;
        assert!(!scene.due(), "{kind:?}: once");
    }
}
