//! The life of keys against a reference that is too small to be wrong: any commands in any order, at times that jump both ways, with the
//! host dying between any two of them and in the middle of any write.

use std::time::Duration;

use jiff::SignedDuration;
use proptest::prelude::*;

use super::*;

const HOUR: i64 = 3600;

/// What an operator, a timer or a power cut does.
#[derive(Debug, Clone)]
enum Step {
    Rotate { overlap: i64 },
    Stage,
    Promote,
    Cancel(u32),
    Disable(u32),
    Enable(u32),
    Revoke(u32),
    Compromise,
    Replace,
    Delete { window: i64 },
    Restore,
    Purge,
    Tick,
    Jump { hours: i64 },
    Die,
}

fn step() -> impl Strategy<Value = Step> {
    let version = 1..5_u32;
    prop_oneof![
        4 => (0..3_i64).prop_map(|hours| Step::Rotate { overlap: hours * HOUR }),
        2 => Just(Step::Stage),
        2 => Just(Step::Promote),
        1 => version.clone().prop_map(Step::Cancel),
        2 => version.clone().prop_map(Step::Disable),
        2 => version.clone().prop_map(Step::Enable),
        2 => version.prop_map(Step::Revoke),
        2 => Just(Step::Compromise),
        2 => Just(Step::Replace),
        2 => (0..3_i64).prop_map(|hours| Step::Delete { window: hours * HOUR }),
        2 => Just(Step::Restore),
        2 => Just(Step::Purge),
        3 => Just(Step::Tick),
        4 => (-2..4_i64).prop_map(|hours| Step::Jump { hours }),
        2 => Just(Step::Die),
    ]
}

/// One version in the reference: where it is, and when that ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Waiting,
    Used,
    Leaving(i64),
    Left,
    Off,
    OffLeaving(i64),
    Dead,
    /// Dead since then, and nothing has taken its place.
    Unreplaced(i64),
    Gone,
}

/// The reference: versions, the overlap of the plan, the time, and until when a deletion can be taken back.
#[derive(Debug, Clone)]
struct Model {
    versions: Vec<At>,
    overlaps: Vec<i64>,
    /// When, and until when it can be taken back.
    deleted: Option<(i64, i64)>,
    now: i64,
}

impl Model {
    fn new() -> Self {
        Self {
            versions: vec![At::Used],
            overlaps: vec![HOUR],
            deleted: None,
            now: 0,
        }
    }

    fn current(&self) -> usize {
        let last = |of: fn(At) -> bool| self.versions.iter().rposition(|at| of(*at));
        last(|at| at == At::Used)
            .or_else(|| last(|at| !matches!(at, At::Waiting | At::Gone)))
            .unwrap_or(self.versions.len() - 1)
    }

    fn forget_unreplaced(&mut self) {
        for at in &mut self.versions {
            if matches!(at, At::Unreplaced(_)) {
                *at = At::Dead;
            }
        }
    }

    fn leave(&mut self, index: usize, overlap: i64) {
        self.versions[index] = match self.versions[index] {
            At::Used | At::Off if overlap == 0 => At::Left,
            At::Used => At::Leaving(self.now + overlap),
            At::Off => At::OffLeaving(self.now + overlap),
            At::Unreplaced(_) => At::Dead,
            other => other,
        };
    }

