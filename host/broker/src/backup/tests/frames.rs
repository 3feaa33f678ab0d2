//! What is in a backup, written by somebody who has the recipient and means ill: lengths, kinds, formats, counts, signatures.

use claviger_core::Secret;
use claviger_core::custody::Assurance;
use ed25519_dalek::{Signer as _, SigningKey};
use proptest::prelude::*;
use serde_json::json;

use super::super::stream::{PADDING, Sealing};
use super::super::write::{Chain, Kind, PRELUDE};
use super::super::{BackupError, Contents, FORMAT, Head, Identity, MAX_FRAME, Recipient, Writer};

fn identity() -> (Vec<Identity>, Recipient) {
    let (text, recipient) = Identity::generate().unwrap();
    (Identity::read_all(&text).unwrap(), recipient)
}

fn log_key() -> (SigningKey, String) {
    let key = SigningKey::from_bytes(&[9; 32]);
    let vkey = signed_note::new_ed25519_verifier_key("claviger/audit", &key.verifying_key());
    (key, vkey)
}

fn head(items: u64) -> Head {
    Head {
        made: "2026-06-01T12:00:00Z".parse().unwrap(),
        version: "0.1.0".to_owned(),
        vkey: log_key().1,
        assurance: Assurance::Hardware,
        generation: 7,
        items,
    }
}

/// One frame as it stands in the file.
fn frame(kind: u8, head: &[u8], value: &[u8]) -> Vec<u8> {
    let length = |part: &[u8]| u32::try_from(part.len()).unwrap().to_be_bytes();
    [&[kind], &length(head)[..], head, &length(value)[..], value].concat()
}

fn kind(byte: u8) -> Kind {
    Kind::of(byte).unwrap()
}

/// A content of these frames, signed.
fn content(frames: &[(u8, serde_json::Value, &[u8])]) -> Vec<u8> {
    let mut bytes = [PRELUDE.as_slice(), &FORMAT.to_be_bytes()].concat();
    let mut chain = Chain::default();
    for (byte, json, value) in frames {
        let json = serde_json::to_vec(json).unwrap();
        chain.add(kind(*byte), &json, value);
        bytes.extend(frame(*byte, &json, value));
    }
    let signature = log_key().0.sign(&chain.signed());
    let end = json!({ "signature": base64(&signature.to_bytes()) });
    bytes.extend(frame(4, end.to_string().as_bytes(), &PADDING));
    bytes
}

fn base64(bytes: &[u8]) -> String {
    use base64ct::Encoding as _;
    base64ct::Base64::encode_string(bytes)
}

fn read(content: &[u8]) -> Result<Contents, BackupError> {
    let (identities, recipient) = identity();
    let mut sealing = Sealing::new(Vec::new(), &[recipient]).unwrap();
    sealing.write(content).unwrap();
    let file = sealing.finish().unwrap();
    Contents::read(file.as_slice(), &identities)
}

fn secret_item() -> serde_json::Value {
    json!({
        "name": "github", "version": 1, "state": "active", "kind": "bearer", "origin": "https://api.test",
        "assurance": "hardware", "created": "2026-06-01T12:00:00Z", "updated": "2026-06-01T12:00:00Z",
        "source": "operator", "overlap": 0,
    })
}

fn good() -> Vec<(u8, serde_json::Value, &'static [u8])> {
    vec![
        (1, serde_json::to_value(head(1)).unwrap(), b""),
        (3, secret_item(), b"a-token-of-some-length"),
    ]
}

#[test]
fn what_is_written_is_read() {
    let (identities, recipient) = identity();
    let mut writer = Writer::new(Vec::new(), &[recipient], &head(1)).unwrap();
    let item = serde_json::from_value(secret_item()).unwrap();
    let value = Secret::take(&mut b"a-token-of-some-length".to_vec()).unwrap();
    writer.secret(&item, Some(&value)).unwrap();
    let file = writer
        .finish(|message| Ok(log_key().0.sign(message).to_vec()))
        .unwrap();
    let contents = Contents::read(file.as_slice(), &identities).unwrap();
    assert_eq!(contents.vkey, log_key().1);
    assert_eq!(contents.secrets.len(), 1);
    assert!(contents.secrets[0].1, "its value is there");
    assert!(
        read(&content(&good())).is_ok(),
        "and so is what these tests make themselves"
    );
}

