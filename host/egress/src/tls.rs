//! From a TCP connection to a TLS connection with the one whom the grant names. Reads no environment, no file and no system store,
//! and logs no keys.

use std::io;
use std::sync::Arc;

use claviger_core::Permit;
use claviger_core::egress::{Destination, Fault};
use claviger_core::http::{SpkiPin, TlsFloor, Trust};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::identity::{self, Certificates};

/// What every connection shares: the algorithms and the public authorities. No state of a connection is in it.
#[derive(Debug, Clone)]
pub(crate) struct Tls {
    provider: Arc<CryptoProvider>,
    public: Arc<RootCertStore>,
}

impl Tls {
    /// With ring and the authorities that Mozilla trusts, both compiled in.
    pub(crate) fn new() -> Self {
        let mut public = RootCertStore::empty();
        public.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        Self {
            provider: Arc::new(rustls::crypto::ring::default_provider()),
            public: Arc::new(public),
        }
    }

    /// Greets the server and checks who it is. A client certificate is shown if the destination has one and the server asks for it;
    /// its key signs with the permit. Dropping the future closes the connection.
    pub(crate) async fn handshake(
        &self,
        stream: TcpStream,
        destination: &Destination,
        permit: &Permit,
    ) -> Result<TlsStream<TcpStream>, Fault> {
        let name = ServerName::try_from(destination.origin.host().to_owned()).map_err(|_| Fault::Tls)?;
        let Some(identity) = &destination.identity else {
            let config = self.config(&destination.trust, None)?;
            let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
            return connecting.await.map_err(|error| fault(&error));
        };
        let (certificates, asked) = Certificates::new(identity.chain())?;
        let config = self.config(&destination.trust, Some(certificates))?;
        let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
        identity::sign_while(connecting, asked, identity.as_ref(), permit)
            .await
            .unwrap_or(Err(io::ErrorKind::ConnectionAborted.into()))
            .map_err(|error| fault(&error))
    }

    fn config(&self, trust: &Trust, certificates: Option<Certificates>) -> Result<ClientConfig, Fault> {
        let verifier = Arc::new(Verifier::new(self, trust)?);
        // In TLS 1.2 a client's certificate is sent in clear, and its signature covers what the server chose.
        let versions: &[_] = match (trust.tls, &certificates) {
            (TlsFloor::V1_2, None) => &[&rustls::version::TLS13, &rustls::version::TLS12],
            (TlsFloor::V1_2, Some(_)) | (TlsFloor::V1_3, _) => &[&rustls::version::TLS13],
        };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(versions)
            .map_err(|_| Fault::Tls)?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match certificates {
            None => builder.with_no_client_auth(),
            Some(certificates) => builder.with_client_cert_resolver(Arc::new(certificates)),
        };
        // The one protocol that is spoken. A ticket would let the server link connections that share nothing.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}

/// Checks the chain and the name as rustls does, and then the pins.
#[derive(Debug)]
struct Verifier {
    inner: Arc<WebPkiServerVerifier>,
    // Empty: any key.
    pins: Vec<SpkiPin>,
}

impl Verifier {
    fn new(tls: &Tls, trust: &Trust) -> Result<Self, Fault> {
        let roots = if trust.authorities.is_empty() {
            Arc::clone(&tls.public)
        } else {
            let mut named = RootCertStore::empty();
            for authority in &trust.authorities {
                named
                    .add(CertificateDer::from(authority.as_slice()))
                    .map_err(|_| Fault::Certificate)?;
            }
            Arc::new(named)
        };
        let inner = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&tls.provider))
            .build()
            .map_err(|_| Fault::Certificate)?;
        Ok(Self {
            inner,
            pins: trust.pins.clone(),
        })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified =
            self.inner
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        if !self.pins.is_empty() {
            let certificate = webpki::EndEntityCert::try_from(end_entity)
                .map_err(|_| rustls::Error::InvalidCertificate(CertificateError::BadEncoding))?;
            let key = certificate.subject_public_key_info();
            let digest = ring::digest::digest(&ring::digest::SHA256, key.as_ref());
            if !self.pins.iter().any(|pin| pin.0 == digest.as_ref()) {
                return Err(CertificateError::ApplicationVerificationFailure.into());
            }
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// What an error of the handshake means. Nothing of the server's is in it.
fn fault(error: &io::Error) -> Fault {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            Fault::Certificate
        }
        // Whatever else went wrong before there was a connection.
        Some(_) | None => Fault::Tls,
    }
}
