//! Whom the client takes for the server, and how it shows a certificate of its own: right ones pass, and each wrong one fails alone.

use std::sync::{Arc, Mutex};

use claviger_core::egress::{ClientIdentity, Egress as _, Fault, SendError};
use claviger_core::http::{SpkiPin, TlsFloor};
use claviger_core::key::KeyVersion;
use claviger_core::{Algorithm, BoxFuture, KeyRef, Permit, Refusal, Signature};
use claviger_egress::HttpsClient;
use p256::ecdsa::signature::Signer as _;
use p256::pkcs8::DecodePrivateKey as _;

use crate::kit::pki::{Certified, Leaf, Speaks, leaf, server_config};
use crate::kit::server::{Server, Step};
use crate::kit::{Table, client, destination, get, hasty, permit, read, run};

fn answers() -> Vec<Step> {
    let ok = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec();
    vec![Step::Read, Step::Write(ok), Step::Again]
}

async fn serving(certified: &Certified, speaks: &Speaks) -> Server {
    Server::with(Some(server_config(certified, speaks)), answers()).await
}

#[tokio::test]
async fn only_a_certificate_of_the_name_and_the_authority_is_taken() {
    for (kind, fault) in [
        (Leaf::Right, None),
        // One for all names of a registry is none.
        (Leaf::Wildcard, Some(Fault::Certificate)),
        (Leaf::WildcardOfSuffix, Some(Fault::Certificate)),
        (Leaf::WrongName, Some(Fault::Certificate)),
        (Leaf::CommonNameOnly, Some(Fault::Certificate)),
        (Leaf::Expired, Some(Fault::Certificate)),
        (Leaf::NotYetValid, Some(Fault::Certificate)),
        (Leaf::SelfSigned, Some(Fault::Certificate)),
        (Leaf::OtherAuthority, Some(Fault::Certificate)),
        (Leaf::ClientOnly, Some(Fault::Certificate)),
    ] {
        let server = serving(&leaf(kind), &Speaks::default()).await;
        let seen = run(&client(Table::loopback()), get(destination(server.port))).await;
        assert_eq!(seen.error, fault.map(SendError::from), "{kind:?}");
        assert_eq!(
            server.saw(|saw| saw.requests.len()),
            usize::from(fault.is_none()),
            "{kind:?}"
        );
    }
}

#[tokio::test]
async fn a_wildcard_stands_for_one_label() {
    let server = serving(&leaf(Leaf::WildcardOfSuffix), &Speaks::default()).await;
    for (host, fault) in [
        ("x.api.test", None),
        ("y.x.api.test", Some(Fault::Certificate)),
        ("xapi.test", Some(Fault::Certificate)),
    ] {
        let mut there = destination(server.port);
        there.origin = format!("https://{host}:{}", server.port).parse().unwrap();
        let seen = run(&client(Table::loopback()), get(there)).await;
        assert_eq!(seen.error, fault.map(SendError::from), "{host}");
    }
}

#[tokio::test]
async fn a_named_authority_replaces_the_public_ones_and_none_is_added_by_it() {
    let server = serving(&leaf(Leaf::Right), &Speaks::default()).await;
    let mut there = destination(server.port);
    there.trust.authorities.clear();
    let seen = run(&client(Table::loopback()), get(there)).await;
    assert_eq!(seen.error, Some(Fault::Certificate.into()));
}

