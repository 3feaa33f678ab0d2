//! The public areas this crate makes and accepts. Not what is done with them.

use claviger_core::{Algorithm, PublicKey};
use tss_esapi::Error;
use tss_esapi::attributes::{ObjectAttributes, ObjectAttributesBuilder};
use tss_esapi::interface_types::algorithm::{
    EccSchemeAlgorithm, HashingAlgorithm, PublicAlgorithm, RsaSchemeAlgorithm,
};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::key_bits::RsaKeyBits;
use tss_esapi::structures::{
    Digest, EccParameter, EccPoint, EccScheme, HashScheme, KeyDerivationFunctionScheme, KeyedHashScheme,
    Public, PublicBuilder, PublicEccParameters, PublicEccParametersBuilder, PublicKeyRsa,
    PublicKeyedHashParameters, PublicRsaParametersBuilder, RsaExponent, RsaScheme, SignatureScheme,
    SymmetricDefinitionObject,
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
    ecc(attributes, parameters, Digest::default())
}

/// A key that signs and never leaves the TPM, if TPMs have the algorithm: ECDSA on P-256, or RSA of 2048 bits with PKCS#1 v1.5, both
/// over SHA-256. Without protection against guessing (noDA): its
/// authorisation value is 32 random bytes, and three wrong tries must not lock every key of the machine. With a policy, which asks for
/// that value too, the value alone signs nothing.
pub(crate) fn signing_key(algorithm: Algorithm, policy: Option<&[u8; 32]>) -> Result<Option<Public>, Error> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(policy.is_none())
        .with_no_da(true)
        .with_sign_encrypt(true)
        .build()?;
    let policy = digest(policy)?;
    match algorithm {
        Algorithm::Ed25519 => Ok(None),
        Algorithm::P256 => {
            let parameters = PublicEccParametersBuilder::new_unrestricted_signing_key(
                EccScheme::create(EccSchemeAlgorithm::EcDsa, Some(HashingAlgorithm::Sha256), None)?,
                EccCurve::NistP256,
            )
            .build()?;
            ecc(attributes, parameters, policy).map(Some)
        }
        Algorithm::Rsa2048 => {
            // The exponent that is written as zero: 65537.
            let parameters = PublicRsaParametersBuilder::new_unrestricted_signing_key(
                RsaScheme::create(RsaSchemeAlgorithm::RsaSsa, Some(HashingAlgorithm::Sha256))?,
                RsaKeyBits::Rsa2048,
                RsaExponent::default(),
            )
            .build()?;
            PublicBuilder::new()
                .with_public_algorithm(PublicAlgorithm::Rsa)
                .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
                .with_object_attributes(attributes)
                .with_auth_policy(policy)
                .with_rsa_parameters(parameters)
                .with_rsa_unique_identifier(PublicKeyRsa::default())
                .build()
                .map(Some)
        }
    }
}

/// A key that was made elsewhere and signs here, if TPMs have the algorithm: as [`signing_key`], but not fixed to this TPM or its parent, which
/// only a key can be that was made here, and with the key itself.
pub(crate) fn imported_key(key: &PublicKey) -> Result<Option<Public>, Error> {
    let attributes = ObjectAttributesBuilder::new()
        .with_user_with_auth(true)
        .with_no_da(true)
        .with_sign_encrypt(true)
        .build()?;
    Ok(match signing_key(key.algorithm(), None)? {
        Some(Public::Ecc {
            object_attributes: _,
            name_hashing_algorithm,
            auth_policy,
            parameters,
            unique: _,
        }) => {
            // A point as SEC 1 has it: a tag, then both coordinates.
            let coordinates = key.as_bytes().get(1..).and_then(|both| both.split_at_checked(32));
            let (x, y) = coordinates.unwrap_or_default();
            Some(Public::Ecc {
                object_attributes: attributes,
                name_hashing_algorithm,
                auth_policy,
                parameters,
                unique: EccPoint::new(EccParameter::try_from(x)?, EccParameter::try_from(y)?),
            })
        }
        Some(Public::Rsa {
            object_attributes: _,
            name_hashing_algorithm,
            auth_policy,
            parameters,
            unique: _,
        }) => Some(Public::Rsa {
            object_attributes: attributes,
            name_hashing_algorithm,
            auth_policy,
            parameters,
            unique: PublicKeyRsa::try_from(key.rsa_modulus().unwrap_or_default())?,
        }),
        Some(Public::KeyedHash { .. } | Public::SymCipher { .. }) | None => None,
    })
}

