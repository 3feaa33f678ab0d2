//! What every custody must do, as one suite. Knows no custody: a [`Stand`] has it, and what can be done to it from outside. Each attack
//! has its control beside it: the same with nothing wrong.

use std::fmt::Debug;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use claviger_core::custody::{Custody, CustodyError, CustodyKind, Generated, SigningKey};
use claviger_core::{Algorithm, KeyRef, KeyVersion, Permit, PublicKey, Secret, Signature};
use tokio::task::JoinSet;

use crate::permits::{framed, key_ref, permit};
use crate::verifiers;

/// Every algorithm there is.
const ALGORITHMS: [Algorithm; 3] = [Algorithm::Ed25519, Algorithm::P256, Algorithm::Rsa2048];
/// An operation that takes longer hangs: the TPM's own deadline is half of it.
const PATIENCE: Duration = Duration::from_secs(60);
/// As many at once, each with as many messages.
const CALLERS: u64 = 8;
/// One byte of so many is changed, in a different bit each time, so that the suite ends soon.
const STEP: usize = 5;

/// A custody on its device, and what can happen to it.
pub trait Stand: Debug + Send {
    /// The custody.
    fn custody(&self) -> Arc<dyn Custody>;

    /// Others whose keys it must not open: of another kind, or of its kind under another root.
    fn strangers(&self) -> Vec<Arc<dyn Custody>>;

    /// What a restart of the host does. Nothing of the custody is in use meanwhile.
    fn restart(&mut self);

    /// Takes its device away; false if it needs none.
    fn take_device(&mut self) -> bool;

    /// Gives the device back.
    fn return_device(&mut self);
}

/// A key, and what a keyring would store of it.
struct Made {
    name: KeyRef,
    public: PublicKey,
    stored: Vec<u8>,
}

impl Made {
    async fn new(custody: &dyn Custody, name: KeyRef, algorithm: Algorithm) -> Self {
        let Generated { public, material } = custody.generate(&name, algorithm).await.expect("a key");
        let stored = material.expose().to_vec();
        Self { name, public, stored }
    }

    async fn open(&self, custody: &dyn Custody) -> Result<Arc<dyn SigningKey>, CustodyError> {
        custody.open(&self.name, &self.public, secret(&self.stored)).await
    }

    /// Opens it and signs with it: what is wrong shows at the latest then.
    async fn sign(&self, custody: &dyn Custody) -> Result<Signature, CustodyError> {
        let open = self.open(custody).await?;
        self.sign_with(&*open, b"content", 1).await
    }

    async fn sign_with(
        &self,
        open: &dyn SigningKey,
        content: &[u8],
        who: u64,
    ) -> Result<Signature, CustodyError> {
        let message = framed(&self.public, content);
        let permit = permit(&self.name, &message, who).await;
        let signature = open.sign(&permit, &message).await?;
        let verified = self.public.verify(message.message(), &signature);
        assert_eq!(verified, Ok(()), "a signature that is given out verifies");
        Ok(signature)
    }
}

fn secret(bytes: &[u8]) -> Secret {
    Secret::take(&mut bytes.to_vec()).expect("locked memory")
}

/// Every promise of [`Custody`] and of the keys it opens, for each algorithm.
///
/// # Panics
/// At the first promise that is not kept.
pub async fn conforms(stand: &mut dyn Stand) {
    let suite = async {
        for algorithm in ALGORITHMS {
            let custody = stand.custody();
            let strangers = stand.strangers();
            if !custody.algorithms().contains(&algorithm) {
                refuses_an_algorithm_it_does_not_have(&*custody, &strangers, algorithm).await;
                continue;
            }
            signs_what_others_verify(&*custody, algorithm).await;
            takes_permits_for_its_key_and_message_only(&*custody, algorithm).await;
            takes_a_permit_once(&*custody, algorithm).await;
            opens_no_changed_material(&*custody, algorithm).await;
            opens_no_material_of_another_key(&*custody, &strangers, algorithm).await;
            signs_for_many_at_once(&*custody, algorithm).await;
            goes_on_after_a_dropped_request(&*custody, algorithm).await;
            drop((custody, strangers));
            opens_again_after_a_restart(stand, algorithm).await;
            is_unavailable_without_its_device(stand, algorithm).await;
        }
    };
    // Twelve promises, each of them within the patience.
    let ended = tokio::time::timeout(12 * PATIENCE, suite).await;
    assert!(ended.is_ok(), "nothing hangs");
}

