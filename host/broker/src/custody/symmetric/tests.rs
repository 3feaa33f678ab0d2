//! Boxes and MACs of software and sealed custody, against known answers of other implementations and against every change. Not the broker's
//! path.

use std::sync::Arc;

use claviger_core::custody::Custody;
use claviger_core::key::{KeyId, KeyVersion};
use claviger_core::profile::{BOX_OVERHEAD, Context, MacRule, Profile, SealRule, Tag};
use proptest::prelude::*;

use super::super::permits::{key_ref, permit_to_use};
use super::super::{KdfCost, PassphraseSealer, SealedCustody};
use super::*;

const ID: [u8; 16] = [7; 16];

fn seal_rule() -> SealRule {
    Profile::Seal {}.sealing().unwrap()
}

fn mac_rule(label: &str) -> MacRule {
    let label = label.parse().unwrap();
    Profile::Mac { label }.macs(None).unwrap()
}

fn version(name: &str, version: u32) -> KeyRef {
    KeyRef {
        version: KeyVersion(version),
        ..key_ref(name)
    }
}

fn known() -> Secret {
    let mut bytes: Vec<u8> = (0..32).collect();
    Secret::take(&mut bytes).unwrap()
}

fn context(bytes: &[u8]) -> Context<'_> {
    Context::parse(bytes).unwrap()
}

fn to_seal(id: [u8; 16], version: u32, text: &[u8], said: &[u8]) -> SealInput {
    let plaintext = Plaintext::new(text.to_vec());
    let (id, version) = (KeyId::from_bytes(id), KeyVersion(version));
    seal_rule().seal(id, version, plaintext, context(said)).unwrap()
}

fn to_unseal(id: [u8; 16], version: u32, sealed: &[u8], said: &[u8]) -> Option<UnsealInput> {
    let (id, version) = (KeyId::from_bytes(id), KeyVersion(version));
    seal_rule().unseal(id, version, sealed, context(said))
}

/// Opens a box with this material, as the version that it names or none.
fn opened(material: &Secret, id: [u8; 16], as_version: u32, sealed: &[u8], said: &[u8]) -> Option<Vec<u8>> {
    let input = to_unseal(id, as_version, sealed, said)?;
    unseal(material, &input).unwrap().map(Plaintext::into_bytes)
}

#[test]
fn a_box_and_a_tag_are_those_that_other_libraries_make() {
    // By libsodium and by Python's `hmac`, from the format as docs/adr/0011-boxes-and-macs.md has it.
    let nonce: [u8; NONCE] = std::array::from_fn(|n| 0x40 + u8::try_from(n).unwrap());
    let sealed = seal(
        &known(),
        &nonce,
        &to_seal(ID, 3, b"correct horse", b"token of alice"),
    )
    .unwrap();
    assert_eq!(
        hex::encode(&sealed),
        "b100000003404142434445464748494a4b4c4d4e4f5051525354555657b7567702b5830d36e79bf5cdca0b10e91ab6775ed05741fd59022d3c5f"
    );
    assert_eq!(
        opened(&known(), ID, 3, &sealed, b"token of alice").as_deref(),
        Some(b"correct horse".as_slice())
    );
    let input = mac_rule("acme/tickets").frame(b"alice").unwrap();
    let tag = mac(&known(), input.message()).unwrap().tag(KeyVersion(3));
    assert_eq!(
        hex::encode(tag),
        "a1000000038a5395f1ebe4996d12dbfd77dc4a945ca62dff6d95a386eac6d0338e5851292b"
    );
}

#[test]
fn a_box_opens_in_no_part_and_with_no_bit_changed() {
    let sealed = seal(&known(), &[9; NONCE], &to_seal(ID, 1, b"0123456789", b"c")).unwrap();
    assert_eq!(sealed.len(), 10 + BOX_OVERHEAD);
    let opens = |sealed: &[u8]| opened(&known(), ID, 1, sealed, b"c");
    assert!(opens(&sealed).is_some(), "the control");
    for length in 0..sealed.len() {
        assert_eq!(opens(&sealed[..length]), None, "cut to {length}");
    }
    assert_eq!(opens(&[&sealed[..], &[0]].concat()), None, "a byte too many");
    for at in 0..sealed.len() {
        for bit in 0..8 {
            let mut changed = sealed.clone();
            changed[at] ^= 1 << bit;
            assert_eq!(opens(&changed), None, "bit {bit} of byte {at}");
            // Nor as the version that it names now.
            if let Some(named) = seal_rule().version(&changed) {
                assert_eq!(opened(&known(), ID, named.0, &changed, b"c"), None);
            }
        }
    }
}

