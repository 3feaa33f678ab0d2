//! Backups for a key in a TPM, with a custody in its place that knows the private half: `age` makes them, and what is here opens them.

use claviger_core::custody::{AgreementCustody, CustodyError, Generated};
use claviger_core::{BoxFuture, PublicKey, Secret};
use p256::elliptic_curve::sec1::ToEncodedPoint as _;

use super::super::{BackupError, Identity, Recipient};
use super::file::{opened, sealed};

/// What makes a key and agrees by it. Another one refuses the first one's material, as a TPM does.
#[derive(Debug)]
struct Device {
    key: p256::SecretKey,
    fails: bool,
}

impl Device {
    fn new() -> Self {
        Self {
            key: p256::SecretKey::random(&mut rand_core::OsRng),
            fails: false,
        }
    }

    fn own(&self) -> PublicKey {
        PublicKey::p256(self.key.public_key().to_encoded_point(false).as_bytes()).unwrap()
    }
}

impl AgreementCustody for Device {
    fn generate(&self) -> BoxFuture<'_, Result<Generated, CustodyError>> {
        let public = self.own();
        let material = Secret::take(&mut public.as_bytes().to_vec()).unwrap();
        Box::pin(std::future::ready(Ok(Generated { public, material })))
    }

    fn public(&self, material: &Secret) -> Result<PublicKey, CustodyError> {
        PublicKey::p256(material.expose()).map_err(|error| CustodyError::NotOurs(error.to_string()))
    }

    fn agree<'a>(
        &'a self,
        material: &'a Secret,
        with: &'a PublicKey,
    ) -> BoxFuture<'a, Result<Secret, CustodyError>> {
        let point = p256::PublicKey::from_sec1_bytes(with.as_bytes()).unwrap();
        let product = point.to_projective() * *self.key.to_nonzero_scalar();
        let product = product.to_affine().to_encoded_point(false);
        Box::pin(std::future::ready(if self.fails {
            Err(CustodyError::Unavailable("it is busy".to_owned()))
        } else if material.equals(self.own().as_bytes()) {
            Ok(Secret::take(&mut product.x().unwrap().to_vec()).unwrap())
        } else {
            Err(CustodyError::NotOurs("another one's".to_owned()))
        }))
    }
}

async fn made(device: &Device) -> (Vec<Identity>, Recipient) {
    let (text, recipient) = Identity::generate_in(device).await.unwrap();
    (Identity::read_all(&text).unwrap(), recipient)
}

async fn open(file: &[u8], identities: &[Identity], device: &Device) -> Result<Vec<u8>, BackupError> {
    Identity::agree(identities, Some(device), &mut &*file).await?;
    opened(file, identities)
}

#[tokio::test]
async fn a_key_in_a_tpm_opens_what_age_made_for_it_beside_other_recipients() {
    let device = Device::new();
    let (identities, recipient) = made(&device).await;
    assert!(recipient.to_string().starts_with("age1tag1"), "{recipient}");
    assert_eq!(recipient.to_string().parse::<Recipient>().unwrap(), recipient);
    assert!(identities[0].is_in_tpm());
    let (text, other) = Identity::generate().unwrap();
    let others = Identity::read_all(&text).unwrap();
    let (_, third) = made(&Device::new()).await;
    let file = sealed(&[third, other, recipient.clone(), recipient], b"some text");
    let refused = opened(&file, &identities).unwrap_err();
    assert!(
        matches!(refused, BackupError::WrongIdentity { recipients: 4, .. }),
        "before the TPM was asked: {refused:?}"
    );
    assert_eq!(open(&file, &identities, &device).await.unwrap(), b"some text");
    assert_eq!(opened(&file, &others).unwrap(), b"some text");
    // What was agreed on for one file is of no use for another.
    let (_, recipient) = made(&device).await;
    let file = sealed(&[recipient], b"other text");
    assert!(opened(&file, &identities).is_err());
    assert_eq!(open(&file, &identities, &device).await.unwrap(), b"other text");
}

#[tokio::test]
async fn another_tpm_opens_nothing_and_one_that_fails_says_so() {
    let (device, other) = (Device::new(), Device::new());
    let (identities, recipient) = made(&device).await;
    let (others, _) = made(&other).await;
    let file = sealed(&[recipient], b"text");
    for (identities, device) in [(&identities, &other), (&others, &other), (&others, &device)] {
        let refused = open(&file, identities, device).await.unwrap_err();
        assert!(
            matches!(refused, BackupError::WrongIdentity { .. }),
            "{refused:?}"
        );
    }
    let none = Identity::agree(&identities, None, &mut file.as_slice()).await;
    assert!(matches!(none, Err(BackupError::NoTpm)), "{none:?}");
    let failing = Device {
        key: device.key.clone(),
        fails: true,
    };
    let refused = open(&file, &identities, &failing).await.unwrap_err();
    assert!(matches!(refused, BackupError::Custody(_)), "{refused:?}");
    assert_eq!(
        open(&file, &identities, &device).await.unwrap(),
        b"text",
        "the control"
    );
}

#[tokio::test]
async fn any_changed_byte_of_a_file_for_a_tpm_is_refused() {
    let device = Device::new();
    let (identities, recipient) = made(&device).await;
    let file = sealed(&[recipient], b"text");
    for at in 0..file.len() {
        let mut changed = file.clone();
        changed[at] ^= 1;
        assert!(open(&changed, &identities, &device).await.is_err(), "byte {at}");
    }
    assert!(open(&file, &identities, &device).await.is_ok(), "the control");
}

#[test]
fn names_of_keys_in_tpms_are_those_of_age() {
    // From the tests of age itself.
    let good = "age1tag1qt8lw0ual6avlwmwatk888yqnmdamm7xfd0wak53ut6elz5c4swx2yqdj4e";
    assert_eq!(
        good.parse::<Recipient>().unwrap().to_string(),
        good,
        "the control"
    );
    for bad in [
        &good[..66],
        &good.replace("dj4e", "dj4f"),
        &good.replace("age1tag1", "age1tagpq1"),
    ] {
        assert!(bad.parse::<Recipient>().is_err(), "{bad}");
    }
    for bad in [
        "CLAVIGER-TPM-KEY-1-",
        "CLAVIGER-TPM-KEY-1-*",
        "CLAVIGER-TPM-KEY-2-AAAA",
        "claviger-tpm-key-1-AAAA",
    ] {
        let file = Secret::take(&mut bad.as_bytes().to_vec()).unwrap();
        assert!(Identity::read_all(&file).is_err(), "{bad}");
    }
    let long = format!("CLAVIGER-TPM-KEY-1-{}", "AAAA".repeat(2000));
    assert!(Identity::read_all(&Secret::take(&mut long.into_bytes()).unwrap()).is_err());
}