    /// Whether the step is one that can be taken; takes it.
    fn take(&mut self, step: &Step) -> bool {
        let waiting = self.versions.iter().position(|at| *at == At::Waiting);
        let can_rotate = self.deleted.is_none()
            && waiting.is_none()
            && !matches!(
                self.versions[self.current()],
                At::Off | At::OffLeaving(_) | At::Gone
            );
        let index = |version: u32| {
            let index = version as usize - 1;
            (index < self.versions.len()).then_some(index)
        };
        match *step {
            Step::Rotate { overlap } => {
                if can_rotate {
                    let current = self.current();
                    self.leave(current, overlap);
                    if matches!(self.versions[current], At::Leaving(_)) {
                        self.overlaps[current] = overlap;
                    }
                    self.versions.push(At::Used);
                    self.overlaps.push(overlap);
                }
                can_rotate
            }
            Step::Stage => {
                if can_rotate {
                    self.overlaps.push(self.overlaps[self.current()]);
                    self.versions.push(At::Waiting);
                }
                can_rotate
            }
            Step::Compromise => {
                for at in &mut self.versions {
                    *at = match *at {
                        At::Used if self.deleted.is_none() => At::Unreplaced(self.now),
                        At::Waiting => At::Gone,
                        over @ (At::Unreplaced(_) | At::Gone) => over,
                        At::Used | At::Leaving(_) | At::Left | At::Off | At::OffLeaving(_) | At::Dead => {
                            At::Dead
                        }
                    };
                }
                true
            }
            Step::Replace => {
                let current = self.current();
                let can = can_rotate && matches!(self.versions[current], At::Unreplaced(_));
                if can {
                    self.versions[current] = At::Dead;
                    self.versions.push(At::Used);
                    self.overlaps.push(HOUR);
                }
                can
            }
            Step::Promote => {
                let Some(waiting) = waiting.filter(|_| self.deleted.is_none()) else {
                    return false;
                };
                for index in 0..waiting {
                    self.leave(index, self.overlaps[waiting]);
                }
                self.versions[waiting] = At::Used;
                true
            }
            Step::Cancel(version) => match index(version).map(|index| (index, self.versions[index])) {
                Some((index, At::Waiting | At::Gone)) if self.deleted.is_none() => {
                    self.versions[index] = At::Gone;
                    true
                }
                // What is gone is not deleted; that it was cancelled is true.
                Some((_, At::Gone)) => true,
                _ => false,
            },
            Step::Disable(version) => {
                let Some(index) = index(version) else { return false };
                let to = match self.versions[index] {
                    At::Used => At::Off,
                    At::Leaving(until) => At::OffLeaving(until),
                    off @ (At::Off | At::OffLeaving(_)) => off,
                    _ => return false,
                };
                self.deleted.is_none() && {
                    self.versions[index] = to;
                    true
                }
            }
            Step::Enable(version) => {
                let Some(index) = index(version) else { return false };
                let to = match self.versions[index] {
                    At::Off if self.versions.contains(&At::Used) => return false,
                    At::Off | At::Used => At::Used,
                    At::OffLeaving(until) if until <= self.now => At::Left,
                    At::OffLeaving(until) | At::Leaving(until) => At::Leaving(until),
                    _ => return false,
                };
                self.deleted.is_none() && {
                    self.versions[index] = to;
                    true
                }
            }
            Step::Revoke(version) => {
                let Some(index) = index(version) else { return false };
                if matches!(self.versions[index], At::Waiting | At::Gone) {
                    return false;
                }
                self.versions[index] = At::Dead;
                true
            }
            Step::Delete { window } => {
                if self.deleted.is_none() {
                    self.forget_unreplaced();
                }
                if self.deleted.is_none() && self.versions.iter().any(|at| *at != At::Gone) {
                    self.deleted = Some((self.now, self.now + window));
                    for at in &mut self.versions {
                        if matches!(at, At::OffLeaving(_)) {
                            *at = At::Left;
                        }
                    }
                }
                true
            }
            Step::Restore => {
                if self.versions.iter().all(|at| *at == At::Gone) {
                    return false;
                }
                if self.deleted.take().is_some() {
                    for (at, overlap) in self.versions.iter_mut().zip(&self.overlaps) {
                        if matches!(at, At::Leaving(_)) {
                            *at = At::Leaving(self.now + overlap);
                        }
                    }
                }
                true
            }
            Step::Purge => {
                if self.versions.iter().all(|at| *at == At::Gone) {
                    return true;
                }
                let may = self.deleted.is_some_and(|(_, until)| until <= self.now);
                if may {
                    self.deleted = None;
                    self.versions.fill(At::Gone);
                }
                may
            }
            Step::Tick => {
                // Deleted by a clock that had run ahead.
                if let Some((at, until)) = self.deleted.filter(|(at, _)| *at > self.now) {
                    self.deleted = Some((self.now, self.now + until - at));
                }
                if self.deleted.is_none() {
                    for (at, overlap) in self.versions.iter_mut().zip(&self.overlaps) {
                        let latest = self.now + overlap;
                        *at = match *at {
                            At::Leaving(until) | At::OffLeaving(until) if until <= self.now => At::Left,
                            At::Leaving(until) => At::Leaving(until.min(latest)),
                            At::OffLeaving(until) => At::OffLeaving(until.min(latest)),
                            other => other,
                        };
                    }
                }
                true
            }
            Step::Jump { hours } => {
                self.now += hours * HOUR;
                true
            }
            Step::Die => true,
        }
    }
}

fn name() -> KeyName {
    "k".parse().unwrap()
}

fn at(version: u32) -> KeyRef {
    KeyRef {
        name: name(),
        version: KeyVersion(version),
    }
}