#[tokio::test]
async fn a_pin_is_of_the_servers_own_key_and_does_not_replace_its_name() {
    let right = leaf(Leaf::Right);
    let pin = |spki: &[u8]| {
        SpkiPin(
            ring::digest::digest(&ring::digest::SHA256, spki)
                .as_ref()
                .try_into()
                .unwrap(),
        )
    };
    let other = leaf(Leaf::Right);
    for (pins, fault) in [
        (vec![pin(&right.spki())], None),
        (vec![pin(&other.spki()), pin(&right.spki())], None),
        (vec![pin(&other.spki())], Some(Fault::Certificate)),
        (vec![SpkiPin([0; 32])], Some(Fault::Certificate)),
    ] {
        let server = serving(&right, &Speaks::default()).await;
        let mut there = destination(server.port);
        there.trust.pins = pins;
        let seen = run(&client(Table::loopback()), get(there)).await;
        assert_eq!(seen.error, fault.map(SendError::from));
    }
    let wrong = leaf(Leaf::WrongName);
    let server = serving(&wrong, &Speaks::default()).await;
    let mut there = destination(server.port);
    there.trust.pins = vec![pin(&wrong.spki())];
    let seen = run(&client(Table::loopback()), get(there)).await;
    assert_eq!(seen.error, Some(Fault::Certificate.into()));
}

#[tokio::test]
async fn an_old_server_is_spoken_to_only_where_the_grant_says_so() {
    let old = Speaks {
        tls12_only: true,
        ..Speaks::default()
    };
    for (floor, fault) in [(TlsFloor::V1_3, Some(Fault::Tls)), (TlsFloor::V1_2, None)] {
        let server = serving(&leaf(Leaf::Right), &old).await;
        let mut there = destination(server.port);
        there.trust.tls = floor;
        let seen = run(&client(Table::loopback()), get(there)).await;
        assert_eq!(seen.error, fault.map(SendError::from), "{floor:?}");
    }
}

#[tokio::test]
async fn another_protocol_than_http_1_is_not_agreed_on() {
    for (alpn, fault) in [
        (vec![b"http/1.1".to_vec()], None),
        (vec![b"h2".to_vec(), b"http/1.1".to_vec()], None),
        // A server that knows nothing of the extension.
        (Vec::new(), None),
        (vec![b"h2".to_vec()], Some(Fault::Tls)),
        (vec![b"spdy/3".to_vec(), b"http/1.0".to_vec()], Some(Fault::Tls)),
    ] {
        let speaks = Speaks {
            alpn: alpn.clone(),
            ..Speaks::default()
        };
        let server = serving(&leaf(Leaf::Right), &speaks).await;
        let seen = run(&client(Table::loopback()), get(destination(server.port))).await;
        assert_eq!(seen.error, fault.map(SendError::from), "{alpn:?}");
    }
}

#[tokio::test]
async fn what_is_no_tls_is_not_spoken_to() {
    let plain = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec();
    // An alert that says no more than that.
    let alert = vec![0x15, 3, 3, 0, 2, 2, 40];
    for (name, steps, fault) in [
        (
            "HTTP in clear",
            vec![Step::ReadSome(1), Step::Write(plain)],
            Fault::Tls,
        ),
        (
            "an alert",
            vec![Step::ReadSome(1), Step::Write(alert)],
            Fault::Tls,
        ),
        (
            "noise",
            vec![Step::ReadSome(1), Step::Write(vec![0xff; 4096])],
            Fault::Tls,
        ),
        (
            "an empty record",
            vec![Step::ReadSome(1), Step::Write(vec![0x16, 3, 3, 0, 0]), Step::Wait],
            Fault::Tls,
        ),
        ("nothing", vec![Step::ReadSome(1), Step::Cut], Fault::Tls),
        ("a reset", vec![Step::ReadSome(1), Step::Reset], Fault::Tls),
        ("silence", vec![Step::Wait], Fault::Timeout),
    ] {
        let server = Server::with(None, steps).await;
        let client = HttpsClient::with(Table::loopback(), hasty());
        let seen = run(&client, get(destination(server.port))).await;
        assert_eq!(seen.error, Some(fault.into()), "{name}");
    }
}

/// A key that signs what it is asked to, or refuses; and remembers.
#[derive(Debug)]
struct Identity {
    chain: Vec<Vec<u8>>,
    name: KeyRef,
    key: Option<p256::ecdsa::SigningKey>,
    signed: Mutex<Vec<Vec<u8>>>,
}

