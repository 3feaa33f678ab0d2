//! The custody suite over every custody there is, and over custodies with one fault each, which it must find. The suite is in the kit.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use claviger_broker::custody::{SealedCustody, SoftwareCustody};
use claviger_core::custody::{Custody, CustodyError, CustodyKind, Generated, SigningKey};
use claviger_core::profile::Framed;
use claviger_core::{Algorithm, BoxFuture, KeyRef, Permit, PublicKey, Secret, Signature};
use claviger_tpm::{Tpm, TpmChoice};
use ed25519_dalek::Signer as _;
use kit::custody::{Stand, conforms};
use kit::vault::{kill_swtpm, sealer};
use rand_core::RngCore as _;
use tempfile::TempDir;

/// Keys in software, or sealed by a passphrase: there is no device.
#[derive(Debug)]
pub(crate) struct Deviceless {
    pub(crate) custody: fn() -> Arc<dyn Custody>,
    pub(crate) strangers: fn() -> Vec<Arc<dyn Custody>>,
}

impl Stand for Deviceless {
    fn custody(&self) -> Arc<dyn Custody> {
        (self.custody)()
    }

    fn strangers(&self) -> Vec<Arc<dyn Custody>> {
        (self.strangers)()
    }

    fn restart(&mut self) {}

    fn take_device(&mut self) -> bool {
        false
    }

    fn return_device(&mut self) {}
}

pub(crate) fn sealed_by(passphrase: &[u8]) -> Arc<dyn Custody> {
    Arc::new(SealedCustody::new(sealer(passphrase)))
}

pub(crate) fn software() -> Arc<dyn Custody> {
    Arc::new(SoftwareCustody)
}