/// The key in a public area that another program made, if it can be taken: ECDSA on P-256 or RSA of 2048 bits, signing what it is given, by its
/// authorisation value alone. It may be protected against guessing: then it is not to be used while somebody guesses. It may be for more than signing, and leave its scheme open: who signs
/// with it says the scheme, as [`scheme`] does.
pub(crate) fn taken_key(public: &Public) -> Option<PublicKey> {
    let signs = |attributes: &ObjectAttributes, hash: &HashingAlgorithm, policy: &Digest| {
        attributes.sign_encrypt()
            && attributes.user_with_auth()
            && !attributes.restricted()
            && *hash == HashingAlgorithm::Sha256
            && policy.is_empty()
    };
    let fits = match public {
        Public::Ecc {
            object_attributes,
            name_hashing_algorithm,
            auth_policy,
            parameters,
            unique: _,
        } => {
            signs(object_attributes, name_hashing_algorithm, auth_policy)
                && parameters.ecc_curve() == EccCurve::NistP256
                && match parameters.ecc_scheme() {
                    EccScheme::Null => true,
                    EccScheme::EcDsa(scheme) => scheme.hashing_algorithm() == HashingAlgorithm::Sha256,
                    EccScheme::EcDh(_)
                    | EccScheme::EcMqv(_)
                    | EccScheme::EcDaa(_)
                    | EccScheme::Sm2(_)
                    | EccScheme::EcSchnorr(_) => false,
                }
        }
        Public::Rsa {
            object_attributes,
            name_hashing_algorithm,
            auth_policy,
            parameters,
            unique: _,
        } => {
            signs(object_attributes, name_hashing_algorithm, auth_policy)
                && [0, 65537].contains(&parameters.exponent().value())
                && match parameters.rsa_scheme() {
                    RsaScheme::Null => true,
                    RsaScheme::RsaSsa(scheme) => scheme.hashing_algorithm() == HashingAlgorithm::Sha256,
                    RsaScheme::RsaEs | RsaScheme::RsaPss(_) | RsaScheme::Oaep(_) => false,
                }
        }
        Public::KeyedHash { .. } | Public::SymCipher { .. } => false,
    };
    if fits { public_key(public) } else { None }
}

/// The scheme that a signature by this key is to be made in: the key's own, or ours if it leaves it open.
pub(crate) fn scheme(public: &Public) -> SignatureScheme {
    let hash_scheme = HashScheme::new(HashingAlgorithm::Sha256);
    match public {
        Public::Ecc { parameters, .. } if parameters.ecc_scheme() == EccScheme::Null => {
            SignatureScheme::EcDsa { hash_scheme }
        }
        Public::Rsa { parameters, .. } if parameters.rsa_scheme() == RsaScheme::Null => {
            SignatureScheme::RsaSsa { hash_scheme }
        }
        Public::Ecc { .. } | Public::Rsa { .. } | Public::KeyedHash { .. } | Public::SymCipher { .. } => {
            SignatureScheme::Null
        }
    }
}

/// A restricted key: it signs what the TPM says of itself and its keys, and nothing that a program gives it (Library Part 1 §15.5).
/// ECDSA on P-256 over SHA-256.
pub(crate) fn attestation_key() -> Result<Public, Error> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .with_restricted(true)
        .with_sign_encrypt(true)
        .build()?;
    let parameters = PublicEccParametersBuilder::new()
        .with_is_signing_key(true)
        .with_restricted(true)
        .with_ecc_scheme(EccScheme::create(
            EccSchemeAlgorithm::EcDsa,
            Some(HashingAlgorithm::Sha256),
            None,
        )?)
        .with_curve(EccCurve::NistP256)
        .with_key_derivation_function_scheme(KeyDerivationFunctionScheme::Null)
        .build()?;
    ecc(attributes, parameters, Digest::default())
}

