//! A client certificate in a TLS handshake, its key in custody. Holds no key, and signs nothing itself.

use std::sync::{Arc, mpsc};

use claviger_core::Permit;
use claviger_core::egress::{ClientIdentity, Fault};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::CertificateDer;
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// What TLS wants signed, and where the signature goes.
#[derive(Debug)]
pub(crate) struct Asked {
    content: Vec<u8>,
    signature: mpsc::SyncSender<Vec<u8>>,
}

/// Shows one chain to whoever asks for a certificate, and hands what is to be signed to whoever holds the key.
#[derive(Debug)]
pub(crate) struct Certificates(Arc<CertifiedKey>);

impl Certificates {
    /// With this chain as DER, our own certificate first; and what is asked for while the handshake runs.
    pub(crate) fn new(chain: &[Vec<u8>]) -> Result<(Self, UnboundedReceiver<Asked>), Fault> {
        let chain: Vec<CertificateDer<'static>> = chain.iter().cloned().map(CertificateDer::from).collect();
        let algorithm = chain.first().and_then(algorithm).ok_or(Fault::Tls)?;
        let (ask, asked) = unbounded_channel();
        let key = Arc::new(Absent { algorithm, ask });
        Ok((Self(Arc::new(CertifiedKey::new(chain, key))), asked))
    }
}

impl ResolvesClientCert for Certificates {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// What keys of client certificates can be.
#[derive(Debug, Clone, Copy)]
enum Algorithm {
    Ed25519,
    P256,
}

/// Which of these a certificate's key is for.
fn algorithm(certificate: &CertificateDer<'static>) -> Option<Algorithm> {
    // The beginnings of a SubjectPublicKeyInfo: RFC 8410 §4, and RFC 5480 §2.1 with the curve P-256.
    const ED25519: &[u8] = &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70];
    const P256: &[u8] = &[
        0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
        0x48, 0xce, 0x3d, 0x03, 0x01, 0x07,
    ];
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    let key = certificate.subject_public_key_info();
    match key.as_ref() {
        key if key.starts_with(ED25519) => Some(Algorithm::Ed25519),
        key if key.starts_with(P256) => Some(Algorithm::P256),
        _ => None,
    }
}

/// A key that is elsewhere.
#[derive(Debug)]
struct Absent {
    algorithm: Algorithm,
    ask: UnboundedSender<Asked>,
}

impl Absent {
    const fn scheme(&self) -> SignatureScheme {
        match self.algorithm {
            Algorithm::Ed25519 => SignatureScheme::ED25519,
            Algorithm::P256 => SignatureScheme::ECDSA_NISTP256_SHA256,
        }
    }
}

impl SigningKey for Absent {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered.contains(&self.scheme()).then(|| -> Box<dyn Signer> {
            Box::new(Self {
                algorithm: self.algorithm,
                ask: self.ask.clone(),
            })
        })
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        match self.algorithm {
            Algorithm::Ed25519 => SignatureAlgorithm::ED25519,
            Algorithm::P256 => SignatureAlgorithm::ECDSA,
        }
    }
}

impl Signer for Absent {
    /// Blocks the thread until custody has answered, or whoever asked for the connection is gone.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let refused = || rustls::Error::General("no signature".to_owned());
        let (signature, signed) = mpsc::sync_channel(1);
        let content = message.to_vec();
        self.ask
            .send(Asked { content, signature })
            .map_err(|_| refused())?;
        signed.recv().map_err(|_| refused())
    }

    fn scheme(&self) -> SignatureScheme {
        Self::scheme(self)
    }
}

/// Runs a handshake on a thread of its own, since rustls waits for a signature by blocking, and has the identity sign here what the
/// handshake asks for. Dropping the future lets the thread end: with its next signature, or with the handshake.
///
/// # Errors
/// None if the thread was lost, or the handshake came to its end without a signature: a server that asked for no certificate does not
/// know whom it talks to. A refused signature ends the handshake.
pub(crate) async fn sign_while<T: Send + 'static>(
    handshake: impl Future<Output = T> + Send + 'static,
    mut asked: UnboundedReceiver<Asked>,
    identity: &dyn ClientIdentity,
    permit: &Permit,
) -> Option<T> {
    let runtime = Handle::current();
    let (gone, dropped) = tokio::sync::oneshot::channel::<()>();
    let mut running = tokio::task::spawn_blocking(move || {
        runtime.block_on(async move {
            tokio::select! {
                done = handshake => Some(done),
                _ = dropped => None,
            }
        })
    });
    let mut signed = false;
    let done = loop {
        tokio::select! {
            done = &mut running => break done.ok().flatten().filter(|_| signed),
            Some(Asked { content, signature }) = asked.recv() => {
                // A refusal drops the sender, and the handshake fails for want of a signature.
                if let Ok(made) = identity.sign(permit, &content).await
                    && let Ok(encoded) = made.to_der()
                {
                    signed = true;
                    drop(signature.send(encoded));
                }
            }
        }
    };
    drop(gone);
    done
}
