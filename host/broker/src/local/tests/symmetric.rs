//! Boxes and MACs through the broker: each right by itself, every reason why a box does not open, every bound, and what is on the log.

use claviger_core::ContentDigest;
use claviger_core::audit::{Operation, Use};
use claviger_core::profile::{
    BOX_OVERHEAD, MAX_BOX, MAX_CONTEXT, MAX_MAC_CONTENT, MAX_PLAINTEXT, Plaintext, TAG,
};

use super::*;
use crate::keyring::KeyRecord;

pub(super) const STATE: &str = "[grants.state]\nseal = { key = \"state\", allow = [\"seal\", \"unseal\"] }\n";
pub(super) const HOOK: &str = "[grants.hook]\nmac = { key = \"hook\", allow = [\"generate\", \"verify\"] }\n";

pub(super) async fn fixture() -> Fixture {
    let fixture = Fixture::new().await;
    for (key, profile) in [
        ("state", Profile::Seal {}),
        ("other", Profile::Seal {}),
        (
            "hook",
            Profile::Mac {
                label: name("acme/hook"),
            },
        ),
        (
            "twin",
            Profile::Mac {
                label: name("acme/hook"),
            },
        ),
    ] {
        let made = fixture
            .broker
            .create_symmetric_key(name(key), profile, CustodyKind::Software);
        made.await.unwrap();
    }
    fixture
}