#[test]
fn a_tag_is_right_for_its_own_content_alone_with_no_bit_changed() {
    let input = mac_rule("l").frame(b"content").unwrap();
    let value = mac(&known(), input.message()).unwrap();
    let tag = value.tag(KeyVersion(1));
    let right =
        |tag: &[u8]| Tag::parse(tag).is_some_and(|tag| tag.version() == KeyVersion(1) && tag.matches(&value));
    assert!(right(&tag), "the control");
    for length in 0..tag.len() {
        assert!(!right(&tag[..length]), "cut to {length}");
    }
    assert!(!right(&[&tag[..], &[0]].concat()));
    for at in 0..tag.len() {
        for bit in 0..8 {
            let mut changed = tag.clone();
            changed[at] ^= 1 << bit;
            assert!(!right(&changed), "bit {bit} of byte {at}");
        }
    }
}

/// Where something was made: a key, its identifier, a version, a context or label, a content.
type Place = (u8, u8, u32, Vec<u8>, Vec<u8>);

fn place() -> impl Strategy<Value = Place> {
    // Few of each, so that most pairs differ in one thing alone.
    let text = || proptest::collection::vec(0_u8..2, 1..4);
    (0_u8..2, 0_u8..2, 1_u32..3, text(), text())
}

fn material(key: u8) -> Secret {
    Secret::take(&mut [key + 1; MATERIAL]).unwrap()
}

proptest! {
    #[test]
    fn a_box_opens_where_it_was_made_and_nowhere_else(made in place(), tried in place()) {
        let (key, id, version, said, text) = &made;
        let sealed = seal(&material(*key), &[3; NONCE], &to_seal([*id; 16], *version, text, said)).unwrap();
        let (other_key, other_id, other_version, other_said, _) = &tried;
        let here = (key, id, version, said) == (other_key, other_id, other_version, other_said);
        let found = opened(&material(*other_key), [*other_id; 16], *other_version, &sealed, other_said);
        prop_assert_eq!(found, here.then(|| text.clone()));
        // A box that is made to name the other version does not open either.
        let mut renamed = sealed.clone();
        renamed[1..5].copy_from_slice(&other_version.to_be_bytes());
        let moved = opened(&material(*other_key), [*other_id; 16], *other_version, &renamed, other_said);
        prop_assert_eq!(moved.is_some(), here);
    }

    #[test]
    fn a_tag_is_right_where_it_was_made_and_nowhere_else(made in place(), tried in place()) {
        let of = |(key, _, _, label, content): &Place| {
            let label: String = label.iter().map(|n| char::from(b'a' + n)).collect();
            mac(&material(*key), mac_rule(&label).frame(content).unwrap().message()).unwrap()
        };
        let tag = Tag::parse(&of(&made).tag(KeyVersion(made.2))).unwrap();
        let same = (made.0, &made.3, &made.4) == (tried.0, &tried.3, &tried.4);
        prop_assert_eq!(tag.matches(&of(&tried)), same);
    }
}

fn custodies() -> Vec<Arc<dyn Custody>> {
    let mut passphrase = b"correct horse battery".to_vec();
    let sealer = PassphraseSealer::new(
        Secret::take(&mut passphrase).unwrap(),
        KdfCost::INSECURE_FOR_TESTS,
    );
    vec![
        Arc::new(SoftwareCustody),
        Arc::new(SealedCustody::new(Arc::new(sealer.unwrap()))),
    ]
}