/// What the reference says of the time, as the keyring has it.
fn time(seconds: i64) -> Timestamp {
    now() + SignedDuration::from_secs(seconds)
}

async fn new_version(keyring: &Keyring, overlap: Option<i64>) -> NewKey {
    let current = keyring.current(&name()).unwrap();
    let mut new = new_key(at(keyring.next_version(&name()).0), Algorithm::Ed25519).await;
    new.plan = current.plan;
    if let Some(overlap) = overlap {
        new.plan.overlap = Duration::from_secs(u64::try_from(overlap).unwrap());
    }
    new
}

async fn take(keyring: &Keyring, step: &Step, seconds: i64) -> Result<(), KeyringError> {
    let now = time(seconds);
    let of = keyring.current(&name()).unwrap().key.version;
    let all = |event: LifeEvent| {
        let gone = keyring
            .versions(&name())
            .iter()
            .all(|record| record.state == KeyState::Destroyed);
        keyring
            .step_each(&name(), now, &|record: &KeyRecord| {
                (gone || record.state != KeyState::Destroyed).then(|| event.clone())
            })
            .map(drop)
    };
    match *step {
        Step::Rotate { overlap } => {
            let new = new_version(keyring, Some(overlap)).await;
            keyring.rotate(new, of, Succession::Rotated, now).map(drop)
        }
        Step::Stage => {
            let new = new_version(keyring, None).await;
            keyring.rotate(new, of, Succession::Staged, now).map(drop)
        }
        Step::Compromise => keyring
            .compromise(&name(), None, &Reason::compromised(), now)
            .map(drop),
        Step::Replace => {
            let new = new_version(keyring, Some(HOUR)).await;
            keyring.rotate(new, of, Succession::Replaced, now).map(drop)
        }
        Step::Promote => keyring
            .promote_of::<KeyRecord>(&name(), Duration::ZERO, &|| true, now)
            .map(drop),
        Step::Cancel(version) => keyring.step(&at(version), &LifeEvent::Cancel, now).map(drop),
        Step::Disable(version) => keyring
            .step(&at(version), &LifeEvent::Disable(None), now)
            .map(drop),
        Step::Enable(version) => keyring.step(&at(version), &LifeEvent::Enable, now).map(drop),
        Step::Revoke(version) => keyring
            .step(&at(version), &LifeEvent::Revoke(None), now)
            .map(drop),
        Step::Delete { window } => all(LifeEvent::Delete {
            window: Duration::from_secs(u64::try_from(window).unwrap()),
        }),
        Step::Restore => keyring
            .step_each(&name(), now, &|record: &KeyRecord| {
                let gone = keyring
                    .versions(&name())
                    .iter()
                    .all(|record| record.state == KeyState::Destroyed);
                (gone || record.state != KeyState::Destroyed).then_some(LifeEvent::Restore {
                    overlap: record.plan.overlap,
                })
            })
            .map(drop),
        Step::Purge => all(LifeEvent::Purge),
        Step::Tick => keyring
            .step_each(&name(), now, &|record: &KeyRecord| {
                Some(LifeEvent::Tick {
                    overlap: record.plan.overlap,
                })
            })
            .map(drop),
        Step::Jump { .. } | Step::Die => Ok(()),
    }
}

fn compare(keyring: &Keyring, model: &Model, what: &str) {
    let records = keyring.versions(&name());
    assert_eq!(records.len(), model.versions.len(), "{what}");
    for (record, expected) in records.iter().zip(&model.versions) {
        let deleted = model.deleted.is_some() && *expected != At::Gone;
        let (state, until) = match *expected {
            At::Waiting => (KeyState::Pending, None),
            At::Used => (KeyState::Active, None),
            At::Leaving(until) => (KeyState::Retiring, Some(until)),
            At::Left => (KeyState::Retired, None),
            At::Off => (KeyState::Disabled, None),
            At::OffLeaving(until) => (KeyState::Disabled, Some(until)),
            At::Dead => (KeyState::Revoked, None),
            At::Unreplaced(since) => (KeyState::Revoked, Some(since)),
            At::Gone => (KeyState::Destroyed, None),
        };
        let until = if deleted {
            model.deleted.map(|(_, until)| until)
        } else {
            until
        };
        assert_eq!(
            (record.state, record.until, record.deleted.is_some()),
            (state, until.map(time), deleted),
            "{what}: {}",
            record.key
        );
        // What follows from it for whoever uses the key.
        let signs = *expected == At::Used && !deleted;
        assert_eq!(record.is_in_use(), signs, "{what}: {}", record.key);
        let opens = match *expected {
            At::Used => !deleted,
            At::Leaving(until) => !deleted && model.now < until,
            _ => false,
        };
        assert_eq!(
            record.is_accepted(time(model.now)),
            opens,
            "{what}: {}",
            record.key
        );
        let lacks = matches!(*expected, At::Unreplaced(_));
        assert_eq!(record.lacks_successor(), lacks, "{what}: {}", record.key);
        let material = keyring.material(&record.key);
        assert_eq!(material.is_ok(), *expected != At::Gone, "{what}: {}", record.key);
    }
    let in_use = keyring.key(&name()).map(|record| record.key.version.0);
    let expected = model
        .versions
        .iter()
        .position(|at| *at == At::Used)
        .filter(|_| model.deleted.is_none())
        .map(|index| u32::try_from(index).unwrap() + 1);
    assert_eq!(in_use, expected, "{what}");
}