#[test]
fn each_lie_is_refused_and_the_item_named() {
    let mut newer = content(&good());
    newer[19] = 2;
    let mut ancient = content(&good());
    ancient[19] = 0;
    let huge = |at_head: bool| {
        let mut bytes = [PRELUDE.as_slice(), &FORMAT.to_be_bytes(), &[1]].concat();
        if at_head {
            bytes.extend(u32::MAX.to_be_bytes());
        } else {
            bytes.extend(frame(0, b"{}", b"")[1..7].to_vec());
            bytes.extend(u32::try_from(MAX_FRAME + 1).unwrap().to_be_bytes());
        }
        bytes
    };
    let changed = |field: &str, value: serde_json::Value| {
        let mut frames = good();
        frames[1].1[field] = value;
        content(&frames)
    };
    let with_head = |field: &str, value: serde_json::Value| {
        let mut frames = good();
        frames[0].1[field] = value;
        content(&frames)
    };
    let mut twice = good();
    twice.insert(1, good()[0].clone());
    let mut more = good();
    more.push(good()[1].clone());
    let mut fewer = good();
    fewer.pop();
    let no_end = {
        let whole = content(&good());
        whole[..whole.len() - PADDING.len() - 60].to_vec()
    };
    let mut unpadded = content(&good());
    *unpadded.last_mut().unwrap() = 1;
    let mut unlike = content(&good());
    let at = unlike.len() - PADDING.len() - 4;
    unlike.truncate(at);
    unlike.extend(0_u32.to_be_bytes());
    let longer = [content(&good()), b"x".to_vec()].concat();
    let mut forged = content(&good());
    let last = forged.len() - PADDING.len() - 20;
    forged[last] = if forged[last] == b'A' { b'B' } else { b'A' };
    let deep = format!("{}1{}", "[".repeat(60_000), "]".repeat(60_000));
    let nested = [
        PRELUDE.as_slice(),
        &FORMAT.to_be_bytes(),
        &frame(1, &deep.as_bytes()[..MAX_FRAME], b""),
    ]
    .concat();
    let rows: Vec<(&str, Vec<u8>, &str)> = vec![
        ("a later format", newer, "has format 2, and this version"),
        ("format 0", ancient, "format 0"),
        ("nothing", Vec::new(), "an age file of something else"),
        ("a text", b"hello".to_vec(), "an age file of something else"),
        (
            "a long text",
            vec![b'x'; 100_000],
            "an age file of something else",
        ),
        ("a head of 4 GiB", huge(true), "has 4294967295 bytes"),
        ("a value over the bound", huge(false), "its value has 65537 bytes"),
        ("deep nesting", nested, "cannot be read"),
        ("two heads", content(&twice), "a second head"),
        (
            "one item more",
            content(&more),
            "item 2 cannot be read: the head says that there are fewer",
        ),
        ("one item less", content(&fewer), "the end comes too early"),
        ("no end", no_end, "ends before its last item"),
        ("something behind the end", longer, "something follows the end"),
        ("another padding", unpadded, "another padding"),
        ("no padding", unlike, "another padding"),
        ("another signature", forged, "not signed by the key"),
        (
            "4097 items",
            with_head("items", json!(4097)),
            "says what no keyring has",
        ),
        (
            "no verifier key",
            with_head("vkey", json!("x")),
            "no verifier key",
        ),
        ("an unknown field", changed("extra", json!(1)), "unknown field"),
        (
            "another version",
            changed("version", json!(0)),
            "impossible version",
        ),
        (
            "a negative version",
            changed("version", json!(-1)),
            "item 1 cannot be read",
        ),
        ("a state", changed("state", json!("golden")), "impossible state"),
        (
            "a name that is a path",
            changed("name", json!("../x")),
            "item 1 cannot be read",
        ),
        (
            "a plan of no time",
            changed("rotate_every", json!(0)),
            "impossible rotation plan",
        ),
        (
            "an origin",
            changed("origin", json!("http://a.test")),
            "item 1 cannot be read",
        ),
    ];
    for (what, content, says) in rows {
        let refused = read(&content).map(drop).unwrap_err();
        assert!(refused.to_string().contains(says), "{what}: {refused}");
    }
    let mut unknown = content(&good());
    let at = PRELUDE.len() + 4;
    unknown[at] = 9;
    assert!(read(&unknown).unwrap_err().to_string().contains("of a kind"));
    assert!(read(&content(&good())).is_ok(), "the control");
}

#[test]
fn a_hostile_text_is_shown_escaped() {
    let mut frames = good();
    frames[0].1["version"] = json!("0.1\u{1b}[2J");
    assert!(!read(&content(&frames)).unwrap().version.contains('\u{1b}'));
    frames[1].1["state"] = json!("\u{1b}[2J");
    assert!(
        !read(&content(&frames))
            .unwrap_err()
            .to_string()
            .contains('\u{1b}')
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever is done to the content, it is read as it was written or refused: it never passes for another one.
    #[test]
    fn a_changed_content_is_never_another_one(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let truth = content(&good());
        let mut bytes = truth.clone();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let result = read(&bytes);
        if bytes != truth {
            prop_assert!(result.is_err());
        }
    }

    /// Nor is anything else a content, and reading it ends.
    #[test]
    fn other_bytes_are_refused(rest in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(read(&rest).is_err());
        let behind = [PRELUDE.as_slice(), &FORMAT.to_be_bytes(), &rest].concat();
        prop_assert!(read(&behind).is_err());
    }

    /// Nor a file.
    #[test]
    fn other_files_are_refused(rest in prop::collection::vec(any::<u8>(), 0..2000)) {
        let (identities, _) = identity();
        prop_assert!(Contents::read(rest.as_slice(), &identities).is_err());
        let behind = [b"age-encryption.org/v1\n".as_slice(), &rest].concat();
        prop_assert!(Contents::read(behind.as_slice(), &identities).is_err());
    }
}