#[tokio::test]
async fn material_opens_again_for_its_own_key_and_custody() {
    for custody in custodies() {
        let kind = custody.kind();
        let (sealing, macs) = (custody.sealing().unwrap(), custody.macs().unwrap());
        let (one, two) = (version("k", 1), version("k", 2));
        let stored = sealing.generate(&one).await.unwrap().expose().to_vec();
        let material = || Secret::take(&mut stored.clone()).unwrap();

        // Two openings of the same material are the same key.
        let first = sealing.open(&one, material()).await.unwrap();
        let again = sealing.open(&one, material()).await.unwrap();
        let input = to_seal(ID, 1, b"text", b"c");
        let permit = permit_to_use(&one, (&input).into()).await;
        let sealed = first.seal(&permit, &input).await.unwrap();
        let input = to_unseal(ID, 1, &sealed, b"c").unwrap();
        let permit = permit_to_use(&one, (&input).into()).await;
        let text = again.unseal(&permit, &input).await.unwrap().unwrap();
        assert_eq!(text.as_bytes(), b"text", "{kind}");

        // Sealed material names its key; bare material has the keyring's row to bind it.
        let moved = sealing.open(&two, material()).await;
        assert_eq!(moved.is_ok(), kind == CustodyKind::Software, "{kind}");
        assert!(
            matches!(
                macs.open(&one, Secret::take(&mut [1; 31]).unwrap()).await,
                Err(CustodyError::NotOurs(_))
            ),
            "{kind}"
        );
        assert_ne!(
            sealing.generate(&one).await.unwrap().expose(),
            stored,
            "{kind}: two keys are two"
        );
    }
}

#[tokio::test]
async fn a_key_is_used_for_what_its_permit_covers_and_once() {
    for custody in custodies() {
        let key = key_ref("k");
        let (sealing, macs) = (custody.sealing().unwrap(), custody.macs().unwrap());
        let open = sealing
            .open(&key, sealing.generate(&key).await.unwrap())
            .await
            .unwrap();
        let mac_key = macs.open(&key, macs.generate(&key).await.unwrap()).await.unwrap();
        let (input, other) = (to_seal(ID, 1, b"a", b"c"), to_seal(ID, 1, b"a", b"c"));
        let content = mac_rule("l").frame(b"a").unwrap();

        // Equal, and still another; and of another key.
        let permit = permit_to_use(&key, (&other).into()).await;
        let mismatch = |error| matches!(error, CustodyError::PermitMismatch);
        assert!(mismatch(open.seal(&permit, &input).await.unwrap_err()));
        assert!(matches!(
            mac_key.mac(&permit, &content).await,
            Err(CustodyError::PermitMismatch)
        ));
        let elsewhere = permit_to_use(&version("k", 2), (&input).into()).await;
        assert!(mismatch(open.seal(&elsewhere, &input).await.unwrap_err()));

        // The same permit, still whole, is good for its own input; then it is spent.
        let sealed = open.seal(&permit, &other).await.unwrap();
        assert!(mismatch(open.seal(&permit, &other).await.unwrap_err()));

        let unsealing = to_unseal(ID, 1, &sealed, b"c").unwrap();
        assert!(mismatch(open.unseal(&permit, &unsealing).await.unwrap_err()));
        let permit = permit_to_use(&key, (&unsealing).into()).await;
        assert!(open.unseal(&permit, &unsealing).await.unwrap().is_some());
        assert!(mismatch(open.unseal(&permit, &unsealing).await.unwrap_err()));

        let permit = permit_to_use(&key, (&content).into()).await;
        assert!(mac_key.mac(&permit, &content).await.is_ok());
        assert!(mac_key.mac(&permit, &content).await.is_err());
    }
}

#[tokio::test]
async fn two_boxes_of_one_text_have_nothing_in_common_but_their_head() {
    let key = key_ref("k");
    let custody = SoftwareCustody;
    let sealing = custody.sealing().unwrap();
    let open = sealing
        .open(&key, sealing.generate(&key).await.unwrap())
        .await
        .unwrap();
    let mut boxes = Vec::new();
    for _ in 0..64 {
        let input = to_seal(ID, 1, &[0; 64], b"c");
        let permit = permit_to_use(&key, (&input).into()).await;
        boxes.push(open.seal(&permit, &input).await.unwrap());
    }
    let mut nonces: Vec<_> = boxes.iter().map(|sealed| &sealed[5..5 + NONCE]).collect();
    nonces.sort_unstable();
    nonces.dedup();
    assert_eq!(nonces.len(), boxes.len());
    assert_ne!(boxes[0][5 + NONCE..], boxes[1][5 + NONCE..]);
}