/// Plays the steps; then every prefix of what was written must be a state that was.
async fn play(steps: &[Step]) -> (usize, usize) {
    let (_outer, folder) = place();
    let keyring = created(&folder).await;
    let mut first = new_key(at(1), Algorithm::Ed25519).await;
    first.plan.overlap = Duration::from_secs(3600);
    keyring.insert(first, now()).unwrap();
    let mut keyring = Some(keyring);
    let mut model = Model::new();
    let mut states = vec![keyring.as_ref().unwrap().keys()];
    let (mut taken, mut refused) = (0, 0);
    for (number, step) in steps.iter().enumerate() {
        let what = format!("step {number} {step:?} of {steps:?}");
        if matches!(step, Step::Die) {
            drop(keyring.take());
            keyring = Some(opened(&folder).await.unwrap());
        }
        let open = keyring.as_ref().unwrap();
        let expected = model.take(step);
        let result = take(open, step, model.now).await;
        assert_eq!(result.is_ok(), expected, "{what}: {result:?} with {model:?}");
        if expected {
            taken += 1;
        } else {
            refused += 1;
        }
        compare(open, &model, &what);
        // What was done is done: again, it changes nothing.
        if matches!(
            step,
            Step::Disable(_)
                | Step::Enable(_)
                | Step::Revoke(_)
                | Step::Compromise
                | Step::Delete { .. }
                | Step::Tick
        ) {
            let generation = open.info().generation;
            drop(take(open, step, model.now).await);
            assert_eq!(open.info().generation, generation, "{what}, again");
        }
        states.push(open.keys());
    }
    let database = std::fs::read(folder.join(DATABASE)).unwrap();
    let log = std::fs::read(folder.join("keyring.db-wal")).unwrap_or_default();
    drop(keyring);
    for cut in (0..log.len()).step_by(7919).chain([log.len()]) {
        tamper::restore(&folder, &database);
        std::fs::write(folder.join("keyring.db-wal"), &log[..cut]).unwrap();
        let found = opened(&folder).await.unwrap().keys();
        assert!(
            found.is_empty() || states.contains(&found),
            "cut at {cut}: a keyring that never was, of {steps:?}"
        );
    }
    (taken, refused)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_life_is_the_references_whatever_the_clock_does_and_whenever_the_host_dies(
        steps in proptest::collection::vec(step(), 1..24)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(play(&steps));
    }
}

#[tokio::test]
async fn the_reference_is_walked_through_every_state_and_notices_another_life() {
    use Step::*;
    let steps = [
        Rotate { overlap: HOUR },
        Disable(1),
        Enable(1),
        Jump { hours: 1 },
        Tick,
        Stage,
        Promote,
        Cancel(3),
        Revoke(2),
        Stage,
        Cancel(4),
        Delete { window: HOUR },
        Purge,
        Die,
        Restore,
        Compromise,
        Die,
        Replace,
        Replace,
        Compromise,
        Revoke(6),
        Replace,
        Delete { window: HOUR },
        Jump { hours: -3 },
        Purge,
        Tick,
        Jump { hours: 9 },
        Purge,
        Restore,
    ];
    let (taken, refused) = play(&steps).await;
    assert_eq!((taken, refused), (23, 6));
    // The control: a reference that is told of a step that did not happen differs.
    let (_outer, folder) = place();
    let keyring = created(&folder).await;
    keyring
        .insert(new_key(at(1), Algorithm::Ed25519).await, now())
        .unwrap();
    let mut model = Model::new();
    compare(&keyring, &model, "the same");
    model.take(&Revoke(1));
    let differs = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        compare(&keyring, &model, "another");
    }));
    assert!(differs.is_err());
}