async fn signs_what_others_verify(custody: &dyn Custody, algorithm: Algorithm) {
    let key = Made::new(custody, key_ref("first"), algorithm).await;
    let other = Made::new(custody, key_ref("first"), algorithm).await;
    assert_eq!(key.public.algorithm(), algorithm);
    assert_ne!(other.public, key.public, "two keys are never the same");
    let open = key.open(custody).await.expect("opens");
    for content in [b"".as_slice(), b"hello", &[0xa5; 4096]] {
        let signature = key.sign_with(&*open, content, 1).await.expect("signs");
        assert_eq!(signature.algorithm(), algorithm);
        let message = framed(&key.public, content);
        let by_openssl =
            |key: &PublicKey, signature: &[u8], message: &[u8]| verifiers::openssl(key, signature, message);
        assert!(
            by_openssl(&key.public, signature.as_bytes(), message.message()),
            "openssl takes it"
        );
        let mut changed = signature.as_bytes().to_vec();
        changed[40] ^= 1;
        assert!(!by_openssl(&key.public, &changed, message.message()));
        assert!(!by_openssl(&key.public, signature.as_bytes(), b"another message"));
        assert!(!by_openssl(
            &other.public,
            signature.as_bytes(),
            message.message()
        ));
    }
    let shown = format!("{custody:?} {open:?}");
    assert!(
        !shown.contains(&hex::encode(&key.stored)) && !shown.contains(&format!("{:?}", key.stored)),
        "its debug text shows material: {shown}"
    );
}

async fn takes_permits_for_its_key_and_message_only(custody: &dyn Custody, algorithm: Algorithm) {
    let key = Made::new(custody, key_ref("first"), algorithm).await;
    let other = Made::new(custody, key_ref("second"), algorithm).await;
    let open = key.open(custody).await.expect("opens");
    let message = framed(&key.public, b"content");
    let foreign = framed(&other.public, b"content");
    let later = KeyRef {
        version: KeyVersion(2),
        ..key.name.clone()
    };
    let elsewhere = framed(&key.public, b"other");
    let again = framed(&key.public, b"content");
    let rows = [
        (
            "another key's permit",
            permit(&other.name, &message, 1).await,
            &message,
        ),
        (
            "another version's permit",
            permit(&later, &message, 1).await,
            &message,
        ),
        (
            "a permit for another content",
            permit(&key.name, &elsewhere, 1).await,
            &message,
        ),
        (
            "a permit for the same content in another frame",
            permit(&key.name, &again, 1).await,
            &message,
        ),
        (
            "a message framed for another key",
            permit(&key.name, &foreign, 1).await,
            &foreign,
        ),
        (
            "another key's permit and message",
            permit(&other.name, &foreign, 1).await,
            &foreign,
        ),
    ];
    for (what, permit, message) in rows {
        refused_by_permit(what, &*open, &permit, message).await;
    }
    let right = permit(&key.name, &message, 1).await;
    // What it does not cover does not spend it.
    refused_by_permit("another message", &*open, &right, &elsewhere).await;
    open.sign(&right, &message).await.expect("the control");
}

async fn refused_by_permit(
    what: &str,
    open: &dyn SigningKey,
    permit: &Permit,
    message: &claviger_core::profile::Framed,
) {
    let refused = open.sign(permit, message).await;
    assert!(
        matches!(refused, Err(CustodyError::PermitMismatch)),
        "{what} is not taken: {refused:?}"
    );
}

