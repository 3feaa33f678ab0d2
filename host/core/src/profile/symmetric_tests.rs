//! The frames of boxes and MACs: bounds, and that no two places have the same. Not the ciphers: custody's tests have those.

use proptest::prelude::*;

use super::*;
use crate::key::{KeyId, KeyVersion};
use crate::name::MAX_NAME;
use crate::request::{Outcome, Request};

fn sealing() -> SealRule {
    Profile::Seal {}.sealing().unwrap()
}

fn macs(label: &str) -> MacRule {
    let label = label.parse().unwrap();
    Profile::Mac { label }.macs(None).unwrap()
}

fn input(id: u8, version: u32, said: &[u8], text: &[u8]) -> SealInput {
    let context = Context::parse(said).unwrap();
    let (id, version) = (KeyId::from_bytes([id; 16]), KeyVersion(version));
    sealing()
        .seal(id, version, Plaintext::new(text.to_vec()), context)
        .unwrap()
}

#[test]
fn the_longest_message_of_a_mac_fits_one_command_of_any_tpm() {
    let longest = macs(&"l".repeat(MAX_NAME)).frame(&[0; MAX_MAC_CONTENT]).unwrap();
    assert_eq!(longest.message().len(), MAX_MAC_MESSAGE);
    const { assert!(MAX_MAC_MESSAGE <= 1024) };
    assert_eq!((longest.size(), TAG), (MAX_MAC_CONTENT, 37));
    let over = macs("l").frame(&[0; MAX_MAC_CONTENT + 1]);
    assert!(matches!(over, Err(InputError::TooLarge { .. })));
}

#[test]
fn a_context_is_neither_missing_nor_long() {
    for (length, fits) in [
        (0, false),
        (1, true),
        (MAX_CONTEXT, true),
        (MAX_CONTEXT + 1, false),
        (65_536, false),
        (65_537, false),
    ] {
        let parsed = Context::parse(&vec![0; length]).map(|context| context.as_bytes().len());
        assert_eq!(
            parsed,
            if fits {
                Ok(length)
            } else {
                Err(InputError::Context(length))
            }
        );
    }
}

#[test]
fn only_what_is_as_long_as_a_box_and_begins_as_one_names_a_version() {
    let named = |first: u8, length: usize| {
        let mut bytes = vec![7; length];
        if let Some(byte) = bytes.first_mut() {
            *byte = first;
        }
        sealing().version(&bytes)
    };
    let version = Some(KeyVersion(0x0707_0707));
    for (first, length, expected) in [
        (0xB1, BOX_OVERHEAD, version),
        (0xB1, MAX_BOX, version),
        (0xB1, BOX_OVERHEAD - 1, None),
        (0xB1, MAX_BOX + 1, None),
        (0xB1, 0, None),
        (0xA1, BOX_OVERHEAD, None),
        (0xB2, BOX_OVERHEAD, None),
    ] {
        assert_eq!(named(first, length), expected, "{first} {length}");
    }
    assert!(Tag::parse(&[0xA1; TAG]).is_some());
    for bytes in [&[0xA1; TAG - 1][..], &[0xA1; TAG + 1], &[0xB1; TAG], &[]] {
        assert!(Tag::parse(bytes).is_none());
    }
}

#[test]
fn what_seals_or_makes_macs_signs_nothing_and_the_other_way_round() {
    let label: Label = "acme/build".parse().unwrap();
    let mac = Profile::Mac { label: label.clone() };
    for profile in [Profile::Seal {}, mac.clone()] {
        let refused = profile.narrow(&Narrowing::default());
        assert_eq!(refused, Err(ProfileError::SignsNothing(profile.kind())));
        assert_eq!(profile.algorithms(), []);
        for algorithm in [Algorithm::Ed25519, Algorithm::P256, Algorithm::Rsa2048] {
            assert!(profile.accept(algorithm).is_err());
        }
        assert!(profile.accept(profile.symmetric().unwrap()).is_ok());
    }
    let signs = Profile::Labeled { label: label.clone() };
    for algorithm in [
        SymmetricAlgorithm::XChaCha20Poly1305,
        SymmetricAlgorithm::HmacSha256,
    ] {
        assert!(signs.accept(algorithm).is_err());
        let own = [Profile::Seal {}, mac.clone()].map(|profile| profile.accept(algorithm).is_ok());
        assert_eq!(own.into_iter().filter(|own| *own).count(), 1);
    }
    assert!(signs.sealing().is_err() && signs.macs(None).is_err());
    assert!(mac.sealing().is_err() && Profile::Seal {}.macs(None).is_err());
    assert!(mac.macs(Some(&label)).is_ok());
    assert!(mac.macs(Some(&"acme".parse().unwrap())).is_err());
}

#[test]
fn no_debug_text_has_what_is_sealed() {
    let text = || Plaintext::new(b"hunter2".to_vec());
    let grant = || "g".parse().unwrap();
    let said = [
        format!("{:?}", text()),
        format!("{:?}", input(1, 1, b"c", b"hunter2")),
        format!(
            "{:?}",
            Request::Seal {
                grant: grant(),
                plaintext: text(),
                context: b"c".to_vec()
            }
        ),
        format!("{:?}", Outcome::Unsealed { plaintext: text() }),
    ];
    for said in said {
        // Neither as text nor as the numbers of its bytes.
        assert!(!said.contains("hunter2") && !said.contains("104, 117"), "{said}");
        assert!(said.contains('7'), "its length is there: {said}");
    }
}

/// A key, a version, a context.
fn place() -> impl Strategy<Value = (u8, u32, Vec<u8>)> {
    (0_u8..3, 0_u32..300, proptest::collection::vec(0_u8..3, 1..5))
}

proptest! {
    #[test]
    fn two_places_have_two_associated_data(one in place(), two in place()) {
        let (a, b) = (input(one.0, one.1, &one.2, b"x"), input(two.0, two.1, &two.2, b"y"));
        prop_assert_eq!(a.associated() == b.associated(), one == two);
    }

    #[test]
    fn two_contents_or_labels_have_two_messages(one in ("[ab/]{1,4}", "[ab]{0,4}"), two in ("[ab/]{1,4}", "[ab]{0,4}")) {
        let of = |(label, content): &(String, String)| macs(label).frame(content.as_bytes()).unwrap().message().to_vec();
        prop_assert_eq!(of(&one) == of(&two), one == two);
    }

    #[test]
    fn no_frame_begins_as_one_of_another_kind(label in "[ab/]{1,64}", content: Vec<u8>, said in proptest::collection::vec(any::<u8>(), 1..99)) {
        // Whatever an agent says, it comes behind a text that is the host's.
        let parsed: Label = label.parse().unwrap();
        let frames = [
            labeled_message(&parsed, &content),
            macs(&label).frame(&content).unwrap().message().to_vec(),
            input(1, 1, &said, &content).associated().to_vec(),
        ];
        let heads = [&b"\xC1\xFEclaviger labeled v1\0"[..], b"\xC1\xFEclaviger mac v1\0", b"\xC1\xFEclaviger seal v1\0"];
        for (row, frame) in frames.iter().enumerate() {
            for (column, head) in heads.iter().enumerate() {
                prop_assert_eq!(frame.starts_with(head), row == column);
            }
        }
    }
}