impl Identity {
    fn new(certified: &Certified) -> Self {
        Self {
            chain: vec![certified.der.clone()],
            name: KeyRef {
                name: "client".parse().unwrap(),
                version: KeyVersion::FIRST,
            },
            key: Some(p256::ecdsa::SigningKey::from_pkcs8_der(&certified.key.serialize_der()).unwrap()),
            signed: Mutex::default(),
        }
    }
}

impl ClientIdentity for Identity {
    fn chain(&self) -> &[Vec<u8>] {
        &self.chain
    }
    fn key(&self) -> &KeyRef {
        &self.name
    }
    fn sign<'a>(&'a self, _: &'a Permit, content: &'a [u8]) -> BoxFuture<'a, Result<Signature, Refusal>> {
        self.signed.lock().unwrap().push(content.to_vec());
        Box::pin(async move {
            // As custody may: not at once.
            tokio::task::yield_now().await;
            let key = self.key.as_ref().ok_or(Refusal::Revoked)?;
            let signature: p256::ecdsa::Signature = key.sign(content);
            Ok(Signature::new(Algorithm::P256, signature.to_bytes().into()))
        })
    }
}

fn asking() -> Speaks {
    Speaks {
        asks_for_certificate: true,
        ..Speaks::default()
    }
}

#[tokio::test]
async fn a_client_certificate_is_shown_and_its_key_signs_once_a_connection() {
    let server = serving(&leaf(Leaf::Right), &asking()).await;
    let identity = Arc::new(Identity::new(&leaf(Leaf::ClientOnly)));
    let client = client(Table::loopback());
    for _ in 0..2 {
        let mut there = destination(server.port);
        there.identity = Some(Arc::clone(&identity) as Arc<dyn ClientIdentity>);
        assert_eq!(run(&client, get(there)).await.body, b"ok");
    }
    assert_eq!(server.saw(|saw| (saw.connections, saw.requests.len())), (1, 2));
    let signed = identity.signed.lock().unwrap().clone();
    assert_eq!(signed.len(), 1);
    // RFC 8446 §4.4.3.
    let framed = [&[b' '; 64][..], b"TLS 1.3, client CertificateVerify\0"].concat();
    assert!(signed[0].starts_with(&framed));
    assert!(matches!(signed[0].len() - framed.len(), 32 | 48));
}