#[tokio::test(flavor = "multi_thread")]
async fn software_custody_conforms() {
    conforms(&mut Deviceless {
        custody: software,
        strangers: || vec![sealed_by(b"correct horse")],
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn custody_sealed_by_a_passphrase_conforms() {
    conforms(&mut Deviceless {
        custody: || sealed_by(b"correct horse"),
        strangers: || vec![sealed_by(b"battery staple"), software()],
    })
    .await;
}

/// Keys on a software TPM.
#[derive(Debug)]
pub(crate) struct OnTpm {
    kind: Kind,
    connect: fn(TpmChoice) -> Result<Tpm, claviger_tpm::TpmError>,
    // None only while it restarts.
    tpm: Option<Tpm>,
    other: Tpm,
    folder: TempDir,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Resident,
    Sealed,
}

impl Kind {
    fn custody(self, tpm: &Tpm) -> Arc<dyn Custody> {
        match self {
            Self::Resident => tpm.custody(),
            Self::Sealed => Arc::new(SealedCustody::new(tpm.sealer())),
        }
    }
}

impl OnTpm {
    pub(crate) fn new(kind: Kind, connect: fn(TpmChoice) -> Result<Tpm, claviger_tpm::TpmError>) -> Self {
        let folder = TempDir::new().unwrap();
        let [own, other] = ["own", "other"].map(|name| {
            let state = folder.path().join(name);
            connect(TpmChoice::Swtpm { state }).unwrap_or_else(|error| panic!("{error}"))
        });
        Self {
            kind,
            connect,
            tpm: Some(own),
            other,
            folder,
        }
    }

    fn tpm(&self) -> &Tpm {
        self.tpm.as_ref().unwrap()
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("own")
    }

    fn aside(&self) -> PathBuf {
        self.folder.path().join("aside")
    }
}

impl Stand for OnTpm {
    fn custody(&self) -> Arc<dyn Custody> {
        self.kind.custody(self.tpm())
    }

    fn strangers(&self) -> Vec<Arc<dyn Custody>> {
        let beside = match self.kind {
            Kind::Resident => Kind::Sealed,
            Kind::Sealed => Kind::Resident,
        };
        vec![
            self.kind.custody(&self.other),
            beside.custody(self.tpm()),
            software(),
        ]
    }

    fn restart(&mut self) {
        let before = self.tpm().swtpm_pid();
        // Its state is locked while it runs: if something still held it, it would not start again.
        self.tpm = None;
        let state = self.state();
        self.tpm = Some((self.connect)(TpmChoice::Swtpm { state }).unwrap());
        assert_ne!(self.tpm().swtpm_pid(), before, "another process");
    }

    fn take_device(&mut self) -> bool {
        assert!(kill_swtpm(self.tpm()), "it runs");
        // And cannot start again.
        std::fs::rename(self.state(), self.aside()).unwrap();
        std::fs::write(self.state(), b"not a folder").unwrap();
        true
    }

    fn return_device(&mut self) {
        std::fs::remove_file(self.state()).unwrap();
        std::fs::rename(self.aside(), self.state()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn resident_custody_conforms() {
    conforms(&mut OnTpm::new(Kind::Resident, Tpm::connect)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn resident_custody_conforms_over_an_encrypted_session() {
    conforms(&mut OnTpm::new(Kind::Resident, Tpm::connect_encrypted)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn custody_sealed_by_a_tpm_conforms() {
    conforms(&mut OnTpm::new(Kind::Sealed, Tpm::connect)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn custody_sealed_by_a_tpm_conforms_over_an_encrypted_session() {
    conforms(&mut OnTpm::new(Kind::Sealed, Tpm::connect_encrypted)).await;
}

/// What is wrong with a custody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    TakesAnyPermit,
    TakesASpentPermit,
    TakesAnyFrame,
    OpensAnything,
    OpensWithMore,
    HasOneKey,
    ShowsMaterial,
    SaysItHasP256,
    ForgetsAtRestart,
}

/// Ed25519 in software with one fault. The material is the seed, then the generation of the custody that made it.
struct Faulty {
    fault: Fault,
    generation: u8,
}

struct FaultyKey {
    fault: Fault,
    name: KeyRef,
    public: PublicKey,
    key: ed25519_dalek::SigningKey,
    // Shown by one of the faults.
    material: Vec<u8>,
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

impl fmt::Debug for FaultyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fault {
            Fault::ShowsMaterial => write!(f, "FaultyKey({})", hex::encode(&self.material)),
            _ => f.write_str("FaultyKey"),
        }
    }
}

impl Faulty {
    fn key(seed: &[u8]) -> (ed25519_dalek::SigningKey, PublicKey) {
        let key = ed25519_dalek::SigningKey::from_bytes(seed.first_chunk().unwrap());
        let public = PublicKey::ed25519(key.verifying_key().as_bytes()).unwrap();
        (key, public)
    }
}

impl Custody for Faulty {
    fn kind(&self) -> CustodyKind {
        CustodyKind::Software
    }

    fn algorithms(&self) -> &[Algorithm] {
        &[Algorithm::Ed25519]
    }

    fn generate<'a>(
        &'a self,
        _: &'a KeyRef,
        algorithm: Algorithm,
    ) -> BoxFuture<'a, Result<Generated, CustodyError>> {
        let mut material = [7; 33];
        if self.fault != Fault::HasOneKey {
            rand_core::OsRng.fill_bytes(&mut material[..32]);
        }
        material[32] = self.generation;
        let (_, public) = Self::key(&material);
        let made = if algorithm == Algorithm::Ed25519 || self.fault == Fault::SaysItHasP256 {
            Ok(Generated {
                public,
                material: Secret::take(&mut material).unwrap(),
            })
        } else {
            Err(CustodyError::Algorithm {
                custody: self.kind(),
                algorithm,
            })
        };
        Box::pin(std::future::ready(made))
    }

    fn open<'a>(
        &'a self,
        name: &'a KeyRef,
        public: &'a PublicKey,
        material: Secret,
    ) -> BoxFuture<'a, Result<Arc<dyn SigningKey>, CustodyError>> {
        let bytes = material.expose();
        let length = match self.fault {
            Fault::OpensWithMore => bytes.len() >= 33,
            _ => bytes.len() == 33,
        };
        let opened: Result<Arc<dyn SigningKey>, _> = if bytes.len() >= 32
            && (self.fault == Fault::OpensAnything
                || (length && bytes[32] == self.generation && Self::key(bytes).1 == *public))
        {
            Ok(Arc::new(FaultyKey {
                fault: self.fault,
                name: name.clone(),
                public: public.clone(),
                key: Self::key(bytes).0,
                material: bytes.to_vec(),
            }))
        } else {
            Err(CustodyError::NotOurs("not ours".to_owned()))
        };
        Box::pin(std::future::ready(opened))
    }
}

impl SigningKey for FaultyKey {
    fn sign<'a>(
        &'a self,
        permit: &'a Permit,
        message: &'a Framed,
    ) -> BoxFuture<'a, Result<Signature, CustodyError>> {
        let covered = match self.fault {
            Fault::TakesAnyPermit => true,
            Fault::TakesASpentPermit => permit.covers(&self.name, message),
            _ => permit.spend(&self.name, message),
        };
        let own = self.fault == Fault::TakesAnyFrame || message.key() == &self.public;
        let signed = if covered && own {
            let signature = self.key.sign(message.message());
            Ok(Signature::new(Algorithm::Ed25519, signature.to_bytes()))
        } else {
            Err(CustodyError::PermitMismatch)
        };
        Box::pin(std::future::ready(signed))
    }
}

/// The stand of a faulty custody.
#[derive(Debug)]
struct Suspect {
    fault: Fault,
    generation: u8,
}

impl Stand for Suspect {
    fn custody(&self) -> Arc<dyn Custody> {
        Arc::new(Faulty {
            fault: self.fault,
            generation: self.generation,
        })
    }

    fn strangers(&self) -> Vec<Arc<dyn Custody>> {
        vec![software()]
    }

    fn restart(&mut self) {
        if self.fault == Fault::ForgetsAtRestart {
            self.generation += 1;
        }
    }

    fn take_device(&mut self) -> bool {
        false
    }

    fn return_device(&mut self) {}
}

#[tokio::test]
async fn the_suite_finds_each_fault_and_takes_a_custody_without() {
    for (fault, found) in [
        (Fault::TakesAnyPermit, "another key's permit is not taken"),
        (Fault::TakesASpentPermit, "a permit is good for one signature"),
        (
            Fault::TakesAnyFrame,
            "a message framed for another key is not taken",
        ),
        (Fault::OpensAnything, "one byte short is not opened"),
        (Fault::OpensWithMore, "one byte long is not opened"),
        (Fault::HasOneKey, "two keys are never the same"),
        (Fault::ShowsMaterial, "its debug text shows material"),
        (Fault::SaysItHasP256, "no key of an algorithm it does not have"),
        (Fault::ForgetsAtRestart, "opens after a restart"),
    ] {
        let error = tokio::spawn(async move { conforms(&mut Suspect { fault, generation: 1 }).await })
            .await
            .expect_err("a fault is found");
        let panic = error.into_panic();
        let said = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap();
        assert!(said.contains(found), "{fault:?}: {said}");
    }
    conforms(&mut Suspect {
        fault: Fault::None,
        generation: 1,
    })
    .await;
}
