//! The suite for keys without a public half over every custody there is, and over custodies with one fault each, which it must find.

use std::fmt;
use std::sync::Arc;

use claviger_core::custody::{Custody, CustodyError, CustodyKind, Generated, MacCustody, MacKey, SigningKey};
use claviger_core::profile::{MacInput, MacValue};
use claviger_core::{Algorithm, BoxFuture, KeyRef, Permit, PublicKey, Secret};
use claviger_tpm::Tpm;
use kit::custody::Stand;
use kit::custody_symmetric::conforms_symmetric;
use rand_core::RngCore as _;
use sha2::{Digest as _, Sha256};

use crate::custody::{Deviceless, Kind, OnTpm, sealed_by, software};

#[tokio::test(flavor = "multi_thread")]
async fn software_custody_of_symmetric_keys_conforms() {
    let mut stand = Deviceless {
        custody: software,
        strangers: || vec![sealed_by(b"correct horse")],
    };
    assert_eq!(conforms_symmetric(&mut stand).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn custody_of_symmetric_keys_sealed_by_a_passphrase_conforms() {
    let mut stand = Deviceless {
        custody: || sealed_by(b"correct horse"),
        strangers: || vec![sealed_by(b"battery staple"), software()],
    };
    assert_eq!(conforms_symmetric(&mut stand).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn custody_of_symmetric_keys_sealed_by_a_tpm_conforms() {
    let mut stand = OnTpm::new(Kind::Sealed, Tpm::connect);
    assert_eq!(conforms_symmetric(&mut stand).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn resident_custody_of_symmetric_keys_conforms_where_there_is_one() {
    // No TPM knows the cipher of boxes.
    assert!(conforms_symmetric(&mut OnTpm::new(Kind::Resident, Tpm::connect)).await <= 1);
}

/// What is wrong with a custody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    TakesAnyPermit,
    TakesASpentPermit,
    HasOneKey,
    IgnoresContent,
    ShowsMaterial,
    ForgetsAtRestart,
}

/// Something like MACs in software, with one fault. The material is the key, then the generation of the custody that made it.
struct Wrong {
    fault: Fault,
    generation: u8,
}

struct WrongKey {
    fault: Fault,
    name: KeyRef,
    material: Vec<u8>,
}

impl fmt::Debug for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wrong")
    }
}

impl fmt::Debug for WrongKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fault {
            Fault::ShowsMaterial => write!(f, "WrongKey({})", hex::encode(&self.material)),
            _ => f.write_str("WrongKey"),
        }
    }
}

impl Custody for Wrong {
    fn kind(&self) -> CustodyKind {
        CustodyKind::Software
    }

    fn algorithms(&self) -> &[Algorithm] {
        &[]
    }

    fn generate<'a>(
        &'a self,
        _key: &'a KeyRef,
        algorithm: Algorithm,
    ) -> BoxFuture<'a, Result<Generated, CustodyError>> {
        let custody = self.kind();
        Box::pin(async move { Err(CustodyError::Algorithm { custody, algorithm }) })
    }

    fn open<'a>(
        &'a self,
        _key: &'a KeyRef,
        public: &'a PublicKey,
        _material: Secret,
    ) -> BoxFuture<'a, Result<Arc<dyn SigningKey>, CustodyError>> {
        let (custody, algorithm) = (self.kind(), public.algorithm());
        Box::pin(async move { Err(CustodyError::Algorithm { custody, algorithm }) })
    }

    fn macs(&self) -> Option<&dyn MacCustody> {
        Some(self)
    }
}

impl MacCustody for Wrong {
    fn generate<'a>(&'a self, _key: &'a KeyRef) -> BoxFuture<'a, Result<Secret, CustodyError>> {
        let mut material = [0; 33];
        rand_core::OsRng.fill_bytes(&mut material[..32]);
        material[32] = self.generation;
        Box::pin(std::future::ready(Ok(Secret::take(&mut material).unwrap())))
    }

    fn open<'a>(
        &'a self,
        key: &'a KeyRef,
        material: Secret,
    ) -> BoxFuture<'a, Result<Arc<dyn MacKey>, CustodyError>> {
        let mut material = material.expose().to_vec();
        if self.fault == Fault::ForgetsAtRestart && material.last() != Some(&self.generation) {
            material = vec![0; 33];
        }
        let key: Arc<dyn MacKey> = Arc::new(WrongKey {
            fault: self.fault,
            name: key.clone(),
            material,
        });
        Box::pin(std::future::ready(Ok(key)))
    }
}

impl MacKey for WrongKey {
    fn mac<'a>(
        &'a self,
        permit: &'a Permit,
        input: &'a MacInput,
    ) -> BoxFuture<'a, Result<MacValue, CustodyError>> {
        let may = match self.fault {
            Fault::TakesAnyPermit => true,
            Fault::TakesASpentPermit => permit.covers(&self.name, input),
            _ => permit.spend(&self.name, input),
        };
        let key = if self.fault == Fault::HasOneKey {
            &[][..]
        } else {
            &self.material
        };
        let message = if self.fault == Fault::IgnoresContent {
            &[][..]
        } else {
            input.message()
        };
        let value = Sha256::new().chain_update(key).chain_update(message).finalize();
        let made = if may {
            Ok(MacValue::new(value.into()))
        } else {
            Err(CustodyError::PermitMismatch)
        };
        Box::pin(std::future::ready(made))
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
        Arc::new(Wrong {
            fault: self.fault,
            generation: self.generation,
        })
    }

    fn strangers(&self) -> Vec<Arc<dyn Custody>> {
        vec![software()]
    }

    fn restart(&mut self) {
        self.generation += 1;
    }

    fn take_device(&mut self) -> bool {
        false
    }

    fn return_device(&mut self) {}
}

#[tokio::test]
async fn the_suite_of_symmetric_keys_finds_each_fault_and_takes_a_custody_without() {
    let suspect = |fault| Suspect { fault, generation: 1 };
    for (fault, found) in [
        (Fault::TakesAnyPermit, "another input's permit is not taken"),
        (Fault::TakesASpentPermit, "a permit is good for one use"),
        (Fault::HasOneKey, "two keys are never the same"),
        (Fault::IgnoresContent, "it is of its content"),
        (Fault::ShowsMaterial, "its debug text shows material"),
        (Fault::ForgetsAtRestart, "it is the same key after a restart"),
    ] {
        let error = tokio::spawn(async move { conforms_symmetric(&mut suspect(fault)).await })
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
    assert_eq!(conforms_symmetric(&mut suspect(Fault::None)).await, 1);
}
