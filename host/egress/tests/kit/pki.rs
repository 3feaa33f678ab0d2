//! An authority, and certificates that are right or wrong in one way. Keys live as long as the process.

use std::sync::{Arc, LazyLock};

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, PublicKeyData as _,
    date_time_ymd,
};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;

pub(crate) struct Authority {
    pub(crate) der: Vec<u8>,
    params: CertificateParams,
    key: KeyPair,
}

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let der = params.self_signed(&key).unwrap().der().to_vec();
    Authority { der, params, key }
}

/// The authority that the tests' destinations name.
pub(crate) fn ca() -> &'static Authority {
    static CA: LazyLock<Authority> = LazyLock::new(authority);
    &CA
}

/// How a server's certificate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leaf {
    Right,
    Wildcard,
    WildcardOfSuffix,
    WrongName,
    CommonNameOnly,
    Expired,
    NotYetValid,
    SelfSigned,
    OtherAuthority,
    ClientOnly,
}

pub(crate) struct Certified {
    pub(crate) der: Vec<u8>,
    pub(crate) key: KeyPair,
}

impl Certified {
    pub(crate) fn spki(&self) -> Vec<u8> {
        self.key.subject_public_key_info()
    }
}

pub(crate) fn leaf(kind: Leaf) -> Certified {
    let names: &[&str] = match kind {
        Leaf::Wildcard => &["*.test"],
        Leaf::WildcardOfSuffix => &["*.api.test"],
        Leaf::WrongName => &["api.test.evil.test", "xapi.test", "test"],
        Leaf::CommonNameOnly => &[],
        _ => &["api.test"],
    };
    let mut params =
        CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "api.test");
    match kind {
        Leaf::Expired => params.not_after = date_time_ymd(2020, 1, 1),
        Leaf::NotYetValid => params.not_before = date_time_ymd(2200, 1, 1),
        Leaf::ClientOnly => params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
        _ => {}
    }
    let key = KeyPair::generate().unwrap();
    let signed_by = |authority: &Authority| {
        let issuer = Issuer::from_params(&authority.params, &authority.key);
        params.signed_by(&key, &issuer).unwrap()
    };
    let certificate = match kind {
        Leaf::SelfSigned => params.self_signed(&key).unwrap(),
        Leaf::OtherAuthority => signed_by(&authority()),
        _ => signed_by(ca()),
    };
    Certified {
        der: certificate.der().to_vec(),
        key,
    }
}

/// What a server speaks.
#[derive(Debug, Clone)]
pub(crate) struct Speaks {
    pub(crate) tls12_only: bool,
    pub(crate) alpn: Vec<Vec<u8>>,
    pub(crate) asks_for_certificate: bool,
}

impl Default for Speaks {
    fn default() -> Self {
        Self {
            tls12_only: false,
            alpn: vec![b"http/1.1".to_vec()],
            asks_for_certificate: false,
        }
    }
}

pub(crate) fn server_config(certified: &Certified, speaks: &Speaks) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions: &[_] = if speaks.tls12_only {
        &[&rustls::version::TLS12]
    } else {
        rustls::ALL_VERSIONS
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .unwrap();
    let builder = if speaks.asks_for_certificate {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from(ca().der.as_slice())).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        builder.with_client_cert_verifier(verifier.build().unwrap())
    } else {
        builder.with_no_client_auth()
    };
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certified.key.serialize_der()));
    let mut config = builder
        .with_single_cert(vec![CertificateDer::from(certified.der.clone())], key)
        .unwrap();
    config.alpn_protocols = speaks.alpn.clone();
    Arc::new(config)
}
