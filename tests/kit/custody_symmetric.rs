//! What every custody must do that has keys without a public half, as one suite: the twin of `custody`, over the same stands. A key of which
//! nothing is public is told by what it does: what one key made, that key knows again and no other does.

use std::fmt::Debug;
use std::task::{Context as Polling, Waker};
use std::time::Duration;

use claviger_core::custody::{Custody, CustodyError, CustodyKind, MacKey, SealingKey};
use claviger_core::key::{KeyId, KeyVersion};
use claviger_core::profile::{Context, MacInput, Plaintext, Profile, SealInput, Tag};
use claviger_core::{KeyRef, Secret};
use std::sync::Arc;
use tokio::task::JoinSet;

use crate::custody::Stand;
use crate::permits::{key_ref, permit_to_use};
use crate::vault::named;

/// An operation that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// As many at once, each with as many uses.
const CALLERS: u64 = 8;
/// One byte of so many is changed, in a different bit each time, so that the suite ends soon.
const STEP: usize = 5;

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Boxes,
    Macs,
}

/// An open key of either kind.
#[derive(Debug, Clone)]
enum Open {
    Boxes(Arc<dyn SealingKey>),
    Macs(Arc<dyn MacKey>),
}

/// A key, and what a keyring would store of it.
struct Made {
    purpose: Purpose,
    name: KeyRef,
    stored: Vec<u8>,
}

impl Made {
    async fn new(custody: &dyn Custody, purpose: Purpose, name: KeyRef) -> Result<Self, CustodyError> {
        let material = match purpose {
            Purpose::Boxes => custody.sealing().expect("seals").generate(&name).await?,
            Purpose::Macs => custody.macs().expect("has MACs").generate(&name).await?,
        };
        let stored = material.expose().to_vec();
        Ok(Self {
            purpose,
            name,
            stored,
        })
    }

    async fn open(&self, custody: &dyn Custody) -> Result<Open, CustodyError> {
        self.open_stored(custody, &self.name, &self.stored).await
    }

    async fn open_stored(
        &self,
        custody: &dyn Custody,
        name: &KeyRef,
        stored: &[u8],
    ) -> Result<Open, CustodyError> {
        let material = Secret::take(&mut stored.to_vec()).expect("locked memory");
        match self.purpose {
            Purpose::Boxes => {
                let sealing = custody.sealing().expect("seals");
                sealing.open(name, material).await.map(Open::Boxes)
            }
            Purpose::Macs => {
                let macs = custody.macs().expect("has MACs");
                macs.open(name, material).await.map(Open::Macs)
            }
        }
    }

    /// What this key makes of a content: a box of it, or its tag.
    async fn make(&self, open: &Open, content: &[u8]) -> Result<Vec<u8>, CustodyError> {
        match open {
            Open::Boxes(key) => {
                let input = to_seal(content);
                let permit = permit_to_use(&self.name, (&input).into()).await;
                key.seal(&permit, &input).await
            }
            Open::Macs(key) => {
                let input = to_mac(content);
                let permit = permit_to_use(&self.name, (&input).into()).await;
                Ok(key.mac(&permit, &input).await?.tag(KeyVersion::FIRST))
            }
        }
    }

    /// Whether an open key knows again what was made of this content.
    async fn knows(&self, open: &Open, content: &[u8], made: &[u8]) -> Result<bool, CustodyError> {
        match open {
            Open::Boxes(key) => {
                let rule = Profile::Seal {}.sealing().expect("seals");
                let context = Context::parse(b"suite").expect("a context");
                let input = rule.unseal(KeyId::from_bytes([7; 16]), KeyVersion::FIRST, made, context);
                let input = input.expect("a box");
                let permit = permit_to_use(&self.name, (&input).into()).await;
                let opened = key.unseal(&permit, &input).await?;
                Ok(opened.is_some_and(|text| text.as_bytes() == content))
            }
            Open::Macs(key) => {
                let input = to_mac(content);
                let permit = permit_to_use(&self.name, (&input).into()).await;
                let value = key.mac(&permit, &input).await?;
                Ok(Tag::parse(made).expect("a tag").matches(&value))
            }
        }
    }
}

fn to_seal(content: &[u8]) -> SealInput {
    let rule = Profile::Seal {}.sealing().expect("seals");
    let context = Context::parse(b"suite").expect("a context");
    let text = Plaintext::new(content.to_vec());
    rule.seal(KeyId::from_bytes([7; 16]), KeyVersion::FIRST, text, context)
        .expect("fits")
}