#[tokio::test]
async fn without_a_certificate_or_a_signature_no_request_is_served() {
    let refusing = |certified: &Certified| {
        let mut identity = Identity::new(certified);
        identity.key = None;
        identity
    };
    let certified = leaf(Leaf::ClientOnly);
    let rows: Vec<(&str, Option<Identity>, Option<Fault>)> = vec![
        ("control", Some(Identity::new(&certified)), None),
        ("none", None, Some(Fault::Incomplete)),
        ("refused", Some(refusing(&certified)), Some(Fault::Tls)),
        (
            "of another authority",
            Some(Identity::new(&leaf(Leaf::OtherAuthority))),
            Some(Fault::Incomplete),
        ),
        (
            "with another's key",
            Some(Identity {
                key: Identity::new(&leaf(Leaf::ClientOnly)).key,
                ..Identity::new(&certified)
            }),
            Some(Fault::Incomplete),
        ),
        (
            "that is none",
            Some(Identity {
                chain: vec![vec![0; 10]],
                ..Identity::new(&certified)
            }),
            Some(Fault::Tls),
        ),
    ];
    for (name, identity, fault) in rows {
        let server = serving(&leaf(Leaf::Right), &asking()).await;
        let mut there = destination(server.port);
        there.identity = identity.map(|identity| Arc::new(identity) as Arc<dyn ClientIdentity>);
        let seen = run(&client(Table::loopback()), get(there)).await;
        // In TLS 1.3 the server's objection comes after our first bytes, as an alert or as the end that overtakes it: then the handshake
        // was over, and the request may have been read.
        assert_eq!(seen.error, fault.map(SendError::from), "{name}");
        assert_eq!(
            server.saw(|saw| saw.requests.len()),
            usize::from(fault.is_none()),
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_server_that_asks_for_no_certificate_gets_no_request_that_was_to_be_made_with_one() {
    let server = serving(&leaf(Leaf::Right), &Speaks::default()).await;
    let identity = Arc::new(Identity::new(&leaf(Leaf::ClientOnly)));
    let mut there = destination(server.port);
    there.identity = Some(Arc::clone(&identity) as Arc<dyn ClientIdentity>);
    let seen = run(&client(Table::loopback()), get(there)).await;
    assert_eq!(seen.error, Some(Fault::Tls.into()));
    assert!(identity.signed.lock().unwrap().is_empty());
    assert_eq!(server.saw(|saw| saw.requests.len()), 0);
}

#[tokio::test]
async fn a_client_certificate_is_for_tls_1_3_alone_and_its_connection_for_nobody_else() {
    let old = Speaks {
        tls12_only: true,
        ..asking()
    };
    let server = serving(&leaf(Leaf::Right), &old).await;
    let identity = Arc::new(Identity::new(&leaf(Leaf::ClientOnly)));
    let mut there = destination(server.port);
    there.trust.tls = TlsFloor::V1_2;
    there.identity = Some(Arc::clone(&identity) as Arc<dyn ClientIdentity>);
    let seen = run(&client(Table::loopback()), get(there)).await;
    assert_eq!(seen.error, Some(Fault::Tls.into()));
    assert!(identity.signed.lock().unwrap().is_empty());

    let server = serving(&leaf(Leaf::Right), &asking()).await;
    let client = client(Table::loopback());
    let mut there = destination(server.port);
    there.identity = Some(identity);
    assert_eq!(run(&client, get(there)).await.error, None);
    let mut other = Identity::new(&leaf(Leaf::ClientOnly));
    other.name.version = KeyVersion(2);
    for (identity, connections, fault) in [(Some(Arc::new(other)), 2, None), (None, 3, Some(()))] {
        let mut there = destination(server.port);
        there.identity = identity.map(|identity| identity as Arc<dyn ClientIdentity>);
        assert_eq!(run(&client, get(there)).await.error.map(drop), fault);
        assert_eq!(server.saw(|saw| saw.connections), connections);
    }
}

#[tokio::test]
async fn whoever_stops_waiting_for_a_signature_closes_the_connection() {
    #[derive(Debug)]
    struct Slow(Identity, tokio::sync::Notify);
    impl ClientIdentity for Slow {
        fn chain(&self) -> &[Vec<u8>] {
            self.0.chain()
        }
        fn key(&self) -> &KeyRef {
            self.0.key()
        }
        fn sign<'a>(&'a self, _: &'a Permit, _: &'a [u8]) -> BoxFuture<'a, Result<Signature, Refusal>> {
            self.1.notify_one();
            Box::pin(std::future::pending())
        }
    }
    let server = serving(&leaf(Leaf::Right), &asking()).await;
    let slow = Arc::new(Slow(
        Identity::new(&leaf(Leaf::ClientOnly)),
        tokio::sync::Notify::new(),
    ));
    let mut there = destination(server.port);
    there.identity = Some(Arc::clone(&slow) as Arc<dyn ClientIdentity>);
    let client = HttpsClient::with(Table::loopback(), hasty());
    let plan = get(there);
    let permit = permit(&plan.destination.origin).await;
    tokio::select! {
        answer = client.send(&permit, plan) => panic!("{answer:?}"),
        () = slow.1.notified() => {}
    }
    // And a signature that never comes is a handshake that takes too long.
    let mut there = destination(server.port);
    there.identity = Some(slow);
    let plan = get(there);
    assert_eq!(
        read(client.send(&permit, plan).await).await.error,
        Some(Fault::Timeout.into())
    );
    assert_eq!(server.saw(|saw| saw.handshakes), 0);
}