/// A key for MACs (HMAC-SHA-256) that never leaves the TPM, likewise.
pub(crate) fn mac_key(policy: Option<&[u8; 32]>) -> Result<Public, Error> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(policy.is_none())
        .with_no_da(true)
        .with_sign_encrypt(true)
        .build()?;
    keyed_hash(attributes, KeyedHashScheme::HMAC_SHA_256, digest(policy)?)
}

/// A key that agrees on a secret (ECDH on P-256) and never leaves the TPM, likewise.
pub(crate) fn agreement_key() -> Result<Public, Error> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .with_decrypt(true)
        .build()?;
    let parameters = PublicEccParametersBuilder::new()
        .with_is_decryption_key(true)
        .with_ecc_scheme(EccScheme::create(
            EccSchemeAlgorithm::EcDh,
            Some(HashingAlgorithm::Sha256),
            None,
        )?)
        .with_curve(EccCurve::NistP256)
        .with_key_derivation_function_scheme(KeyDerivationFunctionScheme::Null)
        .build()?;
    ecc(attributes, parameters, Digest::default())
}

/// Sealed data, likewise noDA with a random authorisation value, and likewise with a policy or without.
pub(crate) fn sealed_data(policy: Option<&[u8; 32]>) -> Result<Public, Error> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_user_with_auth(policy.is_none())
        .with_no_da(true)
        .build()?;
    keyed_hash(attributes, KeyedHashScheme::Null, digest(policy)?)
}

fn digest(policy: Option<&[u8; 32]>) -> Result<Digest, Error> {
    policy.map_or_else(
        || Ok(Digest::default()),
        |policy| Digest::try_from(policy.as_slice()),
    )
}

fn keyed_hash(
    attributes: ObjectAttributes,
    scheme: KeyedHashScheme,
    policy: Digest,
) -> Result<Public, Error> {
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::KeyedHash)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_auth_policy(policy)
        .with_keyed_hash_parameters(PublicKeyedHashParameters::new(scheme))
        .with_keyed_hash_unique_identifier(Digest::default())
        .build()
}

fn ecc(
    attributes: ObjectAttributes,
    parameters: PublicEccParameters,
    policy: Digest,
) -> Result<Public, Error> {
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_auth_policy(policy)
        .with_ecc_parameters(parameters)
        .with_ecc_unique_identifier(EccPoint::default())
        .build()
}

/// Whether a public area is of this template in everything but the key itself: attributes, parameters, policy. A key that
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
            Public::Rsa {
                object_attributes,
                name_hashing_algorithm,
                auth_policy,
                parameters,
                unique: _,
            },
            Public::Rsa {
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

/// The key in a public area, if it is one of ours: on the curve, or with a modulus of full length.
pub(crate) fn public_key(public: &Public) -> Option<PublicKey> {
    match public {
        Public::Ecc { unique, .. } => p256_key(unique),
        Public::Rsa { unique, .. } => PublicKey::rsa2048(unique.value()).ok(),
        Public::KeyedHash { .. } | Public::SymCipher { .. } => None,
    }
}

fn p256_key(unique: &EccPoint) -> Option<PublicKey> {
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
        let key = |algorithm, policy| signing_key(algorithm, policy).map(Option::unwrap);
        let all = [
            storage_root(),
            key(Algorithm::P256, None),
            key(Algorithm::P256, Some(&[1; 32])),
            key(Algorithm::P256, Some(&[2; 32])),
            key(Algorithm::Rsa2048, None),
            key(Algorithm::Rsa2048, Some(&[1; 32])),
            attestation_key(),
            mac_key(None),
            mac_key(Some(&[1; 32])),
            agreement_key(),
            sealed_data(None),
            sealed_data(Some(&[1; 32])),
        ]
        .map(Result::unwrap);
        for (i, one) in all.iter().enumerate() {
            for (j, other) in all.iter().enumerate() {
                assert_eq!(is_of(one, other), i == j);
            }
        }
    }

    #[test]
    fn a_key_made_outside_and_imported_is_not_of_the_template() {
        let expected = signing_key(Algorithm::P256, None).unwrap().unwrap();
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
