//! What the profile `ssh-auth` promises, attacked with requests that a client, or whoever has the socket, could make. Whether a real
//! server takes the logins is asked in `tests/`.

use super::*;
use crate::key::PublicKey;
use crate::profile::ssh;
use crate::profile::test_keys::Pair;
use crate::profile::tests::{context, rule, set};
use crate::profile::{FrameError, Narrowing, Profile, SigningRule};

fn strings(parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        bytes.extend_from_slice(&u32::try_from(part.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}

fn blob(key: &PublicKey) -> Vec<u8> {
    ssh::public_blob(key).unwrap()
}

/// The fields of a login, each to be changed by a test.
#[derive(Clone)]
struct Fields {
    session: Vec<u8>,
    signed_session: Vec<u8>,
    number: u8,
    user: Vec<u8>,
    service: Vec<u8>,
    method: Vec<u8>,
    signed: u8,
    algorithm: Vec<u8>,
    key: Vec<u8>,
    bound_to: Option<Vec<u8>>,
    rest: Vec<u8>,
    host: Vec<u8>,
}

impl Fields {
    fn of(key: &PublicKey, host: &PublicKey) -> Self {
        Self {
            session: vec![0x5E; 32],
            signed_session: vec![0x5E; 32],
            number: 50,
            user: b"deploy".to_vec(),
            service: b"ssh-connection".to_vec(),
            method: b"publickey-hostbound-v00@openssh.com".to_vec(),
            signed: 1,
            algorithm: ssh::algorithm(key.algorithm()).unwrap().as_str().into(),
            key: blob(key),
            bound_to: Some(blob(host)),
            rest: Vec::new(),
            host: blob(host),
        }
    }

    fn login(&self, host: &Pair) -> Login {
        let mut request = strings(&[&self.session]);
        request.push(self.number);
        request.extend(strings(&[&self.user, &self.service, &self.method]));
        request.push(self.signed);
        request.extend(strings(&[&self.algorithm, &self.key]));
        if let Some(bound_to) = &self.bound_to {
            request.extend(strings(&[bound_to]));
        }
        request.extend(&self.rest);
        Login {
            request,
            host_key: self.host.clone(),
            session: self.signed_session.clone(),
            signature: ssh::signature_blob(&host.sign(&self.signed_session)).unwrap(),
        }
    }
}

fn profile(users: &[&str], hosts: &[&PublicKey]) -> Profile {
    Profile::SshAuth {
        users: set(users),
        host_keys: hosts.iter().map(|host| HostKeyId::of(&blob(host))).collect(),
    }
}

/// The profile, and a login of this key at a server whose host key it is, too.
pub(in crate::profile) fn sample(pair: &Pair) -> (Profile, Vec<u8>) {
    let key = pair.public();
    (
        profile(&["deploy"], &[&key]),
        Fields::of(&key, &key).login(pair).to_content(),
    )
}

fn signs(rule: &SigningRule, key: &PublicKey, content: &[u8]) -> Result<Vec<u8>, SshAuthError> {
    match rule.frame(content, &context(key)) {
        Ok(framed) => Ok(framed.message().to_vec()),
        Err(FrameError::SshAuth(error)) => Err(error),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_login_is_signed_as_the_client_asked_and_given_as_ssh_writes_it() {
    for pair in Pair::both() {
        for host in Pair::both() {
            let (key, server) = (pair.public(), host.public());
            let rule = rule(&profile(&["deploy"], &[&server]));
            let bound = Fields::of(&key, &server);
            let plain = Fields {
                method: b"publickey".to_vec(),
                bound_to: None,
                ..bound.clone()
            };
            for fields in [bound, plain] {
                for length in [32, 48, 64] {
                    let session = vec![0x11; length];
                    let fields = Fields {
                        session: session.clone(),
                        signed_session: session,
                        ..fields.clone()
                    };
                    let login = fields.login(&host);
                    let framed = rule.frame(&login.to_content(), &context(&key)).unwrap();
                    assert_eq!(framed.message(), login.request);
                    let signature = pair.sign(framed.message());
                    let given = framed.finish(&signature).unwrap();
                    let read = ssh_key::Signature::try_from(given.as_slice()).unwrap();
                    assert_eq!(read.algorithm().as_str().as_bytes(), fields.algorithm);
                    let public: ssh_key::PublicKey = key.to_openssh("").unwrap().parse().unwrap();
                    signature_verifies(&public, &login.request, &read);
                }
            }
        }
    }
}

fn signature_verifies(key: &ssh_key::PublicKey, message: &[u8], signature: &ssh_key::Signature) {
    use p256::ecdsa::signature::Verifier as _;
    key.key_data().verify(message, signature).unwrap();
    assert!(key.key_data().verify(b"other", signature).is_err(), "the control");
}

#[test]
fn a_login_that_says_anything_else_is_refused() {
    let [ed25519, p256] = Pair::both();
    for (pair, other) in [(&ed25519, &p256), (&p256, &ed25519)] {
        let (key, host) = (pair.public(), other.public());
        let rule = rule(&profile(&["deploy", "backup"], &[&host]));
        let good = Fields::of(&key, &host);
        assert!(
            signs(&rule, &key, &good.login(other).to_content()).is_ok(),
            "the control"
        );
        let change = |change: &dyn Fn(&mut Fields)| {
            let mut fields = good.clone();
            change(&mut fields);
            signs(&rule, &key, &fields.login(other).to_content()).map(drop)
        };
        use SshAuthError as E;
        type Change<'a> = &'a dyn Fn(&mut Fields);
        let rows: [(&str, Change<'_>, E); 21] = [
            ("another session", &|f| f.session = vec![1; 32], E::OtherSession),
            (
                "another length of a session",
                &|f| {
                    f.session = vec![1; 20];
                    f.signed_session = vec![1; 20];
                },
                E::Session,
            ),
            (
                "no session",
                &|f| {
                    f.session = Vec::new();
                    f.signed_session = Vec::new();
                },
                E::Session,
            ),
            ("another message", &|f| f.number = 51, E::NotARequest),
            ("another user", &|f| f.user = b"root".to_vec(), E::User),
            ("a user with more", &|f| f.user = b"deploy\0".to_vec(), E::User),
            ("no user", &|f| f.user = Vec::new(), E::User),
            (
                "another service",
                &|f| f.service = b"ssh-userauth".to_vec(),
                E::Service,
            ),
            (
                "another method",
                &|f| f.method = b"hostbased".to_vec(),
                E::NotARequest,
            ),
            ("no signature to come", &|f| f.signed = 0, E::NotARequest),
            ("TRUE as no one writes it", &|f| f.signed = 2, E::NotARequest),
            (
                "another algorithm",
                &|f| f.algorithm = b"ssh-rsa".to_vec(),
                E::Key,
            ),
            (
                "another key",
                &|f| {
                    f.key =
                        blob(&Pair::P256(p256::ecdsa::SigningKey::from_slice(&[9; 32]).unwrap()).public());
                },
                E::Key,
            ),
            (
                "a certificate",
                &|f| f.algorithm = b"ssh-ed25519-cert-v01@openssh.com".to_vec(),
                E::Key,
            ),
            ("more after it", &|f| f.rest = vec![0], E::NotARequest),
            (
                "bound to another server",
                &|f| f.bound_to = Some(b"x".to_vec()),
                E::OtherHost,
            ),
            ("bound to none", &|f| f.bound_to = None, E::NotARequest),
            (
                "bound, and not by its method",
                &|f| f.method = b"publickey".to_vec(),
                E::NotARequest,
            ),
            (
                "a server that is not named",
                &|f| f.host = f.key.clone(),
                E::HostKey,
            ),
            ("no host key", &|f| f.host = Vec::new(), E::HostKey),
            ("a longer host key", &|f| f.host.push(0), E::HostKey),
        ];
        for (what, how, expected) in rows {
            assert_eq!(change(how), Err(expected), "{what}");
        }
        assert_eq!(change(&|f| f.user = b"backup".to_vec()), Ok(()), "the control");
    }
}

#[test]
fn a_session_that_no_named_server_signed_is_refused() {
    let [pair, host] = Pair::both();
    let (key, server) = (pair.public(), host.public());
    let rule = rule(&profile(&["deploy"], &[&server]));
    let good = Fields::of(&key, &server).login(&host);
    assert!(signs(&rule, &key, &good.to_content()).is_ok(), "the control");
    let signed = |signature: Vec<u8>| {
        signs(
            &rule,
            &key,
            &Login {
                signature,
                ..good.clone()
            }
            .to_content(),
        )
        .err()
    };
    // By somebody else, over something else, of another kind, with more, with less.
    let other = Pair::P256(p256::ecdsa::SigningKey::from_slice(&[9; 32]).unwrap());
    let mut changed = good.signature.clone();
    *changed.last_mut().unwrap() ^= 1;
    let mut longer = good.signature.clone();
    longer.push(0);
    for bad in [
        ssh::signature_blob(&other.sign(&good.session)).unwrap(),
        ssh::signature_blob(&host.sign(b"another session")).unwrap(),
        ssh::signature_blob(&pair.sign(&good.session)).unwrap(),
        changed,
        longer,
        good.signature[..good.signature.len() - 1].to_vec(),
        Vec::new(),
    ] {
        assert_eq!(signed(bad), Some(SshAuthError::Binding));
    }
}

#[test]
fn a_host_key_that_cannot_be_verified_with_is_refused_by_name() {
    let [pair, host] = Pair::both();
    let key = pair.public();
    let rsa = Pair::rsa().public();
    let fields = Fields {
        host: blob(&rsa),
        ..Fields::of(&key, &host.public())
    };
    let rule = rule(&profile(&["deploy"], &[&rsa]));
    let refused = signs(&rule, &key, &fields.login(&host).to_content()).unwrap_err();
    assert_eq!(refused, SshAuthError::HostKeyKind);
    assert!(refused.to_string().contains("HostKeyAlgorithms"));
}

#[test]
fn content_of_any_other_form_is_refused() {
    let pair = &Pair::both()[0];
    let key = pair.public();
    let (profile, good) = sample(pair);
    let rule = rule(&profile);
    assert!(signs(&rule, &key, &good).is_ok(), "the control");
    for cut in 0..good.len() {
        assert!(signs(&rule, &key, &good[..cut]).is_err(), "{cut}");
    }
    assert_eq!(
        signs(&rule, &key, &[&good[..], b"\0"].concat()),
        Err(SshAuthError::NotALogin)
    );
    assert_eq!(signs(&rule, &key, &[0xFF; 64]), Err(SshAuthError::NotALogin));
    // The request without what binds it.
    let alone = Fields::of(&key, &key).login(pair).request;
    assert_eq!(signs(&rule, &key, &alone), Err(SshAuthError::NotALogin));
    // Each byte that is changed is noticed, or is one that the server never signed: none.
    for at in 0..good.len() {
        let mut changed = good.clone();
        changed[at] ^= 1;
        assert!(signs(&rule, &key, &changed).is_err(), "{at}");
    }
    assert!(matches!(
        rule.frame(&vec![0; MAX_LOGIN + 1], &context(&key)),
        Err(FrameError::TooLarge { .. })
    ));
}

#[test]
fn a_grant_narrows_users_and_servers_and_never_widens_them() {
    let [one, two] = Pair::both().map(|pair| pair.public());
    let id = |key: &PublicKey| HostKeyId::of(&blob(key));
    let asked = |user: Option<&str>, hosts: &[&PublicKey]| Narrowing {
        ssh: SshAuthNarrowing {
            user: user.map(|user| user.parse().unwrap()),
            host_keys: hosts.iter().map(|host| id(host)).collect(),
        },
        ..Narrowing::default()
    };
    let open = profile(&["deploy", "backup"], &[]);
    let fixed = profile(&["deploy", "backup"], &[&one]);
    for (key, asked, expected) in [
        (&open, asked(None, &[&one, &two]), Ok((2, 2))),
        (&open, asked(Some("deploy"), &[&two]), Ok((1, 1))),
        (&open, asked(None, &[]), Err("must name host keys")),
        (
            &open,
            asked(Some("root"), &[&one]),
            Err("not made for user `root`"),
        ),
        (&fixed, asked(None, &[]), Ok((2, 1))),
        (&fixed, asked(Some("backup"), &[&one]), Ok((1, 1))),
        (&fixed, asked(None, &[&two]), Err("not made for host key")),
        (&fixed, asked(None, &[&one, &two]), Err("not made for host key")),
    ] {
        match (key.narrow(&asked), expected) {
            (Ok(SigningRule::SshAuth(rule)), Ok(expected)) => {
                assert_eq!((rule.users.len(), rule.host_keys.len()), expected);
            }
            (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
            (found, expected) => panic!("{found:?}, not {expected:?}"),
        }
    }
    assert_eq!(profile(&[], &[&one]).validate(), Err(ProfileError::Empty("user")));
}

#[test]
fn a_fingerprint_is_the_one_that_ssh_keygen_prints() {
    let key = Pair::both()[0].public();
    let public: ssh_key::PublicKey = key.to_openssh("").unwrap().parse().unwrap();
    let printed = public.fingerprint(ssh_key::HashAlg::Sha256).to_string();
    let id = HostKeyId::of(&blob(&key));
    assert_eq!(id.to_string(), printed);
    assert_eq!(printed.parse(), Ok(id));
    for bad in [
        "",
        "SHA256:",
        "MD5:00",
        "SHA256:abc",
        &format!("{printed}="),
        &printed[7..],
        &format!("{printed}A"),
        &printed.to_lowercase(),
    ] {
        assert!(
            bad.parse::<HostKeyId>()
                .is_err_and(|error| error == NotAHostKeyId)
                || bad.parse() != Ok(id),
            "{bad}"
        );
    }
}

proptest::proptest! {
    /// Nothing makes the reader panic, and nothing that no server signed is taken.
    #[test]
    fn any_bytes_are_judged(content in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
        let pair = &Pair::both()[0];
        let (profile, _) = sample(pair);
        proptest::prop_assert!(signs(&rule(&profile), &pair.public(), &content).is_err());
    }
}