impl Fixture {
    pub(super) async fn seal(
        &self,
        who: InstanceId,
        grant: &str,
        text: &[u8],
        said: &[u8],
    ) -> Result<Vec<u8>, Refusal> {
        let request = Request::Seal {
            grant: name(grant),
            plaintext: Plaintext::new(text.to_vec()),
            context: said.to_vec(),
        };
        match self.broker.perform(who, request).await? {
            Outcome::Sealed { sealed } => Ok(sealed),
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn unseal(
        &self,
        who: InstanceId,
        grant: &str,
        sealed: &[u8],
        said: &[u8],
    ) -> Result<Vec<u8>, Refusal> {
        let request = Request::Unseal {
            grant: name(grant),
            sealed: sealed.to_vec(),
            context: said.to_vec(),
        };
        match self.broker.perform(who, request).await? {
            Outcome::Unsealed { plaintext } => Ok(plaintext.into_bytes()),
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn tag(&self, who: InstanceId, grant: &str, content: &[u8]) -> Result<Vec<u8>, Refusal> {
        let request = Request::GenerateTag {
            grant: name(grant),
            content: content.to_vec(),
        };
        match self.broker.perform(who, request).await? {
            Outcome::Tag { tag } => Ok(tag),
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn verify(
        &self,
        who: InstanceId,
        grant: &str,
        content: &[u8],
        tag: &[u8],
    ) -> Result<bool, Refusal> {
        let request = Request::VerifyTag {
            grant: name(grant),
            content: content.to_vec(),
            tag: tag.to_vec(),
        };
        match self.broker.perform(who, request).await? {
            Outcome::Verified { valid } => Ok(valid),
            other => panic!("{other:?}"),
        }
    }

    async fn allowed(&self) -> Vec<Use> {
        let events = self.events().await;
        events
            .into_iter()
            .filter_map(|event| match event {
                Event::Allowed(allowed) => Some(allowed),
                _ => None,
            })
            .collect()
    }

    /// Revokes the version of a key that is in use, and puts another in its place.
    async fn replace(&self, key: &str) -> Arc<KeyRecord> {
        let replaced = self.broker.compromise_key(&name(key), None, None).await.unwrap();
        replaced.replaced_by.unwrap()
    }
}

#[tokio::test]
async fn a_box_is_logged_then_made_then_settled_and_the_log_tells_nothing_of_the_text() {
    let fixture = fixture().await;
    let who = fixture.start(STATE).await;
    let sealed = fixture
        .seal(who, "state", b"1234", b"pin of alice")
        .await
        .unwrap();
    assert_eq!(sealed.len(), 4 + BOX_OVERHEAD);
    assert_eq!(
        fixture
            .unseal(who, "state", &sealed, b"pin of alice")
            .await
            .unwrap(),
        b"1234"
    );

    let allowed = fixture.allowed().await;
    let told: Vec<_> = allowed
        .iter()
        .map(|used| {
            let key = used.key.as_ref().unwrap().to_string();
            (used.operation, key, used.size, used.number, used.profile.as_str())
        })
        .collect();
    assert_eq!(
        told,
        [
            (Some(Operation::Seal), "state@v1".to_owned(), 4, 1, "seal"),
            (Some(Operation::Unseal), "state@v1".to_owned(), 4, 2, "seal"),
        ]
    );
    assert_eq!(fixture.settlements().await, [Settlement::Released; 2]);
    // Ten thousand PINs are tried in no time: whoever reads the log must not be able to.
    let text = serde_json::to_string(&fixture.entries().await).unwrap();
    assert_eq!(
        allowed[0].content,
        ContentDigest::of_parts([b"pin of alice".as_slice()])
    );
    for derived in [
        ContentDigest::of(b"1234"),
        ContentDigest::of_parts([b"1234".as_slice()]),
        ContentDigest::of_parts([b"pin of alice".as_slice(), b"1234"]),
    ] {
        assert!(!text.contains(&derived.to_string()));
    }
    assert!(text.contains(&allowed[0].content.to_string()), "the control");
}

#[tokio::test]
async fn boxes_and_tags_hold_over_a_restart() {
    let fixture = fixture().await;
    let who = fixture.start(&format!("{STATE}{HOOK}")).await;
    let sealed = fixture.seal(who, "state", b"text", b"c").await.unwrap();
    let tag = fixture.tag(who, "hook", b"content").await.unwrap();
    let fixture = fixture.reopen().await;
    let who = fixture.start(&format!("{STATE}{HOOK}")).await;
    assert_eq!(
        fixture.unseal(who, "state", &sealed, b"c").await.unwrap(),
        b"text"
    );
    assert_eq!(fixture.verify(who, "hook", b"content", &tag).await, Ok(true));
}

#[tokio::test]
async fn whatever_the_reason_why_a_box_does_not_open_the_agent_learns_the_same() {
    let fixture = fixture().await;
    let grants = format!("{STATE}[grants.other]\nseal = {{ key = \"other\", allow = [\"seal\"] }}\n");
    let who = fixture.start(&grants).await;
    let revoked = fixture.seal(who, "state", b"text", b"c").await.unwrap();
    fixture.replace("state").await;
    let sealed = fixture.seal(who, "state", b"text", b"c").await.unwrap();
    let foreign = fixture.seal(who, "other", b"text", b"c").await.unwrap();
    let with = |at: usize, byte: u8| {
        let mut changed = sealed.clone();
        changed[at] = byte;
        changed
    };
    let last = sealed.len() - 1;
    let rows: [(&str, Vec<u8>, &[u8]); 14] = [
        ("another context", sealed.clone(), b"d"),
        ("a longer context", sealed.clone(), b"cc"),
        ("of another key", foreign, b"c"),
        ("of a revoked version", revoked.clone(), b"c"),
        ("of a version that never was", with(4, 9), b"c"),
        ("of version 0", with(4, 0), b"c"),
        ("a revoked version's name on another's box", with(4, 1), b"c"),
        ("another format", with(0, 0xA1), b"c"),
        ("another nonce", with(5, sealed[5] ^ 1), b"c"),
        ("another authenticator", with(last, sealed[last] ^ 1), b"c"),
        ("cut", sealed[..last].to_vec(), b"c"),
        ("nothing", Vec::new(), b"c"),
        ("a byte over the bound", vec![0xB1; MAX_BOX + 1], b"c"),
        ("far over the bound", vec![0xB1; 8 * MAX_BOX], b"c"),
    ];
    let before = fixture.settlements().await.len();
    for (what, sealed, said) in &rows {
        // One a minute is no guessing.
        fixture.clock.advance(SignedDuration::from_secs(61));
        assert_eq!(
            fixture.unseal(who, "state", sealed, said).await,
            Err(Refusal::Invalid),
            "{what}"
        );
    }
    assert_eq!(
        fixture.unseal(who, "state", &sealed, b"c").await.unwrap(),
        b"text",
        "the control"
    );
    assert_eq!(fixture.rules().await, [Rule::Mismatch; 14]);
    let settled = fixture.settlements().await.split_off(before);
    assert_eq!(settled[..14], [Settlement::Mismatch; 14]);
    assert_eq!(settled[14], Settlement::Released);
    // Each cost a use, and none much of the disk.
    let allowed = fixture.allowed().await;
    assert_eq!(allowed.last().unwrap().number, 2 + 14 + 1);
    assert!(allowed.iter().all(|used| used.size <= MAX_BOX as u64 + 1));
}

#[tokio::test]
async fn each_right_is_a_right_of_its_own() {
    let fixture = fixture().await;
    let grants = "[grants.in]\nseal = { key = \"state\", allow = [\"seal\"] }\n\
                  [grants.out]\nseal = { key = \"state\", allow = [\"unseal\"] }\n\
                  [grants.make]\nmac = { key = \"hook\", allow = [\"generate\"] }\n\
                  [grants.check]\nmac = { key = \"hook\", label = \"acme/hook\", allow = [\"verify\"] }\n\
                  [grants.sign]\nsign = { key = \"notes\" }\n";
    let who = fixture.start(grants).await;
    let sealed = fixture.seal(who, "in", b"text", b"c").await.unwrap();
    assert_eq!(fixture.unseal(who, "out", &sealed, b"c").await.unwrap(), b"text");
    let tag = fixture.tag(who, "make", b"content").await.unwrap();
    assert_eq!(fixture.verify(who, "check", b"content", &tag).await, Ok(true));

    let no = Err(Refusal::NotGranted);
    assert_eq!(fixture.unseal(who, "in", &sealed, b"c").await, no.clone());
    assert_eq!(fixture.seal(who, "out", b"text", b"c").await, no.clone());
    assert_eq!(fixture.tag(who, "check", b"content").await, no.clone());
    assert_eq!(
        fixture.verify(who, "make", b"content", &tag).await,
        Err(Refusal::NotGranted)
    );
    assert_eq!(fixture.rules().await, [Rule::Right; 4]);
    // A grant of another kind, and none.
    assert_eq!(fixture.seal(who, "make", b"text", b"c").await, no.clone());
    assert_eq!(fixture.tag(who, "in", b"content").await, no.clone());
    assert_eq!(fixture.tag(who, "sign", b"content").await, no.clone());
    assert_eq!(fixture.sign(who, "in", b"content").await, no.clone());
    assert_eq!(fixture.seal(who, "gone", b"text", b"c").await, no);
    let rules = fixture.rules().await.split_off(4);
    assert_eq!(rules[..4], [Rule::Capability; 4]);
    assert_eq!(rules[4..], [Rule::Grant]);
    // What opens is what is granted.
    let open = async |request| fixture.broker.perform(who, request).await;
    let sealer = |alias: &str| Request::OpenSealer {
        alias: alias.to_owned(),
    };
    assert!(matches!(
        open(sealer("in")).await,
        Ok(Outcome::SealerOpened { .. })
    ));
    assert_eq!(open(sealer("make")).await, Err(Refusal::NotGranted));
    let signer = Request::OpenSigner {
        alias: "in".to_owned(),
    };
    assert_eq!(open(signer).await, Err(Refusal::NotGranted));
    let authenticator = Request::OpenAuthenticator {
        alias: "sign".to_owned(),
    };
    assert_eq!(open(authenticator).await, Err(Refusal::NotGranted));
}

#[tokio::test]
async fn every_bound_refuses_at_one_more() {
    let fixture = fixture().await;
    let who = fixture.start(&format!("{STATE}{HOOK}")).await;
    let invalid = Err(Refusal::Invalid);
    let largest = vec![7; MAX_PLAINTEXT];
    let longest = vec![7; MAX_CONTEXT];
    let sealed = fixture.seal(who, "state", &largest, &longest).await.unwrap();
    assert_eq!(sealed.len(), MAX_BOX);
    assert_eq!(
        fixture.unseal(who, "state", &sealed, &longest).await.unwrap(),
        largest
    );
    let empty = fixture.seal(who, "state", b"", b"c").await.unwrap();
    assert_eq!(fixture.unseal(who, "state", &empty, b"c").await.unwrap(), b"");
    assert_eq!(
        fixture.seal(who, "state", &[7; MAX_PLAINTEXT + 1], b"c").await,
        invalid.clone()
    );
    for said in [&b""[..], &[7; MAX_CONTEXT + 1]] {
        assert_eq!(fixture.seal(who, "state", b"text", said).await, invalid.clone());
        assert_eq!(fixture.unseal(who, "state", &sealed, said).await, invalid.clone());
    }
    let tag = fixture.tag(who, "hook", &vec![7; MAX_MAC_CONTENT]).await.unwrap();
    assert_eq!(tag.len(), TAG);
    assert_eq!(
        fixture.tag(who, "hook", &vec![7; MAX_MAC_CONTENT + 1]).await,
        invalid
    );
    let over = fixture
        .verify(who, "hook", &vec![7; MAX_MAC_CONTENT + 1], &tag)
        .await;
    assert_eq!(over, Err(Refusal::Invalid));
    use Rule::{Content, ContentSize};
    assert_eq!(
        fixture.rules().await,
        [
            ContentSize,
            Content,
            Content,
            Content,
            Content,
            ContentSize,
            ContentSize
        ]
    );
    // What is refused by its size is not a use.
    assert_eq!(fixture.allowed().await.len(), 5);
}

#[tokio::test]
async fn a_tag_is_right_for_its_key_and_content_and_a_wrong_one_is_no_error() {
    let fixture = fixture().await;
    let grants =
        format!("{HOOK}[grants.twin]\nmac = {{ key = \"twin\", allow = [\"generate\", \"verify\"] }}\n");
    let who = fixture.start(&grants).await;
    let tag = fixture.tag(who, "hook", b"content").await.unwrap();
    assert_eq!(fixture.tag(who, "hook", b"content").await.unwrap(), tag);
    let mut renamed = tag.clone();
    renamed[4] = 2;
    let rows: [(&str, &str, &[u8], &[u8], bool); 7] = [
        ("its own", "hook", b"content", &tag, true),
        ("other content", "hook", b"contents", &tag, false),
        ("another key of the same label", "twin", b"content", &tag, false),
        ("a version that never was", "hook", b"content", &renamed, false),
        ("cut", "hook", b"content", &tag[..TAG - 1], false),
        ("the MAC alone", "hook", b"content", &tag[5..], false),
        ("nothing", "hook", b"content", b"", false),
    ];
    for (what, grant, content, tag, valid) in rows {
        assert_eq!(
            fixture.verify(who, grant, content, tag).await,
            Ok(valid),
            "{what}"
        );
    }
    let settled = fixture.settlements().await.split_off(2);
    assert_eq!(settled[0], Settlement::Released);
    assert_eq!(settled[1..], [Settlement::Mismatch; 6]);
    assert_eq!(fixture.rules().await, []);
    // A use names the version that was asked; where none was, none.
    let asked: Vec<_> = fixture.allowed().await[2..]
        .iter()
        .map(|used| used.key.is_some())
        .collect();
    assert_eq!(asked, [true, true, true, false, false, false, false]);
}

#[tokio::test]
async fn a_grant_is_admitted_with_a_key_of_its_profile_and_label_alone() {
    let fixture = fixture().await;
    let rows = [
        ("seal = { key = \"state\", allow = [\"seal\"] }", ""),
        (
            "seal = { key = \"hook\", allow = [\"seal\"] }",
            "needs a key with profile `seal`",
        ),
        (
            "seal = { key = \"notes\", allow = [\"seal\"] }",
            "needs a key with profile `seal`",
        ),
        (
            "seal = { key = \"stat\", allow = [\"seal\"] }",
            "did you mean `state`",
        ),
        (
            "mac = { key = \"hook\", label = \"acme/hook\", allow = [\"verify\"] }",
            "",
        ),
        (
            "mac = { key = \"hook\", label = \"acme\", allow = [\"verify\"] }",
            "only for `acme/hook`",
        ),
        (
            "mac = { key = \"state\", allow = [\"verify\"] }",
            "needs a key with profile `mac`",
        ),
        ("sign = { key = \"state\" }", "signs nothing"),
        ("sign = { key = \"hook\" }", "signs nothing"),
    ];
    for (grant, problem) in rows {
        let manifest = Fixture::manifest(&format!("[grants.g]\n{grant}\n"));
        let admitted = fixture.broker.admit(&manifest, ComponentDigest::of(CODE)).await;
        match admitted {
            Ok(_) => assert_eq!(problem, "", "{grant}"),
            Err(refused) => {
                let text = refused.to_string();
                assert!(!problem.is_empty() && text.contains(problem), "{grant}: {text}");
            }
        }
    }
    // Keys of these profiles have one algorithm, and others have no such.
    let creation = |profile, algorithm| KeyCreation {
        name: name("new"),
        profile,
        algorithm,
        custody: CustodyKind::Software,
    };
    let refused = fixture
        .broker
        .create_key(creation(Profile::Seal {}, Algorithm::P256))
        .await;
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("is xchacha20-poly1305, not p256")
    );
    let refused = fixture.broker.create_symmetric_key(
        name("new"),
        Profile::Labeled { label: name("l") },
        CustodyKind::Software,
    );
    assert!(matches!(
        refused.await,
        Err(NewKeyError::HasPublicHalf("labeled"))
    ));
    let resident = fixture
        .broker
        .create_symmetric_key(name("new"), Profile::Seal {}, CustodyKind::Tpm);
    assert!(matches!(
        resident.await,
        Err(NewKeyError::NoCustody(CustodyKind::Tpm))
    ));
}

#[tokio::test]
async fn an_agent_is_told_of_its_key_what_tells_it_from_others() {
    let fixture = fixture().await;
    let who = fixture.start(&format!("{STATE}{HOOK}")).await;
    let describe = async |request| match fixture.broker.perform(who, request).await {
        Ok(Outcome::Sealer(info) | Outcome::Authenticator(info)) => info,
        other => panic!("{other:?}"),
    };
    let sealer = describe(Request::DescribeSealer { grant: name("state") }).await;
    assert_eq!(
        (sealer.algorithm.as_str(), sealer.version),
        ("xchacha20-poly1305", 1)
    );
    assert_eq!((sealer.key_id.len(), sealer.label), (22, None));
    let mac = describe(Request::DescribeAuthenticator { grant: name("hook") }).await;
    assert_eq!(
        (mac.algorithm.as_str(), mac.label.as_deref()),
        ("hmac-sha256", Some("acme/hook"))
    );
    let replaced = fixture.replace("state").await;
    let again = describe(Request::DescribeSealer { grant: name("state") }).await;
    assert_eq!((again.version, again.key_id), (2, replaced.key_id()));
    assert_ne!(sealer.key_id, replaced.key_id());
}