async fn takes_a_permit_once(custody: &dyn Custody, algorithm: Algorithm) {
    let key = Made::new(custody, key_ref("first"), algorithm).await;
    let open = key.open(custody).await.expect("opens");
    let message = Arc::new(framed(&key.public, b"content"));
    let once = Arc::new(permit(&key.name, &message, 1).await);
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (open, message, once) = (Arc::clone(&open), Arc::clone(&message), Arc::clone(&once));
        callers.spawn(async move { open.sign(&once, &message).await });
    }
    let mut signed = 0;
    for result in callers.join_all().await {
        match result {
            Ok(_) => signed += 1,
            Err(CustodyError::PermitMismatch) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(signed, 1, "a permit is good for one signature");
    refused_by_permit("a spent permit", &*open, &once, &message).await;
    // Another handle on the same key has no memory of it, and the permit has.
    let again = key.open(custody).await.expect("opens twice");
    refused_by_permit("a permit spent elsewhere", &*again, &once, &message).await;
    let fresh = permit(&key.name, &message, 1).await;
    again.sign(&fresh, &message).await.expect("the control");
}

async fn opens_no_changed_material(custody: &dyn Custody, algorithm: Algorithm) {
    let key = Made::new(custody, key_ref("first"), algorithm).await;
    let last = key.stored.len() - 1;
    let mut changed: Vec<(String, Vec<u8>)> = vec![
        ("one byte short".to_owned(), key.stored[..last].to_vec()),
        ("one byte long".to_owned(), [key.stored.as_slice(), &[0]].concat()),
        (
            "one line long".to_owned(),
            [key.stored.as_slice(), b"\n"].concat(),
        ),
        ("half".to_owned(), key.stored[..last / 2].to_vec()),
        ("twice".to_owned(), key.stored.repeat(2)),
        ("one byte in all".to_owned(), vec![1]),
        ("all zero".to_owned(), vec![0; key.stored.len()]),
        ("all ones".to_owned(), vec![0xff; key.stored.len()]),
    ];
    for at in (0..last).step_by(STEP).chain([last]) {
        let mut bytes = key.stored.clone();
        bytes[at] ^= 1 << (at % 8);
        changed.push((format!("bit {} of byte {at} changed", at % 8), bytes));
    }
    for (what, stored) in changed {
        let changed = Made {
            name: key.name.clone(),
            public: key.public.clone(),
            stored,
        };
        not_ours(&what, &changed.sign(custody).await);
    }
    key.sign(custody).await.expect("the control");
}

async fn opens_no_material_of_another_key(
    custody: &dyn Custody,
    strangers: &[Arc<dyn Custody>],
    algorithm: Algorithm,
) {
    let key = Made::new(custody, key_ref("first"), algorithm).await;
    let other = Made::new(custody, key_ref("second"), algorithm).await;
    let later = KeyRef {
        version: KeyVersion(2),
        ..key.name.clone()
    };
    let next = Made::new(custody, later.clone(), algorithm).await;
    let mut foreign = vec![
        ("another key's".to_owned(), other.stored),
        ("the next version's".to_owned(), next.stored),
    ];
    for stranger in strangers {
        for algorithm in stranger.algorithms() {
            let theirs = Made::new(&**stranger, key.name.clone(), *algorithm).await;
            // With their public key, too: then the material alone says whose it is.
            let whole = theirs.sign(custody).await;
            assert!(
                matches!(
                    whole,
                    Err(CustodyError::NotOurs(_) | CustodyError::Algorithm { .. })
                ),
                "a key of {stranger:?} is not opened: {whole:?}"
            );
            theirs.sign(&**stranger).await.expect("the control");
            foreign.push((format!("{stranger:?}'s"), theirs.stored));
        }
    }
    for (whose, stored) in foreign {
        let exchanged = Made {
            name: key.name.clone(),
            public: key.public.clone(),
            stored,
        };
        not_ours(&format!("{whose} material"), &exchanged.sign(custody).await);
    }
    for name in [key_ref("third"), later] {
        opens_under_another_name_for_nothing(custody, &key, name).await;
    }
    key.sign(custody).await.expect("the control");
}

/// A sealed blob is bound to its name; of every other key the keyring's encryption binds it, and the permit names it.
async fn opens_under_another_name_for_nothing(custody: &dyn Custody, key: &Made, name: KeyRef) {
    let renamed = custody.open(&name, &key.public, secret(&key.stored)).await;
    match (custody.kind(), renamed) {
        (CustodyKind::TpmSealed, renamed) => not_ours("another name's", &renamed),
        (CustodyKind::Software | CustodyKind::Tpm, renamed) => {
            let renamed = renamed.expect("opens");
            let message = framed(&key.public, b"content");
            let permit = permit(&key.name, &message, 1).await;
            refused_by_permit("the first name's permit", &*renamed, &permit, &message).await;
        }
    }
}

fn not_ours<T: Debug>(what: &str, result: &Result<T, CustodyError>) {
    assert!(
        matches!(result, Err(CustodyError::NotOurs(_))),
        "{what} is not opened: {result:?}"
    );
}

async fn refuses_an_algorithm_it_does_not_have(
    custody: &dyn Custody,
    strangers: &[Arc<dyn Custody>],
    algorithm: Algorithm,
) {
    let refused = custody.generate(&key_ref("first"), algorithm).await;
    assert!(
        matches!(refused, Err(CustodyError::Algorithm { algorithm: named, custody: kind })
            if named == algorithm && kind == custody.kind()),
        "no key of an algorithm it does not have: {refused:?}"
    );
    let who_has = strangers
        .iter()
        .find(|stranger| stranger.algorithms().contains(&algorithm));
    // RSA is in TPMs alone: where none is compared with, nobody has a key of it.
    let Some(stranger) = who_has else {
        assert_eq!(algorithm, Algorithm::Rsa2048);
        return;
    };
    let theirs = Made::new(&**stranger, key_ref("first"), algorithm).await;
    // Under their public key, with material of theirs and of its own.
    let own = Made::new(custody, key_ref("first"), custody.algorithms()[0]).await;
    for stored in [theirs.stored.clone(), own.stored] {
        let opened = custody.open(&theirs.name, &theirs.public, secret(&stored)).await;
        assert!(
            matches!(
                opened,
                Err(CustodyError::Algorithm { .. } | CustodyError::NotOurs(_))
            ),
            "no key of an algorithm it does not have: {opened:?}"
        );
    }
}

async fn signs_for_many_at_once(custody: &dyn Custody, algorithm: Algorithm) {
    let keys = [
        Arc::new(Made::new(custody, key_ref("first"), algorithm).await),
        Arc::new(Made::new(custody, key_ref("second"), algorithm).await),
        // More than a TPM keeps loaded.
        Arc::new(Made::new(custody, key_ref("third"), algorithm).await),
    ];
    let mut callers = JoinSet::new();
    for key in keys {
        let open = key.open(custody).await.expect("opens");
        for who in 0..CALLERS {
            let (key, open) = (Arc::clone(&key), Arc::clone(&open));
            callers.spawn(async move {
                for n in 0..CALLERS {
                    // Verified against its own message and key: nothing is mixed up.
                    key.sign_with(&*open, format!("{who} {n}").as_bytes(), who)
                        .await
                        .expect("signs beside others");
                }
            });
        }
    }
    let ended = callers.join_all().await.len();
    assert_eq!(ended as u64, 3 * CALLERS);
}

async fn goes_on_after_a_dropped_request(custody: &dyn Custody, algorithm: Algorithm) {
    let key = Made::new(custody, key_ref("first"), algorithm).await;
    let open = key.open(custody).await.expect("opens");
    for _ in 0..CALLERS {
        let message = framed(&key.public, b"content");
        let permit = permit(&key.name, &message, 1).await;
        let mut signing = open.sign(&permit, &message);
        drop(signing.as_mut().poll(&mut Context::from_waker(Waker::noop())));
        drop(signing);
        refused_by_permit("the permit of a dropped request", &*open, &permit, &message).await;
        let mut opening = custody.open(&key.name, &key.public, secret(&key.stored));
        drop(opening.as_mut().poll(&mut Context::from_waker(Waker::noop())));
    }
    key.sign_with(&*open, b"content", 1).await.expect("it goes on");
    key.sign(custody).await.expect("it opens again");
}

async fn opens_again_after_a_restart(stand: &mut dyn Stand, algorithm: Algorithm) {
    let key = Made::new(&*stand.custody(), key_ref("first"), algorithm).await;
    stand.restart();
    key.sign(&*stand.custody()).await.expect("opens after a restart");
}

async fn is_unavailable_without_its_device(stand: &mut dyn Stand, algorithm: Algorithm) {
    let custody = stand.custody();
    let key = Made::new(&*custody, key_ref("first"), algorithm).await;
    let open = key.open(&*custody).await.expect("opens");
    if !stand.take_device() {
        return;
    }
    let gone = |what: &str, result: Result<(), CustodyError>| {
        assert!(
            matches!(result, Err(CustodyError::Unavailable(_))),
            "{what} without the device: {result:?}"
        );
    };
    gone("making", custody.generate(&key.name, algorithm).await.map(drop));
    gone("opening", key.open(&*custody).await.map(drop));
    let signed = key.sign_with(&*open, b"content", 1).await;
    match custody.kind() {
        CustodyKind::Tpm => gone("signing", signed.map(drop)),
        // The seed is in locked memory of the host while the key is open.
        CustodyKind::TpmSealed | CustodyKind::Software => drop(signed.expect("signs without the device")),
    }
    stand.return_device();
    key.sign_with(&*open, b"content", 1)
        .await
        .expect("an open key signs again");
    key.sign(&*custody).await.expect("it opens again");
    Made::new(&*custody, key_ref("second"), algorithm).await;
}