fn to_mac(content: &[u8]) -> MacInput {
    let label = named("suite");
    let rule = Profile::Mac { label }.macs(None).expect("a rule");
    rule.frame(content).expect("fits")
}

/// Every promise of the custody's keys without a public half; says how many kinds of them it has.
///
/// # Panics
/// At the first promise that is not kept.
pub async fn conforms_symmetric(stand: &mut dyn Stand) -> usize {
    let suite = async {
        let custody = stand.custody();
        let all = [
            (Purpose::Boxes, custody.sealing().is_some()),
            (Purpose::Macs, custody.macs().is_some()),
        ];
        drop(custody);
        let all: Vec<_> = all.into_iter().filter(|(_, has)| *has).collect();
        for (purpose, _) in &all {
            let purpose = *purpose;
            let (custody, strangers) = (stand.custody(), stand.strangers());
            knows_its_own_and_no_others(&*custody, purpose).await;
            takes_permits_for_its_key_and_input_once(&*custody, purpose).await;
            knows_nothing_with_changed_material(&*custody, purpose).await;
            belongs_to_its_custody(&*custody, &strangers, purpose).await;
            serves_many_at_once(&*custody, purpose).await;
            goes_on_after_a_dropped_request(&*custody, purpose).await;
            drop((custody, strangers));
            knows_again_after_a_restart(stand, purpose).await;
            is_unavailable_without_its_device(stand, purpose).await;
        }
        all.len()
    };
    let ended = tokio::time::timeout(12 * PATIENCE, suite).await;
    ended.expect("nothing hangs")
}

async fn made(custody: &dyn Custody, purpose: Purpose, name: &str) -> (Made, Open) {
    let key = Made::new(custody, purpose, key_ref(name)).await.expect("a key");
    let open = key.open(custody).await.expect("opens");
    (key, open)
}

async fn knows_its_own_and_no_others(custody: &dyn Custody, purpose: Purpose) {
    let (key, open) = made(custody, purpose, "first").await;
    let (_, other) = made(custody, purpose, "first").await;
    for content in [&b""[..], b"content", &[0; 4096]] {
        let thing = key.make(&open, content).await.expect("is made");
        let knows =
            async |open: &Open, content: &[u8]| key.knows(open, content, &thing).await.expect("is tried");
        assert!(knows(&open, content).await, "a key knows what it made");
        assert!(!knows(&other, content).await, "two keys are never the same");
        assert!(!knows(&open, b"other").await, "it is of its content");
    }
    let shown = format!("{open:?}{custody:?}");
    assert!(
        !shown.contains(&hex::encode(&key.stored)),
        "its debug text shows material"
    );
}

async fn takes_permits_for_its_key_and_input_once(custody: &dyn Custody, purpose: Purpose) {
    let (key, open) = made(custody, purpose, "first").await;
    let second = KeyRef {
        version: KeyVersion(2),
        ..key.name.clone()
    };
    let mismatch = |what: &str, result: Result<(), CustodyError>| {
        assert!(
            matches!(result, Err(CustodyError::PermitMismatch)),
            "{what}: {result:?}"
        );
    };
    match &open {
        Open::Boxes(open) => {
            let (input, equal) = (to_seal(b"a"), to_seal(b"a"));
            let permit = permit_to_use(&key.name, (&input).into()).await;
            mismatch(
                "another input's permit is not taken",
                open.seal(&permit, &equal).await.map(drop),
            );
            let elsewhere = permit_to_use(&second, (&input).into()).await;
            mismatch(
                "another key's permit is not taken",
                open.seal(&elsewhere, &input).await.map(drop),
            );
            open.seal(&permit, &input).await.expect("the control");
            mismatch(
                "a permit is good for one use",
                open.seal(&permit, &input).await.map(drop),
            );
        }
        Open::Macs(open) => {
            let (input, equal) = (to_mac(b"a"), to_mac(b"a"));
            let permit = permit_to_use(&key.name, (&input).into()).await;
            mismatch(
                "another input's permit is not taken",
                open.mac(&permit, &equal).await.map(drop),
            );
            let elsewhere = permit_to_use(&second, (&input).into()).await;
            mismatch(
                "another key's permit is not taken",
                open.mac(&elsewhere, &input).await.map(drop),
            );
            open.mac(&permit, &input).await.map(drop).expect("the control");
            mismatch(
                "a permit is good for one use",
                open.mac(&permit, &input).await.map(drop),
            );
        }
    }
}

