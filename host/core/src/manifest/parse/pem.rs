//! Certificates in PEM (RFC 7468) as a manifest holds them. Verifies nothing about them: TLS does.

use spki::der::asn1::{AnyRef, BitStringRef};
use spki::der::{Decode as _, Reader as _, SliceReader, pem};

use crate::manifest::MAX_CERTIFICATES;

/// What begins and ends a certificate.
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// A certificate has at most this many bytes; those of public authorities have about 2 000.
const MAX_CERTIFICATE: usize = 16 * 1024;

/// Every certificate of a text, as DER. Nothing else may be in it: what is pasted by mistake may be a key.
pub(super) fn certificates(text: &str) -> Result<Vec<Vec<u8>>, String> {
    let mut all = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        if all.len() == MAX_CERTIFICATES {
            return Err(format!("expected at most {MAX_CERTIFICATES} certificates"));
        }
        let end = rest
            .find(END)
            .filter(|_| rest.starts_with(BEGIN))
            .map(|at| at + END.len())
            .ok_or_else(|| {
                format!("expected nothing but certificates in PEM, each from `{BEGIN}` to `{END}`")
            })?;
        let (one, after) = rest.split_at(end);
        all.push(certificate(one).ok_or_else(|| {
            format!(
                "certificate {} is broken; expected PEM as `openssl x509` writes it",
                all.len() + 1
            )
        })?);
        rest = after.trim_start();
    }
    if all.is_empty() {
        return Err("expected at least one certificate in PEM".to_owned());
    }
    Ok(all)
}

fn certificate(text: &str) -> Option<Vec<u8>> {
    if text.len() > MAX_CERTIFICATE * 2 {
        return None;
    }
    let (_, bytes) = pem::decode_vec(text.as_bytes()).ok()?;
    (bytes.len() <= MAX_CERTIFICATE && has_the_shape(&bytes).is_ok()).then_some(bytes)
}

/// The outermost layer of a certificate (RFC 5280 §4.1): what is signed, the algorithm, the signature; nothing after them.
fn has_the_shape(bytes: &[u8]) -> spki::der::Result<()> {
    let mut reader = SliceReader::new(bytes)?;
    reader.sequence(|inner| {
        inner.sequence(|signed| {
            while !signed.is_finished() {
                AnyRef::decode(signed)?;
            }
            Ok(())
        })?;
        spki::AlgorithmIdentifierRef::decode(inner)?;
        BitStringRef::decode(inner)?;
        Ok(())
    })?;
    reader.finish(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "-----BEGIN CERTIFICATE-----\nMA0wADAFBgMrZXADAgAA\n-----END CERTIFICATE-----\n";

    #[test]
    fn only_certificates_are_taken() {
        assert_eq!(certificates(ONE).unwrap().len(), 1);
        assert_eq!(certificates(&format!("\n{ONE}\n{ONE}")).unwrap().len(), 2);
        assert_eq!(
            certificates(&ONE.repeat(MAX_CERTIFICATES)).unwrap().len(),
            MAX_CERTIFICATES
        );
        for bad in [
            "",
            "MAA=",
            &format!("subject=x\n{ONE}"),
            &format!("{ONE}x"),
            &ONE.replace("CERTIFICATE", "PRIVATE KEY"),
            &ONE.replace("MA0w", "MA0x"),
            &ONE.replace("MA0w", "****"),
            &ONE.replace("-----END CERTIFICATE-----", ""),
            &ONE.repeat(MAX_CERTIFICATES + 1),
            &format!("{ONE}{}", ONE.replace("CERTIFICATE", "EC PRIVATE KEY")),
        ] {
            assert!(certificates(bad).is_err(), "{bad}");
        }
    }
}
