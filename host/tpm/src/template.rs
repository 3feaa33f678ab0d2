//! The public areas this crate makes and accepts. Not what is done with them.

use claviger_core::PublicKey;
use tss_esapi::Error;
use tss_esapi::attributes::{ObjectAttributes, ObjectAttributesBuilder};
use tss_esapi::interface_types::algorithm::{EccSchemeAlgorithm, HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::structures::{
    Digest, EccPoint, EccScheme, KeyedHashScheme, Public, PublicBuilder, PublicEccParameters,
    PublicEccParametersBuilder, PublicKeyedHashParameters, SymmetricDefinitionObject,
};

/// The storage root key: TCG template H-2 (EK Credential Profile 2.4 §B), ECC P-256, with an empty unique field. Deterministic,
/// so that it has the same Name after every restart.
pub(crate) fn storage_root() -> Result<Public, Error> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .with_restricted(true)
        .with_decrypt(true)
        .build()?;
    let parameters = PublicEccParametersBuilder::new_restricted_decryption_key(
        SymmetricDefinitionObject::AES_128_CFB,
        EccCurve::NistP256,
    )
    .build()?;
    ecc(attributes, parameters)
}

/// A key that signs with ECDSA on P-256 over SHA-256 and never leaves the TPM. Without protection against guessing (noDA): its
/// authorisation value is 32 random bytes, and three wrong tries must not lock every key of the machine.
pub(crate) fn signing_key() -> Result<Public, Error> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .with_sign_encrypt(true)
        .build()?;
    let parameters = PublicEccParametersBuilder::new_unrestricted_signing_key(
        EccScheme::create(EccSchemeAlgorithm::EcDsa, Some(HashingAlgorithm::Sha256), None)?,
        EccCurve::NistP256,
    )
    .build()?;
    ecc(attributes, parameters)
}

/// Sealed data, likewise noDA with a random authorisation value.
pub(crate) fn sealed_data() -> Result<Public, Error> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .build()?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::KeyedHash)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_keyed_hash_parameters(PublicKeyedHashParameters::new(KeyedHashScheme::Null))
        .with_keyed_hash_unique_identifier(Digest::default())
        .build()
}

fn ecc(attributes: ObjectAttributes, parameters: PublicEccParameters) -> Result<Public, Error> {
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(parameters)
        .with_ecc_unique_identifier(EccPoint::default())
        .build()
}

/// Whether a public area is of this template in everything but the key itself: attributes, parameters, no policy. A key that
/// was made outside and imported has other attributes.
pub(crate) fn is_of(public: &Public, template: &Public) -> bool {
    match (public, template) {
        (
            Public::Ecc {
                object_attributes,
                name_hashing_algorithm,
                auth_policy,
                parameters,
                unique: _,
            },
            Public::Ecc {
                object_attributes: expected_attributes,
                name_hashing_algorithm: expected_hash,
                auth_policy: expected_policy,
                parameters: expected_parameters,
                unique: _,
            },
        ) => {
            object_attributes == expected_attributes
                && name_hashing_algorithm == expected_hash
                && auth_policy == expected_policy
                && parameters == expected_parameters
        }
        (
            Public::KeyedHash {
                object_attributes,
                name_hashing_algorithm,
                auth_policy,
                parameters,
                unique: _,
            },
            Public::KeyedHash {
                object_attributes: expected_attributes,
                name_hashing_algorithm: expected_hash,
                auth_policy: expected_policy,
                parameters: expected_parameters,
                unique: _,
            },
        ) => {
            object_attributes == expected_attributes
                && name_hashing_algorithm == expected_hash
                && auth_policy == expected_policy
                && parameters == expected_parameters
        }
        (
            Public::Rsa { .. } | Public::KeyedHash { .. } | Public::Ecc { .. } | Public::SymCipher { .. },
            _,
        ) => false,
    }
}

/// The P-256 key in a public area, if it is one and on the curve.
pub(crate) fn p256_key(public: &Public) -> Option<PublicKey> {
    let Public::Ecc { unique, .. } = public else {
        return None;
    };
    let mut sec1 = [0_u8; 65];
    let (tag, rest) = sec1.split_first_mut()?;
    let (x, y) = rest.split_at_mut(32);
    *tag = 4;
    left_pad(x, unique.x().value())?;
    left_pad(y, unique.y().value())?;
    PublicKey::p256(&sec1).ok()
}

/// Writes a big-endian number into a field of fixed size. A TPM may leave leading zeros out.
pub(crate) fn left_pad(field: &mut [u8], number: &[u8]) -> Option<()> {
    let zeros = field.len().checked_sub(number.len())?;
    field.get_mut(..zeros)?.fill(0);
    field.get_mut(zeros..)?.copy_from_slice(number);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_padded_on_the_left_and_never_cut() {
        let mut field = [9; 4];
        left_pad(&mut field, &[1, 2]).unwrap();
        assert_eq!(field, [0, 0, 1, 2]);
        left_pad(&mut field, &[]).unwrap();
        assert_eq!(field, [0; 4]);
        assert!(left_pad(&mut field, &[1; 5]).is_none());
    }

    #[test]
    fn the_templates_are_told_apart() {
        let all = [storage_root(), signing_key(), sealed_data()].map(Result::unwrap);
        for (i, one) in all.iter().enumerate() {
            for (j, other) in all.iter().enumerate() {
                assert_eq!(is_of(one, other), i == j);
            }
        }
    }

    #[test]
    fn a_key_made_outside_and_imported_is_not_of_the_template() {
        let expected = signing_key().unwrap();
        let Public::Ecc {
            object_attributes,
            name_hashing_algorithm,
            auth_policy,
            parameters,
            unique,
        } = expected.clone()
        else {
            panic!("the signing key is ECC");
        };
        assert!(object_attributes.fixed_tpm());
        let imported = Public::Ecc {
            object_attributes: ObjectAttributesBuilder::new()
                .with_user_with_auth(true)
                .with_no_da(true)
                .with_sign_encrypt(true)
                .build()
                .unwrap(),
            name_hashing_algorithm,
            auth_policy,
            parameters,
            unique,
        };
        assert!(!is_of(&imported, &expected));
    }
}
