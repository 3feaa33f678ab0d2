//! Keys that live in the TPM and agree on a secret (`TPM2_ECDH_ZGen`, Library Part 3 §14.5), behind core's trait. Not what is encrypted to
//! them: the TPM gives a point, and whoever asked does the rest.

use std::sync::Arc;

use claviger_core::custody::{AgreementCustody, CustodyError, Generated};
use claviger_core::stack::wipe_below;
use claviger_core::{Algorithm, BoxFuture, PublicKey, Secret};
use tss_esapi::structures::{EccParameter, EccPoint};

use crate::actor::{Actor, Lane};
use crate::blob::{self, Kind};
use crate::custody::{make, open};
use crate::device::{Device, Failure, KeyBlob};
use crate::{residue, template};

/// The length of a coordinate of P-256 in bytes.
const COORDINATE: usize = 32;

/// Makes and uses them.
#[derive(Debug)]
pub(crate) struct TpmAgreement {
    actor: Arc<Actor>,
}

impl TpmAgreement {
    pub(crate) const fn new(actor: Arc<Actor>) -> Self {
        Self { actor }
    }

    async fn generate(&self) -> Result<Generated, CustodyError> {
        let template = template::agreement_key().map_err(|error| CustodyError::Fault(error.to_string()))?;
        let made = self.actor.run(Lane::Host, move |device| {
            let (public, mut blob) = make(device, &template)?;
            let public = template::public_key(&public)
                .ok_or_else(|| CustodyError::Fault("the TPM made a key that is none".to_owned()))?;
            Ok(Generated {
                public,
                material: Secret::take(&mut blob)?,
            })
        });
        made.await
    }

    async fn agree(&self, material: &Secret, with: &PublicKey) -> Result<Secret, CustodyError> {
        let point = point_of(with)?;
        let (_, key) = read(material)?;
        self.actor
            .run(Lane::Host, move |device| {
                let agreed = device.agree(&key, &point);
                device.unload_key(key.id);
                agreed
            })
            .await
    }
}

/// Reads what was kept of a key: its public half, and what is needed to load it.
fn read(material: &Secret) -> Result<(PublicKey, KeyBlob), CustodyError> {
    let parts = blob::decode(Kind::Key, material.expose())
        .map_err(|error| CustodyError::NotOurs(error.to_string()))?;
    let template = template::agreement_key().map_err(|error| CustodyError::Fault(error.to_string()))?;
    let public = template::is_of(&parts.public, &template)
        .then(|| template::public_key(&parts.public))
        .flatten()
        .ok_or_else(|| {
            CustodyError::NotOurs(
                "the blob's key is not one for agreeing on secrets that was made in the TPM and stays there"
                    .to_owned(),
            )
        })?;
    Ok((public, open(parts, None)?))
}

fn point_of(key: &PublicKey) -> Result<EccPoint, CustodyError> {
    let wrong = || CustodyError::Fault("expected a key of P-256 to agree with".to_owned());
    if key.algorithm() != Algorithm::P256 {
        return Err(wrong());
    }
    // SEC 1, not compressed: 4, x, y.
    let (x, y) = key
        .as_bytes()
        .split_first()
        .and_then(|(_, rest)| rest.split_at_checked(COORDINATE))
        .ok_or_else(wrong)?;
    let number = |bytes: &[u8]| EccParameter::try_from(bytes).map_err(|_| wrong());
    Ok(EccPoint::new(number(x)?, number(y)?))
}

impl AgreementCustody for TpmAgreement {
    fn generate(&self) -> BoxFuture<'_, Result<Generated, CustodyError>> {
        Box::pin(self.generate())
    }

    fn public(&self, material: &Secret) -> Result<PublicKey, CustodyError> {
        Ok(read(material)?.0)
    }

    fn agree<'a>(
        &'a self,
        material: &'a Secret,
        with: &'a PublicKey,
    ) -> BoxFuture<'a, Result<Secret, CustodyError>> {
        Box::pin(self.agree(material, with))
    }
}

impl Device {
    /// The x coordinate of the product of a key and a point.
    fn agree(&mut self, key: &KeyBlob, point: &EccPoint) -> Result<Secret, CustodyError> {
        let agreed = self.run("agree on a secret", |link| {
            let handle = link.load_key(key)?;
            let product = link.context().ecdh_z_gen(handle, point.clone());
            link.cover_answer();
            let product = product?;
            // It wipes itself; this is the one copy that stays.
            Secret::fill_with(COORDINATE, |bytes| {
                template::left_pad(bytes, product.x().value())
                    .ok_or_else(|| CustodyError::Fault("the TPM gave a point that is none".to_owned()))
            })
            .map_err(Failure::Final)
        });
        wipe_below::<{ residue::STACK_WORDS }>();
        agreed
    }
}