async fn knows_nothing_with_changed_material(custody: &dyn Custody, purpose: Purpose) {
    let (key, open) = made(custody, purpose, "first").await;
    let thing = key.make(&open, b"content").await.expect("is made");
    let mut changes: Vec<Vec<u8>> = (0..key.stored.len())
        .step_by(STEP)
        .map(|at| {
            let mut changed = key.stored.clone();
            changed[at] ^= 1 << (at / STEP % 8);
            changed
        })
        .collect();
    changes.push(key.stored[1..].to_vec());
    changes.push([&key.stored[..], &[0]].concat());
    for changed in changes {
        // Bare material of another key is a key; sealed material does not open.
        if let Ok(open) = key.open_stored(custody, &key.name, &changed).await {
            let knows = key.knows(&open, b"content", &thing).await;
            assert!(!matches!(knows, Ok(true)), "changed material is not the key");
        }
    }
}

async fn belongs_to_its_custody(custody: &dyn Custody, strangers: &[Arc<dyn Custody>], purpose: Purpose) {
    let (key, open) = made(custody, purpose, "first").await;
    let thing = key.make(&open, b"content").await.expect("is made");
    for stranger in strangers {
        let has = match purpose {
            Purpose::Boxes => stranger.sealing().is_some(),
            Purpose::Macs => stranger.macs().is_some(),
        };
        if !has {
            continue;
        }
        if let Ok(open) = key.open(&**stranger).await {
            let knows = key.knows(&open, b"content", &thing).await;
            assert!(!matches!(knows, Ok(true)), "another custody does not open it");
        }
    }
    // Bare material has the keyring to bind it to its key; all other names its key itself.
    if custody.kind() == CustodyKind::TpmSealed {
        let moved = key.open_stored(custody, &key_ref("second"), &key.stored).await;
        assert!(matches!(moved, Err(CustodyError::NotOurs(_))), "{moved:?}");
    }
}

async fn serves_many_at_once(custody: &dyn Custody, purpose: Purpose) {
    let (key, open) = made(custody, purpose, "first").await;
    let key = Arc::new(key);
    let mut tasks = JoinSet::new();
    for caller in 0..CALLERS {
        let (key, open) = (Arc::clone(&key), open.clone());
        tasks.spawn(async move {
            for n in 0..CALLERS {
                let content = format!("{caller} {n}");
                let thing = key.make(&open, content.as_bytes()).await.expect("is made");
                assert!(
                    key.knows(&open, content.as_bytes(), &thing)
                        .await
                        .expect("is tried")
                );
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.expect("every caller is served");
    }
}

async fn goes_on_after_a_dropped_request(custody: &dyn Custody, purpose: Purpose) {
    let (key, open) = made(custody, purpose, "first").await;
    {
        let mut dropped = Box::pin(key.make(&open, b"dropped"));
        drop(dropped.as_mut().poll(&mut Polling::from_waker(Waker::noop())));
    }
    let thing = key.make(&open, b"content").await.expect("is made");
    assert!(key.knows(&open, b"content", &thing).await.expect("is tried"));
}

async fn knows_again_after_a_restart(stand: &mut dyn Stand, purpose: Purpose) {
    let custody = stand.custody();
    let (key, open) = made(&*custody, purpose, "first").await;
    let thing = key.make(&open, b"content").await.expect("is made");
    drop((open, custody));
    stand.restart();
    let custody = stand.custody();
    let open = key.open(&*custody).await.expect("opens after a restart");
    let knows = key.knows(&open, b"content", &thing).await.expect("is tried");
    assert!(knows, "it is the same key after a restart");
}

async fn is_unavailable_without_its_device(stand: &mut dyn Stand, purpose: Purpose) {
    let custody = stand.custody();
    let (key, open) = made(&*custody, purpose, "first").await;
    if !stand.take_device() {
        return;
    }
    let gone = |what: &str, result: Result<(), CustodyError>| {
        assert!(
            matches!(result, Err(CustodyError::Unavailable(_))),
            "{what} without the device: {result:?}"
        );
    };
    gone(
        "making",
        Made::new(&*custody, purpose, key.name.clone()).await.map(drop),
    );
    gone("opening", key.open(&*custody).await.map(drop));
    let used = key.make(&open, b"content").await;
    match custody.kind() {
        CustodyKind::Tpm => gone("using", used.map(drop)),
        // The key is in locked memory of the host while it is open.
        CustodyKind::TpmSealed | CustodyKind::Software => drop(used.expect("is used without the device")),
    }
    stand.return_device();
    key.make(&open, b"content").await.expect("an open key goes on");
    key.open(&*custody).await.expect("it opens again");
}
